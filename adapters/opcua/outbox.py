"""What the session has for the gateway: a bounded queue that gives up data rather than hold up the protocol."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

import pyarrow as pa
import structlog

from schemas.clock import Clock
from schemas.kinds import make_batch

MAX_ROWS: Final = 200_000


class Outbox:
    """Batches in order. `put` never waits: above `max_rows` a batch is dropped and counted, and a gap row tells of it."""

    def __init__(self, source: str, clock: Clock, log: structlog.stdlib.BoundLogger, max_rows: int = MAX_ROWS) -> None:
        self._source, self._clock, self._log, self._max_rows = source, clock, log, max_rows
        self._batches: deque[pa.RecordBatch] = deque()
        self._rows = 0
        self._wake = asyncio.Event()
        self._error: BaseException | None = None
        self._dropped_rows = 0
        self._dropped_since_us = 0

    @property
    def rows(self) -> int:
        """Rows that wait."""
        return self._rows

    def put(self, batch: pa.RecordBatch | None) -> None:
        """Append a batch; None is nothing. Dropped and counted when the queue is full."""
        if batch is None:
            return
        if self._rows and self._rows + batch.num_rows > self._max_rows:
            if not self._dropped_rows:
                self._dropped_since_us = self._clock.now_us()
                self._log.warning("values are dropped: the gateway takes them too slowly", adapter=self._source)
            self._dropped_rows += batch.num_rows
            return
        if self._dropped_rows:
            self._end_of_drop()
        self._append(batch)

    def fail(self, error: BaseException) -> None:
        """No more batches: `get` raises `error` behind the last one."""
        self._error = error
        self._wake.set()

    async def get(self) -> pa.RecordBatch:
        """The next batch; waits for one. Raises what `fail` was given."""
        while not self._batches:
            if self._dropped_rows:
                self._end_of_drop()
            elif self._error is not None:
                raise self._error
            else:
                self._wake.clear()
                await self._wake.wait()
        batch = self._batches.popleft()
        self._rows -= batch.num_rows
        return batch

    def _end_of_drop(self) -> None:
        now = self._clock.now_us()
        gap = make_batch(
            "gap", 1, time=self._dropped_since_us, end=now, source=self._source, cause="overflow", rows=self._dropped_rows
        )
        self._log.info("values are taken again", adapter=self._source, dropped_rows=self._dropped_rows)
        self._dropped_rows = 0
        self._append(gap)

    def _append(self, batch: pa.RecordBatch) -> None:
        self._batches.append(batch)
        self._rows += batch.num_rows
        self._wake.set()
