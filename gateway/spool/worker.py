"""One dedicated thread for blocking work, awaited from the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

R = TypeVar("R")


class Worker(Protocol):
    """Runs blocking functions one after the other, in the order in which `run` was called."""

    async def run(self, work: Callable[[], R]) -> R:
        """The result of `work()`. Work that has begun is finished even when the caller is cancelled."""
        ...

    def close(self) -> None:
        """No more work comes."""
        ...


class ThreadWorker:
    """A thread of its own."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def run(self, work: Callable[[], R]) -> R:
        """See `Worker.run`."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def close(self) -> None:
        """See `Worker.close`."""
        self._executor.shutdown(wait=False)


class InlineWorker:
    """Works at once, on the loop: for simulations in virtual time over a storage in memory."""

    async def run(self, work: Callable[[], R]) -> R:
        """See `Worker.run`."""
        return work()

    def close(self) -> None:
        """See `Worker.close`."""
