"""From a real spool to a sink that does what its script says: order, retries, dead letters, and no row unaccounted for."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import asynccontextmanager, suppress

import numpy as np
import pyarrow as pa
import pytest
import structlog

from cloud_sinks.base import BatchPolicy
from gateway.dead_letters import bury
from gateway.delivery import Delivery
from gateway.router import Router
from gateway.spool import deeds
from schemas.errors import Busy, ConfigError, NotConnected, Rejected
from schemas.kinds import make_batch
from schemas.span import SpoolSpan
from tests.gateway.samples import make_tag, rows, until
from tests.gateway.spool.conftest import crash

TAGS = [make_tag(number) for number in range(4)]


class ScriptedSink:
    """Keeps what it was given. `on_write` and `on_connect` hold exceptions (raised) or coroutine functions (awaited) in turn."""

    def __init__(self, *, policy=None, on_connect=(), on_write=()):
        self._policy = policy or BatchPolicy(max_rows=1000, max_age_s=0.0)
        self.on_connect, self.on_write = list(on_connect), list(on_write)
        self.tried: list[tuple[str, int, int, list[int]]] = []
        self.taken: list[tuple[str, int, int, list[int]]] = []
        self.connects = self.closed = 0
        self.gone = asyncio.Event()

    def policy(self, kind):
        return self._policy if isinstance(self._policy, BatchPolicy) else self._policy[kind]

    async def connect(self):
        self.connects += 1
        self.gone = asyncio.Event()
        await self._play(self.on_connect)

    async def write(self, batches, span):
        told = (
            span.kind,
            span.first,
            span.last,
            [n for batch in batches for n in batch.column(batch.num_columns - 1).to_pylist()],
        )
        self.tried.append(told)
        await self._play(self.on_write)
        self.taken.append(told)

    async def _play(self, script):
        if script:
            step = script.pop(0)
            if isinstance(step, Exception):
                raise step
            if step is not None:
                await step()

    def commands(self):
        raise NotImplementedError

    async def lost(self):
        await self.gone.wait()

    async def aclose(self):
        self.closed += 1

    def rows(self, kind="telemetry"):
        return [n for k, _, _, numbers in self.taken if k == kind for n in numbers]


class Rig:
    """Deliveries on one spool, with what they reported."""

    def __init__(self, spool, tmp_path, clock, *, tags=TAGS):
        self.spool, self.clock, self.tags = spool, clock, tags
        self.dead_letters = tmp_path / "dead-letters"
        self.reports: list[tuple[str, str, str]] = []

    async def delivery(self, sink, *, name="lake", kinds=("telemetry",), rules=None, **options):
        async def report(event, severity, message):
            self.reports.append((event, severity, message))

        for kind in kinds:
            await self.spool.ledger.register(kind, name)
        rules = rules if rules is not None else [Rule(kind, [name]) for kind in kinds]
        made = Delivery(
            name, sink, kinds, spool=self.spool, router=Router(rules, {name: "parquet"}, self.tags), clock=self.clock,
            rng=random.Random(1), dead_letters=self.dead_letters, report=report, log=structlog.get_logger(),
            **options,
        )  # fmt: skip
        made._backoff._first_s = made._backoff._max_s = 0.01
        return made

    async def put(self, count, *, kind="telemetry", tag=0):
        batch = rows([tag] * count, list(range(count))) if kind == "telemetry" else make_batch(kind, count, time=0)
        first = await self.spool.put(kind, batch)
        await self.spool.flush()
        return first

    def events(self):
        return [event for event, _, _ in self.reports]

    def account(self, name="lake", kind="telemetry"):
        """The account, with the identity asserted."""
        found = self.spool.account(kind, name)
        assert found.read == found.filtered + found.delivered + found.spooled + found.dropped + found.dead_lettered
        return found


class Rule:
    def __init__(self, data, to, tags=()):
        self.data, self.to, self.tags = data, to, tags


@pytest.fixture
async def rig(open_spool, tmp_path, manual_clock):
    return Rig(await open_spool(), tmp_path, manual_clock)


@asynccontextmanager
async def running(*deliveries):
    tasks = [asyncio.create_task(one.run()) for one in deliveries]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks)


async def finished(delivery, timeout_s=5):
    """Run until everything there is has been delivered."""
    delivery.finish()
    await asyncio.wait_for(delivery.run(), timeout_s)


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


# Errors and retries


@pytest.mark.parametrize("error", [NotConnected("reset"), ConfigError("access denied")])
async def test_a_cut_that_was_begun_is_repeated_with_the_same_rows_although_more_have_come(rig, error):
    sink = ScriptedSink(policy=BatchPolicy(max_rows=100), on_write=[error])
    delivery = await rig.delivery(sink)
    await rig.put(4)

    async def more():
        await rig.put(5)

    sink.on_connect = [None, more]
    await finished(delivery)
    assert sink.tried[0] == sink.tried[1] == ("telemetry", 0, 3, [0, 1, 2, 3])
    assert sink.rows() == list(range(9))
    assert sink.connects == 2
    assert rig.account().delivered == 9


async def test_a_cut_survives_a_crash_between_the_write_and_its_acknowledgement(open_spool, rig):
    sink = ScriptedSink(policy=BatchPolicy(max_rows=3))
    delivery = await rig.delivery(sink)
    written = asyncio.Event()

    async def hang():
        written.set()  # the service has the rows
        await asyncio.Event().wait()

    sink.on_write = [None, hang]
    await rig.put(5)
    async with running(delivery):
        delivery.finish()
        await asyncio.wait_for(written.wait(), 2)
        await rig.put(4)
        crash(rig.spool)
    again = Rig(await open_spool(), rig.dead_letters.parent, rig.clock)
    larger = ScriptedSink(policy=BatchPolicy(max_rows=100))
    delivery = await again.delivery(larger)
    again.account()
    await finished(delivery)
    spans = [(first, last, numbers) for _, first, last, numbers in larger.taken]
    assert (3, 4, [3, 4]) in spans  # cut by the policy of the run before
    assert larger.rows()[-6:] == [3, 4, 5, 6, 7, 8]
    assert again.account().delivered == 9
    assert again.account().spooled == 0


async def test_the_cut_is_durable_before_the_write(rig, open_spool):
    seen = []
    sink = ScriptedSink()
    delivery = await rig.delivery(sink)

    async def look():
        seen.append(rig.spool.ledger._settled.cursors["telemetry", "lake"].cut.last)

    sink.on_write = [look]
    await rig.put(4)
    await finished(delivery)
    assert seen == [3]


async def test_a_service_that_is_away_is_one_event_each_way_however_often_it_is_tried(rig):
    sink = ScriptedSink(on_connect=[None, *[NotConnected("refused")] * 6])
    delivery = await rig.delivery(sink)
    async with running(delivery):
        await until(lambda: delivery.state == "up")
        sink.gone.set()
        await until(lambda: sink.connects >= 4)
        assert delivery.state == "down"
        assert delivery.error == "refused"
        await rig.put(3)
        await until(lambda: sink.rows() == [0, 1, 2])
        rig.account()
    assert rig.events() == ["sink_down", "sink_up"]


async def test_a_service_that_is_there_at_the_start_is_no_event(rig):
    delivery = await rig.delivery(ScriptedSink())
    await finished(delivery)
    assert rig.reports == []


async def test_what_a_person_must_edit_is_named_and_tried_again(rig):
    sink = ScriptedSink(on_connect=[ConfigError("wrong password"), ConfigError("wrong password")])
    delivery = await rig.delivery(sink)
    await rig.put(2)
    async with running(delivery):
        await until(lambda: sink.rows() == [0, 1])
    assert rig.reports[0] == ("sink_misconfigured", "warning", "wrong password")
    assert rig.events() == ["sink_misconfigured", "sink_up"]


async def test_an_idle_sink_whose_connection_is_lost_is_connected_again(rig):
    sink = ScriptedSink(policy=BatchPolicy(max_age_s=3600))
    delivery = await rig.delivery(sink)
    async with running(delivery):
        await until(lambda: delivery.state == "up")
        sink.gone.set()
        await until(lambda: sink.connects == 2 and delivery.state == "up")
    assert rig.events() == ["sink_down", "sink_up"]


async def test_a_busy_service_gets_the_same_rows_after_the_time_it_asked_for(rig):
    sink = ScriptedSink(on_write=[Busy(0.1), Busy(0.0)])
    delivery = await rig.delivery(sink)
    await rig.put(2)
    began = asyncio.get_running_loop().time()
    await finished(delivery)
    assert asyncio.get_running_loop().time() - began >= 0.1
    assert len(sink.tried) == 3
    assert sink.rows() == [0, 1]
    assert sink.connects == 1
    assert rig.reports == []


async def test_a_service_that_is_too_busy_to_connect_is_tried_again_and_no_bug(rig):
    sink = ScriptedSink(on_connect=[Busy(0.02, "come back later")])
    delivery = await rig.delivery(sink)
    await rig.put(1)
    await finished(delivery)
    assert sink.rows() == [0]


async def test_a_bug_in_a_sink_reaches_the_supervisor_and_the_cut_waits(rig):
    sink = ScriptedSink(on_write=[ZeroDivisionError()])
    delivery = await rig.delivery(sink)
    await rig.put(3)
    with pytest.raises(ZeroDivisionError):
        await finished(delivery)
    assert sink.closed == 1
    assert rig.account().spooled == 3
    await finished(delivery)  # as the supervisor restarts it
    assert sink.tried[0] == sink.tried[1]
    assert rig.account().delivered == 3


async def test_a_spool_that_has_ended_is_an_error_not_a_busy_loop(rig):
    delivery = await rig.delivery(ScriptedSink())
    task = asyncio.create_task(delivery.run())
    await until(lambda: delivery.state == "up")
    await rig.spool.close()
    with pytest.raises(RuntimeError, match="closed"):
        await asyncio.wait_for(task, 2)


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


# The circuit breaker


async def test_the_circuit_opens_lets_one_probe_through_and_closes_when_that_worked(rig):
    circuits = []

    async def look():
        circuits.append((delivery.circuit, delivery.state))

    async def fail():
        await look()
        raise NotConnected("reset")

    sink = ScriptedSink(
        policy=BatchPolicy(max_rows=10), on_connect=[None, look, look, look], on_write=[fail, fail, fail, look, look]
    )
    delivery = await rig.delivery(sink)
    await rig.put(40)
    pause = delivery._pause

    async def paused(seconds):
        await look()
        await pause(seconds)

    delivery._pause = paused
    await finished(delivery)
    once = [("open", "down"), ("half_open", "down"), ("half_open", "down")]  # the pause, the connection, the write
    assert circuits == [("closed", "up"), *once, *once, *once, ("closed", "up")]
    assert sink.tried[:4] == [("telemetry", 0, 9, list(range(10)))] * 4, "one probe, and nothing beside it"
    assert sink.rows() == list(range(40))
    assert rig.events() == ["sink_down", "sink_up"], "not an event for each try of a service that connects and takes nothing"


async def test_the_circuit_closes_with_the_connection_where_no_write_had_failed(rig):
    sink = ScriptedSink(on_connect=[NotConnected("refused"), None], policy=BatchPolicy(max_age_s=3600))
    delivery = await rig.delivery(sink)
    async with running(delivery):
        await until(lambda: sink.connects == 2 and delivery.circuit == "closed")
        assert delivery.state == "up"


@pytest.mark.parametrize("way_out", ["drop", "busy"])
async def test_a_probe_that_is_given_up_or_answered_with_busy_closes_the_circuit(rig, way_out):
    sink = ScriptedSink(on_write=[NotConnected("reset")] if way_out == "drop" else [NotConnected("reset"), Busy(60)])
    delivery = await rig.delivery(sink)
    await rig.put(5)
    if way_out == "drop":

        async def dropped():
            await deeds.drop(rig.spool, "telemetry", "lake")

        sink.on_connect = [None, dropped]
    async with running(delivery):
        await until(lambda: rig.events() == ["sink_down", "sink_up"])
        assert (delivery.circuit, delivery.state) == ("closed", "up")


async def test_the_probe_is_an_alert_where_one_waits(rig):
    sink = ScriptedSink(policy=BatchPolicy(max_rows=10), on_write=[NotConnected("reset")])
    delivery = await rig.delivery(sink, kinds=("telemetry", "alert"))
    await rig.put(20)

    async def alert():
        await rig.put(1, kind="alert")

    sink.on_connect = [None, alert]
    await finished(delivery)
    assert [kind for kind, *_ in sink.tried] == ["telemetry", "alert", "telemetry", "telemetry"]


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


# Loss


async def test_rows_refused_for_good_are_dead_letters_and_the_others_are_delivered(rig):
    sink = ScriptedSink(on_write=[Rejected("value out of range", [1, 3])])
    delivery = await rig.delivery(sink)
    await rig.put(5)
    await finished(delivery)
    await rig.put(2)
    await finished(delivery)
    account = rig.account()
    assert (account.delivered, account.dead_lettered) == (5, 2)
    (event,) = rig.reports
    assert event == ("dead_lettered", "warning", "2 telemetry rows rejected by lake: value out of range")
    (file,) = rig.dead_letters.glob("lake/*.arrow")
    with pa.OSFile(str(file)) as source, pa.ipc.open_file(source) as reader:
        found = reader.read_all()
    assert found.column("seq").to_pylist() == [1, 3]
    assert found.column("value").to_pylist() == [1.0, 3.0]
    assert found.schema.metadata[b"genba.kind"] == b"telemetry"
    reason = json.loads(file.with_suffix(".json").read_text())
    assert reason == {
        "sink": "lake",
        "kind": "telemetry",
        "first": 0,
        "last": 4,
        "rows": 2,
        "reason": "value out of range",
        "whole": False,
    }
    assert sorted(path.suffix for path in (rig.dead_letters / "lake").iterdir()) == [".arrow", ".json"]


async def test_a_write_refused_as_a_whole_is_dead_letters_without_the_rows_that_were_filtered(rig):
    sink = ScriptedSink(on_write=[Rejected("too large")])
    delivery = await rig.delivery(sink, rules=[Rule("telemetry", ["lake"], ["**/t1"])])
    await rig.spool.put("telemetry", rows([0, 1, 0, 1], [1.0, 2.0, 3.0, 4.0]))
    await rig.spool.flush()
    await finished(delivery)
    account = rig.account()
    assert (account.delivered, account.dead_lettered, account.filtered) == (0, 2, 2)


async def test_rejected_rows_that_cannot_be_stored_are_neither_lost_nor_a_bug(rig):
    sink = ScriptedSink(on_write=[Rejected("too large")] * 10_000)
    delivery = await rig.delivery(sink)
    rig.dead_letters.write_text("a file where the directory should be")
    await rig.put(2)
    async with running(delivery):
        await until(lambda: delivery.state == "down")
        assert "rejected rows cannot be stored" in delivery.error
        assert rig.account().spooled == 2
        await asyncio.to_thread(rig.dead_letters.unlink)
        await until(lambda: rig.account().dead_lettered == 2)
    assert rig.account().spooled == 0


def test_burying_twice_leaves_one_grave(tmp_path):
    from schemas.kinds import with_seq

    batch, span = with_seq(rows([0, 1], [1.0, 2.0]), 7), SpoolSpan("gw", 1, "telemetry", 7, 8)
    for _ in range(2):
        assert bury(tmp_path / "lake", [batch], span, Rejected("no", [8])) == 1
    assert len(list((tmp_path / "lake").iterdir())) == 2
    assert bury(tmp_path / "none", [batch], span, Rejected("no", [99])) == 0


async def test_rows_that_were_damaged_on_disk_are_skipped_and_counted_as_dropped(open_spool, rig, tmp_path):
    await rig.delivery(ScriptedSink())
    for _ in range(3):
        await rig.put(10)
    await rig.spool.close()
    (segment,) = (tmp_path / "spool" / "telemetry").glob("*.seg")
    data = bytearray(segment.read_bytes())
    middle = len(bytes(data).rstrip(b"\0")) // 2
    for at in range(middle - 8, middle + 8):
        data[at] ^= 0xFF
    segment.write_bytes(data)
    again = Rig(await open_spool(), tmp_path, rig.clock)
    sink = ScriptedSink()
    delivery = await again.delivery(sink)
    again.account()
    await finished(delivery)
    account = again.account()
    assert account.spooled == 0
    assert account.dropped >= 10
    assert account.delivered + account.dropped == 30
    assert len(sink.rows()) == account.delivered
    assert sorted(set(sink.rows())) == sink.rows()


async def test_rows_given_up_for_room_are_dropped_and_delivery_goes_on_behind_them(open_spool, tmp_path, manual_clock):
    rig = Rig(await open_spool(max_bytes=3 << 20, segment_bytes=64 << 10, retention_grace_s=0.0), tmp_path, manual_clock)
    sink = ScriptedSink(on_connect=[NotConnected("away")] * 10_000)
    delivery = await rig.delivery(sink)
    rng = np.random.default_rng(1)
    async with running(delivery):
        for _ in range(60):
            await rig.spool.put("telemetry", rows([0] * 10_000, rng.normal(size=10_000).tolist()))
            await rig.spool.flush()
            rig.account()
        assert rig.account().dropped > 0
        sink.on_connect.clear()
        await until(lambda: rig.account().spooled == 0, 20)
    account = rig.account()
    assert account.read == 600_000
    assert account.delivered + account.dropped == 600_000
    assert sink.rows() == sorted(set(sink.rows()))
    assert len(sink.rows()) == account.delivered


async def test_a_cut_whose_first_rows_are_given_up_meanwhile_is_cut_again_and_no_bug(rig, monkeypatch):
    sink = ScriptedSink()
    delivery = await rig.delivery(sink)
    await rig.put(6)
    begin, ledger = rig.spool.ledger.begin_cut, rig.spool.ledger

    async def late(kind, name, first, last):
        if ledger.cursor(kind, name).acked == 0:
            ledger.give_up(kind, 0, 2)
        return await begin(kind, name, first, last)

    monkeypatch.setattr(ledger, "begin_cut", late)
    await finished(delivery)
    assert sink.rows() == [2, 3, 4, 5]
    assert (rig.account().dropped, rig.account().delivered) == (2, 4)


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
