"""What goes wrong between a sink and its cloud whatever the service: credentials, clocks, silence, disks, days; and what doctor says."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from botocore.loaders import JSONFileLoader

from cloud_sinks import lake
from cloud_sinks.aws import Account, AwsConfig, _descriptions
from cloud_sinks.base import Sink, SinkContext
from cloud_sinks.parquet import PLUGIN as PARQUET
from cloud_sinks.parquet.config import ParquetConfig
from gateway import doctor as doctor_of
from gateway.config import load
from schemas.errors import Busy, ConfigError, NotConnected
from schemas.kinds import telemetry, with_seq
from schemas.plugin import Check
from tests.cloud_sinks.aws_rig import Fault, Proxy
from tests.cloud_sinks.bucket_rig import LOCATION, BucketHarness
from tests.cloud_sinks.kinesis.rig import ServerHarness, build
from tests.cloud_sinks.kinesis.stub import Fault as StreamFault
from tests.cloud_sinks.kinesis.stub import Stub
from tests.conformance.sink import Tags, batch_of, context_of, span_of
from tests.conftest import ManualClock, missing

pytestmark = pytest.mark.usefixtures("aws_credentials")
DAY = 86_400_000_000


async def deliver(sink: Sink, context: SinkContext, rows: int = 30) -> None:
    assert isinstance(context.tags, Tags)
    try:
        await sink.connect()
        await sink.write([batch_of("telemetry", 0, rows, context.tags)], span_of("telemetry", 0, rows))
    finally:
        await sink.aclose()


# Credentials


@contextmanager
def container(lifetime: timedelta, token: str = "greengrass") -> Iterator[tuple[str, list[str]]]:
    """What Greengrass's token exchange service is to a component: credentials over HTTP for a token. Its URI, and what it gave."""
    given: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = self.headers.get("Authorization") == token
            given.append(f"KEY-{len(given)}" if allowed else "")
            ends = (datetime.now(UTC) + lifetime).strftime("%Y-%m-%dT%H:%M:%SZ")
            found = {"AccessKeyId": given[-1], "SecretAccessKey": "s", "Token": "t", "Expiration": ends}
            body = json.dumps(found if allowed else {"code": "AccessDenied", "message": "no"}).encode()
            self.send_response(200 if allowed else 403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/2016-11-01/credentialprovider/", given
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def in_a_container(monkeypatch: pytest.MonkeyPatch, uri: str, token: str = "greengrass") -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri)
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", token)


def test_a_container_gives_credentials_and_is_asked_again_once_when_they_are_refused(
    moto_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Proxy(moto_server)
    with container(timedelta(hours=6)) as (uri, given):
        in_a_container(monkeypatch, uri)
        account = Account(AwsConfig(endpoint=proxy.endpoint), tmp_path, "sinks.out")
        account.call("s3", "list", lambda s3: s3.list_buckets())
        assert given == ["KEY-0"]
        proxy.plan = [Fault(status=403, code="ExpiredToken")]
        account.call("s3", "list", lambda s3: s3.list_buckets())
        assert given == ["KEY-0", "KEY-1"]
        proxy.plan = [Fault(status=403, code="ExpiredToken")] * 10
        with pytest.raises(NotConnected, match="the credentials have ended and no newer ones are there"):
            account.call("s3", "list", lambda s3: s3.list_buckets())
        assert (given, len(proxy.plan)) == (["KEY-0", "KEY-1", "KEY-2"], 8), "asked once, not in a loop"
        account.close()
    proxy.close()


def test_descriptions_of_services_are_read_once_however_often_a_token_ends(
    moto_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They take megabytes, in cycles that stay for a while: a new session for each expired token let the gateway grow."""
    read = []
    load = JSONFileLoader.load_file
    monkeypatch.setattr(JSONFileLoader, "load_file", lambda self, path: read.append(path) or load(self, path))
    proxy = Proxy(moto_server)
    _descriptions.cache_clear()
    for name in ("one", "another"):
        account = Account(AwsConfig(endpoint=proxy.endpoint), tmp_path, f"sinks.{name}")
        for _ in range(2):
            proxy.plan = [Fault(status=403, code="ExpiredToken")]
            before = account.client("s3")
            account.call("s3", "list", lambda s3: s3.list_buckets())
            assert account.client("s3") is not before
        account.close()
    proxy.close()
    assert any(path.endswith("service-2") for path in read)
    assert len(read) == len(set(read))


def test_a_container_that_is_away_or_refuses_is_waited_for(
    moto_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_METADATA_SERVICE_NUM_ATTEMPTS", "1")
    with container(timedelta(hours=6)) as (uri, given):
        in_a_container(monkeypatch, uri, token="another")
        account = Account(AwsConfig(endpoint=moto_server), tmp_path, "sinks.out")
        with pytest.raises(NotConnected, match=r"cannot reach s3: .*credentials"):
            account.call("s3", "list", lambda s3: s3.list_buckets())
        account.close()
    assert set(given) == {""}


async def test_an_expired_token_of_a_stream_is_fetched_anew_once(stub: Stub, context: SinkContext) -> None:
    sink = build(context, stub.endpoint)
    await sink.connect()
    assert isinstance(context.tags, Tags)
    rows, span = [batch_of("telemetry", 0, 30, context.tags)], span_of("telemetry", 0, 30)
    stub.plan = [StreamFault("error", code="ExpiredTokenException")] * 2
    with pytest.raises(NotConnected, match="credentials have ended"):
        await sink.write(rows, span)
    stub.plan = [StreamFault("error", code="ExpiredTokenException")]
    await sink.write(rows, span)
    await sink.aclose()
    assert sorted(row["row"] for row in stub.rows("telemetry")) == list(range(30))


# Clocks


@pytest.mark.parametrize("code", ["InvalidSignatureException", "SignatureDoesNotMatch"])
async def test_a_wrong_clock_is_corrected_by_the_date_of_a_stream_too(moto_server: str, context: SinkContext, code: str) -> None:
    harness = ServerHarness(moto_server)
    theirs = datetime.now(UTC) - timedelta(days=400)
    try:
        harness.proxy.plan = [Fault(status=400, code=code, headers={"Date": format_datetime(theirs, usegmt=True)})]
        await deliver(harness.build(context), context)
        assert {line["row"] for line in harness.lines()} == set(range(30))
        years = [date[:4] for date in harness.proxy.dates]
        assert years[0] == f"{datetime.now(UTC):%Y}"
        assert set(years[1:]) == {f"{theirs:%Y}"}
        harness.proxy.plan = [Fault(status=400, code=code)] * 2
        with pytest.raises(ConfigError, match=f"{code}.*secret key does not belong"):
            await deliver(harness.build(context), context)
    finally:
        harness.close()


async def test_a_clock_that_stays_wrong_names_the_clock(moto_server: str, context: SinkContext) -> None:
    """The service's answer says no date: then nothing can be healed, and a person sets the clock."""
    bucket = BucketHarness(moto_server)
    try:
        bucket.proxy.plan = [Fault(status=403, code="RequestTimeTooSkewed", headers={"Date": "now"})]
        with pytest.raises(NotConnected, match=r"RequestTimeTooSkewed.*set the clock of this machine"):
            await bucket.build(context).connect()
    finally:
        bucket.close()


@pytest.mark.parametrize("how", ["midnight", "leap second"])
async def test_a_day_boundary_and_a_leap_second_inside_a_span(context: SinkContext, stub: Stub, how: str) -> None:
    """Before and behind midnight: each row once, in the folder of its own day. A leap second is a second that comes twice in POSIX."""
    midnight = 1_483_228_800_000_000  # 2017-01-01, before which there was one
    after = [0, 250_000, 500_000, 999_999]
    offsets = [-1_000_000, -500_000, -1, *after, *(after if how == "leap second" else [1_000_000]), 1_500_000]
    rows = len(offsets)
    batch = with_seq(
        telemetry(time_us=midnight + np.array(offsets), tag=np.zeros(rows, np.int32), value=np.arange(float(rows))), 0
    )
    for sink in (PARQUET.build(ParquetConfig(location="./lake"), context), build(context, stub.endpoint)):
        await sink.connect()
        await sink.write([batch], span_of("telemetry", 0, rows))
        await sink.aclose()
    found = await asyncio.to_thread(lambda: lake.scan(context.base / "lake").select("seq", "time", "date").collect().sort("seq"))
    assert found["seq"].to_list() == list(range(rows))
    assert found["time"].dt.epoch("us").to_list() == [midnight + offset for offset in offsets]
    assert [str(day) for day in found["date"]] == ["2016-12-31" if offset < 0 else "2017-01-01" for offset in offsets]
    assert [row["row"] for row in stub.rows("telemetry")] == list(range(rows)), "in row order, whatever the clock said"


# Silence


@contextmanager
def silent() -> Iterator[str]:
    """Accepts whoever comes and never answers; its URL."""
    import socket

    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def _kinesis(endpoint: str, context: SinkContext) -> Sink:
    return build(context, endpoint, timeout="500ms")


def _s3(endpoint: str, context: SinkContext) -> Sink:
    aws = AwsConfig.model_validate({"endpoint": endpoint, "timeout": "500ms"})
    return PARQUET.build(ParquetConfig(location=LOCATION, aws=aws), context)


@pytest.mark.parametrize("make", [_kinesis, _s3], ids=["kinesis", "s3"])
async def test_one_that_accepts_and_never_answers_is_given_up_and_leaves_nothing(
    context: SinkContext, make: Callable[[str, SinkContext], Sink]
) -> None:
    def held() -> tuple[int, int]:
        names = [thread.name for thread in threading.enumerate() if not thread.name.startswith("asyncio_")]
        return len(names), len(os.listdir("/proc/self/fd"))

    async def given_up() -> None:
        sink = make(endpoint, context)
        with pytest.raises(NotConnected, match="Read timeout"):
            await asyncio.wait_for(sink.connect(), 20)
        await sink.aclose()

    with silent() as endpoint:
        await given_up()  # what is imported and opened once for all
        once = held()
        for _ in range(3):
            await given_up()
        async with asyncio.timeout(20):  # a thread that was told to end needs a moment
            for _ in iter(lambda: all(now <= then for now, then in zip(held(), once, strict=True)), True):
                await asyncio.sleep(0.05)


# Sizes and disks


async def test_a_hundred_thousand_tags_in_a_span_of_a_stream(stub: Stub, tmp_path: Path, manual_clock: ManualClock) -> None:
    tags = Tags(*(f"acme/osaka/line-{n % 500}/t{n}" for n in range(100_000)))
    sink = build(context_of(tmp_path, manual_clock, tags), stub.endpoint, partition_key="tag")
    await sink.connect()
    await sink.write([batch_of("telemetry", 0, 100_000, tags)], span_of("telemetry", 0, 100_000))
    await sink.aclose()
    assert len({key for key, _ in stub.taken}) == 100_000
    assert sorted(row["row"] for row in stub.rows("telemetry")) == list(range(100_000))


async def test_a_hundred_thousand_tags_in_a_file(tmp_path: Path, manual_clock: ManualClock) -> None:
    tags = Tags(*(f"acme/osaka/line-{n % 500}/t{n}" for n in range(100_000)))
    context = context_of(tmp_path, manual_clock, tags)
    sink = PARQUET.build(ParquetConfig(location="./lake"), context)
    await sink.connect()
    await sink.write([batch_of("telemetry", 0, 100_000, tags)], span_of("telemetry", 0, 100_000))
    await sink.aclose()
    found = await asyncio.to_thread(lambda: lake.scan(tmp_path / "lake").select("seq", "tag").collect().sort("seq"))
    assert found["tag"].to_list() == [tag.path for tag in tags]


ON_A_SMALL_DISK = """
import asyncio, os, sys
sys.path.insert(0, {root!r})
from pathlib import Path
import numpy as np
from cloud_sinks import lake
from cloud_sinks.parquet import PLUGIN
from cloud_sinks.parquet.config import ParquetConfig
from schemas.errors import NotConnected
from schemas.kinds import telemetry, with_seq
from schemas.plugin import Check
from tests.conformance.sink import T0, Tags, context_of, span_of
from tests.conftest import ManualClock

async def main():
    directory = Path({mount!r})
    context = context_of(directory, ManualClock())
    sink = PLUGIN.build(ParquetConfig(location="./lake"), context)
    await sink.connect()
    (directory / "ballast").write_bytes(bytes(1_500_000))
    rows, done = 20_000, 0
    noise = np.random.default_rng(1)
    def batch(first):
        values = np.random.default_rng(first).normal(size=rows)
        return with_seq(telemetry(time_us=T0 + np.arange(first, first + rows) * 1000, tag=np.zeros(rows, np.int32), value=values), first)
    while True:
        try:
            await sink.write([batch(done)], span_of("telemetry", done, rows))
        except NotConnected as error:
            assert "the disk is full (ENOSPC" in str(error), error
            break
        done += rows
    assert not list((directory / "lake").rglob("*.part")), "half a file takes room that others need"
    assert lake.scan(directory / "lake").collect().height == done
    (directory / "ballast").unlink()
    await sink.connect()
    await sink.write([batch(done)], span_of("telemetry", done, rows))
    await sink.aclose()
    found = lake.scan(directory / "lake").collect()
    assert sorted(found["seq"].to_list()) == list(range(done + rows))
    print("full after", done)

asyncio.run(main())
"""


def test_a_really_full_disk_loses_nothing_and_is_written_again_when_there_is_room(tmp_path: Path) -> None:
    (mount := tmp_path / "disk").mkdir()
    (script := tmp_path / "fill.py").write_text(
        textwrap.dedent(ON_A_SMALL_DISK.format(root=str(Path(__file__).parents[2]), mount=str(mount))), encoding="utf-8"
    )
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        missing("no user namespaces here, so no small disk")
    command = f"mount -t tmpfs -o size=3m none {mount} && {sys.executable} {script}"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", command], capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
    assert "full after" in done.stdout


# Bad lines


async def test_a_fifth_of_all_records_refused_costs_no_row_and_no_order(
    stub: Stub, tmp_path: Path, manual_clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud_sinks.kinesis.sink._FIRST_WAIT_S", 0.001)
    tags = Tags(*(f"acme/osaka/press-{n:02d}/x" for n in range(40)))
    sink = build(context_of(tmp_path, manual_clock, tags), stub.endpoint, max_record="10 kB")
    rng = np.random.default_rng(3)
    stub.plan = [StreamFault("partial", tuple(np.flatnonzero(rng.random(40) < 0.2).tolist())) for _ in range(400)]
    await sink.connect()
    for first in range(0, 20_000, 5_000):
        rows, span = [batch_of("telemetry", first, 5_000, tags)], span_of("telemetry", first, 5_000)
        for _ in range(20):
            try:
                await sink.write(rows, span)
                break
            except Busy:
                continue
    await sink.aclose()
    refused = 400 - len(stub.plan)
    assert refused > 10, "the plan was used"
    by_key: dict[str, list[int]] = {}
    for key, data in stub.taken:
        by_key.setdefault(key, []).extend(json.loads(line)["row"] for line in data.splitlines())
    assert all(rows == sorted(set(rows)) for rows in by_key.values()), "each once, in order"
    assert sum(len(rows) for rows in by_key.values()) == 20_000


# genba doctor


PLANT = """
enterprise: acme
site: osaka
gateway: gw-1
adapters: {{}}
sinks:
{sinks}
"""


def doctor(folder: Path, sinks: str) -> dict[str, Check]:
    """What is said of each sink."""
    (folder / "plant.yaml").write_text(PLANT.format(sinks=textwrap.indent(textwrap.dedent(sinks), "  ")), encoding="utf-8")
    return {check.name: check for check in doctor_of.sinks(load(folder / "plant.yaml"))}


def test_doctor_says_of_each_sink_what_is_wrong_and_who_must_act(moto_server: str, stub: Stub, tmp_path: Path) -> None:
    bucket = BucketHarness(moto_server)
    (tmp_path / "file").write_text("", encoding="utf-8")
    try:
        found = doctor(
            tmp_path,
            f"""
            fine: {{kind: parquet, location: ./lake}}
            bucket: {{kind: parquet, location: "{LOCATION}", aws: {{endpoint: "{moto_server}"}}}}
            stream: {{kind: kinesis, stream: osaka, region: ap-northeast-1, aws: {{endpoint: "{stub.endpoint}"}}}}
            file: {{kind: parquet, location: ./file}}
            missing: {{kind: parquet, location: "s3://no-such-bucket/x", aws: {{endpoint: "{moto_server}"}}}}
            no-stream: {{kind: kinesis, stream: not-there, region: ap-northeast-1, aws: {{endpoint: "{stub.endpoint}"}}}}
            nobody: {{kind: kinesis, stream: osaka, region: ap-northeast-1, aws: {{endpoint: "http://127.0.0.1:9"}}}}
            thing: {{kind: iot_core, endpoint: localhost, thing: gw-1, certificate: none.pem, key: none.key}}
            """,
        )
        objects = bucket.keys()
    finally:
        bucket.close()
    assert {name: found[name].result for name in ("fine", "bucket", "stream")} == dict.fromkeys(
        ("fine", "bucket", "stream"), "ok"
    )
    assert not (tmp_path / "lake").exists()
    assert objects == [], "nothing was written"
    for name, says, way_out in (
        ("file", "is not a directory", "name a directory"),
        ("missing", "NoSuchBucket", "make the bucket"),
        ("no-stream", "ResourceNotFoundException", "correct its name"),
        ("nobody", "Could not connect to the endpoint", "tries again by itself"),
        ("thing", "none.pem is not there", "relative to the YAML file"),
    ):
        assert found[name].result == "failure"
        assert says in found[name].found
        assert way_out in found[name].way_out


@pytest.mark.parametrize(
    ("fault", "says", "way_out"),
    [
        (Fault(status=403, code="AccessDenied"), "AccessDenied", "docs/aws.md lists what the gateway calls"),
        (Fault(status=403, code="InvalidAccessKeyId"), "InvalidAccessKeyId", "these credentials do not exist"),
        (Fault(status=403, code="SignatureDoesNotMatch"), "SignatureDoesNotMatch", "secret key does not belong"),
        (Fault(status=400, code="AuthorizationHeaderMalformed"), "AuthorizationHeaderMalformed", "correct `region`"),
        (Fault(status=400, code="ExpiredToken"), "credentials have ended", "tries again by itself"),
        (Fault(status=503, code="SlowDown"), "SlowDown", "tries again by itself"),
    ],
    ids=lambda case: case.code if isinstance(case, Fault) else "",
)
def test_doctor_says_it_of_a_bucket(moto_server: str, tmp_path: Path, fault: Fault, says: str, way_out: str) -> None:
    proxy = Proxy(moto_server)
    proxy.plan = [fault] * 3
    found = doctor(tmp_path, f'lake: {{kind: parquet, location: "{LOCATION}", aws: {{endpoint: "{proxy.endpoint}"}}}}')
    proxy.close()
    assert found["lake"].result == "failure"
    assert says in found["lake"].found
    assert way_out in found["lake"].way_out
