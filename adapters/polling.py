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
        self._t0 = 0.0
        self._due: list[tuple[float, int, int]] = []  # (due, class, n)
        self.overruns = [0] * len(self._periods)

    def start(self) -> None:
        """Slot 0 of every class is due now, later slots spread over the shortest period."""
        self._t0 = asyncio.get_running_loop().time()
        spread = min(self._periods) / len(self._periods)
        self._due = [(self._t0 + i * spread, i, 0) for i in range(len(self._periods))]
        heapq.heapify(self._due)

    async def next(self) -> int:
        """Sleep until a slot is due; returns the index of its scan class."""
        if not self._due:
            self.start()
        due, index, n = heapq.heappop(self._due)
        loop = asyncio.get_running_loop()
        period = self._periods[index]
        origin = due - n * period
        late = int((loop.time() - due) / period)
        if late > 0:  # whole slots have passed: take the newest one
            self.overruns[index] += late
            n += late
            due = origin + n * period
        await asyncio.sleep(max(0.0, due - loop.time()))
        heapq.heappush(self._due, (origin + (n + 1) * period, index, n + 1))
        return index
