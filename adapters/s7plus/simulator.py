"""A PLC on loopback with the symbols of one configuration entry: the library's own emulator, taught to serve symbols.

The emulator of `s7commplus` 0.3 answers every symbolic read with an error and has no type information, so its browse is empty. What is added
here (`program.py`, reading by path) is made from how the library's client reads it: it shows that we use the library right, and nothing about PLCs.
It is served from the event loop, without encryption.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Final, cast
from zoneinfo import ZoneInfo

from s7commplus.codec import decode_header, encode_header
from s7commplus.protocol import DataType as Wire
from s7commplus.protocol import FunctionCode, Ids, ProtocolVersion
from s7commplus.server import S7CommPlusServer
from s7commplus.vlq import decode_uint32_vlq, encode_int32_vlq, encode_int64_vlq, encode_uint32_vlq, encode_uint64_vlq

from adapters.base import BoundTag, SimulatorContext, TagConfig
from adapters.s7.encode import encode
from adapters.simulation import Signals

from .config import S7PlusConfig, S7PlusTag
from .program import Program

_MAX_FRAME: Final = 8192
_PIECE: Final = 4000  # bytes of an answer in one frame
_NOT_THERE: Final = 0x8009_0001_0000_FFFC  # an error, whatever it says
_FIXED: Final = {
    "bool": Wire.BOOL, "byte": Wire.BYTE, "char": Wire.USINT, "word": Wire.WORD, "int": Wire.INT, "dword": Wire.DWORD, "real": Wire.REAL,
    "date": Wire.UINT, "s5time": Wire.WORD, "ldt": Wire.TIMESTAMP, "lreal": Wire.LREAL, "lword": Wire.LWORD, "usint": Wire.USINT,
    "uint": Wire.UINT, "sint": Wire.SINT, "wchar": Wire.UINT,
}  # fmt: skip
"""Types whose bytes are sent as they are."""
_COUNTED: Final[dict[str, tuple[Wire, Callable[[int], bytes]]]] = {
    "dint": (Wire.DINT, encode_int32_vlq), "time": (Wire.DINT, encode_int32_vlq), "udint": (Wire.UDINT, encode_uint32_vlq),
    "tod": (Wire.UDINT, encode_uint32_vlq), "lint": (Wire.LINT, encode_int64_vlq), "ulint": (Wire.ULINT, encode_uint64_vlq),
    "ltod": (Wire.ULINT, encode_uint64_vlq), "ltime": (Wire.TIMESPAN, encode_int64_vlq),
}  # fmt: skip
"""Types that are sent as numbers of variable length."""


class _Cell:
    """One variable, and the bytes that it was last shown as."""

    def __init__(self, bound: BoundTag[TagConfig], zone: ZoneInfo) -> None:
        self.tag, self.config, self._zone = bound.tag, cast(S7PlusTag, bound.config), zone
        self.kind = self.config.data_type
        self._raw = bytes(self.kind.size)

    def value(self, signals: Signals) -> bytes:
        """What the signal shows now, as a typed value of the protocol."""
        kind, config = self.kind, self.config
        shown = signals.value(self.tag, step=kind.name == "lreal", boolean=kind.kind == "bool")
        if not isinstance(shown, str) and (config.scale != 1 or config.offset != 0):
            shown = (shown - config.offset) / config.scale
        if kind.kind == "bool":
            self._raw = bytes((int(float(shown) >= 0.5),))
        else:
            self._raw = encode(kind, shown, encoding=config.encoding, zone=self._zone) or self._raw
        return _typed(kind.name, self._raw)


def _typed(name: str, raw: bytes) -> bytes:
    if name in _FIXED:
        return bytes((0, _FIXED[name])) + raw
    if name in _COUNTED:
        wire, number = _COUNTED[name]
        return bytes((0, wire)) + number(int.from_bytes(raw, signed=wire in (Wire.DINT, Wire.LINT, Wire.TIMESPAN)))
    if name == "wstring":
        return bytes((0x10, Wire.UINT, *encode_uint32_vlq(len(raw) // 2))) + raw
    return bytes((0x10, Wire.USINT, *encode_uint32_vlq(len(raw)))) + raw  # string, dt


class Emulator(S7CommPlusServer):  # type: ignore[misc]  # the library is an extra, and not there everywhere
    """The library's emulator with a program: it lists blocks and types, and reads variables by their path."""

    def __init__(self, program: Program, cells: dict[tuple[int, ...], _Cell], signals: Signals, **more: int) -> None:
        super().__init__(**more)
        self._program, self._cells, self._signals = program, cells, signals
        self._types = program.relations()

    def answer(self, frame: bytes, session: int) -> bytes | None:
        """The answer to one frame, without its envelope; None for one that is not understood."""
        found: bytes | None = self._process_request(frame, session)[0]
        return found

    def _handle_explore(self, seq_num: int, session_id: int, request_data: bytes) -> bytes:
        wanted = struct.unpack_from(">I", request_data)[0] if len(request_data) >= 4 else 0
        content = {
            Ids.NATIVE_THE_PLC_PROGRAM_RID: self._program.block_list,
            Ids.OBJECT_OMS_TYPE_INFO_CONTAINER: self._program.type_info,
        }.get(wanted)
        if content is None:
            return bytes(super()._handle_explore(seq_num, session_id, request_data))
        return bytes(self._build_response_header(FunctionCode.EXPLORE, seq_num)) + b"\0" + content() + bytes(4)

    def _handle_get_multi_variables(self, seq_num: int, session_id: int, request_data: bytes) -> bytes:
        values, errors = bytearray(), bytearray()
        for number, item in enumerate(_items(request_data), 1):
            value = self._value(item)
            if value is None:
                errors += encode_uint32_vlq(number) + encode_uint64_vlq(_NOT_THERE)
            else:
                values += encode_uint32_vlq(number) + value
        head = bytes(self._build_response_header(FunctionCode.GET_MULTI_VARIABLES, seq_num))
        integrity = b"\0" if self._protocol_version < ProtocolVersion.V2 else b""
        return head + b"\0" + bytes(values) + b"\0" + bytes(errors) + b"\0" + integrity

    def _value(self, item: tuple[int, ...]) -> bytes | None:
        area, *path = item
        if path == [1] and area in self._types:  # which type a block is of
            return bytes((0, Wire.RID)) + struct.pack(">I", self._types[area])
        cell = self._cells.get(item)
        return cell.value(self._signals) if cell is not None else None


def _items(data: bytes) -> list[tuple[int, ...]]:
    """The addresses that a read asks for: area, and the path behind the sub-area."""
    at = 4
    count, used = decode_uint32_vlq(data, at)
    at += used
    _, used = decode_uint32_vlq(data, at)  # fields in all
    at += used
    items = []
    for _ in range(count):
        numbers = []
        for _ in range(3):  # symbol CRC, area, how many ids
            number, used = decode_uint32_vlq(data, at)
            numbers.append(number)
            at += used
        ids = []
        for _ in range(numbers[2]):
            number, used = decode_uint32_vlq(data, at)
            ids.append(number)
            at += used
        items.append((numbers[1], *ids[1:]))
    return items


class _Peer(asyncio.Protocol):
    """One client: the envelope around the emulator."""

    def __init__(self, emulator: Emulator, peers: set[_Peer]) -> None:
        self._emulator, self._peers = emulator, peers
        self._received = bytearray()
        self._session = 0
        self.gone = asyncio.Event()
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
            if whole[5] == 0xE0:  # COTP connect: confirmed with a TPDU of 1024 bytes
                self.transport.write(b"\x03\0\0\x0e\x09\xd0" + whole[8:10] + b"\0\x01\0\xc0\x01\x0a")
            elif whole[5] == 0xF0:
                self._answer(whole[7:])

    def _answer(self, frame: bytes) -> None:
        assert self.transport is not None
        try:
            version = decode_header(frame)[0]
            answer = self._emulator.answer(frame, self._session)
        except (ValueError, IndexError, struct.error):
            answer = None
        if answer is None:
            self.transport.abort()
            return
        if not self._session and len(answer) >= 14:
            self._session = struct.unpack_from(">I", answer, 9)[0]
        for at in range(0, len(answer), _PIECE):
            piece = answer[at : at + _PIECE]
            body = encode_header(version, len(piece)) + piece
            if at + _PIECE >= len(answer):
                body += struct.pack(">BBH", 0x72, version, 0)
            self.transport.write(struct.pack(">BBHBBB", 3, 0, len(body) + 7, 2, 0xF0, 0x80) + body)


class S7PlusSimulator:
    """Serves the tags of one entry for any number of clients, unencrypted. A tag shows a new value on each read of it."""

    def __init__(self, config: S7PlusConfig, context: SimulatorContext) -> None:
        self._context = context
        self._server: asyncio.Server | None = None
        self._peers: set[_Peer] = set()

    async def emulator(self, **more: int) -> Emulator:
        """The emulator with the program of the tags."""
        context = self._context
        zone = await asyncio.to_thread(ZoneInfo, context.time_zone)  # reads a file
        cells = [_Cell(bound, zone) for bound in context.tags]
        named = {cell.config.place.name: cell for cell in cells if cell.config.place.name}
        program = Program({name: cell.kind for name, cell in named.items()})
        by_path = {program.access(name): cell for name, cell in named.items()}
        by_path |= {cell.config.place.access: cell for cell in cells if cell.config.place.access}
        return Emulator(program, by_path, context.signals, **more)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen and return `s7://host:port`. Raises OSError when the port is taken, ConfigError for names that no program has."""
        emulator = await self.emulator(protocol_version=ProtocolVersion.V1)
        self._server = await asyncio.get_running_loop().create_server(lambda: _Peer(emulator, self._peers), host, port)
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
