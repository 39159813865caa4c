"""The drift-free schedule of polling adapters: slot n of a scan class is due at t0 + n*period, whatever a poll took."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Sequence


class Schedule:
    """Several scan classes on one connection, phase-staggered so that they don't fall due together.

    `next()` sleeps until the next slot and says which class it is. A slot that has passed while a poll was still under way is
    skipped and counted in `overruns`, never queued. Times are the event loop's (monotonic, virtual in simulations).
    """

    def __init__(self, periods_us: Sequence[int]) -> None:
        """`periods_us` in µs, one per scan class, each greater than 0."""
        if not periods_us or min(periods_us) <= 0:
            raise ValueError(f"every scan class needs a period above 0: {list(periods_us)}")
        self._periods = [period / 1e6 for period in periods_us]
        self._origins: list[float] = []  # slot n > 0 of a class is due at origin + n*period
        self._due: list[tuple[float, int, int]] = []  # (due, class, n)
        self.overruns = [0] * len(self._periods)

    def start(self) -> None:
        """Slot 0 of every class is due now, later slots spread over the shortest period."""
        now = asyncio.get_running_loop().time()
        spread = min(self._periods) / len(self._periods)
        self._origins = [now + index * spread for index in range(len(self._periods))]
        self._due = [(now, index, 0) for index in range(len(self._periods))]

    async def next(self) -> int:
        """Sleep until a slot is due; returns the index of its scan class. Where it is cancelled no slot is lost."""
        if not self._due:
            self.start()
        due, index, n = self._due[0]
        loop = asyncio.get_running_loop()
        period, origin = self._periods[index], self._origins[index]
        await asyncio.sleep(max(0.0, due - loop.time()))
        late = int((loop.time() - due) / period)
        if late > 0:  # whole slots have passed: this poll stands for the newest one
            self.overruns[index] += late
            n += late
        heapq.heapreplace(self._due, (origin + (n + 1) * period, index, n + 1))
        return index
