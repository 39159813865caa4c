"""A Modbus connection on tape: recorded while it is used, or played from a capture in place of a device.

A request on tape is unit and PDU (unit, function code, start, quantity), an answer the PDU: what every transport carries.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, cast

from adapters.capture import Recorder
from adapters.playback import Exchange, Player
from schemas.errors import NotConnected

from .exchange import Connection, Identification, NoAnswer, Noise, ReadsAhead, Refused, Trouble, WrongAnswer
from .plan import Span

AHEAD: Final = 1
"""The mark of a request that was not alone on its way."""
_FAILURES: Final = {"WrongAnswer": WrongAnswer, "Noise": Noise, "NoAnswer": NoAnswer}


async def connection_of(
    tape: Recorder | Player | None, directory: Path, open_connection: Callable[[], Awaitable[Connection]]
) -> Connection:
    """The connection, recorded where there is a recorder; of a player the one that was recorded. Raises EndOfStream behind its last."""
    if isinstance(tape, Player):
        tape.open()
        return PlayedConnection(tape)
    connection = await open_connection()
    if tape is None:
        return connection
    try:
        await tape.opened(directory)
    except BaseException:  # cancelled: nobody else knows of the connection yet
        await connection.aclose()
        raise
    if isinstance(connection, ReadsAhead):
        return RecordedAhead(connection, tape)
    return RecordedConnection(connection, tape)


class RecordedConnection:
    """Passes everything on; see `exchange.Connection`."""

    def __init__(self, connection: Connection, recorder: Recorder) -> None:
        self._connection, self._recorder = connection, recorder
        self._closed = False

    async def read(self, span: Span) -> bytes:
        """As the connection's own."""
        number = self._recorder.request(_request(span))
        try:
            data = await self._connection.read(span)
        except (Refused, NoAnswer, WrongAnswer, NotConnected) as error:
            self._failed(number, span, error)
            raise
        self._recorder.answer(number, _answer(span, data))
        return data

    async def identify(self, ask: Identification) -> bytes:
        """As the connection's own; not on tape."""
        return await self._connection.identify(ask)

    @property
    def loss(self) -> str:
        """Why the connection is gone; empty while it stands."""
        return self._connection.loss

    def on_loss(self, callback: Callable[[], None] | None) -> None:
        """As the connection's own."""
        self._connection.on_loss(callback)

    async def aclose(self) -> None:
        """Close the connection."""
        if not self._closed:
            self._closed = True
            self._recorder.closed(self._connection.loss or "closed by the gateway")
        await self._connection.aclose()

    def _failed(self, number: int, span: Span, error: Exception) -> None:
        if isinstance(error, Refused):
            self._recorder.answer(number, bytes((span.function | 0x80, error.code & 0xFF)))
        else:
            self._recorder.failed(number, type(error).__name__, str(error))


class RecordedAhead(RecordedConnection):
    """A connection that reads several spans at a time. On tape a request so stands where its answer came."""

    async def read_ahead(self, spans: Sequence[Span], window: int, take: Callable[[int, bytes], None]) -> Mapping[int, Trouble]:
        """As the connection's own."""

        def taken(at: int, data: bytes) -> None:
            number = self._recorder.request(_request(spans[at]), mark=AHEAD)
            self._recorder.answer(number, _answer(spans[at], data))
            take(at, data)

        troubles = await cast(ReadsAhead, self._connection).read_ahead(spans, window, taken)
        for at, error in troubles.items():
            self._failed(self._recorder.request(_request(spans[at]), mark=AHEAD), spans[at], error)
        return troubles


class PlayedConnection:
    """Answers from a capture; see `exchange.Connection`."""

    def __init__(self, player: Player) -> None:
        self._player = player
        self.loss = ""

    async def read(self, span: Span) -> bytes:
        """What was answered to this request. Raises as the device's connection did."""
        return self._data(span, self._player.ask(_request(span)))

    async def read_ahead(self, spans: Sequence[Span], window: int, take: Callable[[int, bytes], None]) -> Mapping[int, Trouble]:
        """What was answered to those of these requests that were made ahead."""
        troubles: dict[int, Trouble] = {}
        for at, span in enumerate(spans):
            if self._player.has(_request(span), mark=AHEAD):
                try:
                    data = self._data(span, self._player.ask(_request(span), mark=AHEAD))
                except (Refused, NoAnswer, WrongAnswer, NotConnected) as error:
                    troubles[at] = error
                else:
                    take(at, data)
        return troubles

    async def identify(self, ask: Identification) -> bytes:
        """Never on tape."""
        raise NoAnswer("not in the capture")

    def _data(self, span: Span, found: Exchange) -> bytes:
        answer = found.answer
        if answer is None:
            if found.failure == "NotConnected":
                raise NotConnected(found.why)
            raise _FAILURES.get(found.failure, NoAnswer)(found.why)
        if len(answer) == 2 and answer[0] & 0x80:
            raise Refused(answer[1])
        data = answer[2:]
        if len(answer) < 2 or answer[0] != span.function or len(data) != span.answer_bytes:
            self._player.trouble(found.request, "not the answer to this request")
            raise WrongAnswer("not the answer to this request")
        return data

    def on_loss(self, callback: Callable[[], None] | None) -> None:
        """It is lost where the capture says so, which the schedule tells."""

    async def aclose(self) -> None:
        """Nothing is open."""


def _answer(span: Span, data: bytes) -> bytes:
    return bytes((span.function, len(data) & 0xFF)) + data


def _request(span: Span) -> bytes:
    return struct.pack(">BBHH", span.unit, span.function, span.start, span.length)
