"""The probe finds what is there, says what is not, asks gently and never writes."""

from __future__ import annotations

import asyncio
import struct
import time
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from adapters.base import SimulatorContext
from adapters.modbus import PLUGIN, ModbusConfig, ModbusProbe
from adapters.modbus.survey import Survey
from adapters.simulation import Scenario, SignalConfig, Signals
from schemas.errors import NotConnected
from schemas.plugin import Check, Place, Point, Settings
from tests.adapters.modbus.lines import Line, on_pty, rtu
from tests.adapters.modbus.mapped import IDENTITY, Mapped, put, serving, words
from tests.conformance.adapter import bind


class Found:
    """What a walk yielded."""

    def __init__(self) -> None:
        self.checks: dict[str, Check] = {}
        self.points: dict[str, Point] = {}
        self.settings: dict[str, Any] = {}


async def probe(endpoint: str, **options: Any) -> Found:
    assert PLUGIN.probe is not None
    given = PLUGIN.probe.options.model_validate({"endpoint": endpoint, "timeout": "300ms", "pause": "0s", **options})
    found = Found()
    async with asyncio.timeout(20), aclosing(PLUGIN.probe.walk(given)) as walk:
        async for one in walk:
            if isinstance(one, Check):
                found.checks[one.name] = one
            elif isinstance(one, Point):
                found.points[one.name] = one
            else:
                assert isinstance(one, Settings)
                found.settings |= one.options
    return found


def plant() -> Mapped:
    """Floats with the low word first, a text, a counter, a gap, and some coils."""
    registers = words(range(60), range(90, 180), range(1000, 1010))
    for n, value in enumerate((21.5, 3.75, -40.0, 1200.25, 99.9)):
        data = struct.pack(">f", value)
        put(registers, 100 + 2 * n, data[2:] + data[:2])
    put(registers, 120, b"GENBA-01")
    registers[30] = 1234
    return Mapped(
        {3: registers, 4: words(range(8), value=lambda a: a), 1: {n: int(n in (3, 17)) for n in range(32)}},
        longest={1: 2000, 2: 2000, 3: 40, 4: 40},
        identity=IDENTITY,
    )


async def test_a_device_is_learnt_and_told() -> None:
    async with serving(plant()) as device:
        found = await probe(device.endpoint)
    assert found.settings == {"unit_id": 1, "order": "CDAB", "max_registers": 40, "skip": ["hr:60-89"]}
    assert found.checks["identity"].found.startswith("vendor 'Acme', product code 'X-100', revision 'V2.1', product name 'Dryer'")
    assert "readable hr:0-59, hr:90-179, hr:1000-1009; refused hr:60-89, hr:180-999" in found.checks["hr"].found
    assert "readable ir:0-7" in found.checks["ir"].found
    assert "readable co:0-31" in found.checks["co"].found
    assert found.checks["di"].found.startswith("no discrete inputs")
    assert {name: (point.options["type"], point.value) for name, point in found.points.items() if name.startswith("hr")} == {
        "hr_30": ("uint16", "1234"),
        "hr_100": ("float32", "21.5"),
        "hr_102": ("float32", "3.75"),
        "hr_104": ("float32", "-40"),
        "hr_106": ("float32", "1200.25"),
        "hr_108": ("float32", "99.9"),
        "hr_120": ("string[8]", "GENBA-01"),
    }
    assert found.points["hr_100"].options["address"] == "hr:100"
    assert {"co_3", "co_17"} <= found.points.keys()
    assert device.functions <= {1, 2, 3, 4, 43}, "nothing is written"
    assert all(check.result != "failure" for check in found.checks.values())


async def test_settings_and_points_make_a_configuration_that_the_planner_takes() -> None:
    async with serving(plant()) as device:
        found = await probe(device.endpoint)
    entry = {"kind": "modbus", "endpoint": device.endpoint, **found.settings}
    config = ModbusConfig.model_validate(entry | {"tags": {name: dict(point.options) for name, point in found.points.items()}})
    assert PLUGIN.check is not None
    assert [finding for finding in PLUGIN.check(config) if finding.level == "error"] == []


async def test_all_orders_and_types_are_shown_side_by_side() -> None:
    async with serving(plant()) as device:
        found = await probe(device.endpoint, at=["hr:100", "hr:120", "hr:70"], range=["hr:0-199"])
    assert found.checks["hr:100 32 bit CDAB"].found.startswith(
        "float32 21.5 | uint32 1101791232 | int32 1101791232 | hex 41ac0000"
    )
    assert {f"hr:100 32 bit {order}" for order in ("ABCD", "CDAB", "BADC", "DCBA")} <= found.checks.keys()
    assert {f"hr:100 64 bit {order}" for order in ("ABCD", "CDAB", "BADC", "DCBA")} <= found.checks.keys()
    assert found.checks["hr:120 text"].found.startswith("GENBA-01")
    assert found.checks["hr:70"].result == "warning"


@pytest.mark.parametrize("order", ["ABCD", "CDAB", "BADC", "DCBA"])
async def test_the_order_is_guessed_from_plausible_numbers(order: str) -> None:
    registers = words(range(40))
    for n, value in enumerate((21.53, 0.253, -12.75, 1450.6, 98.6, 3.3)):
        a, b, c, d = struct.pack(">f", value)
        data = {"ABCD": (a, b, c, d), "CDAB": (c, d, a, b), "BADC": (b, a, d, c), "DCBA": (d, c, b, a)}[order]
        put(registers, 2 * n, bytes(data))
    async with serving(Mapped({3: registers})) as device:
        found = await probe(device.endpoint, range=["hr:0-99"])
    assert found.settings.get("order", "ABCD") == order
    assert found.checks["order"].result == "ok"
    assert found.points["hr_6"].value == "1450.6"
    assert found.points["hr_6"].note.startswith("was 1450.6"), "behind the tag in the file, to be compared with a display"


async def test_round_numbers_leave_a_doubt_that_is_told() -> None:
    registers = words(range(40))
    for n, value in enumerate((21.5, 2.0, -12.75)):
        data = struct.pack(">f", value)
        put(registers, 2 * n, data[2:] + data[:2])
    async with serving(Mapped({3: registers})) as device:
        found = await probe(device.endpoint, range=["hr:0-39"])
    assert found.settings["order"] == "CDAB"
    assert (found.checks["order"].result, found.checks["order"].way_out) == (
        "warning",
        "compare one value that you know: --at hr:100",
    )
    assert "ABCD is as probable" in found.checks["order"].found


async def test_integers_alone_give_no_order_and_say_so() -> None:
    async with serving(Mapped({3: words(range(50), value=lambda a: a * 3)})) as device:
        found = await probe(device.endpoint, range=["hr:0-99"])
    assert "order" not in found.settings
    assert "no register pair" in found.checks["order"].found


async def test_a_whole_table_takes_few_requests() -> None:
    device = Mapped({3: words(range(300), range(4000, 4100), range(40_000, 40_030), range(65_530, 65_536))})
    async with serving(device):
        found = await probe(device.endpoint, range=["hr:0-65535"], step=100, requests=2000)
    assert len(device.asked) < 1000
    assert "readable hr:0-299, hr:4000-4099, hr:40000-40029; refused" in found.checks["hr"].found
    assert "step" in found.checks["hr"].way_out


async def test_requests_are_bounded_and_what_was_found_stands() -> None:
    async with serving(Mapped({3: words(range(50), range(5000, 5050), value=lambda _: 7)})) as device:
        found = await probe(device.endpoint, requests=60)
        assert len(device.asked) + 1 <= 60 + 4
    assert found.checks["hr"].result == "failure", "not all was looked at"
    assert "--range hr:" in found.checks["hr"].way_out
    assert "hr_0" in found.points
    assert "ir" not in found.checks


async def test_there_is_a_rest_between_two_requests() -> None:
    async with serving(Mapped({3: words(range(50))})) as device:
        began = time.monotonic()
        await probe(device.endpoint, range=["hr:0-49"], pause="30ms")
        took_s = time.monotonic() - began
        assert took_s >= 0.03 * (len(device.asked) - 4)


async def test_identity_comes_in_several_answers_and_is_no_must() -> None:
    device = Mapped({3: words(range(10))}, identity=IDENTITY, at_a_time=2)
    async with serving(device):
        found = await probe(device.endpoint, range=["hr:0-9"])
    assert "model 'X-100-EU'" in found.checks["identity"].found
    async with serving(Mapped({3: words(range(10))})) as device:
        found = await probe(device.endpoint, range=["hr:0-9"])
    assert found.checks["identity"].result == "ok"
    assert "43" in found.checks["identity"].found


async def test_an_identity_without_an_end_and_one_that_is_none_are_cut_off() -> None:
    def endless(_unit: int, pdu: bytes) -> bytes | None:
        return bytes((43, 14, 2, 0x82, 0xFF, pdu[3] + 1, 1, pdu[3], 2)) + b"ab" if pdu[0] == 43 else None

    for answer in (endless, lambda _unit, pdu: bytes((43, 14, 2, 1, 0, 0, 3, 0, 50)) + b"ab" if pdu[0] == 43 else None):
        device = Mapped({3: words(range(10))}, answer=answer)
        async with serving(device):
            found = await probe(device.endpoint, range=["hr:0-9"])
        assert found.checks["identity"].result == "ok"
        assert "hr:0-9" in found.checks["hr"].found


async def test_units_are_looked_for() -> None:
    async with serving(Mapped({3: words(range(10), value=lambda _: 5)}, units=(3, 5))) as device:
        found = await probe(device.endpoint, unit=["1-6"], range=["hr:0-9"])
        assert "answers: 3, 5" in found.checks["unit 3"].found
        assert "--unit 5" in found.checks["unit 3"].way_out
        assert found.settings["unit_id"] == 3
        with pytest.raises(NotConnected, match="genba doctor modbus"):
            await probe(device.endpoint, unit=["9"])


async def test_a_device_that_is_not_there_is_not_connected() -> None:
    async with serving(Mapped()) as device:
        pass
    with pytest.raises(NotConnected, match="refused"):
        await probe(device.endpoint)


async def test_a_silent_table_costs_a_few_deadlines_and_not_the_walk() -> None:
    device = Mapped({3: words(range(10))})
    device.answer = lambda _unit, pdu: b"" if pdu[0] == 4 else None
    reply = device.reply
    device.reply = lambda unit, pdu: reply(unit, pdu) or None  # type: ignore[method-assign]
    async with serving(device):
        found = await probe(device.endpoint, range=["hr:0-9", "ir:0-999", "co:0-9"], timeout="60ms")
    assert found.checks["ir"].found == "no input registers: requests to this table are not answered"
    assert "co" in found.checks


async def test_a_device_that_goes_away_ends_the_walk_and_what_was_found_stands() -> None:
    device = Mapped({3: words(range(0, 1000, 2), value=lambda a: a)})

    def dying(_unit: int, _pdu: bytes) -> bytes | None:
        if len(device.asked) >= 20:
            for client in device.clients:
                client.close()
        return None

    device.answer = dying
    async with serving(device):
        found = await probe(device.endpoint, range=["hr:0-999", "ir:0-999"])
    assert found.checks["hr"].result == "failure"
    assert "the device went away" in found.checks["hr"].found
    assert "hr_2" in found.points
    assert "ir" not in found.checks


async def test_a_device_that_goes_away_before_anything_is_found_is_not_connected() -> None:
    device = Mapped({3: {}})

    def dying(_unit: int, _pdu: bytes) -> bytes | None:
        if len(device.asked) > 3:
            for client in device.clients:
                client.close()
        return None

    device.answer = dying
    async with serving(device):
        with pytest.raises(NotConnected):
            await probe(device.endpoint, range=["hr:0-999"])


async def test_several_requests_at_once_are_tried() -> None:
    async with serving(Mapped({3: words(range(50))})) as device:
        found = await probe(device.endpoint, range=["hr:0-49"])
        assert found.checks["window"].found.startswith("4 requests at once are answered")

    async def one_only(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        single.clients.append(writer)
        while data := await reader.read(1024):
            answer = single.reply(data[6], data[7:12])
            assert answer is not None
            writer.write(data[:4] + (len(answer) + 1).to_bytes(2) + data[6:7] + answer)
            await asyncio.sleep(0.01)
        writer.close()

    single = Mapped({3: words(range(50))})
    single.serve = one_only  # type: ignore[method-assign]
    async with serving(single):
        found = await probe(single.endpoint, range=["hr:0-49"])
    assert found.checks["window"].found.startswith("one request at a time")


async def test_a_serial_line_is_walked_and_its_settings_are_kept() -> None:
    table = Mapped({3: words(range(20), value=lambda a: a + 1)}, identity=IDENTITY)

    class Raw(Line):
        def take(self, data: bytes, write: Any) -> None:
            request = type("R", (), {"unit": data[0]})()
            answer = table.reply(data[0], data[1:-2])
            if answer is not None:
                write(rtu(request, answer))

    async with on_pty(Raw()) as line:
        found = await probe(line.endpoint, range=["hr:0-29"], baud=115200, parity="none")
    assert found.settings == {"unit_id": 1, "serial": {"baud": 115_200, "parity": "none"}}
    assert "vendor 'Acme'" in found.checks["identity"].found
    assert found.points["hr_4"].value == "5"


@pytest.mark.parametrize("endpoint", ["tcp://h:1", "udp://h:1", "rtu:/dev/x", "ascii:/dev/x"])
async def test_the_simulator_is_learnt_over_every_transport(endpoint: str) -> None:
    tags: dict[str, dict[str, Any]] = {
        "a": {"address": "hr:10", "type": "float32", "order": "CDAB"},
        "b": {"address": "hr:12", "type": "float32", "order": "CDAB"},
        "c": {"address": "hr:14", "type": "string[8]"},
        "d": {"address": "co:5", "type": "bool"},
    }
    config = ModbusConfig.model_validate({"kind": "modbus", "endpoint": endpoint, "tags": tags, "unit_id": 3})
    shown = {"a": 21.53, "b": 1450.6, "c": "GENBA-01", "d": True}
    signals = Signals(
        Scenario(signals={f"**/{n}": SignalConfig(constant=v) for n, v in shown.items()}), asyncio.get_running_loop().time, ()
    )
    assert PLUGIN.simulate is not None
    simulator = PLUGIN.simulate(config, SimulatorContext("press-07", bind("device", config), signals))
    try:
        found = await probe(await simulator.start(), unit=["3"], range=["hr:0-49", "co:0-49"], step=5)
    finally:
        await simulator.aclose()
    assert "product code 'press-07'" in found.checks["identity"].found
    assert (found.settings["unit_id"], found.settings["order"]) == (3, "CDAB")
    assert {name: point.value for name, point in found.points.items()} == {
        "hr_10": "21.53", "hr_12": "1450.6", "hr_14": "GENBA-01", "co_5": "1",
    }  # fmt: skip


def test_options_are_read_from_a_file_s_entry_and_told_when_wrong(tmp_path: Any) -> None:
    assert PLUGIN.probe is not None
    assert PLUGIN.probe.of is not None
    config = ModbusConfig.model_validate(
        {
            "kind": "modbus",
            "endpoint": "tls://10.0.0.7",
            "ca": "certs/ca.pem",
            "devices": {"a": {"unit_id": 4}, "b": {"unit_id": 9}},
        }
    )
    options = PLUGIN.probe.of(config, Place("x", tmp_path / "state", tmp_path))
    assert (options.endpoint, options.units, options.ca) == ("tls://10.0.0.7", [4, 9], str(tmp_path / "certs/ca.pem"))
    assert next(iter(ModbusProbe.model_fields)) == "endpoint"
    assert ModbusProbe.model_validate({"endpoint": "10.0.0.7"}).config.host == "10.0.0.7"
    assert ModbusProbe.model_validate({"endpoint": "/dev/ttyUSB0"}).config.transport == "rtu"
    for wrong, words_ in (
        ({"range": ["hr:9-0"]}, "lower one first"), ({"range": ["xx:1-2"]}, "unknown table"), ({"unit": ["300"]}, "0 to 255"),
        ({"at": ["co:1"]}, "one bit"), ({"baud": "9600"}, "serial belongs"), ({"ca": "x.pem"}, "tls://"),
    ):  # fmt: skip
        with pytest.raises(ValidationError, match=words_):
            ModbusProbe.model_validate({"endpoint": "tcp://10.0.0.7", **wrong})


@given(
    st.lists(st.tuples(st.integers(0, 900), st.integers(1, 200)), max_size=4),
    st.integers(1, 125),
    st.sampled_from([1, 7, 25]),
)
@settings(max_examples=150, deadline=None)
def test_what_is_found_is_there_and_every_stretch_with_a_tried_address_is_found_whole(
    stretches: list[tuple[int, int]], longest: int, step: int
) -> None:
    there = {address for start, length in stretches for address in range(start, min(start + length, 1000))}
    asked = 0

    async def ask(start: int, count: int) -> bytes | int:
        nonlocal asked
        asked += 1
        assert start >= 0
        assert start + count <= 1000
        assert 1 <= count <= 125
        if count > longest:
            return 3
        return bytes(2 * count) if all(start + n in there for n in range(count)) else 2

    survey = Survey(ask, 3, step)
    asyncio.run(survey.walk(0, 1000))
    assert survey.values.keys() <= there
    missed = there - survey.values.keys()
    assert not [address for address in missed if address % step == 0]
    if step == 1:
        assert not missed
    if survey.limited:
        assert survey.most == longest
    assert asked < 1000 / step + 40 * (len(stretches) + 1) + 3 * len(there) / longest + 40
