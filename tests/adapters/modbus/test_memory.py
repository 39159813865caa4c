"""Refused addresses over restarts: not searched for again, asked for once a day, forgotten when they are there."""

from __future__ import annotations

import time
from pathlib import Path

from adapters.modbus.adapter import ModbusAdapter
from schemas import quality as q
from tests.adapters.modbus.devices import Device, running
from tests.adapters.modbus.test_adapter import events, qualities, read, rig_of, words
from tests.conformance.adapter import Rig
from tests.conftest import ManualClock

DAY_S = 86_400
TAGS = words(*range(100))
LEFT_OUT = ("info", "tags that were refused before are left out until they are asked for again")


def at(clock: ManualClock, rig: Rig) -> Rig:
    """The rig with a wall clock that the test steps."""
    assert isinstance(rig.adapter, ModbusAdapter)
    rig.adapter._memory._clock = clock
    return rig


def asked_for(device: Device, register: int) -> bool:
    return any(request.start <= register < request.start + request.count for request in device.requests)


async def test_a_new_process_does_not_ask_for_what_was_refused(tmp_path: Path) -> None:
    async with running(Device(missing={(3, 40), (3, 77)})) as device:
        first, _ = await read(device, TAGS, tmp_path)
        assert [event for _, event in events(first)] == ["a tag cannot be read"] * 2
        device.requests.clear()
        rig, seen = await read(device, TAGS, tmp_path, polls=3)
        assert not asked_for(device, 40)
        assert not asked_for(device, 77)
        assert len(device.requests) == 9, "three blocks a poll and no search"
    found = qualities(seen)
    assert found["w40"] == found["w77"] == [q.BAD_NODE_ID_UNKNOWN] * 3
    assert found["w41"] == [q.GOOD] * 3
    assert events(rig) == [LEFT_OUT]


async def test_after_a_day_it_is_asked_for_again_and_forgotten_when_it_is_there(
    tmp_path: Path, manual_clock: ManualClock
) -> None:
    async with running(Device(missing={(3, 40)})) as device:
        await read(device, TAGS, tmp_path)
        manual_clock.us = time.time_ns() // 1000
        rig = at(manual_clock, rig_of(device, TAGS, tmp_path))
        await rig.adapter.connect()
        device.missing = ()
        manual_clock.step(DAY_S + 1)
        seen = await rig.read(lambda s: len(s.batches) == 2)
        await rig.adapter.aclose()
        assert qualities(seen)["w40"] == [q.GOOD] * 2
        assert events(rig) == [LEFT_OUT, ("info", "the tag can be read again")]
        third, _ = await read(device, TAGS, tmp_path)
        assert events(third) == []


async def test_what_is_still_missing_after_a_day_waits_another_one_without_a_word(
    tmp_path: Path, manual_clock: ManualClock
) -> None:
    async with running(Device(missing={(3, 40)})) as device:
        rig = at(manual_clock, rig_of(device, TAGS, tmp_path))
        await rig.adapter.connect()
        await rig.read(lambda s: len(s.batches) == 2)
        for _ in range(3):
            manual_clock.step(DAY_S + 1)
            await rig.adapter.connect()
            await rig.read(lambda s: len(s.batches) == 2)
        await rig.adapter.aclose()
        assert events(rig) == [("warning", "a tag cannot be read")]


async def test_another_device_or_address_is_asked_for(tmp_path: Path) -> None:
    async with running(Device(missing={(3, 40)})) as device:
        await read(device, TAGS, tmp_path)
    async with running(Device()) as other:
        rig, seen = await read(other, TAGS, tmp_path)
    assert set(qualities(seen)["w40"]) == {q.GOOD}
    assert events(rig) == []


async def test_a_time_that_a_wrong_clock_wrote_is_not_waited_for(tmp_path: Path, manual_clock: ManualClock) -> None:
    async with running(Device(missing={(3, 40)})) as device:
        rig = at(manual_clock, rig_of(device, TAGS, tmp_path))
        manual_clock.us = time.time_ns() // 1000 + 400 * DAY_S * 1_000_000
        await rig.adapter.connect()
        await rig.read(lambda s: len(s.batches) == 1)
        await rig.adapter.aclose()
        device.missing = ()
        again, seen = await read(device, TAGS, tmp_path)
    assert set(qualities(seen)["w40"]) == {q.GOOD}
    assert events(again) == []
