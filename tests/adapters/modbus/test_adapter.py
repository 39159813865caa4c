"""What the adapter does about refused, silent and lost devices: each costs its own tags, for as long as it lasts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from adapters.modbus import PLUGIN, ModbusConfig, adapter
from schemas import quality as q
from schemas.errors import NotConnected
from tests.adapters.modbus.devices import Device, Request, frame, pdu, refuse, running
from tests.conformance.adapter import AdapterConformance, Rig, Seen

Tags = Mapping[str, Mapping[str, Any]]


class Bench(AdapterConformance):
    """The building blocks of the conformance suite, for devices of these tests."""

    __test__ = False
    plugin = PLUGIN
    kind = "modbus"


def words(*addresses: int, **more: Any) -> dict[str, dict[str, Any]]:
    """A uint16 tag for each address, called after it."""
    return {f"w{address}": {"address": f"hr:{address}", "type": "uint16", **more} for address in addresses}


def rig_of(device: Device, tags: Tags, directory: Path, **more: Any) -> Rig:
    return Bench().rig(Bench().configure(device.endpoint, tags, **more), directory)


async def read(device: Device, tags: Tags, directory: Path, *, polls: int = 3, **more: Any) -> tuple[Rig, Seen]:
    """Connect, take so many batches, close."""
    rig = rig_of(device, tags, directory, **more)
    await rig.adapter.connect()
    seen = await rig.read(lambda s: len(s.batches) == polls)
    await rig.adapter.aclose()
    return rig, seen


def qualities(seen: Seen) -> dict[str, list[int]]:
    return {name: [row["quality"] for row in rows] for name, rows in seen.rows.items()}


def events(rig: Rig) -> list[tuple[str, str]]:
    return [(entry["log_level"], entry["event"]) for entry in rig.log]


def start_and_count(requests: list[Request]) -> list[tuple[int, int]]:
    return [(request.start, request.count) for request in requests]


# Refusals


async def test_a_missing_register_costs_its_own_tag_and_no_row_of_its_neighbours(tmp_path: Path) -> None:
    async with running(Device(missing={(3, 37)})) as device:
        rig, seen = await read(device, words(*range(100)), tmp_path, polls=4)
    got = qualities(seen)
    assert got.pop("w37") == [q.BAD_NODE_ID_UNKNOWN] * 4
    assert set(map(tuple, got.values())) == {(q.GOOD,) * 4}
    assert [row["value"] for row in seen.rows["w99"]] == [99.0] * 4
    asked = start_and_count(device.requests)
    search = asked.index((38, 62))
    assert search <= 1 + 2 * 7 + 1, "halving takes two requests a level"
    assert set(asked[search:]) == {(0, 37), (38, 62)}, "the block is read as two from then on"
    (entry,) = rig.log
    assert (entry["tag"], entry["address"], entry["adapter"]) == ("acme/osaka/device/w37", "hr:37", "device")
    assert "illegal data address" in entry["error"]


async def test_several_missing_registers_cost_their_own_tags(tmp_path: Path) -> None:
    missing = {3, 4, 50, 99, 130}
    async with running(Device(missing={(3, n) for n in missing})) as device:
        rig, seen = await read(device, words(*range(200)), tmp_path)
    bad = {name for name, codes in qualities(seen).items() if set(codes) != {q.GOOD}}
    assert bad == {f"w{n}" for n in missing}
    assert len(rig.log) == len(missing)


async def test_a_device_without_any_of_the_tags_stays_connected(tmp_path: Path) -> None:
    async with running(Device(missing={(3, n) for n in range(100)})) as device:
        rig, seen = await read(device, words(*range(20)), tmp_path)
    assert {code for codes in qualities(seen).values() for code in codes} == {q.BAD_NODE_ID_UNKNOWN}
    assert len(rig.log) == 20


async def test_a_hole_between_tags_blames_no_tag(tmp_path: Path) -> None:
    async with running(Device(missing={(3, n) for n in range(15, 60)})) as device:
        rig, seen = await read(device, words(0, 5, 10, 60, 65, 100), tmp_path)
    assert {code for codes in qualities(seen).values() for code in codes} == {q.GOOD}
    assert set(start_and_count(device.requests)[-2:]) == {(0, 11), (60, 41)}
    assert events(rig) == [("info", "the device does not answer this block in one request")]


async def test_a_device_that_answers_fewer_registers_than_it_should_is_read_in_parts(tmp_path: Path) -> None:
    async with running(Device(longest=20)) as device:
        _, seen = await read(device, words(*range(250)), tmp_path, polls=3)
    assert {code for codes in qualities(seen).values() for code in codes} == {q.GOOD}
    assert max(request.count for request in device.requests[-10:]) <= 20


async def test_tags_that_overlap_are_told_apart(tmp_path: Path) -> None:
    tags = {
        "long": {"address": "hr:0", "type": "float64"},
        "first": {"address": "hr:0", "type": "uint32"},
        "middle": {"address": "hr:1", "type": "uint32"},
    }
    async with running(Device(missing={(3, 3)})) as device:
        _, seen = await read(device, tags, tmp_path)
    assert qualities(seen) == {
        "long": [q.BAD_NODE_ID_UNKNOWN] * 3,
        "first": [q.GOOD] * 3,
        "middle": [q.GOOD] * 3,
    }


async def test_what_was_learnt_is_forgotten_with_the_connection_and_said_once(tmp_path: Path) -> None:
    async with running(Device(missing={(3, 1)})) as device:
        rig = rig_of(device, words(0, 1, 2), tmp_path)
        for _ in range(3):
            await rig.adapter.connect()
            await rig.read(lambda s: s.bad("w1"))
        assert events(rig) == [("warning", "a tag cannot be read")]
        device.missing = ()
        await rig.adapter.connect()
        await rig.read(Seen.all_good)
        await rig.adapter.aclose()
    assert events(rig)[1:] == [("info", "the tag can be read again")]


async def test_another_exception_costs_the_block_as_long_as_it_lasts_and_two_log_lines(tmp_path: Path) -> None:
    busy = [False, True, True, False, False]

    def answer(request: Request) -> bytes:
        return refuse(request, 6) if request.start < 100 and busy.pop(0) else frame(request, pdu(request))

    async with running(Device(answer)) as device:
        rig, seen = await read(device, words(0, 1, 300), tmp_path, polls=5)
    good, bad = q.GOOD, q.BAD_COMMUNICATION_ERROR
    assert qualities(seen) == {"w0": [good, bad, bad, good, good], "w1": [good, bad, bad, good, good], "w300": [good] * 5}
    assert [entry["event"] for entry in rig.log] == ["a block cannot be read", "the block can be read again"]
    assert rig.log[0]["error"] == "device busy (exception 6)"
    assert rig.log[0]["block"] == "hr:0..1 of unit 1"


@pytest.mark.parametrize(
    ("code", "quality"),
    [(1, q.BAD_NOT_READABLE), (4, q.BAD_DEVICE_FAILURE), (11, q.BAD_NO_COMMUNICATION), (99, q.BAD_DEVICE_FAILURE)],
)
async def test_each_exception_has_its_quality(code: int, quality: int, tmp_path: Path) -> None:
    async with running(Device(lambda request: refuse(request, code))) as device:
        _, seen = await read(device, words(0), tmp_path, polls=2)
    assert qualities(seen) == {"w0": [quality] * 2}


async def test_an_answer_that_is_none_is_a_communication_error(tmp_path: Path) -> None:
    async with running(Device(lambda request: frame(request, pdu(request._replace(count=1))))) as device:
        rig, seen = await read(device, words(0, 1), tmp_path, polls=2)
    assert qualities(seen) == {"w0": [q.BAD_COMMUNICATION_ERROR] * 2, "w1": [q.BAD_COMMUNICATION_ERROR] * 2}
    assert rig.log[0]["error"] == "4 bytes were asked and 2 answered"


# Silence


async def test_a_block_that_is_not_answered_costs_its_own_tags(tmp_path: Path) -> None:
    device = Device(lambda request: None if request.start == 500 else frame(request, pdu(request)))
    async with running(device):
        rig, seen = await read(device, words(0, 500, 900), tmp_path, polls=5, timeout="100ms")
    assert qualities(seen) == {"w0": [q.GOOD] * 5, "w500": [q.BAD_TIMEOUT] * 5, "w900": [q.GOOD] * 5}
    assert events(rig) == [("warning", "a block cannot be read")]


async def test_a_device_that_takes_connections_and_answers_nothing_gives_no_rows(tmp_path: Path) -> None:
    async with running(Device(lambda _: None)) as device:
        rig = rig_of(device, words(0, 500), tmp_path, timeout="50ms")
        for _ in range(3):
            await rig.adapter.connect()
            seen = rig.seen()
            async with aclosing(rig.stream()) as stream:
                with pytest.raises(NotConnected, match="not answered"):
                    await seen.drain(stream, within_s=5)
            assert seen.batches == [], "otherwise each attempt would look like a device that came back"
        await rig.adapter.aclose()


async def test_a_silent_unit_costs_one_deadline_a_poll_and_the_others_nothing(tmp_path: Path) -> None:
    device = Device(lambda request: None if request.unit == 2 else frame(request, pdu(request)))
    devices = {"one": {"unit_id": 1, "tags": words(0)}, "two": {"unit_id": 2, "tags": words(0, 200, 400, 600)}}
    async with running(device):
        rig = rig_of(device, {}, tmp_path, devices=devices, timeout="100ms")
        await rig.adapter.connect()
        seen = await rig.read(lambda s: len(s.batches) == 8)
        await rig.adapter.aclose()
    by_id = {bound.tag.id: bound.device for bound in rig.bound}
    for _, batch in seen.batches:
        for tag, code in zip(batch.column("tag").to_pylist(), batch.column("quality").to_pylist(), strict=True):
            assert code == (q.GOOD if by_id[tag] == "one" else q.BAD_TIMEOUT)
    assert sum(request.unit == 2 for request in device.requests[-8:]) <= 4, "one request a poll, beside one to the other unit"


async def test_a_device_that_falls_silent_is_lost_after_three_deadlines(tmp_path: Path) -> None:
    device = Device()
    async with running(device):
        rig = rig_of(device, words(0, 200, 400), tmp_path, timeout="100ms")
        await rig.adapter.connect()
        async with aclosing(rig.stream()) as stream:
            first = await anext(stream)
            assert first.column("quality").to_pylist() == [q.GOOD] * 3
            device.answer = lambda request: None
            began = time.monotonic()
            seen = rig.seen()
            with pytest.raises(NotConnected, match="not answered") as raised:
                await seen.drain(stream, within_s=5)
    assert 0.2 < time.monotonic() - began < 5
    assert raised.value.quality == q.BAD_TIMEOUT
    assert {code for codes in qualities(seen).values() for code in codes} == {q.BAD_TIMEOUT}


# Loss


async def test_a_connection_lost_between_two_polls_is_noticed_at_once(tmp_path: Path) -> None:
    async with running(Device()) as device:
        rig = rig_of(device, words(0, scan="1h"), tmp_path)
        await rig.adapter.connect()
        async with aclosing(rig.stream()) as stream:
            await anext(stream)
            asyncio.get_running_loop().call_later(0.1, device.clients[0].close)
            began = time.monotonic()
            with pytest.raises(NotConnected, match="closed by the other side"):
                await anext(stream)
        assert time.monotonic() - began < 5
        with pytest.raises(NotConnected):
            await anext(rig.stream())


async def test_without_tags_a_lost_connection_still_shows(tmp_path: Path) -> None:
    async with running(Device()) as device:
        rig = rig_of(device, {}, tmp_path)
        await rig.adapter.connect()
        asyncio.get_running_loop().call_later(0.05, lambda: device.clients[0].close())
        with pytest.raises(NotConnected):
            await rig.seen().drain(rig.stream(), within_s=5)


async def test_connecting_again_drops_the_former_connection(tmp_path: Path) -> None:
    async with running(Device()) as device:
        rig = rig_of(device, words(0), tmp_path)
        for _ in range(3):
            await rig.adapter.connect()
        await rig.read()
        await asyncio.sleep(0.02)
        assert [client.is_closing() for client in device.clients[:2]] == [True, True]
        await rig.adapter.aclose()


# Polls


async def test_two_scan_classes_learn_from_each_other(tmp_path: Path) -> None:
    tags = words(0, 20, scan="100ms") | words(1, 21, scan="60ms")
    async with running(Device(missing={(3, n) for n in range(5, 15)})) as device:
        rig = rig_of(device, tags, tmp_path)
        await rig.adapter.connect()
        seen = await rig.read(lambda s: len(s.batches) >= 6 and s.all_good())
        await rig.adapter.aclose()
    assert {code for codes in qualities(seen).values() for code in codes} == {q.GOOD}


async def test_polls_that_take_longer_than_their_scan_class_are_said_once_and_when_they_no_longer_do(tmp_path: Path) -> None:
    async with running(Device(delay_s=0.25)) as device:
        rig = rig_of(device, words(0, scan="100ms"), tmp_path)
        await rig.adapter.connect()
        async with aclosing(rig.stream()) as stream:
            seen = rig.seen()
            for _ in range(8):
                seen.add(await anext(stream))
            device.delay_s = 0.0
            async with asyncio.timeout(20):
                while len(rig.log) < 2:
                    seen.add(await anext(stream))
    assert events(rig) == [
        ("warning", "polls take longer than their scan class"),
        ("info", "polls keep to their scan class again"),
    ]
    assert {code for codes in qualities(seen).values() for code in codes} == {q.GOOD}


async def test_a_poll_of_very_many_tags_is_several_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "MAX_ROWS", 4)
    async with running(Device()) as device:
        _, seen = await read(device, words(*range(10)), tmp_path, polls=6)
    assert [batch.num_rows for _, batch in seen.batches] == [4, 4, 2] * 2
    assert [row["value"] for row in seen.rows["w9"]] == [9.0, 9.0]


async def test_the_unit_of_each_device_is_asked(tmp_path: Path) -> None:
    device = Device(lambda request: frame(request, bytes((request.function, 2, 0, request.unit))))
    devices = {f"fan-{unit}": {"unit_id": unit, "tags": words(0)} for unit in (3, 7, 255)}
    async with running(device):
        rig = rig_of(device, {}, tmp_path, devices=devices)
        await rig.adapter.connect()
        seen = await rig.read(lambda s: len(s.batches) == 1)
        await rig.adapter.aclose()
    assert seen.batches[0][1].column("value").to_pylist() == [3.0, 7.0, 255.0]


def test_importing_the_folder_imports_no_library() -> None:
    import subprocess
    import sys

    code = "import sys, adapters.modbus; print([m for m in ('pymodbus', 'numpy', 'pyarrow', 'structlog') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_configuration_of_ten_thousand_tags_is_read_and_checked_in_a_second() -> None:
    tags = {f"t{n}": {"address": f"hr:{2 * n}", "type": "float32"} for n in range(10_000)}
    began = time.process_time()
    config = ModbusConfig.model_validate({"kind": "modbus", "endpoint": "tcp://h:502", "tags": tags})
    assert PLUGIN.check is not None
    assert list(PLUGIN.check(config)) == []
    assert time.process_time() - began < 1.5


async def test_an_open_port_alone_is_no_device(tmp_path: Path) -> None:
    """Its bad rows made the gateway say "connected" and "not connected" in turn, with a gap for each tag, for as long as it lasted."""
    async with running(Device(answer=lambda _: None)) as device:
        rig = rig_of(device, words(0, 1), tmp_path, timeout="50ms")
        await rig.adapter.connect()
        seen = rig.seen()
        async with aclosing(rig.stream()) as stream:
            with pytest.raises(NotConnected) as raised:
                await seen.drain(stream, within_s=5)
    assert not seen.batches
    assert raised.value.quality == q.BAD_TIMEOUT
