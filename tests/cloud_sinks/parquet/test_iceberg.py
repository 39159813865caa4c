"""The lake as Iceberg tables: every snapshot holds each row once, whatever was added, merged, killed or run twice."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from cloud_sinks import lake
from cloud_sinks.parquet import iceberg
from cloud_sinks.parquet.iceberg import Registered
from cloud_sinks.places import Directory, place_of
from schemas.errors import ConfigError, NotConnected
from tests.cloud_sinks.aws_rig import KEY, SECRET, reset
from tests.cloud_sinks.bucket_rig import BUCKET, LOCATION, client
from tests.cloud_sinks.test_lake import put
from tests.gateway.cli.conftest import Genba
from tests.gateway.cli.conftest import genba as genba

from .compactions import compact

if importlib.util.find_spec("pyiceberg") is None:
    pytest.fail("these tests need the extra iceberg, which requirements/dev.in names: make setup", pytrace=False)


class Killed(BaseException):
    """Stands for the end of the process: nothing in between catches it."""


def register(root: Path) -> list[Registered]:
    place = Directory(root)
    with iceberg.opened(*iceberg.settings(place, None, None)) as catalog:
        return iceberg.register(place, catalog)


def changed(root: Path) -> tuple[int, int]:
    (one,) = register(root)
    return one.added, one.removed


def rows(root: Path, snapshot: int | None = None) -> pl.DataFrame:
    with iceberg.opened(*iceberg.settings(Directory(root), None, None)) as catalog:
        found = pl.from_arrow(catalog.load_table("genba.telemetry").scan(snapshot_id=snapshot).to_arrow())
    assert isinstance(found, pl.DataFrame)
    return found.sort("gateway", "epoch", "seq")


def snapshots(root: Path) -> list[int]:
    with iceberg.opened(*iceberg.settings(Directory(root), None, None)) as catalog:
        return [one.snapshot_id for one in catalog.load_table("genba.telemetry").snapshots()]


def expected(root: Path) -> pl.DataFrame:
    return lake.scan(root).drop("site", "date").collect().sort("gateway", "epoch", "seq")


def assert_same(root: Path) -> None:
    found, wanted = rows(root), expected(root)
    assert found.columns == wanted.columns
    assert found.cast(wanted.schema).equals(wanted)  # type: ignore[arg-type]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "a lake"
    put(root, 0, 40)
    put(root, 40, 30, site="kyoto")
    return root


def test_the_table_holds_what_the_lake_holds(root: Path) -> None:
    assert changed(root) == (2, 0)
    assert_same(root)
    assert len(rows(root)) == 70


def test_a_second_run_commits_nothing_and_a_third_only_what_is_new(root: Path) -> None:
    register(root)
    before = snapshots(root)
    assert changed(root) == (0, 0)
    assert snapshots(root) == before
    put(root, 70, 25)
    assert changed(root) == (1, 0)
    assert_same(root)
    assert len(rows(root)) == 95


def test_control_files_added_without_looking_are_seen_twice(root: Path) -> None:
    register(root)
    with iceberg.opened(*iceberg.settings(Directory(root), None, None)) as catalog:
        table = catalog.load_table("genba.telemetry")
        table.add_files([task.file.file_path for task in table.scan().plan_files()], check_duplicate_files=False)
    assert len(rows(root)) == 140
    with pytest.raises(AssertionError):
        assert_same(root)


@pytest.mark.parametrize("landed", [False, True])
def test_a_crash_at_the_commit_heals_at_the_next_run(root: Path, monkeypatch: pytest.MonkeyPatch, landed: bool) -> None:
    from pyiceberg.catalog.sql import SqlCatalog

    register(root)
    put(root, 70, 25)
    commit = SqlCatalog.commit_table

    def dies(self: SqlCatalog, *args: Any) -> Any:
        if landed:
            commit(self, *args)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(SqlCatalog, "commit_table", dies)
        with pytest.raises(Killed):
            register(root)
    assert len(rows(root)) == (95 if landed else 70)
    assert changed(root) == ((0, 0) if landed else (1, 0))
    assert_same(root)


def test_a_crash_before_the_first_commit_heals(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyiceberg.catalog.sql import SqlCatalog

    def dies(self: SqlCatalog, *args: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(SqlCatalog, "commit_table", dies)
        with pytest.raises(Killed):
            register(root)
    assert changed(root) == (2, 0)
    assert_same(root)


def test_the_slower_of_two_runs_adds_nothing_twice(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyiceberg.catalog.sql import SqlCatalog

    register(root)
    put(root, 70, 25)
    commit = SqlCatalog.commit_table
    others: list[tuple[int, int]] = []

    def overtaken(self: SqlCatalog, *args: Any) -> Any:
        if not others:
            others.append((0, 0))  # the run inside commits as usual
            others[0] = changed(root)
        return commit(self, *args)

    monkeypatch.setattr(SqlCatalog, "commit_table", overtaken)
    assert changed(root) == (0, 0)
    assert others == [(1, 0)]
    assert_same(root)


def test_merged_files_replace_their_sources_in_one_snapshot(root: Path) -> None:
    put(root, 70, 25)
    register(root)
    before = len(snapshots(root))
    assert compact(root, older_than_s=None, grace_s=0.0).merged
    assert changed(root) == (1, 2)
    assert_same(root)
    assert len(rows(root)) == 95
    assert len(snapshots(root)) == before + 1
    assert changed(root) == (0, 0)


def test_replaced_files_that_are_still_there_do_not_count(root: Path) -> None:
    put(root, 70, 25)
    register(root)

    def stop(point: str) -> None:
        if point == "committed":
            raise Killed

    with pytest.raises(Killed):
        compact(root, at=stop)
    assert changed(root) == (1, 2)
    assert len(rows(root)) == 95


def test_a_lake_that_lost_everything_does_not_empty_its_table(root: Path) -> None:
    register(root)
    (root / "telemetry").rename(root / "elsewhere")
    with pytest.raises(ConfigError, match=r"holds no telemetry any more.*right disk"):
        register(root)


def test_a_table_belongs_to_one_lake(root: Path, tmp_path: Path) -> None:
    register(root)
    other = Directory(tmp_path / "other")
    put(other.root, 0, 10)
    with iceberg.opened(*iceberg.settings(Directory(root), None, None)) as catalog:
        with pytest.raises(ConfigError, match="--namespace"):
            iceberg.register(other, catalog)
        (done,) = iceberg.register(other, catalog, namespace="second")
    assert (done.table, done.rows) == ("second.telemetry", 10)
    assert_same(root)


def test_a_table_of_an_earlier_version_gets_the_new_columns(root: Path) -> None:
    with iceberg.opened(*iceberg.settings(Directory(root), None, None)) as catalog:
        register(root)
        table = catalog.load_table("genba.telemetry")
        with table.update_schema(allow_incompatible_changes=True) as update:
            update.delete_column("count")
        put(root, 70, 25)
    assert changed(root) == (1, 0)
    found = rows(root)
    assert set(found.columns) == set(expected(root).columns)
    assert len(found) == 95


def test_which_catalog(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Directory(root)
    home = f"{root.resolve().as_uri().replace('%20', ' ')}/_iceberg"
    assert iceberg.settings(place, None, None) == (
        "genba",
        {"type": "sql", "uri": f"sqlite:///{root.resolve()}/_iceberg/catalog.db", "warehouse": home},
    )
    assert iceberg.settings(place, "https://rest", "wh") == ("genba", {"type": "rest", "uri": "https://rest", "warehouse": "wh"})
    assert iceberg.settings(place, "mine", None) == ("mine", {})
    with pytest.raises(ConfigError, match="cannot reach this machine"):
        iceberg.settings(place, "glue", None)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    bucket = place_of("s3://acme/lake", region="ap-northeast-1")
    with pytest.raises(ConfigError, match="cannot lie in a bucket"):
        iceberg.settings(bucket, None, None)
    name, properties = iceberg.settings(bucket, "glue", None, profile="plant")
    assert name == "glue"
    assert properties.pop("s3.session-token", None) in (None, "")
    assert properties == {
        "type": "glue", "warehouse": "s3://acme/lake/_iceberg", "glue.region": "ap-northeast-1", "glue.profile-name": "plant",
        "s3.access-key-id": "key", "s3.secret-access-key": "secret", "s3.region": "ap-northeast-1",
    }  # fmt: skip


def test_the_settings_reach_pyiceberg(monkeypatch: pytest.MonkeyPatch) -> None:
    import pyiceberg.catalog

    asked: list[tuple[str, dict[str, str]]] = []

    def load(name: str, **properties: str) -> Any:
        asked.append((name, properties))
        raise Killed

    monkeypatch.setattr(pyiceberg.catalog, "load_catalog", load)
    with pytest.raises(Killed), iceberg.opened("glue", {"type": "glue", "glue.region": "ap-northeast-1"}):
        pass
    assert asked == [("glue", {"type": "glue", "glue.region": "ap-northeast-1"})]


def test_a_rest_catalog_that_is_not_there(root: Path) -> None:
    import socket

    with socket.socket() as held:  # bound and not listening: refused
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        with (
            pytest.raises(NotConnected, match=f"{url}.*does not answer"),
            iceberg.opened(*iceberg.settings(Directory(root), url, None)),
        ):
            pass


def test_no_password_in_an_error(root: Path) -> None:
    with (
        pytest.raises(ConfigError, match=r"catalog genba \(sqlite://nowhere/x\)") as raised,
        iceberg.opened(*iceberg.settings(Directory(root), "sqlite://user:secret@nowhere/x", None)),
    ):
        pass
    assert "secret" not in str(raised.value)


def test_without_the_extra(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyiceberg.catalog", None)
    with pytest.raises(ConfigError, match=r"pip install 'genba\[iceberg\]'"):
        register(root)


def test_the_command(root: Path, genba: Genba) -> None:
    done = genba("lake", "iceberg", root)
    assert (done.status, done.out) == (0, "genba.telemetry: 2 files added, 0 removed; 2 files, 70 rows\n")
    done = genba("lake", "iceberg", root, "--kind", "telemetry", "--json")
    assert json.loads(done.out) == [{"table": "genba.telemetry", "added": 0, "removed": 0, "files": 2, "rows": 70}]
    assert_same(root)
    assert genba("lake", "verify", root).status == 0


@pytest.fixture
def bucket(moto_server: str, root: Path, aws_credentials: None) -> str:
    """The lake of `root` in a bucket; the endpoint."""
    reset(moto_server)
    s3 = client(moto_server)
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "ap-northeast-1"})
    for path in root.rglob("*.parquet"):
        s3.put_object(Bucket=BUCKET, Key=f"genba/{path.relative_to(root)}", Body=path.read_bytes())
    return moto_server


def test_a_lake_in_a_bucket(root: Path, bucket: str, genba: Genba, tmp_path: Path) -> None:
    catalog = f"sqlite:///{tmp_path / 'catalog.db'}"
    where = (LOCATION, "--endpoint", bucket, "--region", "ap-northeast-1", "--catalog", catalog)
    done = genba("lake", "iceberg", *where)
    assert (done.status, done.out) == (0, "genba.telemetry: 2 files added, 0 removed; 2 files, 70 rows\n")
    assert genba("lake", "iceberg", *where).out.endswith("nothing new\n")
    place = place_of(LOCATION, region="ap-northeast-1", endpoint=bucket)
    with iceberg.opened(*iceberg.settings(place, catalog, None)) as there:
        table = there.load_table("genba.telemetry")
        found = pl.from_arrow(table.scan().to_arrow())
    assert isinstance(found, pl.DataFrame)
    wanted = expected(root)
    assert found.sort("gateway", "epoch", "seq").cast(wanted.schema).equals(wanted)  # type: ignore[arg-type]
    for secret in (SECRET, KEY):
        assert secret not in str(table.metadata)


def test_glue(bucket: str) -> None:
    place = place_of(LOCATION, region="ap-northeast-1", endpoint=bucket)
    name, properties = iceberg.settings(place, "glue", None)
    with iceberg.opened(name, {**properties, "glue.endpoint": bucket}) as catalog:
        (done,) = iceberg.register(place, catalog)
        assert (done.added, done.rows) == (2, 70)
        (done,) = iceberg.register(place, catalog)
        assert (done.added, done.removed) == (0, 0)
        assert catalog.load_table("genba.telemetry").scan().to_arrow().num_rows == 70
