"""Bounds what asyncua decodes for us: every answer but those to publish and cyclic read, which `decode.py` takes.

asyncua's decoder trusts counts: it makes an object per element, and an array of nothing takes no byte per element. So an answer is
limited in size, its values are walked over first (`wire.py`), and the decoder is given a buffer that counts its steps.
"""

from __future__ import annotations

from typing import Final

from asyncua.common.utils import Buffer

from . import wire
from .wire import Budget, MalformedMessage

MAX_ANSWER: Final = 4 * 2**20
MAX_READS: Final = 100_000
"""Steps of the decoder, a microsecond each: ten times what 1,000 monitored items or values take. They hold the event loop."""
MAX_BROWSE_READS: Final = 4_000_000
"""Browsing is a command of its own, and 200 folders with 1,000 nodes each are one honest answer of 3 million steps."""

_READ_RESPONSE: Final = 634
_HISTORY_READ_RESPONSE: Final = 667
_HISTORY_DATA: Final = 658
_NULL_ARRAYS: Final = (b"\x80", b"\xc0")


class BoundedBuffer(Buffer):  # type: ignore[misc]
    """asyncua's buffer over one answer. Raises MalformedMessage when decoding takes more steps than an honest answer needs.

    `values_known`: all Variants have been walked over; else an array of nothing that is longer than the rest of the answer is refused.
    """

    def __init__(
        self, data: bytes, start_pos: int = 0, size: int = -1, *, values_known: bool = False, steps: int = MAX_READS
    ) -> None:
        super().__init__(data, start_pos, size)
        self._values_known = values_known
        self._steps = [steps]  # shared with copies
        self._before = b""

    def read(self, size: int) -> bytes:
        """As asyncua's."""
        self._steps[0] -= 1
        if self._steps[0] < 0:
            raise MalformedMessage("an answer takes more steps to decode than it may")
        if size < 0:
            raise MalformedMessage(f"a length of {size}")
        got: bytes = super().read(size)
        if size == 4 and self._before in _NULL_ARRAYS and not self._values_known:
            n = int.from_bytes(got, "little", signed=True)
            if n > len(self):
                raise MalformedMessage(f"an array of {n} nothings")
        self._before = got if size == 1 else b""
        return got

    def copy(self, size: int = -1) -> BoundedBuffer:
        """As asyncua's; steps of the copy count for both."""
        plain = super().copy(size)
        copy = BoundedBuffer(plain._data, plain._cur_pos, plain._size, values_known=self._values_known)
        copy._steps = self._steps
        return copy


def bounded(answer: Buffer, *, browsing: bool = False) -> BoundedBuffer:
    """The same answer for asyncua's decoder. Raises MalformedMessage for one that no honest server sends.

    `browsing` is what we asked for, whatever the answer says that it is.
    """
    size = len(answer)
    data: bytes = answer.copy().read(size)
    kind, result, at = wire.response_body(data)
    if size > MAX_ANSWER and not browsing:
        raise MalformedMessage(f"an answer of {size} bytes")
    known = kind in (_READ_RESPONSE, _HISTORY_READ_RESPONSE)
    if known and not result & 0x8000_0000:
        budget = Budget(MAX_READS)
        walk = _read_result if kind == _READ_RESPONSE else _history_result
        n = wire.count(data, at, 1)
        at += 4
        for _ in range(n):
            budget.take(1)
            at = walk(data, at, budget)
    return BoundedBuffer(data, values_known=known, steps=MAX_BROWSE_READS if browsing else MAX_READS)


def _read_result(data: bytes, at: int, budget: Budget) -> int:
    return wire.data_value_end(data, at, budget=budget)


def _history_result(data: bytes, at: int, budget: Budget) -> int:
    """A status, a continuation point, and an ExtensionObject with the data values (OPC 10000-4, 5.11.3)."""
    at = wire.bytes_end(data, wire.need(data, at, 4))
    kind, body, end = wire.extension_object(data, at)
    if kind == _HISTORY_DATA and body < end:
        n = wire.count(data, body, 1)
        body += 4
        for _ in range(n):
            budget.take(1)
            body = wire.data_value_end(data, body, budget=budget)
        if body > end:
            raise MalformedMessage("a value runs over the end of its history")
    return end
