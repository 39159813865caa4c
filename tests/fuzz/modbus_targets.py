"""The Modbus decoders as targets: the TCP stream, datagrams, RTU and ASCII frames, identification, and the values of a scan class."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from functools import cache
from zoneinfo import ZoneInfo

from adapters.modbus import ModbusConfig
from adapters.modbus.address import parse
from adapters.modbus.connection import open_connection
from adapters.modbus.datatypes import parse_type
from adapters.modbus.decode import Layout
from adapters.modbus.exchange import NoAnswer, Refused, WrongAnswer
from adapters.modbus.identify import read_objects
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


async def _over_udp() -> list[bytes | Exception]:
    try:
        connection = await open_connection(_config("udp"))
    except NotConnected:  # the greeting was not answered
        return []
    try:
        return [await _read(connection, span) for span in SPANS]
    finally:
        await connection.aclose()


def datagrams(data: bytes) -> None:
    """A greeting and three reads, each answered by datagrams as `data` is cut."""
    payload, sizes = pieces(data)
    greeting = Request(1, 1, 3, 0, 1)
    answer = list(chunks(payload, sizes))
    _check(_loop().run(replying([[frame(greeting, pdu(greeting))], answer, answer, answer]), _over_udp()))
    _check(_loop().run(replying([answer] * 4), _over_udp()))


async def _over_line(scheme: str, most: int) -> list[bytes | Exception]:
    connection = await open_connection(_config(scheme))
    try:
        found = [await _read(connection, span) for span in SPANS[:2]]
        _bounded(connection, most)
        return found
    finally:
        await connection.aclose()


def rtu_frames(data: bytes) -> None:
    """Two reads, each answered by `data`."""
    payload, sizes = pieces(data)
    answer = list(chunks(payload, sizes))
    _check(_loop().run(replying([answer, answer]), _over_line("rtu+tcp", 512)))


def ascii_frames(data: bytes) -> None:
    """Two reads, each answered by `data`."""
    payload, sizes = pieces(data)
    answer = list(chunks(payload, sizes))
    _check(_loop().run(replying([answer, answer]), _over_line("ascii+tcp", 1026)))


async def _identified(scheme: str) -> None:
    connection = await open_connection(_config(scheme))
    try:
        objects = await read_objects(connection, 1, 2)
        if len(objects) > 256 or any(not letter.isprintable() for text in objects.values() for letter in text):
            raise Violation(f"{objects}")
    finally:
        await connection.aclose()


def identification(data: bytes) -> None:
    """Function code 43 over TCP (its PDU is framed here) or RTU, every request answered by `data`."""
    body = b"\x2b\x0e\x02\x01" + data[1:] if data[:1] < b"\x80" else data[1:]
    body = body[:253]
    if data[:1] < b"\x40":
        answers = [[struct.pack(">HHHB", number, 0, len(body) + 1, 1) + body] for number in range(1, 20)]
        _loop().run(replying(answers), _identified("tcp"))
    else:
        _loop().run(replying([[rtu(Request(0, 1, 43, 0, 0), body)]] * 20), _identified("rtu+tcp"))


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
    *(point(400 + number * 8, kind, order=("ABCD", "CDAB", "BADC", "DCBA")[number % 4]) for number, kind in enumerate(
        (
            "datetime[ymdhms]", "datetime[smhdmy]", "datetime[ymd]", "datetime[ymd-hm]", "datetime_bcd[dmyhms]", "datetime8[ymdhms]",
            "datetime8_bcd[ymdhms]", "ti081", "unix32", "unix64", "unix64_ms",
        )
        * 4
    )),
    point(3, "bool", function=1), point(9, "bool", function=2), point(40, "bool", bit=11),
]  # fmt: skip


@cache
def _layouts() -> Sequence[Layout]:
    """Zones on both sides of UTC, so that a date at either end of the calendar runs over it."""
    return [
        Layout(POINTS, blocks_of(POINTS), {0: q.BAD_NODE_ID_UNKNOWN}, zone=ZoneInfo(name))
        for name in ("Asia/Tokyo", "America/Los_Angeles")
    ]


def values(data: bytes) -> None:
    """Every type in every byte order, from `data` repeated over all blocks."""
    for layout in _layouts():
        _values(layout, data)


def _values(layout: Layout, data: bytes) -> None:
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
        if not POINTS[position].kind.is_text:
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


def _datagram_seeds() -> list[bytes]:
    requests = [Request(number + 2, *span) for number, span in enumerate(SPANS)]
    good = [frame(request, pdu(request)) for request in requests]
    sizes = bytes(map(len, good))
    late = frame(Request(1, *SPANS[0]), pdu(Request(1, *SPANS[0])))
    return [
        b"\3" + sizes + b"".join(good),
        whole(good[0]),
        bytes((2, len(late), len(good[0]))) + late + good[0],
        whole(frame(requests[0], bytes((0x83, 2)))),
        whole(b"".join(good)),
        whole(b"\0\2\0\0"),
    ]


def _ascii_frame(unit: int, answer: bytes) -> bytes:
    body = bytes((unit,)) + answer
    return b":" + (body + bytes((-sum(body) & 0xFF,))).hex().upper().encode() + b"\r\n"


def _ascii_seeds() -> list[bytes]:
    good = _ascii_frame(1, pdu(Request(0, *SPANS[0])))
    return [
        whole(good),
        dripping(good),
        whole(_ascii_frame(1, bytes((0x83, 2)))),
        whole(b":01\r\n" + good),
        whole(b"\xff:0" + good),
        whole(good[:-4]),
        whole(good + good),
        whole(b":\r\n:" + good.lower()),
        whole(_ascii_frame(1, b"")),
    ]


def _identification_seeds() -> list[bytes]:
    named = b"\x01\0\0\x02\0\x04Acme\x01\x03X-1"
    endless = b"\x01\xff\x01\x01\0\x04Acme"
    return [b"\0" + named, b"\x40" + named, b"\0" + endless, b"\x40" + endless, b"\x80\xab\1", b"\xc0\x2b\x0e", b"\0\x01\0\0\xff"]


def _value_seeds() -> list[bytes]:
    ends = struct.pack(">6H", 9999, 12, 31, 23, 59, 59), struct.pack(">6H", 1, 1, 1, 0, 0, 0)
    packed = (
        b"\x26\x11\x27\x12\x35\x09",
        struct.pack(">4H", 26, 11 << 8 | 27, 12 << 8 | 35, 9000),
        struct.pack(">q", 1_795_782_909),
    )
    return [
        *ends,
        *packed,
        bytes(range(256)),
        bytes(16),
        b"\xff" * 64,
        "現場".encode("cp932") * 8,
        b"\x12\x34" * 20,
        b"\xfe" + bytes(99),
    ]


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
        "tdatetime[ymd-hms]",
        "tdatetime8_bcd[smhdmy]",
        "tti081",
        "%mw7",
    ]
    return [text.encode() for text in texts]


TARGETS = [
    Target("modbus-tcp", tcp_stream, _stream_seeds, fixed_bytes=1 << 20),
    Target("modbus-rtu", rtu_frames, _frame_seeds, errors=()),
    Target("modbus-udp", datagrams, _datagram_seeds),
    Target("modbus-ascii", ascii_frames, _ascii_seeds),
    Target("modbus-identification", identification, _identification_seeds, errors=ERRORS, longest=300),
    Target("modbus-values", values, _value_seeds),
    Target("modbus-addresses", addresses, _address_seeds, errors=(ValueError,), longest=200),
]
