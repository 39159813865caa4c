"""The lake's jobs past one machine, on two local executors: the same numbers as with polars and at the edge, bit for bit."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest

from cloud_sinks import lake
from cloud_sinks.jobs import Lake
from cloud_sinks.parquet.audit import audit
from cloud_sinks.parquet.shelf import LocalShelf
from gateway.cli import main
from gateway.jobs import lake_features
from gateway.jobs import spark as sparks
from gateway.jobs.lake_score import score
from gateway.jobs.score_plan import Request
from schemas.errors import ConfigError
from schemas.values import Duration
from tests.gateway.jobs.plant import Plant, bits
from tests.gateway.jobs.test_lake_score import config_of, files_of, live

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

LAKE_PAGE = (Path(__file__).parents[3] / "docs/lake.md").read_text(encoding="utf-8")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def plants() -> list[Plant]:
    return [Plant("osaka", "gw-1", polls=1250), Plant("kyoto", "gw-2", seed=1, polls=700)]


@pytest.fixture(scope="module")
def root(plants: list[Plant], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("plant") / "lake"
    for plant in plants:
        plant.write(root)
    return root


@pytest.mark.parametrize("name", ["gated", "stuck", "limits"])
def test_scores_are_those_of_the_gateway_and_of_polars_bit_for_bit(
    spark: SparkSession, plants: list[Plant], root: Path, tmp_path: Path, name: str
) -> None:
    config = config_of(name)
    request = Request(Lake(str(root)), config)
    out = {engine: tmp_path / engine for engine in ("polars", "spark")}
    polars = score(request, str(out["polars"]), result=Lake(str(out["polars"])))
    summary = score(request, str(out["spark"]), spark=spark, result=Lake(str(out["spark"])))
    assert summary == polars
    assert files_of(out["spark"]) == files_of(out["polars"])
    assert bits(lake.scan(out["spark"], kind="score").collect()).equals(live(plants, config))
    assert pl.read_parquet(out["spark"] / "score").height == summary.rows


def test_features_are_those_of_polars_to_the_last_byte(spark: SparkSession, root: Path, tmp_path: Path) -> None:
    out = {engine: Lake(str(tmp_path / engine)) for engine in ("polars", "spark")}
    polars = lake_features.make(Lake(str(root)), Duration("1m"), result=out["polars"])
    summary = lake_features.make(Lake(str(root)), Duration("1m"), result=out["spark"], spark=spark)
    assert summary == polars
    assert summary.files == summary.made == 4
    assert files_of(tmp_path / "spark") == files_of(tmp_path / "polars")
    assert lake_features.make(Lake(str(root)), Duration("1m"), result=out["spark"], spark=spark).made == 0


def test_what_a_task_raises_is_said_without_a_trace(spark: SparkSession, root: Path, tmp_path: Path) -> None:
    bare = tmp_path / "lake"
    shutil.copytree(root, bare)
    broken = next((bare / "telemetry/site=kyoto").rglob("*.parquet"))
    broken.write_bytes(b"PAR1 and no more PAR1")
    out = Lake(str(tmp_path / "scores"))
    with pytest.raises(ConfigError, match=rf"^{broken.relative_to(bare)} cannot be read: ") as caught:
        score(Request(Lake(str(bare)), config_of("drift")), out.location, spark=spark, result=out)
    assert "\n" not in str(caught.value)


def test_the_snippet_for_plain_spark_runs(spark: SparkSession, root: Path, tmp_path: Path) -> None:
    (snippet,) = (found for found in re.findall(r"```python\n(.*?)```", LAKE_PAGE, re.DOTALL) if "pyspark" in found)
    (tmp_path / "snippet.py").write_text(snippet.replace("lake/telemetry", str(root / "telemetry")), encoding="utf-8")
    names = runpy.run_path(str(tmp_path / "snippet.py"))
    rows = (
        lake.scan(root).filter(pl.col("quality") == 0, pl.col("date") == date(2026, 3, 1)).group_by("tag").agg(pl.mean("value"))
    )
    expected = dict(rows.collect().iter_rows())
    assert {row["tag"]: row["avg(value)"] for row in names["found"]} == pytest.approx(expected)
    assert names["spark"] is spark


def test_the_command_uses_the_session_that_runs(
    spark: SparkSession, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["lake", "features", str(root), "--every", "1h", "--out", str(tmp_path / "out"), "--site", "kyoto"]
    with pytest.raises(SystemExit) as ended:
        main([*asked, "--engine", "spark", "--master", "spark://nowhere:1"])
    assert ended.value.code in (0, None)
    assert capsys.readouterr().out == "30 windows of 1h in 2 files, 2 made now\n"
    assert spark.range(3).count() == 3


def test_a_local_session_listens_on_loopback_only(spark: SparkSession) -> None:
    process = Path(f"/proc/{spark.sparkContext._gateway.proc.pid}")
    mine = {os.readlink(one) for one in (process / "fd").iterdir()}
    listening = []
    for table in ("tcp", "tcp6"):
        for line in (process / "net" / table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in mine:
                listening.append(fields[1].partition(":")[0])
    assert listening
    assert set(listening) <= {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


PROBE = """
import sys
sys.path.insert(0, sys.argv[1])
import cloud_sinks.features, cloud_sinks.jobs, edge_models.drift, edge_models.replay
assert all(module.__file__.startswith(sys.argv[1]) for module in (cloud_sinks.jobs, edge_models.replay))
heavy = {"gateway", "adapters", "polars", "boto3", "structlog", "pyspark", "asyncio", "yaml"} & set(sys.modules)
assert not heavy, heavy
"""


def test_the_zip_for_executors_is_whole_and_imports_light(tmp_path: Path) -> None:
    zipped = sparks.package(tmp_path / "genba_lake.zip")
    done = subprocess.run(
        [sys.executable, "-I", "-c", PROBE, str(zipped)], capture_output=True, text=True, cwd=tmp_path, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_compaction_in_tasks_gives_the_same_rows_in_the_same_format(
    spark: SparkSession, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {engine: tmp_path / engine for engine in ("polars", "spark")}
    for place in made.values():
        shutil.copytree(root, place)
    before = lake.scan(root).collect().sort("gateway", "seq")
    reports = {}
    for engine, place in made.items():
        with pytest.raises(SystemExit) as ended:
            main(["lake", "compact", str(place), "--grace", "0s", "--json", "--engine", engine])
        assert ended.value.code in (0, None)
        reports[engine] = json.loads(capsys.readouterr().out)
        assert lake.scan(place).collect().sort("gateway", "seq").equals(before)
        assert audit(LocalShelf(place), deep=True, now_us=time.time_ns() // 1000).findings == []
        assert not list(place.glob(".tmp-*/*"))
    mine, theirs = reports["spark"], reports["polars"]
    assert mine["ok"]
    assert len(mine["merged"]) == 3  # two gateways, one of them over midnight
    assert sorted(mine["removed"]) == sorted(theirs["removed"])
    told = [
        sorted((one["folder"], one["files"], one["rows"], one["bytes"]) for one in report["merged"]) for report in (mine, theirs)
    ]
    assert told[0] == told[1]
    files = [
        {re.sub("-m[0-9a-f]{12}", "", name): data for name, data in files_of(place).items() if name.endswith(".parquet")}
        for place in made.values()
    ]
    assert files[0] == files[1]  # but for the random digits in their names


def test_damage_that_a_task_finds_is_told_and_left_alone(
    spark: SparkSession, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(root, tmp_path / "lake")
    victim = min((tmp_path / "lake/telemetry/site=kyoto").rglob("*.parquet"))
    victim.write_bytes(victim.read_bytes()[:-9])
    with pytest.raises(SystemExit) as ended:
        main(["lake", "compact", str(tmp_path / "lake"), "--grace", "0s", "--json", "--engine", "spark"])
    assert ended.value.code == 1
    report = json.loads(capsys.readouterr().out)
    assert [problem.split(":")[0] for problem in report["problems"]] == [str(victim.relative_to(tmp_path / "lake"))]
    assert victim.is_file()
    assert report["merged"]
