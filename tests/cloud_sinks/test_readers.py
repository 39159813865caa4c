"""What changes from one day to the next breaks no reader: a new tag, a number that becomes text, another unit. And the lake in a bucket."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import duckdb
import pandas
import polars as pl
import pyarrow.dataset as ds
import pytest
from polars.testing import assert_frame_equal

from cloud_sinks import lake
from schemas import quality as q
from tests.cloud_sinks.aws_rig import KEY, SECRET, free_port, moto, reset
from tests.cloud_sinks.lake_rig import Lake, table
from tests.conformance.sink import ODD_NAMES, Tags
from tests.gateway.cli.conftest import Genba, genba  # noqa: F401 (a fixture)

TEMP, STATE, NEW = "acme/osaka/press-1/temp", "acme/osaka/press-1/state", "acme/osaka/press-1/new"
DAY = 86_400


@pytest.fixture
def plant(tmp_path: Path) -> Lake:
    """Two days: on the second a tag is text, one has another unit, and one is new."""
    made = Lake(tmp_path / "lake")
    made.put(Tags(TEMP, STATE, unit="bar"), [(0, 0, 1.0), (1, 1, 5.0)])
    second = Tags(TEMP, STATE, NEW, unit="kPa")
    made.put(second, [(DAY, 0, 100.0), (DAY + 2, 2, 7.0)])
    made.put(second, [(DAY + 1, 1, "run")], columns=("time", "tag", "text"))
    made.put(second, [(DAY + 3, 2, [1.0, 2.0])], columns=("time", "tag", "samples"))
    made.put(second, [(DAY + 4, 0, None)], quality=q.BAD_TIMEOUT)
    made.describe(second)
    return made


EXPECTED = [
    (TEMP, 1.0, None, "bar"),
    (STATE, 5.0, None, "bar"),
    (TEMP, 100.0, None, "kPa"),
    (STATE, None, "run", "kPa"),
    (NEW, 7.0, None, "kPa"),
    (NEW, None, None, "kPa"),
    (TEMP, None, None, "kPa"),
]


def by_lake(root: Path) -> list[tuple[Any, ...]]:
    return lake.scan(root).sort("time").select("tag", "value", "text", "unit").collect().rows()


def by_polars(root: Path) -> list[tuple[Any, ...]]:
    frame = pl.scan_parquet(f"{root}/telemetry/**/*.parquet", hive_partitioning=True)
    return frame.sort("time").select("tag", "value", "text", "unit").collect().rows()


def by_duckdb(root: Path) -> list[tuple[Any, ...]]:
    files = f"read_parquet('{root}/telemetry/**/*.parquet', hive_partitioning = true)"
    return duckdb.sql(f"select tag, value, text, unit from {files} order by time").fetchall()


def by_pandas(root: Path) -> list[tuple[Any, ...]]:
    frame = pandas.read_parquet(root / "telemetry").sort_values("time")[["tag", "value", "text", "unit"]].astype(object)
    return [tuple(None if pandas.isna(cell) else cell for cell in row) for row in frame.itertuples(index=False)]


def by_pyarrow(root: Path) -> list[tuple[Any, ...]]:
    found = ds.dataset(root / "telemetry", partitioning="hive").to_table().sort_by("time")
    return [tuple(row.values()) for row in found.select(["tag", "value", "text", "unit"]).to_pylist()]


READERS = [by_lake, by_polars, by_duckdb, by_pandas, by_pyarrow]


@pytest.mark.parametrize("read", READERS)
def test_what_changes_overnight_breaks_no_reader(plant: Lake, read: Callable[[Path], list[tuple[Any, ...]]]) -> None:
    assert read(plant.root) == EXPECTED


def test_the_control_a_column_of_another_type_does_break_them(plant: Lake) -> None:
    """What the fixed columns prevent: a file whose `value` is text. At least one reader fails, or the test above shows nothing."""
    (path,) = plant.root.glob("telemetry/*/date=2026-03-01/*.parquet")
    pl.from_arrow(table(path)).with_columns(pl.col("value").cast(pl.String)).write_parquet(path)  # type: ignore[union-attr]
    failed = 0
    for read in READERS:
        try:
            failed += read(plant.root) != EXPECTED
        except Exception:  # noqa: BLE001 (each engine has its own)
            failed += 1
    assert failed == len(READERS)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with moto() as found:
        yield found


@pytest.fixture
def bucket(plant: Lake, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same lake in a bucket, below folders with odd names."""
    for name, value in (("ACCESS_KEY_ID", KEY), ("SECRET_ACCESS_KEY", SECRET), ("DEFAULT_REGION", "ap-northeast-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3 = boto3.client("s3", endpoint_url=endpoint)
    reset(endpoint)
    s3.create_bucket(Bucket="plants", CreateBucketConfiguration={"LocationConstraint": "ap-northeast-1"})
    for path in plant.root.rglob("*.parquet"):
        s3.upload_file(str(path), "plants", f"env=prod/a b+c/{path.relative_to(plant.root).as_posix()}")
    return "s3://plants/env=prod/a b+c"


def test_a_bucket_reads_as_a_directory_does(plant: Lake, bucket: str, endpoint: str) -> None:
    asked: dict[str, Any] = {"tags": "press-1/*", "start": "2026-03-01T23:59:59Z", "end": "2026-03-02T00:00:10Z"}
    local, remote = plant.root, {"endpoint": endpoint}
    assert_frame_equal(lake.scan(bucket, **asked, **remote).collect(), lake.scan(local, **asked).collect())
    assert_frame_equal(lake.tags(bucket, **remote), lake.tags(local))
    made, expected = lake.pivot(bucket, **asked, **remote), lake.pivot(local, **asked)
    assert made.units == expected.units == {NEW: "kPa", f"{STATE}": "1", TEMP: "kPa"}
    assert_frame_equal(made.collect(), expected.collect())
    assert expected.collect()[STATE].drop_nulls().unique().to_list() == ["run"]


def test_commands_read_a_bucket(genba: Genba, bucket: str, endpoint: str, tmp_path: Path) -> None:  # noqa: F811
    there = (bucket, "--endpoint", endpoint)
    assert TEMP in genba("lake", "tags", *there).out
    rows = json.loads(genba("lake", "query", *there, TEMP, "--format", "json").out)
    assert [row["value"] for row in rows] == [1.0, 100.0, None]
    assert genba("lake", "query", *there, "--sql", "select count(*) as n from telemetry").out.split() == ["n", "7"]
    assert genba("lake", "plot", *there, TEMP, "--out", tmp_path / "plot.svg").status == 0
    assert genba("lake", "export", *there, TEMP, "--out", tmp_path / "all.parquet").status == 0
    assert pl.read_parquet(tmp_path / "all.parquet").height == 3


def test_what_is_wrong_with_a_bucket_is_said(
    genba: Genba,  # noqa: F811
    bucket: str,
    endpoint: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = genba("lake", "tags", "s3://nobody-has-this/lake", "--endpoint", endpoint)
    assert (done.status, "make the bucket, or correct `location`" in done.err) == (2, True)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    done = genba("lake", "query", bucket, "--endpoint", f"http://127.0.0.1:{free_port()}")
    assert (done.status, done.err.startswith("error: cannot read the lake")) == (3, True)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    done = genba("lake", "tags", bucket, "--endpoint", endpoint)
    assert (done.status, "no AWS credentials were found" in done.err) == (2, True)


@pytest.mark.slow
def test_a_hundred_thousand_tags(genba: Genba, tmp_path: Path) -> None:  # noqa: F811
    made = Lake(tmp_path / "lake")
    tags = Tags(*(f"acme/osaka/area-{n % 100}/a{n}/{ODD_NAMES[n % len(ODD_NAMES)]}" for n in range(100_000)))
    made.put(tags, [(n / 1000, n, float(n)) for n in range(100_000)])
    made.describe(tags)
    assert lake.scan(made.root).select(pl.col("tag").n_unique()).collect().item() == 100_000
    assert lake.scan(made.root, tags="area-7/**").select(pl.len()).collect().item() == 1_000
    assert lake.scan(made.root, tags="**/*x*").select(pl.len()).collect().item() == sum(n % 12 in (1, 2) for n in range(100_000))
    assert lake.pivot(made.root, tags="area-7/a7/*", every="1s").collect().width == 2
    listed = json.loads(genba("lake", "tags", made.root, "area-7/*/主モータ温度", "--format", "json").out)
    assert len(listed) == len([n for n in range(7, 100_000, 100) if n % 12 == 5])
    done = genba("lake", "tags", made.root)
    assert (done.status, len(done.out.splitlines()), "first 1,000 rows" in done.err) == (0, 1_001, True)
    found = genba("lake", "query", made.root, "area-9/a9/**", "--format", "csv")
    assert len(found.out.splitlines()) == 2
