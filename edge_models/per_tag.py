"""What models share that score each tag by itself: slots, warm-up, late rows, gated rows, snapshots.

A concrete model gives its arrays and one kernel; everything about batches, rounds and bad rows is here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.errors import StateMismatch

from .base import ModelConfig, ModelContext, Scope
from .scores import ScoreRows
from .slots import NEVER, At, Bools, Floats, Index, Readings, Round, Slots, Times, decode
from .state import pack, unpack

Singles = npt.NDArray[np.float32]
PREVIOUS: Final = "previous"
"""The state array in which a model that learns the resolution of a sensor keeps the newest reading."""
UNKNOWN_STEP: Final = np.float32(1e-30)
"""Resolution of a sensor that has never changed; so small that nothing is divided by zero."""
Scored = tuple[Floats, Floats, Floats, bool]
"""Score, low and high of the rows of a round, and whether none of them is NaN."""
LATE_ROWS_UNTIL_ACCEPTED: Final = 10
"""So many live rows in a row that are older than what was seen: the source's clock has been set back, not the rows late."""


class PerTagModel(ABC):
    """Scores each reading of each tag by that tag's own history.

    READING(n) -> one SCORE batch with a row per reading of the model's tags, in row order. A reading that is bad, gated, not a
    number, or not newer than the last one of its tag is scored null and not learnt; so is everything until the tag is warm
    (`warm_up` since its first good reading and `min_samples` readings). After ten late live rows in a row the tag's clock is
    taken to have been set back, and scoring goes on from there.
    """

    kind: ClassVar[str]
    version: ClassVar[int]
    scope: ClassVar[Scope] = "tag"
    initial: ClassVar[Mapping[str, float | tuple[float, ...]]]
    """The state arrays and what a cold slot holds; several numbers are a row of an array [slots, numbers], for what is seldom
    touched and then together. `count` (readings learnt) is there for every model."""
    single: ClassVar[Collection[str]] = ()
    """Those of them that are float32: what is relative to a level. The others are float64."""
    learnt_with: ClassVar[tuple[str, ...]] = ()
    """Parameters that shape the state; a state learnt under others is refused."""

    def __init__(self, config: ModelConfig, context: ModelContext, *, limit: float, min_samples: int) -> None:
        self.slots = Slots([tag.id for tag in context.tags])
        n = len(self.slots)
        self.state: dict[str, npt.NDArray[Any]] = {
            name: np.full(
                (n, len(value)) if isinstance(value, tuple) else n, value, dtype=np.float32 if name in self.single else np.float64
            )
            for name, value in self.initial.items()
        }
        self.count = np.zeros(n)
        self._first: Times = np.full(n, NEVER)
        self._last: Times = np.full(n, NEVER)
        self._late = np.zeros(n, dtype=np.int64)
        self._any_late = False
        self._newest = NEVER  # nothing in `_last` is newer
        self._alike: float | None = 0.0  # the count that all slots share; None when it is not known whether they do
        # While every batch is a poll of all slots at one time, `count` and `_last` are two numbers; see `_catch_up`.
        self._ahead, self._ahead_time = False, NEVER
        self._borrowed = False  # the newest readings stand in the batch that they came in
        self._shared = np.zeros(1)
        self._shared_count = np.broadcast_to(self._shared, (n,))
        self._settled = False  # every slot is warm: nothing to look up any more
        self._warm_up_us, self._min_samples = config.warm_up.us, min_samples
        self._parameters = config.model_dump_json(include=set(self.learnt_with))
        self._rows = ScoreRows(context.name, config.alarm.name or context.name, limit)

    @abstractmethod
    def _score(self, at: At, time: Times, value: Floats, count: Floats, ready: Bools | None) -> tuple[Floats, Floats, Floats]:
        """Score m readings of m different slots `at`, then learn them. Returns score, low and high, each float64[m].

        `count` says which reading of its slot each is (1 is the first). `ready` is False while a slot is not warm (its score
        is thrown away), None when all are. The arrays given are not to be changed; those returned are the caller's.
        """

    def update(self, batch: pa.RecordBatch, now: int) -> list[pa.RecordBatch]:
        """See EdgeModel."""
        del now  # time runs by the rows
        return self.take(decode(batch)) if batch.num_rows else []

    def take(self, readings: Readings) -> list[pa.RecordBatch]:
        """See TakesReadings."""
        plan = self.slots.plan(readings.tag)
        if plan.count == 0:
            return []
        with np.errstate(all="ignore"):  # the cold and the masked slots compute nonsense that nobody reads
            given: list[Floats] = []  # score, low and high of all rows, once one round does not give them
            for part in plan.rounds:
                good = self._good(readings, part)
                found = self._whole(readings, part) if good is None else self._mostly(readings, part, good)
                if found is not None and len(plan.rounds) == 1:
                    score, low, high, complete = found
                    return [self._rows.of(readings, plan.rows, score, low, high, complete=complete)]
                given = given or [np.full(plan.count, np.nan) for _ in range(3)]
                if found is not None:
                    for target, one in zip(given, found[:3], strict=True):
                        target[part.out] = one
                elif good is not None:
                    self._some(readings, part, np.flatnonzero(good), given)
        score, low, high = given
        return [self._rows.of(readings, plan.rows, score, low, high)]

    def _whole(self, readings: Readings, part: Round) -> Scored:
        """The usual case, a poll without a bad or late row: no masks."""
        score, low, high, ready = self._take(part.at, readings.time[part.rows], readings.value[part.rows], readings)
        if ready is None:
            return score, low, high, True
        return self._blank(score, ready), self._blank(low, ready), self._blank(high, ready), False

    def _mostly(self, readings: Readings, part: Round, good: Bools) -> Scored | None:
        """A few rows of a poll are not to be learnt: cheaper than copying all others is to learn all and put those few back.

        None, and nothing done, where they are not few.
        """
        others = np.flatnonzero(~good)
        if not isinstance(part.at, slice) or len(others) > len(good) // 4:
            return None
        spared, settled = part.slots[others], self._settled
        before = {name: array[spared] for name, array in self._arrays().items()}
        score, low, high, ready = self._take(part.at, readings.time[part.rows], readings.value[part.rows], readings)
        for name, array in self._arrays().items():
            array[spared] = before[name]
        self._alike = None
        if not (settled and self._settled):
            self._settle()
        if ready is not None:
            shown = good & ready
            return self._blank(score, shown), self._blank(low, shown), self._blank(high, shown), False
        for values in (score, low, high):
            values[others] = np.nan
        return score, low, high, False

    def _some(self, readings: Readings, part: Round, keep: Index, given: list[Floats]) -> None:
        """The rows `keep` of a round, copied out of it; score, low and high go into `given`."""
        if len(keep) == 0:
            return
        time, value = readings.time[part.rows][keep], readings.value[part.rows][keep]
        out = keep if isinstance(part.out, slice) else part.out[keep]
        *found, ready = self._take(part.slots[keep], time, value, readings)
        for target, one in zip(given, found, strict=True):
            target[out] = one if ready is None else self._blank(one, ready)

    def _good(self, readings: Readings, part: Round) -> Bools | None:
        """Which rows of the round may be scored and learnt; None when all are."""
        if readings.usable is None and readings.oldest > self._newest:
            return None
        self._catch_up()
        good = self._in_order(readings, part, readings.time[part.rows], readings.usable)
        return None if good.all() else good

    def _in_order(self, readings: Readings, part: Round, time: Times, usable: Bools | None) -> Bools:
        """True where the row is usable and newer than the last one of its slot, or the slot's clock has been set back."""
        good = np.ones(len(time), dtype=bool) if usable is None else usable[part.rows].copy()
        if readings.oldest > self._newest and not self._any_late:
            return good
        fresh = time > self._last[part.at]
        late = good & ~fresh
        if late.any() or self._any_late:
            counted = late & ~readings.backfilled()[part.rows]
            runs = self._late[part.at] + counted
            runs[good & fresh] = 0
            back = counted & (runs >= LATE_ROWS_UNTIL_ACCEPTED)
            if back.any():
                slots = part.slots[back]
                self._first[slots] += time[back] - self._last[slots]
                runs[back] = 0
                fresh = fresh | back
            self._late[part.at] = runs
            self._any_late = bool(self._late.any())
        good &= fresh
        return good

    def _take(self, at: At, time: Times, value: Floats, readings: Readings) -> tuple[Floats, Floats, Floats, Bools | None]:
        self._newest = max(self._newest, readings.newest)
        whole = isinstance(at, slice) and len(value) == len(self.slots)
        if whole and self._settled and self._alike is not None and readings.oldest == readings.newest:
            self._ahead = True
            self._alike += 1.0
            self._shared[0], self._ahead_time = self._alike, readings.newest
            return *self._score(at, time, value, self._shared_count, None), None
        self._catch_up()
        if isinstance(at, slice):
            count = self.count[at]
            count += 1.0
        else:
            count = self.count[at] + 1.0
            self.count[at] = count
        self._alike = self._alike + 1.0 if self._alike is not None and whole else None
        ready: Bools | None = None
        if not self._settled:
            first = self._first[at]
            first = np.where(first == NEVER, time, first)
            self._first[at] = first
            ready = (time - first >= self._warm_up_us) & (count > self._min_samples)
        self._last[at] = time
        score, low, high = self._score(at, time, value, count, ready)
        if ready is not None:
            self._settle()
        return score, low, high, ready

    def _catch_up(self) -> None:
        """Write down the polls that were only counted."""
        if self._ahead and self._alike is not None:
            self.count.fill(self._alike)
            self._last.fill(self._ahead_time)
        self._ahead = False
        if self._borrowed:
            self.state[PREVIOUS] = self.state[PREVIOUS].copy()
            self._borrowed = False

    def gain(self, count: Floats, memory: float) -> Singles | np.float32:
        """1/count, at least 1/memory: the mean of all readings, later an exponential one. One number where it is the same for all."""
        slowest = np.float32(1.0 / memory)
        if self._ahead and self._alike is not None:
            return max(np.float32(1.0) / np.float32(self._alike), slowest)
        if len(count) == len(self.slots):
            if self._alike is None and len(count):
                least = float(count.min())
                if least >= memory:
                    return slowest
                if least == count.max():
                    self._alike = least
            if self._alike is not None:
                return max(np.float32(1.0) / np.float32(self._alike), slowest)
        gain = count.astype(np.float32)
        np.reciprocal(gain, out=gain)
        return np.maximum(gain, slowest, out=gain)

    def _settle(self) -> None:
        warm = (self._last - self._first >= self._warm_up_us) & (self.count >= self._min_samples)
        self._settled = bool((warm & (self._first != NEVER)).all())

    @staticmethod
    def _blank(values: Floats, ready: Bools) -> Floats:
        return np.where(ready, values, np.nan)

    def view(self, at: At) -> dict[str, npt.NDArray[Any]]:
        """The state of some slots, to be changed in place and handed to `keep`: views for a range, copies for an index."""
        if isinstance(at, slice) and at.start == 0 and at.stop == len(self.slots):
            return self.state
        return {name: array[at] for name, array in self.state.items()}

    def keep(self, at: At, changed: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write back what `view` gave."""
        if not isinstance(at, slice):
            for name, array in changed.items():
                self.state[name][at] = array

    def seen(self, changed: Mapping[str, npt.NDArray[Any]], value: Floats) -> None:
        """These readings are the newest of their slots now: what `view` gave as PREVIOUS becomes `value`."""
        if self._ahead:  # a poll of all slots
            self.state[PREVIOUS], self._borrowed = value, True
        else:
            np.copyto(changed[PREVIOUS], value)

    def _relearn(self, slots: Index) -> None:
        """Forget what these slots have learnt; they score null until `min_samples` readings have come."""
        self._catch_up()
        for name, value in self.initial.items():
            self.state[name][slots] = value
        self.count[slots] = 0.0
        self._alike = None
        self._settled = False

    def _times(self) -> dict[str, Times]:
        """Further int64 arrays that belong to the state, by name."""
        return {}

    def snapshot(self) -> bytes:
        """See EdgeModel."""
        return pack(self.kind, self.version, self._parameters, {"ids": self.slots.ids, **self._arrays()})

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        self._catch_up()
        return {
            "count": self.count, "first": self._first, "last": self._last, "late": self._late, **self._times(), **self.state
        }  # fmt: skip

    def restore(self, state: bytes) -> None:
        """See EdgeModel."""
        stored = unpack(state, self.kind, self.version, self._parameters)
        mine = self._arrays()
        if stored.keys() != {"ids", *mine} or any(
            stored[name].shape != (*stored["ids"].shape, *array.shape[1:]) for name, array in mine.items()
        ):
            raise StateMismatch("the stored state holds other arrays than this version writes")
        ids = stored["ids"].astype(np.int64)
        slots = self.slots.of(np.clip(ids, -1, 2**31 - 1).astype(np.int32))
        known = slots >= 0
        for name, array in mine.items():
            array[slots[known]] = stored[name][known]
        self._any_late = bool(self._late.any())
        self._newest = int(self._last.max(initial=NEVER))
        self._alike = None
        self._settled = False


class Scratch:
    """Room for intermediate results, so that a poll of all tags allocates nothing: `singles` float32, one float64 and one bool array."""

    def __init__(self, n: int, singles: int) -> None:
        self._whole = [np.empty(n, dtype=np.float32) for _ in range(singles)], np.empty(n), np.empty(n, dtype=bool)

    def of(self, m: int) -> tuple[list[Singles], Floats, Bools]:
        """The first m places of each."""
        singles, exact, flag = self._whole
        if m == len(exact):
            return self._whole
        return [array[:m] for array in singles], exact[:m], flag[:m]


def learn_step(step: Floats, previous: Floats, value: Floats) -> None:
    """Learn the resolution of each sensor, its smallest change ever seen; `previous` becomes `value`. In place."""
    change = np.abs(value - previous)
    smaller = np.flatnonzero(change < step)
    if len(smaller):
        found = change[smaller]
        step[smaller] = np.where(found > 0.0, found, step[smaller])
    previous[:] = value


def finer_step(step: Singles, previous: Floats, value: Floats, rows: Index, unit: float) -> Index:
    """The same for some rows, with steps in float32 as shares `unit` of a change. Returns the rows whose step was not that fine before."""
    change = np.abs(value[rows] - previous[rows]) * unit
    known = step[rows]
    finer = (change > 0.0) & ((change < known) | (known == UNKNOWN_STEP))
    found: Index = rows[finer]
    step[found] = np.maximum(change[finer], UNKNOWN_STEP)
    return found
