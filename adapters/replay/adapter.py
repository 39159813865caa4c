"""The replay adapter: reads a recording piece by piece in a thread, and yields its rows when their time has come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import numpy as np
import pyarrow as pa

from adapters.base import START, AdapterContext, Mark
from schemas.errors import EndOfStream, NotConnected
from schemas.kinds import Kind

from .config import ReplayConfig
from .source import Recording, open_recording

T = TypeVar("T")
_MAX_ROWS: Final = 20_000
_ROWS_AT_ONCE: Final = 200_000
"""About so many rows are read from the recording at a time."""
_STEP_S: Final = 0.05
_FIRST_LOOK_US: Final = 60 * 10**6
_SHORTEST_LOOK_US: Final = 10**6
_LONGEST_LOOK_US: Final = 366 * 86_400 * 10**6


class ReplayAdapter:
    """Plays one recording. Each row once, also over a restart: it begins behind the rows of which the gateway says that they are durable."""

    def __init__(self, config: ReplayConfig, context: AdapterContext) -> None:
        self._config, self._context = config, context
        self._path = context.base / config.endpoint
        self._marks: dict[Kind, Mark] = {kind: context.reached.get(kind, START) for kind in config.data}
        self._recording: Recording | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._named: tuple[str, ...] = ()
        self._look_us = _FIRST_LOOK_US

    async def connect(self) -> None:
        """Open the files. Raises NotConnected where there are none (yet), ConfigError for what is no recording."""
        config, context = self._config, self._context
        self._recording = await self._run(lambda: open_recording(self._path, config.data, context.tags, context.name))
        missing = self._recording.missing
        if missing and missing != self._named:
            context.log.warning(
                "tags are not in the recording", adapter=context.name, tags=list(missing[:20]), count=len(missing)
            )
        self._named = missing

    async def batches(self) -> AsyncGenerator[pa.RecordBatch, None]:
        """Readings, and events where `data` names them, in the order of time; those of one time in the order of their tags."""
        recording = self._recording
        if recording is None:
            raise NotConnected(f"{self._path} is not open")
        loop = asyncio.get_running_loop()
        began, speed = loop.time(), self._config.speed
        # What another kind still owes from before is due at once.
        origin_us = max(recording.begin_us, *(mark.time_us for mark in self._marks.values()))
        at = max(recording.begin_us, min(mark.time_us for mark in self._marks.values()))
        while at <= recording.end_us:
            until = min(at + self._look_us, recording.end_us + 1)
            waiting = {kind: self._unseen(kind, await self._read(recording, kind, at, until)) for kind in self._marks}
            self._adapt(sum(batch.num_rows for batch in waiting.values()))
            times = {kind: batch.column("time").cast(pa.int64()).to_numpy() for kind, batch in waiting.items()}
            done = dict.fromkeys(waiting, 0)
            while any(done[kind] < len(times[kind]) for kind in times):
                now_us = until if speed == "max" else origin_us + round((loop.time() - began) * speed * 1e6)
                for kind, batch in waiting.items():
                    due = int(np.searchsorted(times[kind], now_us, side="right"))
                    while done[kind] < due:
                        rows = min(_MAX_ROWS, due - done[kind])
                        part = times[kind][done[kind] : done[kind] + rows]
                        yield batch.slice(done[kind], rows)
                        self._marks[kind] = self._marks[kind].followed_by(part)
                        done[kind] += rows
                left = [int(times[kind][done[kind]]) for kind in times if done[kind] < len(times[kind])]
                if left and speed != "max":
                    due_s = began + (min(left) - origin_us) / 1e6 / speed - loop.time()
                    await asyncio.sleep(max(_STEP_S, due_s))
            at = until
        raise EndOfStream(f"{self._path} has been played")

    async def aclose(self) -> None:
        """Let go of the files."""
        self._recording = None
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.shutdown(wait=False)

    def _unseen(self, kind: Kind, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Without the rows that the gateway has: everything before its mark, and as many with the mark's time as it counts."""
        mark = self._marks[kind]
        times = batch.column("time").cast(pa.int64()).to_numpy()
        before = int(np.searchsorted(times, mark.time_us))
        same = int(np.searchsorted(times, mark.time_us, side="right")) - before
        skip = before + min(same, mark.rows)
        return batch.slice(skip) if skip else batch

    def _adapt(self, rows: int) -> None:
        """Look further where there is little, less far where there is much."""
        factor = min(4.0, max(0.25, _ROWS_AT_ONCE / max(rows, 1)))
        self._look_us = min(_LONGEST_LOOK_US, max(_SHORTEST_LOOK_US, int(self._look_us * factor)))

    async def _read(self, recording: Recording, kind: Kind, from_us: int, to_us: int) -> pa.RecordBatch:
        return await self._run(lambda: _guarded(lambda: recording.rows(kind, from_us, to_us), str(self._path)))

    async def _run(self, work: Callable[[], T]) -> T:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"genba-replay-{self._context.name}")
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _guarded(work: Callable[[], T], name: str) -> T:
    try:
        return work()
    except (OSError, pa.ArrowException) as error:  # compacted or moved away meanwhile: connect looks anew
        raise NotConnected(f"{name} cannot be read: {error}") from error
