"""The reading side: pruning, patterns, moments, no row twice, and that it imports light."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest

from cloud_sinks import lake
from cloud_sinks.parquet.dictionary import TagTable
from cloud_sinks.parquet.file import data_metadata, write_file
from cloud_sinks.parquet.rows import Names, parts
from cloud_sinks.parquet.store import LocalStore
from cloud_sinks.places import place_of
from schemas.kinds import KINDS, Kind, telemetry, with_seq
from schemas.lake import COLUMNS, TAGS_COLUMNS, LakeFile
from schemas.span import SpoolSpan
from tests.conformance.sink import T0, Tags, batch_of

DAY = 86_400_000_000
PATHS = ("acme/osaka/stamping/press-1/motor_temp", "acme/osaka/stamping/press-2/motor_temp", "acme/osaka/forge/fan-1/speed")
START = datetime(2026, 1, 1, tzinfo=UTC)


def put(
    root: Path,
    first: int,
    rows: int,
    *,
    site: str = "osaka",
    gateway: str = "gw-1",
    day: int = 0,
    kind: Kind = "telemetry",
    described: bool = True,
) -> list[Path]:
    """One span of `rows` rows, a second apart, starting on day `day` of 2026."""
    tags = Tags(*(path.replace("osaka", site) for path in PATHS))
    span = SpoolSpan(gateway, 1, kind, first, first + rows - 1)
    made = []
    for part in parts([batch_of(kind, first, rows, tags, time_us=T0 + day * DAY - first * 1_000_000)], span, Names(tags)):
        path = root / LakeFile(site, part.date, span).path()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, part.table, data_metadata(part.table, span, enterprise="acme", site=site))
        made.append(path)
    if described:
        TagTable(tags, enterprise="acme", site=site, gateway=gateway, sink="lake").write(_store(root, gateway))
    return made


def _store(root: Path, gateway: str) -> LocalStore:
    store = LocalStore(root, gateway)
    store.open()
    return store


def seqs(frame: pl.LazyFrame) -> list[int]:
    return sorted(frame.collect()["seq"].to_list())


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_lake_is_an_empty_typed_frame(tmp_path: Path, kind: Kind) -> None:
    empty = lake.scan(tmp_path / "nothing", kind=kind)
    put(tmp_path, 0, 3, kind=kind)
    full = lake.scan(tmp_path, kind=kind)
    assert empty.collect().height == 0
    assert full.collect().height == 3
    assert empty.collect_schema() == full.collect_schema() == full.collect().schema
    assert [*empty.collect_schema()] == [*(c.name for c in COLUMNS[kind]), "site", "date"]
    assert lake.scan(tmp_path, kind=kind, start="2030-01-01T00:00:00Z").collect().schema == full.collect_schema()


def test_hive_columns(tmp_path: Path) -> None:
    put(tmp_path, 0, 3)
    put(tmp_path, 0, 3, site="kyoto", day=1)
    frame = lake.scan(tmp_path).group_by("site", "date").len().sort("site").collect()
    assert frame.rows() == [("kyoto", date(2026, 1, 2), 3), ("osaka", date(2026, 1, 1), 3)]


def test_sites_and_dates_are_pruned_by_folder(tmp_path: Path) -> None:
    for day in range(5):
        put(tmp_path, day * 10, 10, day=day)
    put(tmp_path, 0, 10, site="kyoto")
    for path in tmp_path.glob("telemetry/site=osaka/date=2026-01-05/*"):
        path.write_bytes(b"never opened")
    found = lake.scan(tmp_path, start=START + timedelta(days=1), end=START + timedelta(days=3), sites="osaka")
    assert seqs(found) == list(range(10, 30))
    assert seqs(lake.scan(tmp_path, sites=["kyoto"])) == list(range(10))
    assert seqs(lake.scan(tmp_path, sites=[])) == []
    exact = lake.scan(tmp_path, start="2026-01-01T09:00:02+09:00", end="2026-01-01T00:00:05Z", sites="osaka")
    assert seqs(exact) == [2, 3, 4], "start is included, end is not"


@pytest.mark.parametrize("described", [True, False], ids=["with data dictionary", "without"])
@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("**/motor_temp", [0, 1]),
        ("stamping/press-1/*", [0]),
        ("acme/osaka/forge/**", [2]),
        (PATHS[2], [2]),
        ("forge/fan-1/speed", [2]),
        (["forge/**", "stamping/press-2/*"], [1, 2]),
        ("**/nothing", []),
        ([], []),
    ],
)
def test_tag_patterns(tmp_path: Path, pattern: str | list[str], fits: list[int], described: bool) -> None:
    put(tmp_path, 0, 9, described=described)
    found = lake.scan(tmp_path, tags=pattern).collect()
    assert sorted(set(found["tag"])) == sorted(PATHS[i] for i in fits)
    assert found.height == 3 * len(fits)


def test_a_gateway_without_dictionary_is_not_overlooked(tmp_path: Path) -> None:
    put(tmp_path, 0, 9)
    put(tmp_path, 0, 9, gateway="gw-2", site="kyoto", described=False)
    assert lake.scan(tmp_path, tags="**/speed").collect().height == 6


def test_rows_without_a_tag_are_passed_over_by_a_pattern_only(tmp_path: Path) -> None:
    tags = Tags(*PATHS)
    span = SpoolSpan("gw-1", 1, "event", 0, 2)
    rows = batch_of("event", 0, 3, tags)
    rows = rows.set_column(1, "tag", pl.Series([0, None, None], dtype=pl.Int32).to_arrow())
    (part,) = parts([rows], span, Names(tags))
    path = tmp_path / LakeFile("osaka", part.date, span).path()
    path.parent.mkdir(parents=True)
    write_file(path, part.table, {})
    assert lake.scan(tmp_path, kind="event").collect().height == 3
    assert lake.scan(tmp_path, kind="event", tags="**").collect().height == 1


def test_row_groups_that_cannot_hold_the_tag_are_not_read(tmp_path: Path) -> None:
    """The filter reaches the reader as an equality on the sorted column, so that its statistics count."""
    put(tmp_path, 0, 9)
    plan = lake.scan(tmp_path, tags="**/speed").explain()
    assert re.search(r"SELECTION: .*tag.*==.*speed", plan), plan
    assert "Parquet SCAN" in plan


def test_a_wider_span_hides_nothing(tmp_path: Path) -> None:
    """Only a manifest does: what lies in the hole of a span that went over midnight, or came after a dead letter, is data."""
    put(tmp_path, 0, 30)
    put(tmp_path, 10, 5)
    assert seqs(lake.scan(tmp_path)) == sorted([*range(30), *range(10, 15)])


def test_what_is_not_of_the_lake_is_passed_over(tmp_path: Path) -> None:
    (path,) = put(tmp_path, 0, 3)
    for stray in (".tmp-x.parquet", "README.txt", "copy of data.parquet"):
        (path.parent / stray).write_bytes(b"x")
    (path.parent.parent / "date=yesterday").mkdir()
    (path.parent.parent / "notes").mkdir()
    assert seqs(lake.scan(tmp_path)) == [0, 1, 2]


def test_a_location_with_odd_characters(tmp_path: Path) -> None:
    root = tmp_path / "env=prod" / "a [b] *"
    put(root, 0, 3)
    found = lake.scan(root).collect()
    assert found.height == 3
    assert found.columns[-2:] == ["site", "date"]
    assert found["site"].to_list() == ["osaka"] * 3


@pytest.mark.parametrize("moment", [datetime(2026, 11, 1, 1, 30), "2026-11-01T01:30:00", "2026-11-01"])  # noqa: DTZ001
def test_a_time_without_zone_is_refused(tmp_path: Path, moment: datetime | str) -> None:
    with pytest.raises(ValueError, match="no time zone, so it is not one moment"):
        lake.scan(tmp_path, start=moment)


def test_the_hour_that_comes_twice_is_two_hours(tmp_path: Path) -> None:
    zone = ZoneInfo("America/New_York")  # clocks go back on 2026-11-01 at 06:00 UTC
    once, again = datetime(2026, 11, 1, 1, 30, tzinfo=zone), datetime(2026, 11, 1, 1, 30, tzinfo=zone, fold=1)
    day = (once.astimezone(UTC).date() - START.date()).days
    tags = Tags(*PATHS)
    span = SpoolSpan("gw-1", 1, "telemetry", 0, 4 * 60 - 1)
    times = T0 + day * DAY + 4 * 3_600_000_000 + np.arange(240) * 60_000_000
    (part,) = parts([with_seq(telemetry(time_us=times, tag=np.zeros(240, np.int32), value=1.0), 0)], span, Names(tags))
    path = tmp_path / LakeFile("osaka", part.date, span).path()
    path.parent.mkdir(parents=True)
    write_file(path, part.table, {})
    assert lake.scan(tmp_path, start=once, end=again).collect().height == 60


def test_errors_say_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="write it like 2026-03-01T00:00:00"):
        lake.scan(tmp_path, end="yesterday")
    with pytest.raises(ValueError, match="known are telemetry"):
        lake.scan(tmp_path, kind="telemetri")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="only directories and s3://"):
        lake.scan("gs://bucket/lake")


def test_tags_of_several_sites(tmp_path: Path) -> None:
    assert lake.tags(tmp_path).height == 0
    put(tmp_path, 0, 3)
    put(tmp_path, 0, 3, site="kyoto", gateway="gw-2")
    table = lake.tags(tmp_path)
    assert table.columns == [*(column.name for column in TAGS_COLUMNS), "site"]
    assert table.height == 6
    assert set(lake.tags(tmp_path, sites="kyoto")["site"]) == {"kyoto"}
    joined = lake.scan(tmp_path, sites="osaka").join(table.lazy(), on="tag").select("tag", "address").collect()
    assert set(joined["address"]) == {"hr:0", "hr:1", "hr:2"}


def test_an_older_or_newer_version_of_the_columns_does_not_break_readers(tmp_path: Path) -> None:
    (path,) = put(tmp_path, 0, 3)
    (other,) = put(tmp_path, 3, 3)
    pl.read_parquet(path).drop("count").write_parquet(path)
    pl.read_parquet(other).with_columns(future=pl.lit(1)).write_parquet(other)
    assert seqs(lake.scan(tmp_path)) == list(range(6))


def test_importing_the_reader_imports_nothing_heavy() -> None:
    code = "import sys, cloud_sinks.lake; print(sorted({'pyarrow', 'numpy', 'polars', 'pydantic', 'structlog', 'paho'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_region_of_a_bucket_may_stand_where_other_sdks_look_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b"), ("AWS_CONFIG_FILE", "/dev/null")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="no region is known"):
        place_of("s3://bucket/lake")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert (place_of("s3://bucket/lake").options or {})["aws_region"] == "eu-west-1"
