"""From a real spool to a sink that takes what it is given: order, cuts, routing, stops and pauses."""

from __future__ import annotations

import asyncio

import numpy as np
import pyarrow as pa
import pytest

from cloud_sinks.base import BatchPolicy
from schemas.errors import Busy, NotConnected
from schemas.kinds import make_batch
from tests.gateway.deliveries import Rig, Rule, ScriptedSink, finished, running
from tests.gateway.samples import rows, until

# Order and cuts


async def test_rows_come_in_order_each_once_in_cuts_of_the_policy(rig):
    sink = ScriptedSink(policy=BatchPolicy(max_rows=10))
    delivery = await rig.delivery(sink)
    for _ in range(7):
        await rig.put(5)
        rig.account()
    await finished(delivery)
    assert sink.rows() == list(range(35))
    assert [(first, last) for _, first, last, _ in sink.taken] == [(0, 9), (10, 19), (20, 29), (30, 34)]
    assert rig.account().delivered == 35
    assert sink.closed == 1


async def test_alerts_go_before_bulk_that_was_there_first(rig):
    sink = ScriptedSink(policy=BatchPolicy(max_rows=2))
    delivery = await rig.delivery(sink, kinds=("telemetry", "event", "alert"))
    await rig.put(4)
    await rig.put(1, kind="event")
    await rig.put(3, kind="alert")

    async def more_alerts():
        await rig.put(1, kind="alert")

    sink.on_write = [None, None, more_alerts]  # while telemetry is written
    await finished(delivery)
    assert [kind for kind, *_ in sink.taken[:2]] == ["alert", "alert"]
    assert [kind for kind, *_ in sink.taken[3:4]] == ["alert"]
    assert sink.rows("alert") == [0, 1, 2, 3]
    assert sink.rows() == [0, 1, 2, 3]


async def test_a_policy_that_changes_cuts_the_next_span_and_not_the_one_in_flight(rig):
    sink = ScriptedSink(policy=BatchPolicy(max_rows=10))
    delivery = await rig.delivery(sink)
    await rig.put(60)

    async def grow():
        sink._policy = BatchPolicy(max_rows=25)

    sink.on_write = [NotConnected("away"), grow]
    await finished(delivery)
    assert [(first, last) for _, first, last, _ in sink.tried] == [(0, 9), (0, 9), (10, 34), (35, 59)]
    assert sink.rows() == list(range(60))
    rig.account()


async def test_rows_wait_for_the_age_of_the_policy_and_finish_delivers_them_at_once(rig):
    sink = ScriptedSink(policy=BatchPolicy(max_rows=100, max_age_s=60))
    delivery = await rig.delivery(sink)
    async with running(delivery) as (task,):
        await until(lambda: delivery.state == "up")
        await rig.put(5)
        await asyncio.sleep(0.05)
        assert sink.tried == []
        assert rig.account().spooled == 5
        await rig.put(100)
        await until(lambda: sink.taken)
        assert sink.taken[0][1:3] == (0, 99)
        await asyncio.sleep(0.02)
        assert rig.account().spooled == 5
        delivery.finish()
        await asyncio.wait_for(task, 2)
    assert sink.rows() == list(range(105))


async def test_rows_are_delivered_when_the_oldest_is_old_enough(rig):
    sink = ScriptedSink(policy=BatchPolicy(max_rows=100, max_age_s=0.1))
    delivery = await rig.delivery(sink)
    async with running(delivery):
        await until(lambda: delivery.state == "up")
        began = asyncio.get_running_loop().time()
        await rig.put(3)
        await until(lambda: sink.taken)
        assert 0.09 <= asyncio.get_running_loop().time() - began < 1.0


async def test_rows_of_the_run_before_are_due_at_once(open_spool, rig):
    await rig.delivery(ScriptedSink())
    await rig.put(3)
    await rig.spool.close()
    again = Rig(await open_spool(), rig.dead_letters.parent, rig.clock)
    sink = ScriptedSink(policy=BatchPolicy(max_rows=100, max_age_s=3600))
    async with running(await again.delivery(sink)):
        await until(lambda: sink.rows() == [0, 1, 2])


def waveforms(count):
    return make_batch("telemetry", count, time=0, tag=np.zeros(count, np.int32), quality=0, samples=[[1.0] * 2500] * count)


async def test_bytes_fill_a_cut_too_and_what_is_left_over_does_not_wait_for_its_age_again(rig):
    sink = ScriptedSink(policy=BatchPolicy(max_rows=100_000, max_bytes=100_000, max_age_s=0.3))
    delivery = await rig.delivery(sink)
    async with running(delivery):
        await until(lambda: delivery.state == "up")
        for _ in range(5):
            await rig.spool.put("telemetry", waveforms(10))
        await rig.spool.flush()
        began = asyncio.get_running_loop().time()
        await until(lambda: len(sink.rows()) == 50)
        assert asyncio.get_running_loop().time() - began < 0.8  # one age for all, not one for each of the cuts
        assert len(sink.taken) >= 5
        written = len(sink.taken)
        for _ in range(5):
            await rig.spool.put("telemetry", waveforms(10))
        began = asyncio.get_running_loop().time()
        await until(lambda: len(sink.taken) > written)
        assert asyncio.get_running_loop().time() - began < 0.25  # full by bytes: nobody waits for an age
        await rig.spool.flush()
        await until(lambda: len(sink.rows()) == 100)
    assert sink.rows() == list(range(100))
    assert rig.account().delivered == 100


async def test_after_big_rows_small_ones_fill_cuts_by_number_again(rig):
    sink = ScriptedSink(policy=BatchPolicy(max_rows=1000, max_bytes=100_000, max_age_s=60))
    delivery = await rig.delivery(sink)
    await rig.spool.put("telemetry", waveforms(40))
    await rig.spool.flush()
    async with running(delivery):
        delivery._due["telemetry"] = 40  # as when their age is reached
        await until(lambda: len(sink.rows()) == 40)
        assert delivery._enough["telemetry"] < 40
        for _ in range(600):
            await rig.spool.put("telemetry", rows([0] * 10, [1.0] * 10))
            if delivery._enough["telemetry"] == 1000:
                break
            await rig.spool.flush()
        assert delivery._enough["telemetry"] == 1000


# Routing


async def test_thinned_rows_and_rows_of_other_tags_are_filtered_and_counted(rig):
    sink = ScriptedSink()
    delivery = await rig.delivery(sink, rules=[Rule("telemetry", ["lake"], ["**/t1"])])
    batch = rows([0, 1, 1, 2, 1], [1.0] * 5)
    thinned = batch.schema.get_field_index("thinned")
    batch = batch.set_column(thinned, batch.schema.field(thinned), pa.array([None, False, True, None, None], pa.bool_()))
    await rig.spool.put("telemetry", batch)
    await rig.put(3)  # nothing of it is for this sink
    await finished(delivery)
    assert sink.rows() == [1, 4]
    assert (rig.account().delivered, rig.account().filtered) == (2, 6)


async def test_a_span_of_which_nothing_is_left_is_not_written(rig):
    sink = ScriptedSink()
    delivery = await rig.delivery(sink, rules=[Rule("telemetry", ["lake"], ["**/t1"])])
    await rig.put(3)
    await finished(delivery)
    assert sink.tried == []
    assert rig.account().filtered == 3


# Alerts behind bulk that is under way


async def test_one_write_of_bulk_is_short_on_a_slow_line_so_that_an_alert_overtakes_the_rest(rig):
    sink = ScriptedSink(policy=BatchPolicy(max_rows=1000))

    async def slow():
        await asyncio.sleep(len(sink.tried[-1][3]) * 0.005)

    sink.on_write = [slow] * 1000
    delivery = await rig.delivery(sink, kinds=("telemetry", "alert"))
    await rig.put(900)
    async with running(delivery):
        await until(lambda: len(sink.rows()) >= 300)
        await rig.put(1, kind="alert")
        await until(lambda: sink.rows("alert") == [0])
        assert len(sink.rows()) < 900
    assert sink.rows() == list(range(len(sink.rows())))
    assert max(len(numbers) for _, _, _, numbers in sink.tried) <= 410


@pytest.mark.parametrize(("kinds", "age_s"), [(("telemetry",), 0.0), (("telemetry", "alert"), 60.0)])
async def test_where_no_alert_has_to_hurry_the_policy_alone_cuts(rig, kinds, age_s):
    sink = ScriptedSink(policy=BatchPolicy(max_rows=1000, max_age_s=age_s))
    delivery = await rig.delivery(sink, kinds=kinds)
    await rig.put(1500)
    await finished(delivery)
    assert [(first, last) for _, first, last, _ in sink.taken] == [(0, 999), (1000, 1499)]


# Stopping


async def test_finish_returns_at_once_when_the_service_is_away_and_nothing_waits(rig):
    sink = ScriptedSink(on_connect=[NotConnected("refused")] * 1000)
    delivery = await rig.delivery(sink)
    delivery._backoff._first_s = delivery._backoff._max_s = 30
    async with running(delivery) as (task,):
        await until(lambda: delivery.state == "down")
        delivery.finish()
        await asyncio.wait_for(task, 0.5)
    assert sink.closed == 1


async def test_finish_tries_a_service_that_is_away_once_more_without_waiting_for_the_back_off(rig):
    sink = ScriptedSink(on_connect=[NotConnected("refused")])
    delivery = await rig.delivery(sink)
    delivery._backoff._first_s = delivery._backoff._max_s = 30
    await rig.put(3)
    async with running(delivery) as (task,):
        await until(lambda: delivery.state == "down")
        delivery.finish()
        await asyncio.wait_for(task, 1)
    assert sink.rows() == [0, 1, 2]


async def test_a_slow_sink_does_not_hold_another_back(rig):
    async def hang():
        await asyncio.Event().wait()

    slow, quick = ScriptedSink(on_write=[hang]), ScriptedSink()
    deliveries = [await rig.delivery(slow, name="slow"), await rig.delivery(quick, name="quick")]
    async with running(*deliveries):
        for _ in range(20):
            await rig.put(10)
        await until(lambda: quick.rows() == list(range(200)))
        assert slow.rows() == []
        assert rig.account("slow").spooled == 200
        assert rig.account("quick").delivered == 200


# Paused by a person


async def test_a_paused_sink_finishes_its_write_and_takes_up_behind_it(rig):
    sink = ScriptedSink(policy=BatchPolicy(max_rows=5))
    delivery = await rig.delivery(sink)
    goes_on = asyncio.Event()
    sink.on_write = [goes_on.wait]
    async with running(delivery):
        await rig.put(20)
        await until(lambda: len(sink.tried) == 1)
        await delivery.pause(True)
        await delivery.pause(True)
        goes_on.set()
        await until(lambda: sink.taken)
        await rig.put(5)
        await asyncio.sleep(0.05)
        assert [(first, last) for _, first, last, _ in sink.tried] == [(0, 4)]
        assert (rig.account().delivered, rig.account().spooled) == (5, 20)
        assert delivery.overdue_s() == 0.0
        await delivery.pause(False)
        await until(lambda: rig.account().delivered == 25)
    assert sink.rows() == list(range(25))
    assert rig.events() == ["sink_paused", "sink_resumed"]


async def test_a_sink_that_is_paused_while_it_asks_to_wait_writes_the_same_rows_later(rig):
    sink = ScriptedSink(policy=BatchPolicy(max_rows=5), on_write=[Busy(0.0)] * 3)
    delivery = await rig.delivery(sink)
    async with running(delivery):
        await rig.put(8)
        await until(lambda: len(sink.tried) == 1)
        await delivery.pause(True)
        await rig.put(8)
        await asyncio.sleep(0.1)
        assert len(sink.tried) <= 2
        sink.on_write = []
        await delivery.pause(False)
        await until(lambda: rig.account().delivered == 16)
    assert {(first, last) for _, first, last, _ in sink.tried[:2]} == {(0, 4)}
    assert sink.rows() == list(range(16))


async def test_what_waited_for_company_while_paused_is_due_when_resumed(rig):
    sink = ScriptedSink(policy=BatchPolicy(max_rows=100, max_age_s=3600))
    delivery = await rig.delivery(sink)
    async with running(delivery):
        await until(lambda: delivery.state == "up")
        await delivery.pause(True)
        await rig.put(3)
        await delivery.pause(False)
        await until(lambda: sink.rows() == [0, 1, 2])


async def test_a_connection_lost_while_paused_is_made_again_and_a_stop_needs_no_delivery(rig):
    sink = ScriptedSink()
    delivery = await rig.delivery(sink)
    await delivery.pause(True)
    await rig.put(3)
    run = asyncio.create_task(delivery.run())
    await until(lambda: sink.connects == 1)
    sink.gone.set()
    await until(lambda: sink.connects == 2 and delivery.state == "up")
    delivery.finish()
    await asyncio.wait_for(run, 5)
    assert (sink.tried, rig.account().spooled) == ([], 3)
