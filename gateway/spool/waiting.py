"""Rows that were put and are not durable yet, by kind: bounded, in order, and whose turn it is to put more. For the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, NamedTuple

import pyarrow as pa

from schemas.kinds import KINDS, Kind

_SMALL: Final = 64 << 10


def size_of(batch: pa.RecordBatch) -> int:
    """Bytes of memory that a batch needs. Exact sizes cost as much as all the rest of a small put, so only what is large is measured."""
    size = int(batch.get_total_buffer_size())  # a slice counts whole
    return size if size < _SMALL else int(batch.nbytes)


class Put(NamedTuple):
    """One batch that waits for the disk."""

    first: int
    batch: pa.RecordBatch
    bytes: int


class Waiting:
    """The buffers between `put` and the commits."""

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes` is what may wait of each kind before putting more has to wait."""
        self._max_bytes = max_bytes
        self._puts: dict[Kind, deque[Put]] = {kind: deque() for kind in KINDS}
        self._bytes = dict.fromkeys(KINDS, 0)
        self._turns: dict[Kind, deque[asyncio.Future[None]]] = {kind: deque() for kind in KINDS}

    def __bool__(self) -> bool:
        return any(self._puts.values())

    @property
    def bytes(self) -> int:
        """Bytes of all kinds."""
        return sum(self._bytes.values())

    async def turn(self, kind: Kind) -> None:
        """Return when there is room for more of this kind, callers in the order in which they came."""
        turns = self._turns[kind]
        if self._bytes[kind] < self._max_bytes and not turns:
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        turns.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            turns.remove(turn)
            self.next_turn(kind)
            raise
        turns.remove(turn)

    def next_turn(self, kind: Kind) -> None:
        """Let the next caller go on, if there is room."""
        turns = self._turns[kind]
        if turns and not turns[0].done() and self._bytes[kind] < self._max_bytes:
            turns[0].set_result(None)

    def add(self, kind: Kind, first: int, batch: pa.RecordBatch) -> None:
        """Rows that follow the ones added before."""
        put = Put(first, batch, size_of(batch))
        self._puts[kind].append(put)
        self._bytes[kind] += put.bytes

    def all(self, kind: Kind) -> list[Put]:
        """What waits of a kind, in row order."""
        return list(self._puts[kind])

    def done(self, kind: Kind, row: int) -> None:
        """Everything before `row` is durable."""
        puts = self._puts[kind]
        while puts and puts[0].first + puts[0].batch.num_rows <= row:
            self._bytes[kind] -= puts.popleft().bytes
        self.next_turn(kind)
