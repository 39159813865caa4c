"""Reading ahead: each answer sends the next request, trouble stops it, and what comes after it was given up belongs to nobody."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from adapters.modbus.config import ModbusConfig
from adapters.modbus.connection import open_connection
from adapters.modbus.exchange import Identification, NoAnswer, ReadsAhead, Refused, WrongAnswer
from adapters.modbus.mbap import MbapConnection
from adapters.modbus.plan import Span
from schemas.errors import NotConnected
from tests.adapters.modbus.devices import Device, Request, frame, pdu, refuse, running
from tests.adapters.modbus.lines import Line, on_tcp
from tests.adapters.modbus.mapped import IDENTITY, Mapped, serving

SPANS = [Span(1, 3, start, 3) for start in range(0, 200, 10)]


class Taken(dict[int, list[int]]):
    """Registers by position of the span."""

    def take(self, at: int, data: bytes) -> None:
        assert at not in self, "an answer is taken once"
        self[at] = np.frombuffer(data, dtype=">u2").tolist()

    def right(self, spans: list[Span]) -> bool:
        return all(registers == list(range(spans[at].start, spans[at].end)) for at, registers in self.items())


@asynccontextmanager
async def connected(device: Device, timeout_s: float = 0.15) -> AsyncIterator[MbapConnection]:
    async with running(device):
        entry = {"kind": "modbus", "endpoint": device.endpoint, "timeout": f"{round(timeout_s * 1000)}ms"}
        connection = await open_connection(ModbusConfig.model_validate(entry))
        assert isinstance(connection, MbapConnection)
        try:
            yield connection
        finally:
            await connection.aclose()


@pytest.mark.parametrize("window", [1, 3, 8, 64])
async def test_every_span_is_taken_once_and_right_and_never_more_than_the_window_is_asked(window: int) -> None:
    async with connected(Device(), timeout_s=2) as connection:
        for _ in range(3):
            taken = Taken()
            assert await connection.read_ahead(SPANS, window, taken.take) == {}
            assert taken.keys() == set(range(len(SPANS)))
            assert taken.right(SPANS)
        assert await connection.read_ahead([], window, taken.take) == {}


async def test_one_at_a_time_is_one_at_a_time() -> None:
    device = Device(delay_s=0.002)
    async with connected(device, timeout_s=2) as connection:
        run = asyncio.ensure_future(connection.read_ahead(SPANS, 1, Taken().take))
        while not run.done():
            assert len(connection._waiting) <= 1
            await asyncio.sleep(0.0005)
    assert [request.start for request in device.requests] == [span.start for span in SPANS]


@pytest.mark.parametrize(("code", "window", "stops"), [(2, 1, False), (2, 4, False), (6, 1, False), (6, 4, True)])
async def test_a_refusal_goes_on_unless_the_device_is_busy_with_several(code: int, window: int, stops: bool) -> None:
    async with connected(Device(lambda r: refuse(r, code) if r.start == 30 else frame(r, pdu(r))), timeout_s=2) as connection:
        taken = Taken()
        troubles = await connection.read_ahead(SPANS, window, taken.take)
    trouble = troubles[3]
    assert isinstance(trouble, Refused)
    assert trouble.code == code
    assert taken.right(SPANS)
    assert (len(taken) < len(SPANS) - 1) == stops


@pytest.mark.parametrize("window", [1, 4])
@pytest.mark.parametrize(
    ("wrong", "kind"),
    [(lambda _: None, NoAnswer), (lambda r: frame(r, pdu(r._replace(count=2))), WrongAnswer)],
)
async def test_an_answer_that_is_missing_or_none_stops_it(window: int, wrong: object, kind: type[Exception]) -> None:
    def answer(request: Request) -> bytes | None:
        return wrong(request) if request.start == 30 else frame(request, pdu(request))  # type: ignore[operator,no-any-return]

    async with connected(Device(answer)) as connection:
        taken = Taken()
        troubles = await connection.read_ahead(SPANS, window, taken.take)
        assert {at: type(trouble) for at, trouble in troubles.items()} == {3: kind}
        assert taken.right(SPANS)
        assert window > 1 or taken.keys() == {0, 1, 2}
        assert connection._waiting == {}
        assert len(await connection.read(SPANS[5])) == 6


@pytest.mark.parametrize("window", [1, 4])
async def test_what_comes_after_it_was_cancelled_is_taken_by_nobody(window: int) -> None:
    async with connected(Device(delay_s=0.02), timeout_s=1) as connection:
        for start in (0, 1000, 2000):
            spans = [Span(1, 3, start + 10 * n, 3) for n in range(10)]
            taken = Taken()
            run = asyncio.ensure_future(connection.read_ahead(spans, window, taken.take))
            await asyncio.sleep(0.03)
            run.cancel()
            await asyncio.wait([run])
            before = len(taken)
            again = Taken()
            assert await connection.read_ahead(spans, window, again.take) == {}
            assert again.right(spans)
            assert len(taken) == before


@pytest.mark.parametrize("window", [1, 4])
async def test_a_lost_connection_ends_it_at_once(window: int) -> None:
    device = Device(lambda request: None if request.start >= 50 else frame(request, pdu(request)))
    async with connected(device, timeout_s=5) as connection:
        run = asyncio.ensure_future(connection.read_ahead(SPANS, window, Taken().take))
        await asyncio.sleep(0.1)
        began = time.monotonic()
        device.clients[0].close()
        troubles = await run
        assert time.monotonic() - began < 4
        assert {type(trouble) for trouble in troubles.values()} == {NotConnected}
        troubles = await connection.read_ahead(SPANS, window, Taken().take)
        assert {type(trouble) for trouble in troubles.values()} == {NotConnected}


async def test_many_requests_keep_nothing() -> None:
    """Transaction numbers come round, and neither timers nor requests pile up."""
    async with connected(Device(), timeout_s=5) as connection:
        connection._number = 0xFFFF - 5
        taken = Taken()
        assert await connection.read_ahead(SPANS, 4, taken.take) == {}
        assert taken.right(SPANS)
        assert connection._waiting == {}
        for _ in range(50):
            assert await connection.read_ahead(SPANS, 1, Taken().take) == {}
        assert len(connection._loop._scheduled) < 5  # type: ignore[attr-defined]


async def test_an_identification_is_the_whole_answer_and_anything_else_is_none() -> None:
    answers: list[bytes | None] = [
        None,
        bytes((43, 14, 1, 1, 0, 0, 9, 0, 1)) + b"x",
        bytes((43, 14)),
        bytes((0xAB, 1)),
        bytes((3, 2, 0, 0)),
    ]
    device = Mapped({}, identity=IDENTITY, answer=lambda _unit, _pdu: answers[0])
    async with serving(device):
        connection = await open_connection(
            ModbusConfig.model_validate({"kind": "modbus", "endpoint": device.endpoint, "timeout": "1s"})
        )
        ask = Identification(1, 1, 0)
        assert (await connection.identify(ask))[:4] == bytes((43, 14, 1, 0x82))
        for raised in (WrongAnswer, WrongAnswer, Refused, WrongAnswer):
            answers.pop(0)
            with pytest.raises(raised):
                await connection.identify(ask)
        await connection.aclose()


async def test_a_serial_line_does_not_read_ahead() -> None:
    async with on_tcp(Line()) as line:
        connection = await open_connection(ModbusConfig.model_validate({"kind": "modbus", "endpoint": line.endpoint}))
        assert not isinstance(connection, ReadsAhead)
        await connection.aclose()
