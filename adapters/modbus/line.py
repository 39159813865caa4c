"""Modbus on a serial line, or over TCP to a converter: one request at a time, checked, and a line that is left clean.

An answer on a line (RTU or ASCII) has no number that says which request it belongs to. So a request is never followed by another one while its answer may
still come: where one has been given up (no answer in time, or the reader was cancelled), the line must first be quiet for as long as
a device is given to answer, or the late answer must have come and been thrown away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from schemas.errors import NotConnected

from .config import ModbusConfig
from .exchange import Ask, Identification, NoAnswer, Noise, Refused
from .framing import Framing, framing_of
from .plan import Span
from .requests import encoded
from .serial_port import SerialPort
from .timing import Timing, timing_of

_SETTLED_S: Final = 0.05  # quiet after an answer that was none
_NEVER_QUIET: Final = 4  # deadlines
_OPENING_S: Final = 2.0  # a USB adapter takes its time to open, whatever its devices need for an answer


class _Wire(Protocol):
    """What bytes are written to."""

    def write(self, data: bytes) -> None: ...
    def close(self) -> None: ...


class LineConnection(asyncio.Protocol):
    """An open line; see `exchange.Connection`. Several devices on it are asked one after the other."""

    def __init__(self, timeout_s: float, timing: Timing, framing: Framing) -> None:
        """`timeout_s` is what a device is given to begin its answer; the time of the frames on the line comes on top."""
        self._timeout_s, self._timing, self._framing = timeout_s, timing, framing
        self._kept = 2 * framing.longest  # of a line that babbles
        self._loop = asyncio.get_running_loop()
        self._wire: _Wire | None = None
        self._received = b""
        self._heard = float("-inf")  # when the last byte came
        self._asked: Ask | None = None  # the request whose answer may still come
        self._answer: asyncio.Future[bytes] | None = None
        self._request = b""
        self._stray = ""  # what came instead of the answer
        self._judge: asyncio.TimerHandle | None = None
        self._quiet_s = 0.0  # how long the line must be quiet before the next request
        self._changed = asyncio.Event()
        self._loss = ""
        self._on_loss: Callable[[], None] | None = None

    async def read(self, span: Span) -> bytes:
        """Wait for a clean line, ask, check the answer."""
        return (await self._exchange(span))[2:]

    async def identify(self, ask: Identification) -> bytes:
        """Wait for a clean line, ask, check the answer."""
        return await self._exchange(ask)

    async def _exchange(self, ask: Ask) -> bytes:
        await self._clean()
        self._received, self._asked = b"", ask
        self._request = self._framing.frame(ask.unit, encoded(ask))
        self._stray = ""
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self._answer = answer
        deadline = self._loop.call_later(self._timeout_s + self._timing.longest_s(ask), self._expire)
        self._quiet_s = self._timeout_s  # unless all goes well
        try:
            assert self._wire is not None
            self._wire.write(self._request)
            return await answer
        finally:
            deadline.cancel()
            self._stop_judging()
            self._answer = None
            if not answer.done() or answer.cancelled():
                self._heard = self._loop.time()  # given up just now: the quiet time begins

    @property
    def loss(self) -> str:
        """Why the connection is gone; empty while it stands."""
        return self._loss

    def on_loss(self, callback: Callable[[], None] | None) -> None:
        """Call this when the connection is lost, instead of what was named before."""
        self._on_loss = callback

    async def aclose(self) -> None:
        """Close the line."""
        self._on_loss = None
        self._loss = self._loss or "the connection is closed"
        self._let_go()
        await asyncio.sleep(0)  # the transport lets go of its socket on the loop's next turn

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TCP: the socket stands."""
        assert isinstance(transport, asyncio.Transport)
        self._wire = transport

    def opened(self, port: SerialPort) -> None:
        """Serial: the port is open."""
        self._wire = port

    def connection_lost(self, exc: Exception | None) -> None:
        """The line is gone, and with it the answer that was waited for."""
        self._loss = self._loss or f"connection lost: {exc or 'closed by the other side'}"
        self._let_go()
        self._finish(NotConnected(self._loss))
        self._changed.set()
        if self._on_loss is not None:
            self._on_loss()

    def data_received(self, data: bytes) -> None:
        """Look for the answer in what came, which may begin with noise, an echo of the request or an answer nobody waits for."""
        self._heard = self._loop.time()
        self._received = (self._received + data)[-self._kept :]
        self._changed.set()
        ask = self._asked
        if ask is None:
            return
        if not _looks_alike(ask) and self._received.startswith(self._request):  # an adapter that hears itself
            self._received = self._received[len(self._request) :]
        pdu = self._framing.answer(self._received, ask)
        if pdu:
            self._asked, self._quiet_s = None, self._timing.silence_s
            if pdu[0] & 0x80:
                self._finish(Refused(pdu[1]))
            elif self._answer is not None and not self._answer.done():
                self._answer.set_result(pdu)
        elif self._answer is not None and len(self._received) >= 2:
            self._stop_judging()
            pause_s = self._framing.pause_s(self._received) + self._timing.silence_s
            self._judge = self._loop.call_later(pause_s, self._judged)

    def _judged(self) -> None:
        """The answer began and did not go on: mangled, or of another length."""
        self._judge = None
        ask, received = self._asked, self._received
        if ask is None or not self._framing.begins(received, ask):
            return  # not the beginning of the answer, which may still come
        size, data = self._framing.whole(received)
        if size and isinstance(ask, Span):
            # Sound, and not to this request: an answer that came very late. The right one may follow.
            self._received, self._stray = received[size:], f"{ask.answer_bytes} bytes were asked and {data} answered"
            return
        self._asked, self._quiet_s = None, _SETTLED_S
        self._finish(Noise(f"mangled on the line, or of another length: {received.hex(' ')[:60]}"))

    def _expire(self) -> None:
        self._heard = self._loop.time()
        if self._received and not self._stray:
            self._stray = f"not the answer to what was asked: {self._received.hex(' ')[:60]}"
        self._finish(Noise(self._stray) if self._stray else NoAnswer("no answer in time"))

    def _finish(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    async def _clean(self) -> None:
        """Return when nothing of an earlier exchange can come any more. Raises NotConnected, and NoAnswer when that never is."""
        began = self._loop.time()
        patience_s = _NEVER_QUIET * (self._timeout_s + self._framing.longest * self._timing.character_s)
        while True:
            if self._loss or self._wire is None:
                raise NotConnected(self._loss or "the connection is closed")
            now = self._loop.time()
            wait_s = self._heard + self._quiet_s - now
            if wait_s <= 0:
                return
            if now - began > patience_s:
                raise NoAnswer("the line is never quiet")
            self._changed.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _stop_judging(self) -> None:
        if self._judge is not None:
            self._judge.cancel()
            self._judge = None

    def _let_go(self) -> None:
        wire, self._wire = self._wire, None
        self._stop_judging()
        if wire is not None:
            wire.close()


async def open_line_tcp(config: ModbusConfig) -> LineConnection:
    """The frames of a serial line through a TCP socket. Raises OSError or TimeoutError."""
    async with asyncio.timeout(config.timeout.s):
        _, connection = await asyncio.get_running_loop().create_connection(lambda: _line(config), config.host, config.port)
    return connection


async def open_line(config: ModbusConfig) -> LineConnection:
    """A serial line of this machine. Raises OSError, NotConnected, or ConfigError for settings that the port does not have."""
    connection = _line(config)
    limit_s = max(config.timeout.s, _OPENING_S)
    try:
        async with asyncio.timeout(limit_s):
            port = await SerialPort.open(config.host, config.line, connection, bits=7 if config.is_ascii else 8)
    except TimeoutError as error:
        raise NotConnected(f"the port does not open within {limit_s:g} s") from error
    connection.opened(port)
    return connection


def _line(config: ModbusConfig) -> LineConnection:
    return LineConnection(config.timeout.s, timing_of(config.line, ascii_=config.is_ascii), framing_of(config.is_ascii))


def _looks_alike(ask: Ask) -> bool:
    """The answer may be as long as the request, so that the one must not be thrown away for the echo of the other."""
    return isinstance(ask, Span) and ask.answer_bytes == 3
