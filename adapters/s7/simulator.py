"""An S7 server of the real protocol on loopback, with the address map of one configuration entry.

python-snap7's own server runs a thread per client and has no hook for a read, so a replayed series could not step once per read;
this one answers from the event loop. It serves connect, set-up and read (several items, bits, bytes, words); writing is refused.
"""

from __future__ import annotations

import asyncio
import struct
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final, cast
from zoneinfo import ZoneInfo

from adapters.base import BoundTag, SimulatorContext, TagConfig
from adapters.simulation import Signals
from schemas.tags import Tag

from .config import CPUS, S7Config, S7Tag
from .datatypes import ARRAYS
from .encode import encode, encode_array
from .plan import Block, Place, places_of
from .wire import OK, frame

_NO_BLOCK: Final = 0x0A
_OUTSIDE: Final = 0x05
_REFUSED: Final = 0x03
_UNSUPPORTED: Final = 0x8104
_TOO_LONG: Final = 0x8500
_WINDOW: Final = 8
_UNITS: Final = {
    0x01: 0,
    0x02: 1,
    0x03: 1,
    0x04: 2,
    0x05: 2,
    0x06: 4,
    0x07: 4,
    0x08: 4,
    0x1C: 2,
    0x1D: 2,
}  # bytes by transport size; 0 is a bit
_ELEMENTS: Final = (0x1C, 0x1D)  # counters and timers: addressed by number, with the transport size of the same number
_MAX_FRAME: Final = 8192


class _Cell:
    """One tag in the memory."""

    def __init__(self, bound: BoundTag[TagConfig], place: Place, zone: ZoneInfo) -> None:
        self.tag: Tag = bound.tag
        self.config = cast(S7Tag, bound.config)
        self.place, self._zone = place, zone
        self.start = place.span.start
        self.stepwise = place.kind.name == "lreal"

    def refresh(self, memory: bytearray, signals: Signals, *, step: bool) -> None:
        """Put what the signal shows now into `memory`."""
        if self.place.kind.kind in ARRAYS:
            memory[self.start : self.start + self.place.span.size] = self._elements(signals)
            return
        shown = signals.value(self.tag, step=step and self.stepwise, boolean=self.place.kind.kind == "bool")
        at, size = self.start, self.place.span.size
        if self.place.kind.kind == "bool":
            mask = 1 << self.place.bit
            memory[at] = memory[at] | mask if shown else memory[at] & ~mask
            return
        if not isinstance(shown, str) and (self.config.scale != 1 or self.config.offset != 0):
            shown = (shown - self.config.offset) / self.config.scale
        raw = encode(self.place.kind, shown, encoding=self.config.encoding, zone=self._zone)
        if raw is not None:
            memory[at : at + size] = raw

    def _elements(self, signals: Signals) -> bytes:
        """The bytes of an array, each element with the signal of the tag as it is now."""
        kind, config = self.place.kind, self.config
        boolean = kind.kind == "bits"
        shown = (signals.value(self.tag, step=False, boolean=boolean) for _ in range(kind.length))
        raw = [value if isinstance(value, str) or boolean else (value - config.offset) / config.scale for value in shown]
        return encode_array(kind, raw, encoding=config.encoding, zone=self._zone)


class _Memory:
    """The areas and data blocks, as large as the tags need."""

    def __init__(self, cells: Sequence[_Cell], signals: Signals) -> None:
        self._signals = signals
        self._cells: dict[Block, list[_Cell]] = defaultdict(list)
        for cell in sorted(cells, key=lambda cell: (cell.place.span, cell.place.bit)):
            self._cells[cell.place.span[:2]].append(cell)
        self._starts = {block: [cell.start for cell in found] for block, found in self._cells.items()}
        self._bytes = {
            block: bytearray((max(cell.start + cell.place.span.size for cell in found) + 1) // 2 * 2)
            for block, found in self._cells.items()
        }
        for block, found in self._cells.items():
            for cell in found:
                cell.refresh(self._bytes[block], signals, step=False)

    def read(self, block: Block, start: int, count: int) -> bytes | int:
        """The bytes, with every tag that this read is about refreshed; or the return code that says why not."""
        memory = self._bytes.get(block)
        if memory is None:
            return _NO_BLOCK
        if start < 0 or start + count > len(memory):
            return _OUTSIDE
        for cell in self._asked(block, start, start + count):
            cell.refresh(memory, self._signals, step=True)
        return bytes(memory[start : start + count])

    def _asked(self, block: Block, start: int, end: int) -> Iterator[_Cell]:
        """Tags that begin within the read. A read that begins with a tag is about that tag's scan class: what lies between was
        only carried along, and a replayed series among it must not move."""
        cells, starts = self._cells[block], self._starts[block]
        first, last = bisect_left(starts, start), bisect_left(starts, end)
        periods = {cell.tag.period_us for cell in cells[first:last] if cell.start == start}
        for cell in cells[first:last]:
            if not periods or cell.tag.period_us in periods:
                yield cell


class _Peer(asyncio.Protocol):
    """One client."""

    def __init__(self, memory: _Memory, peers: set[_Peer], pdu: int) -> None:
        self._memory, self._peers, self._most = memory, peers, pdu
        self.gone = asyncio.Event()
        self._pdu = 240
        self._received = bytearray()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._peers.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._peers.discard(self)
        self.gone.set()

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        while len(received) >= 4 and self.transport is not None:
            length = received[2] << 8 | received[3]
            if received[0] != 3 or not 7 <= length <= _MAX_FRAME:
                self.transport.abort()
                return
            if len(received) < length:
                return
            whole = bytes(received[:length])
            del received[:length]
            try:
                answer = self._answer(whole)
            except (IndexError, struct.error):
                answer = None
            if answer is None:
                self.transport.close()
                return
            self.transport.write(answer)

    def _answer(self, whole: bytes) -> bytes | None:
        """The answer to one frame; None ends the connection, as a PLC does with what it does not understand."""
        if whole[5] == 0xE0:  # COTP connect: confirm with the parameters as they came
            confirm = whole[4:5] + b"\xd0" + whole[8:10] + b"\0\x01" + whole[10:]
            return struct.pack(">BBH", 3, 0, 4 + len(confirm)) + confirm
        pdu = whole[7:]
        if whole[5] != 0xF0 or pdu[0] != 0x32:
            return None
        kind, reference, size = pdu[1], pdu[4:6], pdu[6] << 8 | pdu[7]
        parameters = pdu[10 : 10 + size]
        if kind != 1:
            return _error(reference, _UNSUPPORTED)
        if parameters[0] == 0xF0:
            caller, callee, asked = struct.unpack(">HHH", parameters[2:8])
            self._pdu = max(min(asked, self._most), 128)
            granted = struct.pack(">BBHHH", 0xF0, 0, min(caller, _WINDOW), min(callee, _WINDOW), self._pdu)
            return _acknowledge(reference, granted, b"")
        if parameters[0] == 0x04:
            return self._read(reference, parameters)
        if parameters[0] == 0x05:
            return _acknowledge(reference, parameters[:2], bytes((_REFUSED,)) * parameters[1])
        return _error(reference, _UNSUPPORTED)

    def _read(self, reference: bytes, parameters: bytes) -> bytes:
        data = bytearray()
        for number in range(parameters[1]):
            if len(data) & 1:
                data += b"\0"
            data += self._item(parameters[2 + 12 * number : 14 + 12 * number])
            if 14 + len(data) > self._pdu:
                return _error(reference, _TOO_LONG)
        return _acknowledge(reference, parameters[:2], bytes(data))

    def _item(self, item: bytes) -> bytes:
        transport, count, db, area = struct.unpack_from(">BHHB", item, 3)
        address = int.from_bytes(item[9:12])
        unit = _UNITS.get(transport)
        elements = area in _ELEMENTS or transport in _ELEMENTS
        if elements:
            address *= 16  # two bytes each, in bits as elsewhere
        wrong = area != transport if elements else (unit == 0 and count != 1) or (unit and address & 7)
        if item[:3] != b"\x12\x0a\x10" or unit is None or wrong:
            return b"\x06\0\0\0"
        size = max(unit, 1) * count
        if 18 + size > self._pdu:
            return b"\x05\0\0\0"
        found = self._memory.read((area, db if area == 0x84 else 0), address >> 3, size)
        if isinstance(found, int):
            return bytes((found, 0, 0, 0))
        if unit == 0:
            return struct.pack(">BBHB", OK, 3, 1, found[0] >> (address & 7) & 1)
        return struct.pack(">BBH", OK, 4, size * 8) + found


def _acknowledge(reference: bytes, parameters: bytes, data: bytes) -> bytes:
    return frame(b"\x32\x03\0\0" + reference + struct.pack(">HHH", len(parameters), len(data), 0) + parameters + data)


def _error(reference: bytes, code: int) -> bytes:
    return frame(b"\x32\x02\0\0" + reference + struct.pack(">HHH", 0, 0, code))


class S7Simulator:
    """Serves the tags of one entry for any number of clients. A tag shows a new value on each read of it."""

    def __init__(self, config: S7Config, context: SimulatorContext) -> None:
        self._pdu = CPUS[config.cpu][2] if config.cpu else 960
        self._context = context
        self._server: asyncio.Server | None = None
        self._peers: set[_Peer] = set()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen and return `s7://host:port`. Raises OSError when the port is taken."""
        context = self._context
        zone = await asyncio.to_thread(ZoneInfo, context.time_zone)  # reads a file
        cells = [_Cell(bound, place, zone) for bound, place in zip(context.tags, places_of(context.tags), strict=True)]
        memory = _Memory(cells, context.signals)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Peer(memory, self._peers, self._pdu), host, port)
        return f"s7://{host}:{self._server.sockets[0].getsockname()[1]}"

    async def aclose(self) -> None:
        """Stop listening and drop every client."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for peer in list(self._peers):
            if peer.transport is not None:
                peer.transport.abort()
                await peer.gone.wait()
        await server.wait_closed()
