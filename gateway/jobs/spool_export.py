"""Rows of a spool as Parquet: every column of the kind, the row number, and the path of the tag. Blocking."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import structlog

from gateway.registry import TagRegistry
from gateway.spool.view import ReadOnlyStorage, View
from schemas.errors import ConfigError
from schemas.kinds import SCHEMAS, Kind, with_seq


def export(view: View, kind: Kind, first: int, end: int, out: Path) -> int:
    """Write rows `first` … `end` - 1, as far as they are held, into `out`; returns how many. The file is whole or not there.

    Raises ConfigError where it cannot be written.
    """
    part = out.with_name(f".{out.name}.part")
    paths = _paths(view.directory)
    schema = _named(with_seq(pa.RecordBatch.from_pylist([], SCHEMAS[kind]), 0), paths).schema
    rows = 0
    try:
        with pq.ParquetWriter(part, schema, compression="zstd") as writer:
            for batch in _batches(view, kind, first, end, paths):
                writer.write_batch(batch)
                rows += batch.num_rows
        os.replace(part, out)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ConfigError(f"{out} cannot be written: {error.strerror or error}", hint="name another file") from error
    return rows


def named_rows(view: View, kind: Kind, first: int, end: int) -> Iterator[pa.RecordBatch]:
    """Rows `first` … `end` - 1, as far as they are held, with their numbers and the paths of their tags."""
    return _batches(view, kind, first, end, _paths(view.directory))


def _batches(view: View, kind: Kind, first: int, end: int, paths: pa.Array) -> Iterator[pa.RecordBatch]:
    for start, batch in view.read(kind, first, end):
        yield _named(with_seq(batch, start), paths)


def _named(batch: pa.RecordBatch, paths: pa.Array) -> pa.RecordBatch:
    """With the path in place of the id of a tag."""
    if "tag" not in batch.schema.names:
        return batch
    at = batch.schema.get_field_index("tag")
    ids = batch.column(at)
    known = pa.compute.if_else(pa.compute.less(ids, len(paths)), ids, None)
    return batch.set_column(
        at, pa.field("tag", pa.string()), paths.take(known) if len(paths) else pa.nulls(len(ids), pa.string())
    )


def _paths(directory: Path) -> pa.Array:
    """The path of each tag id."""
    registry = asyncio.run(_registry(directory))
    return pa.array([registry[number].path for number in range(len(registry))], pa.string())


async def _registry(directory: Path) -> TagRegistry:
    return await TagRegistry.open(directory, log=structlog.get_logger(), storage=ReadOnlyStorage())
