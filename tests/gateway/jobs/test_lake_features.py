"""Features of a lake: what they mean, against another way of counting them; made once, and the same bytes from the same rows."""

from __future__ import annotations

import math
import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from cloud_sinks import lake
from cloud_sinks.features import GAPS, features
from cloud_sinks.jobs import Lake
from cloud_sinks.parquet.publish import publish
from cloud_sinks.parquet.rows import Names, parts
from cloud_sinks.parquet.store import LocalStore
from gateway.jobs.lake_features import make
from schemas import quality as q
from schemas.errors import ConfigError
from schemas.kinds import TIME, make_batch, with_seq
from schemas.lake import FEATURES_COLUMNS, features_path
from schemas.span import SpoolSpan
from schemas.values import Duration
from tests.gateway.jobs.plant import DAY_US, START_US, Plant

MINUTE = Duration("1m")
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def plant() -> Plant:
    return Plant("osaka", "gw-1", polls=900)


@pytest.fixture
def root(plant: Plant, tmp_path: Path) -> Path:
    plant.write(tmp_path / "lake")
    return tmp_path / "lake"


def read(root: Path, every: str = "1m") -> pl.DataFrame:
    return pl.read_parquet(root / f"features/every={every}/**/*.parquet", hive_partitioning=True).sort("tag", "unit", "time")


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted((root / "features").rglob("*.parquet"))}


def test_features_are_what_another_way_of_counting_finds(plant: Plant, root: Path) -> None:
    summary = make(Lake(str(root)), MINUTE)
    found = read(root)
    assert found.columns[: len(FEATURES_COLUMNS)] == [column.name for column in FEATURES_COLUMNS]
    rows = (
        lake.scan(root)
        .collect()
        .with_columns(window=pl.col("time").dt.truncate("1m"), number=pl.coalesce("value", pl.col("value_int").cast(pl.Float64)))
    )
    good = rows.filter((pl.col("quality") < q.BAD) & pl.col("number").is_not_null()).sort("tag", "time", "seq")
    seconds = (pl.col("time") - pl.col("window")).dt.total_microseconds() / 1e6
    expected = good.group_by("tag", "unit", "window", maintain_order=True).agg(
        pl.len().alias("count"), pl.col("number").min().alias("min"), pl.col("number").max().alias("max"),
        pl.col("number").mean().alias("mean"), pl.col("number").std().alias("std"), pl.col("number").pow(2).mean().sqrt().alias("rms"),
        pl.col("number").first().alias("first"), pl.col("number").last().alias("last"),
        (pl.cov(seconds, pl.col("number")) / seconds.var()).alias("slope"),
        (pl.col("number") != pl.col("number").shift()).sum().alias("changes"),
    ).sort("tag", "unit", "window")  # fmt: skip
    mine = found.filter(pl.col("count") > 0)
    assert mine.height == expected.height > 200
    assert mine["time"].to_list() == expected["window"].to_list()
    for name in ("count", "min", "max", "first", "last", "changes"):
        assert mine[name].to_list() == expected[name].to_list(), name
    for name in ("mean", "std", "rms", "slope"):
        np.testing.assert_allclose(mine[name].to_numpy(), expected[name].to_numpy(), rtol=1e-9, atol=1e-12, err_msg=name)
    quality = rows.group_by("tag", "window").agg(
        (pl.col("quality") == 0).sum().alias("good"), (pl.col("quality") >= q.BAD).sum().alias("bad")
    )
    both = found.join(quality, left_on=["tag", "time"], right_on=["tag", "window"], suffix="_counted")
    assert both.height == found.height == quality.height
    assert both["good"].equals(both["good_counted"].cast(pl.Int64).alias("good"))
    assert both["bad"].equals(both["bad_counted"].cast(pl.Int64).alias("bad"))
    assert found["bad"].sum() > 0
    assert summary.rows == found.height
    assert (summary.files, summary.made) == (2, 2)


def readings(*rows: tuple[float, float | None, int], unit: str = "Cel", **more: object) -> pl.DataFrame:
    """(seconds after noon, value, quality) of one tag."""
    n = len(rows)
    return pl.DataFrame(
        {
            "tag": ["t"] * n, "unit": [unit] * n, "time": [NOON + timedelta(seconds=row[0]) for row in rows], "gateway": ["g"] * n, "epoch": [1] * n,
            "seq": [*range(n)], "value": [row[1] for row in rows], "value_int": [None] * n, "quality": [row[2] for row in rows], "origin": ["live"] * n,
            "value_min": [None] * n, "value_max": [None] * n, "count": [None] * n, **more,
        },
        schema_overrides={"value": pl.Float64, "value_int": pl.Int64, "value_min": pl.Float64, "value_max": pl.Float64, "count": pl.Int32, "time": pl.Datetime("us", "UTC")},
    )  # fmt: skip


def one(frame: pl.DataFrame, *gaps: tuple[float, float], every: Duration = MINUTE) -> dict[str, object]:
    missing = [{"tag": "t", "time": NOON + timedelta(seconds=a), "end": NOON + timedelta(seconds=b)} for a, b in gaps]
    (row,) = features(frame, every.us, pa.Table.from_pylist(missing, schema=GAPS)).to_pylist()
    return row


def test_bad_and_uncertain_readings() -> None:
    row = one(
        readings((0, 1.0, 0), (10, 3.0, q.UNCERTAIN_LAST_USABLE_VALUE), (20, 99.0, q.BAD_TIMEOUT), (30, None, q.BAD_TIMEOUT))
    )
    assert [row[name] for name in ("good", "uncertain", "bad", "count", "min", "max", "mean", "changes")] == [
        1,
        1,
        2,
        2,
        1,
        3,
        2,
        1,
    ]
    assert row["slope"] == pytest.approx(0.2)
    assert row["silence"] == 50  # from the last that is not bad to the end of the window
    only_bad = one(readings((5, None, q.BAD_TIMEOUT)))
    assert [only_bad[name] for name in ("bad", "count", "mean", "std", "slope", "first", "silence")] == [
        1,
        0,
        None,
        None,
        None,
        None,
        60,
    ]
    text = one(readings((5, None, 0)))
    assert [text[name] for name in ("good", "count", "min", "silence")] == [1, 0, None, 55]


def test_gaps_count_once_and_only_inside_the_window() -> None:
    frame = readings((0, 1.0, 0), (59, 2.0, 0))
    assert one(frame)["gap"] == 0
    assert one(frame, (-30, 10), (5, 20), (50, 500))["gap"] == 30
    assert one(frame, (-500, 500))["gap"] == 60
    assert one(frame, (60, 90))["gap"] == 0


def test_one_number_and_numbers_of_one_time_have_no_spread_and_no_slope() -> None:
    row = one(readings((10, 4.0, 0)))
    assert [row[name] for name in ("count", "std", "slope", "rms", "mean")] == [1, None, None, 4, 4]
    same = one(readings((10, 4.0, 0), (10, 6.0, 0)))
    assert same["slope"] is None
    assert same["std"] == pytest.approx(math.sqrt(2))
    constant = one(readings(*((i, 0.1, 0) for i in range(50))))
    assert (constant["mean"], constant["std"], constant["changes"]) == (0.1, 0, 0)
    assert constant["slope"] == 0


def test_a_downsampled_row_counts_as_the_readings_in_it() -> None:
    frame = readings(
        (0, 10.0, 0),
        (10, 20.0, 0),
        origin=["downsampled", "live"],
        value_min=[-5.0, None],
        value_max=[90.0, None],
        count=[3, None],
    )
    row = one(frame)
    assert [row[name] for name in ("count", "min", "max", "mean", "good")] == [4, -5, 90, 12.5, 2]


def test_units_are_never_mixed_and_windows_begin_at_the_clock() -> None:
    frame = pl.concat([readings((0, 1.0, 0), (3599, 2.0, 0)), readings((5, 300.0, 0), unit="K")])
    found = features(frame, Duration("1h").us, GAPS.empty_table()).to_pylist()
    assert [(row["unit"], row["time"], row["count"], row["mean"]) for row in found] == [
        ("Cel", NOON, 2, 1.5),
        ("K", NOON, 1, 300),
    ]


def test_what_is_made_from_the_same_rows_is_left_alone(plant: Plant, root: Path) -> None:
    first = make(Lake(str(root)), MINUTE)
    before = {path: path.stat().st_mtime_ns for path in (root / "features").rglob("*.parquet")}
    again = make(Lake(str(root)), MINUTE)
    assert (again.files, again.made, again.rows) == (first.files, 0, first.rows)
    assert {path: path.stat().st_mtime_ns for path in (root / "features").rglob("*.parquet")} == before
    # A date gets a late row: only that date is made anew.
    late = with_seq(
        make_batch("telemetry", 1, time=np.array([START_US]), tag=np.array([0], np.int32), value=1e4, quality=0, lag=0, origin=0),
        plant.rows,
    )
    store = LocalStore(root, "gw-1")
    store.open()
    span = SpoolSpan("gw-1", 1, "telemetry", plant.rows, plant.rows)
    for part in parts([late], span, Names(plant.tags)):
        publish(store, part, span, enterprise="acme", site="osaka")
    assert make(Lake(str(root)), MINUTE).made == 1
    assert read(root)["max"].max() == 1e4
    # A file that a broken disk left is made anew, and so is one of other windows.
    victim = next((root / "features").rglob("*.parquet"))
    victim.write_bytes(b"PAR1")
    assert make(Lake(str(root)), MINUTE).made == 1
    assert make(Lake(str(root)), Duration("1h")).made == 2


def test_the_same_rows_give_the_same_numbers_in_whatever_files_they_lie(plant: Plant, root: Path, tmp_path: Path) -> None:
    plant.write(tmp_path / "other", span_rows=1_013)
    make(Lake(str(root)), MINUTE)
    make(Lake(str(tmp_path / "other")), MINUTE)
    assert read(root).equals(read(tmp_path / "other"))


def test_gaps_of_an_adapter_reach_into_its_tags_and_over_midnight(plant: Plant, root: Path) -> None:
    midnight = START_US + 600_000_000
    assert midnight % DAY_US == 0
    batch = make_batch(
        "gap",
        1,
        time=np.array([midnight - 30_000_000]),
        end=pa.array([midnight + 90_000_000]).view(TIME),
        source="plc",
        cause="not_connected",
    )
    store = LocalStore(root, "gw-1")
    store.open()
    span = SpoolSpan("gw-1", 1, "gap", 0, 0)
    for part in parts([with_seq(batch, 0)], span, Names(plant.tags)):
        publish(store, part, span, enterprise="acme", site="osaka")
    make(Lake(str(root)), MINUTE)
    found = read(root).filter(pl.col("gap") > 0)
    begin = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=midnight)
    by_window = found.group_by("time").agg(pl.col("gap").unique(), pl.col("tag").n_unique()).sort("time")
    assert by_window["time"].to_list() == [begin + timedelta(minutes=m) for m in (-1, 0, 1)]
    assert by_window["gap"].to_list() == [[30.0], [60.0], [30.0]]
    assert by_window["tag"].to_list() == [len(plant.tags)] * 3


def test_only_the_dates_and_windows_that_make_sense(root: Path) -> None:
    begin = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=START_US)
    assert make(Lake(str(root)), MINUTE, end=begin + timedelta(minutes=1)).files == 1
    assert (root / features_path("1m", "osaka", date(2026, 2, 28))).is_file()
    for every in ("7m", "500ms", "2d"):
        with pytest.raises(ConfigError, match="divides a day"):
            make(Lake(str(root)), Duration(every))
    shutil.rmtree(root / "telemetry")
    assert make(Lake(str(root)), MINUTE).files == 0


def test_the_page_lists_the_columns() -> None:
    page = (Path(__file__).parents[3] / "docs/spark.md").read_text(encoding="utf-8")
    lines = [f"| `{column.name}` | {column.type} | {column.meaning} |" for column in FEATURES_COLUMNS]
    assert "\n".join(["| column | type | |", "|---|---|---|", *lines, "<!-- end -->"]) in page
