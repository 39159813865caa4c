"""`limits`: is a value beyond the limits that the plant has set for it? Watched for every tag that has `limits:`."""

from __future__ import annotations

from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.errors import StateMismatch
from schemas.plugin import Plugin
from schemas.tags import Severity, Tag

from .base import EdgeModel, ModelConfig, ModelContext, Scope, ScoreRow
from .scores import ScoreRows
from .sentences import quantity
from .slots import NEVER, Bools, Floats, Index, Readings, Slots, decode
from .state import pack, unpack

LEVELS: Final = ("low_low", "low", "high", "high_high")
_SIDE: Final = np.array([-1.0, -1.0, 1.0, 1.0])  # a value is beyond a level when side * value > side * limit
_SEVERITY: Final[dict[str, Severity]] = {"low_low": "critical", "low": "warning", "high": "warning", "high_high": "critical"}
_LIMIT: Final = 0.5


class LimitsConfig(ModelConfig):
    """Watches the limits of the tags. There without an entry; write one to set delays or an action for all limit alarms."""


class Limits:
    """Four alarms per tag, `low_low`, `low`, `high`, `high_high`, each with the tag's own hysteresis.

    READING(n) -> SCORE batches, one per level: score 1 while the value is beyond the limit (and until it has come back by the
    hysteresis), else 0. So that thousands of healthy tags cost nothing, a level has rows only while it is beyond its limit
    and until it has been normal again for `off_delay`; at the start, until it has been seen to be normal. 88 bytes per tag.
    """

    kind: ClassVar[str] = "limits"
    version: ClassVar[int] = 1
    factual: ClassVar[bool] = True
    scope: ClassVar[Scope] = "tag"

    def __init__(self, config: LimitsConfig, context: ModelContext) -> None:
        tags = [tag for tag in context.tags if tag.limits is not None]
        self.slots = Slots([tag.id for tag in tags])
        n = len(tags)
        given = [[getattr(tag.limits, level) for level in LEVELS] for tag in tags]
        self._limit: Floats = np.array(given, dtype=np.float64).reshape(n, 4)  # None becomes NaN: no value is beyond it
        hysteresis = np.array([tag.limits.hysteresis if tag.limits else 0.0 for tag in tags])
        self._return: Floats = self._limit - _SIDE * hysteresis[:, None]
        self._normal_low = np.nanmax(np.c_[self._return[:, :2], np.full(n, -np.inf)], axis=1)  # strictly between: surely normal
        self._normal_high = np.nanmin(np.c_[self._return[:, 2:], np.full(n, np.inf)], axis=1)
        self._off_delay_us = config.alarm.off_delay.us
        self._rows = [ScoreRows(context.name, level, _LIMIT) for level in LEVELS]
        self._last = np.full(n, NEVER)
        self._beyond: Bools = np.zeros((n, 4), dtype=bool)
        self._told: Bools = ~np.isnan(self._limit)  # rows of this level are wanted
        self._watched: Bools = np.asarray(self._told.any(axis=1))
        self._normal_since = np.full((n, 4), NEVER)

    def update(self, batch: pa.RecordBatch, now: int) -> list[pa.RecordBatch]:
        """See EdgeModel."""
        del now  # time runs by the rows
        return self.take(decode(batch)) if batch.num_rows else []

    def take(self, readings: Readings) -> list[pa.RecordBatch]:
        """See TakesReadings."""
        plan = self.slots.plan(readings.tag)
        if plan.count == 0:
            return []
        usable = readings.usable
        found: list[list[tuple[Index, Index, Floats]]] = [[], [], [], []]
        for part in plan.rounds:
            value, time, at = readings.value[part.rows], readings.time[part.rows], part.at
            good = time > self._last[at]
            everything = bool(good.all())
            if not everything:  # a live row counts however old it says it is: a clock set back must not blind the limits
                good |= ~readings.backfilled()[part.rows]
            if usable is not None:
                good &= usable[part.rows]
            inside = (value > self._normal_low[at]) & (value < self._normal_high[at])
            if everything and usable is None:
                self._last[at] = time
                look = np.flatnonzero(self._watched[at] | ~inside)
            else:
                self._last[at] = np.where(good, time, self._last[at])
                look = np.flatnonzero(self._watched[at] | (good & ~inside))
            if len(look):
                rows = np.arange(len(readings))[part.rows][look]
                self._look(readings, rows, part.slots[look], good[look], found)
        return [self._batch(readings, level, parts) for level, parts in enumerate(found) if parts]

    def _look(
        self, readings: Readings, rows: Index, slots: Index, good: Bools, found: list[list[tuple[Index, Index, Floats]]]
    ) -> None:
        value, time = readings.value[rows, None], readings.time[rows, None]
        was, told, since = self._beyond[slots], self._told[slots], self._normal_since[slots]
        # Without hysteresis a value at the limit itself is not beyond it, so it is normal again there.
        beyond = (_SIDE * value > _SIDE * self._limit[slots]) | (was & (_SIDE * value > _SIDE * self._return[slots]))
        beyond = np.where(good[:, None], beyond, was)
        normal = good[:, None] & ~beyond
        rowed = told | beyond
        since = np.where(beyond, NEVER, np.where(normal & (since == NEVER), time, since))
        over = normal & (time - since >= self._off_delay_us)
        self._beyond[slots], self._normal_since[slots] = beyond, since
        rowed_on = rowed & ~over
        self._told[slots], self._watched[slots] = rowed_on, rowed_on.any(axis=1)
        score = np.where(good[:, None], beyond.astype(np.float64), np.nan)
        for level in range(4):
            chosen = np.flatnonzero(rowed[:, level])
            if len(chosen):
                found[level].append((rows[chosen], slots[chosen], score[chosen, level]))

    def _batch(self, readings: Readings, level: int, parts: list[tuple[Index, Index, Floats]]) -> pa.RecordBatch:
        rows, slots, score = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.argsort(rows, kind="stable")
        rows, slots, score = rows[order], slots[order], score[order]
        limit, nothing = self._limit[slots, level], np.full(len(rows), np.nan)
        low, high = (limit, nothing) if level < 2 else (nothing, limit)
        value = readings.value[rows]
        return self._rows[level].at(
            readings.time[rows], readings.seq[rows], readings.tag[rows].astype(np.intp), value, score, low, high
        )

    def problem(self, tag: Tag, row: ScoreRow) -> str:
        """See Explains."""
        side, limit = ("below", row.low) if row.alarm.startswith("low") else ("above", row.high)
        return f"{tag.display} is {quantity(row.value, tag)}, {side} its limit of {quantity(limit, tag)}"

    def severity(self, tag: Tag, alarm: str) -> Severity:
        """See Grades: the tag's own severity where it has one, else warning, and critical for the outer limits."""
        return tag.severity or _SEVERITY.get(alarm, "warning")

    def action(self, tag: Tag, alarm: str) -> str:
        """See Grades: what the configuration says at the tag."""
        return tag.action

    def _arrays(self) -> dict[str, npt.NDArray[np.bool_] | npt.NDArray[np.int64]]:
        return {"last": self._last, "beyond": self._beyond, "told": self._told, "normal_since": self._normal_since}

    def snapshot(self) -> bytes:
        """See EdgeModel."""
        return pack(self.kind, self.version, "", {"ids": self.slots.ids, "limit": self._limit, **self._arrays()})

    def restore(self, state: bytes) -> None:
        """See EdgeModel. A tag whose limits have changed since starts cold."""
        stored = unpack(state, self.kind, self.version, "")
        ids, limit, mine = stored.pop("ids", None), stored.pop("limit", None), self._arrays()
        if ids is None or limit is None or stored.keys() != mine.keys() or any(len(a) != len(ids) for a in stored.values()):
            raise StateMismatch("the stored state holds other arrays than this version writes")
        slots = self.slots.of(np.clip(ids, -1, 2**31 - 1).astype(np.int32))
        known = np.flatnonzero(slots >= 0)
        same = (np.isclose(limit[known], self._limit[slots[known]], rtol=0, atol=0, equal_nan=True)).all(axis=1)
        known = known[same]
        for name, array in mine.items():
            array[slots[known]] = stored[name][known]
        self._watched = np.asarray(self._told.any(axis=1))


PLUGIN: Plugin[LimitsConfig, EdgeModel] = Plugin(LimitsConfig, Limits)
