"""RTU lines: a late answer is never the next answer, a mangled one is never a value, and a lost line is noticed."""

from __future__ import annotations

import asyncio
import errno
import termios
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.modbus import PLUGIN, serial_port
from adapters.modbus import line as modbus_line
from adapters.modbus.config import ModbusConfig
from adapters.modbus.connection import open_connection
from adapters.modbus.exchange import Connection, NoAnswer, Refused, WrongAnswer
from adapters.modbus.line import LineConnection
from adapters.modbus.plan import Span
from adapters.modbus.timing import timing_of
from schemas import quality as q
from schemas.errors import ConfigError, NotConnected
from tests.adapters.modbus.devices import Request, pdu
from tests.adapters.modbus.lines import Line, honest, on_pty, on_tcp, rtu
from tests.conformance.adapter import AdapterConformance

TIMEOUT_S = 0.1
Place = Callable[[Line], AbstractAsyncContextManager[Line]]
places = pytest.mark.parametrize("place", [on_pty, on_tcp])


def configure(endpoint: str, timeout_s: float = TIMEOUT_S) -> ModbusConfig:
    return ModbusConfig.model_validate(
        {"kind": "modbus", "endpoint": endpoint, "timeout": f"{round(timeout_s * 1000)}ms", "serial": {"baud": 115_200}}
    )


@asynccontextmanager
async def connected(line: Line, place: Place = on_pty, timeout_s: float = TIMEOUT_S) -> AsyncIterator[Connection]:
    async with place(line):
        connection = await open_connection(configure(line.endpoint, timeout_s))
        try:
            yield connection
        finally:
            await connection.aclose()


def registers(start: int, length: int = 3, unit: int = 1) -> Span:
    return Span(unit, 3, start, length)


async def is_right(connection: Connection, start: int, length: int = 3, unit: int = 1) -> bool:
    """The registers of the test devices hold their own address."""
    raw = await connection.read(registers(start, length, unit))
    return np.frombuffer(raw, dtype=">u2").tolist() == list(range(start, start + length))


@places
async def test_the_answer_is_the_bytes_that_were_asked_for(place: Place) -> None:
    async with connected(Line(), place, timeout_s=1) as connection:
        for function in (1, 2, 3, 4):
            span = Span(7, function, 40, 17)
            assert len(await connection.read(span)) == span.answer_bytes
        assert await is_right(connection, 65_535, 1)
        assert await is_right(connection, 1000, 125)


@places
async def test_a_late_answer_is_never_the_answer_to_the_next_request(place: Place) -> None:
    line = Line(delay_s=lambda request: TIMEOUT_S * 1.4 if request.start % 2 else 0.0)
    async with connected(line, place) as connection:
        for start in range(0, 20, 2):
            with pytest.raises(NoAnswer):
                await connection.read(registers(start + 1))
            assert await is_right(connection, start)
    assert line.overlaps == 0


async def test_the_control_without_a_quiet_line_reads_wrong_values(monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(_self: LineConnection) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr(LineConnection, "_clean", at_once)
    line = Line(delay_s=lambda request: TIMEOUT_S * 1.4 if request.start % 2 else TIMEOUT_S * 0.8)
    async with connected(line) as connection:
        with pytest.raises(NoAnswer):
            await connection.read(registers(1))
        assert not await is_right(connection, 2)


@places
async def test_a_cancelled_request_is_not_followed_by_another_while_its_answer_may_come(place: Place) -> None:
    line = Line(delay_s=lambda _: 0.03)
    async with connected(line, place, timeout_s=0.5) as connection:
        for number in range(8):
            request = asyncio.create_task(connection.read(registers(number)))
            await asyncio.sleep(0.004 * number)
            request.cancel()
            await asyncio.wait([request])
            assert await is_right(connection, 1000 + number)
    assert line.overlaps == 0


async def test_a_late_answer_ends_the_quiet_time_early() -> None:
    line = Line(delay_s=lambda request: 1.2 if request.start == 1 else 0.0)
    async with connected(line, timeout_s=1.0) as connection:
        with pytest.raises(NoAnswer):
            await connection.read(registers(1))
        began = time.monotonic()
        assert await is_right(connection, 2)
        assert time.monotonic() - began < 0.8


def _bit_flipped(request: Request) -> bytes:
    frame = bytearray(honest(request) or b"")
    frame[4] ^= 0x10
    return bytes(frame)


def _short(request: Request) -> bytes:
    return rtu(request, pdu(request._replace(count=request.count - 1)))


def _long(request: Request) -> bytes:
    return rtu(request, pdu(request._replace(count=request.count + 1)))


def _other_function(request: Request) -> bytes:
    return rtu(request, pdu(request._replace(function=4)))


def _other_unit(request: Request) -> bytes:
    return rtu(request, pdu(request), unit=9)


def _torn(request: Request) -> bytes:
    return (honest(request) or b"")[:-3]


@places
@pytest.mark.parametrize("wrong", [_bit_flipped, _short, _long, _other_function, _other_unit, _torn])
async def test_an_answer_that_is_none_is_not_used_and_the_next_is_right(place: Place, wrong: Callable[[Request], bytes]) -> None:
    line = Line(lambda request: wrong(request) if request.start == 100 else honest(request))
    async with connected(line, place) as connection:
        for _ in range(2):
            with pytest.raises(WrongAnswer):
                await connection.read(registers(100))
            assert await is_right(connection, 200)


async def test_exceptions_are_refusals_and_the_line_stands() -> None:
    line = Line(lambda request: rtu(request, b"\x83\x02") if request.start == 10 else honest(request))
    async with connected(line) as connection:
        for _ in range(3):
            with pytest.raises(Refused) as raised:
                await connection.read(registers(10))
            assert raised.value.code == 2
            assert await is_right(connection, 11)


@pytest.mark.parametrize("before", [b"\x00", b"\xff\x00", b"\x01\x03", b"\x01\x03\x06"])
async def test_noise_before_the_answer_does_no_harm(before: bytes) -> None:
    async with connected(Line(lambda request: before + (honest(request) or b""))) as connection:
        assert await is_right(connection, 5)
        assert await is_right(connection, 6)


async def test_an_adapter_that_hears_itself_does_no_harm() -> None:
    def echo_first(request: Request) -> bytes:
        body = bytes((request.unit, request.function)) + request.start.to_bytes(2, "big") + request.count.to_bytes(2, "big")
        return rtu(request, body[1:]) + (honest(request) or b"")

    async with connected(Line(echo_first)) as connection:
        for start in (5, 0x0600, 0x0606):
            assert await is_right(connection, start)


@given(st.lists(st.binary(min_size=1, max_size=60), max_size=5))
@settings(max_examples=40, deadline=None)
def test_no_bytes_make_anything_but_an_error_of_ours(pieces: list[bytes]) -> None:
    async def go() -> None:
        async with connected(Line(lambda _: b"".join(pieces) or None), timeout_s=0.02) as connection:
            with pytest.raises((Refused, WrongAnswer, NoAnswer)):
                await connection.read(registers(0))

    asyncio.run(go())


async def test_a_line_that_babbles_is_no_answer_and_bounded() -> None:
    line = Line(lambda _: None)
    async with connected(line, timeout_s=0.05) as connection:
        assert isinstance(connection, LineConnection)
        with pytest.raises(NoAnswer):
            await connection.read(registers(0))
        babble = asyncio.create_task(_every_10_ms(lambda: connection.data_received(b"\x55" * 100)))
        began = time.monotonic()
        with pytest.raises(NoAnswer, match="never quiet"):
            await connection.read(registers(0))
        assert time.monotonic() - began < 2
        assert len(connection._received) <= 512
        babble.cancel()


async def _every_10_ms(call: Callable[[], None]) -> None:
    while True:
        call()
        await asyncio.sleep(0.01)


async def test_several_devices_share_one_line_and_a_silent_one_costs_only_itself(tmp_path: Path) -> None:
    line = Line(lambda request: None if request.unit == 3 else honest(request))
    devices = {
        f"unit{unit}": {"unit_id": unit, "tags": {f"w{unit}": {"address": f"hr:{unit}", "type": "uint16"}}} for unit in (1, 2, 3)
    }

    class Bench(AdapterConformance):
        __test__ = False
        plugin = PLUGIN
        kind = "modbus"

    bench = Bench()
    async with on_pty(line):
        rig = bench.rig(bench.configure(line.endpoint, {}, devices=devices, timeout="100ms", scan="20ms"), tmp_path)
        await rig.adapter.connect()
        seen = await rig.read(lambda s: len(s.batches) == 6, within_s=10)
        await rig.adapter.aclose()
    assert {name: {row["quality"] for row in rows} for name, rows in seen.rows.items()} == {
        "w1": {q.GOOD}, "w2": {q.GOOD}, "w3": {q.BAD_TIMEOUT},
    }  # fmt: skip
    assert {row["value"] for row in seen.rows["w2"]} == {2}
    assert line.overlaps == 0


@places
async def test_a_lost_line_is_noticed_at_once(place: Place) -> None:
    line = Line(lambda _: None)
    context = place(line)
    await context.__aenter__()
    connection = await open_connection(configure(line.endpoint, 5))
    lost = asyncio.Event()
    connection.on_loss(lost.set)
    request = asyncio.create_task(connection.read(registers(0)))
    await asyncio.sleep(0.05)
    began = time.monotonic()
    await context.__aexit__(None, None, None)
    with pytest.raises(NotConnected, match="connection lost"):
        await request
    assert time.monotonic() - began < 4
    assert lost.is_set()
    assert connection.loss
    with pytest.raises(NotConnected):
        await connection.read(registers(0))
    await connection.aclose()


async def test_a_port_that_is_not_there_is_not_connected() -> None:
    with pytest.raises(NotConnected, match="No such file"):
        await open_connection(configure("rtu:/dev/no-such-port", 1))


async def test_a_port_that_opens_slowly_is_not_given_up_after_the_deadline_of_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*given: Any) -> Any:
        time.sleep(0.15)
        return at_once(*given)

    at_once = serial_port._open
    monkeypatch.setattr(serial_port, "_open", slow)
    async with connected(Line(), timeout_s=0.05) as connection:
        assert connection.loss == ""


async def test_a_port_that_never_opens_is_not_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(serial_port, "_open", lambda *_: over.wait(5))
    monkeypatch.setattr(modbus_line, "_OPENING_S", 0.1)
    try:
        with pytest.raises(NotConnected, match=r"rtu:/dev/x: the port does not open within 0\.1 s"):
            await open_connection(configure("rtu:/dev/x"))
    finally:
        monkeypatch.setattr(serial_port, "_close_if_open", lambda _: None)
        over.set()


async def test_a_port_in_use_is_not_connected() -> None:
    async with connected(Line(), timeout_s=1) as connection:
        assert await is_right(connection, 1)
        with pytest.raises(NotConnected, match="in use"):
            await open_connection(configure(_path(connection), 1))
        assert await is_right(connection, 2)


def _path(connection: Connection) -> str:
    assert isinstance(connection, LineConnection)
    return f"rtu:{connection._wire._port.name}"  # type: ignore[union-attr]


@pytest.mark.parametrize(("code", "raised"), [(errno.EINVAL, ConfigError), (errno.EIO, NotConnected)])
async def test_settings_that_a_port_does_not_have_are_for_a_person(
    code: int, raised: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_args: object) -> None:
        raise termios.error(code, "no")

    async with on_pty(Line()) as line:
        monkeypatch.setattr("serial.serialposix.termios.tcsetattr", refused)
        with pytest.raises(raised, match=r"115200 baud, parity even" if raised is ConfigError else "error"):
            await open_connection(configure(line.endpoint, 1))
        monkeypatch.undo()


async def test_a_port_that_may_not_be_opened_is_for_a_person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_args: object, **_options: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("serial.serialposix.os.open", forbidden)
    with pytest.raises(ConfigError, match="dialout"):
        await open_connection(configure(f"rtu:{tmp_path}/port", 1))


@pytest.mark.parametrize(
    ("baud", "parity", "turnaround"), [(1200, "even", "10ms"), (19_200, "even", "10ms"), (115_200, "none", "2ms")]
)
def test_the_gap_that_breaks_even_is_what_a_request_costs(baud: int, parity: str, turnaround: str) -> None:
    serial = {"baud": baud, "parity": parity, "turnaround": turnaround}
    config = ModbusConfig.model_validate({"kind": "modbus", "endpoint": "rtu:/dev/x", "serial": serial})
    assert config.serial is not None
    line = timing_of(config.serial)
    apart_s = 2 * line.exchange_s(Span(1, 3, 0, 1))
    assert line.exchange_s(Span(1, 3, 0, 2 + line.max_gap)) <= apart_s
    assert line.exchange_s(Span(1, 3, 0, 3 + line.max_gap)) > apart_s


def test_a_character_of_an_8e1_line_has_eleven_bits() -> None:
    config = ModbusConfig.model_validate({"kind": "modbus", "endpoint": "rtu:/dev/x", "serial": {"baud": 9600}})
    assert config.serial is not None
    line = timing_of(config.serial)
    assert line.character_s == pytest.approx(11 / 9600)
    assert line.silence_s == pytest.approx(3.5 * 11 / 9600)
    assert line.answer_s(Span(1, 3, 0, 10)) == pytest.approx(33 * 11 / 9600)
