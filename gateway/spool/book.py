"""What the ledger says, as values: where sinks stand, what is pinned, which rows are no more."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final, cast

from schemas.kinds import KINDS, Kind

from .losses import Cause, Loss, fewer
from .spans import Span, Spans

_MOST_UNTOLD: Final = 200


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


@dataclass(frozen=True, slots=True)
class Resend:
    """Rows `next` … `last` that a person wants a sink to get once more; those up to `cut` were handed to it and not yet acknowledged."""

    kind: Kind
    sink: str
    next: int
    last: int
    cut: int | None = None


@dataclass(slots=True)
class Book:
    """The content of the ledger."""

    gateway: str = ""
    epoch: int = 0
    durable: dict[Kind, int] = field(default_factory=dict)  # next row of each log when this was written
    cursors: dict[tuple[Kind, str], Cursor] = field(default_factory=dict)
    pins: dict[tuple[Kind, str], Pin] = field(default_factory=dict)
    gone: dict[Kind, Spans] = field(default_factory=dict)  # rows that are no more and have been reported
    lost: dict[tuple[Kind, str], dict[Cause, int]] = field(default_factory=dict)  # rows that a sink never had, by cause
    intended: list[tuple[Loss, int]] = field(default_factory=list)  # what is being downsampled now, and to which level
    untold: list[Loss] = field(default_factory=list)  # losses of which no gap row is durable yet
    resends: list[Resend] = field(default_factory=list)  # in the order in which they were asked for
    resent: dict[tuple[Kind, str], int] = field(default_factory=dict)

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
        rows += [resend.next for resend in self.resends if resend.kind == kind]
        return min(rows, default=None)

    def stands(self, kind: Kind) -> list[int]:
        """The rows at which somebody stands."""
        rows = [cursor.acked for (k, _), cursor in self.cursors.items() if k == kind]
        rows += [pin.row for (k, _), pin in self.pins.items() if k == kind]
        return rows + [resend.next for resend in self.resends if resend.kind == kind]

    def cuts(self, kind: Kind) -> list[Cut]:
        """What is in flight: it pins its rows."""
        found = [cursor.cut for (k, _), cursor in self.cursors.items() if k == kind and cursor.cut is not None]
        return found + [Cut(one.next, one.cut) for one in self.resends if one.kind == kind and one.cut is not None]

    def give_up(self, kind: Kind, first: int, end: int, counted: Iterable[Span] = ()) -> dict[str, int]:
        """Rows `first` … `end` - 1 are no more; the sinks that had not had them, with how many.

        Sinks that stand among them move on, sinks further back will find them missing. `counted` are row numbers that were lost before.
        """
        lost, hit = self.gone.setdefault(kind, Spans()), {}
        before = Spans([*lost, *counted])
        for (k, sink), cursor in list(self.cursors.items()):
            if k != kind or cursor.acked >= end:
                continue
            start = max(first, cursor.acked)
            rows = (end - start) - before.within(start, end)
            if rows:
                hit[sink] = rows
            if cursor.acked >= first and cursor.cut is None:
                self.cursors[k, sink] = replace(cursor, acked=end, dropped=cursor.dropped + end - cursor.acked)
        for (k, name), pin in list(self.pins.items()):
            if k == kind and first <= pin.row < end:
                self.pins[k, name] = replace(pin, row=end)
        moved = [
            replace(one, next=end) if one.kind == kind and one.cut is None and first <= one.next < end else one
            for one in self.resends
        ]
        self.resends = [one for one in moved if one.next <= one.last]
        lost.add(first, end)
        return hit

    def note(self, loss: Loss) -> None:
        """Count a loss, and remember that a gap row is owed for it."""
        for sink, rows in loss.sinks.items():
            counts = self.lost.setdefault((loss.kind, sink), {})
            counts[loss.cause] = counts.get(loss.cause, 0) + rows
        self.untold = fewer([*self.untold, loss], _MOST_UNTOLD)

    def told(self, loss: Loss) -> None:
        """A gap row of this loss is durable; it may be part of one that was merged from several meanwhile."""
        for at, owed in enumerate(self.untold):
            same = (owed.kind, owed.cause, owed.sinks.keys()) == (loss.kind, loss.cause, loss.sinks.keys())
            if same and owed.first <= loss.first and loss.last <= owed.last:
                left = {sink: rows - loss.sinks[sink] for sink, rows in owed.sinks.items()}
                self.untold[at : at + 1] = [replace(owed, sinks=left)] if any(rows > 0 for rows in left.values()) else []
                return

    def copy(self) -> Book:
        """A copy that later changes do not reach."""
        gone = {kind: Spans(spans) for kind, spans in self.gone.items()}
        lost = {key: dict(counts) for key, counts in self.lost.items()}
        return Book(
            self.gateway, self.epoch, dict(self.durable), dict(self.cursors), dict(self.pins), gone, lost, list(self.intended), list(self.untold),
            list(self.resends), dict(self.resent),
        )  # fmt: skip

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
            "lost": [[k, sink, counts] for (k, sink), counts in self.lost.items()],
            "intended": [[loss.pack(), level] for loss, level in self.intended],
            "untold": [loss.pack() for loss in self.untold],
            "resends": [[one.kind, one.sink, one.next, one.last, one.cut] for one in self.resends],
            "resent": [[k, sink, rows] for (k, sink), rows in self.resent.items()],
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
        # What follows was not there in the first version.
        book.lost = {(k, sink): dict(counts) for k, sink, counts in document.get("lost", ())}
        book.intended = [(Loss.unpack(plain), level) for plain, level in document.get("intended", ())]
        book.untold = [Loss.unpack(plain) for plain in document.get("untold", ())]
        book.resends = [Resend(*plain) for plain in document.get("resends", ())]
        book.resent = {(k, sink): rows for k, sink, rows in document.get("resent", ())}
        return book
