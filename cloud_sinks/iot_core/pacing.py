"""Keeps to a rate: so many messages and so many bytes a second, as the service allows a connection."""

from __future__ import annotations

import asyncio


class Pace:
    """Two token buckets that hold a second's worth. The loop's time is their clock."""

    def __init__(self, messages_per_s: float, bytes_per_s: float) -> None:
        self._rates = (messages_per_s, bytes_per_s)
        self._left = [messages_per_s, bytes_per_s]
        self._at: float | None = None

    async def take(self, size: int) -> None:
        """Wait until one message of `size` bytes may be sent. One larger than a second's worth waits for a full bucket."""
        loop = asyncio.get_running_loop()
        wanted = (1.0, min(float(size), self._rates[1]))
        while True:
            now = loop.time()
            passed = 0.0 if self._at is None else now - self._at
            self._at = now
            self._left = [min(rate, left + rate * passed) for rate, left in zip(self._rates, self._left, strict=True)]
            # A billionth is what adding up many small steps may lose.
            wait_s = max((want - left) / rate for want, left, rate in zip(wanted, self._left, self._rates, strict=True))
            if wait_s <= 1e-9:
                self._left = [left - want for left, want in zip(self._left, (1.0, float(size)), strict=True)]
                return
            await asyncio.sleep(wait_s)
