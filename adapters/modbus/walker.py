"""Gentle requests to one device: a rest before each, a bound on their number, patience with a busy device or a lost connection."""

from __future__ import annotations

import asyncio
from typing import Final

from schemas.errors import NotConnected

from .connection import open_connection
from .exchange import Connection, NoAnswer, Refused, WrongAnswer
from .options import ModbusProbe
from .plan import Span

NO_ANSWER: Final = -1
NO_PROPER_ANSWER: Final = -2
_BUSY: Final = 6
_MISSED: Final = 3  # requests in a row without an answer
_TRIES: Final = 3


class Enough(Exception):
    """The number of requests is used up."""


class Walker:
    """Gentle requests to one device: a rest before each, a bound on their number, patience with a busy device or a lost connection."""

    def __init__(self, options: ModbusProbe) -> None:
        self._options, self._config = options, options.config
        self._connection: Connection | None = None
        self._reconnects = 3
        self._missed = 0
        self.asked = 0

    async def connection(self) -> Connection:
        """The open connection. Raises NotConnected or ConfigError."""
        if self._connection is None:
            self._connection = await open_connection(self._config)
        return self._connection

    async def rest(self, times: int = 1) -> None:
        """Before each request. Raises Enough when there have been as many as may be."""
        if self.asked >= self._options.requests:
            raise Enough
        self.asked += 1
        await asyncio.sleep(self._options.pause.s * times)

    async def ask(self, span: Span) -> bytes | int:
        """Data, an exception code, `NO_ANSWER`, or `NO_PROPER_ANSWER` for an answer that is none. Raises NotConnected, and Enough."""
        for attempt in range(_TRIES):
            await self.rest(1 + 9 * attempt)
            try:
                data = await (await self.connection()).read(span)
            except Refused as error:
                self._missed = 0
                if error.code != _BUSY:
                    return error.code
            except WrongAnswer:
                self._missed = 0
                if attempt:
                    return NO_PROPER_ANSWER
            except NoAnswer:
                self._missed += 1
                if attempt:
                    return NO_ANSWER
            except NotConnected:
                if not self._reconnects:
                    raise
                self._reconnects -= 1  # some devices hang up instead of refusing
                await self.aclose()
                if attempt:
                    return NO_PROPER_ANSWER
            else:
                self._missed = 0
                return data
        return _BUSY

    @property
    def is_silent(self) -> bool:
        """The last requests were not answered at all."""
        return self._missed >= _MISSED

    async def aclose(self) -> None:
        """Hang up."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.aclose()
