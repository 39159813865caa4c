"""The wall clock that every room is given. Never `time.time()`: virtual time and clock steps are tested."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Wall time. Waiting is done with asyncio on the loop's own clock, which tests may make virtual too."""

    def now_us(self) -> int:
        """µs since 1970-01-01 UTC. May step in either direction when the operating system's clock is set."""
        ...
