"""How the simulator is reached: frames of Modbus TCP in a stream or in datagrams, or those of a serial line in a stream."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Final, Protocol, cast

from .config import ModbusConfig
from .framing import Framing, framing_of

NO_TARGET: Final = 11
Answer = Callable[[int, bytes], bytes]
"""The PDU that answers the PDU of a unit."""
_HEADER: Final = struct.Struct(">HHHB")


class Listening(Protocol):
    """An open server."""

    endpoint: str

    async def aclose(self) -> None: ...


async def serve(config: ModbusConfig, answer: Answer, host: str, port: int) -> Listening:
    """Listen the way the entry asks. Raises OSError when the port is taken."""
    if config.transport == "udp":
        return await _Datagrams.open(answer, host, port)
    return await _Streams.open(config, answer, host, port)


class _Streams:
    """A TCP server and its clients."""

    def __init__(self, server: asyncio.Server, clients: set[asyncio.Transport], endpoint: str) -> None:
        self._server, self._clients, self.endpoint = server, clients, endpoint

    @classmethod
    async def open(cls, config: ModbusConfig, answer: Answer, host: str, port: int) -> _Streams:
        clients: set[asyncio.Transport] = set()
        framing = framing_of(config.is_ascii) if config.is_line else None
        server = await asyncio.get_running_loop().create_server(lambda: _Session(answer, framing, clients), host, port)
        scheme = "tcp" if framing is None else "ascii+tcp" if config.is_ascii else "rtu+tcp"
        return cls(server, clients, f"{scheme}://{host}:{server.sockets[0].getsockname()[1]}")

    async def aclose(self) -> None:
        """Stop listening and drop every client."""
        self._server.close()
        for client in tuple(self._clients):
            client.close()
        await self._server.wait_closed()
        await asyncio.sleep(0)


class _Session(asyncio.Protocol):
    """One client; answers go out in the order of the requests."""

    def __init__(self, answer: Answer, framing: Framing | None, clients: set[asyncio.Transport]) -> None:
        self._answer, self._framing, self._clients = answer, framing, clients
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._clients.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._clients.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._received += data
        if self._framing is None:
            self._frames(self._transport)
        else:
            self._lines(self._transport, self._framing)

    def _frames(self, transport: asyncio.Transport) -> None:
        while len(self._received) >= 8:
            _, protocol, length, _ = _HEADER.unpack_from(self._received)
            if protocol or not 2 <= length <= 254:
                transport.close()
                return
            if len(self._received) < 6 + length:
                return
            transport.write(_framed(self._received[: 6 + length], self._answer))
            self._received = self._received[6 + length :]

    def _lines(self, transport: asyncio.Transport, framing: Framing) -> None:
        while self._received:
            size, body = framing.request(self._received)
            if not size:
                self._received = self._received[-framing.longest :]
                return
            self._received = self._received[size:]
            if len(body) < 2:
                continue
            pdu = self._answer(body[0], body[1:])
            if pdu[0] & 0x80 and pdu[1] == NO_TARGET:
                continue  # on a line nobody speaks for a unit that is not there
            transport.write(framing.frame(body[0], pdu))


class _Datagrams(asyncio.DatagramProtocol):
    """A UDP server."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._transport: asyncio.DatagramTransport | None = None
        self.endpoint = ""

    @classmethod
    async def open(cls, answer: Answer, host: str, port: int) -> _Datagrams:
        transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: cls(answer), local_addr=(host, port)
        )
        server.endpoint = f"udp://{host}:{transport.get_extra_info('sockname')[1]}"
        return server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if self._transport is not None and len(data) >= 8 and data[2:4] == b"\0\0" and len(data) == 6 + int.from_bytes(data[4:6]):
            self._transport.sendto(_framed(data, self._answer), addr)

    async def aclose(self) -> None:
        """Close the socket."""
        if self._transport is not None:
            self._transport.close()
            await asyncio.sleep(0)


def _framed(frame: bytes, answer: Answer) -> bytes:
    number, _, _, unit = _HEADER.unpack_from(frame)
    pdu = answer(unit, frame[7:])
    return _HEADER.pack(number, 0, len(pdu) + 1, unit) + pdu
