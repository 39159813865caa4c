"""A TCP proxy that spoils a connection on purpose: late, slow, torn, doubled, mixed with noise, half dead, or cut off.

`Weather` says what happens to the bytes of one direction, and may be changed at any time. Most of it knows no protocol; what needs whole
messages (a message torn in two, sent twice, or counted) cuts them with one of the functions below.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

Cut = Callable[[bytearray], Iterable[bytes]]
"""Takes whole messages out of the front of a buffer."""


def modbus_tcp(buffer: bytearray) -> Iterable[bytes]:
    """MBAP frames."""
    while len(buffer) >= 6 and len(buffer) >= 6 + int.from_bytes(buffer[4:6]):
        yield _taken(buffer, 6 + int.from_bytes(buffer[4:6]))


def modbus_rtu(buffer: bytearray) -> Iterable[bytes]:
    """RTU requests that read: eight bytes each. Answers come in one piece from a device on loopback."""
    if buffer:
        yield _taken(buffer, len(buffer))


def s7(buffer: bytearray) -> Iterable[bytes]:
    """TPKT frames."""
    while len(buffer) >= 4 and len(buffer) >= (size := max(4, int.from_bytes(buffer[2:4]))):
        yield _taken(buffer, size)


def opcua(buffer: bytearray) -> Iterable[bytes]:
    """Chunks."""
    while len(buffer) >= 8 and len(buffer) >= (size := max(8, struct.unpack_from("<I", buffer, 4)[0])):
        yield _taken(buffer, size)


def _taken(buffer: bytearray, size: int) -> bytes:
    message = bytes(buffer[:size])
    del buffer[:size]
    return message


CUTS: dict[str, Cut] = {"modbus": modbus_tcp, "rtu": modbus_rtu, "s7": s7, "opcua": opcua}


@dataclass
class Weather:
    """What happens to bytes in one direction. Clear at first."""

    latency_s: float = 0.0
    jitter_s: float = 0.0
    bytes_per_s: float = 0.0  # 0: as fast as they come
    drip_s: float = 0.0  # one byte each
    swallow: bool = False  # nothing arrives, and nobody is told
    garbage: float = 0.0  # probability that noise is put before a message
    double: float = 0.0  # probability that a message comes twice
    late: float = 0.0  # probability that a message is held back for `late_s`, while the next ones pass
    late_s: float = 0.0
    reset: float = 0.0  # probability that the connection is reset in the middle of a message
    close: float = 0.0  # the same, closed in good order

    def clear(self) -> None:
        """As it was at first."""
        self.__init__()  # type: ignore[misc]


@dataclass
class Proxy:
    """Between every client and the device at `target`. `down` is the weather from the device, `up` that to it.

    `heard` is called with each whole message of a client. `connections` counts them; `open` are those that stand.
    """

    target: tuple[str, int]
    cut: Cut
    rng: random.Random = field(default_factory=lambda: random.Random(5))
    down: Weather = field(default_factory=Weather)
    up: Weather = field(default_factory=Weather)
    heard: Callable[[bytes], None] = lambda _: None
    refuse: bool = False
    connections: int = 0
    open: set[asyncio.StreamWriter] = field(default_factory=set)
    spoiled: int = 0  # messages that something happened to
    passed: int = 0  # messages that were passed on
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client."""
        self.connections += 1
        self.open.add(writer)
        device: asyncio.StreamWriter | None = None
        try:
            if self.refuse:
                return
            answers, device = await asyncio.open_connection(*self.target)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, device, self.up, self.heard, group))
                group.create_task(self._pass(answers, writer, self.down, lambda _: None, group))
        except* (OSError, _Over):
            pass
        finally:
            self.open.discard(writer)
            for end in (writer, device):
                if end is not None:
                    end.transport.abort()

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        weather: Weather,
        heard: Callable[[bytes], None],
        group: asyncio.TaskGroup,
    ) -> None:
        buffer = bytearray()
        while data := await reader.read(65536):
            buffer += data
            for message in self.cut(buffer):
                heard(message)
                if weather.swallow:
                    self.spoiled += 1
                    continue
                if weather.late and self.rng.random() < weather.late:
                    self.spoiled += 1
                    group.create_task(self._later(writer, message, weather.late_s))
                    continue
                await self._send(writer, message, weather)
        raise _Over

    async def _later(self, writer: asyncio.StreamWriter, message: bytes, late_s: float) -> None:
        await asyncio.sleep(late_s)
        writer.write(message)

    async def _send(self, writer: asyncio.StreamWriter, message: bytes, weather: Weather) -> None:
        wait_s = weather.latency_s + self.rng.random() * weather.jitter_s
        if weather.bytes_per_s:
            wait_s += len(message) / weather.bytes_per_s
        if wait_s:
            await asyncio.sleep(wait_s)
        if weather.garbage and self.rng.random() < weather.garbage:
            self.spoiled += 1
            message = self.rng.randbytes(self.rng.randint(1, 40)) + message
        if weather.reset and self.rng.random() < weather.reset:
            self.spoiled += 1
            writer.write(message[: len(message) // 2])
            await asyncio.sleep(0.005)
            reset(writer)
            raise _Over
        if weather.close and self.rng.random() < weather.close:
            self.spoiled += 1
            writer.write(message[: len(message) // 2])
            await writer.drain()
            raise _Over
        self.passed += 1
        for _ in range(2 if weather.double and self.rng.random() < weather.double else 1):
            if weather.drip_s:
                self.spoiled += 1
                for byte in message:
                    writer.write(bytes((byte,)))
                    await asyncio.sleep(weather.drip_s)
            else:
                writer.write(message)
        await writer.drain()

    def cut_off(self) -> None:
        """Reset every connection, now."""
        for writer in tuple(self.open):
            reset(writer)


class _Over(Exception):
    """One direction has ended, and so has the connection."""


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    raw = writer.get_extra_info("socket")
    with suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def before(endpoint: str, cut: Cut) -> AsyncIterator[Proxy]:
    """A proxy on loopback before the device of an endpoint `scheme://host:port`; use `at` for the endpoint of the proxy."""
    host, _, port = endpoint.partition("://")[2].partition("/")[0].rpartition(":")
    proxy = Proxy((host, int(port)), cut)
    listening = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = listening.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        listening.close()
        proxy.cut_off()
        await asyncio.sleep(0.02)


def at(proxy: Proxy, endpoint: str) -> str:
    """The endpoint, by way of the proxy."""
    scheme, _, rest = endpoint.partition("://")
    _, slash, path = rest.partition("/")
    return f"{scheme}://127.0.0.1:{proxy.port}{slash}{path}"
