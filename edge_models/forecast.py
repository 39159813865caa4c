"""`forecast`: what will the load be in the next quarter hours, how sure is that, and will it exceed the peak that was agreed?"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import ceil
from typing import Any, ClassVar, Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, model_validator

from schemas.plugin import Plugin
from schemas.tags import Tag
from schemas.values import Duration

from .base import EdgeModel, ModelContext, ScoreRow
from .calendar import Calendar, CalendarConfig
from .health_rows import News, health_rows
from .per_tag import PerTagModel, Singles
from .sentences import quantity, span
from .slots import NEVER, At, Bools, Floats, Index, Readings, Times

_RECORD: Final = 96  # past forecasts whose errors are kept
_MOST_AHEAD: Final = 24
_DAMPED: Final = 0.9  # of a deviation from the profile that is expected to be left a slot later
_DEVIATION_GAIN: Final = 0.7
_CLIP: Final = 5.0  # mean sizes of a deviation that one slot may teach the profile
_CLIP_FROM: Final = 50.0  # slots learnt
_SIZE_MEMORY: Final = 500.0


class ForecastConfig(CalendarConfig):
    """Forecasts the mean of the next slots, with an interval, and warns when a limit or an agreed peak will be exceeded."""

    warm_up: Duration = Field(Duration("10m"), description="Time from the first good reading of a tag until it may raise alarms.")
    horizon: Duration = Field(Duration("1h"), description="How far to look ahead: 1 to 24 slots.")
    peak: float | None = Field(
        None,
        description="The mean of a slot that is not to be exceeded, in the tag's unit; by default the tag's `high`, then `high_high`.",
    )
    confidence: float = Field(0.9, ge=0.5, le=0.95, description="Target: the share of the intervals that hold the truth.")
    limit: float = Field(
        0.8, gt=0.0, lt=1, description="Probability of exceeding the peak within the horizon from which that is abnormal."
    )
    memory: int = Field(20, ge=5, le=1000, description="Visits of a slot over which its usual value is learnt.")
    min_samples: int = Field(30, ge=10, description="Readings of a tag before its first score.")

    @model_validator(mode="after")
    def _ahead(self) -> Self:
        if self.horizon.us % self.slot.us or not 1 <= self.horizon.us // self.slot.us <= _MOST_AHEAD:
            raise ValueError(
                f"a horizon of {self.horizon} is not 1 to {_MOST_AHEAD} slots of {self.slot}; write one of them otherwise"
            )
        return self


class Forecast(PerTagModel):
    """Seasonal profile of slot means plus a damped deviation from it, with intervals from how its own forecasts have come true.

    READING(n) -> SCORE(n), and, whenever a slot is over, HEALTH rows `forecast_15m`, `forecast_30m`, … (value, low, high in the unit of
    the tag: the mean of the slot that ends so much later). A slot's mean is that of its readings; the forecast is the usual mean of the
    slot to come, plus nine tenths a slot of how far the plant now is from usual. The errors of the last 96 forecasts are kept,
    all horizons of one together: the k-th largest of n+1 gives the interval (split conformal, Vovk 2005), and the share of them with
    which some slot within the horizon would exceed the peak is the score. With fewer than 19 outcomes (for 0.9) it says nothing.
    2504 bytes of state per tag.
    """

    kind: ClassVar[str] = "forecast"
    version: ClassVar[int] = 1
    initial: ClassVar[Mapping[str, float]] = {
        "origin": np.nan,  # all is kept relative to the first reading
        "position": -1.0, "readings": 0.0, "sum": 0.0,  # of the slot under way
        "deviation": 0.0,
        "size": 0.0,  # mean size of a deviation
        "lessons": 0.0,
        "made": 0.0,  # forecasts, for the place in the record
        "score": np.nan, "low": np.nan, "high": np.nan,
    }  # fmt: skip
    single: ClassVar[Collection[str]] = ()
    learnt_with: ClassVar[tuple[str, ...]] = ("cycle", "slot", "shifts", "horizon")

    def __init__(self, config: ForecastConfig, context: ModelContext) -> None:
        super().__init__(config, context, limit=config.limit, min_samples=config.min_samples)
        self._calendar = Calendar(config, context.time_zone)
        self._parameters += f" {self._calendar.zone}"
        self._name, self._memory, self._confidence = context.name, float(config.memory), config.confidence
        self._few = ceil(1.0 / (1.0 - config.confidence) - 1e-9) * 2 - 1
        n, self._ahead_slots = len(self.slots), config.horizon.us // config.slot.us
        self._within = config.horizon.us
        self._measures = [f"forecast_{Duration(config.slot.us * (h + 1))}" for h in range(self._ahead_slots)]
        self._units = [tag.unit for tag in context.tags]
        self._peak = np.array([_peak(config, tag) for tag in context.tags], dtype=np.float64)
        self._usual: Singles = np.full((n, self._calendar.slots), np.nan, dtype=np.float32)
        self._visits: Singles = np.zeros((n, self._calendar.slots), dtype=np.float32)
        # Forecasts and, once they have come true, their errors: by the place of the forecast, and by how many slots ahead.
        self._open: Singles = np.full((n, self._ahead_slots * self._ahead_slots), np.nan, dtype=np.float32)
        self._errors: Singles = np.full((n, _RECORD * self._ahead_slots), np.nan, dtype=np.float32)
        self._entered: Times = np.full(n, NEVER)
        self._news: list[list[News]] = [[] for _ in self._measures]

    def _times(self) -> dict[str, Times]:
        return {"entered": self._entered}

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {**super()._arrays(), "usual": self._usual, "visits": self._visits, "open": self._open, "errors": self._errors}

    def _settle(self) -> None:
        """Never: the score is null whenever there is no forecast."""

    def take(self, readings: Readings) -> list[pa.RecordBatch]:
        """See TakesReadings."""
        self._news = [[] for _ in self._measures]
        found = super().take(readings)
        for measure, news in zip(self._measures, self._news, strict=True):
            health = health_rows(self.slots, readings, news, model=self._name, measure=measure, unit=self._units)
            if health is not None:
                found.append(health)
        return found

    def _score(self, at: At, time: Times, value: Floats, count: Floats, ready: Bools | None) -> tuple[Floats, Floats, Floats]:
        s = self.view(at)
        slots: Index = np.arange(len(self.slots))[at]
        fresh = np.flatnonzero(np.isnan(s["origin"]))
        s["origin"][fresh] = value[fresh]
        position, fraction = self._calendar.place(time)
        entered, slot_us = self._entered[slots], self._calendar.slot_us
        moved = np.flatnonzero((s["position"] != position) | (time - entered >= slot_us) | (time < entered))
        if len(moved):
            begins = time[moved] - np.round(fraction[moved] * slot_us).astype(np.int64)
            part = {name: array[moved] for name, array in s.items()}
            follows = (np.abs(begins - entered[moved] - slot_us) <= 1) & (position[moved] >= 0)
            self._over(part, slots[moved], position[moved], follows)
            told = np.isfinite(self._low[:, 0]) if ready is None else np.isfinite(self._low[:, 0]) & ready[moved]
            rows = np.flatnonzero(told)
            for h, news in enumerate(self._news):
                if len(rows):
                    news.append(
                        (slots[moved[rows]], time[moved[rows]], self._value[rows, h], self._low[rows, h], self._high[rows, h])
                    )
            part["position"][:] = position[moved]
            part["readings"][:] = part["sum"][:] = 0.0
            for name, array in part.items():
                s[name][moved] = array
            self._entered[slots[moved]] = begins
        s["sum"] += value - s["origin"]
        s["readings"] += 1.0
        score = np.where(position >= 0, s["score"], np.nan)
        low, high = s["low"].copy(), s["high"].copy()
        self.keep(at, s)
        return score, low, high

    def _over(self, s: dict[str, Floats], own: Index, position: Index, follows: Bools) -> None:
        """A slot of m tags is over: compare it with what was foretold, learn it, and foretell the next ones.

        Where the next slot does not follow at once (a gap, a holiday) nothing is foretold, and what was foretold is forgotten.
        """
        m, ahead = len(own), self._ahead_slots
        done = (s["position"] >= 0.0) & (s["readings"] > 0.0)
        mean = s["sum"] / np.maximum(s["readings"], 1.0)
        made = s["made"].astype(np.intp)
        for h in range(ahead):  # the forecast that was made h+1 slots ago spoke of this slot, h+1 ahead
            before = made - 1 - h
            source = (before % ahead) * ahead + h
            place = (before % _RECORD) * ahead + h
            error = mean - self._open[own, source]
            good = np.flatnonzero(done & (before >= 0) & ~np.isnan(error))
            self._errors[own[good], place[good]] = error[good]

        k = self._calendar.slot_at[np.maximum(s["position"], 0.0).astype(np.intp)]
        usual, visits = self._usual[own, k].astype(np.float64), self._visits[own, k].astype(np.float64)
        off = np.where(visits > 0.0, mean - usual, 0.0)
        s["deviation"] += _DEVIATION_GAIN * (off - s["deviation"]) * done
        most = np.where(s["lessons"] >= _CLIP_FROM, _CLIP * s["size"], np.inf)
        taught = np.where(visits > 0.0, usual + np.clip(off, -most, most) / np.minimum(visits + 1.0, self._memory), mean)
        again = done & (visits > 0.0)
        s["lessons"] += again
        s["size"] += np.where(again, (np.minimum(np.abs(off), most) - s["size"]) / np.clip(s["lessons"], 1.0, _SIZE_MEMORY), 0.0)
        self._usual[own[done], k[done]] = taught[done]
        self._visits[own[done], k[done]] += np.float32(1.0)
        s["deviation"][~follows] = 0.0
        self._open[own[~follows]] = np.nan

        self._value, self._low, self._high = (np.full((m, ahead), np.nan) for _ in range(3))
        last = self._calendar.positions
        foretold = np.empty((m, ahead))
        for h in range(ahead):
            place = self._calendar.slot_at[(np.maximum(position, 0) + h) % last]
            foretold[:, h] = self._usual[own, place] + s["deviation"] * _DAMPED ** (h + 1)
        foretold[~follows] = np.nan
        for h in range(ahead):
            self._open[own, (made % ahead) * ahead + h] = foretold[:, h]
            self._errors[own, (made % _RECORD) * ahead + h] = np.nan
        s["made"] += 1.0
        self._judge(s, own, foretold)

    def _judge(self, s: dict[str, Floats], own: Index, foretold: Floats) -> None:
        """Set score and intervals from the record of errors; NaN where there are too few."""
        ahead = self._ahead_slots
        errors = self._errors[own].reshape(len(own), _RECORD, ahead).astype(np.float64)
        whole: Bools = np.logical_not(np.isnan(errors).any(axis=2))
        n = whole.sum(axis=1)
        able = (n >= self._few) & ~np.isnan(foretold).any(axis=1)
        beyond = (whole & (foretold[:, None, :] + errors > (self._peak[own] - s["origin"])[:, None, None]).any(axis=2)).sum(
            axis=1
        )
        s["score"][:] = np.where(able, beyond / (n + 1.0), np.nan)
        rows = np.flatnonzero(able)
        sizes = np.sort(np.where(whole[rows][:, :, None], np.abs(errors[rows]), np.inf), axis=1)
        place = np.minimum(np.ceil((n[rows] + 1) * self._confidence).astype(np.intp), n[rows]) - 1
        margin = sizes[np.arange(len(rows)), place]
        centre = foretold[rows] + s["origin"][rows, None]
        self._value[rows], self._low[rows], self._high[rows] = centre, centre - margin, centre + margin
        s["low"][:], s["high"][:] = self._low[:, 0], self._high[:, 0]

    def problem(self, tag: Tag, row: ScoreRow) -> str:
        """See Explains."""
        peak = self._peak[self.slots.of(np.array([tag.id], dtype=np.int32))[0]]
        return (
            f"{tag.display} will, with {int(100 * row.score)} % probability, exceed {quantity(float(peak), tag)} "
            f"in the mean of {span(self._calendar.slot_us)} within {span(self._within)}"
        )


def _peak(config: ForecastConfig, tag: Tag) -> float:
    """What is not to be exceeded; NaN for nothing."""
    for level in (config.peak, *((tag.limits.high, tag.limits.high_high) if tag.limits is not None else ())):
        if level is not None:
            return float(level)
    return float("nan")


PLUGIN: Plugin[ForecastConfig, EdgeModel] = Plugin(ForecastConfig, Forecast)
