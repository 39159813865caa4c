"""Dates and times in registers: each spelling, each order, what is none, and the way through simulator and adapter."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from adapters.base import AdapterContext, SimulatorContext
from adapters.modbus import PLUGIN, ModbusConfig
from adapters.modbus.datatypes import ORDERS, Order, parse_type
from adapters.modbus.decode import Layout
from adapters.modbus.moments import decode_moment, encode_moment
from adapters.simulation import Scenario, SignalConfig, Signals
from schemas import quality as q
from tests.adapters.modbus.points import one_block, point
from tests.conformance.adapter import Rig, SystemClock, bind

TOKYO = ZoneInfo("Asia/Tokyo")
TYPES = [
    "datetime[ymdhms]", "datetime[dmyhms]", "datetime[mdyhms]", "datetime[smhdmy]", "datetime[hmsdmy]", "datetime_bcd[ymdhms]",
    "datetime8[ymdhms]", "datetime8_bcd[ymdhms]", "datetime8[ymd-hms]", "datetime8_bcd[smhdmy]", "ti081", "unix32", "unix64", "unix64_ms",
]  # fmt: skip


def told(name: str, raw: bytes, order: Order = "ABCD") -> str:
    return decode_moment(raw, parse_type(name), order, TOKYO)


def words(*registers: int) -> bytes:
    return b"".join(register.to_bytes(2) for register in registers)


@pytest.mark.parametrize(
    ("name", "raw", "text"),
    [
        ("datetime[ymdhms]", words(2026, 11, 27, 21, 35, 9), "2026-11-27T12:35:09Z"),
        ("datetime[ymdhms]", words(26, 11, 27, 21, 35, 9), "2026-11-27T12:35:09Z"),
        ("datetime[dmyhm]", words(27, 11, 2026, 21, 35), "2026-11-27T12:35:00Z"),
        ("datetime[smhdmy]", words(9, 35, 21, 27, 11, 26), "2026-11-27T12:35:09Z"),
        ("datetime[ymd]", words(2026, 11, 27), "2026-11-27"),
        ("datetime8[ymdhms]", words(0x1A0B, 0x1B15, 0x2309), "2026-11-27T12:35:09Z"),
        ("datetime8[ymd-hms]", words(0x1A0B, 0x1B05, 0x1523, 0x0900), "2026-11-27T12:35:09Z"),
        ("datetime8_bcd[ymdhms]", words(0x2611, 0x2721, 0x3509), "2026-11-27T12:35:09Z"),
        ("datetime_bcd[ymdhms]", words(0x2026, 0x11, 0x27, 0x21, 0x35, 0x09), "2026-11-27T12:35:09Z"),
        ("unix32", words(0x6A28, 0x12B4), "2026-06-09T13:18:44Z"),
        ("unix64_ms", (1_781_011_124_567).to_bytes(8), "2026-06-09T13:18:44.567000Z"),
        ("ti081", words(26, 11 << 8 | 5 << 5 | 27, 21 << 8 | 35, 9250), "2026-11-27T12:35:09.250000Z"),
    ],
)
def test_each_spelling_by_hand(name: str, raw: bytes, text: str) -> None:
    assert told(name, raw) == text


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("order", ORDERS)
@given(seconds=st.integers(946_684_800, 4_102_444_800 - 86_400))
def test_what_is_encoded_is_decoded(name: str, order: Order, seconds: int) -> None:
    moment = datetime.fromtimestamp(seconds, TOKYO)
    kind = parse_type(name)
    raw = encode_moment(kind, order, moment)
    assert len(raw) == 2 * kind.registers
    if name != "unix32" or moment.timestamp() < 2**32:
        assert told(name, raw, order) == moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("datetime[ymdhms]", bytes(12)),
        ("datetime[ymdhms]", words(2026, 13, 1, 0, 0, 0)),
        ("datetime[ymdhms]", words(2026, 2, 30, 0, 0, 0)),
        ("datetime[ymdhms]", words(0xFFFF, 1, 1, 0, 0, 0)),
        ("datetime8_bcd[ymdhms]", words(0x261A, 0x2721, 0x3509)),
        ("unix64", b"\x7f" + bytes(7)),
        ("ti081", words(26, 11 << 8 | 27, 31 << 8, 0)),
        ("ti081", words(26, 11 << 8 | 27, 0, 65_000)),
    ],
)
def test_what_is_no_date_is_bad_and_never_a_text(name: str, raw: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever datetime says
        told(name, raw)
    at = point(0, name)
    layout = Layout([at], [one_block([at])], zone=TOKYO)
    layout.store(0, raw)
    values = layout.decode()
    assert values.quality.tolist() == [q.BAD_DECODING_ERROR]


@given(st.sampled_from(TYPES), st.sampled_from(ORDERS), st.binary(min_size=16, max_size=16))
def test_no_bytes_make_anything_but_a_date_or_a_value_error(name: str, order: Order, raw: bytes) -> None:
    kind = parse_type(name)
    try:
        text = decode_moment(raw[: 2 * kind.registers], kind, order, TOKYO)
    except ValueError:
        return
    assert datetime.fromisoformat(text).tzinfo is not None


@pytest.mark.parametrize(
    "wrong", ["datetime[ymd", "datetime[ym]", "datetime[ymdhs]", "datetime[yymd]", "datetime[]", "datetime[hms]"]
)
def test_letters_that_make_no_date_are_told(wrong: str) -> None:
    with pytest.raises(ValidationError, match=r"makes no date|unknown type"):
        ModbusConfig.model_validate({"kind": "modbus", "endpoint": "tcp://h", "tags": {"t": {"address": "hr:0", "type": wrong}}})


def test_a_date_has_no_scale_and_takes_the_registers_it_needs() -> None:
    def config(**tag: Any) -> ModbusConfig:
        return ModbusConfig.model_validate({"kind": "modbus", "endpoint": "tcp://h", "tags": {"t": {"address": "hr:0", **tag}}})

    with pytest.raises(ValidationError, match="scale needs a number"):
        config(type="datetime[ymd]", scale=2)
    assert config(type="datetime8[ymdhms]").tags["t"].data_type.registers == 3
    assert config(type="DateTime[ymdhms]").tags["t"].value_type() == "text"
    with pytest.raises(ValidationError, match=r"did you mean 'unix32'"):
        config(type="timestamp")
    with pytest.raises(ValidationError, match="does not fit"):
        config(address="hr:65533", type="unix64")


async def test_the_simulator_s_time_comes_out_in_utc(tmp_path: Path) -> None:
    moment = "2026-11-27T21:35:09"
    tags: Mapping[str, Mapping[str, Any]] = {
        f"t{n}": {"address": f"hr:{8 * n}", "type": name, "order": ORDERS[n % 4]} for n, name in enumerate(TYPES)
    }
    entry = {"kind": "modbus", "endpoint": "tcp://127.0.0.1:1", "scan": "50ms", "tags": tags}
    config = ModbusConfig.model_validate(entry)
    bound = bind("device", config)
    signals = Signals(Scenario(signals={"**": SignalConfig(constant=moment)}), asyncio.get_running_loop().time, ())
    assert PLUGIN.simulate is not None
    simulator = PLUGIN.simulate(config, SimulatorContext("device", bound, signals, "Asia/Tokyo"))
    endpoint = await simulator.start()
    config = ModbusConfig.model_validate(entry | {"endpoint": endpoint})
    import structlog

    context = AdapterContext("device", bound, SystemClock(), tmp_path, structlog.get_logger(), time_zone="Asia/Tokyo")
    rig = Rig(config, PLUGIN.build(config, context), [], bound)
    await rig.adapter.connect()
    seen = await rig.read()
    await rig.adapter.aclose()
    await simulator.aclose()
    assert {name: rows[-1]["text"] for name, rows in seen.rows.items()} == dict.fromkeys(tags, "2026-11-27T12:35:09Z")
    assert timedelta(hours=9) == datetime.fromisoformat(moment).replace(tzinfo=TOKYO).utcoffset()


@pytest.mark.parametrize("name", ["datetime[ymdhms]", "datetime_bcd[ymdhms]"])
def test_a_date_beyond_the_calendar_in_utc_is_bad_and_costs_only_itself(name: str) -> None:
    raw = words(9999, 12, 31, 23, 0, 0) if name == "datetime[ymdhms]" else words(0x9999, 0x12, 0x31, 0x23, 0, 0)
    points = [point(0, name), point(6, "uint16")]
    layout = Layout(points, [one_block(points)], zone=ZoneInfo("America/Los_Angeles"))
    layout.store(0, raw + words(7))
    values = layout.decode()
    assert values.quality.tolist() == [q.BAD_DECODING_ERROR, q.GOOD]
    assert values.numbers[1] == 7
