from __future__ import annotations

import asyncio

import numpy as np
import pyarrow as pa
import pytest
import structlog

from adapters.opcua.outbox import Outbox
from schemas.errors import NotConnected
from schemas.kinds import kind_of, telemetry
from tests.conftest import ManualClock


def batch(rows: int, first: int = 0) -> pa.RecordBatch:
    return telemetry(time_us=0, tag=np.arange(first, first + rows, dtype=np.int32))


async def test_batches_come_in_order_then_the_error() -> None:
    outbox = Outbox("robot", ManualClock(), structlog.get_logger())
    outbox.put(batch(2))
    outbox.put(None)
    outbox.put(batch(3))
    outbox.fail(NotConnected("gone"))
    assert [(await outbox.get()).num_rows for _ in range(2)] == [2, 3]
    for _ in range(2):
        with pytest.raises(NotConnected, match="gone"):
            await outbox.get()


async def test_get_waits_for_a_batch() -> None:
    outbox = Outbox("robot", ManualClock(), structlog.get_logger())
    asyncio.get_running_loop().call_later(0.01, outbox.put, batch(1))
    assert (await outbox.get()).num_rows == 1


async def test_a_full_outbox_drops_counts_and_tells() -> None:
    clock = ManualClock()
    with structlog.testing.capture_logs() as logs:
        outbox = Outbox("robot", clock, structlog.get_logger(), max_rows=10)
        outbox.put(batch(8))
        start = clock.now_us()
        outbox.put(batch(3))
        clock.step(1.5)
        outbox.put(batch(4))
        outbox.put(batch(2, first=50))  # fits again: what was lost is told first
        kept, gap, after = [await outbox.get() for _ in range(3)]
    assert (kept.num_rows, kind_of(gap), after.column("tag").to_pylist()) == (8, "gap", [50, 51])
    (row,) = gap.to_pylist()
    assert (row["cause"], row["rows"], row["source"], row["tag"]) == ("overflow", 7, "robot", None)
    assert row["time"].timestamp() == start / 1e6
    assert (row["end"] - row["time"]).total_seconds() == 1.5
    assert [(entry["log_level"], entry["adapter"]) for entry in logs] == [("warning", "robot"), ("info", "robot")]


async def test_the_gap_is_told_when_nothing_comes_behind() -> None:
    outbox = Outbox("robot", ManualClock(), structlog.get_logger(), max_rows=1)
    outbox.put(batch(1))
    outbox.put(batch(5))
    assert [kind_of(await outbox.get()) for _ in range(2)] == ["telemetry", "gap"]


async def test_one_batch_above_the_bound_still_passes() -> None:
    outbox = Outbox("robot", ManualClock(), structlog.get_logger(), max_rows=2)
    outbox.put(batch(5))
    assert (await outbox.get()).num_rows == 5
