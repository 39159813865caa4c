"""Modbus over UDP: a lost, late, doubled or foreign datagram is never a wrong value."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from pymodbus.server import ModbusUdpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from adapters.modbus.config import ModbusConfig
from adapters.modbus.connection import open_connection
from adapters.modbus.exchange import Connection, NoAnswer, Refused, WrongAnswer
from adapters.modbus.plan import Span
from schemas.errors import NotConnected
from tests.adapters.modbus.devices import Request, frame, pdu, refuse

TIMEOUT_S = 0.1


@dataclass
class Device(asyncio.DatagramProtocol):
    """Answers with a list of (delay, datagram)."""

    answer: Callable[[Request], list[tuple[float, bytes]]] = lambda request: [(0.0, frame(request, pdu(request)))]
    requests: list[Request] = field(default_factory=list)
    transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        request = Request(*struct.unpack(">H4xBBHH", data))
        self.requests.append(request)
        answers = self.answer(request) if len(self.requests) > 1 else [(0.0, frame(request, pdu(request)))]  # the greeting
        for delay_s, datagram in answers:
            asyncio.get_running_loop().call_later(delay_s, self.send, datagram, addr)

    def send(self, datagram: bytes, addr: Any) -> None:
        if not self.transport.is_closing():
            self.transport.sendto(datagram, addr)


def configure(port: int, timeout_s: float = TIMEOUT_S) -> ModbusConfig:
    return ModbusConfig.model_validate(
        {"kind": "modbus", "endpoint": f"udp://127.0.0.1:{port}", "timeout": f"{round(timeout_s * 1000)}ms"}
    )


@asynccontextmanager
async def connected(device: Device, timeout_s: float = TIMEOUT_S) -> AsyncIterator[Connection]:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: device, local_addr=("127.0.0.1", 0))
    connection = await open_connection(configure(transport.get_extra_info("sockname")[1], timeout_s))
    try:
        yield connection
    finally:
        await connection.aclose()
        transport.close()
        await asyncio.sleep(0)


async def is_right(connection: Connection, start: int, length: int = 3) -> bool:
    raw = await connection.read(Span(1, 3, start, length))
    return np.frombuffer(raw, dtype=">u2").tolist() == list(range(start, start + length))


async def test_the_answer_is_the_bytes_that_were_asked_for() -> None:
    async with connected(Device(), timeout_s=1) as connection:
        for function in (1, 2, 3, 4):
            span = Span(7, function, 40, 17)
            assert len(await connection.read(span)) == span.answer_bytes
        assert await is_right(connection, 1000, 125)


async def test_a_late_a_doubled_and_an_overtaking_answer_are_never_the_next_one() -> None:
    def answer(request: Request) -> list[tuple[float, bytes]]:
        right = frame(request, pdu(request))
        return [(TIMEOUT_S * 1.1, right)] if request.start % 2 else [(0.0, right), (0.0, right), (TIMEOUT_S, right)]

    async with connected(Device(answer)) as connection:
        for start in range(0, 12, 2):
            with pytest.raises(NoAnswer):
                await connection.read(Span(1, 3, start + 1, 3))
            assert await is_right(connection, start)


@pytest.mark.parametrize(
    "datagram",
    [b"", b"hello", bytes(7), bytes(300), b"\0\1\0\1\0\3\1\3\0"],
)
async def test_what_is_no_frame_is_no_answer(datagram: bytes) -> None:
    async with connected(Device(lambda request: [(0.0, datagram), (0.01, frame(request, pdu(request)))])) as connection:
        assert await is_right(connection, 5)


@pytest.mark.parametrize(
    ("wrong", "raised"),
    [
        (lambda request: refuse(request, 2), Refused),
        (lambda request: frame(request, pdu(request._replace(count=2))), WrongAnswer),
        (lambda request: frame(request, pdu(request), unit=9), WrongAnswer),
        (lambda request: frame(request, pdu(request._replace(function=4))), WrongAnswer),
        (lambda request: frame(request, pdu(request), tid=request.tid + 7), NoAnswer),
    ],
)
async def test_an_answer_that_is_none_is_not_used(wrong: Callable[[Request], bytes], raised: type[Exception]) -> None:
    device = Device(lambda request: [(0.0, wrong(request) if request.start == 100 else frame(request, pdu(request)))])
    async with connected(device) as connection:
        with pytest.raises(raised):
            await connection.read(Span(1, 3, 100, 3))
        assert await is_right(connection, 200)


async def test_a_host_that_refuses_the_port_is_noticed_at_once() -> None:
    device = Device(lambda _: [])
    async with connected(device, timeout_s=5) as connection:
        lost = asyncio.Event()
        connection.on_loss(lost.set)
        device.transport.close()
        await asyncio.sleep(0.01)
        began = time.monotonic()
        with pytest.raises(NotConnected, match="refused"):
            await connection.read(Span(1, 3, 0, 3))
        assert time.monotonic() - began < 4
        assert lost.is_set()


async def test_nobody_there_is_not_connected_in_time() -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
    began = time.monotonic()
    with pytest.raises(NotConnected, match="does not answer"):
        await open_connection(configure(transport.get_extra_info("sockname")[1]))
    assert time.monotonic() - began < 5
    transport.close()
    await asyncio.sleep(0)


async def test_the_library_s_server_is_read() -> None:
    device = SimDevice(id=1, simdata=[SimData(0, values=list(range(100)), datatype=DataType.REGISTERS)])
    server = ModbusUdpServer(device, address=("127.0.0.1", 0))
    await server.serve_forever(background=True)
    try:
        connection = await open_connection(configure(server.transport.get_extra_info("sockname")[1], 1))
        assert await is_right(connection, 20, 50)
        await connection.aclose()
    finally:
        await server.shutdown()


def test_udp_has_no_window() -> None:
    with pytest.raises(ValidationError, match="remove window"):
        ModbusConfig.model_validate({"kind": "modbus", "endpoint": "udp://x", "window": 2})
