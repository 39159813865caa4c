"""One thread for the blocking work of one sink."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class OneThread:
    """Runs pieces of work one after the other, in a thread that is made when there is work and ends with `aclose`.

    A caller that is cancelled leaves its piece running: the next one waits for it, so that two never meet.
    """

    def __init__(self, name: str) -> None:
        """`name` is the thread's, for people who look at the process."""
        self._name = name
        self._pool: ThreadPoolExecutor | None = None

    async def run(self, work: Callable[[], T]) -> T:
        """`work()` in the thread; raises what it raises."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix=self._name)
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def aclose(self, last: Callable[[], object]) -> None:
        """Let the piece under way finish, run `last` behind it, and let the thread go. Where there is none, nothing happens."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            await asyncio.get_running_loop().run_in_executor(pool, last)
        finally:
            pool.shutdown(wait=False)
