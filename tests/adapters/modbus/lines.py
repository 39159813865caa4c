"""RTU devices on a pseudo terminal or behind a TCP socket: every answer is a function of the request, and may come late."""

from __future__ import annotations

import asyncio
import os
import struct
import tty
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from pymodbus.framer.rtu import FramerRTU

from tests.adapters.modbus.devices import Request, pdu


def rtu(request: Request, answer: bytes, *, unit: int | None = None) -> bytes:
    """The answer in its frame."""
    body = bytes((request.unit if unit is None else unit,)) + answer
    return body + FramerRTU.compute_CRC(body).to_bytes(2, "big")


def honest(request: Request) -> bytes | None:
    """Every unit has registers that hold their own address."""
    return rtu(request, pdu(request))


@dataclass
class Line:
    """Several devices on one line. `answer` returns bytes or None for silence; `delay_s` is asked for each answer."""

    answer: Callable[[Request], bytes | None] = honest
    delay_s: Callable[[Request], float] = lambda _request: 0.0
    requests: list[Request] = field(default_factory=list)
    endpoint: str = ""
    overlaps: int = 0
    """Requests that came while an answer was still to come."""
    _received: bytes = b""
    _busy: int = 0

    def take(self, data: bytes, write: Callable[[bytes], object]) -> None:
        """Bytes from the master."""
        self._received += data
        while len(self._received) >= 8:
            unit, function, start, count = struct.unpack(">BBHH", self._received[:6])
            self._received = self._received[8:]
            request = Request(0, unit, function, start, count)
            self.requests.append(request)
            self.overlaps += self._busy > 0
            answer = self.answer(request)
            if answer is not None:
                self._busy += 1
                asyncio.get_running_loop().call_later(self.delay_s(request), self._send, write, answer)

    def _send(self, write: Callable[[bytes], object], answer: bytes) -> None:
        self._busy -= 1
        with suppress(OSError):  # nobody listens any more
            write(answer)


@asynccontextmanager
async def on_pty(line: Line) -> AsyncIterator[Line]:
    """The line as a serial device of this machine."""
    master, slave = os.openpty()
    tty.setraw(master)
    tty.setraw(slave)
    os.set_blocking(master, False)
    line.endpoint = f"rtu:{os.ttyname(slave)}"
    loop = asyncio.get_running_loop()
    loop.add_reader(master, lambda: line.take(os.read(master, 4096), lambda data: os.write(master, data)))
    try:
        yield line
    finally:
        loop.remove_reader(master)
        os.close(slave)
        os.close(master)


@asynccontextmanager
async def on_tcp(line: Line) -> AsyncIterator[Line]:
    """The line behind a converter."""
    clients: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clients.append(writer)
        while data := await reader.read(4096):
            line.take(data, writer.write)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    line.endpoint = f"rtu+tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield line
    finally:
        server.close()
        for client in clients:
            client.close()
        await server.wait_closed()
        await asyncio.sleep(0.01)
