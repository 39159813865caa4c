"""Between batches and record bodies: one zstd frame around one Arrow IPC record batch, without schema and without dull columns.

A column that is null in every row, or zero in every row, is not stored but noted in the record header: a typical poll stores
time, tag and value only. The round trip is exact, bit by bit, including the difference between null and zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa

from schemas.kinds import SCHEMAS, Kind

from .format import CODEC_PLAIN, CODEC_ZSTD, Record

SCHEMA_VERSION: Final = 1
"""Raised when a kind's columns change in any other way than by new ones at the end."""

_WORTH_COMPRESSING: Final = 128


class Undecodable(ValueError):
    """A body with a good checksum that is no batch of its kind: written by a newer version, or forged."""


class Encoded(NamedTuple):
    """A record, its stored body, and the batch that reading it gives back."""

    record: Record
    body: memoryview
    batch: pa.RecordBatch


class Encoder:
    """Makes records. For one thread."""

    def __init__(self, decoder: Decoder) -> None:
        self._zstd = pa.Codec("zstd", compression_level=1)
        self._decoder = decoder

    def encode(self, kind: Kind, batches: Sequence[pa.RecordBatch], first: int, commit_us: int) -> Encoded:
        """One record of all rows of one or more batches of a kind's exact schema; the first row has number `first`."""
        present = zero = 0
        arrays, fields = [], []
        batch = batches[0] if len(batches) == 1 else pa.concat_batches(batches)  # many small ones, once and not column by column
        rows = batch.num_rows
        for number, field in enumerate(SCHEMAS[kind]):
            column = batch.column(number)
            if column.null_count == rows:
                continue
            if _is_zero(column):
                zero |= 1 << number
                continue
            present |= 1 << number
            fields.append(field)
            arrays.append(column)
        raw = pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields)).serialize() if arrays else pa.py_buffer(b"")
        body, codec = raw, CODEC_PLAIN
        if raw.size >= _WORTH_COMPRESSING:
            packed = self._zstd.compress(raw)
            if packed.size < raw.size:
                body, codec = (
                    packed.slice(0, packed.size),
                    CODEC_ZSTD,
                )  # its memoryview would still have the size before shrinking
        min_us, max_us = _time_range(batch.column(0), commit_us)
        record = Record(
            length=body.size, raw=raw.size, first=first, span=rows, rows=rows, schema=SCHEMA_VERSION, codec=codec, flags=0,
            present=present, zero=zero, commit_us=commit_us, min_us=min_us, max_us=max_us,
        )  # fmt: skip
        return Encoded(record, memoryview(body), self._decoder.assemble(kind, record, arrays))


class Decoder:
    """Reads records back. May be shared between threads: what it keeps is only ever replaced."""

    def __init__(self) -> None:
        self._zstd = pa.Codec("zstd")
        self._dull: dict[tuple[pa.DataType, bool], pa.Array] = {}

    def decode(self, kind: Kind, record: Record, body: memoryview) -> pa.RecordBatch:
        """The batch as it was put, all columns. Raises Undecodable."""
        schema = SCHEMAS[kind]
        if record.schema != SCHEMA_VERSION or (record.present | record.zero) >> len(schema):
            raise Undecodable(f"{kind} rows from {record.first} on have columns that this version does not know")
        stored: list[pa.Array] = []
        try:
            if record.present:
                raw = pa.py_buffer(body)
                if record.codec == CODEC_ZSTD:
                    raw = self._zstd.decompress(raw, record.raw)
                stored = pa.ipc.read_record_batch(raw, _stored_schema(kind, record.present)).columns
        except (pa.ArrowException, OSError, ValueError, EOFError) as error:
            raise Undecodable(f"{kind} rows from {record.first} on: {error}") from error
        if any(len(column) != record.rows for column in stored):
            raise Undecodable(f"{kind} rows from {record.first} on: {len(stored[0])} rows in place of {record.rows}")
        return self.assemble(kind, record, stored)

    def assemble(self, kind: Kind, record: Record, stored: Sequence[pa.Array]) -> pa.RecordBatch:
        """All columns, from those that are stored."""
        schema = SCHEMAS[kind]
        taken = iter(stored)
        columns = [
            next(taken)
            if record.present >> number & 1
            else self._filled(field.type, bool(record.zero >> number & 1), record.rows)
            for number, field in enumerate(schema)
        ]
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    def _filled(self, type_: pa.DataType, zero: bool, rows: int) -> pa.Array:
        """`rows` nulls or zeros, a slice of one array that all batches share."""
        found = self._dull.get((type_, zero))
        if found is None or len(found) < rows:
            size = max(rows, 1024)
            found = pa.repeat(_zero_of(type_), size) if zero else pa.nulls(size, type_)
            if size <= 1 << 16:
                self._dull[type_, zero] = found
        return found.slice(0, rows)


@lru_cache(maxsize=256)
def _stored_schema(kind: Kind, present: int) -> pa.Schema:
    return pa.schema([field for number, field in enumerate(SCHEMAS[kind]) if present >> number & 1])


def _zero_of(type_: pa.DataType) -> pa.Scalar:
    return pa.scalar(False, type_) if pa.types.is_boolean(type_) else pa.scalar(0, type_)


def _is_zero(column: pa.Array) -> bool:
    """True when every row is present and has only zero bits (so -0.0 is not zero)."""
    if column.null_count:
        return False
    if pa.types.is_boolean(column.type):
        return bool(column.true_count == 0)
    if not (pa.types.is_primitive(column.type)):
        return False
    width = column.type.bit_width // 8
    buffer = column.buffers()[1]
    view = np.frombuffer(buffer, dtype=f"u{width}", count=len(column), offset=column.offset * width)
    return not view.any()


def _time_range(column: pa.Array, otherwise: int) -> tuple[int, int]:
    """Smallest and largest time of the rows, µs; `otherwise` where all are null."""
    if column.null_count == len(column):
        return otherwise, otherwise
    if column.null_count:
        column = column.drop_null()
    times = np.frombuffer(column.buffers()[1], dtype=np.int64, count=len(column), offset=column.offset * 8)
    return int(times.min()), int(times.max())
