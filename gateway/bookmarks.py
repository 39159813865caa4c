"""Notes how far the rows of a replayed source are durable, so that after a crash it goes on behind them: no row lost, none twice.

A bookmark is a named cursor of the spool's ledger. It says up to which place of the source the rows before its own row reach; what came
behind it is still in the spool, and is read from there at the next start. So it may be written late and never has to be exact.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from adapters.base import START, Mark, replay_mark
from schemas.kinds import Kind, Origin

if TYPE_CHECKING:
    from .collector import Put
    from .spool import Spool

_KINDS: Final[tuple[Kind, ...]] = ("telemetry", "event")
_PREFIX: Final = "adapter "
_ROWS_AT_ONCE: Final = 50_000
_LAZY_ROWS: Final = 10_000
"""A bookmark of a source that says nothing moves along when so many rows of others lie behind it: it holds them back."""


def bookmark_name(adapter: str) -> str:
    """The named cursor of an adapter."""
    return f"{_PREFIX}{adapter}"


class _Put(NamedTuple):
    first: int
    end: int
    mark: Mark


class Bookmark:
    """How far one source has been read. `restore` before it is opened, then `through` for its rows and `save` from time to time."""

    def __init__(self, adapter: str, source: str, tag_ids: Sequence[int], spool: Spool) -> None:
        """`source` is its endpoint: at another one, everything begins anew."""
        self.name = bookmark_name(adapter)
        self._source = f"{zlib.crc32(source.encode()):08x}"
        self._ids = np.array(sorted(tag_ids), dtype=np.int32)
        self._words = replay_mark(adapter)
        self._spool = spool
        self._mark = dict.fromkeys(_KINDS, START)  # with everything that was put
        self._settled = dict.fromkeys(_KINDS, START)  # with what is known to be durable
        self._saved: dict[Kind, tuple[int, Mark]] = {}
        self._waiting: dict[Kind, deque[_Put]] = {kind: deque() for kind in _KINDS}

    @property
    def reached(self) -> Mapping[Kind, Mark]:
        """Where the rows that were put end in the source, by kind. A view: it moves along."""
        return MappingProxyType(self._mark)

    async def restore(self) -> None:
        """Find where the durable rows end in the source, and hold the rows to come."""
        ledger = self._spool.ledger
        for kind in _KINDS:
            end = self._spool.durable(kind)
            pin = ledger.pin_of(kind, self.name)
            mark = None if pin is None else self._parse(pin.note)
            if pin is not None and mark is not None:
                row = pin.row
                while row < end:
                    read = await self._spool.read(kind, row, max_rows=_ROWS_AT_ONCE, last=end - 1)
                    if not read:
                        break
                    for first, batch in read:
                        times = self._times(kind, batch)
                        mark = mark.followed_by(times) if len(times) else mark
                        row = first + batch.num_rows
            self._mark[kind] = self._settled[kind] = mark or START
            await self._pin(kind, end)

    def through(self, put: Put) -> Put:
        """`put` for this source: what goes through it is noted."""

        async def noted(kind: Kind, batch: pa.RecordBatch) -> int:
            first = await put(kind, batch)
            if kind in self._mark:
                times = self._times(kind, batch)
                if len(times):
                    self._mark[kind] = self._mark[kind].followed_by(times)
                    self._waiting[kind].append(_Put(first, first + batch.num_rows, self._mark[kind]))
            return first

        return noted

    async def save(self) -> None:
        """Move the bookmark up to what is durable. On disk when it returns."""
        for kind in _KINDS:
            waiting, end = self._waiting[kind], self._spool.durable(kind)
            while waiting and waiting[0].end <= end:
                self._settled[kind] = waiting.popleft().mark
            row = min(end, waiting[0].first) if waiting else end  # rows of others before them may not be durable either
            row_before, mark_before = self._saved[kind]
            if self._settled[kind] != mark_before or row - row_before >= _LAZY_ROWS:
                await self._pin(kind, row)

    async def _pin(self, kind: Kind, row: int) -> None:
        mark = self._settled[kind]
        note = json.dumps([self._source, mark.time_us, mark.rows])
        await self._spool.ledger.pin(kind, self.name, row, note)
        self._saved[kind] = (row, mark)

    def _parse(self, note: str) -> Mark | None:
        source, time_us, rows = json.loads(note)
        return Mark(time_us, rows) if source == self._source else None

    def _times(self, kind: Kind, batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
        """Times (µs) of the rows that come from this source."""
        times: npt.NDArray[np.int64] = batch.column("time").cast(pa.int64()).to_numpy()
        if kind == "event":
            found = pc.match_substring(batch.column("attributes"), self._words)
            mine = pc.fill_null(found, False).to_numpy(zero_copy_only=False)
        else:
            replayed = pc.equal(pc.fill_null(batch.column("origin"), int(Origin.LIVE)), int(Origin.REPLAY))
            mine = replayed.to_numpy(zero_copy_only=False) & np.isin(batch.column("tag").to_numpy(), self._ids)
        selected: npt.NDArray[np.int64] = times[mine]
        return selected


async def restore(bookmarks: Sequence[Bookmark], spool: Spool) -> None:
    """Restore each; those of sources that are no more hold nothing back any longer."""
    for name in spool.ledger.pins:
        if name.startswith(_PREFIX) and name not in {bookmark.name for bookmark in bookmarks}:
            await spool.ledger.forget(name)
    for bookmark in bookmarks:
        await bookmark.restore()


async def keep(bookmarks: Sequence[Bookmark], every_s: float = 1.0) -> None:
    """Save them from time to time, until cancelled."""
    while True:
        await asyncio.sleep(every_s)
        for bookmark in bookmarks:
            await bookmark.save()
