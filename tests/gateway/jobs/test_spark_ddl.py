"""The statements of `genba lake ddl --dialect spark` make tables that Spark reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cloud_sinks import ddl
from schemas.lake import COLUMNS
from tests.cloud_sinks.lake_rig import Lake
from tests.conformance.sink import Tags

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def test_spark_reads_through_its_tables(spark: SparkSession, tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    tags = Tags("acme/osaka/press-1/temp")
    lake.put(tags, [(0, 0, 1.5), (86_400, 0, 2.5)])
    lake.gap(tags, [(0, 5, None)])
    lake.describe(tags)
    spark.sql(f"CREATE DATABASE IF NOT EXISTS tables LOCATION '{tmp_path}/warehouse'")
    try:
        for table in filter(lambda one: ddl.has_files(one, str(lake.root)), ddl.TABLES):
            for statement in ddl.spark(table, str(lake.root), database="tables").split(";\n"):
                if statement.strip():
                    spark.sql(statement)
        rows = spark.sql("SELECT value, site, CAST(date AS STRING) FROM tables.telemetry WHERE date = '2026-03-02'").collect()
        assert [tuple(row) for row in rows] == [(2.5, "osaka", "2026-03-02")]
        assert spark.table("tables.telemetry").columns == [*(c.name for c in COLUMNS["telemetry"]), "site", "date"]
        assert spark.sql("SELECT `end`, cause FROM tables.gap").count() == 1
        assert [row.address for row in spark.sql("SELECT address FROM tables.tags WHERE site = 'osaka'").collect()] == ["hr:0"]
    finally:
        spark.sql("DROP DATABASE tables CASCADE")
