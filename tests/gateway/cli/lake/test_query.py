"""`genba lake query` and `genba lake export` as a person calls them."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas import quality as q
from tests.cloud_sinks.lake_rig import Lake
from tests.conformance.sink import ODD_NAMES, Tags

Genba = Callable[..., Any]
TEMP, SPEED = "acme/osaka/press-1/motor_temp", "acme/osaka/fan-1/speed"


@pytest.fixture
def plant(tmp_path: Path) -> Lake:
    lake = Lake(tmp_path / "lake")
    tags = Tags(TEMP, SPEED)
    lake.put(tags, [(i, i % 2, i * 0.5) for i in range(60)])
    lake.put(tags, [(60, 0, None)], quality=q.BAD_TIMEOUT)
    lake.put(tags, [(30, 0, "too hot")], columns=("time", "tag", "problem"), kind="alert", alarm="high", severity="critical")
    lake.gap(tags, [(60, 90, None)])
    lake.describe(tags)
    return lake


def test_people_see_readings_in_order_with_words(genba: Genba, plant: Lake) -> None:
    done = genba("lake", "query", plant.root, "press-1/*", "--start", "2026-03-01T00:00:58Z")
    assert (done.status, done.err) == (0, "")
    assert [line.split() for line in done.out.splitlines()] == [
        ["time", "tag", "value", "unit", "quality", "origin", "site"],
        ["2026-03-01", "00:00:58+00:00", TEMP, "29", "°C", "Good", "live", "osaka"],
        ["2026-03-01", "00:01:00+00:00", TEMP, "°C", "BadTimeout", "live", "osaka"],
    ]


def test_times_are_shown_on_the_clocks_of_the_zone(genba: Genba, plant: Lake) -> None:
    done = genba("lake", "query", plant.root, "--zone", "Asia/Tokyo", "--start", "2026-03-01 09:00:01", "--limit", "1")
    assert "2026-03-01 09:00:01+09:00" in done.out
    assert done.out.count("\n") == 2


def test_programs_get_rows_in_every_format(genba: Genba, plant: Lake, tmp_path: Path) -> None:
    asked = ("lake", "query", plant.root, SPEED)
    as_csv = list(csv.DictReader(io.StringIO(genba(*asked, "--format", "csv").out)))
    as_json = json.loads(genba(*asked, "--format", "json").out)
    assert len(as_csv) == len(as_json) == 30
    assert as_csv[0]["time"] == "2026-03-01T00:00:01.000000+00:00"
    assert [float(row["value"]) for row in as_csv] == [row["value"] for row in as_json] == [i * 0.5 for i in range(1, 60, 2)]
    for name in ("out.parquet", "out.arrow", "out.csv", "out.json", "out.txt"):
        assert genba(*asked, "--out", tmp_path / name).status == 0
    assert pl.read_parquet(tmp_path / "out.parquet").equals(pl.read_ipc(tmp_path / "out.arrow"))
    assert pl.read_parquet(tmp_path / "out.parquet").height == 30
    assert json.loads((tmp_path / "out.json").read_text()) == as_json
    assert len((tmp_path / "out.txt").read_text().splitlines()) == 31
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".tmp")] == []


def test_a_pipe_gets_an_arrow_stream(plant: Lake) -> None:
    arguments = [sys.executable, "-m", "gateway", "lake", "query", str(plant.root), "--format", "arrow"]
    done = subprocess.run(arguments, capture_output=True, check=True, timeout=60)
    assert pa.ipc.open_stream(done.stdout).read_all().num_rows == 61


def test_a_pipe_that_is_closed_is_no_traceback(plant: Lake) -> None:
    lake = Lake(plant.root, {("gw-1", "telemetry"): 1000})
    lake.put(Tags(TEMP), [(100 + i, 0, float(i)) for i in range(20_000)])
    command = f"{sys.executable} -m gateway lake query {plant.root} --format csv | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith("time,tag,")
    assert done.stderr == ""


def test_a_wide_table_with_units(genba: Genba, plant: Lake, tmp_path: Path) -> None:
    asked = ("lake", "query", plant.root, "--start", "2026-03-01T00:00:56Z", "--end", "2026-03-01T00:01:32Z", "--every", "2s")
    head, first, *_, last = genba(*asked, "--format", "csv").out.splitlines()
    assert head == f"time,{SPEED} [°C],{TEMP} [°C]"
    assert first.split(",")[1:] == ["27.5", "28.0"]
    assert last.split(",")[1:] == ["", ""], "in the gap nothing is known"
    assert genba(*asked, "--out", tmp_path / "wide.parquet").status == 0
    schema = pq.read_schema(tmp_path / "wide.parquet")
    assert schema.names == ["time", SPEED, TEMP]
    assert schema.field(TEMP).metadata[b"unit"] == b"Cel"
    assert [row[TEMP] for row in json.loads(genba(*asked, "--format", "json", "--limit", "2").out)] == [28.0, 29.0]
    mean = genba("lake", "query", plant.root, TEMP, "--every", "1m", "--how", "mean", "--format", "csv").out.splitlines()
    assert [line.split(",")[1] for line in mean] == [f"{TEMP} [°C]", "14.5", ""]


def test_sql(genba: Genba, plant: Lake) -> None:
    sql = "select t.tag, count(*) as n, max(value) as most from telemetry t join tags g on t.tag = g.tag where quality = 0 group by t.tag order by n, t.tag"
    found = json.loads(genba("lake", "query", plant.root, "--sql", sql, "--format", "json").out)
    assert found == [{"tag": SPEED, "n": 30, "most": 29.5}, {"tag": TEMP, "n": 30, "most": 29.0}]
    bounded = genba(
        "lake", "query", plant.root, "press-1/*", "--end", "2026-03-01T00:00:10Z", "--sql", "select count(*) as n from telemetry"
    )
    assert bounded.out.split() == ["n", "5"]
    later = "select count(*) as n from telemetry where time >= '2026-03-01T09:00:50+09:00'"
    assert genba("lake", "query", plant.root, "--sql", later).out.split() == ["n", "11"]
    assert "too hot" in genba("lake", "query", plant.root, "--sql", "select problem from alert").out


@pytest.mark.parametrize("sql", ["select nothing from telemetry", "selct", "select * from readings", "drop table telemetry; x"])
def test_sql_that_is_wrong_says_so(genba: Genba, plant: Lake, sql: str) -> None:
    done = genba("lake", "query", plant.root, "--sql", sql)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("error: --sql: ")
    assert "tables are telemetry, event" in done.err
    assert "Traceback" not in done.err


def test_other_tables(genba: Genba, plant: Lake) -> None:
    assert "too hot" in genba("lake", "query", plant.root, "--kind", "alert").out
    assert len(json.loads(genba("lake", "query", plant.root, "--kind", "gap", "--format", "json").out)) == 1
    assert json.loads(genba("lake", "query", plant.root, "--kind", "score", "--format", "json").out) == []


def test_nothing_but_the_files_asked_for_is_opened(genba: Genba, plant: Lake) -> None:
    plant.put(Tags(TEMP), [(86_400 * 3, 0, 1.0)])
    (path,) = plant.root.glob("telemetry/site=osaka/date=2026-03-04/*")
    path.write_bytes(b"never opened")
    assert genba("lake", "query", plant.root, TEMP, "--end", "2026-03-02T00:00Z", "--format", "csv").status == 0
    wide = ("--start", "2026-03-01T00:00Z", "--end", "2026-03-01T00:01Z", "--every", "10s")
    assert genba("lake", "query", plant.root, *wide).status == 0
    done = genba("lake", "query", plant.root, TEMP, "--format", "csv")
    assert done.status == 1, "a broken file that is needed is named, not passed over"
    assert str(plant.root) in done.err
    assert "Traceback" not in done.err


def test_odd_names_of_tags_and_sites(genba: Genba, tmp_path: Path) -> None:
    lake = Lake(tmp_path / "odd lake %20 [x]")
    tags = Tags(*(f"acme/osaka/press/{name}" for name in ODD_NAMES))
    lake.put(tags, [(i, i, float(i)) for i in range(len(ODD_NAMES))], site="大阪 1+1#%25")
    lake.describe(tags, site="大阪 1+1#%25")
    for i, name in enumerate(ODD_NAMES):
        found = json.loads(genba("lake", "query", lake.root, f"acme/osaka/press/{name}", "--format", "json").out)
        assert (f"acme/osaka/press/{name}", i) in [(row["tag"], row["value"]) for row in found]
        assert {row["site"] for row in found} == {"大阪 1+1#%"}
    wide = json.loads(genba("lake", "query", lake.root, "--every", "5s", "--format", "json").out)
    assert set(wide[0]) == {"time", *(f"acme/osaka/press/{name}" for name in ODD_NAMES)}
    assert json.loads(genba("lake", "tags", lake.root, "--site", "大阪 1+1#%", "--format", "json").out)
    assert genba("lake", "query", lake.root).status == 0


def test_mistakes_say_the_way_out(genba: Genba, plant: Lake, tmp_path: Path) -> None:
    for options, said in (
        (["--sql", "select 1", "--wide"], "makes its own table"),
        (["--kind", "alert", "--every", "1s"], "made of readings"),
        (["--every", "soon"], "write it like 500ms"),
        (["--start", "2026-03-01"], "has no time zone"),
        (["--out", "x.doc"], "which format?"),
        (["--last", "8"], "needs its unit"),
    ):
        done = genba("lake", "query", plant.root, *options)
        assert (done.status, said in done.err) == (2, True), done.err
    plant.put(Tags(TEMP, unit="[degF]"), [(100, 0, 90.0)])
    done = genba("lake", "query", plant.root, TEMP, "--wide")
    assert (done.status, "changes its unit from °C to °F" in done.err) == (2, True)
    assert genba("lake", "query", plant.root, TEMP, "--wide", "--units", "split").status == 0


@pytest.mark.parametrize("suffix", ["parquet", "csv", "arrow"])
def test_export_writes_one_file_with_every_column(genba: Genba, plant: Lake, tmp_path: Path, suffix: str) -> None:
    plant.put(Tags(TEMP), [(200, 0, [1.0, 2.5])], columns=("time", "tag", "samples"))
    out = tmp_path / f"hand over.{suffix}"
    done = genba("lake", "export", plant.root, "**/motor_*", "--end", "2026-03-02T00:00Z", "--out", out)
    assert (done.status, done.out) == (0, "")
    assert done.err.startswith(f"{out}: ")
    read = {"parquet": pl.read_parquet, "csv": pl.read_csv, "arrow": pl.read_ipc}[suffix](out)
    assert read.height == 32
    assert {"time", "tag", "value", "unit", "quality", "seq", "site", "date", "samples"} <= set(read.columns)
    assert set(read["tag"]) == {TEMP}
    if suffix == "csv":
        assert read["samples"].drop_nulls().to_list() == ["1.0 2.5"]
        shown = genba("lake", "query", plant.root, TEMP, "--start", "2026-03-01T00:03Z", "--format", "csv").out
        assert ",1.0 2.5," in shown
    if suffix == "parquet":
        about = pq.read_metadata(out).metadata
        assert json.loads(about[b"genba.tags"]) == ["**/motor_*"]
        assert about[b"genba.end"] == b"2026-03-02T00:00:00+00:00"


@pytest.mark.parametrize("suffix", ["parquet", "csv", "arrow"])
def test_an_export_of_what_is_not_there_says_so_and_one_of_a_silent_time_is_empty(
    genba: Genba, plant: Lake, tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / f"x.{suffix}"
    for wrong in (("**/moter_*",), ("--site", "kyoto")):
        done = genba("lake", "export", plant.root, *wrong, "--out", out)
        assert (done.status, done.out) == (2, "")
        assert ("no tag of the lake fits **/moter_*" in done.err) != ("no site of the lake is called kyoto" in done.err)
        assert list(tmp_path.glob("*x.*")) == []
    assert genba("lake", "export", plant.root, TEMP, "--end", "2020-01-01T00:00Z", "--out", out).status == 0
    read = {"parquet": pl.read_parquet, "csv": pl.read_csv, "arrow": pl.read_ipc}[suffix](out)
    assert read.height == 0
    assert "value" in read.columns


def test_an_export_that_fails_leaves_nothing(genba: Genba, plant: Lake, tmp_path: Path) -> None:
    for path in plant.root.glob("telemetry/*/*/*.parquet"):
        path.write_bytes(path.read_bytes()[:-100])
    out = tmp_path / "out" / "x.parquet"
    out.parent.mkdir()
    done = genba("lake", "export", plant.root, "--out", out)
    assert (done.status, list(out.parent.iterdir())) == (1, [])
    done = genba("lake", "export", plant.root, "--out", tmp_path / "none" / "x.parquet")
    assert (done.status, "cannot be written" in done.err) == (2, True)
    done = genba("lake", "export", plant.root, "--out", out.with_suffix(".json"))
    assert (done.status, "writes parquet, csv or arrow" in done.err) == (2, True)
