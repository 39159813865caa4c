"""The pages about sinks are true: columns are those of the layout, examples fit the schemas, snippets run on a real lake."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest

from cloud_sinks.commands import COMMANDS
from cloud_sinks.messages import AlertMessage, schema_text
from cloud_sinks.parquet.config import ParquetConfig
from cloud_sinks.parquet.dictionary import TagTable
from cloud_sinks.parquet.file import data_metadata, write_file
from cloud_sinks.parquet.rows import Names, parts
from cloud_sinks.parquet.store import LocalStore
from schemas.lake import COLUMNS, TAGS_COLUMNS, Column, LakeFile
from tests.cloud_sinks.json_schema import problems
from tests.conformance.sink import T0, Tags, batch_of, span_of

DOCS = Path(__file__).parents[2] / "docs"
LAKE = (DOCS / "lake.md").read_text(encoding="utf-8")
ALERTS = (DOCS / "alerts-mqtt.md").read_text(encoding="utf-8")


def table(name: str, columns: tuple[Column, ...]) -> str:
    lines = [f"### {name}", "", "| column | type | |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| `{column.name}` | {column.type} | {column.meaning} |" for column in columns)])


def column_section() -> str:
    names = ("telemetry", "event", "alert", "health", "gap", "score", "image")
    return "\n\n".join([*(table(kind, COLUMNS[kind]) for kind in names), table("tags", TAGS_COLUMNS)])


def test_the_columns_of_the_page_are_those_of_the_layout() -> None:
    found = re.search(r"<!-- columns -->\n(.*)\n<!-- end -->", LAKE, re.DOTALL)
    assert found is not None
    assert found[1].strip() == column_section(), f"put this between the marks:\n{column_section()}"


def test_the_path_of_the_page_is_a_path() -> None:
    paths = re.findall(r"^\s+(telemetry/\S+\.parquet)", LAKE, re.MULTILINE)
    assert [LakeFile.parse(path).span.last for path in paths] == [ParquetConfig(location="x").roll.max_rows - 1]


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A day of a small plant's lake in the current directory."""
    tags = Tags("acme/osaka/stamping/press-07/motor_temp", "acme/osaka/stamping/press-07/vibration")
    span = span_of("telemetry", 0, 2000)
    for part in parts([batch_of("telemetry", 0, 2000, tags, time_us=T0 + 59 * 86_400_000_000)], span, Names(tags)):
        path = tmp_path / "lake" / LakeFile("osaka", part.date, span).path()
        path.parent.mkdir(parents=True)
        write_file(path, part.table, data_metadata(part.table, span, enterprise="acme", site="osaka"))
    store = LocalStore(tmp_path / "lake", "gw-1")
    store.open()
    TagTable(tags, enterprise="acme", site="osaka", gateway="gw-1").write(store)
    monkeypatch.chdir(tmp_path)


SNIPPETS = [found for found in re.findall(r"```python\n(.*?)```", LAKE, re.DOTALL) if "pyspark" not in found]
"""Spark's is run by tests/gateway/jobs/test_spark.py, where a session is."""


@pytest.mark.parametrize("snippet", SNIPPETS, ids=[str(n) for n in range(len(SNIPPETS))])
@pytest.mark.usefixtures("plant")
def test_snippets_run(snippet: str, tmp_path: Path) -> None:
    (tmp_path / "snippet.py").write_text(snippet, encoding="utf-8")
    made = runpy.run_path(str(tmp_path / "snippet.py"))
    result = next(
        value for name, value in reversed(made.items()) if name in ("hourly", "named", "latest", "table", "frame", "found")
    )
    assert len(result) > 0


def test_the_alert_of_the_page_fits_the_schema_and_the_class() -> None:
    (example,) = re.findall(r"```json\n(.*?)```", ALERTS, re.DOTALL)
    assert problems(json.loads(example), json.loads(schema_text("alert"))) == []
    AlertMessage.model_validate(json.loads(example))


def test_the_commands_of_the_page_are_those_taken() -> None:
    assert set(re.findall(r"genba/command/stamping-gw-1/(\w+) -m", ALERTS)) == COMMANDS
    for payload in re.findall(r"-m '(\{.*\})'", ALERTS):
        assert "id" in json.loads(payload)
