"""Values that are neither one number nor one text: arrays, structures, and their parts. Pure: bytes of a Variant in.

The Variant has been walked over by `decode.py`, so that its lengths are known to fit; inside of a structure they are checked here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from struct import Struct
from typing import Final

import numpy as np
import numpy.typing as npt

from schemas import quality as q

from . import wire
from .decode import ARRAY, DATETIME, STRUCTURE, TEXT_KINDS
from .selection import Step
from .wire import Budget, MalformedMessage, NodeKey

LAST_FILETIME: Final = 2_650_467_744_000_000_000  # year 10000
NUMBERS: Final[Mapping[int, str]] = {
    1: "?", 2: "i1", 3: "u1", 4: "<i2", 5: "<u2", 6: "<i4", 7: "<u4", 8: "<i8", 9: "<u8", 10: "<f4", 11: "<f8", 13: "<i8",
}  # fmt: skip
_STRUCTS: Final = {kind: Struct(f"<{char}") for kind, char in zip(NUMBERS, "?bBhHiIqQfdq", strict=True)}
_VARIANT: Final = 24
_DATA_VALUE: Final = 23


@dataclass(frozen=True, slots=True)
class Value:
    """A decoded value. `kind` is its built-in type, with ARRAY for an array.

    `content`: a number (DateTime: 100 ns since 1601), a text, None, numpy numbers, a list of values, or the fields of a structure by
    name. `wrong` is the status code of a value that cannot be read (a structure whose type the server does not describe).
    """

    kind: int
    content: object = None
    wrong: int = 0


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a structure: a built-in type, or, with `structure`, another structure, whose fields stand inline."""

    name: str
    kind: int
    structure: NodeKey | None = None
    rank: int = 0  # 0: one value, 1: an array, more: a matrix
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Structure:
    """A structure as its server defines it (OPC 10000-3, 8.48): with optional fields, or as a union."""

    name: str
    fields: tuple[Field, ...]
    optional: bool = False
    union: bool = False


@dataclass(slots=True)
class Types:
    """The structures of one session: by data type, and the data type by the id of its binary encoding."""

    structures: dict[NodeKey, Structure] = field(default_factory=dict)
    encodings: dict[NodeKey, NodeKey] = field(default_factory=dict)


def numbers(variant: bytes) -> npt.NDArray[np.generic]:
    """The elements of an array of numbers, a matrix row by row; DateTime as 100 ns since 1601. Read only."""
    kind = variant[0] & 0x3F
    return np.frombuffer(variant, NUMBERS[kind], wire.count(variant, 1, 1), 5)


def decode(variant: bytes, types: Types) -> Value:
    """What is in a Variant, structures by the definitions in `types`. Raises MalformedMessage."""
    return _variant(variant, 0, types, Budget(), 0)[0]


def pick(value: Value, steps: Sequence[Step]) -> Value:
    """The part of `value` that `steps` lead to. What is not there is a value whose `wrong` says why."""
    for step in steps:
        if value.wrong:
            return value
        content = value.content
        if isinstance(step, str):
            if not isinstance(content, dict):
                return Value(value.kind, wrong=q.BAD_TYPE_MISMATCH)
            if step not in content:
                return Value(value.kind, wrong=q.BAD_NO_MATCH)
            value = content[step]
            continue
        if not isinstance(content, (list, np.ndarray)):
            return Value(value.kind, wrong=q.BAD_TYPE_MISMATCH if content is not None else q.BAD_NO_DATA)
        if step >= len(content):
            return Value(value.kind, wrong=q.BAD_INDEX_RANGE_NO_DATA)
        element = content[step]
        value = element if isinstance(element, Value) else Value(value.kind & ~ARRAY, element.item())
    return value


def as_json(value: Value) -> str:
    """The list or structure as JSON, for people and programs; numbers keep every digit, NaN and infinity become null."""
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def iso(filetime: int) -> str:
    """A DateTime as ISO 8601 in UTC with µs; the ends of the range (`never`) as empty text."""
    if not 0 < filetime < LAST_FILETIME:
        return ""
    return (datetime(1601, 1, 1, tzinfo=UTC) + timedelta(microseconds=filetime // 10)).isoformat().replace("+00:00", "Z")


def _plain(value: Value) -> object:
    content = value.content
    if isinstance(content, dict):
        return {name: _plain(part) for name, part in content.items()}
    if isinstance(content, list):
        return [_plain(part) for part in content]
    if isinstance(content, np.ndarray):
        return [_number(value.kind & ~ARRAY, one) for one in content.tolist()]
    return _number(value.kind, content)


def _number(kind: int, content: object) -> object:
    if kind == DATETIME and isinstance(content, int):
        return iso(content)
    return None if isinstance(content, float) and not np.isfinite(content) else content


def _variant(data: bytes, at: int, types: Types, budget: Budget, depth: int) -> tuple[Value, int]:
    _bounded(depth)
    end = wire.variant_end(data, at, depth)
    encoding = data[at]
    kind = encoding & 0x3F
    if encoding & ARRAY:
        return _array(data, at + 1, kind, None, types, budget, depth)[0], end
    return _scalar(data, at + 1, kind, types, budget, depth)[0], end


def _array(
    data: bytes, at: int, kind: int, structure: NodeKey | None, types: Types, budget: Budget, depth: int
) -> tuple[Value, int]:
    """An array from its length on; the elements stand one after the other."""
    return _elements(data, at + 4, wire.count(data, at, 1), kind, structure, types, budget, depth)


def _elements(
    data: bytes, at: int, n: int, kind: int, structure: NodeKey | None, types: Types, budget: Budget, depth: int
) -> tuple[Value, int]:
    if structure is None and kind in NUMBERS:
        form = np.dtype(NUMBERS[kind])
        end = wire.need(data, at, n * form.itemsize)
        return Value(kind | ARRAY, np.frombuffer(data, form, n, at)), end
    budget.take(n)
    elements: list[Value] = []
    for _ in range(n):
        if structure is not None:
            element, at = _structure(data, at, structure, types, budget, depth + 1)
        else:
            element, at = _scalar(data, at, kind, types, budget, depth)
        elements.append(element)
    return Value(kind | ARRAY, elements), at


def _scalar(data: bytes, at: int, kind: int, types: Types, budget: Budget, depth: int) -> tuple[Value, int]:
    """One value of a built-in type, and the position behind it."""
    if kind in NUMBERS:
        form = _STRUCTS[kind]
        end = wire.need(data, at, form.size)
        return Value(kind, form.unpack_from(data, at)[0]), end
    if kind in TEXT_KINDS:
        text, end = wire.scalar_text(data, at, kind)
        return Value(kind, text), end
    if kind == STRUCTURE:
        return _extension_object(data, at, types, budget, depth)
    if kind == _VARIANT:
        return _variant(data, at, types, budget, depth + 1)
    if kind == _DATA_VALUE:
        end = wire.data_value_end(data, at, depth)
        inner = _variant(data, at + 1, types, budget, depth + 1)[0] if data[at] & 1 else Value(0)
        return inner, end
    if kind == 0:
        return Value(0), at
    return Value(kind, wrong=q.BAD_TYPE_MISMATCH), wire.diagnostics_end(data, at, depth)


def _extension_object(data: bytes, at: int, types: Types, budget: Budget, depth: int) -> tuple[Value, int]:
    """A structure with its type in front; one of a type that nobody described is passed over by its length."""
    _, body, end = wire.extension_object(data, at)
    if body == end:
        return Value(STRUCTURE, wrong=q.BAD_NO_DATA), end
    key = types.encodings.get(wire.node_key(data, at)[0])
    if key is None or data[body - 5] != 1:  # only a binary body
        return Value(STRUCTURE, wrong=q.BAD_DATA_TYPE_ID_UNKNOWN), end
    try:
        return _structure(data[:end], body, key, types, budget, depth + 1)[0], end
    except MalformedMessage:
        return Value(STRUCTURE, wrong=q.BAD_DECODING_ERROR), end  # its length is known: the others stand


def _structure(data: bytes, at: int, key: NodeKey, types: Types, budget: Budget, depth: int) -> tuple[Value, int]:
    """The fields of a structure (OPC 10000-6, 5.2.6 and 5.2.7)."""
    _bounded(depth)
    definition = types.structures.get(key)
    if definition is None:
        raise MalformedMessage("a structure that the server does not describe")
    budget.take(1 + len(definition.fields))
    chosen: Sequence[Field] = definition.fields
    if definition.union:
        number = wire.u32(data, at)
        at += 4
        if number > len(chosen):
            raise MalformedMessage(f"field {number} of a union of {len(chosen)}")
        chosen = chosen[number - 1 : number] if number else ()
    elif definition.optional:
        mask = wire.u32(data, at)
        at += 4
        bits = iter(range(32))
        chosen = [one for one in chosen if not one.optional or mask >> next(bits, 32) & 1]
    content: dict[str, Value] = {}
    for one in chosen:
        if one.rank == 1:
            content[one.name], at = _array(data, at, one.kind, one.structure, types, budget, depth)
        elif one.rank > 1:
            content[one.name], at = _matrix(data, at, one, types, budget, depth)
        elif one.structure is not None:
            content[one.name], at = _structure(data, at, one.structure, types, budget, depth + 1)
        else:
            content[one.name], at = _scalar(data, at, one.kind, types, budget, depth)
    return Value(STRUCTURE, content), at


def _matrix(data: bytes, at: int, one: Field, types: Types, budget: Budget, depth: int) -> tuple[Value, int]:
    """A field with several dimensions: their sizes, then the elements row by row (OPC 10000-6, 5.2.5)."""
    dimensions = wire.count(data, at, 4)
    sizes = [wire.i32(data, at + 4 + 4 * number) for number in range(dimensions)]
    n = 1 if sizes else 0
    for size in sizes:
        if size < 0 or n * max(size, 1) > len(data):
            raise MalformedMessage(f"a matrix of {sizes} does not fit into {len(data)} bytes")
        n *= size
    return _elements(data, at + 4 + 4 * dimensions, n, one.kind, one.structure, types, budget, depth)


def _bounded(depth: int) -> None:
    if depth > wire.MAX_DEPTH:
        raise MalformedMessage(f"nested deeper than {wire.MAX_DEPTH}")
