"""Writes one table to one Parquet file: encodings, row groups, metadata; and reads the metadata back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.lake import SCHEMA_VERSION
from schemas.span import SpoolSpan

from .checksum import checksum

ROW_GROUP: Final = 131_072
"""Measured: a tag of a thousand is read in the same or less time as from groups of a million, and engines read groups in parallel."""
_PROBE_SLICES: Final = 8
_PROBE_ROWS: Final = 2_048
_CANDIDATES: Final = {
    "value": ("PLAIN", "BYTE_STREAM_SPLIT"),
    "value_int": ("DELTA_BINARY_PACKED", "PLAIN"),
    "lag": ("DELTA_BINARY_PACKED",),
}
"""Columns whose best encoding depends on the data; a dictionary is a candidate of each."""
_DELTA: Final = ("time", "since", "end", "seq", "row", "onset_seq", "valid_from", "valid_to", "first_seen", "last_seen")


def write_file(path: Path, table: pa.Table, metadata: Mapping[str, str]) -> None:
    """Write `table` (one of the lake's tables) with zstd, page index and `metadata` as key-value metadata. Blocking. Raises OSError.

    The Arrow schema is not stored: every reader then sees text as text, whatever it thinks of dictionaries.
    """
    dictionary, encoding = _encodings(table)
    with pq.ParquetWriter(
        path,
        table.schema.with_metadata({key: value.encode() for key, value in metadata.items()}),
        compression="zstd",
        compression_level=3,
        use_dictionary=dictionary,
        column_encoding=encoding,
        dictionary_pagesize_limit=1 << 20,
        write_page_index=True,
        write_page_checksum=True,
        store_schema=False,
    ) as writer:
        writer.write_table(table, row_group_size=ROW_GROUP)
        writer.add_key_value_metadata(dict(metadata))


def data_metadata(table: pa.Table, span: SpoolSpan, *, enterprise: str, site: str) -> dict[str, str]:
    """What a data file says of itself, so that a repeated write can be told from another one without reading its rows."""
    about = {
        "schema_version": str(SCHEMA_VERSION),
        "kind": span.kind,
        "enterprise": enterprise,
        "site": site,
        "gateway": span.gateway,
        "epoch": str(span.epoch),
        "first": str(span.first),
        "last": str(span.last),
        "rows": str(table.num_rows),
        "checksum": checksum(span.kind, table),
    }
    if "unit" in table.schema.names:
        units = pc.unique(table.column("unit")).drop_null().to_pylist()
        about["units"] = json.dumps(sorted(units), ensure_ascii=False)
    return {f"genba.{key}": value for key, value in about.items()}


def read_metadata(file: Path | BinaryIO) -> dict[str, str]:
    """The `genba.*` metadata of a file. Raises OSError, or pa.ArrowInvalid for what is no Parquet file."""
    found = pq.read_metadata(file).metadata or {}
    return {key.decode(): value.decode() for key, value in found.items() if key.startswith(b"genba.")}


def same_rows(ours: Mapping[str, str], theirs: Mapping[str, str]) -> bool:
    """True when both files answer for the same span with the same rows."""
    return all(ours[key] == theirs.get(key) for key in ("genba.kind", "genba.gateway", "genba.epoch", "genba.first", "genba.last", "genba.rows", "genba.checksum"))  # fmt: skip


def _encodings(table: pa.Table) -> tuple[list[str], dict[str, str]]:
    """(columns to dictionary-encode, encoding of the others). Numbers with several good encodings are probed on a sample."""
    dictionary, encoding = [], {}
    for name in table.schema.names:
        column = table.column(name)
        if column.null_count == len(column):
            dictionary.append(name)
        elif name in _CANDIDATES:
            best = _probe(name, column)
            if best:
                encoding[name] = best
            else:
                dictionary.append(name)
        elif name in _DELTA:
            encoding[name] = "DELTA_BINARY_PACKED"
        elif pa.types.is_list(column.type):
            encoding[f"{name}.list.element"] = "BYTE_STREAM_SPLIT"
        else:
            dictionary.append(name)
    return dictionary, encoding


def _probe(name: str, column: pa.ChunkedArray) -> str:
    """The encoding that makes a sample of the column smallest; empty for a dictionary."""
    sample = pa.table({name: _sample(column)})
    sizes = {candidate: _size(sample, [], {name: candidate}) for candidate in _CANDIDATES[name]}
    sizes[""] = _size(sample, [name], None)
    return min(sizes, key=lambda candidate: sizes[candidate])


def _sample(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if len(column) <= _PROBE_SLICES * _PROBE_ROWS:
        return column
    starts = np.linspace(0, len(column) - _PROBE_ROWS, _PROBE_SLICES).astype(int).tolist()
    return pa.chunked_array([chunk for start in starts for chunk in column.slice(start, _PROBE_ROWS).chunks])


def _size(sample: pa.Table, dictionary: list[str], encoding: dict[str, str] | None) -> int:
    out = pa.BufferOutputStream()
    pq.write_table(
        sample, out, compression="zstd", compression_level=3, use_dictionary=dictionary or False, column_encoding=encoding, store_schema=False
    )  # fmt: skip
    return int(out.getvalue().size)
