"""Alerts before bulk, whatever holds bulk up; and the rate that a person sets."""

from __future__ import annotations

import asyncio
import random

import pytest

from cloud_sinks.base import BatchPolicy
from gateway.pace import Overtaking, Pace
from schemas.errors import Busy, NotConnected
from tests.gateway.deliveries import Rig, ScriptedSink, finished, running
from tests.gateway.samples import until


@pytest.fixture
async def rig(open_spool, tmp_path, manual_clock):
    return Rig(await open_spool(), tmp_path, manual_clock)


async def test_an_alert_does_not_wait_for_bulk_that_a_busy_service_holds_up(rig):
    sink = ScriptedSink(on_write=[Busy(3600.0)])
    delivery = await rig.delivery(sink, kinds=("alert", "telemetry"))
    await rig.put(10)
    async with running(delivery):
        await until(lambda: len(sink.tried) == 1)
        await rig.put(1, kind="alert")
        await until(lambda: sink.rows("alert") == [0])
        assert sink.rows() == []
        assert rig.account().spooled == 10


async def test_at_reconnect_the_alert_is_the_first_write_whatever_waits(rig):
    sink = ScriptedSink(policy=BatchPolicy(max_rows=500), on_connect=[NotConnected("away")])
    delivery = await rig.delivery(sink, kinds=("alert", "telemetry"))
    for _ in range(40):
        await rig.put(5_000)  # what waits after a long outage
    await rig.put(1, kind="alert")
    async with running(delivery):
        await until(lambda: len(sink.taken) > 3)
        assert sink.taken[0][0] == "alert"
        put = len(sink.taken)
        await rig.put(1, kind="alert")
        await until(lambda: sink.rows("alert") == [0, 1])
        position = [kind for kind, *_ in sink.taken].index("alert", 1)
        assert position - put < 40  # bulk writes that were under way or before it was durable, of the 400 that wait
        assert len(sink.rows()) < 200_000


async def test_a_busy_service_is_asked_less_and_less_often(rig):
    sink = ScriptedSink(on_write=[Busy(0.0)] * 4)
    delivery = await rig.delivery(sink)
    await rig.put(3)
    began = asyncio.get_running_loop().time()
    await finished(delivery, 20)
    assert len(sink.tried) == 5
    assert sink.rows() == [0, 1, 2]
    # four waits, each at least a tenth of 0.1, 0.2, 0.4, 0.8 s and at least 50 ms
    assert asyncio.get_running_loop().time() - began >= 0.05 * 3 + 0.08


async def test_the_rate_holds_bulk_back_and_alerts_never():
    loop = asyncio.get_running_loop()
    pace = Pace(random.Random(1), max_rows_per_s=100.0)
    assert pace.pause_s("telemetry") <= 0
    pace.worked(50)
    assert 0.4 < pace.pause_s("telemetry") <= 0.5
    pace.worked(50)
    assert 0.9 < pace.pause_s("health") <= 1.0
    assert pace.pause_s("alert") <= 0
    pace.hold("alert", Busy(2.0))
    assert 1.9 < pace.pause_s("alert") <= 2.0
    assert loop.time() > 0


async def test_a_sink_with_a_rate_gets_everything_in_the_time_that_takes(rig):
    sink = ScriptedSink(policy=BatchPolicy(max_rows=10))
    delivery = await rig.delivery(sink, max_rows_per_s=200.0)
    await rig.put(50)
    began = asyncio.get_running_loop().time()
    await finished(delivery, 20)
    assert sink.rows() == list(range(50))
    assert asyncio.get_running_loop().time() - began >= 0.2  # four pauses of 50 ms between five writes


@pytest.mark.parametrize(
    ("fixed_s", "row_s", "least", "greatest"), [(0.001, 0.005, 100, 410), (1.5, 0.0, 5_000, 5_000), (0.05, 1.0, 20, 20)]
)
def test_a_write_of_bulk_takes_a_second_more_than_the_smallest_one_and_a_distant_service_gets_large_ones(
    fixed_s, row_s, least, greatest
):
    pace = Overtaking(alerts=True)
    for turn in range(200):
        rows = pace.most("telemetry", 5_000)
        pace.took("telemetry", rows, fixed_s + rows * row_s)
        if turn % 10 == 0:
            pace.took("alert", 1, fixed_s + row_s)
    assert least <= pace.most("telemetry", 5_000) <= greatest
    assert pace.most("alert", 5_000) == 5_000


def test_a_line_that_becomes_slow_is_learned_and_unlearned():
    pace = Overtaking(alerts=True)
    sizes = []
    for row_s in [1e-5] * 30 + [0.01] * 30 + [1e-5] * 30:
        rows = pace.most("telemetry", 5_000)
        pace.took("telemetry", rows, 0.001 + rows * row_s)
        sizes.append(pace.most("telemetry", 5_000))
    assert sizes[29] == sizes[89] == 5_000
    assert sizes[59] <= 250
