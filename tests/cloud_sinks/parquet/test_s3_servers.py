"""S3 over every server that stands in for it: one suite. Where a server cannot do something, what the sink does then is checked."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
import structlog
from structlog.testing import capture_logs

from cloud_sinks import lake
from cloud_sinks.aws import Account, AwsConfig
from cloud_sinks.base import SinkContext
from cloud_sinks.parquet import s3 as s3_module
from cloud_sinks.parquet.s3 import S3Store
from schemas.errors import ConfigError, NotConnected
from tests.cloud_sinks import servers
from tests.cloud_sinks.bucket_rig import BUCKET, LOCATION, BucketHarness
from tests.conformance.sink import T0, SinkConformance, Tags, batch_of, context_of, span_of
from tests.conftest import ManualClock

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("aws_credentials")]
FALLBACK = "the object store ignores If-None-Match: a name is looked up before it is written"


@pytest.fixture(scope="module", params=["moto", "ministack", "rclone"])
def counterpart(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Counterpart]:
    made = servers.start(request.param, tmp_path_factory.mktemp(request.param))
    yield made
    made.server.stop()


@pytest.fixture
def harness(counterpart: servers.Counterpart) -> Iterator[BucketHarness]:
    made = BucketHarness(counterpart.endpoint)
    yield made
    made.close()


@pytest.fixture
def context(tmp_path: Path, manual_clock: ManualClock) -> SinkContext:
    return context_of(tmp_path, manual_clock)


class TestConformance(SinkConformance):
    """What every sink keeps."""


def test_it_listens_on_loopback_only(counterpart: servers.Counterpart) -> None:
    assert servers.listening_addresses(counterpart.server.pid) == {"0100007F"}


async def put(harness: BucketHarness, context: SinkContext, first: int = 0, rows: int = 10, *, time_us: int = T0) -> None:
    sink = harness.build(context)
    try:
        await sink.connect()
        assert isinstance(context.tags, Tags)
        batch = batch_of("telemetry", first, rows, context.tags, time_us=time_us)
        await sink.write([batch], span_of("telemetry", first, rows))
    finally:
        await sink.aclose()


async def test_whether_a_name_is_given_once_is_found_out_and_said(
    counterpart: servers.Counterpart, harness: BucketHarness, context: SinkContext
) -> None:
    """rclone overwrites: then a name is looked up first, and the log says once what that is not safe against."""
    with capture_logs() as logs:
        await put(harness, context)
    assert sum(entry["event"].startswith(FALLBACK) for entry in logs) == (0 if counterpart.conditional else 1)
    looked_up = [path for method, path in harness.proxy.seen if method == "HEAD" and "/telemetry/" in path]
    assert len(looked_up) == (0 if counterpart.conditional else 1)


async def test_a_span_again_is_done_and_other_rows_are_never_written_over(harness: BucketHarness, context: SinkContext) -> None:
    await put(harness, context)
    before = harness.written("telemetry")
    await put(harness, context)
    with pytest.raises(ConfigError, match="holds other rows"):
        await put(harness, context, time_us=T0 + 60_000_000)
    assert harness.written("telemetry") == before
    assert sorted(harness.stored("telemetry")) == [(n, context.tags[n % 3].path) for n in range(10)]


async def test_two_gateways_of_one_name_at_once(
    counterpart: servers.Counterpart, harness: BucketHarness, tmp_path: Path, manual_clock: ManualClock
) -> None:
    """Both write other rows under one name at the same moment. One of them is told, and its rows are nowhere; where a server cannot
    refuse, the loser may not notice, which is what the log says: then one whole object is there, of either."""
    contexts = [context_of(tmp_path / name, manual_clock) for name in ("a", "b")]
    for one in contexts:
        one.directory.mkdir(parents=True)

    async def delivered(context: SinkContext, time_us: int) -> str:
        """As delivery does it: again while the object of the data dictionary, which both replace, changes under the reader."""
        for _ in range(10):
            try:
                await put(harness, context, time_us=time_us)
            except NotConnected:
                continue
            except ConfigError as error:
                return str(error)
            return ""
        raise AssertionError("not delivered")

    told = await asyncio.gather(*(delivered(one, T0 + n * 3600_000_000) for n, one in enumerate(contexts)))
    refused = [text for text in told if text]
    assert all("holds other rows" in text for text in refused)
    assert len(refused) == 1 if counterpart.conditional else len(refused) <= 1
    assert sorted(seq for seq, _ in harness.stored("telemetry")) == list(range(10))


@pytest.mark.parametrize("size", [4 << 20, 11 << 20], ids=["one request", "parts"])
def test_a_name_is_given_once_whatever_the_size(
    harness: BucketHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(s3_module, "PART", 5 << 20)
    monkeypatch.setattr(s3_module, "_WHOLE", 6 << 20)
    aws = AwsConfig.model_validate({"endpoint": harness.proxy.endpoint, "timeout": "10s"})
    store = S3Store(
        Account(aws, tmp_path, "sinks.out"), LOCATION, owner="gw-1", directory=tmp_path, kms_key=None, log=structlog.stdlib.get_logger()
    )  # fmt: skip
    store.open()
    body = bytes(range(256)) * (size // 256)
    for given, taken in ((body, False), (b"other", True), (body[::-1], True)):
        scratch = store.scratch("x")
        scratch.write_bytes(given)
        assert store.publish(scratch, "x.parquet") is not taken
    assert harness.get("genba/x.parquet") == body
    assert harness.uploads() == []
    with store.reader("x.parquet") as file:
        file.seek(size - 1000)
        assert file.read() == body[-1000:]
    store.close()


async def test_a_wrong_secret_is_for_a_person_where_the_server_looks(
    counterpart: servers.Counterpart, harness: BucketHarness, context: SinkContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """moto and ministack look at no signature: there it is taken, and nobody can know."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    if not counterpart.signed:
        await put(harness, context)
        assert len(harness.stored("telemetry")) == 10
        return
    with pytest.raises(ConfigError, match=r"SignatureDoesNotMatch.*the secret key does not belong to the access key"):
        await put(harness, context)
    assert harness.keys() == []


async def test_after_a_kill_of_the_server_a_span_again_is_done(
    counterpart: servers.Counterpart, harness: BucketHarness, context: SinkContext
) -> None:
    """Who keeps nothing (moto) has lost the bucket: that is for a person, and afterwards the spool's rows arrive as they must."""
    await put(harness, context)
    counterpart.server.kill()
    counterpart.server.start()
    if not counterpart.persistent:
        with pytest.raises(ConfigError, match=f"cannot write s3://{BUCKET}.*NoSuchBucket.*make the bucket"):
            await put(harness, context)
        harness.make()
    await put(harness, context)
    await put(harness, context, first=10)
    assert sorted(seq for seq, _ in harness.stored("telemetry")) == list(range(20))


async def test_a_bucket_of_another_region(
    counterpart: servers.Counterpart, harness: BucketHarness, context: SinkContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ministack answers 301 with the right region, as S3 does: the request is signed anew for it. The others know no regions."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    before = len(harness.proxy.seen)
    await put(harness, context)
    assert sorted(seq for seq, _ in harness.stored("telemetry")) == list(range(10))
    assert ("ap-northeast-1" in harness.proxy.regions[before:]) is (counterpart.name == "ministack")


async def test_a_bucket_that_is_not_there_is_for_a_person(harness: BucketHarness, context: SinkContext) -> None:
    sink = harness.build(context, location="s3://no-such-bucket/genba")
    with pytest.raises(
        ConfigError, match=r"cannot write s3://no-such-bucket/genba/.*NoSuchBucket.*make the bucket, or correct `location`"
    ):
        await sink.connect()
    await sink.aclose()


def read(counterpart: servers.Counterpart, harness: BucketHarness) -> tuple[pl.DataFrame, pl.DataFrame]:
    """All readings and the data dictionary: from the bucket, or from the directory behind a server of which polars takes no ranges."""
    there = {"endpoint": harness.proxy.endpoint, "region": "ap-northeast-1"}
    if counterpart.plain is None:
        return lake.scan(LOCATION, **there).collect(), lake.tags(LOCATION, **there)
    with pytest.raises(OSError, match="non-partial response"):
        lake.scan(LOCATION, **there).collect()
    directory = counterpart.plain / BUCKET / "genba"
    return lake.scan(directory).collect(), lake.tags(directory)


async def test_it_is_read_like_a_directory(
    counterpart: servers.Counterpart, harness: BucketHarness, tmp_path: Path, manual_clock: ManualClock
) -> None:
    """Odd names among them."""
    names = ("a b", "x#y", "x+y", "100%", "主モータ温度", "ü" * 300)
    tags = Tags(*(f"acme/osaka/{name}/{name}" for name in names))
    context = context_of(tmp_path, manual_clock, tags)
    await put(harness, context, rows=30)
    await put(harness, context, first=30, rows=30)
    found, described = await asyncio.to_thread(read, counterpart, harness)
    assert sorted(zip(found["seq"], found["tag"], strict=True)) == [(n, tags[n % 6].path) for n in range(60)]
    assert found.filter(pl.col("value") != pl.col("seq") * 0.5).is_empty()
    assert set(described["tag"]) == {tag.path for tag in tags}
