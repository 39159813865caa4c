"""The wall clock of the machine, and the watch over it: clocks of plant machines step, drift and are sometimes never set."""

from __future__ import annotations

import time

from schemas.clock import Clock


class WallClock:
    """The operating system's clock, µs UTC."""

    def now_us(self) -> int:
        """µs since 1970-01-01 UTC."""
        return time.time_ns() // 1000


class ClockWatch:
    """Notices that the wall clock was set, by holding it against a clock that nobody sets.

    `check(steady_s)` is called every second or so with the event loop's time and returns the step in seconds since the last
    call, 0.0 while both clocks agree within `tolerance_s`.
    """

    def __init__(self, clock: Clock, *, tolerance_s: float = 1.0) -> None:
        self._clock, self._tolerance_s = clock, tolerance_s
        self._last: tuple[float, float] | None = None
        self.steps = 0

    def check(self, steady_s: float) -> float:
        """Seconds by which the wall clock was set since the last call (negative: back)."""
        wall_s = self._clock.now_us() / 1e6
        last, self._last = self._last, (steady_s, wall_s)
        if last is None:
            return 0.0
        step = (wall_s - last[1]) - (steady_s - last[0])
        if abs(step) <= self._tolerance_s:
            return 0.0
        self.steps += 1
        return step


EARLIEST_PLAUSIBLE_US = 1_735_689_600_000_000
"""2025-01-01: a wall clock before this has never been set since the machine was powered on."""


def looks_unset(now_us: int) -> bool:
    """True when the clock shows a time from before this software existed: battery empty, no time server."""
    return now_us < EARLIEST_PLAUSIBLE_US
