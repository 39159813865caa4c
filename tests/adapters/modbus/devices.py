"""Modbus TCP devices that tests make behave and misbehave: every answer is a function of the request."""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple


class Request(NamedTuple):
    tid: int
    unit: int
    function: int
    start: int
    count: int


def pdu(request: Request) -> bytes:
    """The honest answer of a device whose registers hold their own address."""
    body = b"".join(struct.pack(">H", (request.start + n) & 0xFFFF) for n in range(request.count))
    if request.function in (1, 2):
        body = bytes((request.count + 7) // 8)
    return bytes((request.function, len(body))) + body


def frame(request: Request, answer: bytes, *, protocol: int = 0, unit: int | None = None, tid: int | None = None) -> bytes:
    """The answer in its frame."""
    number = request.tid if tid is None else tid
    return struct.pack(">HHHB", number, protocol, len(answer) + 1, request.unit if unit is None else unit) + answer


def refuse(request: Request, code: int) -> bytes:
    """The framed exception."""
    return frame(request, bytes((request.function | 0x80, code)))


@dataclass
class Device:
    """A device that counts. `answer` returns the bytes to send, or None for silence; `missing` addresses are refused (2)."""

    answer: Callable[[Request], bytes | None] = lambda request: frame(request, pdu(request))
    missing: Collection[tuple[int, int]] = ()
    """(function, address)"""
    longest: int = 125
    delay_s: float = 0.0
    requests: list[Request] = field(default_factory=list)
    clients: list[asyncio.StreamWriter] = field(default_factory=list)
    port: int = 0

    @property
    def endpoint(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def reply(self, request: Request) -> bytes | None:
        if request.count > self.longest and request.function > 2:
            return refuse(request, 3)
        if any((request.function, request.start + n) in self.missing for n in range(request.count)):
            return refuse(request, 2)
        return self.answer(request)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.clients.append(writer)
        try:
            while True:
                request = Request(*struct.unpack(">H4xBBHH", await reader.readexactly(12)))
                self.requests.append(request)
                answer = self.reply(request)
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if answer is not None:
                    writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def running(device: Device, port: int = 0, tls: ssl.SSLContext | None = None) -> AsyncIterator[Device]:
    """The device on loopback; at the end it hangs up on everybody."""
    server = await asyncio.start_server(device.serve, "127.0.0.1", port, ssl=tls)
    device.port = server.sockets[0].getsockname()[1]
    try:
        yield device
    finally:
        server.close()
        for client in device.clients:
            client.close()
        await server.wait_closed()
        await asyncio.sleep(0.01)
