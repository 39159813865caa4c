"""The Kinesis sink: the suite every sink passes, over a stub that fails by plan; order, sizes, formats. Real servers: test_servers."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pytest
from aws_kinesis_agg.deaggregator import deaggregate_records
from pydantic import ValidationError

from cloud_sinks.aws import Account
from cloud_sinks.base import Sink, SinkContext
from cloud_sinks.kinesis.config import KinesisConfig
from schemas.errors import Busy, ConfigError, NotConnected, Rejected
from schemas.kinds import KINDS, Kind, telemetry, with_seq
from tests.cloud_sinks.kinesis.rig import ServerHarness, build
from tests.cloud_sinks.kinesis.stub import Fault, Stub
from tests.conformance.sink import T0, SinkConformance, Tags, batch_of, context_of, span_of
from tests.conftest import ManualClock

pytestmark = pytest.mark.usefixtures("aws_credentials")
PRESS, FAN = "acme/osaka/press-07", "acme/osaka/fan-1"


class StubHarness:
    exactly_once = False
    kinds = KINDS

    def __init__(self) -> None:
        self.stub = Stub()

    def build(self, context: SinkContext) -> Sink:
        return build(context, self.stub.endpoint)

    async def down(self) -> None:
        self.stub.away = True

    async def up(self) -> None:
        self.stub.away = False

    async def rows(self, kind: Kind, context: SinkContext, expected: int) -> list[tuple[int, str]]:
        name = {
            "telemetry": "quality_name",
            "event": "event",
            "alert": "transition",
            "health": "measure",
            "image": "file",
            "gap": "cause",
        }
        field = name.get(kind, "score")
        return [
            (row["row"], row["tag"])
            for row in self.stub.rows(kind)
            if field in row and ("transition" in row) == (kind == "alert")
        ]


class TestStub(SinkConformance):
    @pytest.fixture
    def harness(self) -> Iterator[StubHarness]:
        harness = StubHarness()
        yield harness
        harness.stub.close()


async def put(context: SinkContext, stub: Stub, rows: int = 30, *, plan: tuple[Fault | None, ...] = (), **options: Any) -> None:
    sink = build(context, stub.endpoint, **options)
    try:
        await sink.connect()
        stub.plan = list(plan)
        assert isinstance(context.tags, Tags)
        await sink.write([batch_of("telemetry", 0, rows, context.tags)], span_of("telemetry", 0, rows))
    finally:
        await sink.aclose()


async def test_rows_of_an_asset_go_together_and_say_who_they_are(stub: Stub, context: SinkContext) -> None:
    await put(context, stub)
    assert [key for key, _ in stub.taken] == [PRESS, FAN]
    first = json.loads(stub.taken[1][1].splitlines()[0])
    assert (first["gateway"], first["epoch"], first["row"], first["tag"]) == ("gw-1", 1, 2, f"{FAN}/speed")


@pytest.mark.parametrize(("by", "keys"), [("tag", 3), ("gateway", 1)])
async def test_the_partition_key_is_chosen(stub: Stub, context: SinkContext, by: str, keys: int) -> None:
    await put(context, stub, partition_key=by)
    assert len(stub.taken) == keys


async def test_only_what_failed_is_sent_again_and_each_key_stays_in_order(stub: Stub, context: SinkContext) -> None:
    """Records so small that each key has many; every second one of the first requests is refused."""
    plan = (
        Fault("partial", (0,)),
        Fault("partial", (0,)),
        None,
        Fault("partial", (0, 1)),
        Fault("throttled"),
        None,
        Fault("error"),
    )
    with pytest.raises(NotConnected, match=r"InternalFailure|by plan"):
        await put(context, stub, 600, plan=(*plan[:6], Fault("error", code="InternalFailure")), max_record="10 kB")
    assert stub.taken
    stub.taken.clear()
    stub.requests.clear()
    await put(context, stub, 600, plan=plan[:6], max_record="10 kB")
    by_key: dict[str, list[int]] = {}
    for key, data in stub.taken:
        by_key.setdefault(key, []).extend(json.loads(line)["row"] for line in data.splitlines())
    assert all(rows == sorted(rows) for rows in by_key.values())
    assert sorted(row for rows in by_key.values() for row in rows) == list(range(600)), "nothing twice, nothing missing"
    assert all(len({key for key, _ in request}) == len(request) for request in stub.requests)


async def test_the_control_a_key_twice_in_one_request_would_lose_its_order(stub: Stub, context: SinkContext) -> None:
    """What the sink must not do, done by hand: the service takes the second record of a key and not the first."""
    kinesis = boto3.client("kinesis", endpoint_url=stub.endpoint, region_name="ap-northeast-1")
    entries = [{"PartitionKey": PRESS, "Data": bytes([number])} for number in range(2)]
    stub.plan = [Fault("partial", (0,))]

    def careless() -> None:
        kinesis.put_records(StreamName="osaka", Records=entries)
        kinesis.put_records(StreamName="osaka", Records=entries[:1])
        kinesis.close()

    await asyncio.to_thread(careless)
    assert [data for _, data in stub.taken] == [b"\1", b"\0"]


async def test_what_the_stream_has_is_not_sent_again_with_the_next_try(stub: Stub, context: SinkContext) -> None:
    sink = build(context, stub.endpoint)
    await sink.connect()
    assert isinstance(context.tags, Tags)
    rows, span = [batch_of("telemetry", 0, 30, context.tags)], span_of("telemetry", 0, 30)
    stub.plan = [Fault("partial", (0,)), Fault("reset")]
    with pytest.raises(NotConnected):
        await sink.write(rows, span)
    assert [key for key, _ in stub.taken] == [FAN]
    await sink.write(rows, span)
    await sink.aclose()
    assert [key for key, _ in stub.taken] == [FAN, PRESS]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault("reset"), NotConnected),
        (Fault("taken, then reset"), NotConnected),
        (Fault("silence"), NotConnected),
        (Fault("error", code="InternalFailure"), NotConnected),
        (Fault("error", code="AccessDeniedException"), ConfigError),
    ],
    ids=lambda case: f"{case.kind} {case.code}" if isinstance(case, Fault) else None,
)
async def test_faults_lose_nothing_and_repeat_only_what_was_not_answered(
    stub: Stub, context: SinkContext, fault: Fault, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await put(context, stub, plan=(fault,), timeout="500ms")
    await put(context, stub)
    rows = sorted(row["row"] for row in stub.rows("telemetry"))
    assert rows == (sorted([*range(30), *range(30)]) if fault.kind == "taken, then reset" else list(range(30)))


async def test_a_stream_that_goes_on_refusing_is_busy(stub: Stub, context: SinkContext) -> None:
    with pytest.raises(Busy, match=r"takes no more: 1 of its records were refused: Provisioned"):
        await put(context, stub, plan=tuple(Fault("partial", (0,)) for _ in range(6)))


async def test_a_stream_that_is_not_there_is_for_a_person(stub: Stub, context: SinkContext) -> None:
    sink = build(context, stub.endpoint, stream="not-there")
    with pytest.raises(ConfigError, match=r"ResourceNotFoundException.*correct its name"):
        await sink.connect()
    await sink.aclose()


async def test_a_stream_in_the_making_is_waited_for(stub: Stub, context: SinkContext) -> None:
    stub.status = "CREATING"
    with pytest.raises(NotConnected, match="is creating"):
        await put(context, stub)


async def test_a_row_larger_than_a_record_is_given_back_and_the_others_arrive(stub: Stub, context: SinkContext) -> None:
    sink = build(context, stub.endpoint, max_record="10 kB")
    await sink.connect()
    texts = ["x" * (20_000 if number == 3 else 5) for number in range(6)]
    batch = with_seq(telemetry(time_us=[T0] * 6, tag=[0] * 6, quality=0, text=texts), 0)
    with pytest.raises(Rejected, match="larger than a record may be") as caught:
        await sink.write([batch], span_of("telemetry", 0, 6))
    await sink.aclose()
    assert caught.value.rows == (3,)
    assert [row["row"] for row in stub.rows("telemetry")] == [0, 1, 2, 4, 5]


async def test_requests_keep_to_the_limits(stub: Stub, context: SinkContext) -> None:
    await put(context, stub, 3000, max_record="20 kB", max_request="50 kB", partition_key="tag")
    assert all(size <= 20_000 for request in stub.requests for _, size in request)
    assert all(sum(size + len(key) for key, size in request) <= 50_000 for request in stub.requests)
    assert sorted(row["row"] for row in stub.rows("telemetry")) == list(range(3000))


async def test_at_most_so_many_records_a_request(stub: Stub, tmp_path: Path, manual_clock: ManualClock) -> None:
    context = context_of(tmp_path, manual_clock, Tags(*(f"acme/osaka/asset-{number}/x" for number in range(1200))))
    await put(context, stub, 1200)
    assert [len(request) for request in stub.requests] == [500, 500, 200]


async def test_arrow_streams_hold_the_same_rows(stub: Stub, context: SinkContext) -> None:
    await put(context, stub, 3000, format="arrow", max_record="10 kB")
    rows: dict[str, list[int]] = {}
    for key, data in stub.taken:
        assert len(data) + len(key) <= 10_000
        table = pa.ipc.open_stream(data).read_all()
        assert table.schema.metadata[b"genba.gateway"] == b"gw-1"
        assert set(table.column("tag").to_pylist()) <= {tag.path for tag in context.tags}
        assert table.column("value").to_pylist() == [row * 0.5 for row in table.column("seq").to_pylist()]
        rows.setdefault(key, []).extend(table.column("seq").to_pylist())
    assert all(those == sorted(those) for those in rows.values())
    assert sorted(row for those in rows.values() for row in those) == list(range(3000))


async def test_arrow_streams_of_every_kind(stub: Stub, context: SinkContext) -> None:
    sink = build(context, stub.endpoint, format="arrow")
    await sink.connect()
    assert isinstance(context.tags, Tags)
    for kind in KINDS:
        await sink.write([batch_of(kind, 0, 6, context.tags)], span_of(kind, 0, 6))
    await sink.aclose()
    kinds = {pa.ipc.open_stream(data).read_all().schema.metadata[b"genba.kind"].decode() for _, data in stub.taken}
    assert kinds == set(KINDS)


async def test_kpl_records_open_with_the_kpl(stub: Stub, context: SinkContext) -> None:
    await put(context, stub, 3000, format="kpl", max_record="20 kB")
    assert all(len(data) <= 20_000 for _, data in stub.taken)
    seen: dict[str, list[int]] = {}
    for key, data in stub.taken:
        kinesis = {"data": base64.b64encode(data).decode(), "partitionKey": key, "sequenceNumber": "1"}
        kinesis |= {"kinesisSchemaVersion": "1.0", "approximateArrivalTimestamp": "0"}
        about = ("eventSource", "eventVersion", "eventID", "eventName", "invokeIdentityArn", "awsRegion", "eventSourceARN")
        record = {"kinesis": kinesis, **dict.fromkeys(about, "x")}
        for user in await asyncio.to_thread(deaggregate_records, record):
            assert user["kinesis"]["partitionKey"] == key
            seen.setdefault(key, []).append(json.loads(base64.b64decode(user["kinesis"]["data"]))["row"])
    assert all(rows == sorted(rows) for rows in seen.values())
    assert sorted(row for rows in seen.values() for row in rows) == list(range(3000))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"stream": "no good"}, "pattern"),
        ({"max_record": "1 kB"}, "max_record is between"),
        ({"max_request": "500 kB"}, "holds at least one record"),
        ({"max_request": "20 MiB"}, "10 MiB at most"),
        ({"aws": {"region": "eu-central-1"}}, "region and aws.region differ"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        KinesisConfig.model_validate({"stream": "osaka", "region": "ap-northeast-1", **options})


async def test_the_policy_that_is_shipped_allows_what_is_called_and_no_more(
    moto_server: str, context: SinkContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: set[str] = set()
    monkeypatch.setattr(Account, "call", _noting(called, Account.call))
    harness = ServerHarness(moto_server)
    try:
        sink = harness.build(context)
        await sink.connect()
        assert isinstance(context.tags, Tags)
        await sink.write([batch_of("telemetry", 0, 3, context.tags)], span_of("telemetry", 0, 3))
        await sink.aclose()
    finally:
        harness.close()
    (statement,) = json.loads((Path(__file__).parents[3] / "deploy/iam/stream.json").read_text())["Statement"]
    assert called == set(statement["Action"])


def _noting(called: set[str], call: Any) -> Any:
    def noted(account: Account, service: str, what: str, work: Any) -> Any:
        client = account.client(service)
        client.meta.events.register("before-call", lambda model, **_: called.add(f"{service}:{model.name}"))
        return call(account, service, what, work)

    return noted
