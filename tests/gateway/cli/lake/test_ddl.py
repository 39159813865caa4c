"""`genba lake ddl` as a person calls it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from cloud_sinks.ddl import TABLES
from tests.cloud_sinks.lake_rig import Lake
from tests.conformance.sink import Tags

Genba = Callable[..., Any]


def test_every_table_for_every_engine(genba: Genba) -> None:
    for dialect, begin in (("athena", "CREATE EXTERNAL TABLE"), ("spark", "CREATE TABLE"), ("duckdb", "CREATE OR REPLACE VIEW")):
        done = genba("lake", "ddl", "s3://bucket/lake", "--dialect", dialect)
        assert (done.status, done.out.count(begin)) == (0, len(TABLES))
    tables = json.loads(genba("lake", "ddl", "s3://bucket/lake", "--dialect", "glue", "--site", "osaka").out)
    assert [one["TableInput"]["Name"] for one in tables] == list(TABLES)
    one = genba("lake", "ddl", "s3://bucket/lake", "--dialect", "athena", "--table", "alert", "--since", "2026-01-01").out
    assert "`genba`.`alert`" in one
    assert "'2026-01-01,NOW+1DAY'" in one


def test_what_is_printed_for_duckdb_runs(genba: Genba, tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    lake.put(Tags("acme/osaka/press-1/temp"), [(0, 0, 1.5)])
    with duckdb.connect() as connection:
        connection.execute(genba("lake", "ddl", lake.root, "--dialect", "duckdb").out)
        assert connection.execute("select tag, value from telemetry").fetchall() == [("acme/osaka/press-1/temp", 1.5)]


@pytest.mark.parametrize("location", ["./lake", "s3://b/'"])
def test_a_location_that_is_none_is_a_configuration_error(genba: Genba, location: str) -> None:
    done = genba("lake", "ddl", location, "--dialect", "athena")
    assert (done.status, done.err.startswith("error: ")) == (2, True)
