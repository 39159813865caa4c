"""Which addresses of one table a device answers, found with few requests and no knowledge of the device.

Where addresses are there, they are read in the longest requests that the device takes. Where a request is refused, every `step`-th
address is tried alone, and around each one that is there the borders are found by halving: a stretch shorter than `step` between two
tries is missed. Whether a request failed at a border, at a gap or because it was too long is told apart by asking for the next
address alone, and then for as many addresses one further on.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

LONGEST: Final = {1: 2000, 2: 2000, 3: 125, 4: 125}
"""What the protocol allows in one request, by function code."""

Ask = Callable[[int, int], Awaitable[bytes | int]]
"""Read `count` addresses from `start`: the data bytes, or the exception code of the refusal."""


class Survey:
    """What was found in one table. `walk` fills it; what has been found stands also when that is cut off by an exception of `ask`."""

    def __init__(self, ask: Ask, function: int, step: int) -> None:
        self._ask, self._bits, self._step = ask, function in (1, 2), step
        self.most = LONGEST[function]
        """Addresses that the device answers in one request, as far as is known."""
        self.limited = False
        """`most` was found out to be a limit of the device."""
        self.longest = 0
        """Addresses of the longest request that was answered."""
        self.values: dict[int, int] = {}
        """Registers, or bits, by address, as they were read last."""
        self.codes: Counter[int] = Counter()
        """How often the device refused, by exception code."""
        self.reached = 0
        """The first address that was not looked at."""

    async def walk(self, start: int, end: int) -> None:
        """Look at the addresses from `start` to before `end`."""
        at = start
        decided = start - 1  # the last address about which all is known
        dense = True  # a long request is worth trying
        while at < end:
            self.reached = at
            if dense:
                count = min(self.most, end - at)
                if await self._there(at, count):
                    at, decided = at + count, at + count - 1
                    continue
                dense = False
            if not await self._there(at, 1):
                decided, at = at, (at // self._step + 1) * self._step
                continue
            await self._left(decided + 1, at)
            behind = await self._right(at, end)
            dense = True
            if behind < end and behind - at < self.most:
                if not await self._there(behind, 1):
                    dense, decided, at = False, behind, behind + 1
                    continue
                if await self._there(at + 1, behind - at):  # as many, from another start: it is their number
                    self.most, self.limited = behind - at, True
            decided, at = behind - 1, behind
        self.reached = end

    def stretches(self) -> list[tuple[int, int]]:
        """What can be read, as (start, end), without `end`."""
        found: list[tuple[int, int]] = []
        for address in sorted(self.values):
            if found and found[-1][1] == address:
                found[-1] = (found[-1][0], address + 1)
            else:
                found.append((address, address + 1))
        return found

    async def _right(self, at: int, end: int) -> int:
        """The first address behind `at` to which one request does not reach from there."""
        low, most = 1, min(self.most, end - at)  # `low` addresses are answered
        size = 2
        while size < most and await self._there(at, size):
            low, size = size, size * 2
        if size >= most and await self._there(at, most):
            return at + most
        high = min(size, most)  # so many are not
        while high - low > 1:
            middle = (low + high) // 2
            if await self._there(at, middle):
                low = middle
            else:
                high = middle
        return at + low

    async def _left(self, lowest: int, at: int) -> int:
        """The lowest address from which one request reaches to `at`."""
        low, high = max(lowest, at + 1 - self.most), at
        while low < high:
            middle = (low + high) // 2
            if await self._there(middle, at + 1 - middle):
                high = middle
            else:
                low = middle + 1
        return high

    async def _there(self, start: int, count: int) -> bool:
        answer = await self._ask(start, count)
        if isinstance(answer, int):
            self.codes[answer] += 1
            return False
        self.longest = max(self.longest, count)
        if self._bits:
            self.values.update({start + n: answer[n // 8] >> n % 8 & 1 for n in range(count)})
        else:
            self.values.update(enumerate(struct.unpack(f">{count}H", answer), start))
        return True
