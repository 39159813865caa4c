"""Writes one table to one Parquet file: encodings, row groups, metadata; and reads the metadata back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.lake import SCHEMA_VERSION
from schemas.span import SpoolSpan

from .checksum import checksum

ROW_GROUP: Final = 81_920
"""Most rows of a group, which is one page a column (`benchmarks/lake.py` measures it): smaller groups repeat less within what zstd sees, larger ones
make a reader of one tag decode more."""
_GROUP_BYTES: Final = 64 << 20
_LONG: Final = 64
"""Bytes a row of a text or waveform column from which on its pages are cut by their bytes and not by rows."""
_LEVEL: Final = 3
_UNJUDGED: Final = ("unit", "origin", "lag", "samples")
"""Columns without min and max: no query passes over row groups by them, and they cost time to write. By
that of `gateway` `genba lake verify` sees rows of another gateway."""
_REQUIRED: Final = ("time", "gateway", "epoch")
_PROBE_SLICES: Final = 2
_PROBE_ROWS: Final[Mapping[str, int]] = {"time": 16_384}
_OTHER_PROBE_ROWS: Final = 8_192
"""Rows of a slice: of times enough to see those of one poll again at the next tag."""
_CANDIDATES: Final[Mapping[str, tuple[str, ...]]] = {
    "time": ("PLAIN", "DELTA_BINARY_PACKED"),
    "value": ("PLAIN", ""),
    "value_int": ("DELTA_BINARY_PACKED", ""),
}
"""Columns whose best encoding depends on the data; the empty one is a dictionary. BYTE_STREAM_SPLIT would save a tenth where floats are noise in every bit, and is
left out: Spark 3.5 and 4.0 refuse a file that has it (SPARK-56894)."""
_DELTA: Final = ("lag", "since", "end", "seq", "row", "onset_seq", "valid_from", "valid_to", "first_seen", "last_seen")


def write_file(path: Path, table: pa.Table, metadata: Mapping[str, str]) -> None:
    """Write `table` (one of the lake's tables) with zstd, page index and `metadata` as key-value metadata. Blocking. Raises OSError.

    The Arrow schema is not stored: every reader then sees text as text, whatever it thinks of dictionaries.
    """
    with parquet_writer(path, table) as writer:
        for start, stop in groups(table):
            write_group(writer, table.slice(start, stop - start))
        writer.add_key_value_metadata(dict(metadata))


def parquet_writer(path: Path, sample: pa.Table, *, in_order: pa.Table | None = None) -> pq.ParquetWriter:
    """A writer for tables like `sample`, encoded as suits it; how times repeat is looked for in `in_order`, where that is given.

    Each table goes through `write_group`, with at most `group_rows` rows, and becomes one row group. What the file says of itself is added at the end.
    """
    dictionary, encoding = encodings(sample, in_order)
    long = any(_bytes_a_row(sample.column(name)) > _LONG for name in sample.schema.names)
    return pq.ParquetWriter(
        path,
        _as_written(sample.schema),
        compression="zstd",
        compression_level=_LEVEL,
        use_dictionary=dictionary,
        column_encoding=encoding,
        dictionary_pagesize_limit=1 << 20,
        write_statistics=[name for name in sample.schema.names if name not in _UNJUDGED],
        write_page_index=True,
        write_page_checksum=True,
        max_rows_per_page=ROW_GROUP,
        write_batch_size=1024 if long else ROW_GROUP,
        sorting_columns=sorting_columns(sample.schema),
        store_schema=False,
    )


def write_group(writer: pq.ParquetWriter, table: pa.Table) -> None:
    """One more row group. Raises pa.ArrowException where the table is not like the writer's sample, or a row lacks what every row has."""
    if any(table.column(name).null_count for name in _never_null(table.schema)):
        raise pa.ArrowInvalid("a row lacks its time, gateway, epoch or number")
    writer.write_table(pa.Table.from_arrays(table.columns, schema=writer.schema), row_group_size=table.num_rows)


def _as_written(schema: pa.Schema) -> pa.Schema:
    """With the columns that are never null marked so, which saves their levels in the file."""
    never = _never_null(schema)
    return pa.schema([field.with_nullable(field.name not in never) for field in schema])


def _never_null(schema: pa.Schema) -> list[str]:
    """Among others the row's own number, the last column: the `seq` of a score is a reading's, and may be unknown."""
    return [name for name in schema.names if name in _REQUIRED or (name == schema.names[-1] and name in ("seq", "row"))]


def sorting_columns(schema: pa.Schema) -> list[pq.SortingColumn]:
    """What the rows are sorted by, as a Parquet file says it: tag, then time; rows without a tag last."""
    return [pq.SortingColumn(schema.names.index(name)) for name in ("tag", "time") if {"tag", "time"} <= set(schema.names)]


def group_rows(table: pa.Table) -> int:
    """Most rows of one row group of `table`: fewer where long text or waveforms would make a group large."""
    return max(1, min(ROW_GROUP, int(_GROUP_BYTES / max(1.0, table.nbytes / max(1, table.num_rows)))))


def groups(table: pa.Table) -> list[tuple[int, int]]:
    """The rows (first, end) of each row group, at most `group_rows` of them.

    Cut between two assets where that is possible, else between two tags: what is read together is stored together, and the times that the tags of an
    asset share are stored once.
    """
    n, most = table.num_rows, group_rows(table)
    if n <= most:
        return [(0, n)]
    tags, assets = _starts(table)
    found, start = [], 0
    while start < n:
        stop = _furthest(assets, start, most) or _furthest(tags, start, most) or start + most
        found.append((start, min(stop, n)))
        start = stop
    return found


def _furthest(starts: npt.NDArray[np.int64], start: int, most: int) -> int:
    """The last of `starts` that is not more than `most` rows on, if it fills at least half a group; else 0."""
    at = int(np.searchsorted(starts, start + most, side="right")) - 1
    return int(starts[at]) if at >= 0 and starts[at] >= start + most // 2 else 0


def _starts(table: pa.Table) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where rows of another tag begin, and of another asset; the end of the table is among them. Empty for tables that are not by tag."""
    if not {"tag", "time"} <= set(table.schema.names):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    column = table.column("tag").combine_chunks()
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    codes = (column.indices.fill_null(-1) if column.null_count else column.indices).to_numpy()
    tags = np.flatnonzero(codes[1:] != codes[:-1]) + 1
    of_tag = np.append(pc.replace_substring_regex(column.dictionary, "[^/]*$", "").dictionary_encode().indices.to_numpy(), -1)
    asset = of_tag[codes[np.r_[0, tags]]]  # no tag is -1, the last
    return np.r_[tags, len(codes)], np.r_[tags[asset[1:] != asset[:-1]], len(codes)]


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


def encodings(table: pa.Table, in_order: pa.Table | None = None) -> tuple[list[str], dict[str, str]]:
    """(columns to dictionary-encode, encoding of the others). Numbers with several good encodings are probed on a sample.

    How times repeat is looked for in `in_order`, where that is given.
    """
    dictionary, encoding = [], {}
    for name in table.schema.names:
        column = table.column(name)
        if column.null_count == len(column):
            chosen = ""
        elif name in _CANDIDATES:
            chosen = _probe(name, in_order.column(name) if name == "time" and in_order is not None else column)
        elif name in _DELTA:
            chosen = "DELTA_BINARY_PACKED"
        elif pa.types.is_list(column.type):
            name, chosen = f"{name}.list.element", "PLAIN"
        else:
            chosen = ""
        if chosen:
            encoding[name] = chosen
        else:
            dictionary.append(name)
    return dictionary, encoding


def _probe(name: str, column: pa.ChunkedArray) -> str:
    """The encoding that makes a sample of the column smallest; empty for a dictionary."""
    sample = pa.table({name: _sample(column, _PROBE_ROWS.get(name, _OTHER_PROBE_ROWS))})
    sizes = {candidate: _size(sample, candidate) for candidate in _CANDIDATES[name]}
    return min(sizes, key=lambda candidate: sizes[candidate])


def _sample(column: pa.ChunkedArray, rows: int) -> pa.ChunkedArray:
    if len(column) <= _PROBE_SLICES * rows:
        return column
    starts = np.linspace(0, len(column) - rows, _PROBE_SLICES).astype(int).tolist()
    return pa.chunked_array([chunk for start in starts for chunk in column.slice(start, rows).chunks])


def _size(sample: pa.Table, encoding: str) -> int:
    """Bytes of a column in one encoding."""
    out = pa.BufferOutputStream()
    (name,) = sample.schema.names
    pq.write_table(
        sample,
        out,
        compression="zstd",
        compression_level=1,
        use_dictionary=[] if encoding else [name],
        column_encoding={name: encoding} if encoding else None,
        max_rows_per_page=ROW_GROUP,
        write_batch_size=ROW_GROUP,
        write_statistics=False,
        store_schema=False,
    )
    return int(out.getvalue().size)


def _bytes_a_row(column: pa.ChunkedArray) -> float:
    """Of text that is not dictionary-encoded, and waveforms; else 0."""
    long = pa.types.is_string(column.type) or pa.types.is_list(column.type)
    return float(column.nbytes) / max(1, len(column)) if long else 0.0
