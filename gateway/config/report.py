"""Collects what is wrong while a configuration is read, and turns it into diagnostics once all secrets are known."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from .diagnose import Diagnostic, dotted
from .places import Section, Spot, find
from .source import Source, Span

SHOWN_INSTEAD: Final = "***"
NOWHERE: Final = Span(0, 0)
"""The place of what is missing at the top of a file: the file itself, no line of it."""


@dataclass(frozen=True, slots=True)
class _Entry:
    code: str
    message: str
    key: str
    hint: str
    source: Source
    span: Span | None
    guess: bool


@dataclass(slots=True)
class Report:
    """Errors and warnings in the order in which they are found. `secrets` are texts that no message may hold."""

    secrets: set[str] = field(default_factory=set)
    _entries: list[_Entry] = field(default_factory=list)
    _files: dict[str, int] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether there is an error so far."""
        return any(entry.code.startswith("E") for entry in self._entries)

    @property
    def count(self) -> int:
        """How many findings there are so far."""
        return len(self._entries)

    def begin(self, source: Source) -> None:
        """The file that everything starts with comes first in the report."""
        self._files.setdefault(source.name, len(self._files))

    def withdraw(self, code: str, spot: Spot) -> None:
        """Take back what was said of an item before its type was known."""
        self._entries = [e for e in self._entries if (e.code, e.source, e.span) != (code, spot.source, spot.value())]

    def add(
        self, code: str, source: Source, span: Span | None, message: str, *, key: str = "", hint: str = "", guess: bool = False
    ) -> None:
        """One finding at a place of a file; without a span about the whole file. `guess`: the file is not YAML."""
        self._files.setdefault(source.name, len(self._files))
        self._entries.append(_Entry(code, message, key, hint, source, span, guess))

    def at_spot(
        self, code: str, spot: Spot, message: str, *, on: Literal["key", "value"] = "value", key: str = "", hint: str = ""
    ) -> None:
        """One finding at an item."""
        self.add(code, spot.source, spot.key() if on == "key" else spot.value(), message, key=key, hint=hint)

    def at(
        self,
        code: str,
        root: Section,
        loc: Sequence[str | int],
        message: str,
        *,
        on: Literal["key", "value"] = "value",
        hint: str = "",
    ) -> None:
        """One finding at a path below `root`; where the path was not written, at the nearest part above it."""
        found = find(root, loc)
        key = dotted(loc)
        if found.spot is None:
            self.add(code, root.source, NOWHERE, message, key=key, hint=hint)
        else:
            whole = found.loc == tuple(loc)
            self.at_spot(code, found.spot, message, on=on if whole else "key", key=key, hint=hint)

    def finished(self) -> list[Diagnostic]:
        """Every finding once, by file and place; the file that was read first comes first. Secrets are masked."""
        hidden = _Mask(self.secrets)
        made: dict[tuple[str, int, int, str, str], Diagnostic] = {}
        for entry in self._entries:
            message, hint = hidden(entry.message), hidden(entry.hint)
            span = entry.span
            line, column = (span.line + 1, span.column + 1) if span else (0, 0)
            shown = entry.source.shown(span.line, guess=entry.guess) if span and span is not NOWHERE else ""
            diagnostic = Diagnostic(
                entry.code, message, entry.key, hint, entry.source.name, line, column, span.length if span else 1, shown
            )
            made.setdefault((entry.source.name, line, column, entry.code, message), diagnostic)
        return sorted(made.values(), key=lambda d: (self._files[d.file], d.line, d.column))


class _Mask:
    """Masks every given secret, also as `repr` writes it and line by line."""

    def __init__(self, secrets: set[str]) -> None:
        texts: set[str] = set()
        for secret in secrets:
            texts |= {secret, repr(secret)[1:-1], *(line.strip() for line in secret.splitlines() if len(line.strip()) >= 8)}
        words = [
            re.escape(text) if len(text) >= 4 else rf"(?<!\w){re.escape(text)}(?!\w)"
            for text in sorted(texts, key=len, reverse=True)
            if text.strip()
        ]
        self._regex = re.compile("|".join(words)) if words else None

    def __call__(self, text: str) -> str:
        return self._regex.sub(SHOWN_INSTEAD, text) if self._regex else text
