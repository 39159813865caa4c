"""Kinesis over every server that stands in for it: one suite. Where a server cannot do something, what the sink does then is checked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cloud_sinks.base import SinkContext
from schemas.errors import ConfigError
from schemas.kinds import telemetry, with_seq
from tests.cloud_sinks import servers
from tests.cloud_sinks.kinesis.rig import STREAM, ServerHarness
from tests.conformance.sink import T0, SinkConformance, Tags, batch_of, context_of, span_of
from tests.conftest import ManualClock

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("aws_credentials")]


@pytest.fixture(scope="module", params=["moto", "ministack", "kinesalite"])
def counterpart(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Counterpart]:
    made = servers.start(request.param, tmp_path_factory.mktemp(request.param))
    yield made
    made.server.stop()


@pytest.fixture
def harness(counterpart: servers.Counterpart) -> Iterator[ServerHarness]:
    made = ServerHarness(counterpart.endpoint)
    yield made
    made.close()


class TestConformance(SinkConformance):
    """What every sink keeps."""


def test_it_listens_on_loopback_only(counterpart: servers.Counterpart) -> None:
    assert servers.listening_addresses(counterpart.server.pid) == {"0100007F"}


async def put(harness: ServerHarness, context: SinkContext, rows: int = 30, **options: Any) -> None:
    sink = harness.build(context, **options)
    try:
        await sink.connect()
        assert isinstance(context.tags, Tags)
        await sink.write([batch_of("telemetry", 0, rows, context.tags)], span_of("telemetry", 0, rows))
    finally:
        await sink.aclose()


async def test_an_asset_is_on_one_shard_in_order_and_every_row_is_there_once(
    harness: ServerHarness, tmp_path: Path, manual_clock: ManualClock
) -> None:
    context = context_of(tmp_path, manual_clock, Tags(*(f"acme/osaka/press-{n:02d}/x" for n in range(20))))
    await put(harness, context, 4000, max_record="10 kB")
    shards: dict[str, set[str]] = {}
    rows: dict[str, list[int]] = {}
    for shard, key, data in harness.records():
        shards.setdefault(key, set()).add(shard)
        rows.setdefault(key, []).extend(json.loads(line)["row"] for line in data.splitlines())
    assert len(rows) == 20
    assert all(len(on) == 1 for on in shards.values())
    assert len(set.union(*shards.values())) == 2, "and both shards are used"
    assert all(those == sorted(those) for those in rows.values())
    assert sorted(row for those in rows.values() for row in those) == list(range(4000))


async def test_arrow_streams_come_back(harness: ServerHarness, context: SinkContext) -> None:
    await put(harness, context, 3000, format="arrow")
    tables = [pa.ipc.open_stream(data).read_all() for _, _, data in harness.records()]
    assert sorted(seq for table in tables for seq in table.column("seq").to_pylist()) == list(range(3000))


async def test_a_stream_that_is_not_there_is_for_a_person(harness: ServerHarness, context: SinkContext) -> None:
    sink = harness.build(context, stream="not-there")
    with pytest.raises(ConfigError, match=r"cannot look at the stream not-there: ResourceNotFoundException.*correct its name"):
        await sink.connect()
    await sink.aclose()


async def test_a_stream_is_named_by_its_arn(
    harness: ServerHarness, counterpart: servers.Counterpart, context: SinkContext
) -> None:
    """kinesalite is older than that: whoever names a stream so there is told what to write instead."""
    arn = harness.about["StreamARN"]
    if counterpart.by_arn:
        await put(harness, context, stream=arn)
        assert len(harness.lines()) == 30
        return
    with pytest.raises(ConfigError, match=rf"cannot look at the stream {arn}: ValidationException"):
        await put(harness, context, stream=arn)


@pytest.mark.parametrize(
    ("options", "size"),
    [({"max_record": "2 MiB"}, 1_500_000), ({"max_request": "10 MiB"}, 900_000)],
    ids=["record", "request"],
)
async def test_more_than_the_service_takes_is_for_a_person_and_nothing_is_lost(
    harness: ServerHarness, context: SinkContext, options: dict[str, str], size: int
) -> None:
    """No server takes a record of 1.5 MB or a request of 8.1 MB: it is said which option to lower, and with it lowered all arrive."""
    rows = 9 if "max_request" in options else 1
    tags = Tags(*(f"acme/osaka/press-{n}/x" for n in range(9)))
    context = context_of(context.base, context.clock, tags)
    batch = with_seq(telemetry(time_us=T0, tag=np.arange(rows, dtype=np.int32), text=["x" * size] * rows), 0)
    sink = harness.build(context, **options, timeout="10s")
    await sink.connect()
    with pytest.raises(ConfigError, match=r"lower `max_record` or `max_request`"):
        await sink.write([batch], span_of("telemetry", 0, rows))
    await sink.aclose()
    assert harness.records() == []
    if "max_request" in options:
        sink = harness.build(context, timeout="10s")
        await sink.connect()
        await sink.write([batch], span_of("telemetry", 0, rows))
        await sink.aclose()
        assert sorted(row["row"] for row in harness.lines()) == list(range(rows))


async def test_keys_of_the_longest_names_are_taken(harness: ServerHarness, tmp_path: Path, manual_clock: ManualClock) -> None:
    """256 characters as Java counts them: what is outside the first plane is two."""
    names = ("ü" * 300, "😀" * 200, "a" + "😀" * 200, "主" * 300)
    context = context_of(tmp_path, manual_clock, Tags(*(f"acme/osaka/{name}/x" for name in names)))
    await put(harness, context, 8)
    assert sorted(row["row"] for row in harness.lines()) == list(range(8))
    keys = {key for _, key, _ in harness.records()}
    assert len(keys) == len(names) - 1, "two of them end alike"
    assert max(len(key.encode("utf-16-le")) // 2 for key in keys) <= 256


async def test_a_server_that_dies_and_returns(
    counterpart: servers.Counterpart, harness: ServerHarness, context: SinkContext
) -> None:
    """SIGKILL and a new start. Who keeps nothing has lost the stream: for a person, not for back-off alone."""
    await put(harness, context)
    counterpart.server.kill()
    counterpart.server.start()
    sink = harness.build(context)
    try:
        with pytest.raises(ConfigError, match=f"cannot look at the stream {STREAM}: ResourceNotFoundException"):
            await sink.connect()
    finally:
        await sink.aclose()
        harness.make()
