"""When rows and acknowledgements reach the disk, and when room is made: the loops of a running spool. For the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from schemas.clock import Clock
from schemas.kinds import Kind

from .codec import Decoder, Encoder
from .commit import COMMIT_ORDER, write
from .failures import Failures
from .ledger import Ledger
from .log import Log, SpoolFull
from .recent import Recent
from .retention import Retention
from .waiting import Waiting
from .worker import Worker

_RETRY_S: Final = (0.1, 2.0)


class Commits:
    """Group commits of what waits, the ledger a moment after it changed, and downsampling before room is short."""

    def __init__(
        self,
        waiting: Waiting,
        logs: Mapping[Kind, Log],
        ledger: Ledger,
        retention: Retention,
        worker: Worker,
        failures: Failures,
        *,
        clock: Clock,
        recent: Mapping[Kind, Recent],
        durable: Callable[[Kind, int, int], None],
        commit_every_s: float,
        ahead_bytes: int,
        collect_from_s: float,
    ) -> None:
        """`durable(kind, row, now_us)` is told what has become durable. Nothing is unlinked before the loop's time `collect_from_s`."""
        self.progress = 0
        """Rises whenever rows became durable, or could not be made durable; then `grown` is set, and is another event afterwards."""
        self.grown = asyncio.Event()
        self._waiting, self._logs, self._ledger, self._retention = waiting, logs, ledger, retention
        self._worker, self._failures, self._clock = worker, failures, clock
        self._recent, self._durable = recent, durable
        self._commit_every_s, self._ahead_bytes, self._collect_from_s = commit_every_s, ahead_bytes, collect_from_s
        self._encoder = Encoder(Decoder())
        self._work, self._urgent, self._retry, self._rolled = (asyncio.Event() for _ in range(4))
        self._first_s = 0.0
        self._finishing = False

    def wanted(self, *, now: bool) -> None:
        """Something waits; with `now` it is committed at once, else together with what comes until the oldest is due."""
        if not self._work.is_set():
            self._first_s = asyncio.get_running_loop().time()
            self._work.set()
        if now:
            self._urgent.set()

    def finish(self) -> None:
        """Let `for_ever` commit what there is and return, whether the disk takes it or not."""
        self._finishing = True
        for event in (self._work, self._urgent, self._retry):
            event.set()

    def bump(self) -> None:
        """Wake everybody who waits for progress."""
        self.progress += 1
        grown, self.grown = self.grown, asyncio.Event()
        grown.set()

    async def for_ever(self) -> None:
        """Commit until `finish`."""
        loop = asyncio.get_running_loop()
        pause_s = _RETRY_S[0]
        while True:
            await self._work.wait()
            wait_s = self._first_s + self._commit_every_s - loop.time()
            if wait_s > 0 and not self._finishing:
                await _wait_at_most(self._urgent, wait_s)
            self._urgent.clear()
            if await self._commit():
                pause_s = _RETRY_S[0]
                if not self._waiting:
                    self._work.clear()
                    if self._finishing:
                        return
                else:
                    self._first_s = loop.time()
            elif self._finishing:
                return
            else:
                self._retry.clear()
                await _wait_at_most(self._retry, pause_s)
                pause_s = min(2 * pause_s, _RETRY_S[1])

    async def keep_books(self) -> None:
        """Write the ledger a moment after it changed, then free what everybody has had."""
        loop = asyncio.get_running_loop()
        while True:
            await self._ledger.changed.wait()
            await asyncio.sleep(max(self._commit_every_s, 0.01))
            self._ledger.changed.clear()
            if not await self._ledger.try_save():
                self._ledger.changed.set()
                await asyncio.sleep(_RETRY_S[1] / 4)
            elif loop.time() >= self._collect_from_s and await self._retention.collect():
                self._retry.set()

    async def make_room_ahead(self) -> None:
        """Downsample whenever a segment was closed and the next ones would not fit."""
        while True:
            await self._rolled.wait()
            self._rolled.clear()
            if asyncio.get_running_loop().time() >= self._collect_from_s:
                await self._retention.ahead(self._ahead_bytes)

    async def _commit(self) -> bool:
        """One round over all kinds; False when something could not be written."""
        now = self._clock.now_us()
        taken = {kind: puts for kind in COMMIT_ORDER if (puts := self._waiting.all(kind))}
        segments = sum(len(log.segments) for log in self._logs.values())
        stored, error = await self._worker.run(lambda: write(taken, now, self._logs, self._encoder))
        for kind, encoded in stored:
            self._recent[kind].add(encoded.record.first, encoded.batch, encoded.record.raw)
        for kind in dict.fromkeys(kind for kind, _ in stored):
            self._durable(kind, self._logs[kind].next, now)
            self._waiting.done(kind, self._logs[kind].next)
        if sum(len(log.segments) for log in self._logs.values()) != segments:
            self._ledger.changed.set()  # something was closed: it may be free to go
            self._rolled.set()
        if isinstance(error, SpoolFull) and await self._retention.make_room(error.size):
            self.bump()
            return await self._commit()
        self._failures.set("commit", error)
        self.bump()
        return error is None


async def _wait_at_most(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
