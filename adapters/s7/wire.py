"""What goes over the wire: read requests built with python-snap7's codec, and the answers to them.

Frames are TPKT (RFC 1006), COTP (ISO 8073) and the S7 PDU. An answer is parsed here and not by the library, because the library
raises at the first item in error and the others would be lost with it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from s7.datatypes import S7Area, S7DataTypes, S7WordLen
from s7.s7protocol import S7Protocol

from schemas import quality as q

OK: Final = 0xFF
ANSWER_OVERHEAD: Final = 18  # header 12, parameters 2, item header 4: what a read of one item takes from the PDU
MAX_ITEMS: Final = 20
"""How many items one read may have on any CPU."""
_ACK: Final = 2
_ACK_DATA: Final = 3
_READ: Final = 4
_TPKT_COTP: Final = 7
_ITEMS_AT: Final = 12  # header 10 (an answer has 2 more), function and number of items
_ITEM: Final = 12
_ELEMENTS: Final = (0x1C, 0x1D)  # counters, timers: area and transport size have the same number
_IN_BYTES: Final = (0x03, 0x07, 0x09)  # transport sizes whose length counts bytes (a bit is one); the others count bits


class Malformed(Exception):
    """What came is not S7, or not an answer to what was asked."""


class Span(NamedTuple):
    """Bytes of one area: `area` as the protocol numbers it, `db` 0 outside of data blocks.

    Timers and counters are taken as bytes too, two each; `start` and `size` are even there.
    """

    area: int
    db: int
    start: int
    size: int


class Refusal(NamedTuple):
    """Why a PLC does not give a value: the quality of the tag, whether asking again soon is useless, and words for people."""

    quality: int
    lasting: bool
    reason: str


_ITEM_REFUSALS: Final = {
    0x01: Refusal(q.BAD_DEVICE_FAILURE, False, "the PLC reports a hardware fault there"),
    0x03: Refusal(q.BAD_NOT_READABLE, True, "the PLC refuses access: allow PUT/GET, and take optimised access off the block"),
    0x05: Refusal(q.BAD_NODE_ID_UNKNOWN, True, "the address is outside of the block or area, or the block has optimised access"),
    0x06: Refusal(q.BAD_TYPE_MISMATCH, True, "the PLC does not support this kind of access"),
    0x07: Refusal(q.BAD_TYPE_MISMATCH, True, "the PLC finds the kind of access inconsistent"),
    0x0A: Refusal(q.BAD_NODE_ID_UNKNOWN, True, "the block does not exist, or it has optimised access"),
}
_ERROR_REFUSALS: Final = {
    0x8104: Refusal(
        q.BAD_NOT_READABLE, True, "the PLC refuses to be read: allow PUT/GET access from a remote partner on the CPU"
    ),
    0x8500: Refusal(q.BAD_COMMUNICATION_ERROR, False, "the PLC finds the request longer than it agreed to"),
    0xD241: Refusal(q.BAD_NOT_READABLE, True, "the PLC asks for a password before it lets itself be read"),
    0xD602: Refusal(q.BAD_NOT_READABLE, True, "the protection level of the PLC does not allow reading"),
}
_OF_A_BLOCK: Final = (0x03, 0x0A)


def refusal(code: int) -> Refusal:
    """What a return code of an item (one byte) or the error word of an answer (two) means."""
    found = _ITEM_REFUSALS.get(code) or _ERROR_REFUSALS.get(code)
    return found or Refusal(q.BAD_COMMUNICATION_ERROR, False, f"the PLC answers with error 0x{code:02x}")


def about_all(code: int) -> bool:
    """Whether a code says something of a whole block or PLC: where one of its addresses gets it, all do."""
    return code in _OF_A_BLOCK or code > 0xFF


class Answer(NamedTuple):
    """One item of an answer. `code` is OK, or why there is no `data`."""

    code: int
    data: bytes


def frame(pdu: bytes) -> bytes:
    """An S7 PDU in its TPKT and COTP envelope."""
    return struct.pack(">BBHBBB", 3, 0, len(pdu) + _TPKT_COTP, 2, 0xF0, 0x80) + pdu


def read_request(items: Sequence[Span]) -> tuple[bytes, bytes]:
    """The frame that reads `items`, before and behind its two bytes of PDU reference."""
    pdu = bytearray(S7Protocol().build_multi_read_request(list(items)))
    for number, item in enumerate(items):
        if item.area in _ELEMENTS:  # the wire counts these by number, with a transport size of their own
            at, word = _ITEMS_AT + _ITEM * number, S7WordLen(item.area)
            pdu[at : at + _ITEM] = S7DataTypes.encode_address(S7Area(item.area), 0, item.start // 2, word, item.size // 2)
    return _around_reference(bytes(pdu))


def setup_request(window: int, pdu: int) -> tuple[bytes, bytes]:
    """The frame that asks for `window` requests at a time and a PDU of `pdu` bytes, in two parts like `read_request`."""
    return _around_reference(S7Protocol().build_setup_communication_request(window, window, pdu))


def _around_reference(pdu: bytes) -> tuple[bytes, bytes]:
    whole = frame(pdu)
    return whole[:11], whole[13:]


def parse_setup(pdu: bytes) -> tuple[int, int]:
    """Granted window and PDU from the answer to `setup_request`. Raises Malformed, or ConnectionError where the PLC refuses."""
    error, parameters, _ = _split(pdu)
    if error:
        raise ConnectionError(f"the PLC refuses the connection set-up with error 0x{error:04x}")
    if len(parameters) < 8 or parameters[0] != 0xF0:
        raise Malformed("not an answer to the connection set-up")
    _, callee, size = struct.unpack_from(">HHH", parameters, 2)
    if size < 64:
        raise Malformed(f"the PLC grants a PDU of {size} bytes")
    return max(callee, 1), size


def parse_read(pdu: bytes, sizes: Sequence[int]) -> list[Answer]:
    """The items of an answer to a read of items of these `sizes` in bytes. Raises Malformed unless it is exactly that."""
    error, parameters, data = _split(pdu)
    if error:  # one of a single byte must not be taken for the return code of an item: FF there is OK
        return [Answer(error if error > 0xFF else 0x1_0000 | error, b"")] * len(sizes)
    if len(parameters) != 2 or parameters[0] != _READ or parameters[1] != len(sizes):
        raise Malformed("the answer does not belong to the request")
    answers, at = [], 0
    for size in sizes:
        if at + 4 > len(data) and data[at : at + 1] in (b"", b"\xff"):
            raise Malformed("the answer ends before its last item")
        code = data[at]
        if code != OK:
            answers.append(Answer(code, b""))
            at += 4  # whatever length it states, an item in error has no data
            continue
        transport, length = struct.unpack_from(">BH", data, at + 1)
        count = length if transport in _IN_BYTES else length // 8
        if count != size or at + 4 + size > len(data):
            raise Malformed(f"the PLC sends {count} bytes where {size} were asked for")
        answers.append(Answer(OK, data[at + 4 : at + 4 + size]))
        at += 4 + size + (size & 1)
    return answers


def _split(pdu: bytes) -> tuple[int, bytes, bytes]:
    """Error word, parameters and data of an answer."""
    if len(pdu) < 12 or pdu[0] != 0x32 or pdu[1] not in (_ACK, _ACK_DATA):
        raise Malformed("not an S7 answer")
    parameters, data, error = struct.unpack_from(">HHH", pdu, 6)
    if 12 + parameters + data > len(pdu):
        raise Malformed("the answer is shorter than it says")
    return error, pdu[12 : 12 + parameters], pdu[12 + parameters : 12 + parameters + data]
