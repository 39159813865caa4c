"""What every transport offers: an open connection on which one task reads spans, and the ways in which a read can fail."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from schemas.errors import NotConnected

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


class Noise(WrongAnswer):
    """Bytes on a serial line that are not a sound frame of the one that was asked; they need not come from it."""


Trouble = Refused | NoAnswer | WrongAnswer | NotConnected
"""Every way in which a read can end without data."""


class Identification(NamedTuple):
    """Read Device Identification (function code 43, MEI type 14): objects from `first` on, of the basic (1) or regular (2) ones."""

    unit: int
    level: int
    first: int

    @property
    def function(self) -> int:
        """43, "encapsulated interface transport"."""
        return 43

    def size(self, pdu: bytes) -> int:
        """How long the answer is that begins like this; 0 while too little of it is there to tell."""
        if len(pdu) < 7:
            return 0
        end = 7
        for _ in range(pdu[6]):
            if len(pdu) < end + 2:
                return 0
            end += 2 + pdu[end + 1]
        return end


class Ask(Protocol):
    """A request as the framings see it: a span, or an identification."""

    @property
    def unit(self) -> int: ...
    @property
    def function(self) -> int: ...
    def size(self, pdu: bytes) -> int: ...
    def __hash__(self) -> int: ...


class Connection(Protocol):
    """An open connection. One poll at a time uses it, with one read at a time unless it is TCP; every read has a deadline and gives exactly what was asked for, or raises."""

    async def read(self, span: Span) -> bytes:
        """The data bytes of a span, exactly as many as it asks for. Raises Refused, NoAnswer, WrongAnswer or NotConnected."""
        ...

    async def identify(self, ask: Identification) -> bytes:
        """The whole answer, its function code included. Raises as `read` does."""
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


@runtime_checkable
class ReadsAhead(Protocol):
    """A connection that sends the next request as soon as an answer is there, before anybody has looked at it."""

    async def read_ahead(self, spans: Sequence[Span], window: int, take: Callable[[int, bytes], None]) -> Mapping[int, Trouble]:
        """Read spans in their order, `window` of them at a time, and hand the data of each to `take`, by its position.

        Returns what went wrong, by position. After an answer that is missing or none no further span is asked for, so one that is
        neither taken nor in trouble was not read.
        """
        ...
