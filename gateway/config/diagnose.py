"""What is wrong, where, and the way out: one value, its text for people and its JSON for programs."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from schemas.errors import ConfigError

_WIDEST: Final = 130


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One error or warning. `line` and `column` count from 1, 0 where unknown; `source` is the line, secrets masked.

    `message` is the sentence, `hint` the way out; neither holds a secret.
    """

    code: str
    message: str
    key: str = ""
    hint: str = ""
    file: str = ""
    line: int = 0
    column: int = 0
    length: int = 1
    source: str = ""

    @property
    def level(self) -> Literal["error", "warning"]:
        """From the letter of the code."""
        return "error" if self.code.startswith("E") else "warning"

    @property
    def where(self) -> str:
        """`plant.yaml:8:9`."""
        return ":".join([self.file, *(str(number) for number in (self.line, self.column) if number)])

    def render(self) -> str:
        """Text for people: the sentence, the source line, a caret line, and the way out unless it stands in the sentence."""
        close = self.hint.startswith("did you mean")
        subject = f"{self.key}: " if self.key else ""
        lines = [f"{self.where} {self.code} {subject}{self.message}" + (f", {self.hint}" if close else "")]
        if self.source:
            number = str(self.line)
            source, begin = _window(self.source.replace("\t", " "), self.column - 1, self.length)
            before, marked = source[:begin], source[begin : begin + self.length]
            lines.append(f"  {number} | {source}")
            lines.append(f"  {' ' * len(number)} | {' ' * _width(before)}{'^' * max(1, _width(marked))}")
        if self.hint and not close:
            lines.append(f"    = {self.hint}")
        return "\n".join(lines)

    def as_json(self) -> dict[str, str | int]:
        """The same for programs; the names are a contract."""
        return {
            "code": self.code,
            "level": self.level,
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "key": self.key,
            "message": self.message,
            "hint": self.hint,
        }


class ConfigurationInvalid(ConfigError):
    """The configuration has errors; `diagnostics` holds all of them and the warnings, in the order of the files."""

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        super().__init__("\n".join(diagnostic.render() for diagnostic in diagnostics))
        self.diagnostics = tuple(diagnostics)


def dotted(loc: Sequence[str | int]) -> str:
    """`adapters.press-07.tags.motor_temp`, `routes[0].to[1]`; a part that would be misread stands in quotes."""
    text = ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            quoted = f'"{part}"' if any(c in ". []" for c in part) or not part else part
            text += f".{quoted}" if text else quoted
    return text


def _window(line: str, begin: int, length: int) -> tuple[str, int]:
    """The part of a long line around the place, and where the place begins in it: a caret under a wrapped line helps nobody."""
    if len(line) <= _WIDEST:
        return line.rstrip(), begin
    first = max(0, min(begin - _WIDEST // 3, len(line) - _WIDEST))
    shown = line[first : first + _WIDEST]
    if first:
        shown = "…" + shown[1:]
    if first + _WIDEST < len(line):
        shown = shown[:-1] + "…"
    return shown.rstrip(), begin - first


def _width(text: str) -> int:
    """Columns on a terminal: a Japanese or Chinese character takes two, a combining one none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
