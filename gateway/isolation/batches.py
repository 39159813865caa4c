"""Record batches as frames: one Arrow IPC message each, without the columns that are all null (most of them are)."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import pyarrow as pa

from schemas.kinds import KINDS, SCHEMAS, Kind, kind_of

from .frames import MAX_PAYLOAD, Frame, Garbled, Say

_NULLS: Final = 65_536  # rows of the null columns that are kept and sliced


def pack(batch: pa.RecordBatch) -> Frame:
    """A batch as a frame. Raises ValueError for one that has not the schema of its kind, or is too large."""
    kind = kind_of(batch)
    if not batch.schema.equals(SCHEMAS[kind]):
        raise ValueError(f"a batch of {kind} with another schema: {batch.schema}")
    rows = batch.num_rows
    columns = 0
    for number, column in enumerate(batch.columns):
        if column.null_count < rows:
            columns |= 1 << number
    some = pa.RecordBatch.from_arrays(
        [column for number, column in enumerate(batch.columns) if columns >> number & 1], schema=_schema(kind, columns)
    )
    payload = some.serialize().to_pybytes()
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"a batch of {len(payload):,} bytes; an adapter cuts them smaller")
    return Frame(Say.BATCH, payload, KINDS.index(kind), columns)


def unpack(frame: Frame) -> pa.RecordBatch:
    """The batch of a frame, checked through and through. Raises Garbled."""
    try:
        kind = KINDS[frame.data]
        some = pa.ipc.read_record_batch(pa.py_buffer(frame.payload), _schema(kind, frame.columns))
        some.validate(full=True)
    except (IndexError, OSError, EOFError, pa.ArrowException) as error:
        raise Garbled(f"not a record batch: {error}") from error
    rows = some.num_rows
    there = iter(some.columns)
    schema = SCHEMAS[kind]
    arrays = [next(there) if frame.columns >> number & 1 else _nulls(field.type, rows) for number, field in enumerate(schema)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


@lru_cache(maxsize=64)
def _schema(kind: Kind, columns: int) -> pa.Schema:
    schema = SCHEMAS[kind]
    if columns >> len(schema):
        raise IndexError(f"{kind} has no column {len(schema)}")
    return pa.schema([field for number, field in enumerate(schema) if columns >> number & 1])


def _nulls(kind: pa.DataType, rows: int) -> pa.Array:
    return _many_nulls(kind).slice(0, rows) if rows <= _NULLS else pa.nulls(rows, kind)


@lru_cache(maxsize=32)
def _many_nulls(kind: pa.DataType) -> pa.Array:
    return pa.nulls(_NULLS, kind)
