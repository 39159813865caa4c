"""The readings before an alarm: the last minute of every tag, kept as the arrays of the batches that came, so that it costs nothing.

Batches of few rows are copied behind each other: what a batch takes beside its rows would be most of it, and looking through
thousands of them would hold up the loop. At most `MOST_ROWS` readings are kept, 28 bytes each; where more come in a minute, the context is shorter.
It is no part of the state.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .slots import Bools, Floats, Readings, Times

SPAN_US: Final = 60_000_000
FEW: Final = 1_000
"""Rows of a batch below which it is copied."""
_ROOM: Final = 4 * FEW
"""Rows of a piece that is made of copies."""
MOST_ROWS: Final = 500_000
MOST_AT_ONCE: Final = 100
"""Alarms of one batch that get a context."""
MOST_POINTS: Final = 120
"""Of one alarm; where there are more, the least and the greatest value of each part of the minute."""


@dataclass(frozen=True, slots=True)
class _Piece:
    last_us: int  # the gateway's time of its last row
    seq: Times
    tag: npt.NDArray[np.int32]
    time: Times
    value: Floats

    @property
    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        return self.seq, self.tag, self.time, self.value


class Recent:
    """The readings of the last minute."""

    def __init__(self) -> None:
        self._pieces: deque[_Piece] = deque()
        self._room: list[npt.NDArray[Any]] = []
        self._filled = _ROOM  # rows of `_room` that the last piece shows; all of them where it is another one
        self.rows = 0

    def add(self, readings: Readings) -> None:
        """Keep a batch that is not empty. The arrays of one that is not small are shared, where they are not a part of something larger."""
        n = len(readings)
        lag = readings.batch.column("lag")[n - 1].as_py() or 0
        last = int(readings.time[-1]) + lag * 1000
        arrays = (readings.seq, readings.tag, readings.time, readings.value)
        if n < FEW:
            self._copy(_Piece(last, *arrays))
        else:
            self._filled = _ROOM
            buffer = readings.batch.column("time").buffers()[1]
            if n > MOST_ROWS:
                arrays = tuple(array[-MOST_ROWS:].copy() for array in arrays)  # type: ignore[assignment]
            elif buffer is not None and (buffer.parent is not None or buffer.size > 2 * 8 * n + 64):
                arrays = tuple(array.copy() for array in arrays)  # type: ignore[assignment]
            self._pieces.append(_Piece(last, *arrays))
        self.rows += len(arrays[0])
        while self.rows > MOST_ROWS or self._pieces[0].last_us < last - SPAN_US:
            self.rows -= len(self._pieces.popleft().seq)

    def _copy(self, few: _Piece) -> None:
        n = len(few.seq)
        if self._filled + n > _ROOM:
            self._room = [np.empty(_ROOM, dtype=array.dtype) for array in few.arrays]
            self._filled = 0
            self._pieces.append(few)
        for room, array in zip(self._room, few.arrays, strict=True):
            room[self._filled : self._filled + n] = array
        self._filled += n
        self._pieces[-1] = _Piece(few.last_us, *(room[: self._filled] for room in self._room))

    def explain(self, wanted: Sequence[tuple[int, int, int]]) -> list[str | None]:
        """For each (tag, upto, time) the readings of the minute before `time` (µs), up to row `upto`: JSON [[µs, value], …].

        None where there are none, and for what is beyond the first MOST_AT_ONCE.
        """
        asked = [one for one in wanted if one[0] >= 0][:MOST_AT_ONCE]
        if not asked or not self._pieces:
            return [None] * len(wanted)
        mine: Bools = np.zeros(max(tag for tag, _, _ in asked) + 2, dtype=bool)
        mine[[tag for tag, _, _ in asked]] = True
        parts = [(piece, np.flatnonzero(mine[np.clip(piece.tag, -1, len(mine) - 1)])) for piece in self._pieces]
        tag, seq, time, value = (
            np.concatenate([getattr(piece, name)[rows] for piece, rows in parts]) for name in ("tag", "seq", "time", "value")
        )
        order = np.argsort(tag, kind="stable")
        ends = {one: np.searchsorted(tag[order], [one, one + 1]) for one in {tag for tag, _, _ in asked}}
        found: dict[tuple[int, int, int], str | None] = {}
        for one, upto, until in asked:
            first, last = ends[one]
            rows = order[first:last]
            rows = rows[(seq[rows] <= upto) & (time[rows] <= until) & (time[rows] > until - SPAN_US)]
            found[one, upto, until] = told(time[rows], value[rows]) if len(rows) else None
        return [found.get(one) for one in wanted]


def told(time: Times, value: Floats) -> str:
    """JSON [[µs, value], …], at most MOST_POINTS; a value that is no number is null."""
    if len(time) > MOST_POINTS:
        time, value = _thinned(time, value)
    pairs = zip(time.tolist(), value.tolist(), strict=True)
    return json.dumps([[at, one if math.isfinite(one) else None] for at, one in pairs], separators=(",", ":"))


def series(context: str) -> list[tuple[int, float]]:
    """The inverse; NaN is no number."""
    return [(int(at), float("nan") if one is None else float(one)) for at, one in json.loads(context)]


def _thinned(time: Times, value: Floats) -> tuple[Times, Floats]:
    chosen: set[int] = set()
    for part in np.array_split(np.arange(len(time)), MOST_POINTS // 2):
        finite = part[np.isfinite(value[part])]
        chosen |= (
            {int(finite[np.argmin(value[finite])]), int(finite[np.argmax(value[finite])])} if len(finite) else {int(part[0])}
        )
    chosen |= {len(time) - 1} if len(chosen) < MOST_POINTS else set()
    kept = sorted(chosen)
    return time[kept], value[kept]


def tag_of(contributions: str | None, asset: str, tags: dict[str, int]) -> int | None:
    """The tag that contributes most, by its path or its name within the asset; None where nobody says."""
    if not contributions:
        return None
    try:
        shares = json.loads(contributions)
    except ValueError:
        return None
    if not isinstance(shares, dict):
        return None
    for name, _ in sorted(shares.items(), key=lambda one: -abs(one[1]) if isinstance(one[1], (int, float)) else 0.0):
        found = tags.get(name, tags.get(f"{asset}/{name}"))
        if found is not None:
            return found
    return None
