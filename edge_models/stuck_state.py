"""What `stuck` knows of each tag: state arrays with a slot per tag, and when a reading of it is overdue."""

from __future__ import annotations

from math import log
from typing import Final

import numpy as np

from .slots import NEVER, Bools, Floats, Index, Times

LIMIT: Final = 0.999999
"""The score of a state that has lasted as long as is allowed."""
DECAY: Final = log(1.0 - LIMIT)
FORGET: Final = 0.999
"""What is left of the longest hold or gap after a change or a reading."""
FOREVER: Final = np.iinfo(np.int64).max // 4
"""Due time of a tag whose watch is paused."""


class State:
    """The arrays. All times are µs; those of the gateway's clock are marked."""

    def __init__(self, least: Floats, *, factor: float, warm_up_us: int, min_changes: int, missing: bool) -> None:
        """`least` float64[n] is what every tag may hold a value, or be silent, in µs. The rest is as in the configuration."""
        n = len(least)
        self.least, self.factor = least, factor
        self.min_changes, self.missing, self._warm_up_us = min_changes, missing, warm_up_us
        self.value = np.full(n, np.nan)  # last good one
        self.hold = np.zeros(n)  # longest normal time between changes
        self.changes = np.zeros(n)
        self.gap = np.zeros(n)  # longest normal time between readings
        self.arrivals = np.zeros(n)
        self.warm = np.full(n, np.nan)  # 0 once warm
        self.first: Times = np.full(n, NEVER)  # time of the first good reading
        self.last: Times = np.full(n, NEVER)  # time of the newest reading
        self.changed: Times = np.full(n, NEVER)  # since when the value is what it is; NEVER: begins with the next good reading
        self.bad: Times = np.full(n, NEVER)  # since when there have been only bad readings
        self.arrived: Times = np.full(n, NEVER)  # gateway time of the newest reading
        self.due: Times = np.full(n, FOREVER)  # gateway time from which the next reading is overdue
        self.seq: Times = np.full(n, -1, dtype=np.int64)  # of the newest reading
        # Gateway time as seen in the rows, never decreasing, and the one seen before it: rows of one poll bear the same time,
        # and whether a tag is overdue must not hang on which of them comes first.
        self.clock: Times = np.full(2, NEVER)

    def arrays(self) -> dict[str, Floats | Times]:
        """All that has a slot per tag, by name; changed in place."""
        return {
            "value": self.value, "hold": self.hold, "changes": self.changes, "gap": self.gap, "arrivals": self.arrivals,
            "warm": self.warm, "first": self.first, "last": self.last, "changed": self.changed, "bad": self.bad,
            "arrived": self.arrived, "due": self.due, "seq": self.seq,
        }  # fmt: skip

    def allowed_gap(self, at: slice | Index = slice(None)) -> Floats:
        """How long the tags may be silent, µs."""
        allowed: Floats = np.maximum(self.least[at], self.factor * self.gap[at])
        return allowed

    def allowed_hold(self, at: Index) -> Floats:
        """How long the tags may hold a value, µs."""
        allowed: Floats = np.maximum(self.least[at], self.factor * self.hold[at])
        return allowed

    def judged(self, at: slice | Index) -> Bools:
        """Whether pauses of the tags are faults by now; pauses before that are how the tag is."""
        first = self.first[at]
        known: Bools = (first != NEVER) & (self.last[at] - first >= self._warm_up_us) & (self.arrivals[at] >= self.min_changes)
        return known

    def well(self, at: slice | Index) -> Bools:
        """Whether the tags are warm, judged, not paused, and their last reading was good."""
        well: Bools = (self.warm[at] == 0.0) & (self.changed[at] != NEVER) & self.judged(at)
        if self.missing:
            well &= self.due[at] < FOREVER
        return well


def stretch(longest: Floats, seen: Floats | float) -> None:
    """max(longest · forget, min(seen, 2 · longest)) in place: one fault must not blind it."""
    if isinstance(seen, float) and seen <= 2.0 * longest.min() and longest.max() * FORGET <= seen:
        longest.fill(seen)
        return
    most = np.minimum(seen, 2.0 * longest)
    longest *= FORGET
    np.maximum(longest, most, out=longest)
