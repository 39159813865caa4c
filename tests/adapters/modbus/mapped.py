"""A Modbus TCP device with a map, limits and an identity, that counts what it is asked."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

IDENTITY: Mapping[int, bytes] = {0: b"Acme", 1: b"X-100", 2: b"V2.1", 4: b"Dryer", 5: b"X-100-EU"}


@dataclass
class Mapped:
    """`tables[function]` is what there is, by address; a table that is not there is exception 1."""

    tables: dict[int, dict[int, int]] = field(default_factory=dict)
    longest: Mapping[int, int] = field(default_factory=lambda: {1: 2000, 2: 2000, 3: 125, 4: 125})
    too_long: int = 3
    units: tuple[int, ...] = (1,)
    identity: Mapping[int, bytes] | None = None
    at_a_time: int = 8
    """Objects of the identity in one answer."""
    answer: Callable[[int, bytes], bytes | None] | None = None
    """Asked first, with unit and PDU; None for the usual."""
    silent: bool = False
    """Units that are not there say nothing, instead of exception 11."""
    window: int = 64
    asked: list[tuple[int, int, int]] = field(default_factory=list)
    """(function, start, count)"""
    functions: set[int] = field(default_factory=set)
    port: int = 0
    clients: list[asyncio.StreamWriter] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def reply(self, unit: int, pdu: bytes) -> bytes | None:
        """The PDU that answers."""
        function = pdu[0]
        self.functions.add(function)
        if self.answer is not None and (special := self.answer(unit, pdu)) is not None:
            return special
        if unit not in self.units:
            return None if self.silent else bytes((function | 0x80, 11))
        if function == 43:
            return self._identify(pdu)
        start, count = struct.unpack(">HH", pdu[1:])
        self.asked.append((function, start, count))
        table = self.tables.get(function)
        if table is None:
            return bytes((function | 0x80, 1))
        if count > self.longest[function]:
            return bytes((function | 0x80, self.too_long))
        if any(start + n not in table for n in range(count)):
            return bytes((function | 0x80, 2))
        values = [table[start + n] for n in range(count)]
        if function > 2:
            return struct.pack(f">BB{count}H", function, 2 * count, *values)
        whole = sum(bit << n for n, bit in enumerate(values))
        size = (count + 7) // 8
        return bytes((function, size)) + whole.to_bytes(size, "little")

    def _identify(self, pdu: bytes) -> bytes:
        if self.identity is None:
            return bytes((43 | 0x80, 1))
        level, first = pdu[2], pdu[3]
        known = [number for number in sorted(self.identity) if number <= (2 if level == 1 else 127)]
        rest = [number for number in known if number >= first]
        given, left = rest[: self.at_a_time], rest[self.at_a_time :]
        body = b"".join(bytes((number, len(self.identity[number]))) + self.identity[number] for number in given)
        return bytes((43, 14, level, 0x82, 0xFF if left else 0, left[0] if left else 0, len(given))) + body

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.clients.append(writer)
        try:
            while True:
                head = await reader.readexactly(7)
                tid, _, length, unit = struct.unpack(">HHHB", head)
                answer = self.reply(unit, await reader.readexactly(length - 1))
                if answer is not None:
                    writer.write(struct.pack(">HHHB", tid, 0, len(answer) + 1, unit) + answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(device: Mapped) -> AsyncIterator[Mapped]:
    """The device on loopback."""
    server = await asyncio.start_server(device.serve, "127.0.0.1", 0)
    device.port = server.sockets[0].getsockname()[1]
    try:
        yield device
    finally:
        server.close()
        for client in device.clients:
            client.close()
        await server.wait_closed()
        await asyncio.sleep(0.01)


def words(*stretches: Iterable[int], value: Callable[[int], int] = lambda _: 0) -> dict[int, int]:
    """Registers at these addresses."""
    return {address: value(address) for stretch in stretches for address in stretch}


def put(table: dict[int, int], address: int, data: bytes) -> None:
    """Bytes, highest first, into registers."""
    for n in range(0, len(data), 2):
        table[address + n // 2] = int.from_bytes(data[n : n + 2])
