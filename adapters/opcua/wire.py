"""Walks the OPC UA binary encoding with every length checked before it is used (OPC 10000-6, 5.2).

Nothing here builds objects for what it walks over: a position goes in, the position behind comes out. So a lying count costs
a comparison, not memory. Raises MalformedMessage for anything that does not fit into the bytes that are there.
"""

from __future__ import annotations

import base64
import uuid
from struct import Struct
from typing import Final

from schemas import quality

MAX_DEPTH: Final = 16
"""Variants, data values and diagnostics nest; deeper than this is an attack, not a measurement."""
MAX_STEPS: Final = 250_000
"""Texts, structures and their like in one message, elements of arrays counted; numbers are not, which come as packed arrays."""

MAX_DIAGNOSTICS: Final = 1_000
"""Texts beside an answer. We ask for none."""

_U16: Final = Struct("<H")
_U32: Final = Struct("<I")
_I32: Final = Struct("<i")
_FIXED: Final = {1: 1, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 4, 8: 8, 9: 8, 10: 4, 11: 8, 13: 8, 14: 16, 19: 4}
_NODE_ID: Final = {0: 2, 1: 4, 2: 7, 4: 19}
_BYTES: Final = frozenset({12, 15, 16, 26, 27, 28, 29, 30, 31})  # String, ByteString, XmlElement, and types to come


class MalformedMessage(ValueError):
    """A message that does not follow the encoding: truncated, or a length that cannot be."""


class Budget:
    """How many values without a fixed size one message may still hold; each costs a step of Python, so that they are bounded."""

    __slots__ = ("left", "steps")

    def __init__(self, steps: int = MAX_STEPS) -> None:
        self.left = self.steps = steps

    def take(self, steps: int) -> None:
        """Raises MalformedMessage when the message holds more than that."""
        self.left -= steps
        if self.left < 0:
            raise MalformedMessage(f"more than {self.steps} texts, structures or lists in one message")


def u8(data: bytes, at: int) -> int:
    """The byte at `at`."""
    if at >= len(data):
        raise MalformedMessage(f"message of {len(data)} bytes ends before byte {at}")
    return data[at]


def u16(data: bytes, at: int) -> int:
    """The UInt16 at `at`."""
    return int(_U16.unpack_from(data, need(data, at, 2) - 2)[0])


def u32(data: bytes, at: int) -> int:
    """The UInt32 at `at`."""
    return int(_U32.unpack_from(data, need(data, at, 4) - 4)[0])


def i32(data: bytes, at: int) -> int:
    """The Int32 at `at`."""
    return int(_I32.unpack_from(data, need(data, at, 4) - 4)[0])


def need(data: bytes, at: int, size: int) -> int:
    """The position behind `size` bytes at `at`, which must be there."""
    if size < 0 or at + size > len(data):
        raise MalformedMessage(f"message of {len(data)} bytes ends before byte {at + size}")
    return at + size


def count(data: bytes, at: int, smallest: int) -> int:
    """The length of the array at `at` (null is 0), none of whose elements is shorter than `smallest` bytes."""
    n = i32(data, at)
    if n < -1 or n * smallest > len(data) - at - 4:
        raise MalformedMessage(f"an array of {n} elements does not fit into {len(data) - at - 4} bytes")
    return max(n, 0)


def at_most(n: int, most: int, what: str) -> int:
    """`n`, the number of `what` in one message. Raises MalformedMessage above `most`: each costs a step of Python."""
    if n > most:
        raise MalformedMessage(f"{n} {what} in one message")
    return n


def bytes_end(data: bytes, at: int) -> int:
    """Behind a String or ByteString."""
    n = i32(data, at)
    if n < -1:
        raise MalformedMessage(f"a string cannot have {n} bytes")
    return need(data, at + 4, max(n, 0))


def text(data: bytes, at: int) -> tuple[str, int]:
    """A String (null reads as empty, invalid UTF-8 is replaced) and the position behind it."""
    end = bytes_end(data, at)
    return data[at + 4 : end].decode("utf-8", errors="replace"), end


def node_id_end(data: bytes, at: int) -> int:
    """Behind a NodeId or ExpandedNodeId."""
    flags = u8(data, at)
    form = flags & 0x3F
    if form in _NODE_ID:
        end = need(data, at, _NODE_ID[form])
    elif form in (3, 5):
        end = bytes_end(data, need(data, at, 3))
    else:
        raise MalformedMessage(f"unknown form {form} of a NodeId")
    if flags & 0x80:
        end = bytes_end(data, end)
    return need(data, end, 4) if flags & 0x40 else end


NodeKey = tuple[int, int | str | bytes | uuid.UUID]
"""A NodeId of one session: namespace index and identifier."""


def node_key(data: bytes, at: int) -> tuple[NodeKey, int]:
    """A NodeId (of an ExpandedNodeId: without its namespace URI and server) and the position behind it."""
    end = node_id_end(data, at)
    form = data[at] & 0x3F
    if form == 0:
        return (0, data[at + 1]), end
    if form == 1:
        return (data[at + 1], u16(data, at + 2)), end
    space = u16(data, at + 1)
    if form == 2:
        return (space, u32(data, at + 3)), end
    if form == 4:
        return (space, uuid.UUID(bytes_le=data[at + 3 : at + 19])), end
    body = data[at + 7 : bytes_end(data, at + 3)]
    return (space, body.decode("utf-8", errors="replace") if form == 3 else body), end


def node_text(key: NodeKey) -> str:
    """A NodeId as people write it: `ns=2;s=Line.Temp`."""
    space = f"ns={key[0]};" if key[0] else ""
    match key[1]:
        case int():
            return f"{space}i={key[1]}"
        case str():
            return f"{space}s={key[1]}"
        case bytes():
            return f"{space}b={base64.b64encode(key[1]).decode()}"
        case _:
            return f"{space}g={key[1]}"


def encoding_id(data: bytes, at: int) -> tuple[int, int]:
    """The numeric id of a type in namespace 0 (-1 for any other NodeId) and the position behind it."""
    end = node_id_end(data, at)
    form = data[at]
    if form == 0:
        return data[at + 1], end
    if form == 1 and data[at + 1] == 0:
        return u16(data, at + 2), end
    if form == 2 and u16(data, at + 1) == 0:
        return u32(data, at + 3), end
    return -1, end


def extension_object(data: bytes, at: int) -> tuple[int, int, int]:
    """(type id as of `encoding_id`, start of the body, end) of an ExtensionObject; start == end when it has none."""
    kind, at = encoding_id(data, at)
    encoding = u8(data, at)
    if encoding == 0:
        return kind, at + 1, at + 1
    if encoding not in (1, 2):
        raise MalformedMessage(f"unknown encoding {encoding} of an ExtensionObject")
    return kind, at + 5, bytes_end(data, at + 1)


def diagnostics_end(data: bytes, at: int, depth: int = 0) -> int:
    """Behind a DiagnosticInfo."""
    _check(depth)
    mask = u8(data, at)
    at += 1
    for bit in (0x01, 0x02, 0x08, 0x04):  # symbolic id, namespace, locale, localized text: each an index
        if mask & bit:
            at = need(data, at, 4)
    if mask & 0x10:
        at = bytes_end(data, at)
    if mask & 0x20:
        at = need(data, at, 4)
    return diagnostics_end(data, at, depth + 1) if mask & 0x40 else at


def variant_end(data: bytes, at: int, depth: int = 0, budget: Budget | None = None) -> int:
    """Behind a Variant, scalar or array. What it holds is taken from `budget`."""
    _check(depth)
    budget = budget or Budget()
    encoding = u8(data, at)
    kind = encoding & 0x3F
    at += 1
    if not encoding & 0x80:
        at = _value_end(data, at, kind, depth, budget)
    elif kind == 0 and count(data, at, 0):
        raise MalformedMessage("an array of nothing")
    elif kind in _FIXED:
        at = need(data, at + 4, count(data, at, _FIXED[kind]) * _FIXED[kind])
    else:
        n = count(data, at, 1)
        budget.take(n)
        at += 4
        for _ in range(n):
            at = _value_end(data, at, kind, depth, budget)
    return need(data, at + 4, count(data, at, 4) * 4) if encoding & 0x40 else at


def data_value_end(data: bytes, at: int, depth: int = 0, budget: Budget | None = None) -> int:
    """Behind a DataValue."""
    _check(depth)
    mask = u8(data, at)
    at += 1
    if mask & 1:
        at = variant_end(data, at, depth + 1, budget)
    for bit, size in ((2, 4), (4, 8), (16, 2), (8, 8), (32, 2)):
        if mask & bit:
            at = need(data, at, size)
    return at


def scalar_text(data: bytes, at: int, kind: int) -> tuple[str, int]:
    """The text of a scalar value of built-in type `kind` at `at`, and the position behind it.

    String, XmlElement, QualifiedName and LocalizedText as their text; Guid, NodeId and StatusCode as people write them; a ByteString in
    hexadecimal, as RFID readers and serial numbers are compared.
    """
    if kind in (12, 16):
        return text(data, at)
    if kind == 14:
        end = need(data, at, 16)
        return str(uuid.UUID(bytes_le=data[at:end])), end
    if kind == 15:
        end = bytes_end(data, at)
        return data[at + 4 : end].hex(), end
    if kind in (17, 18):
        key, end = node_key(data, at)
        return node_text(key), end
    if kind == 19:
        return quality.name(u32(data, at)), at + 4
    if kind == 20:
        return text(data, at + 2)
    mask = u8(data, at)
    at = bytes_end(data, at + 1) if mask & 1 else at + 1
    return text(data, at) if mask & 2 else ("", at)


def response_body(data: bytes) -> tuple[int, int, int]:
    """(type id, service result, start of the parameters) of a response message."""
    kind, at = encoding_id(data, 0)
    result = u32(data, at + 12)  # behind timestamp and request handle
    at = diagnostics_end(data, at + 16)
    n = at_most(count(data, at, 4), MAX_DIAGNOSTICS, "texts of diagnostics")
    at += 4
    for _ in range(n):
        at = bytes_end(data, at)
    return kind, result, extension_object(data, at)[2]


def _value_end(data: bytes, at: int, kind: int, depth: int, budget: Budget) -> int:
    if kind in _FIXED:
        return need(data, at, _FIXED[kind])
    if kind in _BYTES:
        return bytes_end(data, at)
    if kind == 0:
        return at
    if kind in (17, 18):
        return node_id_end(data, at)
    if kind == 20:
        return bytes_end(data, need(data, at, 2))
    if kind == 21:
        mask = u8(data, at)
        at = bytes_end(data, at + 1) if mask & 1 else at + 1
        return bytes_end(data, at) if mask & 2 else at
    if kind == 22:
        return extension_object(data, at)[2]
    if kind == 23:
        return data_value_end(data, at, depth + 1, budget)
    if kind == 24:
        return variant_end(data, at, depth + 1, budget)
    if kind == 25:
        return diagnostics_end(data, at, depth + 1)
    raise MalformedMessage(f"unknown built-in type {kind}")


def _check(depth: int) -> None:
    if depth > MAX_DEPTH:
        raise MalformedMessage(f"nested deeper than {MAX_DEPTH}")
