"""One commit: what is buffered of each kind becomes records and reaches the disk, readings before what was made of them. Blocking."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import pyarrow as pa

from schemas.kinds import Kind

from .codec import Encoded, Encoder
from .log import Log, SpoolFull
from .waiting import Put, size_of

COMMIT_ORDER: Final[tuple[Kind, ...]] = ("telemetry", "image", "event", "gap", "score", "health", "alert")
"""Readings before what was made of them: an alert is never durable before the reading it came from."""

_DERIVED: Final[frozenset[Kind]] = frozenset({"score", "health", "alert"})
_RECORD_BYTES: Final = 4 << 20
_RECORDS_A_WRITE: Final = 16


def write(
    taken: Mapping[Kind, Sequence[Put]], now_us: int, logs: Mapping[Kind, Log], encoder: Encoder
) -> tuple[list[tuple[Kind, Encoded]], SpoolFull | OSError | None]:
    """Encode and append, kind by kind; what is durable now, and the first error.

    `taken` are (first row number, batch, bytes) in row order; rows that an attempt before this one wrote are left out.
    """
    stored: list[tuple[Kind, Encoded]] = []
    failed: SpoolFull | OSError | None = None
    behind = False  # readings are not durable: what was made of them must wait
    for kind in COMMIT_ORDER:
        items = taken.get(kind, ())
        if behind and kind in _DERIVED:
            items = _independent(items) if kind == "alert" else ()
        log = logs[kind]
        try:
            for group in _grouped(items, log.next):
                encoded = [encoder.encode(kind, batches, first, now_us) for first, batches in group]
                log.append([(one.record, one.body) for one in encoded], now_us)
                stored += [(kind, one) for one in encoded]
        except (SpoolFull, OSError) as error:
            failed = failed or error
            behind = behind or kind == "telemetry"
    return stored, failed


def _grouped(items: Sequence[Put], start: int) -> Iterable[list[tuple[int, list[pa.RecordBatch]]]]:
    """The rows from `start` on as records of bounded size, a bounded number of records for each write."""
    records: list[tuple[int, list[pa.RecordBatch]]] = []
    size = _RECORD_BYTES
    for first, batch, whole in items:
        if first < start:  # written by the attempt before this one
            batch = batch.slice(start - first)
            first, whole = start, size_of(batch)
        for at, piece, taken in _pieces(batch, whole):
            if size >= _RECORD_BYTES:
                if len(records) == _RECORDS_A_WRITE:
                    yield records
                    records = []
                records.append((first + at, []))
                size = 0
            records[-1][1].append(piece)
            size += taken
    if records:
        yield records


def _pieces(batch: pa.RecordBatch, size: int) -> Iterable[tuple[int, pa.RecordBatch, int]]:
    """A batch of so many bytes as slices of bounded size, in most cases one, each with its first row and about its bytes."""
    if not batch.num_rows:
        return
    rows = max(1, int(batch.num_rows * _RECORD_BYTES / max(size, _RECORD_BYTES)))
    if rows >= batch.num_rows:
        yield 0, batch, size
        return
    for at in range(0, batch.num_rows, rows):
        yield at, batch.slice(at, rows), size * min(rows, batch.num_rows - at) // batch.num_rows


def _independent(items: Sequence[Put]) -> list[Put]:
    """The alerts at the front that come from no reading: the gateway's own troubles, such as a full disk."""
    out = []
    for put in items:
        if put.batch.column("onset_seq").null_count < put.batch.num_rows:
            break
        out.append(put)
    return out
