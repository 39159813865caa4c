"""One file: encodings follow the data, what is written is what is read, by pyarrow and by polars."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cloud_sinks.parquet.checksum import checksum
from cloud_sinks.parquet.columns import lake_schema
from cloud_sinks.parquet.file import ROW_GROUP, data_metadata, read_metadata, same_rows, write_file
from cloud_sinks.parquet.rows import Names, parts
from schemas.kinds import KINDS, Kind, make_batch, telemetry, with_seq
from schemas.lake import COLUMNS
from schemas.span import SpoolSpan
from tests.conformance.sink import T0, Tags, batch_of

TAGS = Tags("acme/osaka/press/a", "acme/osaka/press/b")
N = 50_000


def written(path: Path, batch: pa.RecordBatch, kind: Kind = "telemetry") -> tuple[pa.Table, dict[str, str]]:
    span = SpoolSpan("gw-1", 1, kind, 0, batch.num_rows - 1)
    (part,) = parts([with_seq(batch, 0)], span, Names(TAGS))
    about = data_metadata(part.table, span, enterprise="acme", site="osaka")
    write_file(path, part.table, about)
    return part.table, about


def encodings(path: Path, column: str) -> set[str]:
    group = pq.read_metadata(path).row_group(0)
    return next(set(group.column(i).encodings) for i in range(group.num_columns) if group.column(i).path_in_schema == column)


def values(name: str) -> npt.NDArray[np.float64]:
    rng = np.random.default_rng(7)
    if name == "noise":
        return rng.normal(size=N).astype(np.float32).astype(np.float64)
    if name == "adc":
        return np.round(rng.normal(size=N) * 50) * 0.01
    return np.arange(N) * 1.0


@pytest.mark.parametrize(("name", "encoding"), [("noise", "PLAIN"), ("adc", "RLE_DICTIONARY")])
def test_the_smallest_encoding_of_a_sample_is_taken(tmp_path: Path, name: str, encoding: str) -> None:
    batch = telemetry(time_us=T0 + np.arange(N) * 1000, tag=np.zeros(N, dtype=np.int32), value=values(name))
    written(tmp_path / "x.parquet", batch)
    assert encoding in encodings(tmp_path / "x.parquet", "value")
    assert "DELTA_BINARY_PACKED" in encodings(tmp_path / "x.parquet", "time")
    assert "RLE_DICTIONARY" in encodings(tmp_path / "x.parquet", "tag")


def test_counters_are_small_and_row_groups_bounded(tmp_path: Path) -> None:
    n = ROW_GROUP + 10
    batch = telemetry(time_us=T0 + np.arange(n) * 1000, tag=np.zeros(n, dtype=np.int32), value_int=np.arange(n) * 3 + 2**60)
    written(tmp_path / "x.parquet", batch)
    assert "DELTA_BINARY_PACKED" in encodings(tmp_path / "x.parquet", "value_int")
    assert (tmp_path / "x.parquet").stat().st_size < n * 0.2
    assert pq.read_metadata(tmp_path / "x.parquet").num_row_groups == 2
    read = pl.read_parquet(tmp_path / "x.parquet", columns=["value_int"])
    assert read["value_int"].max() == (n - 1) * 3 + 2**60


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_what_is_read(tmp_path: Path, kind: Kind) -> None:
    path = tmp_path / "x.parquet"
    rows = batch_of(kind, 0, 20, TAGS).drop_columns([COLUMNS[kind][-1].name])
    table, about = written(path, rows, kind)
    read = pq.read_table(path)
    assert read.schema.names == [column.name for column in COLUMNS[kind]]
    assert read.cast(lake_schema(kind)).equals(table.cast(lake_schema(kind)))
    assert checksum(kind, read) == about["genba.checksum"] == read_metadata(path)["genba.checksum"]
    assert same_rows(about, read_metadata(path))
    assert not same_rows(about, {**read_metadata(path), "genba.checksum": "0"})
    frame = pl.read_parquet(path)
    assert frame.height == 20
    assert frame["time"].dtype == pl.Datetime("us", "UTC")


def test_waveforms_extremes_and_nulls_survive(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    rows = make_batch(
        "telemetry",
        5,
        time=[T0, T0 + 1, T0 + 2, T0 + 3, 253_402_300_799_999_999],
        tag=0,
        value=[float("inf"), None, -0.0, 5e-324, float("nan")],
        value_int=[2**63 - 1, -(2**63), None, 0, None],
        text=["", None, "主モータ", "\u0000", "x" * 5000],
        samples=[[1.5] * 4096, None, [], [float("nan")], None],
        quality=[0, 0x80890000, 0xFFFFFFFF, 0, 0],
        origin=[0, 1, 2, 3, 0],
        lag=[0, -(2**31), 2**31 - 1, 0, -(2**31)],
    )
    table, about = written(path, rows.slice(0, 4))
    read = pq.read_table(path)
    for name in ("value_int", "text", "quality", "lag", "time"):
        assert read.column(name).to_pylist() == table.column(name).to_pylist()
    assert np.array_equal(read.column("value").to_numpy()[[0, 2, 3]], [np.inf, -0.0, 5e-324])
    assert [None if s is None else len(s) for s in read.column("samples").to_pylist()] == [4096, None, 0, 1]
    assert read.column("quality").to_pylist()[2] == 0xFFFFFFFF
    assert read.column("origin").to_pylist() == ["live", "backfill", "replay", "downsampled"]
    assert checksum("telemetry", read) == about["genba.checksum"]
    assert pl.read_parquet(path)["samples"].list.len().to_list() == [4096, None, 0, 1]
    written(path, rows.slice(4))
    assert pl.read_parquet(path)["text"].to_list() == ["x" * 5000]
