"""How many alarms people are told: budgets a day per asset and for the site, and floods. What is held back waits for its turn.

A budget is a bucket that starts full and is filled again evenly. Half of it is open to every alarm; as the rest empties, the
threshold rises: with the last one only an alarm a hundred times less likely than the model's limit asks for is told, so that what
is left goes to the worst. A held alarm that still holds is told as soon as there is room for it. Time is that of the rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from .alarm_records import Entry, Key, Reason
from .base import SiteAlarms

_DAY_US: Final = 86_400_000_000
_DECADES: Final = 2.0
_OPEN: Final = 0.5
_RANK: Final[Mapping[str, int]] = {"critical": 0, "warning": 1, "info": 2}
_SITE: Final = ("", "")
_FLOOD: Final = ("", "flood")
NEVER_DUE: Final = 2**63 - 1
Where = tuple[str, str]
"""Whose bucket it is: model and asset; ("", "") is the site's, ("", "flood") the flood's."""


@dataclass(slots=True)
class Bucket:
    """`tokens` as of `at_us`; one is used per alarm."""

    capacity: float
    per_us: float
    tokens: float
    at_us: int
    adapts: bool

    def level(self, time_us: int) -> float:
        """Tokens at a time."""
        return min(self.capacity, self.tokens + max(0, time_us - self.at_us) * self.per_us)

    def needed(self, severity: float) -> float:
        """Tokens that must be there for an alarm `severity` decades less likely than the model's limit asks for."""
        if not self.adapts:
            return 1.0
        return min(self.capacity, max(1.0, self.capacity * _OPEN * (1.0 - severity / _DECADES)))

    def full_at(self, tokens: float) -> int:
        """When so many tokens are there, µs."""
        if self.tokens >= tokens:
            return self.at_us
        return NEVER_DUE if self.per_us <= 0 else self.at_us + math.ceil((tokens - self.tokens) / self.per_us)

    def take(self, time_us: int) -> None:
        """Use one."""
        self.tokens, self.at_us = self.level(time_us) - 1.0, max(self.at_us, time_us)


class Rationing:
    """The buckets of one gateway, and when the next held alarm has its turn."""

    def __init__(self, site: SiteAlarms) -> None:
        self._site = site
        self.buckets: dict[Where, Bucket] = {}
        self.flood_since: int | None = None  # µs; None: there is none
        self.flooded = 0  # alarms held back by it so far
        self.next_due = 0  # nothing that is held has its turn before, and no flood ends; a lower bound, µs

    def admit(self, entry: Entry, per_day: float | None, time_us: int) -> Reason:
        """Use up what telling this alarm costs; or, using nothing, why it is held back."""
        severity = decades(entry)
        mine = self._of(entry, per_day, time_us)
        for where, bucket in mine.items():
            if bucket.level(time_us) < bucket.needed(severity):
                self.next_due = min(self.next_due, _due(mine.values(), severity))
                if where != _FLOOD:
                    return "budget"
                self.flooded += 1
                self.flood_since = time_us if self.flood_since is None else self.flood_since
                self.next_due = min(self.next_due, self.flood_over_at())
                return "flood"
        for bucket in mine.values():
            bucket.take(time_us)
        return ""

    def use(self, entry: Entry, per_day: float | None, time_us: int) -> None:
        """Tell one that was held: its turn has come."""
        for bucket in self._of(entry, per_day, time_us).values():
            bucket.take(time_us)

    def flood_is_over(self) -> None:
        """Count anew."""
        self.flood_since, self.flooded = None, 0

    def due(self, held: Iterable[tuple[Key, Entry, float | None]]) -> tuple[int, Key | None]:
        """When the first of the held alarms has its turn and which it is; the worst and oldest of those that are due together."""
        best: tuple[int, int, int, Key] | None = None
        for key, entry, per_day in held:
            severity = decades(entry)
            at = _due(self._of(entry, per_day, entry.since_us).values(), severity)
            mine = (at, _RANK[entry.severity], entry.since_us, key)
            best = mine if best is None or mine < best else best
        return (NEVER_DUE, None) if best is None else (best[0], best[3])

    def flood_over_at(self) -> int:
        """When less than half of what makes a flood has come lately."""
        bucket = self.buckets.get(_FLOOD)
        return NEVER_DUE if self.flood_since is None or bucket is None else bucket.full_at(max(1.0, bucket.capacity / 2))

    def _of(self, entry: Entry, per_day: float | None, time_us: int) -> dict[Where, Bucket]:
        found: dict[Where, Bucket] = {}
        wanted: list[tuple[Where, float, float, bool]] = []
        if per_day is not None:
            wanted.append(((entry.model, entry.asset), max(per_day, 1.0), per_day / _DAY_US, True))
        if self._site.budget is not None:
            per_day = float(self._site.budget)
            wanted.append((_SITE, max(per_day, 1.0), per_day / _DAY_US, True))
        if self._site.flood and self._site.flood_within:
            count = float(self._site.flood)
            wanted.append((_FLOOD, count, count / self._site.flood_within.us, False))
        for where, capacity, per_us, adapts in wanted:
            bucket = self.buckets.get(where)
            if bucket is None:
                bucket = self.buckets[where] = Bucket(capacity, per_us, capacity, time_us, adapts)
            elif (bucket.capacity, bucket.per_us) != (capacity, per_us):  # of a state under another configuration
                bucket.capacity, bucket.per_us, bucket.tokens = capacity, per_us, min(bucket.tokens, capacity)
            found[where] = bucket
        return found

    def written(self) -> dict[str, object]:
        """For the snapshot."""
        buckets = [[*where, b.capacity, b.per_us, b.tokens, b.at_us, b.adapts] for where, b in self.buckets.items()]
        return {"buckets": buckets, "flood_since": self.flood_since, "flooded": self.flooded}

    def read(self, told: Mapping[str, object]) -> None:
        """Take over what `written` gave. Raises KeyError, TypeError or ValueError for anything else, and then nothing has changed."""
        listed, since = told["buckets"], told["flood_since"]
        if not isinstance(listed, list):
            raise TypeError("budgets are a list")
        made = {
            (str(model), str(asset)): Bucket(float(capacity), float(rate), float(tokens), int(at), bool(adapts))
            for model, asset, capacity, rate, tokens, at, adapts in listed
        }
        self.flooded = int(str(told["flooded"]))
        self.flood_since = None if since is None else int(str(since))
        self.buckets, self.next_due = made, 0


def _due(buckets: Iterable[Bucket], severity: float) -> int:
    return max((bucket.full_at(bucket.needed(severity)) for bucket in buckets), default=0)


def decades(entry: Entry) -> float:
    """How many times ten the score is less likely than its limit asks for; infinite for one that is certain, 0 where unknown."""
    tail, allowed = 1.0 - entry.score, 1.0 - entry.limit
    if not (math.isfinite(tail) and math.isfinite(allowed)) or allowed <= 0:
        return 0.0
    return math.inf if tail <= 0 else max(0.0, math.log10(allowed / tail))
