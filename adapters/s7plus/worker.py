"""A thread with an event loop of its own, for a library whose decoding may take long.

The library parses the names of all variables of a PLC in one go, seconds of Python for a large program; on the gateway's loop every other
device would wait for that.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Final, TypeVar

from schemas.errors import NotConnected

R = TypeVar("R")
_GRACE_S: Final = 0.25  # after a deadline: to notice it over there


class Worker:
    """Runs coroutines in its thread, one caller at a time. Made running; `aclose` ends it, and the thread calls `at_end` last."""

    def __init__(self, name: str, at_end: Callable[[], None]) -> None:
        self._at_end = at_end
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def run(self, work: Callable[[], Coroutine[object, object, R]], *, timeout_s: float) -> R:
        """The result of `work()`, cancelled after `timeout_s`. Raises NotConnected then, also where the thread is too busy to notice."""
        future: Future[R] = asyncio.run_coroutine_threadsafe(_limited(work, timeout_s), self._loop)
        try:
            async with asyncio.timeout(timeout_s + _GRACE_S):
                return await asyncio.wrap_future(future)
        except TimeoutError as error:
            raise NotConnected(f"no answer within {timeout_s:g} s") from error

    async def aclose(self) -> None:
        """End the thread with all that still runs in it; waits at most half a second for it. Idempotent."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end)
            await asyncio.to_thread(self._thread.join, 0.5)

    def _work(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._at_end()
            self._loop.run_until_complete(asyncio.sleep(0.01))  # sockets are closed by the loop
        finally:
            self._loop.close()

    def _end(self) -> None:
        self._loop.stop()


async def _limited(work: Callable[[], Coroutine[object, object, R]], timeout_s: float) -> R:
    async with asyncio.timeout(timeout_s):
        return await work()
