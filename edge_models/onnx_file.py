"""What an ONNX file says of itself: inputs, outputs, operator sets, metadata. Read from its bytes, without any ONNX library.

So `genba check` names what does not fit before anything is run, on a machine that has no onnxruntime, and a file that nobody signed is
not loaded into the gateway to find out. An ONNX file is a protocol buffer (`ModelProto` of onnx.proto3); the few fields that are
needed here have had the same numbers since version 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

ELEMENTS: Final[Mapping[int, str]] = {
    1: "float", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string", 9: "bool", 10: "float16",
    11: "double", 12: "uint32", 13: "uint64", 16: "bfloat16",
}  # fmt: skip
DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml"})
"""The operator sets that every onnxruntime has."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_EXTERNAL: Final = 1  # data_location of a tensor that lies in another file


class NotOnnx(ValueError):
    """The bytes are no ONNX model, or one that cannot be used as it is; the message says why."""


@dataclass(frozen=True, slots=True)
class Value:
    """One input or output. A dimension is its size, or its name where it is left open (perhaps empty)."""

    name: str
    element: str  # as in ELEMENTS; `sequence`, `map` or `unknown` for what is no tensor
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.element}[{', '.join(str(size) or '?' for size in self.shape)}]"


@dataclass(frozen=True, slots=True)
class Described:
    """A whole file."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    opsets: Mapping[str, int]
    metadata: Mapping[str, str]
    digest: str  # SHA-256 of the file, hexadecimal


def describe(data: bytes) -> Described:
    """Read the file's own account of itself. Raises NotOnnx."""
    graph: bytes | None = None
    opsets: dict[str, int] = {}
    metadata: dict[str, str] = {}
    try:
        version = 0
        for number, found in _fields(data):
            if number == 1 and isinstance(found, int):
                version = found
            elif number == 7 and isinstance(found, bytes):
                graph = found
            elif number == 8 and isinstance(found, bytes):
                one = dict(_fields(found))
                opsets[_text(one.get(1, b""))] = _whole(one.get(2, 0))
            elif number == 14 and isinstance(found, bytes):
                one = dict(_fields(found))
                metadata[_text(one.get(1, b""))] = _text(one.get(2, b""))
        if graph is None or not version or not opsets:
            raise NotOnnx("it is no ONNX model")
        inputs, outputs, constants = _graph(graph)
    except (IndexError, UnicodeDecodeError, TypeError) as error:
        raise NotOnnx("it is no ONNX model, or a damaged one") from error
    strange = sorted(opsets.keys() - DOMAINS)
    if strange:
        raise NotOnnx(f"it needs the operators of {', '.join(strange)}, which are not part of onnxruntime")
    return Described(
        tuple(value for value in inputs if value.name not in constants), tuple(outputs), opsets, metadata,
        hashlib.sha256(data).hexdigest(),
    )  # fmt: skip


def _graph(graph: bytes) -> tuple[list[Value], list[Value], set[str]]:
    inputs: list[Value] = []
    outputs: list[Value] = []
    constants: set[str] = set()  # old exporters list them as inputs, too
    for number, found in _fields(graph):
        if not isinstance(found, bytes):
            continue
        if number == 5:
            tensor = dict(_fields(found))
            if tensor.get(14) == _EXTERNAL:
                raise NotOnnx("its weights lie in another file: export it as one file")
            constants.add(_text(tensor.get(8, b"")))
        elif number == 11:
            inputs.append(_value(found))
        elif number == 12:
            outputs.append(_value(found))
    return inputs, outputs, constants


def _value(data: bytes) -> Value:
    value = dict(_fields(data))
    name = _text(value.get(1, b""))
    kind = dict(_fields(_bytes(value.get(2, b""))))
    if 1 not in kind:
        return Value(name, "sequence" if 4 in kind else "map" if 5 in kind else "unknown", ())
    tensor = dict(_fields(_bytes(kind[1])))
    shape: list[int | str] = []
    for number, dimension in _fields(_bytes(tensor.get(2, b""))):
        if number == 1:
            size = dict(_fields(_bytes(dimension)))
            shape.append(_whole(size[1]) if 1 in size else _text(size.get(2, b"")))
    return Value(name, ELEMENTS.get(_whole(tensor.get(1, 0)), "unknown"), tuple(shape))


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values of one message. Raises NotOnnx, IndexError."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == _BYTES:
            length, at = _varint(data, at)
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        else:
            raise NotOnnx("it is no ONNX model")
        if number == 0 or at + length > len(data):
            raise NotOnnx("it is no ONNX model, or a damaged one")
        yield number, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise NotOnnx("it is no ONNX model, or a damaged one")


def _text(found: int | bytes) -> str:
    return _bytes(found).decode()


def _bytes(found: int | bytes) -> bytes:
    if not isinstance(found, bytes):
        raise TypeError("not bytes")
    return found


def _whole(found: int | bytes) -> int:
    if not isinstance(found, int):
        raise TypeError("not a number")
    return found
