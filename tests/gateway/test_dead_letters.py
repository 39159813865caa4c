"""Dead letters that a person wants delivered after all: once the cause is mended, over restarts, and accounted for."""

from __future__ import annotations

import asyncio

import pytest

from gateway.dead_letters import DIRECTORY, asked, graves, redeliver
from schemas.errors import Busy, ConfigError, NotConnected, Rejected
from tests.gateway.deliveries import Rig, ScriptedSink, finished, running
from tests.gateway.samples import until
from tests.gateway.test_resending import HoldingSink


@pytest.fixture
async def rig(open_spool, tmp_path, manual_clock):
    made = Rig(await open_spool(), tmp_path, manual_clock)
    made.dead_letters = made.spool.directory / DIRECTORY
    return made


async def refused(rig, sink, *, rows=None):
    """Five rows of which some, or all, are dead letters; the sink takes everything from now on."""
    sink.on_write = [Rejected("topic too long", rows or ())]
    delivery = await rig.delivery(sink)
    await rig.put(5)
    await finished(delivery)
    assert rig.account().dead_lettered == len(rows or range(5))
    sink.taken.clear()
    return await rig.delivery(sink)


async def buried(rig):
    return await asyncio.to_thread(graves, rig.dead_letters)


async def test_on_a_live_gateway_they_are_delivered_and_count_as_delivered(rig):
    sink = ScriptedSink()
    delivery = await refused(rig, sink, rows=[1, 3])
    async with running(delivery):
        await until(lambda: delivery.state == "up")
        await asyncio.sleep(0.02)
        assert sink.taken == []
        assert await redeliver(rig.spool, "lake") == {"sink": "lake", "files": 1, "rows": 2}
        await until(lambda: rig.account().dead_lettered == 0)
    assert sink.taken == [("telemetry", 0, 4, [1, 3])]
    assert (rig.account().delivered, rig.account().spooled) == (5, 0)
    assert await asyncio.to_thread(lambda: list((rig.dead_letters / "lake").iterdir())) == []


async def test_what_is_asked_of_a_dead_gateway_is_done_after_its_next_start(open_spool, rig, tmp_path, manual_clock):
    sink = ScriptedSink()
    await refused(rig, sink)
    await redeliver(rig.spool)
    await rig.spool.close()
    again = Rig(await open_spool(), tmp_path, manual_clock)
    again.dead_letters = rig.dead_letters
    async with running(await again.delivery(sink)):
        await until(lambda: again.account().delivered == 5)
    assert sink.rows() == list(range(5))


@pytest.mark.parametrize("error", [NotConnected("reset"), Busy(0.01)])
async def test_they_wait_for_a_service_that_is_away_or_busy_and_for_what_waits(rig, error):
    sink = ScriptedSink()
    delivery = await refused(rig, sink)
    await redeliver(rig.spool)
    await rig.put(3)
    sink.on_write = [None, error]
    async with running(delivery):
        await until(lambda: rig.account().delivered == 8)
    assert [(first, last) for _, first, last, _ in sink.taken] == [(5, 7), (0, 4)]


async def test_what_is_refused_again_is_a_dead_letter_again_and_only_that(rig):
    sink = ScriptedSink()
    delivery = await refused(rig, sink)
    await redeliver(rig.spool)
    sink.on_write = [Rejected("still too long", [2])]
    async with running(delivery):
        await until(lambda: rig.account().delivered == 4)
        await until(lambda: rig.account().dead_lettered == 1)
        [grave] = await buried(rig)
        about = await asyncio.to_thread(grave.about)
        assert (about["reason"], about["rows"], await asyncio.to_thread(grave.asked)) == ("still too long", 1, False)
        await redeliver(rig.spool)
        await until(lambda: rig.account().delivered == 5)
    assert await buried(rig) == []


async def test_a_crash_behind_the_write_leaves_no_row_twice_in_a_sink_that_holds_each_once(rig):
    sink = HoldingSink()
    await refused(rig, sink)
    await redeliver(rig.spool)

    async def die():
        sink.spans.append((0, 4))  # the service has them
        raise asyncio.CancelledError

    sink.on_write = [die]
    with pytest.raises(asyncio.CancelledError):
        await (await rig.delivery(sink)).run()
    assert len(await asyncio.to_thread(asked, rig.dead_letters, "lake")) == 1
    async with running(await rig.delivery(sink)):
        await until(lambda: rig.account().delivered == 5)
    assert sink.taken == []
    assert await buried(rig) == []


async def test_a_file_that_is_there_without_them_and_a_broken_one_stay_and_are_told(rig):
    sink = HoldingSink()
    delivery = await refused(rig, sink, rows=[2])
    sink.spans = [(0, 4)]  # with the rows that were not refused
    broken = rig.dead_letters / "lake" / "telemetry-1-00000000000007-00000000000009.arrow"
    await redeliver(rig.spool)
    broken.write_bytes(b"ARROW1 torn")
    broken.with_suffix(".again").touch()
    async with running(delivery):
        await until(lambda: rig.events().count("resend_failed") == 2)
    assert await asyncio.to_thread(asked, rig.dead_letters, "lake") == []
    assert len(await buried(rig)) == 2
    assert (rig.account().dead_lettered, rig.account().delivered, sink.taken) == (1, 4, [])


async def test_only_those_of_a_sink_and_a_time_are_delivered_and_others_are_named(rig):
    await refused(rig, ScriptedSink())
    with pytest.raises(ConfigError, match="no sink 'lak' is known"):
        await redeliver(rig.spool, "lak")
    [grave] = await buried(rig)
    refused_us = round((await asyncio.to_thread(grave.path.stat)).st_mtime * 1e6)
    for since, until_us in ((refused_us + 1, None), (None, refused_us)):
        with pytest.raises(ConfigError, match="no dead letters of these"):
            await redeliver(rig.spool, since_us=since, until_us=until_us)
    assert (await redeliver(rig.spool, since_us=refused_us, until_us=refused_us + 1))["rows"] == 5
