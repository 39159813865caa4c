"""The pages about sinks are true: columns are those of the layout, examples fit the schemas, snippets run on a real lake."""

from __future__ import annotations

import json
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from cloud_sinks.commands import COMMANDS
from cloud_sinks.ddl import athena
from cloud_sinks.messages import AlertMessage, schema_text
from cloud_sinks.parquet.config import ParquetConfig
from cloud_sinks.parquet.dictionary import TagTable
from cloud_sinks.parquet.file import data_metadata, write_file
from cloud_sinks.parquet.rows import Names, parts
from cloud_sinks.parquet.store import LocalStore
from gateway.cli import main
from schemas.lake import COLUMNS, TAGS_COLUMNS, Column, LakeFile
from tests.cloud_sinks.aws_rig import KEY, SECRET, moto, reset
from tests.cloud_sinks.json_schema import problems
from tests.conformance.sink import T0, Tags, batch_of, span_of

DOCS = Path(__file__).parents[2] / "docs"
LAKE = (DOCS / "lake.md").read_text(encoding="utf-8")
QUERY = (DOCS / "lake-query.md").read_text(encoding="utf-8")
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
    TagTable(tags, enterprise="acme", site="osaka", gateway="gw-1", sink="lake").write(store)
    monkeypatch.chdir(tmp_path)


SNIPPETS = [found for found in re.findall(r"```python\n(.*?)```", LAKE + QUERY, re.DOTALL) if "pyspark" not in found]
"""Spark's is run by tests/gateway/jobs/test_spark.py, where a session is."""


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    with moto() as endpoint:
        yield endpoint


@pytest.fixture
def bucket(request: pytest.FixtureRequest, plant: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same lake in the bucket of the page, for the snippets that read one: everything they need is in the environment."""
    if "s3://" not in request.getfixturevalue("snippet"):
        return
    endpoint = request.getfixturevalue("s3_server")
    reset(endpoint)
    for name, value in {
        "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "ap-northeast-1",
        "AWS_REGION": "ap-northeast-1", "AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": "true", "AWS_EC2_METADATA_DISABLED": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    s3 = boto3.client("s3", endpoint_url=endpoint)
    s3.create_bucket(Bucket="acme-plant-lake", CreateBucketConfiguration={"LocationConstraint": "ap-northeast-1"})
    for path in (tmp_path / "lake").rglob("*.parquet"):
        s3.upload_file(str(path), "acme-plant-lake", f"genba/{path.relative_to(tmp_path / 'lake').as_posix()}")


@pytest.mark.parametrize("snippet", SNIPPETS, ids=[str(n) for n in range(len(SNIPPETS))])
@pytest.mark.usefixtures("plant", "bucket")
def test_snippets_run(snippet: str, tmp_path: Path) -> None:
    (tmp_path / "snippet.py").write_text(snippet, encoding="utf-8")
    made = runpy.run_path(str(tmp_path / "snippet.py"))
    result = next(
        value for name, value in reversed(made.items()) if name in ("hourly", "named", "latest", "table", "frame", "found")
    )
    assert len(result) > 0
    if "wide" in made:
        assert made["wide"].collect().drop("time").null_count().row(0) < (60, 60)


COMMANDS_OF_THE_PAGE = re.findall(r"^genba (lake .*)$", QUERY, re.MULTILINE)


@pytest.mark.parametrize("line", COMMANDS_OF_THE_PAGE)
@pytest.mark.usefixtures("plant")
def test_commands_run(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(line))
    said = capsys.readouterr()
    assert ended.value.code == 0, said.err
    out = re.search(r"--out (\S+)", line)
    assert Path(out[1]).stat().st_size > 100 if out else len(said.out.splitlines()) > 1


def test_the_statement_of_the_page_is_what_is_printed() -> None:
    found = re.search(r"<!-- athena -->\n(.*)<!-- end -->", QUERY, re.DOTALL)
    made = f"```sql\n{athena('gap', 's3://acme-plant-lake/genba', database='genba', sites=['osaka'])}```\n"
    assert found is not None
    assert found[1] == made, f"put this between the marks:\n{made}"


def test_the_alert_of_the_page_fits_the_schema_and_the_class() -> None:
    (example,) = re.findall(r"```json\n(.*?)```", ALERTS, re.DOTALL)
    assert problems(json.loads(example), json.loads(schema_text("alert"))) == []
    AlertMessage.model_validate(json.loads(example))


def test_the_commands_of_the_page_are_those_taken() -> None:
    assert set(re.findall(r"genba/command/stamping-gw-1/(\w+) -m", ALERTS)) == COMMANDS
    for payload in re.findall(r"-m '(\{.*\})'", ALERTS):
        assert "id" in json.loads(payload)
