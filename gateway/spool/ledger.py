"""Who has had which rows: per kind and sink the next row to deliver, the cut in flight and the counters; and cursors by name.

Kept in memory and in one small preallocated file. A write is an overwrite in place, so the ledger goes on when the disk is full.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final, Literal

from schemas.errors import Busy, ConfigError
from schemas.kinds import KINDS, Kind

from .book import Book, Cursor, Cut, Pin, Resend
from .ledger_file import LARGEST_BODY, Condition, LedgerFile
from .losses import Cause, Loss
from .spans import Span, Spans
from .worker import Worker

_RETRY_S: Final = 0.5


class Ledger:
    """The ledger of a running spool. All methods are for the event loop; what they change is on disk when they say so."""

    def __init__(
        self,
        file: LedgerFile,
        book: Book,
        worker: Worker,
        *,
        durable: Callable[[Kind], int],
        oldest: Callable[[Kind], int],
        failed: Callable[[OSError | None], None],
    ) -> None:
        """`durable` and `oldest` ask the logs; `failed` is told the error of each write that did not work, and None when one did."""
        self._file, self._book, self._worker = file, book, worker
        self._durable, self._oldest, self._failed = durable, oldest, failed
        self._version = self._saved = 0
        self._saving = asyncio.Lock()
        self._settled = book.copy()
        self._held: tuple[Kind, int, int] | None = None
        self.changed = asyncio.Event()
        """Set whenever there may be something to write; whoever writes it clears it first."""

    @property
    def condition(self) -> Condition:
        """What the start found of the ledger."""
        return self._file.condition

    @property
    def sinks(self) -> frozenset[str]:
        """All sinks that the ledger knows, configured or not."""
        return frozenset(sink for _, sink in self._book.cursors)

    def sinks_of(self, kind: Kind) -> tuple[str, ...]:
        """The sinks that are registered for a kind."""
        return tuple(sink for k, sink in self._book.cursors if k == kind)

    def cursor(self, kind: Kind, sink: str) -> Cursor:
        """Where `sink` stands now; one that is not registered stands at the end."""
        found = self._book.cursors.get((kind, sink))
        return found if found is not None else Cursor(self._durable(kind), self._durable(kind))

    @property
    def pins(self) -> frozenset[str]:
        """The names of all named cursors."""
        return frozenset(name for _, name in self._book.pins)

    def pin_of(self, kind: Kind, name: str) -> Pin | None:
        """The named cursor, None when there is none."""
        return self._book.pins.get((kind, name))

    def gone(self, kind: Kind) -> Spans:
        """Rows of a log that are no more although somebody may still stand before them."""
        return self._book.gone.setdefault(kind, Spans())

    def note_gone(self, kind: Kind, first: int, end: int) -> None:
        """Remember that rows `first` … `end` - 1 were found to be no more, so that the next start does not report them again."""
        self.gone(kind).add(first, end)
        self._touch()

    def needed(self, kind: Kind) -> int | None:
        """The lowest row that a sink or a named cursor still needs, as it is on disk; None when nobody reads this kind."""
        return self._settled.needed(kind)

    async def knows_end(self, kind: Kind, row: int) -> bool:
        """Whether it is on disk that the log has come to `row`; makes one attempt to bring it there. False when the disk does not take it now."""
        if self._settled.durable.get(kind, 0) >= row:
            return True
        self._touch()
        return await self.try_save()

    def cuts(self, kind: Kind) -> list[Cut]:
        """The cuts in flight, which pin their rows."""
        return self._book.cuts(kind)

    def stands(self, kind: Kind) -> list[int]:
        """The rows at which a sink, a named cursor or a resend stands."""
        return self._book.stands(kind)

    def hold(self, kind: Kind, first: int, end: int) -> None:
        """No cut may be begun that reaches into rows `first` … `end` - 1, until `release`."""
        self._held = (kind, first, end)

    def release(self) -> None:
        """Cuts may be begun anywhere again."""
        self._held = None

    async def register(self, kind: Kind, sink: str, from_: Literal["tail", "oldest"] = "tail") -> Cursor:
        """Make a sink known; one that is known stays where it is. Durable when it returns.

        A new one starts at the next row, or at the oldest that is held; at the oldest too when the ledger was lost, since then
        nobody knows what it has had. Raises ConfigError when the ledger has no room for another sink.
        """
        key = (kind, sink)
        if key not in self._book.cursors:
            row = self._oldest(kind) if from_ == "oldest" or self.condition == "lost" else self._durable(kind)
            self._book.cursors[key] = Cursor(row, row)
            try:
                await self._persist()
            except ConfigError:
                del self._book.cursors[key]
                raise
        return self._book.cursors[key]

    async def begin_cut(self, kind: Kind, sink: str, first: int, last: int) -> Cut:
        """Note that rows `first` … `last` are about to be handed to `sink`; durable when it returns.

        `first` is where the sink stands, all rows are durable, no other cut is in flight: else ValueError. Raises Busy when rows were
        given up since the caller looked at the cursor, or are being rewritten: look again.
        """
        self._check_free(kind, first, last)
        cursor = self._cursor(kind, sink)
        if first < cursor.acked:
            raise Busy(0.0, f"{kind} rows {first} to {cursor.acked - 1} were given up meanwhile")
        if first != cursor.acked or cursor.cut is not None or not first <= last < self._durable(kind):
            raise ValueError(f"no cut of {kind} rows {first} to {last} for {sink}, which stands at {cursor}")
        cut = Cut(first, last)
        self._book.cursors[kind, sink] = replace(cursor, cut=cut)
        try:
            await self._persist()
        except BaseException:
            # Not known to be durable, so it must not be taken for a cut in flight.
            if self._book.cursors.get((kind, sink)) == replace(cursor, cut=cut):
                self._book.cursors[kind, sink] = cursor
                self._touch()
            raise
        return cut

    async def acknowledge(
        self, kind: Kind, sink: str, last: int, *, delivered: int, filtered: int, dead_lettered: int = 0, dropped: int = 0
    ) -> None:
        """Note what became of the rows up to `last`. On disk a moment later, together with others.

        Should the process die before, the cut is in flight again and is delivered once more, with the same rows. Raises ValueError where the
        counts are not the number of rows, or `last` is not the end of the cut.
        """
        cursor = self._cursor(kind, sink)
        rows = last + 1 - cursor.acked
        if (
            rows <= 0
            or rows != delivered + filtered + dead_lettered + dropped
            or min(delivered, filtered, dead_lettered, dropped) < 0
        ):
            raise ValueError(f"{rows} rows of {kind} and {delivered}+{filtered}+{dead_lettered}+{dropped} accounted for")
        if cursor.cut is not None and last != cursor.cut.last:
            raise ValueError(f"the cut in flight ends at {cursor.cut.last}, not at {last}")
        if last >= self._durable(kind):
            raise ValueError(f"{kind} row {last} is not durable")
        self._book.cursors[kind, sink] = Cursor(
            cursor.start, last + 1, None, cursor.delivered + delivered, cursor.filtered + filtered,
            cursor.dropped + dropped, cursor.dead_lettered + dead_lettered,
        )  # fmt: skip
        self._touch()

    def redelivered(self, kind: Kind, sink: str, rows: int) -> None:
        """Note that so many dead letters were delivered after all. On disk a moment later, together with others.

        Letters of which the ledger knows nothing (it was lost, or the sink was forgotten meanwhile) change nothing.
        """
        cursor = self._book.cursors.get((kind, sink))
        if cursor is not None:
            rows = min(rows, cursor.dead_lettered)
            self._book.cursors[kind, sink] = replace(
                cursor, delivered=cursor.delivered + rows, dead_lettered=cursor.dead_lettered - rows
            )
            self._touch()

    async def pin(self, kind: Kind, name: str, row: int, note: str = "") -> None:
        """Set the named cursor: rows from `row` on are still needed. Durable when it returns.

        Raises ValueError for a row beyond the first that is not durable: after a crash the rows up to it would count as lost.
        """
        if row > self._durable(kind):
            raise ValueError(f"{kind} row {row - 1} is not durable")
        self._book.pins[kind, name] = Pin(row, note)
        await self._persist()

    async def forget(self, name: str) -> bool:
        """Drop everything about a sink or a named cursor, so that it holds no rows back; durable when it returns. False: not known."""
        before = len(self._book.cursors) + len(self._book.pins)
        self._book.lost = {key: counts for key, counts in self._book.lost.items() if key[1] != name}
        self._book.resent = {key: rows for key, rows in self._book.resent.items() if key[1] != name}
        self._book.resends = [one for one in self._book.resends if one.sink != name]
        self._book.cursors = {key: cursor for key, cursor in self._book.cursors.items() if key[1] != name}
        self._book.pins = {key: pin for key, pin in self._book.pins.items() if key[1] != name}
        await self._persist()
        return len(self._book.cursors) + len(self._book.pins) < before

    def give_up(self, kind: Kind, first: int, end: int, counted: Iterable[Span] = ()) -> dict[str, int]:
        """Note that rows `first` … `end` - 1 are no more; returns the sinks that had not had them, with how many.

        Sinks that stand among them move on, sinks further back will find them missing; `counted` were lost before. Call `save` before
        they are unlinked.
        """
        hit = self._book.give_up(kind, first, end, counted)
        self._touch()
        return hit

    async def drop(self, kind: Kind, sink: str, end: int, counted: Iterable[Span] = ()) -> int:
        """Let one sink do without the rows before `end`, a cut in flight among them; returns how many of them were held.

        They count as dropped; what was in flight may have arrived all the same. Durable when it returns.
        """
        cursor = self._cursor(kind, sink)
        end = min(end, self._durable(kind))
        if end <= cursor.acked:
            return 0
        if cursor.cut is not None:
            end = max(end, cursor.cut.last + 1)
        rows = end - cursor.acked - Spans([*self.gone(kind), *counted]).within(cursor.acked, end)
        self._book.cursors[kind, sink] = replace(cursor, acked=end, cut=None, dropped=cursor.dropped + end - cursor.acked)
        await self._persist()
        return rows

    def note_loss(self, loss: Loss) -> None:
        """Count a loss by its cause and remember that a gap row is owed, also after a crash."""
        self._book.note(loss)
        self._touch()

    def intend(self, loss: Loss, level: int) -> None:
        """Rows are about to be downsampled to `level`: should the process die, the next start sees whether they were, and counts them then."""
        self._book.intended.append((loss, level))
        self._touch()

    @property
    def intended(self) -> list[tuple[Loss, int]]:
        """What was about to be downsampled, and to which level."""
        return list(self._book.intended)

    def settle(self, loss: Loss, *, happened: bool) -> None:
        """What was intended happened, or did not."""
        self._book.intended = [(one, level) for one, level in self._book.intended if one != loss]
        if happened:
            self._book.note(loss)
        self._touch()

    def told(self, losses: Iterable[Loss]) -> None:
        """Gap rows of these are durable."""
        for loss in losses:
            self._book.told(loss)
        self._touch()

    @property
    def untold(self) -> list[Loss]:
        """Losses of which no gap row is known to be durable."""
        return list(self._book.untold)

    def lost(self, kind: Kind, sink: str) -> Mapping[Cause, int]:
        """Rows that a sink was to have and never will, by cause, since it was registered."""
        return dict(self._book.lost.get((kind, sink), {}))

    # Once more

    @property
    def resends(self) -> tuple[Resend, ...]:
        """What a person wants to be delivered once more, in the order in which it was asked for."""
        return tuple(self._book.resends)

    def resent(self, kind: Kind, sink: str) -> int:
        """Rows delivered once more to a sink; no part of its account."""
        return self._book.resent.get((kind, sink), 0)

    async def ask_resend(self, kind: Kind, sink: str, first: int, last: int) -> None:
        """Note that rows `first` … `last` are to be delivered to `sink` once more; durable when it returns.

        Raises ValueError when the sink is not registered, or has not come so far.
        """
        if not first <= last < self._cursor(kind, sink).acked:
            raise ValueError(f"{sink} has not passed {kind} row {last} yet: it will get it anyway")
        self._book.resends.append(Resend(kind, sink, first, last))
        await self._persist()

    async def begin_resend(self, resend: Resend, first: int, last: int) -> Resend:
        """Note that rows `first` … `last` of a resend are about to be handed to its sink; durable when it returns.

        Raises Busy as `begin_cut` does, and when the resend is not what it was.
        """
        self._check_free(resend.kind, first, last)
        begun = replace(resend, next=first, cut=last)
        self._exchange(resend, begun)
        await self._persist()
        return begun

    def end_resend(self, resend: Resend, upto: int, delivered: int) -> None:
        """Note that a resend has come up to row `upto` (included), and how many rows that were."""
        rest = replace(resend, next=upto + 1, cut=None) if upto < resend.last else None
        try:
            self._exchange(resend, rest)
        except Busy:
            return  # forgotten meanwhile
        key = (resend.kind, resend.sink)
        self._book.resent[key] = self._book.resent.get(key, 0) + delivered
        self._touch()

    def _exchange(self, old: Resend, new: Resend | None) -> None:
        if old not in self._book.resends:
            raise Busy(0.05, "the resend has changed")
        at = self._book.resends.index(old)
        self._book.resends[at : at + 1] = [] if new is None else [new]
        self._touch()

    async def save(self) -> None:
        """Return when everything noted so far is on disk."""
        if self._saved < self._version:
            await self._persist(touch=False)

    async def try_save(self) -> bool:
        """One attempt to bring everything noted so far to disk; False when the disk does not take it now."""
        return await self._save_once(self._version)

    async def close(self) -> None:
        """Let go of the file; what is not on disk stays unsaid."""
        await self._worker.run(self._file.close)

    @property
    def bytes_written(self) -> int:
        """Bytes handed to the disk."""
        return self._file.written

    def _cursor(self, kind: Kind, sink: str) -> Cursor:
        found = self._book.cursors.get((kind, sink))
        if found is None:
            raise ValueError(f"{sink} is not registered for {kind}")
        return found

    def _check_free(self, kind: Kind, first: int, last: int) -> None:
        if self._held is not None and self._held[0] == kind and first < self._held[2] and self._held[1] <= last:
            raise Busy(0.05, f"{kind} rows {self._held[1]} to {self._held[2] - 1} are being rewritten")

    def _touch(self) -> None:
        self._version += 1
        self.changed.set()

    async def _persist(self, *, touch: bool = True) -> None:
        """Until the disk has it. Raises ConfigError when it does not fit at all."""
        if touch:
            self._touch()
        wanted = self._version
        while True:
            if await self._save_once(wanted):
                return
            await asyncio.sleep(_RETRY_S)

    async def _save_once(self, wanted: int) -> bool:
        """Whoever comes first writes for all who wait behind it."""
        async with self._saving:
            if self._saved >= wanted:
                return True
            version = self._version
            for kind in KINDS:
                self._book.durable[kind] = self._durable(kind)
                if kind in self._book.gone:
                    self._book.gone[kind].discard_below(self._lowest(kind))
            settled = self._book.copy()
            body = self._book.pack()
            if len(body) > LARGEST_BODY:
                raise ConfigError("the ledger has no room for so many sinks", hint="drop old ones with `genba spool forget SINK`")
            try:
                await self._worker.run(lambda: self._file.save(body))
            except OSError as error:
                self._failed(error)
                return False
            self._failed(None)
            self._saved, self._settled = version, settled
            return True

    def _lowest(self, kind: Kind) -> int:
        """Below this row nobody asks any more."""
        rows = [cursor.acked for (k, _), cursor in self._book.cursors.items() if k == kind]
        return min([*rows, self._oldest(kind)])
