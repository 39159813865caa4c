"""`trend_to_limit`: if it goes on like this, when does the value cross its limit, and how sure is that?"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, floor
from typing import ClassVar, Final

import numpy as np
import pyarrow as pa
from pydantic import Field

from schemas.plugin import Plugin
from schemas.tags import Tag
from schemas.values import Duration

from .base import EdgeModel, ModelConfig, ModelContext, ScoreRow
from .health_rows import News, health_rows
from .per_tag import PerTagModel
from .sentences import quantity, span
from .slots import At, Bools, Floats, Index, Readings, Times

_CHECKPOINTS: Final = 64
_PER_WINDOW: Final = 32  # checkpoints
_CONSTANTS_PER_WINDOW: Final = 4.0  # time constants of the regression
_SIGNIFICANT: Final = 4.0  # slope over its standard error from which a trend is a trend
_REACH: Final = 2.0  # windows: as far as it looks ahead
_LONGEST: Final = 40  # checkpoints between a past forecast and its outcome
_CLIP: Final = 5.0  # standard deviations that one reading may be off
_CLIP_FROM: Final = 20
_BAND: Final = 3.0  # standard deviations
_CHUNK: Final = 256


class TrendToLimitConfig(ModelConfig):
    """Forecasts when a wearing value crosses its limit. Says nothing where there is no trend, or where its forecasts have no record."""

    warm_up: Duration = Field(Duration("10m"), description="Time from the first good reading of a tag until it may raise alarms.")
    high: float | None = Field(None, description="Upper limit; by default `high` and then `high_high` of the tag.")
    low: float | None = Field(None, description="Lower limit; by default `low` and then `low_low` of the tag.")
    window: Duration = Field(
        Duration("1d"), description="Time over which a trend is seen. It looks two windows ahead; wear over weeks wants `7d`."
    )
    within: Duration = Field(Duration("8h"), description="Raise an alarm when the limit will be reached within this time.")
    limit: float = Field(0.9, gt=0.5, lt=1, description="A score at or above it is abnormal.")
    confidence: float = Field(0.9, ge=0.5, le=0.95, description="Target: the share of the intervals that hold the truth.")
    min_samples: int = Field(30, ge=10, description="Readings of a tag before its first score.")


class TrendToLimit(PerTagModel):
    """Time to the next limit by a weighted linear trend, with an interval from how its own forecasts have come true.

    READING(n) -> SCORE(n), and HEALTH rows `time_to_limit` (value, low, high in s): one a checkpoint (32 a window) while there is a
    forecast, and one without a value when there is none any more. The trend is a least-squares line with exponentially fading
    weights (a quarter of a window). At each checkpoint level and slope are kept, 64 of them. A past slope foretold when the level of a
    later checkpoint would be reached; by how much the true time differed (as a factor, up or down), over all pairs about as far apart
    as the present forecast reaches, gives the factor of the interval (split conformal, Vovk 2005: the k-th of n+1). Without a
    slope of four standard errors towards a limit, or with fewer than 19 pairs (for 0.9), it knows nothing; an upper bound that the record does not
    give is null. The score is the share of n+1 such errors with which the limit is still reached within `within`. 1664 bytes of state per tag.
    """

    kind: ClassVar[str] = "trend_to_limit"
    version: ClassVar[int] = 1
    initial: ClassVar[Mapping[str, float]] = {
        "origin": np.nan,  # values are taken relative to the first one
        "at": np.nan,  # µs, of the newest reading
        "mark": np.nan,  # µs, of the newest checkpoint
        "w": 0.0, "t": 0.0, "tt": 0.0, "y": 0.0, "ty": 0.0, "yy": 0.0,  # weighted sums; t in s before the newest reading
        "score": 0.0,
        "known": 0.0,  # 1 while there is a forecast
    }  # fmt: skip
    learnt_with: ClassVar[tuple[str, ...]] = ("window",)

    def __init__(self, config: TrendToLimitConfig, context: ModelContext) -> None:
        super().__init__(config, context, limit=config.limit, min_samples=config.min_samples)
        n = len(self.slots)
        for name in ("times", "levels", "slopes"):
            self.state[name] = np.full((n, _CHECKPOINTS), np.nan)
        self._name, self._within = context.name, config.within.s
        self._spacing_us = config.window.us / _PER_WINDOW
        self._constant, self._reach = config.window.s / _CONSTANTS_PER_WINDOW, config.window.s * _REACH
        self._confidence, self._few = config.confidence, ceil(1.0 / (1.0 - config.confidence) - 1e-9) * 2 - 1
        self._limits = np.array([_limits(config, tag) for tag in context.tags]).reshape(n, 4)
        self._news: list[News] = []

    def take(self, readings: Readings) -> list[pa.RecordBatch]:
        """See TakesReadings."""
        self._news = []
        found = super().take(readings)
        health = health_rows(self.slots, readings, self._news, model=self._name, measure="time_to_limit", unit="s")
        if health is not None:
            found.append(health)
        return found

    def _score(self, at: At, time: Times, value: Floats, count: Floats, ready: Bools | None) -> tuple[Floats, Floats, Floats]:
        s = self.view(at)
        slots = np.arange(len(self.slots))[at]
        now = time.astype(np.float64)
        fresh = np.flatnonzero(np.isnan(s["origin"]))
        s["origin"][fresh], s["at"][fresh], s["mark"][fresh] = value[fresh], now[fresh], now[fresh]
        back = np.flatnonzero(now < s["at"])  # the clock was set back: what is known is so much older then
        shift = now[back] - s["at"][back]
        s["mark"][back] += shift
        s["times"][back] += shift[:, None]
        passed = np.maximum(now - s["at"], 0.0) / 1e6
        s["at"][:] = now
        low, high = self._learn(s, passed, value - s["origin"], count)
        low += s["origin"]
        high += s["origin"]
        due = np.flatnonzero(now - s["mark"] >= self._spacing_us)
        if len(due):
            part = {name: array[due] for name, array in s.items()}
            part["mark"] = now[due]
            outcome = self._checkpoint(part, self._limits[slots[due]], np.ones(len(due), bool) if ready is None else ready[due])
            for name, array in part.items():
                s[name][due] = array
            told, expected, soonest, latest = outcome
            if len(told):
                self._news.append((slots[due[told]], time[due[told]], expected, soonest, latest))
        score = s["score"].copy()
        self.keep(at, s)
        return score, low, high

    def _learn(self, s: dict[str, Floats], passed: Floats, value: Floats, count: Floats) -> tuple[Floats, Floats]:
        """Let the weighted sums grow older by `passed` s and add the value. Returns the band in which the line saw it coming."""
        w, t, tt, y, ty, yy = (s[name] for name in ("w", "t", "tt", "y", "ty", "yy"))
        level, slope, spread, _ = _line(s)
        expected, room = level + slope * passed, _CLIP * spread
        clipped = np.clip(value, expected - room, expected + room)
        value = np.where((count > _CLIP_FROM) & (spread > 0), clipped, value)
        fade = np.exp(-passed / self._constant)
        tt[:] = fade * (tt - 2.0 * passed * t + passed**2 * w)
        ty[:] = fade * (ty - passed * y)
        t[:] = fade * (t - passed * w)
        w[:] = fade * w + 1.0
        y[:] = fade * y + value
        yy[:] = fade * yy + value**2
        margin = _BAND * spread
        return expected - margin, expected + margin

    def _checkpoint(self, s: dict[str, Floats], limits: Floats, ready: Bools) -> tuple[Index, Floats, Floats, Floats]:
        """Keep level and slope of m slots, forecast, and set `score` and `known`. Returns which have news: place, value, low, high in s."""
        level, slope, _, error = _line(s)
        slope = np.where(np.abs(slope) > _SIGNIFICANT * error, slope, np.nan)
        for name, newest in (("times", s["mark"]), ("levels", level), ("slopes", slope)):
            s[name] = np.concatenate([s[name][:, 1:], newest[:, None]], axis=1)
        here = level + s["origin"]
        ahead = np.where(limits > here[:, None], limits, np.inf)[:, 2:].min(axis=1)
        behind = np.where(limits < here[:, None], limits, -np.inf)[:, :2].max(axis=1)
        foretold = (np.where(slope > 0, ahead, behind) - here) / slope  # inf without a limit there, NaN without a trend
        expected, low, high = (np.full(len(slope), np.nan) for _ in range(3))
        s["score"][:] = 0.0
        able = np.flatnonzero(np.isfinite(foretold) & (foretold <= self._reach))
        for chunk in (able[k : k + _CHUNK] for k in range(0, len(able), _CHUNK)):
            errors, n = self._record(s, chunk, foretold[chunk])
            soon = np.log(np.maximum(self._within, 1e-9) / foretold[chunk])[:, None]  # how far the truth must be off, in ln
            beyond = (n - (errors <= np.abs(soon)).sum(axis=1)) / 2.0  # half of the errors go either way
            inside = (n - beyond) / (n + 1.0)
            s["score"][chunk] = np.where(soon[:, 0] > 0, inside, beyond / (n + 1.0))
            which = np.flatnonzero(n >= self._few)
            place = np.minimum(np.ceil((n[which] + 1) * self._confidence).astype(np.intp), n[which]) - 1
            factor = np.exp(errors[which, place])
            row, at = foretold[chunk[which]], chunk[which]
            expected[at], low[at], high[at] = row, row / factor, np.where(np.isfinite(factor), row * factor, np.nan)
        known = np.isfinite(expected) & ready
        told = np.flatnonzero(known | (s["known"] == 1.0))
        s["known"][:] = known
        expected, low, high = (np.where(known, one, np.nan)[told] for one in (expected, low, high))
        return told, expected, low, high

    def _record(self, s: dict[str, Floats], at: Index, foretold: Floats) -> tuple[Floats, Index]:
        """|ln(true/foretold time)| of past forecasts, sorted, inf behind the n there are: float64[m, …], n of each row.

        Never reached is inf too.
        """
        times, levels, slopes = (s[name][at] for name in ("times", "levels", "slopes"))
        sign = np.sign(slopes[:, -1:])
        lag = (times[:, None, :] - times[:, :, None]) / 1e6  # from checkpoint i to checkpoint j
        wanted = np.minimum(foretold, self._spacing_us / 1e6 * _LONGEST)[:, None, None]
        usable = (lag >= wanted / 2.0) & (lag <= wanted * 1.5) & (lag > 0) & (np.sign(slopes) == sign)[:, :, None]
        usable &= ~np.isnan(levels)[:, None, :]
        needed = (levels[:, None, :] - levels[:, :, None]) / slopes[:, :, None]
        with np.errstate(all="ignore"):
            error = np.where(needed > 0, np.abs(np.log(lag / needed)), np.inf)
        m = len(at)
        found = np.sort(np.where(usable, error, np.nan).reshape(m, -1), axis=1)  # NaN goes last
        n = usable.reshape(m, -1).sum(axis=1).astype(np.intp)
        return np.where(np.isnan(found), np.inf, found), n

    def problem(self, tag: Tag, row: ScoreRow) -> str:
        """See Explains."""
        share = floor(100 * row.score)
        return (
            f"{tag.display} is {quantity(row.value, tag)} and will, with {share} % certainty by its trend, "
            f"cross its limit within {span(round(self._within * 1e6))}"
        )


def _line(s: Mapping[str, Floats]) -> tuple[Floats, Floats, Floats, Floats]:
    """Level at the newest reading, slope per s, standard deviation of the residuals, standard error of the slope."""
    w, t, tt, y, ty, yy = (s[name] for name in ("w", "t", "tt", "y", "ty", "yy"))
    with np.errstate(all="ignore"):
        spread_t = w * tt - t * t
        slope = np.where(spread_t > 0, (w * ty - t * y) / spread_t, 0.0)
        level = (y - slope * t) / w
        variance = np.maximum((yy - level * y - slope * ty) / np.maximum(w - 2.0, 1.0), 0.0)
        error = np.where(spread_t > 0, np.sqrt(variance * w / spread_t), np.inf)
    return level, slope, np.sqrt(variance), error


def _limits(config: TrendToLimitConfig, tag: Tag) -> list[float]:
    """low_low, low, high, high_high; NaN where there is none."""
    given = tag.limits
    levels = [getattr(given, name) if given is not None else None for name in ("low_low", "low", "high", "high_high")]
    if config.low is not None:
        levels[:2] = [None, config.low]
    if config.high is not None:
        levels[2:] = [config.high, None]
    return [np.nan if level is None else float(level) for level in levels]


PLUGIN: Plugin[TrendToLimitConfig, EdgeModel] = Plugin(TrendToLimitConfig, TrendToLimit)
