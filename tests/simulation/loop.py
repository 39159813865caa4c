"""A loop whose clock jumps to the next timer: a week passes in the time that its work takes, over real sockets.

Whatever is ready is done first. Sockets are asked without waiting; what runs in a thread is waited for in real time, because
the clock must not run ahead of it. So both ends of a connection must live in this loop, or answer through a thread of it.
"""

from __future__ import annotations

import asyncio
import heapq
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from schemas.clock import Clock

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module. `time()` begins at 1000."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 1000.0
        self._at_work = 0  # jobs in threads

    def time(self) -> float:
        """Virtual seconds."""
        return self._now

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        """As the loop's; the clock stands still meanwhile."""
        self._at_work += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._done)
        return future

    def _done(self, _: object) -> None:
        self._at_work -= 1

    def _run_once(self) -> None:
        if not self._ready and not self._at_work:  # type: ignore[attr-defined]
            self._process_events(self._selector.select(0))  # type: ignore[attr-defined]
            timers = self._scheduled  # type: ignore[attr-defined]
            while timers and timers[0].cancelled():  # as the loop does; the clock must not jump to what nobody waits for
                self._timer_cancelled_count -= 1  # type: ignore[attr-defined]
                heapq.heappop(timers)._scheduled = False
            if not self._ready and timers:  # type: ignore[attr-defined]
                self._now = max(self._now, timers[0].when())
        self._now += 1e-9  # work takes time: whoever waits for a rest that is lost in rounding would spin for ever
        super()._run_once()  # type: ignore[misc]


class VirtualClock(Clock):
    """The wall clock that goes with the loop. Begins at the machine's time: servers in the loop may show that one."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._began, self._start_us = loop, loop.time(), time.time_ns() // 1000

    def now_us(self) -> int:
        """µs since 1970."""
        return self._start_us + round((self._loop.time() - self._began) * 1e6)


def in_virtual_time(test: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run `test()` on a loop of its own."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(test())


def closed_port() -> int:
    """A port of loopback on which nobody listens: a connection to it is refused at once."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
