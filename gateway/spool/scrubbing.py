"""Reads what nobody has asked for yet: closed segments are checked record by record, slowly, so that damage is known before it hurts.

A start looks at footers only. What the scrub finds is put aside, counted and told as by any other read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Final

from schemas.kinds import PRIORITY, Kind

from . import format as f
from .log import Log
from .segment import Segment, load_entries
from .storage import Storage, read_patiently
from .worker import Worker

_AGAIN_S: Final = 600.0  # between two looks for segments that were closed since


class Scrub:
    """Every closed segment once in the life of the process, alerts first."""

    def __init__(
        self,
        logs: Mapping[Kind, Log],
        worker: Worker,
        *,
        storage: Storage,
        look: Callable[[Kind, int], Awaitable[None]],
        pause_s: float,
    ) -> None:
        """`look(kind, row)` reads a row that is damaged, as a sink would. `pause_s` passes between two segments."""
        self.segments = self.damaged = 0
        """Segments checked and damaged records found since the start."""
        self._logs, self._worker, self._storage, self._look, self._pause_s = logs, worker, storage, look, pause_s

    async def for_ever(self) -> None:
        """Until cancelled."""
        while True:
            found = next(self._unchecked(), None)
            await asyncio.sleep(_AGAIN_S if found is None else self._pause_s)
            if found is not None:
                await self._check(*found)

    def _unchecked(self) -> Iterator[tuple[Kind, Segment]]:
        for kind in PRIORITY:
            for segment in self._logs[kind].closed:
                if not segment.checked and not segment.lost:
                    yield kind, segment

    async def _check(self, kind: Kind, segment: Segment) -> None:
        segment.checked = True
        try:
            damaged = await self._worker.run(lambda: self._damaged(segment))
        except OSError:
            return  # removed meanwhile, or the disk does not answer: reading will tell
        self.segments += 1
        self.damaged += len(damaged)
        for row in damaged:
            await self._look(kind, row)

    def _damaged(self, segment: Segment) -> list[int]:
        """The first rows of records that are not what was written. Blocking."""
        damaged = []
        entries = segment.entries
        for entry in load_entries(self._storage, segment) if entries is None else list(entries):
            fd = self._storage.open(segment.path)
            try:
                data = read_patiently(self._storage, fd, entry.size, entry.offset)
            except OSError:
                data = b""
            finally:
                self._storage.close(fd)
            found = f.read_record(data, 0)
            if (found is None or found[0].first != entry.first) and entry.first not in segment.bad:
                damaged.append(entry.first)
        return damaged
