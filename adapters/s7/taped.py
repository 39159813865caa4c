"""An S7 connection on tape: recorded while it is used, or played from a capture in place of a PLC.

On tape are the frames as they went out, but for the PDU reference, which is a counter and left out (zero), and the PDUs that came.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from adapters.capture import Recorder
from adapters.playback import Player
from schemas.errors import NotConnected

from .connection import Connection

_NO_REFERENCE = b"\0\0"


class RecordedConnection(Connection):
    """A connection that tells a recorder. `directory` holds what is remembered of refused addresses."""

    def __init__(self, peer: str, recorder: Recorder) -> None:
        super().__init__(peer)
        self._recorder = recorder
        self._greeted = False

    async def begin(self, directory: Path) -> None:
        """The connection stands: the record begins."""
        self._greeted = True
        await self._recorder.opened(directory, pdu=self.pdu, window=self.window)

    async def exchange(self, frames: Sequence[tuple[bytes, bytes]], *, timeout_s: float) -> list[bytes]:
        """As the connection's own."""
        if not self._greeted:
            return await super().exchange(frames, timeout_s=timeout_s)
        numbers = [self._recorder.request(head + _NO_REFERENCE + tail) for head, tail in frames]
        try:
            answers = await super().exchange(frames, timeout_s=timeout_s)
        except NotConnected as error:
            for number, partial in zip(numbers, self._answers or [b""] * len(numbers), strict=False):
                if partial:
                    self._recorder.answer(number, partial)
                else:
                    self._recorder.failed(number, "NotConnected", str(error))
            raise
        for number, answer in zip(numbers, answers, strict=True):
            self._recorder.answer(number, answer)
        return answers

    async def aclose(self) -> None:
        """Close the connection."""
        if self._greeted:
            self._greeted = False
            self._recorder.closed(str(self.error or "closed by the gateway"))
        await super().aclose()


class PlayedConnection(Connection):
    """Answers from a capture."""

    def __init__(self, player: Player) -> None:
        super().__init__("the capture")
        session = player.open()
        self._player = player
        self.pdu, self.window = int(session.facts["pdu"]), int(session.facts["window"])

    async def exchange(self, frames: Sequence[tuple[bytes, bytes]], *, timeout_s: float) -> list[bytes]:
        """What was answered to these requests. Raises NotConnected where the connection was lost."""
        answers = []
        for head, tail in frames:
            found = self._player.ask(head + _NO_REFERENCE + tail)
            if found.answer is None:
                self.error = self.error or NotConnected(found.why)
                raise self.error
            answers.append(found.answer)
        return answers

    def end(self, message: str) -> None:
        """What the adapter finds wrong with an answer."""
        if message != "closed":
            self._player.trouble(b"", message)
        super().end(message)


async def connection_of(
    tape: Recorder | Player | None,
    directory: Path,
    open_connection: Callable[[Callable[[str], Connection]], Awaitable[Connection]],
) -> Connection:
    """The connection that `open_connection` opens, recorded where there is a recorder; of a player the one that was recorded.

    Raises NotConnected, and EndOfStream behind the last connection of a capture.
    """
    if isinstance(tape, Player):
        return PlayedConnection(tape)
    if tape is None:
        return await open_connection(Connection)
    connection = await open_connection(lambda peer: RecordedConnection(peer, tape))
    assert isinstance(connection, RecordedConnection)
    try:
        await connection.begin(directory)
    except BaseException:  # cancelled: nobody else knows of the connection yet
        await connection.aclose()
        raise
    return connection
