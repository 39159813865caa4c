"""What stands between the bytes of a server and asyncua's decoder: no count, length or depth in them costs more than the bytes do.

asyncua believes what a message says of itself. A negative length moves its reading position back, so that a few bytes are read for
ever; an array of nulls has no bytes at all and two thousand million elements; dimensions make up elements (all with 2.1.0). Publish and read responses are
decoded by `decode`, which counts first; everything else (sessions, channels, monitored items, browse paths) passes through here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from asyncua.common.connection import SecureConnection
from asyncua.common.utils import Buffer
from asyncua.ua import Message, ua_binary

from .wire import MalformedMessage

MAX_FIELDS: Final = 100_000
"""Fields that asyncua may decode of one message: a tenth of a second of work. A thousand browsed references have 20,000."""
_FIELDS_PER_BYTE: Final = 4  # a field has a byte or follows a length that has four; the header is read twice


class GuardedBuffer(Buffer):  # type: ignore[misc]
    """asyncua's buffer, in which nothing is read backwards and no more often than its bytes allow. Raises MalformedMessage."""

    def __init__(self, data: bytes, start_pos: int = 0, size: int = -1, left: list[int] | None = None) -> None:
        """`left` is how many fields may still be read, shared with the buffers that are copied from this one."""
        super().__init__(data, start_pos, size)
        self._left = [min(MAX_FIELDS, _FIELDS_PER_BYTE * len(data) + 64)] if left is None else left

    def spend(self) -> None:
        """One field is decoded."""
        self._left[0] -= 1
        if self._left[0] < 0:
            raise MalformedMessage("a message says that it holds more than its bytes can")

    def read(self, size: int) -> bytes:
        """As asyncua's."""
        self.spend()
        if size < 0:
            raise MalformedMessage(f"a length of {size} bytes")
        return bytes(super().read(size))

    def skip(self, size: int) -> None:
        """As asyncua's."""
        if size < 0:
            raise MalformedMessage(f"a length of {size} bytes")
        super().skip(size)

    def copy(self, size: int = -1) -> GuardedBuffer:
        """As asyncua's; -1 is all that is left."""
        if size < -1:
            raise MalformedMessage(f"a length of {size} bytes")
        return GuardedBuffer(self._data, self._cur_pos, self._size if size == -1 or size > self._size else size, self._left)


class _GuardedMessage(Message):  # type: ignore[misc]
    def body(self) -> GuardedBuffer:
        """The body of all chunks."""
        return GuardedBuffer(b"".join(chunk.Body for chunk in self._chunks))


class GuardedConnection(SecureConnection):  # type: ignore[misc]
    """asyncua's secure channel; the messages that come out of it have a `GuardedBuffer` as their body."""

    def _receive(self, msg: object) -> _GuardedMessage | None:
        message = super()._receive(msg)
        return None if message is None else _GuardedMessage(message._chunks)


def _null(data: object) -> None:
    """A null has no bytes; it costs a field all the same."""
    if isinstance(data, GuardedBuffer):
        data.spend()


def _reshape(flat: object, dimensions: Sequence[int] | None) -> object:
    """A matrix has as many elements as its dimensions say (OPC 10000-6, 5.2.2.16); asyncua would make up those that are missing."""
    if not isinstance(flat, list) or not dimensions or min(dimensions) < 0 or math.prod(dimensions) != len(flat):
        raise MalformedMessage("the dimensions of an array do not fit its elements")
    return _original(flat, dimensions) if flat else flat


# The two places where elements are made without a look at the buffer. Decoders of types are built once, so this comes before them.
_original: Final[Callable[[list[object], Sequence[int]], object]] = ua_binary._reshape
ua_binary._reshape = _reshape
ua_binary.Primitives.Null.unpack = _null
ua_binary._create_uatype_deserializer.cache_clear()
ua_binary._create_uatype_array_deserializer.cache_clear()
