"""`active_when`: conditions on tags of the same asset, `mode == run and speed > 5`, and the gate that follows them row by row."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas import quality as q
from schemas.errors import ConfigError
from schemas.tags import Tag

from .slots import HUGE, Bools, Index, Readings

_DEPTH: Final = 30
_EXAMPLE: Final = "write it like: mode == run and speed > 5"
COMPARE: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_OPPOSITE: Final[Mapping[str, str]] = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<op>==|!=|<=|>=|<|>)|(?P<bracket>[()])|(?P<text>"[^"]*"|'[^']*')"""
    r"""|(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))|(?P<word>[^\s()=!<>"']+))"""
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """`tag op literal`. A bool literal compares with 1 and 0, a text with the tag's text or the name of its enum value."""

    tag: str
    op: str
    literal: float | str | bool


@dataclass(frozen=True, slots=True)
class Condition:
    """A parsed condition: comparisons, and how they are combined (in reverse Polish notation: index, "and", "or").

    A `not` has been carried through to the comparisons, so that an unknown tag never makes anything true.
    """

    text: str
    comparisons: Sequence[Comparison]
    program: Sequence[int | str]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tags it uses, each once, in order of appearance."""
        return tuple(dict.fromkeys(comparison.tag for comparison in self.comparisons))

    def evaluate(self, truth: Bools) -> Bools:
        """bool[m, comparisons] -> bool[m]."""
        stack: list[Bools] = []
        for step in self.program:
            if isinstance(step, int):
                stack.append(truth[:, step].copy())
            else:
                right, left = stack.pop(), stack.pop()
                stack.append(left & right if step == "and" else left | right)
        return stack[0]


def parse(text: str) -> Condition:
    """Read `tag op literal` joined by `and`, `or`, `not` and parentheses; `not` binds tightest, then `and`.

    Literals are numbers, true, false, and text, quoted where it holds blanks. Raises ValueError naming the position (from 1)
    and the way out.
    """
    return _Parser(text).condition()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._comparisons: list[Comparison] = []
        self._tokens: list[tuple[str, str, int]] = []  # kind, text, position from 1
        at = 0
        while text[at:].strip():
            match = _TOKEN.match(text, at)
            if match is None:
                raise self._error("cannot be read", at + len(text[at:]) - len(text[at:].lstrip()) + 1)
            kind = str(match.lastgroup)
            self._tokens.append((kind, match[kind], match.start(kind) + 1))
            at = match.end()
        self._next, self._depth, self._negated = 0, 0, False

    def condition(self) -> Condition:
        program = self._either()
        if self._next < len(self._tokens):
            _, text, at = self._tokens[self._next]
            raise self._error(f"{text!r} is not expected here; join comparisons with `and` or `or`", at)
        return Condition(self._text, tuple(self._comparisons), tuple(program))

    def _either(self) -> list[int | str]:
        program = self._both()
        while self._is_word("or"):
            program += [*self._both(), "and" if self._negated else "or"]
        return program

    def _both(self) -> list[int | str]:
        program = self._one()
        while self._is_word("and"):
            program += [*self._one(), "or" if self._negated else "and"]
        return program

    def _is_word(self, word: str) -> bool:
        if self._next < len(self._tokens) and self._tokens[self._next][:2] == ("word", word):
            self._next += 1
            return True
        return False

    def _take(self, what: str) -> tuple[str, str, int]:
        if self._next >= len(self._tokens):
            raise self._error(f"{what} is missing at the end", len(self._text) + 1)
        self._next += 1
        return self._tokens[self._next - 1]

    def _one(self) -> list[int | str]:
        if self._is_word("not"):
            self._negated = not self._negated
            inside = self._one()
            self._negated = not self._negated
            return inside
        kind, name, at = self._take("the name of a tag")
        if (kind, name) == ("bracket", "("):
            self._depth += 1
            if self._depth > _DEPTH:
                raise self._error(f"more than {_DEPTH} parentheses inside one another", at)
            inside = self._either()
            self._depth -= 1
            kind, closing, at = self._take("`)`")
            if (kind, closing) != ("bracket", ")"):
                raise self._error(f"`)` expected, found {closing!r}", at)
            return inside
        if kind not in ("word", "text") or name in ("and", "or", "not", "true", "false"):
            raise self._error(f"the name of a tag expected, found {name!r}", at)
        kind, op, at = self._take(f"a comparison behind {name!r}")
        if kind != "op":
            raise self._error(f"one of {' '.join(COMPARE)} expected behind {name!r}, found {op!r}", at)
        kind, written, at = self._take(f"a value behind {op!r}")
        literal: float | str | bool
        if kind == "number":
            literal = float(written)
        elif kind == "text" or (kind == "word" and written not in ("and", "or", "not")):
            literal = {"true": True, "false": False}.get(written, written.strip("\"'"))
        else:
            raise self._error(f"a number, a text, true or false expected behind {op!r}, found {written!r}", at)
        if isinstance(literal, (str, bool)) and op not in ("==", "!="):
            raise self._error(f"{written!r} has no order: only == and != go with it", at)
        op = _OPPOSITE[op] if self._negated else op
        self._comparisons.append(Comparison(name.strip("\"'"), op, literal))
        return [len(self._comparisons) - 1]

    def _error(self, message: str, at: int) -> ValueError:
        return ValueError(f"{self._text!r}, position {at}: {message}; {_EXAMPLE}")


@dataclass(frozen=True, slots=True)
class Resolved:
    """One comparison of a condition on one tag: `codes` where an enum's name stands for numbers, `text` for plain text."""

    asset: int
    comparison: int
    op: str
    number: float
    codes: frozenset[float] | None
    text: str | None

    def __call__(self, value: float, text: str | None) -> bool:
        if self.text is not None:
            return text is not None and (text == self.text) == (self.op == "==")
        if value != value:  # no number
            return False
        if self.codes is not None:
            return (value in self.codes) == (self.op == "==")
        return COMPARE[self.op](value, self.number)


class Gate:
    """Follows one condition for the assets of a model's tags, in row order. Unknown yet or bad makes a comparison false.

    `truth` bool[assets, comparisons] is its whole state. `active(readings)` is cheap while no tag of the condition changes its comparison.
    """

    def __init__(self, condition: Condition, watched: Sequence[Tag], tags: Sequence[Tag], *, where: str = "") -> None:
        """`watched` are the model's tags, `tags` all tags there are. Raises ConfigError where an asset lacks a tag or an enum a name."""
        self.condition = condition
        assets = list(dict.fromkeys(tag.asset for tag in watched))
        by_name = {(tag.asset, tag.name): tag for tag in tags}
        top = max((tag.id for tag in tags), default=-1) + 2
        self._asset_of = np.full(top, -1, dtype=np.intp)  # by tag id; the last entry stands for unknown ids
        self.signature = "\n".join((condition.text, *assets))
        position = {asset: number for number, asset in enumerate(assets)}
        for tag in watched:
            self._asset_of[tag.id] = position[tag.asset]
        self._tests: dict[int, list[Resolved]] = {}
        for number, asset in enumerate(assets):
            for index, comparison in enumerate(condition.comparisons):
                found = by_name.get((asset, comparison.tag))
                if found is None:
                    names = ", ".join(sorted(name for place, name in by_name if place == asset)[:8])
                    raise ConfigError(f"{asset} has no tag {comparison.tag!r}", where=where, hint=f"it has {names}")
                self._tests.setdefault(found.id, []).append(resolve(number, index, comparison, found, where))
        self._is_input = np.zeros(top, dtype=bool)
        self._is_input[list(self._tests)] = True
        self._seen = np.full(top, np.nan)  # the number by which each input was tested last
        self.truth: Bools = np.zeros((len(assets), len(condition.comparisons)), dtype=bool)
        self._open = self.condition.evaluate(self.truth)

    def active(self, readings: Readings) -> Bools:
        """Whether each row's asset is active once the row itself is taken into account. READING(n) -> bool[n].

        Rows of tags that the model does not watch are False.
        """
        ids = np.minimum(readings.tag, len(self._asset_of) - 1)
        asset = self._asset_of[ids]
        opened = np.append(self._open, False)[asset]
        inputs = np.flatnonzero(self._is_input[ids])
        if len(inputs):
            self._follow(readings, inputs, asset, opened)
        return opened

    def pass_on(self, readings: Readings) -> tuple[Readings, Bools | None]:
        """The readings as a model behind the gate takes them, and the rows that are shut; None where no row that it watches is."""
        active = self.active(readings)
        watched = self._asset_of[np.minimum(readings.tag, len(self._asset_of) - 1)] >= 0
        if not (watched & ~active).any():
            return readings, None
        batch = readings.batch.append_column("active", pa.array(active))
        return replace(readings.gated(active), batch=batch), ~active

    def _follow(self, readings: Readings, inputs: Index, asset: Index, opened: Bools) -> None:
        number, tags = readings.value[inputs], readings.tag[inputs]  # bad ones and texts are NaN, and always looked at
        news = number != self._seen[tags]
        if not news.any():
            return
        if not news.all():
            fresh = np.zeros(len(self._seen), dtype=bool)
            fresh[tags[news]] = True
            news = fresh[tags]  # all rows of a tag, once one of them is another than the last
            inputs, number, tags = inputs[news], number[news], tags[news]
        self._seen[tags] = number
        good = ~q.is_bad(readings.quality[inputs])
        texts = readings.batch.column("text").take(pa.array(inputs)).to_pylist()
        values = np.where(np.abs(number) <= HUGE, number, np.nan).tolist()
        for row, known, value, text, tag in zip(inputs.tolist(), good.tolist(), values, texts, tags.tolist(), strict=True):
            for test in self._tests[tag]:
                now = known and test(value, text)
                if now == self.truth[test.asset, test.comparison]:
                    continue
                self.truth[test.asset, test.comparison] = now
                state = bool(self.condition.evaluate(self.truth[test.asset : test.asset + 1])[0])
                if state != self._open[test.asset]:
                    self._open[test.asset] = state
                    behind = np.flatnonzero(asset[row:] == test.asset) + row
                    opened[behind] = state

    def restore(self, truth: npt.NDArray[np.generic]) -> None:
        """Take over `truth` of a gate with the same `signature`; one of another shape leaves everything unknown."""
        if truth.shape == self.truth.shape:
            self.truth[:] = truth.astype(bool)
            self._seen[:] = np.nan
            self._open = self.condition.evaluate(self.truth)


def resolve(asset: int, index: int, comparison: Comparison, tag: Tag, where: str) -> Resolved:
    """A comparison as it reads for one tag. Raises ConfigError where the tag can never be what the literal says."""
    literal = comparison.literal
    if isinstance(literal, str):
        if tag.enum:
            codes = frozenset(float(code) for code, name in tag.enum.items() if name == literal)
            if not codes:
                raise ConfigError(
                    f"{tag.path} is never {literal!r}", where=where, hint=f"it is one of {', '.join(tag.enum.values())}"
                )
            return Resolved(asset, index, comparison.op, 0.0, codes, None)
        if tag.value_type != "text":
            raise ConfigError(f"{tag.path} is a number and is compared with the text {literal!r}", where=where, hint=_EXAMPLE)
        return Resolved(asset, index, comparison.op, 0.0, None, literal)
    if tag.value_type == "text":
        return Resolved(
            asset, index, comparison.op, 0.0, None, f"{literal:g}" if not isinstance(literal, bool) else str(literal).lower()
        )
    return Resolved(asset, index, comparison.op, float(literal), None, None)
