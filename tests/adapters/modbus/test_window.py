"""Several requests in flight: faster, never a wrong value, and back to one for devices that do not take it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from adapters.modbus.config import ModbusConfig
from schemas import quality as q
from schemas.errors import NotConnected
from tests.adapters.modbus.devices import Device, Request, frame, pdu, refuse, running
from tests.adapters.modbus.test_adapter import events, qualities, read, rig_of, words
from tests.conformance.adapter import Seen

MANY = words(*range(0, 4000, 125))  # 32 requests


class Parallel(Device):
    """Answers each request after `delay_s`, however many there are, and the newest of those that are due first."""

    most = 0
    _open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.clients.append(writer)
        loop = asyncio.get_running_loop()
        waiting: list[bytes] = []

        def send() -> None:
            answers = waiting[::-1]
            waiting.clear()
            self._open -= len(answers)
            if not writer.is_closing():
                writer.write(b"".join(answers))

        while len(data := await reader.read(12)) == 12:
            request = Request(
                int.from_bytes(data[:2], "big"),
                data[6],
                data[7],
                int.from_bytes(data[8:10], "big"),
                int.from_bytes(data[10:], "big"),
            )
            self.requests.append(request)
            self._open += 1
            self.most = max(self.most, self._open)
            waiting.append(self.reply(request) or b"")
            loop.call_later(self.delay_s, send)
        writer.close()


def right(seen: Seen) -> bool:
    """Every value that came is the register's own address."""
    return all(row["value"] in (None, int(name[1:])) for name, rows in seen.rows.items() for row in rows)


async def test_as_many_as_the_window_are_in_flight_and_answers_find_their_request_in_any_order(tmp_path: Path) -> None:
    async with running(Parallel(delay_s=0.03)) as device:
        began = time.monotonic()
        rig, seen = await read(device, MANY, tmp_path, polls=3, window=8, timeout="2s")
        took_s = time.monotonic() - began
    assert isinstance(device, Parallel)
    assert device.most == 8
    assert right(seen)
    assert seen.all_good()
    assert rig.log == []
    assert took_s < 3 * len(MANY) * device.delay_s, "one at a time would take longer"


async def test_one_is_the_default(tmp_path: Path) -> None:
    async with running(Parallel(delay_s=0.001)) as device:
        _, seen = await read(device, MANY, tmp_path, polls=1)
    assert isinstance(device, Parallel)
    assert (device.most, seen.all_good()) == (1, True)


async def test_a_device_that_mixes_answers_up_is_read_one_at_a_time_and_no_value_is_wrong(tmp_path: Path) -> None:

    class Mixing(Parallel):
        def reply(self, request: Request) -> bytes:
            other = request._replace(count=request.count + 1) if self._open > 1 else request
            return frame(request, pdu(other))

    async with running(Mixing(delay_s=0.002)) as device:
        rig, seen = await read(device, MANY, tmp_path, polls=3, window=4)
    assert right(seen)
    assert {code for codes in qualities(seen).values() for code in codes} == {q.GOOD}
    assert events(rig) == [("warning", "the device does not take several requests at once; one at a time from now on")]


async def test_a_device_that_answers_only_the_first_of_several_is_read_one_at_a_time(tmp_path: Path) -> None:
    class Single(Parallel):
        def reply(self, request: Request) -> bytes | None:
            return frame(request, pdu(request)) if self._open == 1 else None

    async with running(Single(delay_s=0.002)) as device:
        rig, seen = await read(device, MANY, tmp_path, polls=3, window=4, timeout="150ms")
    assert right(seen)
    assert {code for codes in qualities(seen).values() for code in codes} == {q.GOOD}
    assert events(rig) == [("warning", "the device does not take several requests at once; one at a time from now on")]


async def test_a_device_that_hangs_up_on_several_is_read_one_at_a_time_after_that(tmp_path: Path) -> None:
    class Hanging(Parallel):
        def reply(self, request: Request) -> bytes:
            if self._open > 1:
                self.clients[-1].close()
            return frame(request, pdu(request))

    async with running(Hanging(delay_s=0.002)) as device:
        rig = rig_of(device, MANY, tmp_path, window=4)
        await rig.adapter.connect()
        with pytest.raises(NotConnected):
            await rig.read()
        await asyncio.sleep(0.05)  # what is still to be answered on the old connection counts as open
        await rig.adapter.connect()
        assert (await rig.read()).all_good()
        await rig.adapter.aclose()


async def test_missing_registers_are_found_as_without_a_window(tmp_path: Path) -> None:
    async with running(Device(lambda request: frame(request, pdu(request)), missing={(3, 250)})) as device:
        rig, seen = await read(device, MANY, tmp_path, polls=2, window=8)
    assert {name for name, codes in qualities(seen).items() if set(codes) != {q.GOOD}} == {"w250"}
    assert events(rig) == [("warning", "a tag cannot be read")]


async def test_a_busy_device_is_asked_alone(tmp_path: Path) -> None:
    class Busy(Parallel):
        def reply(self, request: Request) -> bytes:
            return refuse(request, 6) if self._open > 1 else frame(request, pdu(request))

    async with running(Busy(delay_s=0.001)) as device:
        rig, seen = await read(device, MANY, tmp_path, polls=4, window=4)
    assert {code for codes in qualities(seen).values() for code in codes} == {q.GOOD}
    assert len(rig.log) == 1


async def test_a_frozen_device_costs_a_few_deadlines_and_not_one_for_each_block(tmp_path: Path) -> None:
    async with running(Device(lambda _: None)) as device:
        rig = rig_of(device, MANY, tmp_path, window=4, timeout="100ms")
        await rig.adapter.connect()
        began = time.monotonic()
        with pytest.raises(NotConnected, match="not answered"):
            await rig.read(within_s=10)
        assert time.monotonic() - began < 2
        await rig.adapter.aclose()


def test_a_serial_line_has_no_window() -> None:
    with pytest.raises(ValidationError, match="one request at a time"):
        ModbusConfig.model_validate({"kind": "modbus", "endpoint": "rtu:/dev/x", "window": 2})


async def test_a_silent_unit_does_not_slow_the_others_down(tmp_path: Path) -> None:
    class OneSilent(Parallel):
        def reply(self, request: Request) -> bytes | None:
            return None if request.unit == 2 else frame(request, pdu(request))

    devices = {
        "here": {"unit_id": 1, "tags": MANY},
        "away": {"unit_id": 2, "tags": {"w7": {"address": "hr:7", "type": "uint16"}}},
    }
    async with running(OneSilent(delay_s=0.002)) as device:
        rig, seen = await read(device, {}, tmp_path, polls=5, window=4, timeout="100ms", devices=devices)
        assert device.requests[-1].unit == 2
        assert isinstance(device, OneSilent)
        assert device.most == 4
    assert qualities(seen)["w7"] == [q.BAD_TIMEOUT] * 5
    assert qualities(seen)["w125"] == [q.GOOD] * 5
    assert events(rig) == [("warning", "a block cannot be read")]
