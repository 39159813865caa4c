"""When segments go: as soon as everybody has had their rows; before that only when the budget is used up, and then by rule.

The ledger is on disk before any unlink: a crash between the two leaves a file too many, never a row too few.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Literal

from schemas.kinds import PRIORITY, Kind

from .ledger import Ledger
from .ledger_file import LEDGER_BYTES
from .log import Log
from .losses import Loss
from .rewriting import NotWorthIt, Rewrite
from .segment import Segment
from .spans import Spans
from .storage import Storage
from .windows import WIDTHS_US
from .worker import Worker

WhenFull = Literal["downsample", "drop_oldest", "block"]
EVICTION: Final[tuple[Kind, ...]] = tuple(reversed(PRIORITY))
"""The order in which kinds are given up: bulk first, alerts last."""

KEPT_BYTES: Final[Mapping[Kind, int]] = {"alert": 4 << 20}
"""What is kept although everybody has had it: the alarm layer reads its own past at start."""

_RUN: Final = 4  # segments of rows as they were put that are downsampled together


class Retention:
    """Frees segments of all logs. For the event loop, except `allows`."""

    def __init__(
        self,
        logs: Mapping[Kind, Log],
        ledger: Ledger,
        worker: Worker,
        *,
        storage: Storage,
        epoch: int,
        thinner: Worker,
        max_bytes: int | None,
        reserve_bytes: int,
        other_bytes: int,
        measure: Callable[[], int],
        keep_us: int,
        now_us: Callable[[], int],
        when_full: Mapping[Kind, WhenFull],
        lost: Callable[[Loss], None],
        rewritten: Callable[[Kind, int], None],
    ) -> None:
        """`reserve_bytes` stay free for rewriting a segment. A kind that `when_full` does not name drops its oldest rows.

        Rows are kept for `keep_us` after they came, although everybody has had them, while there is room. `other_bytes` is what else the directory holds, `measure` looks again (blocking). `lost` is told of rows that are no more, once the ledger has counted them; `rewritten`
        of the row before which rows in memory are not those on disk any more.
        """
        self._logs, self._ledger, self._worker, self._thinner = logs, ledger, worker, thinner
        self._storage, self._epoch = storage, epoch
        self._max_bytes, self._reserve, self._other_bytes, self._measure = max_bytes, reserve_bytes, other_bytes, measure
        self._when_full, self._lost, self._rewritten = when_full, lost, rewritten
        self._keep_us, self._now_us = keep_us, now_us
        self._working = asyncio.Lock()

    def used_bytes(self) -> int:
        """Bytes of all segments, the ledger, and what else is in the directory."""
        return sum(log.size_bytes for log in self._logs.values()) + LEDGER_BYTES + self._other_bytes

    def allows(self, size: int) -> bool:
        """Whether the budget has room for a new segment of `size` bytes. Any thread."""
        return self._max_bytes is None or self.used_bytes() + size + self._reserve <= self._max_bytes

    async def collect(self, *, urgent: bool = False) -> int:
        """Unlink the closed segments that every sink and named cursor has passed; returns the bytes freed.

        Rows of a kind that nobody reads have been passed by everybody. With `urgent` nothing is kept for a resend.
        """
        freed, limit_us = 0, self._now_us() - self._keep_us
        for kind, log in self._logs.items():
            end = log.closed[-1].next if log.closed else 0
            # Where nobody stands, only the ledger knows how far the log came: without it a crash would let the numbers begin anew.
            if end and self._ledger.needed(kind) is None and not await self._ledger.knows_end(kind, end):
                continue
            needed = self._ledger.needed(kind)
            limit = end if needed is None else needed
            passed = [segment for segment in log.closed if segment.next <= limit]
            kept = sum(segment.bytes for segment in passed)
            gone: list[Segment] = []
            for segment in passed:
                kept -= segment.bytes
                if kept < KEPT_BYTES.get(kind, 0) or (self._keep_us and not urgent and segment.last_commit_us > limit_us):
                    break
                gone.append(segment)
            log.forget(passed[len(gone) :])
            if gone:
                freed += await self._remove(log, gone)
        return freed

    async def make_room(self, size: int) -> bool:
        """Free segments until `allows(size)`; False when that is not possible by the rules, or not now.

        First what everybody has had, then what nobody reads, then the oldest rows of the kinds that may be thinned or dropped. Rows of a
        cut in flight stay: the sink may have them, and must get the same ones again.
        """
        async with self._working:
            await self.collect(urgent=True)
            while not self.allows(size):
                if not await self._free_one():
                    return False
            return True

    async def ahead(self, size: int) -> None:
        """Downsample before room for `size` more bytes is needed, so that no commit waits for it."""
        self._other_bytes = await self._thinner.run(self._measure)
        async with self._working:
            while self._downsamples("telemetry") and not self.allows(size):
                if await self.collect(urgent=True) or await self._thin_oldest("telemetry"):
                    continue
                return

    async def _free_one(self) -> bool:
        """One step towards more room; False when there is none."""
        unread = [kind for kind in EVICTION if self._ledger.needed(kind) is None]
        droppable = [kind for kind in EVICTION if kind not in unread and self._when_full.get(kind, "drop_oldest") != "block"]
        for kind in (*unread, *droppable):
            if kind not in unread and self._downsamples(kind) and await self._thin_oldest(kind):
                return True
            for segment in self._free_segments(kind):
                return await self._drop(self._logs[kind], segment)
        return False

    def _downsamples(self, kind: Kind) -> bool:
        return self._when_full.get(kind) == "downsample"

    def _free_segments(self, kind: Kind) -> Iterator[Segment]:
        """The closed segments outside any cut, oldest first."""
        cuts = self._ledger.cuts(kind)
        for segment in self._logs[kind].closed:
            if not any(cut.first < segment.next and segment.first <= cut.last for cut in cuts):
                yield segment

    async def _drop(self, log: Log, segment: Segment) -> bool:
        already = Spans([*self._ledger.gone(log.kind), *segment.thin]).missing_from(segment.first, segment.next)
        hit = self._ledger.give_up(log.kind, segment.first, segment.next, segment.thin)
        if hit and already:
            began, ended = segment.first_commit_us, segment.last_commit_us
            loss = Loss(log.kind, segment.first, segment.next - 1, "dropped", hit, began, ended)
            self._ledger.note_loss(loss)
            self._lost(loss)
        self._rewritten(log.kind, segment.next)
        if not await self._ledger.try_save():
            return False
        await self._remove(log, [segment])
        return True

    # Downsampling

    def _run(self, kind: Kind) -> list[Segment]:
        """The neighbouring segments to thin next: the oldest of the level that takes most room; empty when there are none."""
        free = [one for one in self._free_segments(kind) if not one.full and not one.lost and one.level < len(WIDTHS_US)]
        by_level: dict[int, int] = {}
        for segment in free:
            by_level[segment.level] = by_level.get(segment.level, 0) + segment.bytes
        if not by_level:
            return []
        level = max(by_level, key=lambda one: (by_level[one], -one))
        run: list[Segment] = []
        room = _RUN * self._reserve if level == 0 else self._reserve
        for segment in free:
            if run and (segment.level != level or segment.first != run[-1].next or room < segment.bytes):
                break
            if segment.level == level:
                run.append(segment)
                room -= segment.bytes
        return run

    async def _thin_oldest(self, kind: Kind) -> bool:
        """Downsample one run of segments; False when none can be, at present."""
        while run := self._run(kind):
            try:
                try:
                    return await self._thin(kind, run)
                except NotWorthIt:
                    return await self._thin(kind, run[:1])  # that fits into the reserve, if it is worth anything
            except NotWorthIt:
                run[0].full = True
            except OSError:
                return False
        return False

    async def _thin(self, kind: Kind, run: Sequence[Segment]) -> bool:
        log = self._logs[kind]
        rewrite = Rewrite(kind, log.directory, run, storage=self._storage, epoch=self._epoch)
        stands = list(self._ledger.stands(kind))
        await self._thinner.run(lambda: rewrite.prepare(stands, self._reserve))
        # From here on nobody may begin a cut of these rows; and nobody may have, nor have come to stand among new rows, meanwhile.
        self._ledger.hold(kind, rewrite.first, rewrite.next)
        try:
            cuts = [cut for cut in self._ledger.cuts(kind) if cut.first < rewrite.next and rewrite.first <= cut.last]
            moved = [row for row in self._ledger.stands(kind) if row not in stands and rewrite.reaches_over(row)]
            if cuts or moved or not all(segment in log.segments for segment in run):
                return True  # somebody was there before; the next round looks anew
            loss = self._about_to_lose(log, rewrite)
            if loss is not None:
                self._ledger.intend(loss, rewrite.level)
            happened = False
            try:
                # Also without a loss: that an earlier rewrite happened is seen by its files, which go now.
                if not await self._ledger.try_save():
                    return False
                new = await self._thinner.run(rewrite.write)
                happened = True
                self._rewritten(kind, new.next)
                await self._worker.run(lambda: log.replace(run, new))
            finally:
                if loss is not None:
                    self._ledger.settle(loss, happened=happened)
            if loss is not None:
                self._lost(loss)
        finally:
            self._ledger.release()
        return True

    def _about_to_lose(self, log: Log, rewrite: Rewrite) -> Loss | None:
        """What the sinks that have not had these rows will miss of them; noted before it happens, since a crash may come between."""
        gone, hit = self._ledger.gone(log.kind), {}
        for sink in self._ledger.sinks_of(log.kind):
            start = max(rewrite.first, self._ledger.cursor(log.kind, sink).acked)
            after = sum(end - first - gone.within(first, end) for first, end in rewrite.lost(start))
            rows = after - log.without_row(start, rewrite.next, gone)
            if start < rewrite.next and rows > 0:
                hit[sink] = rows
        run = rewrite.run
        if not hit:
            return None
        began, ended = run[0].first_commit_us, run[-1].last_commit_us
        return Loss(log.kind, rewrite.first, rewrite.next - 1, "downsampled", hit, began, ended)

    async def _remove(self, log: Log, segments: Sequence[Segment]) -> int:
        return await self._worker.run(lambda: log.remove(segments))
