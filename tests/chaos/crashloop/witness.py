"""What a gateway called durable, written down outside of its reach the moment it did: a file that a kill does not take back.

Records of (kind, row number, time, value), and at the end the point at which the process killed itself, if it did. The last
record may be torn by the kill; it then counts as not said.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from schemas.kinds import KINDS

if TYPE_CHECKING:
    import pyarrow as pa

    from schemas.kinds import Kind

_HEAD = struct.Struct("<4sBxxxI")  # magic, number of the kind, count of rows or bytes of the name
_ROW = np.dtype([("row", "<i8"), ("time", "<i8"), ("value", "<f8")])
_ROWS, _END = b"rows", b"died"

Rows = npt.NDArray[np.void]
"""Rows as they were witnessed: `row`, `time` (µs), `value` (NaN where a kind has none)."""


class Witness:
    """The writing side, in the gateway's process; `put` and `durable` are called on its loop."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        self._waiting: dict[str, deque[Rows]] = {kind: deque() for kind in KINDS}

    def put(self, kind: Kind, first: int, batch: pa.RecordBatch) -> None:
        """Rows were handed to the spool."""
        rows = np.empty(batch.num_rows, _ROW)
        rows["row"] = np.arange(first, first + batch.num_rows)
        rows["time"] = batch.column("time").cast("int64").to_numpy()
        rows["value"] = batch.column("value").to_numpy(zero_copy_only=False) if kind == "telemetry" else np.nan
        self._waiting[kind].append(rows)

    def durable(self, kind: Kind, end: int) -> None:
        """Everything of this kind below `end` is durable, says the spool."""
        waiting, told = self._waiting[kind], []
        while waiting and waiting[0]["row"][0] < end:
            rows = waiting.popleft()
            if rows["row"][-1] >= end:
                waiting.appendleft(rows[rows["row"] >= end])
                rows = rows[rows["row"] < end]
            told.append(rows)
        if told:
            whole = np.concatenate(told)
            os.write(self._fd, _HEAD.pack(_ROWS, KINDS.index(kind), len(whole)) + whole.tobytes())

    def died_at(self, point: str) -> None:
        """The last word, right before the process kills itself."""
        os.write(self._fd, _HEAD.pack(_END, 0, len(point.encode())) + point.encode())


@dataclass
class Testimony:
    """What was witnessed of one life, or of several."""

    rows: dict[Kind, list[Rows]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    died_at: str = ""

    def of(self, kind: Kind) -> Rows:
        """All rows of a kind, in the order in which they became durable."""
        return np.concatenate([np.empty(0, _ROW), *self.rows[kind]])

    def end(self, kind: Kind) -> int:
        """Everything below this row was durable."""
        return max((int(rows["row"][-1]) + 1 for rows in self.rows[kind]), default=0)

    def add(self, other: Testimony) -> None:
        """What another life said."""
        for kind, rows in other.rows.items():
            self.rows[kind] += rows


def read(path: Path) -> Testimony:
    """What one life said, a torn end left out; nothing when it did not live long enough to say anything."""
    found = Testimony()
    for magic, number, body in _records(path.read_bytes() if path.exists() else b""):
        if magic == _END:
            found.died_at = body.decode()
        else:
            found.rows[KINDS[number]].append(np.frombuffer(body, _ROW))
    return found


def _records(data: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    at = 0
    while at + _HEAD.size <= len(data):
        magic, number, count = _HEAD.unpack_from(data, at)
        size = count * _ROW.itemsize if magic == _ROWS else count
        at += _HEAD.size
        if at + size > len(data):
            return
        yield magic, number, data[at : at + size]
        at += size
