"""From a real spool to a sink that fails: retries, the circuit breaker, dead letters, and no row unaccounted for."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pyarrow as pa
import pytest

from cloud_sinks.base import BatchPolicy
from gateway.dead_letters import bury
from gateway.spool import deeds
from schemas.errors import Busy, ConfigError, NotConnected, Rejected
from schemas.span import SpoolSpan
from tests.gateway.deliveries import Rig, Rule, ScriptedSink, finished, running
from tests.gateway.samples import rows, until
from tests.gateway.spool.conftest import crash

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
