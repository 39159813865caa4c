"""The lake's jobs past one machine, on two local executors: the same numbers as with polars and at the edge, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest

from cloud_sinks import lake
from cloud_sinks.jobs import Lake
from gateway.jobs.lake_score import Request, score
from tests.gateway.jobs.plant import Plant, bits
from tests.gateway.jobs.test_lake_score import config_of, files_of, live

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


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
