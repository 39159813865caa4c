"""The S7 decoders as targets: the stream of an ISO-on-TCP connection, read answers, the values of a scan class, addresses."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from zoneinfo import ZoneInfo

import numpy as np

from adapters.s7 import wire
from adapters.s7.address import parse
from adapters.s7.connection import open_connection
from adapters.s7.datatypes import parse_type
from adapters.s7.plan import Layout, Place
from adapters.s7.wire import OK, Answer, Malformed, Span
from schemas.errors import NotConnected
from tests.fuzz.harness import Target, Violation, chunks, dripping, pieces, whole
from tests.fuzz.wires import WireLoop, replying

ITEMS = (Span(0x84, 1, 0, 20), Span(0x83, 0, 3, 5), Span(0x1D, 0, 4, 2))


@cache
def _loop() -> WireLoop:
    return WireLoop()


async def _session() -> list[bytes]:
    connection = await open_connection("127.0.0.1", 102, (0x0100, 0x0102), timeout_s=0.5)
    try:
        request = wire.read_request(ITEMS)
        answers = await connection.exchange([request] * 3, timeout_s=0.5)
        for pdu in answers:
            _checked(pdu)
        return answers
    finally:
        kept = len(connection._received) + len(connection._fragments)
        await connection.aclose()
        if kept > 2 * 8192:
            raise Violation(f"{kept} bytes are kept")


def stream(data: bytes) -> None:
    """Connect, set up, three reads: the first byte of a reply says how much of `data` it is, 0 for all that is left."""
    payload, sizes = pieces(data)
    replies: list[list[bytes]] = []
    while payload and len(replies) < 5:
        size = payload[0] or len(payload)
        replies.append(list(chunks(payload[1 : 1 + size], sizes)))
        payload = payload[1 + size :]
    _loop().run(replying(replies), _session())


def _checked(pdu: bytes) -> list[Answer]:
    sizes = [item.size for item in ITEMS]
    answers = wire.parse_read(pdu, sizes)
    for answer, size in zip(answers, sizes, strict=True):
        if answer.code == OK and len(answer.data) != size:
            raise Violation(f"{len(answer.data)} bytes for {size}")
        wire.refusal(answer.code)
    return answers


def answers(data: bytes) -> None:
    """An S7 PDU read as the answer to a read, or (first byte odd) to the set-up."""
    if data[:1] and data[0] & 1:
        window, pdu = wire.parse_setup(data[1:])
        if window < 1 or pdu < 64:
            raise Violation(f"window {window}, PDU {pdu}")
    else:
        _checked(data[1:])


NAMES = (
    "bool", "byte", "word", "dword", "lword", "sint", "usint", "int", "uint", "dint", "udint", "lint", "ulint", "real", "lreal", "time", "tod",
    "ltime", "ltod", "s5time", "timer", "counter", "date", "dt", "dtl", "ldt", "char", "wchar", "string[9]", "string", "wstring[7]",
    "array[5] of real", "array[3] of int", "array[3] of s5time", "array[11] of bool", "array[7] of char", "array[4] of wchar",
    "array[2] of string[5]", "array[2] of wstring[3]", "array[3] of date", "array[2] of dt", "array[2] of dtl", "array[2] of ldt",
    "array[2] of lint", "array[2] of ulint", "array[2] of ltod",
)  # fmt: skip
ENCODINGS = ("latin-1", "cp932", "utf-8")


def _places() -> list[Place]:
    places, at = [], 0
    for number, name in enumerate(NAMES):
        kind = parse_type(name)
        whole_number = kind.kind == "integer"
        places.append(
            Place(
                Span(0x84, 1, at, kind.size),
                kind,
                bit=5 if name == "bool" else 0,
                encoding=ENCODINGS[number % 3],
                whole=whole_number,
            )
        )
        at += kind.size + kind.size % 2
    return places


@cache
def _layouts() -> Sequence[Layout]:
    """Zones on both sides of UTC, so that a date at either end of the calendar runs over it."""
    return [Layout(_places(), 240, zone=ZoneInfo(name)) for name in ("Asia/Tokyo", "America/Los_Angeles")]


def values(data: bytes) -> None:
    """Every type, from `data` repeated over all items; a first byte of FE makes one item an error."""
    source = (data or b"\0") * (1024 // max(1, len(data)) + 2)
    for layout in _layouts():
        at = 0
        for number, item in enumerate(layout.items):
            if data[:1] == b"\xfe" and number == 0:
                layout.store(number, Answer(data[1] if len(data) > 1 and data[1] != OK else 5, b""))
            else:
                layout.store(number, Answer(OK, source[at : at + item.size]))
            at += item.size
        found = layout.decode()
        if any(found.quality[position] for position in found.texts):
            raise Violation("a text that is bad")
        for text in found.texts.values():
            text.encode()
        for position, samples in found.samples.items():
            if samples.dtype != np.float64 or len(samples) != layout.places[position].kind.length:
                raise Violation("an array of another length")


def addresses(data: bytes) -> None:
    """Whatever is an address or a type has one spelling, and that reads as itself."""
    text = data.decode("utf-8", "replace")
    if text.startswith("!"):
        kind = parse_type(text[1:])
        if parse_type(str(kind)) != kind:
            raise Violation(f"{text!r} is {kind} and that is {parse_type(str(kind))}")
        return
    address = parse(text)
    if parse(str(address)) != address:
        raise Violation(f"{text!r} is {address} and that is {parse(str(address))}")


CONFIRM = bytes.fromhex("0300001611d00001000100c0010ac1020100c2020102")


def _acknowledge(reference: int, parameters: bytes, data: bytes) -> bytes:
    return wire.frame(struct.pack(">BBHHHHH", 0x32, 3, 0, reference, len(parameters), len(data), 0) + parameters + data)


def _read_answer(reference: int) -> bytes:
    data = b""
    for item in ITEMS:
        data += b"\0" * (len(data) & 1) + struct.pack(">BBH", OK, 4, item.size * 8) + bytes(range(item.size))
    return _acknowledge(reference, bytes((4, len(ITEMS))), data)


SETUP = _acknowledge(1, struct.pack(">BBHHH", 0xF0, 0, 8, 8, 480), b"")


def _stream_seeds() -> list[bytes]:
    def said(*replies: bytes) -> bytes:
        return b"".join(bytes((len(reply),)) + reply for reply in replies)

    reads = [_read_answer(number) for number in (2, 3, 4)]
    swapped = [_read_answer(number) for number in (4, 3, 2)]
    halves = [SETUP[:7].replace(b"\x80", b"\x00") + SETUP[7:12], SETUP]
    refused = bytes.fromhex("0300000b0680000000010000")[:11]
    return [
        whole(said(CONFIRM, SETUP, *reads)), dripping(said(CONFIRM, SETUP, *reads)), whole(said(CONFIRM, SETUP, b"".join(swapped))),
        whole(said(refused)), whole(said(CONFIRM, *halves)), whole(said(CONFIRM, SETUP, reads[0], b"\x15\x03\x03"))
    ]  # fmt: skip


def _answer_seeds() -> list[bytes]:
    refused = struct.pack(">BBHHHHH", 0x32, 3, 0, 2, 2, 12, 0) + b"\4\3" + b"\x0a\0\0\0\x05\0\0\0\x03\0\0\0"
    error = struct.pack(">BBHHHHH", 0x32, 2, 0, 2, 0, 0, 0x8104)
    return [b"\0" + _read_answer(2)[7:], b"\1" + SETUP[7:], b"\0" + refused, b"\0" + error, b"\1" + error]


def _value_seeds() -> list[bytes]:
    dtl = struct.pack(">HBBBBBBI", 2026, 3, 4, 4, 5, 6, 7, 891_000_000)
    ends = struct.pack(">HBBBBBBI", 1, 1, 1, 1, 0, 0, 0, 0), struct.pack(">HBBBBBBI", 9999, 12, 31, 1, 23, 59, 59, 999_999_999)
    return [
        bytes(64),
        bytes(range(256)),
        b"\xff" * 32,
        dtl * 4,
        *ends,
        b"\x26\x03\x04\x05\x06\x07\x89\x14" * 3,
        b"\x09\x05Osaka",
        b"\xfe\x0a" + bytes(50),
    ]


def _address_seeds() -> list[bytes]:
    texts = [
        "DB10.DBX0.3",
        "db1.dbd4",
        "%MW10",
        "E0.0",
        "AB4",
        "T5",
        "Z12",
        "DB1.DBL8",
        "!string[32]",
        "!Array[0..9] of Real",
        "!array[4] of int",
        "!wstring",
    ]
    return [text.encode() for text in texts]


TARGETS = [
    Target("s7-stream", stream, _stream_seeds, errors=(NotConnected, Malformed)),
    Target("s7-answers", answers, _answer_seeds, errors=(Malformed, ConnectionError)),
    Target("s7-values", values, _value_seeds),
    Target("s7-addresses", addresses, _address_seeds, errors=(ValueError,), longest=200),
]
