"""Data blocks as source text (`.db`, `.scl`, `.awl`, `.udt`): declarations to absolute addresses, for blocks with standard access.

Grammar: IEC 61131-3 declarations as TIA Portal and STEP 7 write them. Only declarations are read; initial values are passed over.
The layout of addresses is in `layout`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from schemas.errors import ConfigError

from .layout import Layout, Member, Shape
from .rows import TagList, unit_in

OPTIMISED: Final = (
    "it has optimised block access, so that its values have no addresses. In TIA Portal: open the block's properties, Attributes, clear "
    "“Optimized block access”, compile, download, and export it again"
)
_TOKEN: Final = re.compile(
    r"""(?P<comment>//[^\n]*|\(\*.*?\*\))|(?P<quoted>"(?:[^"]|"")*")|(?P<text>'(?:[^'$]|\$.)*')"""
    r"""|(?P<attributes>\{[^{}]*\})|(?P<word>[^\W\d]\w*(?:\#[^\s;,:\[\](){}]+)?)|(?P<number>[-+]?\d[\w.#]*)|(?P<sign>:=|\.\.|[^\s])""",
    re.DOTALL,
)
_OFF: Final = re.compile(r"S7_Optimized_Access\s*:=\s*'?FALSE", re.IGNORECASE)
_ON: Final = re.compile(r"S7_Optimized_Access\s*:=\s*'?TRUE", re.IGNORECASE)
_TITLE: Final = re.compile(r"^[ \t]*TITLE[ \t]*=[^\r\n]*", re.IGNORECASE | re.MULTILINE)  # free text, with any quotes in it
_NUMBER: Final = re.compile(r"DB\s*(\d{1,5})", re.IGNORECASE)
_DEEPEST: Final = 24


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    line: int

    @property
    def upper(self) -> str:
        """As a key word; a name in quotes is none."""
        return self.text.upper() if self.kind == "word" else ""


@dataclass(slots=True)
class Block:
    """A data block: its name, the number where the source says it, its declarations or the name of its type."""

    name: str
    line: int
    number: int | None
    optimised: bool
    members: list[Member] = field(default_factory=list)
    type: str = ""


def read(text: str, numbers: Mapping[str, int], number: int | None, arrays: str, where: str) -> TagList:
    """Every value of every block as a tag. `numbers` are DB numbers by block name, `number` that of a single block without one.

    `arrays`: `elements` makes a tag of each element, `waveform` one of a whole array of numbers. Raises ConfigError for a file without
    data blocks, one that cannot be parsed, and one whose only blocks are optimised or have no number.
    """
    blocks, types = _Parser(text, where).run()
    if not blocks:
        hint = "export it with the block that uses it (Generate source from blocks, including dependent blocks)"
        raise ConfigError(
            "holds types and no data block" if types else "holds no data block", where=where, hint=hint if types else ""
        )
    made = TagList("s7", "data block source")
    reasons: list[tuple[str, str]] = []
    for block in blocks:
        db = numbers.get(block.name, block.number if block.number is not None else number if len(blocks) == 1 else None)
        problem = OPTIMISED if block.optimised else "its number is not in the source" if db is None else ""
        if problem:
            reasons.append((problem, "" if block.optimised else f"say it with --db {block.name}=10"))
            made.refuse(block.line, block.name, "; ".join(filter(None, reasons[-1])))
            continue
        assert db is not None
        layout = Layout(types, whole_arrays=arrays == "waveform")
        members = block.members if not block.type else [Member("", Shape(block.type), block.line)]
        for slot in layout.slots(members):
            parts = ".".join(filter(None, (block.name if len(blocks) > 1 else "", slot.name)))
            comment = slot.comment
            if slot.problem:
                made.refuse(slot.line, parts, slot.problem)
                continue
            options = {"address": slot.address(db), "type": slot.type, "description": comment}
            made.take(slot.line, parts, options, unit=unit_in(comment), note=slot.note)
    if reasons and not made.points and len(made.refused) == len(reasons) == len(blocks):
        problem, hint = reasons[0]
        raise ConfigError(f"{blocks[0].name}: {problem}", where=where, hint=hint)
    if not made.points and not made.refused:
        raise ConfigError(
            f"{blocks[0].name} declares no values", where=where, hint="an instance block needs the source of its function block"
        )
    return made


class _Parser:
    def __init__(self, text: str, where: str) -> None:
        self._where = where
        self._tokens: list[_Token] = []
        self._comments: dict[int, str] = {}
        line, begin = 1, 0
        text = _TITLE.sub("TITLE", text)
        for found in _TOKEN.finditer(text):
            line += text.count("\n", begin, found.start())
            begin = found.start()
            kind = found.lastgroup or "sign"
            if kind == "comment":
                words = found[0].lstrip("/").removeprefix("(*").removesuffix("*)")
                self._comments.setdefault(line, " ".join(words.split()))
            else:
                self._tokens.append(_Token(kind, found[0], line))
        self._at = 0
        self._end = _Token("end", "", line)

    def run(self) -> tuple[list[Block], dict[str, list[Member]]]:
        """Every data block and every type of the file."""
        blocks: list[Block] = []
        types: dict[str, list[Member]] = {}
        while self._peek().kind != "end":
            word = self._next().upper
            if word == "DATA_BLOCK":
                blocks.append(self._block())
            elif word == "TYPE":
                name = _unquoted(self._next().text)
                if name.upper() == "UDT" and self._peek().kind == "number":
                    name += self._next().text
                self._head(("STRUCT",))
                self._next()
                types[name.casefold()] = self._members(("END_STRUCT",), 0)
                self._skip_to(("END_TYPE",))
        return blocks, types

    def _block(self) -> Block:
        first = self._next()
        name = _unquoted(first.text)
        if first.upper == "DB" and self._peek().kind == "number":
            name += self._next().text
        found = _NUMBER.fullmatch(name)
        attributes, typed = self._head(("STRUCT", "VAR", "BEGIN", "END_DATA_BLOCK"))
        block = Block(name, first.line, int(found[1]) if found else None, bool(_ON.search(attributes)))
        block.type = typed
        while (word := self._peek().upper) not in ("BEGIN", "END_DATA_BLOCK", ""):
            self._next()
            if word == "STRUCT":
                block.members += self._members(("END_STRUCT",), 0)
            elif word == "VAR":
                while self._peek().upper in ("RETAIN", "NON_RETAIN", "DB_SPECIFIC"):
                    self._next()
                block.members += self._members(("END_VAR",), 0)
        self._skip_to(("END_DATA_BLOCK",))
        return block

    def _head(self, until: Sequence[str]) -> tuple[str, str]:
        """What stands before the declarations: all attributes, and the name of the type that a block is of."""
        attributes, typed = "", ""
        while (token := self._peek()).upper not in until:
            if token.kind == "end":
                raise self._error(token, f"the file ends before {' or '.join(until)}")
            self._next()
            line = token.line
            if token.kind == "attributes":
                attributes += token.text
            elif token.kind == "quoted":
                typed = _unquoted(token.text)
            elif token.upper in ("UDT", "FB", "SFB") and self._peek().kind == "number":
                typed = f"{token.upper}{self._next().text}"
            elif re.fullmatch(r"(?:UDT|FB|SFB)\d+", token.upper):
                typed = token.upper
            elif token.upper in ("TITLE", "AUTHOR", "FAMILY", "NAME", "VERSION", "KNOW_HOW_PROTECT"):
                while self._peek().line == line and self._peek().kind != "end" and self._peek().upper not in until:
                    self._next()
        return attributes, typed

    def _members(self, until: Sequence[str], depth: int) -> list[Member]:
        if depth > _DEEPEST:
            raise self._error(self._peek(), f"structures nest deeper than {_DEEPEST}")
        made: list[Member] = []
        while self._peek().upper not in until:
            names = [self._name()]
            while self._peek().text == ",":
                self._next()
                names.append(self._name())
            self._expect(":")
            shape, line = self._shape(depth), names[0].line
            self._initial_value()
            ends = self._tokens[self._at - 1].line
            comment = self._comments.get(line, "") or (self._comments.get(ends, "") if not shape.members else "")
            made += [Member(_unquoted(name.text), shape, name.line, comment) for name in names]
        self._next()
        return made

    def _name(self) -> _Token:
        token = self._next()
        if token.kind not in ("word", "quoted"):
            raise self._error(token, f"{token.text!r} is not a name")
        if self._peek().kind == "attributes":
            self._next()
        return token

    def _shape(self, depth: int) -> Shape:
        token = self._next()
        if token.upper == "ARRAY":
            self._expect("[")
            bounds = [self._bounds()]
            while self._peek().text == ",":
                self._next()
                bounds.append(self._bounds())
            self._expect("]")
            of = self._next()
            if of.upper != "OF":
                raise self._error(of, f"{of.text!r} where OF should stand")
            element = self._shape(depth + 1)
            if element.bounds:
                raise self._error(token, "an array of arrays")
            return Shape(element.type, element.members, tuple(bounds), element.length)
        if token.upper == "STRUCT":
            return Shape("struct", tuple(self._members(("END_STRUCT",), depth + 1)))
        if token.kind not in ("word", "quoted"):
            raise self._error(token, f"{token.text!r} is not a type")
        name = _unquoted(token.text)
        if token.upper in ("UDT", "FB") and self._peek().kind == "number":
            name += self._next().text
        length: int | None = None
        if token.upper in ("STRING", "WSTRING") and self._peek().text == "[":
            self._next()
            length = self._whole()
            self._expect("]")
        return Shape(name if token.kind == "quoted" else name.lower(), length=length)

    def _bounds(self) -> tuple[int, int]:
        token = self._next()
        low, dots, high = token.text.partition("..")
        try:
            if dots and high:
                return int(low), int(high)
            if not dots:
                self._expect("..")
            elif self._peek().kind != "number":
                raise ValueError
            return int(low.rstrip(".")), self._whole()
        except ValueError:
            raise self._error(token, "the bounds of an array are not numbers; constants are not looked up") from None

    def _whole(self) -> int:
        token = self._next()
        try:
            return int(token.text)
        except ValueError:
            raise self._error(token, f"{token.text!r} is not a whole number") from None

    def _initial_value(self) -> None:
        """Everything up to the semicolon."""
        while (token := self._next()).text != ";":
            if token.kind == "end" or token.upper in ("BEGIN", "END_DATA_BLOCK", "END_TYPE", "END_STRUCT", "END_VAR"):
                raise self._error(token, "a declaration does not end with a semicolon")

    def _expect(self, text: str) -> None:
        token = self._next()
        if token.text != text:
            raise self._error(token, f"{token.text!r} where {text!r} should stand")

    def _skip_to(self, words: Sequence[str]) -> None:
        while (token := self._next()).kind != "end" and token.upper not in words:
            pass

    def _peek(self) -> _Token:
        return self._tokens[self._at] if self._at < len(self._tokens) else self._end

    def _next(self) -> _Token:
        token = self._peek()
        self._at += 1
        return token

    def _error(self, token: _Token, problem: str) -> ConfigError:
        return ConfigError(
            f"cannot be read as a data block: {problem}",
            where=f"{self._where}:{token.line}",
            hint="generate the source again from the block: in TIA Portal, External source files, Generate source from blocks",
        )


def _unquoted(text: str) -> str:
    return text[1:-1].replace('""', '"') if text.startswith('"') else text
