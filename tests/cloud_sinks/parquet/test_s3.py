"""The lake in a bucket: faults by plan, in front of moto. Real servers, and the suite every sink passes: test_s3_servers."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
import structlog

from cloud_sinks import lake
from cloud_sinks.aws import Account, AwsConfig
from cloud_sinks.base import SinkContext
from cloud_sinks.parquet import PLUGIN
from cloud_sinks.parquet import s3 as s3_module
from cloud_sinks.parquet.config import ParquetConfig, check
from cloud_sinks.parquet.s3 import S3Store
from schemas.errors import Busy, ConfigError, NotConnected
from tests.cloud_sinks.aws_rig import Fault, reset
from tests.cloud_sinks.bucket_rig import BUCKET, LOCATION, BucketHarness
from tests.conformance.sink import T0, Tags, batch_of, span_of

pytestmark = pytest.mark.usefixtures("aws_credentials")


@pytest.fixture
def bucket(moto_server: str) -> Iterator[BucketHarness]:
    reset(moto_server)
    harness = BucketHarness(moto_server)
    yield harness
    harness.close()


async def put(bucket: BucketHarness, context: SinkContext, first: int = 0, rows: int = 10, **changes: Any) -> None:
    sink = bucket.build(context)
    try:
        await sink.connect()
        bucket.proxy.plan = list(changes.get("plan", []))
        assert isinstance(context.tags, Tags)
        await sink.write([batch_of("telemetry", first, rows, context.tags)], span_of("telemetry", first, rows))
    finally:
        bucket.proxy.plan = []
        await sink.aclose()


async def test_layout_is_that_of_a_directory(bucket: BucketHarness, context: SinkContext) -> None:
    await put(bucket, context)
    name = "gw-1-0001-telemetry-00000000000000-00000000000009.parquet"
    assert bucket.keys() == [
        "genba/.genba-probe-gw-1",
        "genba/tags/site=osaka/gw-1.parquet",
        f"genba/telemetry/site=osaka/date=2026-01-01/{name}",
    ]
    about = pq.read_metadata(io.BytesIO(bucket.get(bucket.keys()[2]))).metadata
    assert about[b"genba.rows"] == b"10"


async def test_an_answer_that_is_lost_leaves_one_object(bucket: BucketHarness, context: SinkContext) -> None:
    sink = bucket.build(context)
    await sink.connect()
    assert isinstance(context.tags, Tags)
    bucket.proxy.plan = [Fault("reset after")]
    with pytest.raises(NotConnected, match=f"cannot write s3://{BUCKET}/genba/telemetry"):
        await sink.write([batch_of("telemetry", 0, 10, context.tags)], span_of("telemetry", 0, 10))
    await sink.write([batch_of("telemetry", 0, 10, context.tags)], span_of("telemetry", 0, 10))
    await sink.aclose()
    assert len(bucket.stored("telemetry")) == 10


async def test_other_rows_under_the_same_name_are_never_written_over(bucket: BucketHarness, context: SinkContext) -> None:
    await put(bucket, context)
    sink = bucket.build(context)
    await sink.connect()
    assert isinstance(context.tags, Tags)
    other = batch_of("telemetry", 0, 10, context.tags, time_us=T0 + 60_000_000)
    with pytest.raises(ConfigError, match="holds other rows"):
        await sink.write([other], span_of("telemetry", 0, 10))
    await sink.aclose()
    assert len(bucket.stored("telemetry")) == 10


@pytest.mark.parametrize(
    ("fault", "error", "says"),
    [
        (Fault(status=503, code="SlowDown"), Busy, "SlowDown"),
        (Fault(status=500, code="InternalError"), NotConnected, "InternalError"),
        (Fault("reset"), NotConnected, "cannot write"),
        (Fault("silence"), NotConnected, "timeout"),
        (Fault(status=404, code="NoSuchBucket"), ConfigError, "make the bucket"),
        (Fault(status=403, code="AccessDenied"), ConfigError, "policy of these credentials"),
        (Fault(status=403, code="InvalidAccessKeyId"), ConfigError, "do not exist"),
        (Fault(status=403, code="SignatureDoesNotMatch"), ConfigError, "secret key"),
        (Fault(status=400, code="AuthorizationHeaderMalformed"), ConfigError, "correct `region`"),
        (Fault(status=400, code="KMS.NotFoundException"), ConfigError, "kms_key"),
        (Fault(status=409, code="ConditionalRequestConflict"), Busy, "another write"),
    ],
    ids=lambda case: case.code if isinstance(case, Fault) and case.kind == "error" else getattr(case, "kind", None),
)
async def test_faults_say_who_must_act_and_lose_nothing(
    bucket: BucketHarness, context: SinkContext, fault: Fault, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        await put(bucket, context, plan=[fault])
    await put(bucket, context)
    assert sorted(seq for seq, _ in bucket.stored("telemetry")) == list(range(10))


async def test_a_bucket_that_is_not_there_is_for_a_person(bucket: BucketHarness, context: SinkContext) -> None:
    aws = AwsConfig.model_validate({"endpoint": bucket.proxy.endpoint})
    sink = PLUGIN.build(ParquetConfig(location="s3://no-such-bucket/x", aws=aws), context)
    with pytest.raises(ConfigError, match="NoSuchBucket") as caught:
        await sink.connect()
    await sink.aclose()
    assert caught.value.where == "sinks.out"


async def test_an_expired_token_is_fetched_anew_once(bucket: BucketHarness, context: SinkContext) -> None:
    expired = Fault(status=400, code="ExpiredToken")
    await put(bucket, context, plan=[expired])
    assert len(bucket.stored("telemetry")) == 10
    with pytest.raises(NotConnected, match="credentials have ended"):
        await put(bucket, context, first=10, plan=[expired, expired])
    assert len(bucket.stored("telemetry")) == 10


async def test_a_wrong_clock_is_corrected_by_the_service(bucket: BucketHarness, context: SinkContext) -> None:
    theirs = datetime.now(UTC) + timedelta(hours=3)
    skewed = Fault(status=403, code="RequestTimeTooSkewed", headers={"Date": format_datetime(theirs, usegmt=True)})
    await put(bucket, context, plan=[skewed])
    assert len(bucket.stored("telemetry")) == 10


def test_a_server_that_checks_times_corrects_ours(rclone_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """rclone refuses a signature that is three hours ahead, and its answer's date mends that; a wrong secret nothing mends."""
    harness = BucketHarness(rclone_server)
    aws = AwsConfig.model_validate({"endpoint": harness.proxy.endpoint})
    account = Account(aws, tmp_path, "sinks.out")
    account.skew = timedelta(hours=3)
    account.call("s3", "list", lambda s3: s3.list_objects_v2(Bucket=BUCKET))
    ahead = [datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) - datetime.now(UTC) for date in harness.proxy.dates]
    assert [round(lead / timedelta(hours=1)) for lead in ahead] == [3, 0]
    account.close()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    wrong = Account(aws, tmp_path, "sinks.out")
    with pytest.raises(ConfigError, match="SignatureDoesNotMatch"):
        wrong.call("s3", "list", lambda s3: s3.list_objects_v2(Bucket=BUCKET))
    wrong.close()
    harness.close()


@pytest.mark.parametrize("plan", [[], [None, None, None, Fault("reset after")]], ids=["whole", "answer lost"])
def test_a_large_file_goes_in_parts_on_the_same_condition(
    bucket: BucketHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: list[Fault | None]
) -> None:
    monkeypatch.setattr(s3_module, "PART", 5 << 20)
    monkeypatch.setattr(s3_module, "_WHOLE", 6 << 20)
    store = _store(bucket, tmp_path)
    store.open()
    body = bytes(range(256)) * (11 * 4096)

    def publish() -> bool:
        scratch = store.scratch("large")
        scratch.write_bytes(body)
        return store.publish(scratch, "large.parquet")

    bucket.proxy.plan = [None, *plan] if plan else []  # create, three parts, complete
    if plan:
        with pytest.raises(NotConnected):
            publish()
        assert bucket.get("genba/large.parquet") == body
    else:
        assert publish()
    assert not publish(), "the name is taken"
    assert bucket.get("genba/large.parquet") == body
    assert bucket.uploads() == []
    assert list((tmp_path / "making").iterdir()) == []
    with store.reader("large.parquet") as file:
        assert file.seek(-7, io.SEEK_END) == len(body) - 7
        assert file.read() == body[-7:]
    store.close()


def test_an_upload_that_fails_is_aborted(bucket: BucketHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_module, "_WHOLE", 1)
    store = _store(bucket, tmp_path)
    store.open()
    scratch = store.scratch("x")
    scratch.write_bytes(b"some")
    bucket.proxy.plan = [None, Fault(status=500, code="InternalError")]
    with pytest.raises(NotConnected):
        store.publish(scratch, "x.parquet")
    assert bucket.uploads() == []
    store.close()


@pytest.mark.parametrize("refused", [False, True], ids=["aborted", "not allowed"])
async def test_an_upload_that_a_kill_left_is_given_up_at_the_next_start(
    bucket: BucketHarness, context: SinkContext, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    """A kill is simulated by a line that is cut with the first part and stays cut: the abort does not arrive either."""
    monkeypatch.setattr(s3_module, "_WHOLE", 1)
    sink = bucket.build(context)
    await sink.connect()
    assert isinstance(context.tags, Tags)
    rows, span = [batch_of("telemetry", 0, 10, context.tags)], span_of("telemetry", 0, 10)
    bucket.proxy.plan = [None, *[Fault("reset")] * 2]  # create, a part, abort
    with pytest.raises(NotConnected):
        await sink.write(rows, span)
    assert len(bucket.uploads()) == 1
    again = bucket.build(context)
    bucket.proxy.plan = [Fault(status=403, code="AccessDenied")] if refused else []
    await again.connect()
    assert len(bucket.uploads()) == (1 if refused else 0)
    await again.write(rows, span)
    await again.aclose()
    await sink.aclose()
    assert sorted(seq for seq, _ in bucket.stored("telemetry")) == list(range(10))
    assert len(bucket.uploads()) == (1 if refused else 0), "and the one that was completed left nothing"
    assert list(context.directory.rglob("*.upload")) == []


@pytest.mark.parametrize("at", [0, 1, 2], ids=["create", "a part", "complete"])
@pytest.mark.parametrize("kind", ["reset", "reset after"])
async def test_a_reset_anywhere_in_an_upload_leaves_one_whole_object(
    bucket: BucketHarness, context: SinkContext, monkeypatch: pytest.MonkeyPatch, at: int, kind: Any
) -> None:
    monkeypatch.setattr(s3_module, "_WHOLE", 1)
    with pytest.raises(NotConnected, match="cannot write"):
        await put(bucket, context, plan=[*[None] * at, Fault(kind)])
    await put(bucket, context)
    assert sorted(seq for seq, _ in bucket.stored("telemetry")) == list(range(10))
    assert len(bucket.uploads()) == (1 if (at, kind) == (0, "reset after") else 0), "nobody knows the one whose name never came"


@pytest.mark.parametrize("size", ["one request", "parts"])
async def test_objects_are_encrypted_with_the_key_that_is_named(
    bucket: BucketHarness, context: SinkContext, monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    if size == "parts":
        monkeypatch.setattr(s3_module, "_WHOLE", 1)
    aws = AwsConfig.model_validate({"endpoint": bucket.proxy.endpoint})
    sink = PLUGIN.build(ParquetConfig(location=LOCATION, aws=aws, kms_key="alias/lake"), context)
    await sink.connect()
    assert isinstance(context.tags, Tags)
    await sink.write([batch_of("telemetry", 0, 3, context.tags)], span_of("telemetry", 0, 3))
    await sink.aclose()
    assert bucket.keys()
    for key in bucket.keys():  # noqa: SIM118 (a list)
        answer = bucket.head(key)
        assert (answer["ServerSideEncryption"], answer["SSEKMSKeyId"]) == ("aws:kms", "alias/lake")


async def test_no_credentials_say_where_they_come_from(
    bucket: BucketHarness, context: SinkContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(context.base / "none"))
    sink = bucket.build(context)
    with pytest.raises(ConfigError, match="AWS_ACCESS_KEY_ID"):
        await sink.connect()
    await sink.aclose()


@pytest.mark.parametrize(
    ("text", "loc"),
    [
        ({"location": "s3://"}, ("location",)),
        ({"location": "s3://A_B/x"}, ("location",)),
        ({"location": "gs://bucket/x"}, ("location",)),
        ({"location": "./lake", "kms_key": "alias/x"}, ("kms_key",)),
        ({"location": "./lake", "aws": {"region": "eu-central-1"}}, ("aws",)),
    ],
)
def test_check_finds_what_cannot_work(text: dict[str, Any], loc: tuple[str, ...]) -> None:
    assert [finding.loc for finding in check(ParquetConfig.model_validate(text))] == [loc]


def test_check_takes_a_bucket() -> None:
    assert list(check(ParquetConfig.model_validate({"location": LOCATION, "aws": {"region": "eu-central-1"}}))) == []


def _store(bucket: BucketHarness, directory: Path) -> S3Store:
    account = Account(AwsConfig.model_validate({"endpoint": bucket.proxy.endpoint, "timeout": "2s"}), directory, "sinks.out")
    return S3Store(account, LOCATION, owner="gw-1", directory=directory, kms_key=None, log=structlog.stdlib.get_logger())


async def test_the_policy_that_is_shipped_allows_what_is_called_and_no_more(
    bucket: BucketHarness, context: SinkContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(bucket, context)
    await put(bucket, context)  # a name that is taken is read
    monkeypatch.setattr(s3_module, "_WHOLE", 1)
    await put(bucket, context, first=10)
    await put(bucket, context, first=10)  # an upload that is given up
    statements = json.loads((Path(__file__).parents[3] / "deploy/iam/lake.json").read_text())["Statement"]
    allowed = {action for statement in statements for action in _several(statement["Action"]) if action.startswith("s3:")}
    assert {_action(method, path) for method, path in bucket.proxy.seen} | {"s3:ListBucket"} == allowed


def _several(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _action(method: str, path: str) -> str:
    """The permission that a request needs (Service Authorization Reference, Amazon S3)."""
    return {
        "PUT": "s3:PutObject",
        "POST": "s3:PutObject",
        "GET": "s3:GetObject",
        "HEAD": "s3:GetObject",
        "DELETE": "s3:AbortMultipartUpload" if "uploadId=" in path else "s3:DeleteObject",
    }[method]


async def test_a_bucket_is_scanned_like_a_directory(bucket: BucketHarness, context: SinkContext) -> None:
    await put(bucket, context, rows=30)
    await put(bucket, context, first=30, rows=30)
    there = {"endpoint": bucket.proxy.endpoint, "region": "ap-northeast-1"}
    found = await asyncio.to_thread(lambda: lake.scan(LOCATION, tags="**/speed", **there).collect())
    assert sorted(found["seq"].to_list()) == list(range(2, 60, 3))
    assert found["site"].unique().to_list() == ["osaka"]
    assert found.filter(pl.col("value") != pl.col("seq") * 0.5).is_empty()
    described = await asyncio.to_thread(lambda: lake.tags(LOCATION, **there))
    assert described["tag"].to_list() == sorted(tag.path for tag in context.tags)
    empty = await asyncio.to_thread(lambda: lake.scan(f"s3://{BUCKET}/nothing", **there).collect())
    assert (empty.height, empty.schema) == (0, found.schema)
    late = await asyncio.to_thread(lambda: lake.scan(LOCATION, start="2026-01-02T00:00:00Z", **there).collect())
    assert late.is_empty()


def test_a_bucket_without_credentials_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(ValueError, match="AWS_ACCESS_KEY_ID"):
        lake.scan(LOCATION)
