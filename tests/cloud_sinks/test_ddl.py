"""The lake as tables of other engines: statements that engines take, with the columns of the layout."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import duckdb
import pytest

from cloud_sinks import ddl
from schemas.lake import COLUMNS
from tests.cloud_sinks.aws_rig import moto
from tests.cloud_sinks.lake_rig import Lake
from tests.conformance.sink import Tags

LOCATION = "s3://acme-plant-lake/genba"
Genba = Callable[..., Any]


@pytest.fixture(scope="module")
def glue() -> Iterator[Any]:
    with moto() as endpoint:
        yield boto3.client(
            "glue", endpoint_url=endpoint, region_name="ap-northeast-1", aws_access_key_id="x", aws_secret_access_key="x"
        )


@pytest.mark.parametrize("sites", [[], ["osaka", "kyoto"]])
def test_glue_takes_every_table(glue: Any, sites: list[str]) -> None:
    database = f"genba{len(sites)}"
    glue.create_database(DatabaseInput={"Name": database})
    for table in ddl.TABLES:
        glue.create_table(
            **ddl.glue(table, LOCATION, database=database, sites=sites)
        )  # botocore checks it against the service's model
    found = {one["Name"]: one for one in glue.get_tables(DatabaseName=database)["TableList"]}
    assert set(found) == set(ddl.TABLES)
    for table, one in found.items():
        assert [c["Name"] for c in one["StorageDescriptor"]["Columns"]] == [c.name for c in ddl.columns_of(table)]
        assert [c["Name"] for c in one["PartitionKeys"]] == (["site"] if table == "tags" else ["site", "date"])
        assert one["Parameters"]["projection.site.type"] == ("enum" if sites else "injected")
    template = found["telemetry"]["Parameters"]["storage.location.template"]
    assert template == "s3://acme-plant-lake/genba/telemetry/site=${site}/date=${date}"


@pytest.mark.parametrize("table", ddl.TABLES)
def test_athena_says_the_same_as_glue(table: str) -> None:
    text = ddl.athena(table, LOCATION + "/", database="genba", sites=["osaka"])
    as_glue = ddl.glue(table, LOCATION, database="genba", sites=["osaka"])["TableInput"]
    columns = re.findall(r"^  `(\w+)` (\S+) COMMENT '([^']+)'", text, re.MULTILINE)
    assert columns == [(c["Name"], c["Type"], c["Comment"]) for c in as_glue["StorageDescriptor"]["Columns"]]
    properties = dict(re.findall(r"^  '([\w.]+)' = '([^']*)'", text, re.MULTILINE))
    assert properties.items() <= as_glue["Parameters"].items()
    assert f"LOCATION '{as_glue['StorageDescriptor']['Location']}'" in text
    assert text.count("'") % 2 == text.count("`") % 2 == 0
    assert text.count("(") == text.count(")")


def test_duckdb_reads_through_its_views(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "la ke")
    tags = Tags("acme/osaka/press-1/temp")
    lake.put(tags, [(0, 0, 1.5), (86_400, 0, 2.5)])
    lake.gap(tags, [(0, 5, None)])
    lake.describe(tags)
    with duckdb.connect() as connection:
        for table in ("telemetry", "gap", "tags"):
            connection.execute(ddl.duckdb(table, str(lake.root)))
        rows = connection.execute("select value, site, date::text from telemetry where date = '2026-03-02'").fetchall()
        assert rows == [(2.5, "osaka", "2026-03-02")]
        names = [row[0] for row in connection.execute("describe telemetry").fetchall()]
        assert names == [*(column.name for column in COLUMNS["telemetry"]), "site", "date"]
        assert connection.execute('select "end" - time from gap').fetchone() is not None
        joined = "select t.value, g.address from telemetry t join tags g using (tag, site) order by 1"
        assert connection.execute(joined).fetchall() == [(1.5, "hr:0"), (2.5, "hr:0")]
        comment = connection.execute(
            "select comment from duckdb_columns() where table_name = 'telemetry' and column_name = 'unit'"
        )
        assert comment.fetchone() == ("UCUM code of value, 1 for none",)


@pytest.mark.parametrize(
    ("location", "more", "said"),
    [
        ("./lake", {}, "Athena and Glue read s3://"),
        ("s3://b/it's", {}, "cannot stand in these statements"),
        ("s3://b/${site}", {}, "cannot stand in these statements"),
        (LOCATION, {"database": "Genba; drop"}, "no name of a database"),
        (LOCATION, {"sites": ["a,b"]}, "list of sites"),
    ],
)
def test_what_cannot_stand_in_a_statement_is_refused(location: str, more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        ddl.athena("telemetry", location, **{"database": "genba", **more})
    with pytest.raises(ValueError, match="unknown table"):
        ddl.columns_of("telemetri")
