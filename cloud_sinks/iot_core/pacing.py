"""Keeps to a rate: so many messages and so many bytes a second, as the service allows a connection."""

from __future__ import annotations

import asyncio


class Pace:
    """Two token buckets that hold a second's worth. The loop's time is their clock."""

    def __init__(self, messages_per_s: float, bytes_per_s: float) -> None:
        self._rates = (messages_per_s, bytes_per_s)
        self._left = (messages_per_s, bytes_per_s)
        self._at: float | None = None

    async def take(self, size: int) -> None:
        """Wait until one message of `size` bytes may be sent. One larger than a second's worth waits for a full bucket."""
        wait_s = self.wait_s(size)
        while wait_s > 0.0:
            await asyncio.sleep(wait_s)
            wait_s = self.wait_s(size)

    def wait_s(self, size: int) -> float:
        """Seconds until a message of `size` bytes may be sent; with 0 it counts as sent."""
        now = asyncio.get_running_loop().time()
        passed = 0.0 if self._at is None else now - self._at
        self._at = now
        (message_rate, byte_rate), (messages, bytes_) = self._rates, self._left
        messages = min(message_rate, messages + message_rate * passed)
        bytes_ = min(byte_rate, bytes_ + byte_rate * passed)
        wait_s = max((1.0 - messages) / message_rate, (min(float(size), byte_rate) - bytes_) / byte_rate)
        if wait_s <= 1e-9:  # what adding up many small steps may lose
            messages, bytes_, wait_s = messages - 1.0, bytes_ - size, 0.0
        self._left = (messages, bytes_)
        return wait_s
