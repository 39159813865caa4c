"""The short way of `stuck`: polls of all tags of which most are well, told by a few vector operations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from .slots import Bools, Floats, Index, Plan, Readings, Times
from .stuck_state import DECAY, FORGET, LIMIT, State, stretch

ALL_ZERO: Final = np.zeros(0)
"""Scores of a poll in which nothing is held: 0 each."""
_NONE: Final = np.zeros(0, dtype=np.intp)
_MOST_APART: Final = 4  # one in so many tags may be followed the long way


@dataclass(slots=True)
class Pace:
    """That the last batch was a poll of all tags. What it leaves is, bit for bit, what the long way leaves.

    Tags that are not well (bad, away, gated, not warm) stand `apart`: the vector operations run over them too, which is cheaper than to copy
    all others, and then they are put back and followed the long way.
    """

    state: State
    arrived: int  # gateway time of that poll
    newest: int  # no reading is newer
    apart: Index  # slots that were not well behind it, ascending
    seldom: Bools = field(default_factory=lambda: np.zeros(0, dtype=bool))  # which slots have changed too seldom to be scored
    few: Index = field(default_factory=lambda: _NONE)  # they
    rest: Index | slice = field(default_factory=lambda: slice(None))  # all others
    even: bool = False  # every tag of the rest changed in it, at one time, none of the few did, and none stood apart
    one: bool = False  # the longest holds are one number for all of the rest, and so are the longest gaps
    due_is_old: bool = False  # `due` of those that are well is that of a poll before the last one
    # While polls are even and differ in nothing but values and row numbers, they are only counted here:
    polls: int = 0
    hold: float = 0.0
    gap: float = 0.0
    blank: Floats = field(default_factory=lambda: np.zeros(0))  # the scores where nothing is held
    value: Floats = field(default_factory=lambda: np.zeros(0))
    seq: Times = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @classmethod
    def of(cls, state: State, newest: int) -> Pace | None:
        """Behind a poll of all tags in the order of their slots; `newest` is its newest time. None where too few are well."""
        s, clock = state, int(state.clock[0])
        if len(s.value) == 0 or not s.arrived.min() == s.arrived.max() == clock or s.last.max() > newest:
            return None
        apart = np.flatnonzero(~s.well(slice(None)))
        if len(apart) * _MOST_APART > len(s.value):
            return None
        made = cls(state, clock, newest, apart)
        made._part()
        return made

    def stand_apart(self, readings: Readings, gateway: Times, plan: Plan, jump_us: int) -> Index | None:
        """Slots of this poll, ascending, that are to be followed the long way; None when all are, for it is no such poll."""
        if (
            plan.rows is not None
            or plan.count != len(self.state.value)
            or len(plan.rounds) != 1
            or not isinstance(plan.rounds[0].at, slice)
            or readings.oldest <= self.newest
        ):
            return None
        now = int(gateway[0])
        alike = readings.oldest == readings.newest if gateway is readings.time else bool((gateway == now).all())
        if not alike or not 0 < now - self.arrived <= jump_us:
            return None
        if readings.usable is None:
            return self.apart
        stands = ~readings.usable
        stands[self.apart] = True
        apart = np.flatnonzero(stands)
        return apart if len(apart) * _MOST_APART <= plan.count else None

    def take(self, readings: Readings, now: int, apart: Index) -> Floats | None:
        """Scores of the poll at `now` (gateway time), `ALL_ZERO` where each is; NaN for `apart`, whose state is left.

        None, and nothing done, where one is stuck, or one that has never changed does.
        """
        s, time, value = self.state, readings.time, readings.value
        same = value == (self.value if self.polls else s.value)
        few = self.few
        if len(apart):
            same[apart] = False
            if len(few):
                seldom = self.seldom.copy()
                seldom[apart] = False
                few = np.flatnonzero(seldom)
        if len(few) and not same[few].all():
            return None
        held_still = int(np.count_nonzero(same))
        even = len(apart) == 0 and readings.oldest == readings.newest and held_still == len(few)
        if even and self.even and self.one:
            self._count(readings, now)
            return self._none_held()
        self.catch_up()
        flat = np.flatnonzero(same) if held_still else _NONE
        score = self._none_held()
        if held_still > len(few) or len(apart):
            score = np.zeros(len(value))
            lasted = (time[flat] - s.changed[flat]).astype(np.float64)
            score[flat] = 1.0 - np.exp(DECAY * lasted / s.allowed_hold(flat))
            score[self.few] = np.nan
            score[apart] = np.nan
            if (score >= LIMIT).any():
                return None
        learnt = s.hold, s.changes, s.changed
        arriving = s.value, s.gap, s.arrivals, s.arrived, s.last, s.seq
        kept, spared = [array[flat] for array in learnt], [array[apart] for array in (*learnt, *arriving)]
        if self.even and readings.oldest == readings.newest:
            since: Floats | float = float(readings.newest - self.newest)
        else:
            since = (time - s.changed).astype(np.float64)
        stretch(s.hold, since)
        s.changes += 1.0
        np.copyto(s.changed, time)
        np.copyto(s.value, value)
        stretch(s.gap, float(now - self.arrived))
        s.arrivals += 1.0
        s.arrived.fill(now)
        np.copyto(s.last, time)
        np.copyto(s.seq, readings.seq)
        for at, arrays, before in ((flat, learnt, kept), (apart, (*learnt, *arriving), spared)):
            for array, was in zip(arrays, before, strict=True):
                array[at] = was
        self._passed(readings, now)
        self.even, self.one = even, even and _is_one(s.hold[self.rest]) and _is_one(s.gap)
        return score

    def rejoin(self, apart: Index) -> None:
        """Those that stood apart have been followed: whoever is well goes with the others from the next poll on."""
        s = self.state
        well = s.well(apart)
        self.apart = apart[~well]
        if len(self.few) and self.seldom[apart[s.changes[apart] >= s.min_changes]].any():
            self._part()

    def _part(self) -> None:
        self.seldom = self.state.changes < self.state.min_changes
        self.few = np.flatnonzero(self.seldom)
        self.rest = np.flatnonzero(~self.seldom) if len(self.few) else slice(None)
        self.blank = np.zeros(0)

    def _count(self, readings: Readings, now: int) -> None:
        s = self.state
        if self.polls == 0:
            self.hold, self.gap = float(s.hold[self.rest][0]), float(s.gap[0])
        held, seen = float(readings.newest - self.newest), float(now - self.arrived)
        self.hold = max(self.hold * FORGET, min(held, 2.0 * self.hold))
        self.gap = max(self.gap * FORGET, min(seen, 2.0 * self.gap))
        self.polls += 1
        self.value, self.seq = readings.value, readings.seq
        self._passed(readings, now)

    def _passed(self, readings: Readings, now: int) -> None:
        self.arrived, self.newest = now, readings.newest
        self.state.clock[:] = now, self.state.clock[0]
        self.due_is_old = self.state.missing

    def catch_up(self) -> None:
        """Write down the polls that were only counted."""
        s = self.state
        if self.polls:
            s.changes[self.rest] += float(self.polls)
            s.hold[self.rest] = self.hold
            s.changed[self.rest] = self.newest
            s.arrivals += float(self.polls)
            s.gap.fill(self.gap)
            s.last.fill(self.newest)
            s.arrived.fill(self.arrived)
            np.copyto(s.value, self.value)
            np.copyto(s.seq, self.seq)
            self.polls = 0

    def leave(self) -> None:
        """Bring the whole state up to date."""
        self.catch_up()
        if self.due_is_old:
            s = self.state
            known = s.due[self.apart]
            np.copyto(s.due, s.arrived + s.allowed_gap().astype(np.int64))
            s.due[self.apart] = known
            self.due_is_old = False

    def _none_held(self) -> Floats:
        """The scores of a poll in which every value has changed but those that never do."""
        if len(self.few) == 0:
            return ALL_ZERO
        if len(self.blank) == 0:
            self.blank = np.zeros(len(self.state.value))
            self.blank[self.few] = np.nan
        return self.blank


def _is_one(numbers: Floats) -> bool:
    return len(numbers) > 0 and bool(numbers.min() == numbers.max())
