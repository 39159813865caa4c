"""Rows that a sink refused for good: Arrow files in the dead-letter directory, the reason beside each."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import Rejected
from schemas.span import SpoolSpan

from .router import total_rows


def bury(directory: Path, batches: Sequence[pa.RecordBatch], span: SpoolSpan, rejected: Rejected) -> int:
    """Write the rejected rows as an Arrow file with the reason beside it, durable when this returns; returns their number.

    Blocking; the files are named after the span, so that burying twice leaves one grave.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if rejected.rows:
        wanted = pa.array(sorted(rejected.rows), pa.int64())
        batches = [batch.filter(pc.is_in(batch.column(batch.num_columns - 1), value_set=wanted)) for batch in batches]
        batches = [batch for batch in batches if batch.num_rows]
    rows = total_rows(batches)
    if not rows:
        return 0
    stem = f"{span.kind}-{span.epoch}-{span.first:014d}-{span.last:014d}"
    with pa.OSFile(str(directory / f"{stem}.arrow.part"), "wb") as file, pa.ipc.new_file(file, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    reason = {
        "sink": directory.name,
        "kind": span.kind,
        "first": span.first,
        "last": span.last,
        "rows": rows,
        "reason": rejected.reason,
    }
    (directory / f"{stem}.json").write_text(json.dumps(reason, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    for name in (f"{stem}.arrow.part", f"{stem}.json"):
        descriptor = os.open(directory / name, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    os.replace(directory / f"{stem}.arrow.part", directory / f"{stem}.arrow")
    descriptor = os.open(directory, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    return rows
