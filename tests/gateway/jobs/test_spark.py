"""The lake's jobs past one machine, on two local executors: the same numbers as with polars and at the edge, bit for bit."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest

from cloud_sinks import lake
from cloud_sinks.jobs import Lake
from gateway.jobs import lake_features
from gateway.jobs import spark as sparks
from gateway.jobs.lake_score import Request, score
from schemas.errors import ConfigError
from schemas.values import Duration
from tests.gateway.jobs.plant import Plant, bits
from tests.gateway.jobs.test_lake_score import config_of, files_of, live

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

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
