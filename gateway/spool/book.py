"""What the ledger says, as values: where sinks stand, what is pinned, which rows are no more."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import cast

from schemas.kinds import KINDS, Kind

from .spans import Spans


@dataclass(frozen=True, slots=True)
class Cut:
    """Rows `first` … `last` (both included) that were handed to a sink and not yet acknowledged."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where one sink stands in one log. Rows `start` … `acked` - 1 are decided: delivered, filtered, dropped or dead-lettered."""

    start: int
    acked: int  # next row to deliver
    cut: Cut | None = None
    delivered: int = 0
    filtered: int = 0
    dropped: int = 0
    dead_lettered: int = 0


@dataclass(frozen=True, slots=True)
class Pin:
    """A cursor by name that is no sink: rows from `row` on are still needed. `note` is its owner's (a snapshot's file name)."""

    row: int
    note: str = ""


@dataclass(slots=True)
class Book:
    """The content of the ledger."""

    gateway: str = ""
    epoch: int = 0
    durable: dict[Kind, int] = field(default_factory=dict)  # next row of each log when this was written
    cursors: dict[tuple[Kind, str], Cursor] = field(default_factory=dict)
    pins: dict[tuple[Kind, str], Pin] = field(default_factory=dict)
    gone: dict[Kind, Spans] = field(default_factory=dict)  # rows that are no more and have been reported

    def high_water(self, kind: Kind) -> int:
        """The lowest row number that nobody outside can have seen."""
        rows = [cursor.acked for (k, _), cursor in self.cursors.items() if k == kind]
        rows += [cursor.cut.last + 1 for (k, _), cursor in self.cursors.items() if k == kind and cursor.cut]
        rows += [pin.row for (k, _), pin in self.pins.items() if k == kind]
        return max([*rows, self.durable.get(kind, 0)])

    def needed(self, kind: Kind) -> int | None:
        """The lowest row that a sink or a named cursor still needs; None when nobody reads this kind."""
        rows = [cursor.acked for (k, _), cursor in self.cursors.items() if k == kind]
        rows += [pin.row for (k, _), pin in self.pins.items() if k == kind]
        return min(rows, default=None)

    def copy(self) -> Book:
        """A copy that later changes do not reach."""
        gone = {kind: Spans(spans) for kind, spans in self.gone.items()}
        return Book(self.gateway, self.epoch, dict(self.durable), dict(self.cursors), dict(self.pins), gone)

    def pack(self) -> bytes:
        """As the JSON of a slot."""
        document = {
            "gateway": self.gateway,
            "epoch": self.epoch,
            "durable": self.durable,
            "cursors": [
                [k, sink, c.start, c.acked, c.cut.last if c.cut else None, c.delivered, c.filtered, c.dropped, c.dead_lettered]
                for (k, sink), c in self.cursors.items()
            ],
            "pins": [[k, name, pin.row, pin.note] for (k, name), pin in self.pins.items()],
            "gone": {k: list(spans) for k, spans in self.gone.items() if spans},
        }
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def unpack(cls, data: bytes) -> Book:
        """The inverse of `pack`. Raises ValueError, KeyError or TypeError for anything else."""
        document = json.loads(data)
        book = cls(document["gateway"], document["epoch"])
        book.durable = {cast(Kind, k): row for k, row in document["durable"].items() if k in KINDS}
        for k, sink, start, acked, last, delivered, filtered, dropped, dead in document["cursors"]:
            cut = None if last is None else Cut(acked, last)
            book.cursors[k, sink] = Cursor(start, acked, cut, delivered, filtered, dropped, dead)
        for k, name, row, note in document["pins"]:
            book.pins[k, name] = Pin(row, note)
        book.gone = {cast(Kind, k): Spans((first, end) for first, end in spans) for k, spans in document["gone"].items()}
        return book
