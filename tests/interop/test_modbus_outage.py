"""Each Modbus server is killed and comes back: nothing is lost but the outage itself, and one gap row tells of it."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pytest
import structlog

from gateway.collector import Collector
from schemas import quality as q
from tests.conformance.adapter import Rig, SystemClock
from tests.interop.test_modbus_libmodbus import Bench, cross_over

pytestmark = pytest.mark.interop

SCAN_S = 0.05
MOST_BACKOFF_S = 3.0
"""The longest pause between two attempts to connect (gateway/collector.py)."""
TAGS: dict[str, dict[str, Any]] = {
    "temperature": {"address": "hr:0", "type": "float32"},
    "count": {"address": "hr:5", "type": "uint16"},
    "far": {"address": "hr:200", "type": "uint16"},
}
GOOD = {"temperature": 21.5, "count": 54321, "far": 200}


class Started(Protocol):
    port: int

    def kill(self) -> None: ...
    def restart(self) -> None: ...


class Spool:
    """What was put, in order."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {"telemetry": [], "event": [], "gap": []}
        self._came = asyncio.Event()

    async def put(self, kind: str, batch: pa.RecordBatch) -> int:
        for name in ("time", "end"):
            if name in batch.schema.names:
                batch = batch.set_column(batch.schema.get_field_index(name), name, batch.column(name).cast(pa.int64()))
        self.rows[kind] += batch.to_pylist()
        self._came.set()
        return 0

    def good(self) -> int:
        return sum(row["quality"] == q.GOOD for row in self.rows["telemetry"])

    async def more(self, count: int) -> None:
        """Wait for so many more good rows."""
        wanted = self.good() + count
        async with asyncio.timeout(20):
            while self.good() < wanted:
                self._came.clear()
                await self._came.wait()


@asynccontextmanager
async def collecting(rig: Rig) -> AsyncIterator[Spool]:
    spool = Spool()
    collector = Collector(
        "device", rig.adapter, [bound.tag for bound in rig.bound], put=spool.put, clock=SystemClock(),
        rng=random.Random(1), log=structlog.get_logger(),
    )  # fmt: skip
    task = asyncio.get_running_loop().create_task(collector.run())
    try:
        yield spool
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def outage(server: Started, spool: Spool, *, down_s: float) -> tuple[int, int]:
    """Kill, wait, restart, wait for good rows; (killed, serving again) in µs."""
    await spool.more(30)
    killed_us = time.time_ns() // 1000
    await asyncio.to_thread(server.kill)
    await asyncio.sleep(down_s)
    await asyncio.to_thread(server.restart)
    again_us = time.time_ns() // 1000
    await spool.more(60)
    return killed_us, again_us


def check(rig: Rig, spool: Spool, killed_us: int, again_us: int, *, notice_s: float) -> None:
    """One gap per tag, as long as the outage and the way back; no slot missing outside it; every value right."""
    gaps = spool.rows["gap"]
    assert sorted(row["tag"] for row in gaps) == sorted(bound.tag.id for bound in rig.bound), "one gap row for each tag"
    assert len({(row["time"], row["end"], row["cause"]) for row in gaps}) == 1
    start_us, end_us = gaps[0]["time"], gaps[0]["end"]
    assert killed_us - 4e6 * SCAN_S < start_us < killed_us + notice_s * 1e6, "the gap begins with the outage"
    assert end_us < again_us + (MOST_BACKOFF_S + 1) * 1e6, "and ends with it"
    assert [row["event"] for row in spool.rows["event"]] == ["adapter_up", "adapter_down", "adapter_up"]
    names = {bound.tag.id: bound.tag.name for bound in rig.bound}
    times: dict[int, list[int]] = {}
    for row in spool.rows["telemetry"]:
        if row["quality"] == q.GOOD:
            assert row["value"] == GOOD[names[row["tag"]]]
            times.setdefault(row["tag"], []).append(row["time"])
    for seen in times.values():
        apart = [(a, b) for a, b in itertools.pairwise(seen) if b - a > 10e6 * SCAN_S]
        assert len(apart) == 1, "good rows come without interruption before and after"
        (last, first), *_ = apart
        assert last <= start_us + 4e6 * SCAN_S
        assert first == end_us


@pytest.mark.parametrize("server_of", ["libmodbus_server", "modbus_serial_server"])
async def test_over_tcp(server_of: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    start: Callable[[], Started] = request.getfixturevalue(server_of)
    server = await asyncio.to_thread(start)
    rig = Bench().rig(Bench().configure(f"tcp://127.0.0.1:{server.port}", TAGS, timeout="500ms"), tmp_path)
    async with collecting(rig) as spool:
        killed_us, again_us = await outage(server, spool, down_s=0.7)
    check(rig, spool, killed_us, again_us, notice_s=0.5)


async def test_on_a_serial_line(libmodbus_line: Callable[[str], Started], tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        ours, theirs = cross_over(stack)
        server = await asyncio.to_thread(libmodbus_line, theirs)
        rig = Bench().rig(Bench().configure(f"rtu:{ours}", TAGS, timeout="100ms", serial={"parity": "none"}), tmp_path)
        async with collecting(rig) as spool:
            killed_us, again_us = await outage(server, spool, down_s=1.5)
        check(rig, spool, killed_us, again_us, notice_s=1.5)
