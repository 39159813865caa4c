"""Moments: the rows of a stream in the order of the gateway's clock, so that what is read together is judged together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from .slots import NEVER, Index, Times

_CLOCK, _BEFORE, _MOMENT, _NUMBER = range(4)
_NO_JUMP: Final = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Part:
    """The clock stood at `before` and stands at `clock` now. With `rows`: these, no two of one tag, belong to the present moment;
    without, the moment is over."""

    before: int
    clock: int
    rows: Index | None


class Moments:
    """Cuts batches into moments. A moment ends when the gateway's clock goes on, or when a tag comes a second time.

    `state` int64[4] is all of it: the clock as seen in the rows, never decreasing; the one seen before it (whether a reading is
    overdue must not hang on which row of a poll comes first); the clock of the present moment; the number of that moment.
    A step of the clock by more than `jump_us` is told by itself.
    """

    def __init__(self, jump_us: int | None) -> None:
        self.state: Times = np.array([NEVER, NEVER, NEVER, 0])
        self._jump_us = _NO_JUMP if jump_us is None else jump_us

    @property
    def number(self) -> int:
        """Number of the present moment, from 1."""
        return int(self.state[_NUMBER])

    @property
    def clock(self) -> int:
        """The gateway's clock in the present moment."""
        return int(self.state[_MOMENT])

    def cut(self, slots: Index, gateway: Times, moment: Times) -> Iterator[Part]:
        """Parts of a batch that is not empty. `slots` is -1 for rows that are not the model's; `moment`, by slot, is in which
        moment each was seen last: the caller keeps it, part by part."""
        start = int(self.state[_CLOCK])
        running = np.maximum.accumulate(np.append(start, gateway))
        running[0] = running[1] if start == NEVER else start
        clock, step = running[1:], np.diff(running)
        before = np.where(step > 0, running[:-1], NEVER)
        before[0] = max(int(before[0]), int(self.state[_BEFORE]))
        before = np.maximum.accumulate(before)
        own = np.flatnonzero(slots >= 0)
        mine, at_clock = slots[own], clock[own]
        repeats = _repeats(mine)
        jumps = np.flatnonzero((step > self._jump_us) & (slots < 0)).tolist()
        first = 0
        while first < len(own):
            now, row = int(at_clock[first]), int(own[first])
            while jumps and jumps[0] < row:
                yield Part(int(before[jumps[0]]), int(clock[jumps.pop(0)]), None)
            end = min(int(np.searchsorted(at_clock, now, "right")), int(np.searchsorted(repeats, first, "left")))
            if now == self.state[_MOMENT]:
                again = np.flatnonzero(moment[mine[first:end]] == self.state[_NUMBER])
                end = first + int(again[0]) if len(again) else end
            if now != self.state[_MOMENT] or end == first:
                yield Part(int(before[row]), now, None)
                self.state[_MOMENT] = now
                self.state[_NUMBER] += 1
                end = min(int(np.searchsorted(at_clock, now, "right")), int(np.searchsorted(repeats, first, "left")))
            yield Part(int(before[row]), now, own[first:end])
            first = end
        for row in jumps:
            yield Part(int(before[row]), int(clock[row]), None)
        self.state[_CLOCK], self.state[_BEFORE] = clock[-1], before[-1]
        if clock[-1] > self.state[_MOMENT]:
            yield Part(int(before[-1]), int(clock[-1]), None)

    def tick(self, now: int) -> Iterator[Part]:
        """Time passes without a row. Nothing where `now` is not later than what was seen."""
        clock = int(self.state[_CLOCK])
        if clock == NEVER or now <= clock:
            return
        yield Part(clock, now, None)
        self.state[_CLOCK] = self.state[_BEFORE] = now
        yield Part(now, now, None)


def _repeats(slots: Index) -> Index:
    """At each row the latest place at which any slot seen so far was seen before; -1: none was. Never decreasing."""
    order = np.argsort(slots, kind="stable")
    same = np.append(False, np.diff(slots[order]) == 0) if len(slots) else np.zeros(0, dtype=bool)
    previous = np.full(len(slots), -1, dtype=np.intp)
    previous[order[same]] = order[np.flatnonzero(same) - 1]
    found: Index = np.maximum.accumulate(previous)
    return found
