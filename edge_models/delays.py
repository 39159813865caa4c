"""On-delay, off-delay and hysteresis of many subjects at once: from scores to the rows at which an alarm comes or goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from .base import AlarmConfig
from .slots import Bools, Floats, Index, Times

IDLE: Final = 0  # normal
PENDING: Final = 1  # abnormal for less than on_delay
ACTIVE: Final = 2  # in alarm
LEAVING: Final = 3  # in alarm, normal for less than off_delay


@dataclass(frozen=True, slots=True)
class Turn:
    """At this row of the batch the alarm of this subject comes, or goes."""

    row: int
    subject: int
    comes: bool
    onset_seq: int
    onset_time: int


class Delays:
    """The state of one alarm for subjects 0 … size-1. Waiting is measured in the time of the rows.

    A score at or above its limit is abnormal, one below the limit less the hysteresis is normal, one between keeps what was, and
    NaN says nothing. A time that runs backwards (a clock was set) begins the wait anew. 25 bytes a subject.
    """

    def __init__(self, size: int, config: AlarmConfig) -> None:
        self._on_us, self._off_us, self._hysteresis = config.on_delay.us, config.off_delay.us, config.hysteresis
        self.state = np.zeros(size, dtype=np.int8)
        self.t0 = np.zeros(size, dtype=np.int64)  # since when it has been pending or leaving
        self.onset_seq = np.zeros(size, dtype=np.int64)
        self.onset_time = np.zeros(size, dtype=np.int64)
        self._busy = 0  # subjects that are not idle

    def grow(self, size: int) -> None:
        """Room for at least `size` subjects."""
        more = size - len(self.state)
        if more > 0:
            self.state = np.append(self.state, np.zeros(more, dtype=np.int8))
            self.t0, self.onset_seq, self.onset_time = (
                np.append(array, np.zeros(more, dtype=np.int64)) for array in (self.t0, self.onset_seq, self.onset_time)
            )

    def is_quiet(self, score: Floats, limit: Floats) -> bool:
        """True when nothing is waiting and no score reaches its limit: then there is nothing to do."""
        return not self._busy and not (score >= limit).any()

    def turns(
        self, subject: Index, seq: npt.NDArray[np.int64], time: Times, score: Floats, limit: Floats, shut: Bools | None
    ) -> list[Turn]:
        """Take n rows in order. `shut` marks rows whose gate is shut: there an alarm goes at once and none comes."""
        above, normal = score >= limit, score < limit - self._hysteresis
        if shut is None:
            shut = np.zeros(len(score), dtype=bool)
        else:
            above, normal = above & ~shut, normal & ~shut
        state, waited = self.state[subject], time - self.t0[subject]
        moves = (
            ((state == IDLE) & above)
            | ((state == PENDING) & (normal | shut | (waited < 0) | (above & (waited >= self._on_us))))
            | ((state == ACTIVE) & (normal | shut))
            | ((state == LEAVING) & (shut | (waited < 0) | (normal & (waited >= self._off_us)) | ~(normal | np.isnan(score))))
        )
        if not moves.any():
            return []
        # Whoever moves is followed row by row; no row of this batch changes anything for the others.
        moving = np.zeros(len(self.state), dtype=bool)
        moving[subject[moves]] = True
        rows = np.flatnonzero(moving[subject])
        turns = []
        for row, at, t, s, is_above, is_normal, is_shut, known in zip(
            rows.tolist(), subject[rows].tolist(), time[rows].tolist(), seq[rows].tolist(), above[rows].tolist(),
            normal[rows].tolist(), shut[rows].tolist(), (~np.isnan(score[rows])).tolist(), strict=True,
        ):  # fmt: skip
            comes = self._shut(at) if is_shut else self._step(at, t, s, is_above, is_normal) if known else None
            if comes is not None:
                turns.append(Turn(row, at, comes, int(self.onset_seq[at]), int(self.onset_time[at])))
        return turns

    def _shut(self, at: int) -> bool | None:
        was = self.state[at]
        self.put(at, IDLE)
        return False if was in (ACTIVE, LEAVING) else None

    def _step(self, at: int, time: int, seq: int, above: bool, normal: bool) -> bool | None:
        """One row: True when the alarm comes, False when it goes, None when neither."""
        state = int(self.state[at])
        if state == IDLE:
            if not above:
                return None
            self.t0[at] = self.onset_time[at] = time
            self.onset_seq[at] = seq
            state = PENDING
        elif state == ACTIVE:
            if not normal:
                return None
            self.t0[at] = time
            state = LEAVING
        self.t0[at] = min(time, int(self.t0[at]))
        waited = time - int(self.t0[at])
        turn = None
        if state == PENDING:
            if normal:
                state = IDLE
            elif above and waited >= self._on_us:
                state, turn = ACTIVE, True
        elif not normal:
            state = ACTIVE
        elif waited >= self._off_us:
            state, turn = IDLE, False
        self.put(at, state)
        return turn

    def put(self, at: int, state: int) -> None:
        """Set the state of one subject."""
        self._busy += int(state != IDLE) - int(self.state[at] != IDLE)
        self.state[at] = state

    def waiting(self) -> list[tuple[int, int, int, int, int]]:
        """Everything that is not idle: subject, state, t0, onset_seq, onset_time. `put_back` takes the four behind the subject."""
        at = np.flatnonzero(self.state)
        columns = (at, self.state[at], self.t0[at], self.onset_seq[at], self.onset_time[at])
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def put_back(self, at: int, state: int, t0: int, onset_seq: int, onset_time: int) -> None:
        """Restore one subject."""
        self.put(at, state)
        self.t0[at], self.onset_seq[at], self.onset_time[at] = t0, onset_seq, onset_time
