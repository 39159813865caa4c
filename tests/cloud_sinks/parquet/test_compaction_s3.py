"""Compaction and verification of a lake in a bucket: moto honours conditions, rclone does not and keeps plain files; faults by plan."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import structlog

from cloud_sinks import lake
from cloud_sinks.aws import AwsConfig
from cloud_sinks.parquet.audit import audit
from cloud_sinks.parquet.compaction import Compactor
from cloud_sinks.parquet.compaction_records import Options, Report
from cloud_sinks.parquet.shelf import S3Shelf
from cloud_sinks.places import place_of
from schemas.errors import NotConnected
from schemas.manifest import MANIFEST
from tests.cloud_sinks.aws_rig import Fault, Proxy, reset
from tests.cloud_sinks.bucket_rig import BUCKET, LOCATION, client
from tests.cloud_sinks.test_lake import put
from tests.gateway.cli.conftest import Genba
from tests.gateway.cli.conftest import genba as genba

REGION = "ap-northeast-1"
DAY = "date=2026-01-01"
HOURS = 3_600_000_000


pytestmark = pytest.mark.usefixtures("aws_credentials")


class Lake:
    """A lake of four spans of one day and two of the next."""

    def __init__(self, endpoint: str, directory: Path) -> None:
        self.endpoint, self._directory, self.s3 = endpoint, directory, client(endpoint)
        self.answers_ranges = True
        with contextlib.suppress(self.s3.exceptions.BucketAlreadyOwnedByYou, self.s3.exceptions.BucketAlreadyExists):
            self.s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        for key in self.keys():
            self.s3.delete_object(Bucket=BUCKET, Key=key)
        for first in (0, 100, 200, 300):
            self.put(first, 100)
        self.put(500, 50, day=1)
        self.put(550, 50, day=1)

    def put(self, first: int, count: int, **options: Any) -> None:
        for path in put(self._directory, first, count, described=False, **options):
            self.s3.put_object(Bucket=BUCKET, Key=f"genba/{path.relative_to(self._directory)}", Body=path.read_bytes())

    def keys(self, part: str = "") -> list[str]:
        found = self.s3.list_objects_v2(Bucket=BUCKET, Prefix="genba/").get("Contents", ())
        return [one["Key"] for one in found if part in one["Key"]]

    def data(self) -> list[str]:
        return [key for key in self.keys("telemetry/") if key.endswith(".parquet")]

    def rows(self) -> pl.DataFrame:
        """What `lake.scan` reads, by whole objects: rclone answers no ranges as polars asks for them."""
        place = place_of(LOCATION, region=REGION, endpoint=self.endpoint)
        files = [file.path() for file in lake.counting(place, "telemetry")]
        frames = [
            pl.read_parquet(io.BytesIO(self.s3.get_object(Bucket=BUCKET, Key=f"genba/{path}")["Body"].read())) for path in files
        ]
        return pl.concat(frames).sort("seq")

    def compact(
        self, *, at: Callable[[str], None] = lambda point: None, later_us: int = 0, endpoint: str = "", **options: Any
    ) -> Report:
        shelf = self.shelf(endpoint or self.endpoint)
        added = [later_us]

        def sleep(seconds: float) -> None:
            added[0] += int(seconds * 1e6)

        try:
            shelf.open()
            return Compactor(
                shelf,
                Options(kinds=("telemetry",), **options),
                now_us=lambda: time.time_ns() // 1000 + added[0],
                sleep=sleep,
                at=at,
            ).run()
        finally:
            shelf.close()

    def shelf(self, endpoint: str) -> S3Shelf:
        return S3Shelf(LOCATION, AwsConfig(region=REGION, endpoint=endpoint), log=structlog.stdlib.get_logger())

    def well(self) -> None:
        shelf = self.shelf(self.endpoint)
        found = audit(shelf, deep=True, now_us=time.time_ns() // 1000).findings
        shelf.close()
        assert found == []


@pytest.fixture(params=["moto", "rclone"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    made = Lake(request.getfixturevalue(f"{request.param}_server"), tmp_path / "made")
    made.answers_ranges = request.param == "moto"
    return made


@pytest.fixture
def on_moto(moto_server: str, tmp_path: Path) -> Lake:
    reset(moto_server)
    return Lake(moto_server, tmp_path / "made")


def test_a_bucket_is_merged_and_the_rows_are_the_same(either: Lake) -> None:
    before = either.rows()
    report = either.compact()
    assert [done.rows for done in report.merged] == [400, 100]
    if either.answers_ranges:
        found = lake.scan(LOCATION, region=REGION, endpoint=either.endpoint).collect().sort("seq")
        assert found.select(before.columns).equals(before)
    assert len(either.data()) == 2
    assert either.rows().equals(before)
    either.well()
    either.put(420, 10)  # a hole in nothing: behind the merged file's last row
    either.put(430, 10)
    assert either.rows().height == before.height + 20
    either.compact()
    assert either.rows().height == before.height + 20
    either.well()


def test_a_late_retry_brings_no_row_back(either: Lake) -> None:
    before = either.rows()
    either.compact()
    either.put(100, 100)
    assert either.rows().equals(before)
    assert len(either.compact().removed) == 1
    either.well()


@pytest.mark.parametrize("point", ["published", "changing", "committed", "removed one"])
def test_another_compactor_at_every_point(on_moto: Lake, point: str) -> None:
    before = on_moto.rows()
    busy = False

    def at(name: str) -> None:
        nonlocal busy
        if name == point and not busy:
            busy = True
            on_moto.compact(later_us=HOURS)
        if name in (point, "published", "committed"):
            assert on_moto.rows().equals(before)

    on_moto.compact(at=at)
    assert busy
    on_moto.compact(later_us=HOURS)
    assert on_moto.rows().equals(before)
    assert len(on_moto.data()) == 2
    on_moto.well()


def test_the_manifest_is_written_by_the_one_who_read_it_last(on_moto: Lake) -> None:
    """What the test above relies on, and rclone does not do."""
    shelf = on_moto.shelf(on_moto.endpoint)
    shelf.open()
    path = f"telemetry/site=osaka/{DAY}/{MANIFEST}"
    assert shelf.swap(path, b"1", None)
    assert not shelf.swap(path, b"2", None)
    there = shelf.read_small(path)
    assert there is not None
    assert shelf.swap(path, b"3", there[1])
    assert not shelf.swap(path, b"4", there[1])
    assert (shelf.read_small(path) or (b"",))[0] == b"3"
    shelf.remove(path)
    assert shelf.read_small(path) is None
    shelf.close()


@pytest.mark.parametrize("what", ["-m", MANIFEST])
@pytest.mark.parametrize("kind", ["reset", "reset after"])
def test_a_write_whose_answer_is_lost(on_moto: Lake, what: str, kind: Any) -> None:
    """The connection breaks before or after the service has done it; the next run finds out which."""
    before = on_moto.rows()
    proxy = Proxy(on_moto.endpoint, lambda method, path: method == "PUT" and what in path)
    proxy.plan.append(Fault(kind))
    try:
        with pytest.raises(NotConnected):
            on_moto.compact(endpoint=proxy.endpoint)
    finally:
        proxy.close()
    assert on_moto.rows().equals(before)
    on_moto.compact()
    assert on_moto.rows().equals(before)
    on_moto.compact(later_us=HOURS)
    assert on_moto.rows().equals(before)
    assert len(on_moto.data()) == 2
    on_moto.well()


def test_the_commands_on_a_bucket(on_moto: Lake, genba: Genba) -> None:
    where = (LOCATION, "--endpoint", on_moto.endpoint, "--region", REGION)
    done = genba("lake", "compact", *where, "--dry-run")
    assert (done.status, done.out.splitlines()[-1]) == (0, "2 merges to begin with")
    done = genba("lake", "compact", *where, "--grace", "0s")
    assert (done.status, done.out.splitlines()[-1]) == (0, "2 merges, 6 replaced files removed")
    assert genba("lake", "verify", *where, "--deep").status == 0
    victim = next(key for key in on_moto.data() if DAY in key)
    on_moto.s3.put_object(Bucket=BUCKET, Key=victim, Body=b"PAR1")
    done = genba("lake", "verify", *where)
    assert done.status == 1
    assert "unreadable_file" in done.out
    assert genba("lake", "compact", "s3://no-such-bucket-here/x", *where[1:]).status == 2
    assert genba("lake", "verify", LOCATION, "--endpoint", "http://127.0.0.1:9", "--region", REGION).status == 3


def test_the_policy_that_is_shipped_allows_what_is_called_and_no_more(on_moto: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a merge whose file goes up in parts, and of one whose upload is given up."""
    monkeypatch.setattr("cloud_sinks.parquet.s3._WHOLE", 1)
    proxy = Proxy(on_moto.endpoint, lambda method, path: method == "POST" and "uploadId" in path)
    proxy.plan.append(Fault("error", 500, "InternalError"))
    try:
        with pytest.raises(NotConnected):
            on_moto.compact(endpoint=proxy.endpoint)
        on_moto.compact(endpoint=proxy.endpoint)
    finally:
        proxy.close()
    statements = json.loads((Path(__file__).parents[3] / "deploy/iam/lake-keeper.json").read_text())["Statement"]
    allowed = {
        action
        for statement in statements
        for action in ([statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"])
    }
    assert {_action(method, path) for method, path in proxy.seen} == {action for action in allowed if action.startswith("s3:")}


def _action(method: str, path: str) -> str:
    """The permission that a request needs (Service Authorization Reference, Amazon S3)."""
    return {
        "PUT": "s3:PutObject",
        "POST": "s3:PutObject",
        "GET": "s3:ListBucket" if "list-type=2" in path else "s3:GetObject",
        "HEAD": "s3:GetObject",
        "DELETE": "s3:AbortMultipartUpload" if "uploadId=" in path else "s3:DeleteObject",
    }[method]
