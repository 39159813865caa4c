"""OPC UA on tape: publish and read answers as they came out of the secure channel, and an adapter that decodes them again.

Beside them only the layout of its structures is recorded, and of the requests only which tags a read asked for: a request bears the session's
authentication token, and activating a session the password.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from asyncua import ua

from adapters.base import AdapterContext
from adapters.capture import Recorder
from adapters.playback import Exchange, Player
from schemas.errors import NotConnected

from .config import OpcuaConfig
from .decode import Changes, decode_publish, decode_republish
from .layout import dumps, loads
from .plan import compile_plan
from .rows import Rows
from .values import Types
from .wire import MalformedMessage

PUBLISH: Final = 1
READ: Final = 2
REPUBLISH: Final = 3
TYPES: Final = 4
_Positions = npt.NDArray[np.uint32]


class _Answer(Protocol):
    def copy(self) -> _Answer: ...
    def read(self, size: int) -> bytes: ...
    def __len__(self) -> int: ...


async def recorded(
    recorder: Recorder, request: object, positions: _Positions | None, send: Callable[[], Awaitable[_Answer]]
) -> _Answer:
    """`send()`, and its answer on tape where it is one to a (re)publish request or to a read of the tags at `positions`."""
    if isinstance(request, ua.PublishRequest):
        number = recorder.request(b"", mark=PUBLISH)
    elif isinstance(request, ua.RepublishRequest):
        number = recorder.request(b"", mark=REPUBLISH)
    elif positions is not None:
        number = recorder.request(positions.astype("<u4").tobytes(), mark=READ)
    else:
        return await send()
    try:
        answer = await send()
    except Exception as error:
        recorder.failed(number, type(error).__name__, str(error) or type(error).__name__)
        raise
    recorder.answer(number, bytes(answer.copy().read(len(answer))))
    return answer


def keep_types(recorder: Recorder, types: Types) -> None:
    """How the structures of this session are laid out, on tape."""
    recorder.answer(recorder.request(b"", mark=TYPES), dumps(types))


class PlayedOpcua:
    """An adapter that decodes a capture: the values of its publish and read answers, in the order in which they came."""

    def __init__(self, config: OpcuaConfig, context: AdapterContext, player: Player) -> None:
        self._context, self._player = context, player
        self._rows = Rows(context.tags, compile_plan(context.tags, config))

    async def connect(self) -> None:
        """The next connection of the capture."""
        self._player.open()
        self._rows.types = Types()

    async def batches(self) -> AsyncGenerator[pa.RecordBatch, None]:
        """As the adapter's own; raises NotConnected where the connection ended."""
        session = self._player.session
        assert session is not None, "connect comes first"
        for exchange in sorted(session.first.exchanges, key=lambda one: one.answered_us):
            self._player.at(max(exchange.answered_us, exchange.asked_us))
            if exchange.answer is None:
                if exchange.failure != "unanswered" or exchange.mark != PUBLISH:  # publish requests wait at the server
                    self._player.trouble(exchange.request, exchange.why)
                continue
            try:
                batches = list(self._decoded(exchange, exchange.answer))
            except (MalformedMessage, ValueError, LookupError, struct.error, ua.UaError) as error:
                self._player.trouble(exchange.request, f"{error or type(error).__name__}: {exchange.answer[:60].hex(' ')}")
                continue
            for batch in batches:
                yield batch
        if session.closed_us:
            self._player.at(session.closed_us)
        raise NotConnected(session.closed)

    async def aclose(self) -> None:
        """Nothing is open."""

    def _decoded(self, exchange: Exchange, body: bytes) -> Iterator[pa.RecordBatch]:
        now = self._player.now_us()
        found: Changes | None
        if exchange.mark == TYPES:
            self._rows.types = loads(body)
            return
        if exchange.mark == READ:
            positions = np.frombuffer(exchange.request, "<u4")
            result, found = self._rows.read(positions, body)
        else:
            answer = decode_republish(body, 0) if exchange.mark == REPUBLISH else decode_publish(body)
            result = answer.result if answer.closed is None else answer.closed
            if answer.changes is None and not result & 0x8000_0000:
                return
            found = answer.changes
        if result & 0x8000_0000 or found is None:
            raise ValueError(ua.StatusCode(result).name)
        for batch in (self._rows.overflows(found, now, self._context.name), self._rows.batch(found, now)):
            if batch is not None:
                yield batch
