"""Snapshots as bytes: named numpy arrays in a small container that says whose they are. Never pickle.

Layout: magic `GBS1`, uint32 length of the header, JSON header, the arrays' bytes in the header's order, CRC-32 of all before
it; little-endian throughout. The header names the kind of model, its state version and the parameters that shaped the state.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from schemas.errors import StateMismatch

_MAGIC: Final = b"GBS1"
_DTYPES: Final = frozenset({"<f8", "<f4", "<i8", "<i4", "<u8", "<u4", "|i1", "|u1", "|b1"})

Arrays = Mapping[str, npt.NDArray[np.generic]]


def pack(kind: str, version: int, parameters: str, arrays: Arrays) -> bytes:
    """The container. `parameters` is any text; a state is only taken back under the same kind, version and parameters.

    Raises TypeError for an array of another type than float, int, unsigned or bool.
    """
    described = []
    parts = []
    for name, array in arrays.items():
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        if little.dtype.str not in _DTYPES:
            raise TypeError(f"{name}: a state holds no {array.dtype}")
        described.append({"name": name, "dtype": little.dtype.str, "shape": list(array.shape)})
        parts.append(little.tobytes())
    header = json.dumps({"kind": kind, "version": version, "parameters": parameters, "arrays": described}).encode()
    body = b"".join([_MAGIC, struct.pack("<I", len(header)), header, *parts])
    return body + struct.pack("<I", zlib.crc32(body))


def unpack(state: bytes, kind: str, version: int, parameters: str) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays (writable, native). Raises StateMismatch when damaged, or of another kind, version or parameter set."""
    header, at = _header(state)
    for name, wanted in (("kind", kind), ("version", version), ("parameters", parameters)):
        if header.get(name) != wanted:
            raise StateMismatch(f"the stored state has {name} {header.get(name)!r}, this model {wanted!r}")
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    try:
        for entry in header["arrays"]:
            dtype, shape = np.dtype(_known(entry["dtype"])), tuple(int(n) for n in entry["shape"])
            count = int(np.prod(shape, dtype=np.int64))
            if count < 0 or at + count * dtype.itemsize > len(state) - 4:
                raise StateMismatch("the stored state is truncated")
            flat = np.frombuffer(state, dtype=dtype, count=count, offset=at)
            arrays[str(entry["name"])] = flat.reshape(shape).astype(dtype.newbyteorder("="))
            at += count * dtype.itemsize
    except (KeyError, TypeError, ValueError) as error:
        raise StateMismatch(f"the header of the stored state is damaged: {error}") from error
    return arrays


def _header(state: bytes) -> tuple[dict[str, Any], int]:
    if len(state) < 12 or state[:4] != _MAGIC:
        raise StateMismatch("not a stored state")
    (length,) = struct.unpack_from("<I", state, 4)
    if len(state) < 12 + length or zlib.crc32(state[:-4]) != struct.unpack_from("<I", state, len(state) - 4)[0]:
        raise StateMismatch("the stored state is truncated or damaged")
    try:
        header = json.loads(state[8 : 8 + length])
    except ValueError as error:
        raise StateMismatch(f"the header of the stored state is damaged: {error}") from error
    if not isinstance(header, dict):
        raise StateMismatch("the header of the stored state is damaged")
    return header, 8 + length


def _known(dtype: object) -> str:
    if dtype not in _DTYPES:
        raise StateMismatch(f"the stored state holds a {dtype!r}")
    return str(dtype)


def text_array(text: str) -> npt.NDArray[np.uint8]:
    """Text as an array of UTF-8 bytes, so that a state may carry names."""
    return np.frombuffer(text.encode(), dtype=np.uint8).copy()


def array_text(array: npt.NDArray[np.generic]) -> str:
    """The inverse of `text_array`. Raises StateMismatch for what is no UTF-8."""
    try:
        return array.astype(np.uint8).tobytes().decode()
    except UnicodeDecodeError as error:
        raise StateMismatch("the stored state holds damaged text") from error
