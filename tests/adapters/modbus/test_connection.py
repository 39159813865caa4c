"""Answers that are none: short, foreign, late, mangled, torn, cut off. Never a wrong value, never a hang."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.modbus.config import ModbusConfig
from adapters.modbus.connection import open_connection
from adapters.modbus.exchange import Connection, NoAnswer, Refused, WrongAnswer
from adapters.modbus.plan import Span
from schemas.errors import NotConnected
from tests.adapters.modbus.devices import Device, Request, frame, pdu, refuse, running

TIMEOUT_S = 0.15


def configure(endpoint: str, timeout_s: float = TIMEOUT_S) -> ModbusConfig:
    return ModbusConfig.model_validate({"kind": "modbus", "endpoint": endpoint, "timeout": f"{round(timeout_s * 1000)}ms"})


@asynccontextmanager
async def connected(device: Device, timeout_s: float = TIMEOUT_S) -> AsyncIterator[Connection]:
    async with running(device):
        connection = await open_connection(configure(device.endpoint, 5))
        connection.timeout_s = timeout_s  # type: ignore[attr-defined]  # of requests; a busy machine may connect slowly
        try:
            yield connection
        finally:
            await connection.aclose()


def registers(start: int, length: int) -> Span:
    return Span(1, 3, start, length)


async def is_right(connection: Connection, start: int, length: int = 3) -> bool:
    """The registers of the test device hold their own address."""
    raw = await connection.read(registers(start, length))
    return np.frombuffer(raw, dtype=">u2").tolist() == list(range(start, start + length))


async def test_the_answer_is_the_bytes_that_were_asked_for() -> None:
    async with connected(Device()) as connection:
        for function in (1, 2, 3, 4):
            span = Span(7, function, 40, 17)
            assert len(await connection.read(span)) == span.answer_bytes
        assert await is_right(connection, 65_535, 1)
        assert await is_right(connection, 1000, 125)


async def test_exceptions_are_refusals_and_the_connection_stands() -> None:
    async with connected(Device(missing={(3, 10)})) as connection:
        for _ in range(2):
            with pytest.raises(Refused) as raised:
                await connection.read(registers(8, 5))
            assert raised.value.code == 2
        assert await is_right(connection, 11)


def _short(request: Request) -> bytes:
    return frame(request, pdu(request._replace(count=request.count - 1)))


def _long(request: Request) -> bytes:
    return frame(request, pdu(request._replace(count=request.count + 1)))


def _byte_count_lies(request: Request) -> bytes:
    honest = pdu(request)
    return frame(request, honest[:1] + bytes((honest[1] + 2,)) + honest[2:])


def _other_function(request: Request) -> bytes:
    return frame(request, pdu(request._replace(function=4)))


def _writing(request: Request) -> bytes:
    return frame(request, bytes((6,)) + b"\0\1\0\2")


def _other_unit(request: Request) -> bytes:
    return frame(request, pdu(request), unit=9)


def _other_refusal(request: Request) -> bytes:
    return frame(request, bytes((0x84, 2)))


@pytest.mark.parametrize("wrong", [_short, _long, _byte_count_lies, _other_function, _writing, _other_unit, _other_refusal])
async def test_an_answer_that_is_none_is_not_used_and_the_next_is_right(wrong: object) -> None:
    def answer(request: Request) -> bytes:
        return wrong(request) if request.start == 100 else frame(request, pdu(request))  # type: ignore[operator,no-any-return]

    async with connected(Device(answer)) as connection:
        for _ in range(3):
            with pytest.raises(WrongAnswer):
                await connection.read(registers(100, 5))
            assert await is_right(connection, 200)


async def test_the_transaction_of_another_is_no_answer() -> None:
    async with connected(Device(lambda request: frame(request, pdu(request), tid=request.tid + 1))) as connection:
        with pytest.raises(NoAnswer):
            await connection.read(registers(0, 3))


async def test_a_late_answer_is_never_the_answer_to_the_next_request() -> None:
    held: list[bytes] = []

    def answer(request: Request) -> bytes | None:
        if request.start % 2:
            held.append(frame(request, pdu(request)))
            return None
        return b"".join(held) + frame(request, pdu(request))  # what came too late comes just before the next one

    async with connected(Device(answer), timeout_s=0.1) as connection:
        for number in range(0, 12, 2):
            with pytest.raises(NoAnswer):
                await connection.read(registers(number + 1, 3))
            assert await is_right(connection, number)
            held.clear()


async def test_a_cancelled_request_leaves_the_connection_in_step() -> None:
    async with connected(Device(delay_s=0.005), timeout_s=1) as connection:
        for number in range(30):
            request = asyncio.create_task(connection.read(registers(number, 3)))
            await asyncio.sleep(0.0005 * (number % 16))
            request.cancel()
            await asyncio.wait([request])
            assert await is_right(connection, 1000 + number)


async def test_an_answer_may_come_byte_by_byte_or_with_others_in_one_piece() -> None:
    torn = Device()

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        torn.clients.append(writer)
        while len(data := await reader.read(12)) == 12:
            request = Request(*(int.from_bytes(data[a:b], "big") for a, b in ((0, 2), (6, 7), (7, 8), (8, 10), (10, 12))))
            for byte in frame(request._replace(tid=request.tid - 1), pdu(request)) + frame(request, pdu(request)):
                writer.write(bytes((byte,)))
                await asyncio.sleep(0.001)
        writer.close()

    torn.serve = trickle  # type: ignore[method-assign]
    async with connected(torn, timeout_s=1) as connection:
        assert await is_right(connection, 5)
        assert await is_right(connection, 6)


async def test_a_device_slower_than_the_deadline_costs_the_deadline() -> None:
    async with connected(Device(lambda request: None)) as connection:
        began = time.monotonic()
        with pytest.raises(NoAnswer):
            await connection.read(registers(0, 3))
        assert TIMEOUT_S * 0.9 < time.monotonic() - began < TIMEOUT_S + 4


async def test_a_peer_that_closes_in_the_middle_of_a_request_is_noticed_at_once() -> None:
    device = Device(lambda request: None)
    async with connected(device, timeout_s=5) as connection:
        request = asyncio.create_task(connection.read(registers(0, 3)))
        await asyncio.sleep(0.1)
        began = time.monotonic()
        device.clients[0].close()
        with pytest.raises(NotConnected, match="closed by the other side"):
            await request
        assert time.monotonic() - began < 4
        assert connection.loss
        with pytest.raises(NotConnected):
            await connection.read(registers(0, 3))


@pytest.mark.parametrize(
    "nonsense",
    [
        lambda request: frame(request, pdu(request), protocol=1),
        lambda request: b"HTTP/1.1 400 Bad Request\r\n\r\n",
        lambda request: request.tid.to_bytes(2, "big") + b"\0\0\0\0\1\3",
        lambda request: request.tid.to_bytes(2, "big") + b"\0\0\xff\xff\1\3\6\0\0",
    ],
)
async def test_a_stream_out_of_step_ends_the_connection(nonsense: object) -> None:
    async with connected(Device(nonsense), timeout_s=5) as connection:  # type: ignore[arg-type]
        began = time.monotonic()
        with pytest.raises(NotConnected, match="does not speak Modbus"):
            await connection.read(registers(0, 3))
        assert time.monotonic() - began < 4


async def test_an_exception_whose_length_is_one_short_is_understood() -> None:
    def answer(request: Request) -> bytes:
        proper = refuse(request, 2)
        return proper[:4] + b"\0\2" + proper[6:]

    async with connected(Device(answer)) as connection:
        with pytest.raises(Refused):
            await connection.read(registers(0, 3))


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6))
@settings(max_examples=60, deadline=None)
def test_no_bytes_make_anything_but_an_error_of_ours(pieces: list[bytes]) -> None:
    async def go() -> None:
        device = Device()

        async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            device.clients.append(writer)
            await reader.read(1)
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0)
            writer.close()

        device.serve = nonsense  # type: ignore[method-assign]
        async with connected(device, timeout_s=10) as connection:
            with pytest.raises((Refused, WrongAnswer, NotConnected)):
                await connection.read(registers(0, 3))

    asyncio.run(go())


async def test_a_refused_connection_says_why() -> None:
    async with running(Device()) as device:
        pass
    with pytest.raises(NotConnected, match="refused"):
        await open_connection(configure(device.endpoint))


async def test_an_unknown_host_is_not_connected() -> None:
    with pytest.raises(NotConnected):
        await open_connection(configure("tcp://no-such-host.invalid:502", timeout_s=5))
