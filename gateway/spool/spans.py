"""Sets of row numbers as sorted, disjoint [first, end) spans: rows that are no more, and why it does not matter who asks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Span = tuple[int, int]
"""Rows `first` … `end` - 1."""


class Spans:
    """A set of row numbers. Small: a handful of spans, kept merged."""

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        self._spans: list[Span] = []
        for first, end in spans:
            self.add(first, end)

    def __iter__(self) -> Iterator[Span]:
        return iter(self._spans)

    def __bool__(self) -> bool:
        return bool(self._spans)

    def add(self, first: int, end: int) -> None:
        """Add rows `first` … `end` - 1; an empty span changes nothing."""
        if end <= first:
            return
        kept = []
        for one, other in self._spans:
            if other < first or one > end:
                kept.append((one, other))
            else:
                first, end = min(first, one), max(end, other)
        self._spans = sorted([*kept, (first, end)])

    def discard_below(self, row: int) -> None:
        """Forget everything below `row`."""
        self._spans = [(max(first, row), end) for first, end in self._spans if end > row]

    def within(self, first: int, end: int) -> int:
        """How many of the rows `first` … `end` - 1 are in the set."""
        return sum(max(0, min(end, high) - max(first, low)) for low, high in self._spans)

    def missing_from(self, first: int, end: int) -> list[Span]:
        """The parts of `first` … `end` - 1 that are not in the set."""
        out = []
        for low, high in self._spans:
            if high <= first or low >= end:
                continue
            if low > first:
                out.append((first, low))
            first = max(first, high)
        if first < end:
            out.append((first, end))
        return out
