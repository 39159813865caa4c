"""One connection to a PLC: the handshake, several requests in flight, a deadline for each, and the peer's end seen at once."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from typing import Final

from schemas.errors import NotConnected

from .wire import Malformed, parse_setup, setup_request

ASKED_PDU: Final = 960
ASKED_WINDOW: Final = 8
_CONFIRM: Final = 0xD0
_DATA: Final = 0xF0
_REFUSE: Final = (0x80, 0x70)  # COTP disconnect request, error
_MAX_FRAME: Final = 8192


class Connection(asyncio.Protocol):
    """An ISO-on-TCP connection after `open_connection`. `pdu` in bytes and `window` in requests are what the PLC granted.

    One task calls `exchange`. Whatever goes wrong ends the connection for good and makes `exchange` raise NotConnected: a late
    answer can never be taken for the next one.
    """

    def __init__(self, peer: str) -> None:
        self.pdu, self.window = ASKED_PDU, 1
        self.error: NotConnected | None = None
        self.foreign = False  # what answers is not S7
        self.on_lost: Callable[[], None] | None = None  # called once when the connection ends, whoever ended it
        self._peer = peer
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._fragments = bytearray()
        self._reference = 0
        self._frames: Sequence[tuple[bytes, bytes]] = ()
        self._sent = 0
        self._answers: list[bytes] = []
        self._pending: dict[int, tuple[int, float]] = {}  # PDU reference -> place in `_answers`, deadline
        self._left = 0
        self._done: asyncio.Future[None] | None = None
        self._confirmed: asyncio.Future[None] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._timeout_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def accepted(self) -> bool:
        """Whether the PLC confirmed the transport connection: it knows the TSAP, and with it rack and slot."""
        return self._confirmed.done() and not self._confirmed.cancelled() and self._confirmed.exception() is None

    async def greet(self, tsaps: tuple[int, int]) -> None:
        """COTP connect, then S7 set-up. Raises NotConnected."""
        local, remote = (tsap.to_bytes(2) for tsap in tsaps)
        self._write(b"\x03\0\0\x16\x11\xe0\0\0\0\x01\0\xc0\x01\x0a\xc1\x02" + local + b"\xc2\x02" + remote)
        await self._confirmed
        request = setup_request(ASKED_WINDOW, ASKED_PDU)
        (answer,) = await self.exchange([request], timeout_s=60.0)  # the caller's deadline is shorter
        try:
            window, pdu = parse_setup(answer)
        except (Malformed, ConnectionError) as error:
            raise NotConnected(f"{self._peer}: {error}") from error
        self.window, self.pdu = min(window, ASKED_WINDOW), min(pdu, ASKED_PDU)

    async def exchange(self, frames: Sequence[tuple[bytes, bytes]], *, timeout_s: float) -> list[bytes]:
        """Send requests (their bytes before and behind the PDU reference), up to `window` at a time; the answers in order.

        Each request has `timeout_s` from when it is sent. Raises NotConnected when one has no answer, or the peer goes.
        """
        if self.error is not None:
            raise self.error
        if not frames:
            return []
        self._frames, self._sent, self._left = frames, 0, len(frames)
        self._answers = [b""] * len(frames)
        self._timeout_s = timeout_s
        self._done = self._loop.create_future()
        try:
            for _ in range(min(self.window, len(frames))):
                self._send_next()
            self._timer = self._loop.call_later(timeout_s, self._watch)
            await self._done
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._done = self._timer = None
            self._pending.clear()
        return self._answers

    def end(self, message: str) -> None:
        """Drop the connection; whoever waits gets NotConnected with this message."""
        if self.error is None:
            self.error = NotConnected(f"{self._peer}: {message}")
            for future in (self._done, self._confirmed):
                if future is not None and not future.done():
                    future.set_exception(self.error)
            if not self._confirmed.cancelled() and self._confirmed.done():
                self._confirmed.exception()  # nobody may be waiting any more
            if self.on_lost is not None:
                self.on_lost()
        if self._transport is not None:
            self._transport.abort()

    async def aclose(self) -> None:
        """Drop the connection and wait until the socket is closed. Idempotent."""
        self.end("closed")
        if self._transport is not None:
            await self._closed

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Requests leave at once, and a peer that vanished is found even when nothing is asked of it."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        raw = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        self.end(f"the connection broke: {exc}" if exc else "the PLC closed the connection")
        if not self._closed.done():
            self._closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Cut what came into frames."""
        received = self._received
        received += data
        at = 0
        while len(received) - at >= 4 and self.error is None:
            length = received[at + 2] << 8 | received[at + 3]
            if received[at] != 3 or not 7 <= length <= _MAX_FRAME:
                self.foreign = True
                self.end("what answers there does not speak S7 (ISO on TCP)")
                return
            if len(received) - at < length:
                break
            self._take(bytes(received[at : at + length]))
            at += length
        del received[:at]

    def _take(self, frame: bytes) -> None:
        kind = frame[5]
        if kind == _DATA and frame[4] == 2:
            self._fragments += frame[7:]
            if len(self._fragments) > _MAX_FRAME:
                self.end("the answer is longer than agreed")
            elif frame[6] & 0x80:  # last fragment of the PDU
                pdu, self._fragments = bytes(self._fragments), bytearray()
                self._answer(pdu)
        elif kind == _CONFIRM and not self._confirmed.done():
            self._confirmed.set_result(None)
        elif kind in _REFUSE:
            self.end("the PLC refuses the connection: wrong rack, slot or TSAP, or all its connections are taken")

    def _answer(self, pdu: bytes) -> None:
        if len(pdu) < 6 or pdu[0] != 0x32:
            self.foreign = True
            self.end("what answers there does not speak classic S7")
            return
        found = self._pending.pop(pdu[4] << 8 | pdu[5], None) if pdu[1] in (2, 3) else None
        if found is None:  # not asked for: a PLC may send messages of its own
            return
        self._answers[found[0]] = pdu
        self._left -= 1
        if not self._left:
            if self._done is not None and not self._done.done():
                self._done.set_result(None)
        elif self._sent < len(self._frames):
            self._send_next()

    def _send_next(self) -> None:
        self._reference = self._reference % 0xFFFF + 1
        head, tail = self._frames[self._sent]
        self._pending[self._reference] = (self._sent, self._loop.time() + self._timeout_s)
        self._sent += 1
        self._write(head + self._reference.to_bytes(2) + tail)

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _watch(self) -> None:
        """Runs when the oldest request may be overdue."""
        if not self._pending:
            return
        oldest = next(iter(self._pending.values()))[1]
        if oldest <= self._loop.time():
            self.end(f"no answer within {self._timeout_s:g} s")
        else:
            self._timer = self._loop.call_at(oldest, self._watch)


async def open_connection(
    host: str, port: int, tsaps: tuple[int, int], *, timeout_s: float, make: Callable[[str], Connection] = Connection
) -> Connection:
    """Connect and negotiate within `timeout_s` in all. Raises NotConnected."""
    peer = f"s7://{host}:{port}"
    connection = make(peer)
    try:
        async with asyncio.timeout(timeout_s):
            await asyncio.get_running_loop().create_connection(lambda: connection, host, port)
            await connection.greet(tsaps)
    except BaseException as error:
        await connection.aclose()
        if isinstance(error, TimeoutError):
            raise NotConnected(f"{peer}: no answer within {timeout_s:g} s") from error
        if isinstance(error, OSError):
            why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
            raise NotConnected(f"{peer}: {why}") from error
        raise
    return connection
