"""What the gateway has of a node-opcua server that is killed, cut off, or raises alarms: gap rows, history, event rows."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pytest
import structlog

from adapters.opcua import adapter as adapter_module
from adapters.opcua.config import OpcuaConfig
from adapters.opcua.history import Pace
from gateway.collector import Collector
from schemas import quality as q
from schemas.kinds import Kind, Origin
from tests.adapters.opcua.plants import Network
from tests.adapters.opcua.rig import SystemClock, bind, configure, make_adapter

pytestmark = pytest.mark.interop


class Started(Protocol):
    port: int

    def kill(self) -> None: ...
    def start(self) -> None: ...


@pytest.fixture
async def server(opcua_plant_server: Callable[[], Started]) -> Started:
    return await asyncio.to_thread(opcua_plant_server)


class Kept:
    """What the gateway would put into the spool, row by row."""

    def __init__(self) -> None:
        self.rows: dict[Kind, list[dict[str, Any]]] = {"telemetry": [], "gap": [], "event": []}

    async def put(self, kind: Kind, batch: pa.RecordBatch) -> int:
        at = batch.schema.get_field_index("time")
        times = batch.column(at).cast(pa.int64()).to_pylist()
        self.rows[kind] += [row | {"time_us": time_us} for row, time_us in zip(batch.to_pylist(), times, strict=True)]
        return 0

    def good(self, tag: int) -> list[dict[str, Any]]:
        return [row for row in self.rows["telemetry"] if row["tag"] == tag and row["quality"] < q.BAD]

    async def until(self, enough: Callable[[], object], timeout_s: float = 20) -> None:
        async with asyncio.timeout(timeout_s):
            while not enough():  # noqa: ASYNC110 - the spool of this test has no event
                await asyncio.sleep(0.02)


@asynccontextmanager
async def collecting(config: OpcuaConfig, directory: Path) -> AsyncIterator[Kept]:
    kept = Kept()
    tags = [bound.tag for bound in bind(config)]
    collector = Collector(
        "robot",
        make_adapter(config, directory),
        tags,
        put=kept.put,
        clock=SystemClock(),
        rng=random.Random(1),
        log=structlog.get_logger(),
    )
    task = asyncio.create_task(collector.run())
    try:
        yield kept
    finally:
        task.cancel()
        await asyncio.wait([task])


def microseconds(moment: Any) -> int:
    return round(moment.timestamp() * 1e6)


async def test_a_killed_server_costs_its_outage_and_leaves_a_gap_row_for_it(server: Started, tmp_path: Path) -> None:
    config = configure({"counter": "ns=1;s=counter", "level": "ns=1;s=level"}, f"opc.tcp://127.0.0.1:{server.port}")
    async with collecting(config, tmp_path) as kept:
        await kept.until(lambda: len(kept.good(100)) > 20)
        killed_us = time.time_ns() // 1000
        await asyncio.to_thread(server.kill)
        await kept.until(lambda: [row for row in kept.rows["event"] if row["event"] == "adapter_down"])
        await asyncio.to_thread(server.start)
        back_us = time.time_ns() // 1000
        before = len(kept.good(100))
        await kept.until(lambda: len(kept.good(100)) > before + 20)
    (gap,) = [row for row in kept.rows["gap"] if row["tag"] == 100 and row["cause"] == "not_connected"]
    start_us, end_us = gap["time_us"], microseconds(gap["end"])
    assert killed_us - 1_000_000 < start_us <= killed_us + 1_000_000
    assert back_us - 5_000_000 < end_us < back_us + 6_000_000
    assert sorted(row["tag"] for row in kept.rows["gap"] if row["cause"] == "not_connected") == [100, 101]
    bad = [row for row in kept.rows["telemetry"] if row["tag"] == 100 and row["quality"] >= q.BAD]
    assert len(bad) == 1
    # No change is missing but those of the outage: the server counts in steps of 50 ms, sampled every 50 ms.
    seen = sorted((row["time_us"], row["value"]) for row in kept.good(100))
    holes = [(a, b) for (a, _), (b, _) in itertools.pairwise(seen) if b - a > 1_000_000]
    assert len(holes) == 1
    assert start_us - 1_000_000 <= holes[0][0]
    assert holes[0][1] <= end_us + 1_000_000


async def test_what_was_recorded_while_the_network_was_away_is_read_from_history(
    server: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_module, "HISTORY_PACE", Pace(settle_s=1.0, values=7, pause_s=0.0))
    network = Network(server.port)
    listening = await asyncio.start_server(network.handle, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    tags = {"recorded": "ns=1;s=recorded", "counter": "ns=1;s=counter"}
    config = configure(tags, f"opc.tcp://127.0.0.1:{port}", timeout="500ms", queue_size=100, scan="20ms")
    async with collecting(config, tmp_path) as kept:
        await kept.until(lambda: len(kept.good(100)) > 10)
        network.swallow = True
        await kept.until(lambda: [row for row in kept.rows["event"] if row["event"] == "adapter_down"])
        await asyncio.sleep(0.5)
        network.swallow = False
        await kept.until(lambda: [row for row in kept.rows["event"] if row["event"] == "gap_filled"])
        await kept.until(lambda: len(kept.good(101)) > 30)
    listening.close()
    rows = kept.good(100)
    filled = [row for row in rows if row["origin"] == Origin.BACKFILL]
    assert len(filled) > 20  # more than a second, in steps of 50 ms
    assert [row["time_us"] for row in filled] == sorted(row["time_us"] for row in filled)
    values = [row["value"] for row in sorted(rows, key=lambda row: int(row["time_us"]))]
    assert len(set(values)) == len(values)  # none twice
    first, last = int(filled[0]["value"]), int(filled[-1]["value"])
    assert [row["value"] for row in filled] == [float(n) for n in range(first, last + 1)]  # none missing
    assert values.index(first) >= 1
    assert values[values.index(last) + 1] == last + 1.0  # up to the first one of the new session
    assert values[values.index(first) - 1] == first - 1.0  # from the last one of the old
    assert not [row for row in kept.good(101) if row["origin"] == Origin.BACKFILL]
    (gap,) = [
        row for row in kept.rows["gap"] if row["tag"] == 100 and row["cause"] == "not_connected"
    ]  # it stands, and its rows are there
    inside = [row for row in filled if gap["time_us"] <= row["time_us"] <= microseconds(gap["end"])]
    assert len(inside) > 20


async def test_an_alarm_of_the_server_comes_and_goes_and_is_not_told_twice(server: Started, tmp_path: Path) -> None:
    config = configure({"level": "ns=1;s=level"}, f"opc.tcp://127.0.0.1:{server.port}", events={"types": ["i=2915"]})
    async with collecting(config, tmp_path) as kept:

        def alarms() -> list[dict[str, Any]]:
            return [row for row in kept.rows["event"] if row["event"] == "device_alarm"]

        await kept.until(lambda: {json.loads(row["attributes"])["active"] for row in alarms()} == {True, False})
    told = [json.loads(row["attributes"]) for row in alarms()]
    assert {row["tag"] for row in alarms()} == {100}
    assert {one["type"] for one in told} == {"ExclusiveLimitAlarmType"}
    assert {one["condition"] for one in told} == {"LevelAlarm"}
    assert {row["severity"] for row in alarms()} == {"info"}  # the server's alarm is of severity 150
    assert len({one["event_id"] for one in told}) == len(told)
