"""Commands that come in as messages: what a person or the cloud may ask of the gateway, how it is written, and where it waits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Final

from schemas.span import Command

if TYPE_CHECKING:
    import structlog

COMMANDS: Final = frozenset({"acknowledge", "shelve", "unshelve", "out_of_service", "in_service"})
MAX_WAITING: Final = 100
"""Commands that a sink holds for the gateway at most."""
_MAX_BYTES: Final = 65_536


def parse(name: str, data: bytes, source: str) -> Command | str:
    """The command, or why it is none. `name` is the last level of the topic, `data` a JSON object of plain values."""
    if name not in COMMANDS:
        return f"unknown command; known are {', '.join(sorted(COMMANDS))}"
    if len(data) > _MAX_BYTES:
        return "too long"
    try:
        arguments = json.loads(data or b"{}")
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"
    if not isinstance(arguments, Mapping) or not all(isinstance(value, (str, int, float, bool)) for value in arguments.values()):
        return "not a JSON object of plain values"
    return Command(name, source, arguments)


class Inbox:
    """The commands of one sink that wait for the gateway, `MAX_WAITING` at most, in the order in which they came. On the loop only."""

    def __init__(self, topic: str, source: str, log: structlog.stdlib.BoundLogger) -> None:
        """Messages below `topic` are commands; `source` is the sink as commands name it, `log` where what is passed over is said."""
        self._prefix, self._source, self._log = f"{topic}/", source, log
        self._waiting: asyncio.Queue[Command | None] = asyncio.Queue(MAX_WAITING + 1)  # the one more is for the end
        self._closed = False

    def message(self, topic: str, data: bytes, retained: bool) -> None:
        """A command, or a warning in the log. One that was retained is old: it was meant for another day."""
        if not topic.startswith(self._prefix):
            return  # amqtt sends retained messages that nobody asked for
        command = None if retained else parse(topic.removeprefix(self._prefix), data, self._source)
        if isinstance(command, Command) and self.put(command):
            return
        reason = command if isinstance(command, str) else "it is retained" if retained else "too many are waiting"
        self._log.warning("command is passed over", topic=topic, error=reason)

    def put(self, command: Command) -> bool:
        """Have one wait; False when there is no room, or nobody listens any more."""
        if self._closed or self._waiting.qsize() >= MAX_WAITING:
            return False
        self._waiting.put_nowait(command)
        return True

    async def commands(self) -> AsyncIterator[Command]:
        """What waits and what comes, over reconnects, until `close`. For one listener."""
        while not self._closed or not self._waiting.empty():
            command = await self._waiting.get()
            if command is None:
                return
            yield command

    def close(self) -> None:
        """Let the listener end behind what waits. Idempotent."""
        if not self._closed:
            self._closed = True
            self._waiting.put_nowait(None)
