"""When segments go: as soon as everybody has had their rows; before that only when the budget is used up, and then by rule.

The ledger is on disk before any unlink: a crash between the two leaves a file too many, never a row too few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from schemas.kinds import PRIORITY, Kind

from .ledger import Ledger
from .ledger_file import LEDGER_BYTES
from .log import Log
from .segment import Segment
from .spans import Spans
from .worker import Worker

WhenFull = Literal["downsample", "drop_oldest", "block"]
EVICTION: Final[tuple[Kind, ...]] = tuple(reversed(PRIORITY))
"""The order in which kinds are given up: bulk first, alerts last."""

KEPT_BYTES: Final[Mapping[Kind, int]] = {"alert": 4 << 20}
"""What is kept although everybody has had it: the alarm layer reads its own past at start."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Rows `first` … `last` of a kind that are no more, for a gap row. `sinks` had not had so many of them.

    `time_us` … `end_us` is when they came. `cause` is dropped (the budget, on purpose) or quarantined (damage).
    """

    kind: Kind
    first: int
    last: int
    cause: Literal["dropped", "quarantined"]
    sinks: Mapping[str, int]
    time_us: int
    end_us: int


class Retention:
    """Frees segments of all logs. For the event loop, except `allows`."""

    def __init__(
        self,
        logs: Mapping[Kind, Log],
        ledger: Ledger,
        worker: Worker,
        *,
        max_bytes: int | None,
        reserve_bytes: int,
        when_full: Mapping[Kind, WhenFull],
        lost: Callable[[Loss], None],
    ) -> None:
        """`reserve_bytes` stay free for rewriting a segment. A kind that `when_full` does not name drops its oldest rows."""
        self._logs, self._ledger, self._worker = logs, ledger, worker
        self._max_bytes, self._reserve = max_bytes, reserve_bytes
        self._when_full, self._lost = when_full, lost

    def used_bytes(self) -> int:
        """Bytes of all segments and the ledger."""
        return sum(log.size_bytes for log in self._logs.values()) + LEDGER_BYTES

    def allows(self, size: int) -> bool:
        """Whether the budget has room for a new segment of `size` bytes. Any thread."""
        return self._max_bytes is None or self.used_bytes() + size + self._reserve <= self._max_bytes

    async def collect(self) -> int:
        """Unlink the closed segments that every sink and named cursor has passed; returns the bytes freed.

        Rows of a kind that nobody reads have been passed by everybody.
        """
        freed = 0
        for kind, log in self._logs.items():
            needed = self._ledger.needed(kind)
            limit = log.next if needed is None else needed
            passed = [segment for segment in log.closed if segment.next <= limit]
            kept = sum(segment.bytes for segment in passed)
            gone: list[Segment] = []
            for segment in passed:
                kept -= segment.bytes
                if kept < KEPT_BYTES.get(kind, 0):
                    break
                gone.append(segment)
            if gone:
                freed += await self._remove(log, gone)
        return freed

    async def make_room(self, size: int) -> bool:
        """Free segments until `allows(size)`; False when that is not possible by the rules, or not now.

        First what everybody has had, then what nobody reads, then the oldest rows of the kinds that may be dropped. Rows of a cut in flight
        stay: the sink may have them, and must get the same ones again.
        """
        await self.collect()
        while not self.allows(size):
            found = next(self._victims(), None)
            if found is None:
                return False
            log, segment = found
            already = Spans(self._ledger.gone(log.kind)).missing_from(segment.first, segment.next)
            hit = self._ledger.give_up(log.kind, segment.first, segment.next)
            if not await self._ledger.try_save():
                return False
            if hit:
                for first, end in already:
                    self._lost(
                        Loss(log.kind, first, end - 1, "dropped", dict(hit), segment.first_commit_us, segment.last_commit_us)
                    )
            await self._remove(log, [segment])
        return True

    def _victims(self) -> Iterator[tuple[Log, Segment]]:
        unread = [kind for kind in EVICTION if self._ledger.needed(kind) is None]
        # Until downsampling is there, `downsample` gives up what it would have thinned.
        droppable = [kind for kind in EVICTION if kind not in unread and self._when_full.get(kind, "drop_oldest") != "block"]
        for kind in (*unread, *droppable):
            cuts = self._ledger.cuts(kind)
            for segment in self._logs[kind].closed:
                if not any(cut.first < segment.next and segment.first <= cut.last for cut in cuts):
                    yield self._logs[kind], segment
                    break

    async def _remove(self, log: Log, segments: list[Segment]) -> int:
        return await self._worker.run(lambda: log.remove(segments))
