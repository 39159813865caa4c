"""Modbus over IP networks: frames with a transaction number, by which an answer finds its request. TCP, TLS and UDP share this.

An answer is used when its number is that of a request under way, and its unit, its function code and the number of its bytes are
those that were asked for. A late one finds no request any more. Retries and reconnects are the caller's. The next request of a
poll goes out where the answer comes in, without waking a task in between: that is most of what a request costs this process.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Final

from schemas.errors import NotConnected

from .exchange import Ask, Identification, NoAnswer, Refused, Trouble, WrongAnswer
from .plan import Span
from .requests import encoded

HEADER: Final = 7  # transaction, protocol, length, unit
LONGEST: Final = 254  # unit and a PDU of 253 bytes (MODBUS Messaging on TCP/IP Implementation Guide V1.0b, 3.1.3)
_BUSY: Final = 6

Take = Callable[[bytes | Trouble], None]
"""Told the data of an answer (of an identification the PDU), or why there is none; at most once."""


class MbapConnection:
    """Requests under way by transaction number; see `exchange.Connection`. A transport sends frames and hands in what it receives."""

    def __init__(self, timeout_s: float) -> None:
        """`timeout_s` is the deadline of one request."""
        self.timeout_s = timeout_s
        self.loss = ""
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, tuple[Ask, Take, float]] = {}  # oldest first, so the first one's deadline is the next
        self._number = 0
        self._timer: asyncio.TimerHandle | None = None
        self._on_loss: Callable[[], None] | None = None

    async def read(self, span: Span) -> bytes:
        """Ask and check the answer."""
        return await self._exchange(span)

    async def identify(self, ask: Identification) -> bytes:
        """Ask and check the answer."""
        return await self._exchange(ask)

    async def read_ahead(self, spans: Sequence[Span], window: int, take: Callable[[int, bytes], None]) -> Mapping[int, Trouble]:
        """See `exchange.ReadsAhead`."""
        if not spans:
            return {}
        run = _Run(self, spans, window, take)
        return await run.finish()

    def on_loss(self, callback: Callable[[], None] | None) -> None:
        """Call this when the connection is lost, instead of what was named before."""
        self._on_loss = callback

    async def aclose(self) -> None:
        """Close the socket."""
        self._on_loss = None
        self._lose("the connection is closed")
        self._close()
        await asyncio.sleep(0)  # the transport lets go of its socket on the loop's next turn

    def send(self, ask: Ask, take: Take) -> None:
        """Put a request on its way."""
        if self.loss:
            take(NotConnected(self.loss))
            return
        number = self._number = (self._number + 1) & 0xFFFF
        self._waiting[number] = ask, take, self._loop.time() + self.timeout_s
        if self._timer is None:
            self._timer = self._loop.call_later(self.timeout_s, self._expire)
        self._write(number.to_bytes(2, "big") + _behind_number(ask))

    def received(self, frame: bytes) -> None:
        """One whole frame came."""
        found = self._waiting.pop(int.from_bytes(frame[:2], "big"), None)
        if found is None:
            return  # late: its request has been given up
        ask, take, _ = found
        try:
            data = checked(frame, ask)
        except (Refused, WrongAnswer) as error:
            take(error)
        else:
            take(data)

    def lost(self, why: str) -> None:
        """The connection is gone, and with it every answer that was waited for."""
        news = not self.loss
        self._lose(why)
        if news and self._on_loss is not None:
            self._on_loss()

    async def _exchange(self, ask: Ask) -> bytes:
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self.send(ask, partial(_settle, answer))
        return await answer

    def _lose(self, why: str) -> None:
        self.loss = self.loss or why
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, {}
        for _, take, _ in waiting.values():
            take(NotConnected(self.loss))

    def _expire(self) -> None:
        self._timer = None
        now = self._loop.time()
        late = []
        for number, (_, _, deadline) in self._waiting.items():
            if deadline > now:
                break
            late.append(number)
        for number in late:
            _, take, _ = self._waiting.pop(number)
            take(NoAnswer("no answer in time"))
        if self._waiting and self._timer is None:
            _, _, deadline = next(iter(self._waiting.values()))
            self._timer = self._loop.call_at(deadline, self._expire)

    def _write(self, frame: bytes) -> None:
        raise NotImplementedError

    def _close(self) -> None:
        raise NotImplementedError


class _Run:
    """Several spans read without a decision in between."""

    def __init__(
        self, connection: MbapConnection, spans: Sequence[Span], window: int, take: Callable[[int, bytes], None]
    ) -> None:
        self._connection, self._spans, self._take = connection, spans, take
        self._window = window
        self._next = self._open = 0
        self._troubles: dict[int, Trouble] = {}
        self._stopped = False
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def finish(self) -> Mapping[int, Trouble]:
        """Send, and wait for the last answer."""
        try:
            for _ in range(min(self._window, len(self._spans))):
                self._send()
            await self._done
        finally:
            self._stopped = True  # cancelled: what still comes belongs to nobody
            self._done.cancel()
        return self._troubles

    def _send(self) -> None:
        if self._stopped or self._next == len(self._spans):
            return
        number = self._next
        self._next += 1
        self._open += 1
        self._connection.send(self._spans[number], partial(self._answered, number))

    def _answered(self, number: int, answer: bytes | Trouble) -> None:
        if self._done.done():
            return
        self._open -= 1
        if isinstance(answer, bytes):
            self._take(number, answer)
        else:
            self._troubles[number] = answer
            if not isinstance(answer, Refused) or (self._window > 1 and answer.code == _BUSY):
                self._stopped = True
        self._send()
        if not self._open:
            self._done.set_result(None)


def checked(frame: bytes, ask: Ask) -> bytes:
    """The data of a whole frame that answers a span, the PDU of one that answers an identification.

    Raises Refused, and WrongAnswer for what is not an answer to it.
    """
    if isinstance(ask, Span):
        head, size = _expected(ask)
        if len(frame) == size and frame[6:9] == head:
            return frame[9:]
    function, pdu = ask.function, frame[HEADER:]
    if frame[6] != ask.unit:
        raise WrongAnswer(f"unit {ask.unit} was asked and unit {frame[6]} answered")
    if pdu[0] == function | 0x80 and len(pdu) == 2:
        raise Refused(pdu[1])
    if pdu[0] & 0x7F != function:
        raise WrongAnswer(f"function code {function} was asked and {pdu[0]} answered: {pdu.hex(' ')[:60]}")
    if isinstance(ask, Span) and len(pdu) >= 2 and pdu[1] == len(pdu) - 2:
        raise WrongAnswer(f"{ask.answer_bytes} bytes were asked and {pdu[1]} answered")
    if not isinstance(ask, Span) and pdu[0] == function and ask.size(pdu) == len(pdu):
        return pdu
    raise WrongAnswer(f"byte count and data disagree: {pdu.hex(' ')[:60]}")


@lru_cache(maxsize=8192)  # the same requests go out poll after poll
def _behind_number(ask: Ask) -> bytes:
    """A request from behind its transaction number on."""
    pdu = encoded(ask)
    return struct.pack(">HHB", 0, len(pdu) + 1, ask.unit) + pdu


@lru_cache(maxsize=8192)
def _expected(span: Span) -> tuple[bytes, int]:
    """Unit, function code and byte count of the answer, and how long its frame is."""
    return bytes((span.unit, span.function, span.answer_bytes)), 9 + span.answer_bytes


def _settle(answer: asyncio.Future[bytes], found: bytes | Trouble) -> None:
    if answer.done():
        return  # given up
    if isinstance(found, bytes):
        answer.set_result(found)
    else:
        answer.set_exception(found)
