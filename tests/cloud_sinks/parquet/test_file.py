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


def read_by_all(path: Path) -> set[str]:
    """The encodings of a file's pages, all of which must be among those that Spark 3.5 and Athena read."""
    about = pq.read_metadata(path)
    found: set[str] = set()
    for group in range(about.num_row_groups):
        for column in range(about.num_columns):
            found |= set(about.row_group(group).column(column).encodings)
    assert found <= {"PLAIN", "RLE", "RLE_DICTIONARY", "DELTA_BINARY_PACKED"}
    return found


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
    read_by_all(tmp_path / "x.parquet")
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


def test_times_that_tags_share_are_stored_once(tmp_path: Path) -> None:
    """A poll gives one time to all tags of a machine: behind one another they are the same bytes, which differences are not."""
    tags = Tags(*(f"acme/osaka/press/t-{n:02d}" for n in range(40)))
    polls = T0 + np.cumsum(np.random.default_rng(3).integers(90_000, 110_000, 1000))
    rows = telemetry(time_us=np.repeat(polls, 40), tag=np.tile(np.arange(40, dtype=np.int32), 1000), value=1.0)
    (part,) = parts([with_seq(rows, 0)], SpoolSpan("gw-1", 1, "telemetry", 0, len(rows) - 1), Names(tags))
    write_file(tmp_path / "x.parquet", part.table, {})
    about = pq.read_metadata(tmp_path / "x.parquet").row_group(0)
    times = next(about.column(i) for i in range(about.num_columns) if about.column(i).path_in_schema == "time")
    assert set(times.encodings) == {"PLAIN", "RLE"}
    assert times.total_compressed_size < 0.5 * len(rows)


def groups_of(path: Path) -> list[tuple[str, str]]:
    """(first, last tag) of each row group, from its statistics."""
    about = pq.read_metadata(path)
    at = about.schema.names.index("tag")
    found = [about.row_group(group).column(at).statistics for group in range(about.num_row_groups)]
    return [(one.min, one.max) for one in found]


def test_row_groups_part_assets_else_tags_else_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud_sinks.parquet.file.ROW_GROUP", 100)
    path = tmp_path / "x.parquet"

    def write(*rows: tuple[str, int]) -> list[tuple[str, str]]:
        tags = Tags(*(tag for tag, _ in rows))
        ids = np.repeat(np.arange(len(rows), dtype=np.int32), [count for _, count in rows])
        (part,) = parts(
            [with_seq(telemetry(time_us=T0, tag=ids, value=1.0), 0)],
            SpoolSpan("gw-1", 1, "telemetry", 0, len(ids) - 1),
            Names(tags),
        )
        write_file(path, part.table, {})
        assert pq.read_table(path).column("seq").to_pylist() == part.table.column("seq").to_pylist()
        assert max(pq.read_metadata(path).row_group(i).num_rows for i in range(pq.read_metadata(path).num_row_groups)) <= 100
        return groups_of(path)

    assert write(("a/b/1/x", 30), ("a/b/1/y", 30), ("a/b/2/x", 30), ("a/b/2/y", 30)) == [
        ("a/b/1/x", "a/b/1/y"),
        ("a/b/2/x", "a/b/2/y"),
    ]
    assert write(("a/b/1/w", 60), ("a/b/1/x", 60), ("a/b/1/y", 60)) == [(f"a/b/1/{n}", f"a/b/1/{n}") for n in "wxy"]
    assert [a for a, _ in write(("a/b/1/x", 250), ("a/b/1/y", 10))] == ["a/b/1/x"] * 3


def test_a_hundred_thousand_tags_in_one_file(tmp_path: Path) -> None:
    """One row each, in any order: the footer does not grow with the tags, and one tag is found in one row group."""
    tags = Tags(*(f"acme/osaka/m-{n // 20:04d}/t-{n % 20:02d}" for n in range(100_000)))
    rows = telemetry(time_us=T0, tag=np.random.default_rng(1).permutation(100_000).astype(np.int32), value=1.0)
    (part,) = parts([with_seq(rows, 0)], SpoolSpan("gw-1", 1, "telemetry", 0, 99_999), Names(tags))
    path = tmp_path / "x.parquet"
    write_file(path, part.table, {})
    about = pq.read_metadata(path)
    assert about.num_row_groups == 2
    assert about.serialized_size < 20_000
    assert sum(low <= "acme/osaka/m-0777/t-07" <= high for low, high in groups_of(path)) == 1
    assert pl.scan_parquet(path).filter(pl.col("tag") == "acme/osaka/m-0777/t-07").collect().height == 1


def test_long_text_and_waveforms_make_smaller_row_groups_and_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud_sinks.parquet.file._GROUP_BYTES", 4 << 20)
    path, rng = tmp_path / "x.parquet", np.random.default_rng(2)
    waves = [rng.normal(size=2048).astype(np.float32) for _ in range(2000)]  # 16 MB
    rows = make_batch(
        "telemetry", 2000, time=T0, tag=[n % 2 for n in range(2000)], samples=waves, text=["x" * 200] * 2000, quality=0, origin=0
    )
    table, about = written(path, rows)
    said = pq.read_metadata(path)
    assert said.num_row_groups >= 4
    assert max(said.row_group(i).total_byte_size for i in range(said.num_row_groups)) < 6 << 20
    assert checksum("telemetry", pq.read_table(path)) == about["genba.checksum"]
    read_by_all(path)
    del table


def test_one_row_no_values_and_numbers_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    written(path, make_batch("telemetry", 1, time=T0, tag=0))
    assert pl.read_parquet(path).select("value", "text", "quality", "origin").rows() == [(None, None, None, None)]
    written(path, telemetry(time_us=T0, tag=np.zeros(3, dtype=np.int32), value=[float("nan"), float("inf"), float("-inf")]))
    read = pl.scan_parquet(path)
    assert read.filter(pl.col("value").is_nan()).collect().height == 1
    assert read.filter(pl.col("value") == float("inf")).collect().height == 1
    assert read.filter(pl.col("value") < 0).collect().height == 1, "a NaN does not hide what lies beside it"
