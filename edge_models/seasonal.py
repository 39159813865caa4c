"""`seasonal`: is this reading wrong for this time of the day, the week or the shift?"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from schemas.plugin import Plugin
from schemas.tags import Tag
from schemas.values import Duration

from .base import EdgeModel, ModelContext, ScoreRow
from .calendar import Calendar, CalendarConfig
from .per_tag import PerTagModel, Singles, learn_step
from .sentences import interval, quantity
from .slots import NEVER, At, Bools, Floats, Index, Times
from .tail import STATE, TAIL, learn_tail, tail_score

_SIGMA: Final = 1.2533  # standard deviation over mean absolute deviation of a Gaussian; spreads are kept as the latter
_TAIL_SHARE: Final = 0.001  # of normal readings lie beyond the tail's threshold
_BAND: Final = 3.0 * _SIGMA
_CLIP: Final = 3.0 * _SIGMA  # spreads that one reading may count for
_CLIP_YOUNG: Final = 10.0 * _SIGMA  # the same while the slot is not scored yet
_COMMON_WEIGHT: Final = 3.0  # visits that the spread common to all slots counts for
_COMMON_MEMORY: Final = 500.0  # visits over which it is learnt
_YOUNG: Final = 3.0  # a profile of n visits is trusted with 1 + 3/n times its spread
_TIMING: Final = 0.5  # of the way to the next slot's value is forgiven: people are no clocks
_SUSPICIOUS_GAIN: Final = 0.05
_SMALLEST: Final = 1e-30
_MINUTE_US: Final = 60_000_000
_AROUND: Final = ("", "_before", "_after")  # the slot under way and its neighbours


class SeasonalConfig(CalendarConfig):
    """Learns the usual value and spread for each time of the day, the week or the shift, and scores what is wrong for it."""

    warm_up: Duration = Field(Duration("10m"), description="Time from the first good reading of a tag until it may raise alarms.")
    limit: float = Field(
        0.999999,
        gt=0,
        lt=1,
        description="A score at or above it is abnormal: 1 − probability that a normal reading looks like this.",
    )
    min_visits: int = Field(3, ge=2, le=100, description="How often a slot must have been seen before it is scored.")
    memory: int = Field(20, ge=5, le=1000, description="Visits of a slot over which its value and spread are learnt.")
    min_samples: int = Field(30, ge=10, description="Readings of a tag before its first score.")
    accept_after: Duration = Field(
        Duration("4d"),
        description="A slot in which most readings have been suspicious at all visits for so long is learnt anew, alone; 0 is never.",
    )


class Seasonal(PerTagModel):
    """A robust profile per tag: the usual value and spread of each slot of the cycle, one lesson per visit of a slot.

    While a slot lasts, residuals are only summed up; when it is left, its value moves by their mean and its spread by their mean
    size, so that a day counts as a day however often a tag is read. Between the middles of two slots the expected value is
    interpolated, and half of the step between them is forgiven where it is steep. A slot is scored once it has been seen `min_visits`
    times; its spread is drawn towards that of the whole tag while it has few visits. The residual in such spreads is scored by
    the tag's own tail. Readings beyond four standard deviations teach twenty times less, and none counts for more than three.
    1700 bytes of state per tag at 96 slots, 16 for each more.
    """

    kind: ClassVar[str] = "seasonal"
    version: ClassVar[int] = 1
    initial: ClassVar[Mapping[str, float]] = {
        "origin": np.nan,  # the profile is kept relative to the first reading
        "previous": np.nan,  # the last two readings: the first visit of a slot learns from the median of three
        "before": np.nan,
        "step": np.inf,  # resolution of the sensor
        # The visit under way. Sums are relative to `base`: the slot's value, or without one that of the first reading.
        "position": -1.0,
        "base": 0.0, "readings": 0.0, "sum": 0.0, "size": 0.0, "odd": 0.0,
        # What is known of the slot under way and of its neighbours; NaN for nothing.
        "level": np.nan, "level_before": np.nan, "level_after": np.nan,
        "scale": np.nan, "scale_before": np.nan, "scale_after": np.nan,
        "visits": 0.0,
        "common": 0.0,  # mean spread over all slots
        "lessons": 0.0,  # visits it was learnt from
        **STATE,
    }  # fmt: skip
    single: ClassVar[Collection[str]] = frozenset(
        {"position", "base", "readings", "sum", "size", "odd", "visits", "common", "lessons",
         *(f"{name}{where}" for name in ("level", "scale") for where in _AROUND)}
    )  # fmt: skip
    learnt_with: ClassVar[tuple[str, ...]] = ("cycle", "slot", "shifts")

    def __init__(self, config: SeasonalConfig, context: ModelContext) -> None:
        super().__init__(config, context, limit=config.limit, min_samples=config.min_samples)
        self._calendar = Calendar(config, context.time_zone)
        self._parameters += f" {self._calendar.zone}"
        self._memory, self._min_visits = float(config.memory), float(config.min_visits)
        self._accept_min = config.accept_after.us // _MINUTE_US
        shape = len(self.slots), self._calendar.slots
        self._level: Singles = np.full(shape, np.nan, dtype=np.float32)
        self._spread: Singles = np.zeros(shape, dtype=np.float32)
        self._visits: Singles = np.zeros(shape, dtype=np.float32)
        self._odd_since = np.zeros(shape, dtype=np.int32)  # minutes since 1970; 0: the last visit was normal
        self._entered: Times = np.full(len(self.slots), NEVER)  # when the slot under way began

    def _times(self) -> dict[str, Times]:
        return {"entered": self._entered}

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {
            **super()._arrays(), "levels": self._level, "spreads": self._spread, "visited": self._visits, "odd_since": self._odd_since
        }  # fmt: skip

    def _settle(self) -> None:
        """Never: a slot that has not been seen yet may come at any time, and has no score."""

    def _score(self, at: At, time: Times, value: Floats, count: Floats, ready: Bools | None) -> tuple[Floats, Floats, Floats]:
        s = self.view(at)
        slots: Index = np.arange(len(self.slots))[at]
        fresh = np.flatnonzero(np.isnan(s["origin"]))
        for name in ("origin", "previous", "before"):
            s[name][fresh] = value[fresh]
        position, fraction = self._calendar.place(time)
        middle = _median(value, s["previous"], s["before"]) - s["origin"]
        s["before"][:] = s["previous"]
        learn_step(s["step"], s["previous"], value)
        relative = value - s["origin"]
        entered = self._entered[slots]
        moved = (s["position"] != position) | (time - entered >= self._calendar.slot_us) | (time < entered)
        if moved.any():
            rows = np.flatnonzero(moved)
            self._entered[slots[rows]] = time[rows] - (fraction[rows] * self._calendar.slot_us).astype(np.int64)
            self._visit(s, slots, rows, position[rows], entered[rows], middle[rows])

        expected, spread, steep = self._expected(s, fraction)
        residual = relative - expected
        size = np.abs(residual)
        scale = _SIGMA * np.maximum(spread + steep, np.where(np.isfinite(s["step"]), s["step"], _SMALLEST))
        statistic = size / scale
        judged = s["visits"] >= self._min_visits
        score = np.where(judged, tail_score(statistic, s["excess"], _TAIL_SHARE), np.nan)
        counts = judged if ready is None else judged & ready
        suspicious = counts & (statistic > TAIL)
        learn_tail(s, statistic, suspicious)

        known = s["visits"] > 0.0
        most = scale / _SIGMA * np.where(judged, _CLIP, _CLIP_YOUNG)
        bounded = np.clip(residual, -most, most)
        learnt = np.where(known, bounded + expected, middle) - s["base"]
        error = np.where(known, np.maximum(np.abs(bounded) - steep, 0.0), np.abs(learnt))
        # What is suspicious says nothing about the spread; a slot full of it keeps the one it has.
        usual = np.where(known, spread, 0.0)
        s["sum"] += np.where(suspicious, _SUSPICIOUS_GAIN * learnt, learnt)
        s["size"] += np.where(suspicious, usual + _SUSPICIOUS_GAIN * (error - usual), error)
        s["readings"] += 1.0
        s["odd"] += suspicious
        margin = _BAND / _SIGMA * scale
        expected = expected + s["origin"]
        self.keep(at, s)
        nothing = ~judged
        low, high = expected - margin, expected + margin
        low[nothing], high[nothing] = np.nan, np.nan
        return score, low, high

    @staticmethod
    def _expected(s: Mapping[str, npt.NDArray[Any]], fraction: Floats) -> tuple[Floats, Floats, Floats]:
        """Expected value relative to the origin, its spread, and what is forgiven for bad timing; nonsense in unknown slots."""
        ahead = fraction >= 0.5
        weight = np.abs(fraction - 0.5)
        other = np.where(ahead, s["level_after"], s["level_before"]).astype(np.float64)
        wide = np.where(ahead, s["scale_after"], s["scale_before"]).astype(np.float64)
        weight = np.where(np.isnan(other), 0.0, weight)
        base, spread = s["base"].astype(np.float64), s["scale"].astype(np.float64)
        way = np.where(weight > 0.0, weight * (other - base), 0.0)
        spread = np.where(weight > 0.0, spread + weight * (wide - spread), spread)
        return base + way, spread, _TIMING * np.abs(way)

    def _visit(
        self, s: Mapping[str, npt.NDArray[Any]], slots: Index, rows: Index, position: Index, entered: Times, middle: Floats
    ) -> None:
        """Learn the visits that are over, and look up what is known of the slots that begin."""
        left = np.flatnonzero((s["position"][rows] >= 0.0) & (s["readings"][rows] > 0.0))
        if len(left):
            self._learn(s, slots[rows[left]], rows[left], entered[left])
        slot_at, last = self._calendar.slot_at, self._calendar.positions - 1
        own = slots[rows]
        for where, away in zip(_AROUND, (0, -1, 1), strict=True):
            place = position + away
            k = slot_at[np.where(place > last, 0, place)]
            visits = np.where(position >= 0, self._visits[own, k], np.float32(0.0))
            with np.errstate(all="ignore"):
                shared = (visits * self._spread[own, k] + _COMMON_WEIGHT * s["common"][rows]) / (visits + _COMMON_WEIGHT)
                scale = np.maximum(self._spread[own, k], shared) * (1.0 + _YOUNG / visits)
            unknown = visits == 0.0
            s[f"level{where}"][rows] = np.where(unknown, np.nan, self._level[own, k])
            s[f"scale{where}"][rows] = np.where(unknown, np.nan, scale)
            if not away:
                s["visits"][rows] = visits
                s["base"][rows] = np.where(unknown, middle, self._level[own, k])
        s["position"][rows] = position
        for name in ("readings", "sum", "size", "odd"):
            s[name][rows] = 0.0

    def _learn(self, s: Mapping[str, npt.NDArray[Any]], own: Index, rows: Index, entered: Times) -> None:
        k = self._calendar.slot_at[s["position"][rows].astype(np.intp)]
        readings, visits = s["readings"][rows], self._visits[own, k]
        change, size = s["sum"][rows] / readings, s["size"][rows] / readings
        memory = np.float32(self._memory)
        self._level[own, k] = s["base"][rows] + change / np.minimum(visits + 1, memory)
        # The first visit knows only how the readings differ among themselves, not how days do: the second one replaces that.
        known = self._spread[own, k]
        self._spread[own, k] = known + (size - known) / np.clip(visits, 1, memory)
        again = visits > 0
        lessons = s["lessons"][rows] + again
        common = s["common"][rows]
        s["common"][rows] = np.where(again, common + (size - common) / np.clip(lessons, 1, _COMMON_MEMORY), common)
        s["lessons"][rows] = lessons
        minute = np.clip(entered // _MINUTE_US, 1, 2**31 - 1).astype(np.int32)
        since = self._odd_since[own, k]
        odd = s["odd"][rows] * 2 > readings
        since = np.where(odd, np.where(since == 0, minute, since), 0)
        accepted = odd & (minute.astype(np.int64) - since >= self._accept_min) & (self._accept_min > 0)
        self._odd_since[own, k] = np.where(accepted, 0, since)
        self._visits[own, k] = np.where(accepted, 0, visits + 1)

    def problem(self, tag: Tag, row: ScoreRow) -> str:
        """See Explains."""
        usual = interval(row.low, row.high, tag)
        moment = f"{self._calendar.local(row.time_us):%A %H:%M}"
        return f"{tag.display} is {quantity(row.value, tag)}, usual for this time ({moment}) is {usual}"


def _median(a: Floats, b: Floats, c: Floats) -> Floats:
    """Of three, element by element."""
    found: Floats = np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c))
    return found


PLUGIN: Plugin[SeasonalConfig, EdgeModel] = Plugin(SeasonalConfig, Seasonal)
