"""`genba lake` as a group, and `genba lake tags`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.cloud_sinks.lake_rig import Lake
from tests.conformance.sink import ODD_NAMES, Tags

Genba = Callable[..., Any]
PATHS = ("acme/osaka/stamping/press-1/motor_temp", "acme/osaka/stamping/press-2/motor_temp", "acme/osaka/forge/fan-1/speed")


@pytest.fixture
def location(tmp_path: Path) -> Path:
    lake = Lake(tmp_path / "lake")
    tags = Tags(*PATHS, label="主モータ温度")
    lake.put(tags, [(0, 0, 1.0), (1, 2, 2.0)])
    lake.describe(tags)
    return lake.root


def test_the_group_lists_its_commands_and_suggests(genba: Genba, location: Path) -> None:
    done = genba("lake", "--help")
    assert done.status == 0
    assert "tags " in done.out
    assert "Cannot be loaded" not in done.out
    assert "did you mean 'tags'?" in genba("lake", "tgas", location).err


def test_people_see_tags_with_unit_and_label(genba: Genba, location: Path) -> None:
    done = genba("lake", "tags", location)
    assert (done.status, done.err) == (0, "")
    head, *rows = done.out.splitlines()
    assert head.split() == ["tag", "unit", "value_type", "label", "first_seen", "last_seen"]
    assert [row.split()[:4] for row in rows] == [[path, "°C", "number", "主モータ温度"] for path in sorted(PATHS)]


def test_patterns_and_sites(genba: Genba, location: Path) -> None:
    assert len(genba("lake", "tags", location, "**/motor_*").out.splitlines()) == 3
    assert len(genba("lake", "tags", location, "forge/**", PATHS[0]).out.splitlines()) == 3
    done = genba("lake", "tags", location, "**/mottor")
    assert (done.status, done.err) == (0, "no tag of the lake fits **/mottor; did you mean 'motor_temp'?\n")
    assert len(genba("lake", "tags", location, "--site", "kyoto").out.splitlines()) == 1


def test_programs_get_every_column(genba: Genba, location: Path, tmp_path: Path) -> None:
    as_json = json.loads(genba("lake", "tags", location, "--format", "json").out)
    as_csv = list(csv.DictReader(io.StringIO(genba("lake", "tags", location, "--format", "csv").out)))
    assert genba("lake", "tags", location, "--out", tmp_path / "tags.parquet").status == 0
    as_parquet = pl.read_parquet(tmp_path / "tags.parquet")
    for rows in (as_json, as_csv, as_parquet.to_dicts()):
        assert [row["tag"] for row in rows] == sorted(PATHS)
        assert {row["address"] for row in rows} == {"hr:0", "hr:1", "hr:2"}
        assert {row["unit"] for row in rows} == {"Cel"}


def test_odd_names_and_an_empty_lake(genba: Genba, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    (empty / "telemetry").mkdir(parents=True)
    assert len(genba("lake", "tags", empty).out.splitlines()) == 1
    assert json.loads(genba("lake", "tags", empty, "--format", "json").out) == []
    lake = Lake(tmp_path / "odd")
    tags = Tags(*(f"acme/osaka/press/{name}" for name in ODD_NAMES))
    lake.describe(tags)
    listed = {row["name"] for row in json.loads(genba("lake", "tags", lake.root, "--format", "json").out)}
    assert listed == set(ODD_NAMES)
    for name in ODD_NAMES:
        assert name in [
            row["name"] for row in json.loads(genba("lake", "tags", lake.root, f"press/{name}", "--format", "json").out)
        ]


def test_mistakes_say_the_way_out(genba: Genba, location: Path, tmp_path: Path) -> None:
    done = genba("lake", "tags", tmp_path / "nowhere")
    assert (done.status, "no such directory" in done.err) == (2, True)
    done = genba("lake", "tags", "gs://bucket/lake")
    assert (done.status, done.err) == (2, "error: gs://bucket/lake: only directories and s3:// can be read\n")
    done = genba("lake", "tags", location, "--profile", "x")
    assert (done.status, "are for a bucket" in done.err) == (2, True)
    done = genba("lake", "tags", location, "--out", tmp_path / "tags.xlsx")
    assert (done.status, "which format?" in done.err) == (2, True)
    done = genba("lake", "tags", location, "--out", tmp_path / "no" / "tags.csv")
    assert (done.status, "cannot be written" in done.err) == (2, True)


def test_a_wrong_place_is_no_lake_without_data(genba: Genba, location: Path, tmp_path: Path) -> None:
    (tmp_path / "else").mkdir()
    for command in (("tags",), ("query",), ("verify",), ("features",), ("export", "--out", str(tmp_path / "o.csv"))):
        done = genba("lake", command[0], tmp_path / "else", *command[1:])
        assert (done.status, "no lake is there" in done.err) == (2, True), command
    done = genba("lake", "query", location / "tags" / "site=osaka")
    assert (done.status, f"name the lake itself: {location}" in done.err) == (2, True)


def test_what_is_one_character_off_is_named_with_what_was_meant(genba: Genba, location: Path) -> None:
    for more in ((), ("--every", "1m")):
        done = genba("lake", "query", location, "**/motor_tmp", *more)
        assert (done.status, "no tag of the lake fits **/motor_tmp; did you mean 'motor_temp'?" in done.err) == (0, True)
    assert "did you mean 'osaka'?" in genba("lake", "query", location, "--site", "Osaka").err
