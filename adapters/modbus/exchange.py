"""What every transport offers: an open connection on which one task reads spans, and the ways in which a read can fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from .plan import Span


class Refused(Exception):
    """The device answered with a Modbus exception."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exception {code}")
        self.code = code


class NoAnswer(Exception):
    """No answer within the deadline. The connection stands."""


class WrongAnswer(Exception):
    """An answer that is not one to the request; nothing of it is used."""


class Connection(Protocol):
    """An open connection. One poll at a time uses it, with one read at a time unless it is TCP; every read has a deadline and gives exactly what was asked for, or raises."""

    async def read(self, span: Span) -> bytes:
        """The data bytes of a span, exactly as many as it asks for. Raises Refused, NoAnswer, WrongAnswer or NotConnected."""
        ...

    @property
    def loss(self) -> str:
        """Why the connection is gone; empty while it stands."""
        ...

    def on_loss(self, callback: Callable[[], None] | None) -> None:
        """Call this when the connection is lost, instead of what was named before."""
        ...

    async def aclose(self) -> None:
        """Close the socket or the serial line. Idempotent."""
        ...
