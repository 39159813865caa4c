"""A checksum of logical rows: the same for the same rows in any order, batching, encoding or Parquet version.

Each value's 64 bits (text and waveforms: their BLAKE2b-64), less a constant that stands for null, are multiplied by an odd number made from the row number and
summed modulo 2^64, the columns' sums weighted by position and summed. Any single changed value changes the sum for certain.
It tells a repeated write from a different one; it is no protection against an adversary. What the gateway adds to a row
(gateway, epoch, the unit of a reading) is left out: it may be described differently when a write is repeated.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.kinds import Kind
from schemas.lake import COLUMNS

_GOLDEN: Final = np.uint64(0x9E37_79B9_7F4A_7C15)
_NULL: Final = np.uint64(0xD6E8_FEB8_6659_FD93)
_ADDED: Final = {"gateway", "epoch"}


def checksum(kind: Kind, table: pa.Table) -> str:
    """16 hexadecimal digits over the rows of a lake table of `kind`, as made by the writer or as read back from its file."""
    names = [column.name for column in COLUMNS[kind]]
    with np.errstate(over="ignore"):
        weight = (_bits(table.column(names[-1])) * _GOLDEN) | np.uint64(1)
        weights = np.sum(weight, dtype=np.uint64)
        total = np.uint64(0)
        for position, name in enumerate(names[:-1]):
            if name in _ADDED or (kind == "telemetry" and name == "unit"):
                continue
            column = table.column(name)
            if column.null_count == len(column):
                continue
            total += (np.uint64(2 * position + 1) * _GOLDEN) * (np.dot(_bits(column), weight) - _NULL * weights)
        total += weights
    return f"{int(total):016x}"


def _bits(column: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """64 bits a row; null is `_NULL`, which the caller takes away, so that a column of nulls and no column are the same."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # a column without rows
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    kind = array.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        array = array.dictionary_encode()
        kind = array.type
    if pa.types.is_dictionary(kind):
        hashes = np.array([_hash(text.encode()) for text in array.dictionary.to_pylist()] or [0], dtype=np.uint64)
        bits: npt.NDArray[np.uint64] = hashes[array.indices.fill_null(0).to_numpy(zero_copy_only=False)]
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        values = array.flatten().to_numpy(zero_copy_only=False)  # without those of null rows
        ends = np.cumsum(array.value_lengths().fill_null(0).to_numpy())
        starts = np.r_[0, ends[:-1]]
        bits = np.array([_hash(values[a:b].tobytes()) for a, b in zip(starts.tolist(), ends.tolist(), strict=True)], np.uint64)
    elif pa.types.is_floating(kind):
        bits = array.fill_null(0.0).to_numpy(zero_copy_only=False).view(np.uint64)
    else:
        whole = array.cast(pa.int64()) if not pa.types.is_uint64(kind) else array
        bits = whole.fill_null(0).to_numpy(zero_copy_only=False).view(np.uint64)
    if not array.null_count:
        return bits
    return np.where(array.is_null().to_numpy(zero_copy_only=False), _NULL, bits)


def _hash(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")
