"""Connections without sockets: what an adapter sends goes to a function, and that function says what comes back and when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from tests.fuzz.harness import Violation
from tests.simulation.loop import VirtualLoop

T = TypeVar("T")


class Wire(asyncio.Transport):
    """One end of a connection; the other end is `peer`, called with each write. `deliver` brings bytes to the protocol."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol, peer: Callable[[Wire, bytes], None]) -> None:
        super().__init__()
        self._loop, self._protocol, self._peer = loop, protocol, peer
        self._closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._closing:
            self._peer(self, bytes(data))

    def deliver(self, data: bytes) -> None:
        """On a later turn of the loop, unless the connection is closed before."""
        self._loop.call_soon(self._deliver, data)

    def hang_up(self) -> None:
        """As the other side, behind everything that was delivered."""
        self._loop.call_soon(self.close)

    def _deliver(self, data: bytes) -> None:
        if not self._closing:
            self._protocol.data_received(data)

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Datagrams(Wire):
    """The same for datagrams."""

    def sendto(self, data: bytes, addr: object = None) -> None:
        self.write(data)

    def _deliver(self, data: bytes) -> None:
        if not self._closing:
            self._protocol.datagram_received(data, ("127.0.0.1", 502))  # type: ignore[attr-defined]


class WireLoop(VirtualLoop):
    """A loop in virtual time on which every connection is a `Wire` to `peer`; what its callbacks raise is a Violation."""

    def __init__(self) -> None:
        super().__init__()
        self.peer: Callable[[Wire, bytes], None] = lambda wire, data: None
        self.broken: list[BaseException] = []
        self.set_exception_handler(self._note)

    async def create_connection(self, protocol_factory: Any, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        """Succeeds."""
        protocol = protocol_factory()
        wire = Wire(self, protocol, self.peer)
        protocol.connection_made(wire)
        return wire, protocol

    async def create_datagram_endpoint(self, protocol_factory: Any, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        """Succeeds; each chunk that the peer delivers is a datagram."""
        protocol = protocol_factory()
        wire = Datagrams(self, protocol, self.peer)
        protocol.connection_made(wire)
        return wire, protocol

    def _note(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.broken.append(context.get("exception") or Violation(context["message"]))

    def run(self, peer: Callable[[Wire, bytes], None], work: Coroutine[Any, Any, T]) -> T:
        """The result of `work` against `peer`. Raises Violation when it leaves a task behind."""
        self.peer, self.broken = peer, []
        try:
            return self.run_until_complete(work)
        finally:
            left = asyncio.all_tasks(self)
            for task in left:
                task.cancel()
            if left:
                self.run_until_complete(asyncio.gather(*left, return_exceptions=True))
                raise Violation(f"left behind: {left}")
            self.run_until_complete(asyncio.sleep(0))
            if self.broken:
                raise self.broken[0]


def replying(answers: list[list[bytes]], *, hang_up: bool = False) -> Callable[[Wire, bytes], None]:
    """A peer that answers its nth message with the nth list of chunks, and says nothing after the last one."""
    number = 0

    def peer(wire: Wire, _: bytes) -> None:
        nonlocal number
        for chunk in answers[number] if number < len(answers) else ():
            wire.deliver(chunk)
        number += 1
        if hang_up and number == len(answers):
            wire.hang_up()

    return peer
