"""Absences over restarts: a gap row covers all of one, whatever ends and begins meanwhile."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import structlog

from gateway.absences import Absences
from gateway.collector import Collector
from schemas.errors import EndOfStream, NotConnected
from tests.gateway.samples import make_tag, rows
from tests.gateway.spool.conftest import FaultyStorage
from tests.gateway.test_collector import ScriptedAdapter


async def opened(directory: Path, *adapters: str, last_seen_us: int | None = None, durable_gaps: int = 0, **more) -> Absences:
    return await Absences.open(
        directory, adapters, last_seen_us=last_seen_us, durable_gaps=lambda: durable_gaps, log=structlog.get_logger(), **more
    )


def pending(absences: Absences, adapter: str) -> tuple[int, str] | None:
    found = absences.pending(adapter)
    return None if found is None else (found.since_us, found.cause)


async def test_nothing_is_pending_at_the_very_first_start(tmp_path):
    assert pending(await opened(tmp_path, "press"), "press") is None


async def test_a_restart_is_an_absence_of_every_device_until_it_is_told(tmp_path):
    absences = await opened(tmp_path, "press", "mixer", last_seen_us=100)
    assert pending(absences, "press") == pending(absences, "mixer") == (100, "gateway_stopped")
    await absences.of("press").told(7)
    assert pending(absences, "press") is None
    # The mixer has not been heard since, although the press was read until 200.
    again = await opened(tmp_path, "press", "mixer", last_seen_us=200, durable_gaps=8)
    assert pending(again, "press") == (200, "gateway_stopped")
    assert pending(again, "mixer") == (100, "gateway_stopped")


async def test_an_absence_whose_gap_row_was_never_durable_is_told_again(tmp_path):
    absences = await opened(tmp_path, "press", last_seen_us=None)
    await absences.of("press").begin(50, "not_connected")
    await absences.of("press").told(7)
    again = await opened(tmp_path, "press", last_seen_us=200, durable_gaps=7)
    assert pending(again, "press") == (50, "not_connected")


async def test_what_was_read_before_an_absence_and_went_with_the_power_is_part_of_it(tmp_path):
    """Found by tests/simulation (seed 1110): away at 50, and the rows from 40 on were never durable."""
    absences = await opened(tmp_path, "press", last_seen_us=None)
    await absences.of("press").begin(50, "not_connected")
    again = await opened(tmp_path, "press", last_seen_us=40)
    assert pending(again, "press") == (40, "not_connected")
    assert pending(await opened(tmp_path, "press", last_seen_us=45), "press") == (40, "not_connected")


@pytest.mark.parametrize(("durable_gaps", "since"), [(7, (50, "gateway_stopped")), (8, (90, "not_connected"))])
async def test_a_device_that_is_back_for_a_moment_does_not_end_an_absence_that_is_not_told_durably(tmp_path, durable_gaps, since):
    """Found by tests/chaos/day: up, away again and the gateway killed within one commit; the gap row of the first absence was never there."""
    absences = await opened(tmp_path, "press", last_seen_us=50, durable_gaps=durable_gaps)
    await absences.of("press").told(7)
    await absences.of("press").begin(90, "not_connected")
    again = await opened(tmp_path, "press", last_seen_us=100, durable_gaps=durable_gaps)
    assert pending(again, "press") == since


async def test_one_that_had_nothing_to_tell_and_one_of_a_device_that_is_no_more_leave_nothing(tmp_path):
    absences = await opened(tmp_path, "press", "mixer", last_seen_us=100)
    await absences.of("press").told(None)
    again = await opened(tmp_path, "press", last_seen_us=None)
    assert pending(again, "press") is None
    assert json.loads((tmp_path / "absences.json").read_text()) == {}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"press": 1}', '{"press": {"since_us": "x"}}'])
async def test_a_damaged_file_costs_what_it_held(tmp_path, text):
    (tmp_path / "absences.json").write_text(text)
    assert pending(await opened(tmp_path, "press", last_seen_us=100), "press") == (100, "gateway_stopped")


async def test_a_disk_that_takes_nothing_is_said_once_and_stops_nobody(tmp_path):
    disk = FaultyStorage()
    absences = await opened(tmp_path, "press", storage=disk)
    disk.fail("write")
    with structlog.testing.capture_logs() as logs:
        await absences.of("press").begin(50, "not_connected")
        await absences.of("press").told(None)
        await absences.of("press").begin(60, "not_connected")
    assert pending(absences, "press") == (60, "not_connected")
    assert [line["event"] for line in logs] == ["since when devices are away cannot be stored"]


async def live(directory: Path, clock, script, *, last_seen_us: int, durable_gaps: int) -> list[tuple[int, int, str]]:
    """One life of a gateway with one device; the gap rows that it put as (start, end, cause)."""
    put = []

    async def record(kind, batch):
        put.append((kind, batch))
        return durable_gaps + sum(found == "gap" for found, _ in put) - 1

    absences = await opened(directory, "press", last_seen_us=last_seen_us, durable_gaps=durable_gaps)
    collector = Collector(
        "press", ScriptedAdapter(script), [make_tag(0)], put=record, clock=clock, rng=random.Random(1),
        log=structlog.get_logger(), last_seen_us=last_seen_us, absence=absences.of("press"),
    )  # fmt: skip
    collector._backoff._first_s = collector._backoff._max_s = 0.001
    await collector.run()
    gaps = [batch.to_pylist()[0] for kind, batch in put if kind == "gap"]
    return [(round(gap["time"].timestamp() * 1e6), round(gap["end"].timestamp() * 1e6), gap["cause"]) for gap in gaps]


async def test_a_device_that_is_away_over_two_lives_of_the_gateway_leaves_one_gap_from_when_it_was_last_heard(
    tmp_path, manual_clock
):
    begun = manual_clock.now_us()
    first = [(NotConnected("off"), ()), (EndOfStream(), ())]
    assert await live(tmp_path, manual_clock, first, last_seen_us=begun - 9_000_000, durable_gaps=0) == []
    manual_clock.step(60)
    # Another device was read until just now, so that the last durable row is young.
    back = manual_clock.now_us()
    second = [(None, [rows([0], [1.0], time_us=back), EndOfStream()])]
    gaps = await live(tmp_path, manual_clock, second, last_seen_us=back - 1_000_000, durable_gaps=0)
    assert gaps == [(begun - 9_000_000, back, "gateway_stopped")]
