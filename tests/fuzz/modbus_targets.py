"""The Modbus decoders as targets: the TCP stream, RTU frames, and the values of a scan class."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from functools import cache

from adapters.modbus import ModbusConfig
from adapters.modbus.address import parse
from adapters.modbus.connection import open_connection
from adapters.modbus.datatypes import parse_type
from adapters.modbus.decode import Layout
from adapters.modbus.exchange import NoAnswer, Refused, WrongAnswer
from adapters.modbus.plan import Span, blocks_of
from schemas import quality as q
from schemas.errors import NotConnected
from tests.adapters.modbus.devices import Request, frame, pdu
from tests.adapters.modbus.lines import rtu
from tests.adapters.modbus.points import point
from tests.fuzz.harness import Target, Violation, chunks, dripping, pieces, whole
from tests.fuzz.wires import WireLoop, replying

SPANS = (Span(1, 3, 100, 10), Span(1, 1, 7, 13), Span(2, 4, 65_530, 6))
ERRORS = (Refused, NoAnswer, WrongAnswer, NotConnected)


@cache
def _loop() -> WireLoop:
    return WireLoop()


def _config(scheme: str) -> ModbusConfig:
    entry = {"kind": "modbus", "endpoint": f"{scheme}://127.0.0.1:502", "timeout": "500ms", "tags": {}}
    return ModbusConfig.model_validate(entry)


async def _read(connection: object, span: Span) -> bytes | Exception:
    try:
        return await connection.read(span)  # type: ignore[attr-defined, no-any-return]
    except ERRORS as error:
        return error


def _bounded(connection: object, most: int) -> None:
    """Of what came no more is kept than a frame may have."""
    holder = getattr(connection, "_transactions", connection)
    if len(holder._received) > most:
        raise Violation(f"{len(holder._received)} bytes are kept")


async def _over_tcp(together: bool) -> list[bytes | Exception]:
    connection = await open_connection(_config("tcp"))
    try:
        if together:
            found = await asyncio.gather(*(_read(connection, span) for span in SPANS))
        else:
            found = [await _read(connection, span) for span in SPANS]
        _bounded(connection, 260)
        return found
    finally:
        await connection.aclose()


def tcp_stream(data: bytes) -> None:
    """Three reads at once, then three one after the other, answered by `data` however it is cut."""
    payload, sizes = pieces(data)
    for together in (True, False):
        answer = list(chunks(payload, sizes))
        _check(_loop().run(replying([answer] * 3, hang_up=together), _over_tcp(together)))


async def _over_rtu() -> list[bytes | Exception]:
    connection = await open_connection(_config("rtu+tcp"))
    try:
        found = [await _read(connection, span) for span in SPANS[:2]]
        _bounded(connection, 512)
        return found
    finally:
        await connection.aclose()


def rtu_frames(data: bytes) -> None:
    """Two reads, each answered by `data`."""
    payload, sizes = pieces(data)
    answer = list(chunks(payload, sizes))
    _check(_loop().run(replying([answer, answer]), _over_rtu()))


def _check(found: Sequence[bytes | Exception]) -> None:
    for span, answer in zip(SPANS, found, strict=False):
        if isinstance(answer, bytes) and len(answer) != span.answer_bytes:
            raise Violation(f"{len(answer)} bytes for {span}")


POINTS = [
    *(point(number * 4, kind, order=order) for number, (kind, order) in enumerate(
        (kind, order)
        for kind in ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64",
                     "bcd16", "bcd32")
        for order in ("ABCD", "CDAB", "BADC", "DCBA")
    )),
    *(point(300 + number * 8, "string[13]", encoding=encoding, order="BADC") for number, encoding in enumerate(("latin-1", "cp932", "utf-8", "utf-16-be"))),
    point(3, "bool", function=1), point(9, "bool", function=2), point(40, "bool", bit=11),
]  # fmt: skip


@cache
def _layout() -> Layout:
    return Layout(POINTS, blocks_of(POINTS), {0: q.BAD_NODE_ID_UNKNOWN})


def values(data: bytes) -> None:
    """Every type in every byte order, from `data` repeated over all blocks."""
    layout = _layout()
    source = (data or b"\0") * (4096 // max(1, len(data)) + 2)
    at = 0
    for number, block in enumerate(layout.blocks):
        if data[:1] == b"\xfe" and number == 1:
            layout.fail(number, q.BAD_TIMEOUT)
            continue
        layout.store(number, source[at : at + block.span.answer_bytes])
        at += block.span.answer_bytes
    found = layout.decode()
    if found.quality[0] != q.BAD_NODE_ID_UNKNOWN:
        raise Violation("a tag that was set aside has a value")
    for position, text in found.texts.items():
        text.encode()  # what cannot be encoded cannot be stored
        if POINTS[position].kind.kind != "text":
            raise Violation("a number has a text")


def addresses(data: bytes) -> None:
    """Whatever is an address has one spelling, and that reads as itself."""
    text = data.decode("utf-8", "replace")
    if data[:1] in (b"t", b"T"):
        parse_type(text[1:])
        return
    address = parse(text)
    if parse(str(address)) != address:
        raise Violation(f"{text!r} is {address} and that is {parse(str(address))}")


def _answers() -> list[bytes]:
    requests = [Request(number + 1, *span) for number, span in enumerate(SPANS)]
    return [frame(request, pdu(request)) for request in requests]


def _stream_seeds() -> list[bytes]:
    good = _answers()
    refused = frame(Request(1, *SPANS[0]), bytes((0x83, 2)))
    uncounted = refused[:5] + b"\2" + refused[6:]
    return [
        whole(b"".join(good)),
        dripping(b"".join(good)),
        whole(refused + good[1]),
        whole(uncounted),
        whole(good[2] + good[0]),
        b"\2\7\3" + good[0],
    ]


def _frame_seeds() -> list[bytes]:
    one = Request(0, *SPANS[0])
    good = rtu(one, pdu(one))
    echo = struct.pack(">BBHH", *SPANS[0])
    refused = rtu(one, bytes((0x83, 2)))
    return [
        whole(good),
        dripping(good),
        whole(refused),
        whole(b"\xff\0" + good),
        whole(echo + good),
        whole(good[:-1]),
        whole(good + good),
    ]


def _value_seeds() -> list[bytes]:
    return [bytes(range(256)), bytes(16), b"\xff" * 64, "現場".encode("cp932") * 8, b"\x12\x34" * 20, b"\xfe" + bytes(99)]


def _address_seeds() -> list[bytes]:
    texts = [
        "hr:100",
        "hr:0x64",
        "hr:100.3",
        "40101",
        "400101",
        "co:7",
        "di:65535",
        "holding register:3",
        "tfloat32",
        "tstring[16]",
        "tbcd32",
        "%mw7",
    ]
    return [text.encode() for text in texts]


TARGETS = [
    Target("modbus-tcp", tcp_stream, _stream_seeds, fixed_bytes=1 << 20),
    Target("modbus-rtu", rtu_frames, _frame_seeds, errors=()),
    Target("modbus-values", values, _value_seeds),
    Target("modbus-addresses", addresses, _address_seeds, errors=(ValueError,), longest=200),
]
