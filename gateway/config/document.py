"""YAML text to plain data with places. YAML 1.2 core schema: `off`, `NO` and `1:30` are text, `0o17` is 15.

One C parser does it all: its nodes carry positions, so these cost nothing extra. Mistakes are collected in the report.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from .diagnose import dotted
from .places import Items, Section, Unresolved, Value
from .report import Report
from .source import Source, Span, sounds_secret

try:
    from yaml._yaml import CParser as _Parser
except ImportError:  # a platform without libyaml: the same nodes, slower
    from yaml.composer import Composer
    from yaml.parser import Parser
    from yaml.reader import Reader
    from yaml.scanner import Scanner

    class _Parser(Reader, Scanner, Parser, Composer):  # type: ignore[no-redef]
        def __init__(self, stream: str) -> None:
            Reader.__init__(self, stream)
            Scanner.__init__(self)
            Parser.__init__(self)
            Composer.__init__(self)


DEEPEST: Final = 60
MOST_COPIES: Final = 500_000
"""How many nodes aliases may stand for in all. A plain file may be of any size."""

_PLAIN: Final = "plain"
_QUOTED: Final = "tag:yaml.org,2002:str"
_EXPLICIT: Final = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")}
_CONSTANTS: Final[dict[str, bool | None]] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_INT: Final = re.compile(r"[-+]?[0-9]+")
_BASED: Final = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE: Final = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_LEADING_ZERO: Final = re.compile(r"[-+]?0[0-9]")
_ONLY_REFERENCE: Final = re.compile(r"\$\{\w+(:\?[^}]*)?\}")  # what it stands for is not in the file
_UNPRINTABLE: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ufffe\uffff\ud800-\udfff]")


class _TooDeep(Exception):
    def __init__(self, node: Node) -> None:
        super().__init__("too deep")
        self.mark = node.start_mark


class _Rules:
    """How nodes are composed: tags are not resolved here, only plain and quoted scalars told apart; depth is bounded."""

    _depth = 0

    def resolve(self, kind: type[Node], value: Any, implicit: Any) -> str:
        if kind is ScalarNode:
            return _PLAIN if implicit[0] else _QUOTED
        return "tag:yaml.org,2002:map" if kind is MappingNode else "tag:yaml.org,2002:seq"

    def descend_resolver(self, current_node: Node | None, current_index: Any) -> None:
        self._depth += 1
        if self._depth > DEEPEST and current_node is not None:
            raise _TooDeep(current_node)

    def ascend_resolver(self) -> None:
        self._depth -= 1


class _Composer(_Rules, _Parser):
    """The parser with these rules."""


class YamlSpot:
    """Where one item stands in a YAML file."""

    __slots__ = ("_key", "_value", "source")

    def __init__(self, source: Source, key: Node, value: Node) -> None:
        self.source, self._key, self._value = source, key, value

    def key(self) -> Span:
        """The key; for an item of a list the item itself."""
        return _span(self._key)

    def value(self) -> Span:
        """The value: all of a scalar on its line, the first character of a mapping or list."""
        empty = isinstance(self._value, ScalarNode) and not self._value.value and self._value.style is None
        return _span(self._key if empty else self._value)

    def written(self) -> str | None:
        """The text of a plain scalar."""
        return str(self._value.value) if self._value.tag == _PLAIN else None

    def hide(self) -> None:
        """Never show the value."""
        begin, end = self._value.start_mark, self._value.end_mark
        self.source.hide((begin.line, begin.column), (end.line, end.column))


def parse(source: Source, report: Report) -> Section | None:
    """The one mapping of a YAML file with the place of each item; None when it cannot be read, which the report then says."""
    unprintable = _UNPRINTABLE.search(source.text)
    if unprintable:
        before = Source("", source.path, source.text[: unprintable.start()]).lines
        message = f"the character U+{ord(unprintable[0]):04X} may not stand in YAML"
        report.add("E002", source, Span(len(before) - 1, len(before[-1])), message, hint="delete it", guess=True)
        return None
    try:
        node = _compose(source.text)
    except yaml.MarkedYAMLError as error:
        _syntax(source, error, report)
        return None
    except _TooDeep as error:
        span = Span(error.mark.line, error.mark.column)
        report.add("E005", source, span, f"nested more than {DEEPEST} deep", guess=True)
        return None
    if node is None or (isinstance(node, ScalarNode) and not node.value):
        report.add("E004", source, None, "the file is empty", hint="`genba init` writes one to start from")
        return None
    if not isinstance(node, MappingNode):
        report.add("E011", source, _span(node), "must be a mapping of keys to values", guess=True)
        return None
    try:
        return _Builder(source, report).section(node, (), 0)
    except _Bomb as bomb:
        report.add("E005", source, _span(bomb.node), bomb.problem, hint="`templates:` are made for devices of the same type")
        return None


def _compose(text: str) -> Node | None:
    composer = _Composer(text)
    try:
        node: Node | None = composer.get_single_node()
        return node
    finally:
        composer.dispose()


class _Bomb(Exception):
    def __init__(self, node: Node, problem: str) -> None:
        super().__init__(problem)
        self.node, self.problem = node, problem


class _Builder:
    """Nodes to values. An aliased node is built anew each time, so that no two places share a value."""

    def __init__(self, source: Source, report: Report) -> None:
        self._source, self._report = source, report
        self._open: set[int] = set()
        self._seen: set[int] = set()
        self._copies = 0

    def section(self, node: MappingNode, loc: tuple[str | int, ...], depth: int) -> Section:
        self._enter(node, depth)
        made = Section(self._source)
        merged: list[tuple[Node, Node]] = []
        source = self._source
        for key_node, value_node in node.value:
            key = key_node.value
            if not isinstance(key, str) or (key_node.tag != _PLAIN and key_node.tag != _QUOTED) or not key:
                self._report.add("E006", source, _span(key_node), "a key must be plain text", key=dotted(loc))
                continue
            if key == "<<" and key_node.tag == _PLAIN:
                merged.append((key_node, value_node))
                continue
            if key in made:
                first = made.spots[key].key()
                self._report.add(
                    "E003", source, _span(key_node), f"written twice, first on line {first.line + 1}", key=dotted((*loc, key))
                )
                continue
            spot = YamlSpot(source, key_node, value_node)
            if isinstance(value_node, ScalarNode) and sounds_secret(key) and not _ONLY_REFERENCE.fullmatch(value_node.value):
                spot.hide()
            made.put(key, self._value(value_node, (*loc, key), depth + 1, spot), spot)
        for key_node, value_node in merged:
            self._merge(made, key_node, value_node, loc, depth)
        self._open.discard(id(node))
        return made

    def _merge(self, made: Section, key_node: Node, value_node: Node, loc: tuple[str | int, ...], depth: int) -> None:
        several = value_node.value if isinstance(value_node, SequenceNode) else [value_node]
        for node in several:
            if not isinstance(node, MappingNode):
                self._report.add(
                    "E011", self._source, _span(key_node), "`<<` takes a mapping or a list of mappings", key=dotted(loc)
                )
                continue
            made.take(self.section(node, loc, depth + 1), skip=tuple(made))

    def _items(self, node: SequenceNode, loc: tuple[str | int, ...], depth: int) -> Items:
        self._enter(node, depth)
        made = Items()
        for index, item in enumerate(node.value):
            spot = YamlSpot(self._source, item, item)
            made.put(self._value(item, (*loc, index), depth + 1, spot), spot)
        self._open.discard(id(node))
        return made

    def _value(self, node: Node, loc: tuple[str | int, ...], depth: int, spot: YamlSpot) -> Value:
        tag = node.tag
        if tag == _QUOTED:
            return str(node.value)
        if tag == _PLAIN:
            text: str = node.value
            first = text[:1]
            if first not in "-+.0123456789" and text not in _CONSTANTS:  # nearly all of them
                return text
            return self._plain(text, loc, spot)
        if tag not in _EXPLICIT:
            hint = "put text that begins with ! in quotes"
            self._report.add("E006", self._source, _span(node), "tags are not used here", key=dotted(loc), hint=hint)
            return Unresolved()
        if isinstance(node, MappingNode):
            return self.section(node, loc, depth)
        if isinstance(node, SequenceNode):
            return self._items(node, loc, depth)
        return self._plain(str(node.value), loc, spot)

    def _plain(self, text: str, loc: tuple[str | int, ...], spot: YamlSpot) -> Value:
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if _INT.fullmatch(text):
            if _LEADING_ZERO.match(text):
                secret = any(isinstance(part, str) and sounds_secret(part) for part in loc)
                read_as = "leading zeros are lost" if secret else f"leading zeros are lost: this is read as {_integer(text)}"
                self._report.at_spot("W001", spot, read_as, key=dotted(loc), hint="put it in quotes to keep them")
            return _integer(text)
        if _BASED.fullmatch(text):
            return int(text, 0)
        if _FLOAT.fullmatch(text):
            number = float(text)
            if math.isfinite(number):
                return number
        elif not _NOT_FINITE.fullmatch(text):
            return text
        self._report.at_spot("E006", spot, "must be a finite number", key=dotted(loc))
        return Unresolved()

    def _enter(self, node: Node, depth: int) -> None:
        if id(node) in self._open:
            raise _Bomb(node, "an alias contains itself")
        if depth > DEEPEST:
            raise _Bomb(node, f"nested more than {DEEPEST} deep")
        if id(node) in self._seen:
            self._copies += 1 + len(node.value)
            if self._copies > MOST_COPIES:
                raise _Bomb(node, f"aliases stand for more than {MOST_COPIES:,} values")
        self._seen.add(id(node))
        self._open.add(id(node))


def _integer(text: str) -> int | float:
    return int(text) if len(text) <= 400 else float(text[:1] + "1")


def _span(node: Node) -> Span:
    begin, end = node.start_mark, node.end_mark
    if isinstance(node, ScalarNode) and begin.line == end.line:
        return Span(begin.line, begin.column, max(1, end.column - begin.column))
    return Span(begin.line, begin.column)


_HINTS: Final[tuple[tuple[str, str], ...]] = (
    (
        "mapping values are not allowed",
        "put text that holds `: ` in quotes; check the indentation of this line and the one above",
    ),
    ("could not find expected ':'", "a key needs `:` and a blank behind it"),
    ("found unexpected ':'", "a key needs `:` and a blank behind it"),
    ("did not find expected key", "check the indentation, and quotes or brackets that are not closed"),
    ("did not find expected ',' or", "a comma or the closing bracket is missing, here or above"),
    ("did not find expected '-' indicator", "every item of a list begins with `- ` at the same indentation"),
    ("unknown escape character", "in double quotes a backslash is special: write \\\\, or use single quotes"),
)


def _syntax(source: Source, error: yaml.MarkedYAMLError, report: Report) -> None:
    """Say what libyaml found in words that name no text of the file: the text may be a secret."""
    mark = error.problem_mark or error.context_mark
    if error.context_mark is not None and "end of stream" in (error.problem or ""):
        mark = error.context_mark  # where the quote was opened, not the end of the file
    span = Span(mark.line, mark.column) if mark is not None else Span(0, 0)
    problem = error.problem or "cannot be read"
    if "another document" in problem or "another document" in (error.context or ""):
        report.add("E004", source, span, "a second document begins here", hint="delete the line `---`", guess=True)
        return
    at = source.lines[span.line][span.column : span.column + 1] if span.line < len(source.lines) else ""
    if at == "\t" and "cannot start any token" in problem:
        problem, hint = "a tab where blanks are needed", "indent with blanks"
    elif "cannot start any token" in problem:
        problem, hint = f"{at} has a meaning in YAML and cannot begin a text", "put the text in quotes"
    elif "undefined alias" in problem:
        problem, hint = "an alias (*) that was not defined before with &", "put text that begins with * in quotes"
    elif "mapping values are not allowed" in problem:
        problem, hint = (
            "a `:` that does not fit here",
            "put text that holds `: ` in quotes; check the indentation of this line and the one above",
        )
    elif "end of stream" in problem:
        problem, hint = "a quote or bracket is opened here and never closed", "close it"
    elif "duplicate anchor" in problem:
        problem, hint = "an anchor (&) that was defined before", "give one of the two another name"
    elif "undefined tag handle" in problem:
        problem, hint = "tags are not used here", "put text that begins with ! in quotes"
    else:
        hint = next((hint for text, hint in _HINTS if text in problem), "")
    if "${" in source.lines[span.line][: span.column + 1] if span.line < len(source.lines) else False:
        hint = 'between { and } a reference needs quotes: "${NAME}"'
    if error.context and error.context_mark is not None and error.context_mark.line != span.line:
        began = error.context.removeprefix("while ").replace("parsing a", "the").replace("scanning a", "the")
        problem += f", in {began} that begins on line {error.context_mark.line + 1}"
    report.add("E002", source, span, problem, hint=hint, guess=True)
