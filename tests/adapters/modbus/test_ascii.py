"""ASCII frames: what RTU keeps, and what is theirs (hexadecimal lines, LRC, slow characters)."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from pymodbus import FramerType
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from adapters.modbus import PLUGIN
from adapters.modbus.budget import requests_of
from adapters.modbus.config import ModbusConfig
from adapters.modbus.connection import open_connection
from adapters.modbus.exchange import Connection, Identification, NoAnswer, Refused, WrongAnswer
from adapters.modbus.framing import Ascii, Rtu
from adapters.modbus.line import LineConnection
from adapters.modbus.plan import Span
from adapters.modbus.requests import encoded
from adapters.modbus.timing import line_of
from tests.adapters.modbus.devices import Request, pdu
from tests.adapters.modbus.lines import Line, on_pty, on_tcp
from tests.conformance.adapter import bind

TIMEOUT_S = 0.1
Place = Callable[[Line], AbstractAsyncContextManager[Line]]
places = pytest.mark.parametrize("place", [on_pty, on_tcp])


def framed(request: Request, answer: bytes, *, unit: int | None = None) -> bytes:
    """The answer in its frame, its LRC by the book: the two's complement of the sum of the bytes."""
    body = bytes((request.unit if unit is None else unit,)) + answer
    return b":" + (body + bytes((-sum(body) & 0xFF,))).hex().upper().encode() + b"\r\n"


def honest(request: Request) -> bytes | None:
    return framed(request, pdu(request))


class AsciiLine(Line):
    """A line whose devices speak ASCII."""

    def take(self, data: bytes, write: Callable[[bytes], object]) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n")) >= 0:
            line, self._received = self._received[:end], self._received[end + 2 :]
            unit, function, start, count, check = struct.unpack(">BBHHB", bytes.fromhex(line[1:].decode()))
            assert (sum(bytes.fromhex(line[1:].decode())) & 0xFF, line[:1]) == (0, b":"), check
            request = Request(0, unit, function, start, count)
            self.requests.append(request)
            self.overlaps += self._busy > 0
            answer = self.answer(request)
            if answer is not None:
                self._busy += 1
                asyncio.get_running_loop().call_later(self.delay_s(request), self._send, write, answer)


def line_of_devices(answer: Callable[[Request], bytes | None] = honest, **more: Any) -> AsciiLine:
    return AsciiLine(answer, **more)


@asynccontextmanager
async def connected(line: Line, place: Place = on_pty, timeout_s: float = TIMEOUT_S) -> AsyncIterator[Connection]:
    async with place(line):
        endpoint = line.endpoint.replace("rtu", "ascii")
        options = {"timeout": f"{round(timeout_s * 1000)}ms", "serial": {"baud": 115_200, "data_bits": 8}}
        connection = await open_connection(ModbusConfig.model_validate({"kind": "modbus", "endpoint": endpoint, **options}))
        try:
            yield connection
        finally:
            await connection.aclose()


def registers(start: int, length: int = 3, unit: int = 1) -> Span:
    return Span(unit, 3, start, length)


async def is_right(connection: Connection, start: int, length: int = 3) -> bool:
    """The registers of the test devices hold their own address."""
    raw = await connection.read(registers(start, length))
    return np.frombuffer(raw, dtype=">u2").tolist() == list(range(start, start + length))


@places
async def test_the_answer_is_the_bytes_that_were_asked_for(place: Place) -> None:
    async with connected(line_of_devices(), place, timeout_s=1) as connection:
        for function in (1, 2, 3, 4):
            span = Span(7, function, 40, 17)
            assert len(await connection.read(span)) == span.answer_bytes
        assert await is_right(connection, 1000, 125)


@places
async def test_a_late_answer_is_never_the_answer_to_the_next_request(place: Place) -> None:
    line = line_of_devices(delay_s=lambda request: TIMEOUT_S * 1.6 if request.start % 2 else 0.0)
    async with connected(line, place) as connection:
        for start in range(0, 12, 2):
            with pytest.raises(NoAnswer):
                await connection.read(registers(start + 1))
            assert await is_right(connection, start)
    assert line.overlaps == 0


async def test_the_control_without_a_quiet_line_reads_wrong_values(monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(_self: LineConnection) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr(LineConnection, "_clean", at_once)
    line = line_of_devices(delay_s=lambda request: TIMEOUT_S * 1.6 if request.start % 2 else TIMEOUT_S * 0.8)
    async with connected(line) as connection:
        with pytest.raises(NoAnswer):
            await connection.read(registers(1))
        assert not await is_right(connection, 2)


def _digit_flipped(request: Request) -> bytes:
    frame = bytearray(honest(request) or b"")
    frame[9] ^= 0x01
    return bytes(frame)


@places
@pytest.mark.parametrize(
    "wrong",
    [
        _digit_flipped,
        lambda request: framed(request, pdu(request._replace(count=request.count - 1))),
        lambda request: framed(request, pdu(request._replace(function=4))),
        lambda request: framed(request, pdu(request), unit=9),
        lambda request: (honest(request) or b"")[:-6],
        lambda request: b":zz zz\r\n",
    ],
)
async def test_an_answer_that_is_none_is_not_used_and_the_next_is_right(place: Place, wrong: Callable[[Request], bytes]) -> None:
    line = line_of_devices(lambda request: wrong(request) if request.start == 100 else honest(request))
    async with connected(line, place) as connection:
        with pytest.raises(WrongAnswer):
            await connection.read(registers(100))
        assert await is_right(connection, 200)


async def test_exceptions_are_refusals() -> None:
    async with connected(line_of_devices(lambda request: framed(request, b"\x83\x02"))) as connection:
        with pytest.raises(Refused) as raised:
            await connection.read(registers(10))
    assert raised.value.code == 2


@pytest.mark.parametrize("before", [b"\x00\xff", b":01", b"\r\n", b":0103\r\n"])
async def test_noise_before_the_answer_an_echo_and_small_letters_do_no_harm(before: bytes) -> None:
    def answer(request: Request) -> bytes:
        body = bytes((request.function,)) + request.start.to_bytes(2, "big") + request.count.to_bytes(2, "big")
        echo = framed(request, body) if request.start == 6 else b""
        return echo + before + (honest(request) or b"").lower()

    async with connected(line_of_devices(answer)) as connection:
        assert await is_right(connection, 5)
        assert await is_right(connection, 6)


async def test_characters_may_come_slowly() -> None:
    class Slow(AsciiLine):
        def _send(self, write: Callable[[bytes], object], answer: bytes) -> None:
            self._busy -= 1
            loop = asyncio.get_running_loop()
            for n, start in enumerate(range(0, len(answer), 6)):
                loop.call_later(0.08 * n, write, answer[start : start + 6])

    async with connected(Slow(honest), timeout_s=1) as connection:
        assert await is_right(connection, 5)


async def test_an_identification_has_a_length_of_its_own() -> None:
    answer = bytes((43, 14, 1, 1, 0, 0, 2, 0, 4)) + b"Acme" + bytes((1, 2)) + b"X1"
    for framing in (Rtu(), Ascii()):
        ask = Identification(1, 1, 0)
        whole = framing.frame(1, answer)
        assert framing.answer(b"\x00\x01" + whole, ask) == answer
        assert all(framing.answer(whole[:size], ask) == b"" for size in range(len(whole) - 1))
        assert framing.request(framing.frame(1, encoded(ask))) == (len(framing.frame(1, encoded(ask))), b"\x01" + encoded(ask))


@given(st.lists(st.binary(min_size=1, max_size=60), max_size=5))
@settings(max_examples=200, deadline=None)
def test_no_bytes_are_taken_for_an_answer_or_crash_the_framing(pieces: list[bytes]) -> None:
    received = b"".join(pieces)
    for framing in (Rtu(), Ascii()):
        for ask in (registers(0), Identification(1, 2, 0)):
            assert framing.answer(received, ask) == b""
            if len(received) >= 2:
                framing.begins(received, ask)
                framing.whole(received)
                assert framing.pause_s(received) > 0
            size, body = framing.request(received)
            assert 0 <= size <= len(received)
            assert not body or size


async def test_the_library_s_server_is_read() -> None:
    device = SimDevice(id=1, simdata=[SimData(0, values=list(range(100)), datatype=DataType.REGISTERS)])
    server = ModbusTcpServer(device, framer=FramerType.ASCII, address=("127.0.0.1", 0))
    await server.serve_forever(background=True)
    port = server.transport.sockets[0].getsockname()[1]
    try:
        config = ModbusConfig.model_validate({"kind": "modbus", "endpoint": f"ascii+tcp://127.0.0.1:{port}"})
        connection = await open_connection(config)
        assert await is_right(connection, 20, 50)
        await connection.aclose()
    finally:
        await server.shutdown()


def test_plan_and_timing_know_that_ascii_takes_two_characters_a_byte() -> None:
    tags = {"a": {"address": "hr:0", "type": "float32"}, "b": {"address": "hr:9", "type": "float32"}}
    entry = {"kind": "modbus", "tags": tags, "serial": {"baud": 9600, "turnaround": "5ms"}}
    config = {name: ModbusConfig.model_validate(entry | {"endpoint": f"{name}:/dev/ttyUSB0"}) for name in ("rtu", "ascii")}
    rtu, ascii_ = line_of(config["rtu"]), line_of(config["ascii"])
    assert rtu is not None
    assert ascii_ is not None
    span = Span(1, 3, 0, 10)
    assert rtu.answer_s(span) == pytest.approx(33 * 11 / 9600)
    assert ascii_.answer_s(span) == pytest.approx((17 + 51) * 10 / 9600), "7 data bits by default"
    assert ascii_.max_gap < rtu.max_gap
    assert [request.time_s for request in requests_of(config["ascii"], bind("x", config["ascii"]))] == [
        pytest.approx(ascii_.exchange_s(Span(1, 3, 0, 11)))
    ]


def test_options() -> None:
    assert PLUGIN.config is ModbusConfig
    for endpoint, more, message in (
        ("ascii://host", {}, "device file: ascii:/dev"),
        ("rtu:/dev/ttyUSB0", {"serial": {"data_bits": 7}}, "8 data bits"),
        ("ascii+tcp://host", {"window": 2}, "remove window"),
    ):
        with pytest.raises(ValidationError, match=message):
            ModbusConfig.model_validate({"kind": "modbus", "endpoint": endpoint, **more})
