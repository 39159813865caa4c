"""`forecast_residual`: is this reading, or the level of the last few, unlike what the tag's own history foretells?"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from schemas.plugin import Plugin
from schemas.tags import Tag
from schemas.values import Duration

from .base import EdgeModel, ModelConfig, ModelContext, ScoreRow
from .per_tag import PREVIOUS, UNKNOWN_STEP, PerTagModel, Scratch, Singles, finer_step
from .sentences import interval, quantity
from .slots import NEVER, At, Bools, Floats, Index, Times

_SIGMA: Final = 1.2533  # standard deviation over mean absolute deviation of a Gaussian; spreads are kept as the latter
_TAIL: Final = 3.0 * _SIGMA  # from so many standard deviations the tail is learnt instead of assumed
_TAIL_SHARE: Final = 0.006  # of normal readings lie beyond it (Gaussian, the larger of two statistics)
_TAIL_MEAN: Final = 0.5 * _SIGMA  # what the mean excess is taken to be before any was seen; a Gaussian has 0.3
_TAIL_WEIGHT: Final = 10.0  # how many excursions that assumption counts for
_TAIL_MEMORY: Final = 200.0
_EXCESS_CLIP: Final = 3.0  # times the mean excess is as much as one excursion may count for
_ACCEPTED_SHARE: Final = 1 / 3  # how far the tail moves towards an excursion that has been accepted
_BAND: Final = 3.0 * _SIGMA  # the expected band is so many standard deviations to either side
_CLIP: Final = 3.0 * _SIGMA  # standard deviations that one reading may count for; not below _TAIL
_CLIP_COLD: Final = 10.0 * _SIGMA  # the same before the first score: a spread that began too small must grow
_EXCESS: Final = 2  # its column in "tail"
_NOBODY: Final = np.zeros(0, dtype=np.intp)
_HIGHEST: Final = 1e15  # no peak is kept higher
_ABNORMAL_GAIN: Final = 0.05  # how much slower an abnormal reading is learnt
_ABNORMAL_SLOPE: Final = 0.9  # what is left of the trend after an abnormal reading, lest it runs on while nothing corrects it


class ForecastResidualConfig(ModelConfig):
    """Learns level, trend and spread of each tag and scores what does not fit. The default for any measured tag."""

    warm_up: Duration = Field(Duration("10m"), description="Time from the first good reading of a tag until it may raise alarms.")
    limit: float = Field(
        0.999999,
        gt=0,
        lt=1,
        description="A score at or above it is abnormal: 1 − probability that a normal reading looks like this.",
    )
    memory: int = Field(2000, ge=50, description="Readings over which level and spread are learnt.", examples=[2000])
    window: int = Field(10, ge=1, le=30, description="Readings that are averaged to notice a small shift of the level.")
    min_samples: int = Field(30, ge=20, description="Readings of a tag before its first score.")
    accept_after: Duration = Field(
        Duration("4h"), description="An abnormal state that lasts this long is taken for the new normal and learnt; 0 is never."
    )


class ForecastResidual(PerTagModel):
    """Damped local trend (Holt) with a robust spread, and the calibrated tail of its residuals as score.

    Two statistics in standard deviations: the one-step residual, and the short mean of the residuals, which finds small lasting
    shifts. The larger one is scored by a peaks-over-threshold tail that is learnt per tag from the peak of each excursion
    (exponential excesses; Pickands 1975), so a heavy-tailed tag needs a larger excursion than a quiet one. Abnormal
    readings are learnt twenty times slower. 116 bytes of state per tag.
    """

    kind: ClassVar[str] = "forecast_residual"
    version: ClassVar[int] = 2
    initial: ClassVar[Mapping[str, float | tuple[float, ...]]] = {
        "forecast": 0.0,  # of the next reading: level and slope
        "slope": 0.0,  # per reading
        "spread": 0.0,  # mean absolute residual, robust
        "mean": 0.0,  # of the last few residuals
        "mean_spread": 0.0,
        "step": float(UNKNOWN_STEP),  # smallest change seen while it mattered: the resolution of the sensor
        PREVIOUS: np.nan,
        # Of the newest excursion: its largest statistic (0 for none) and the `count` of its newest reading. Of those before: their
        # mean excess and their number.
        "tail": (0.0, -1.0, _TAIL_MEAN, 0.0),
    }
    single: ClassVar[Collection[str]] = frozenset(initial) - {"forecast", PREVIOUS, "tail"}
    learnt_with: ClassVar[tuple[str, ...]] = ("memory", "window")

    def __init__(self, config: ForecastResidualConfig, context: ModelContext) -> None:
        super().__init__(config, context, limit=config.limit, min_samples=config.min_samples)
        n = len(self.slots)
        self._limit, self._memory = config.limit, float(config.memory)
        self._slope_gain = config.memory**-2 / 4.0  # critically damped together with the level
        self._window_gain = 2.0 / (config.window + 1.0)
        self._least_mean_spread = float(np.sqrt(self._window_gain / (2.0 - self._window_gain)))  # of white noise
        self._accept_after_us = config.accept_after.us
        self._abnormal_since: Times = np.full(n, NEVER)
        self._scratch = Scratch(n, 7)
        self._index = np.arange(n)

    def _times(self) -> dict[str, Times]:
        return {"abnormal_since": self._abnormal_since}

    def _score(self, at: At, time: Times, value: Floats, count: Floats, ready: Bools | None) -> tuple[Floats, Floats, Floats]:
        s = self.view(at)
        forecast, slope, mean, spread, mean_spread = s["forecast"], s["slope"], s["mean"], s["spread"], s["mean_spread"]
        (residual, size, scale, shift, mean_scale, statistic, work), exact, flag = self._scratch.of(len(value))
        gain = self.gain(count, self._memory)
        mean_gain: Singles | float = self._window_gain
        if ready is not None:  # some slot may be cold: its first reading is its level
            cold = np.flatnonzero(count == 1.0)
            forecast[cold] = s[PREVIOUS][cold] = value[cold]
            finer_step(s["step"], s[PREVIOUS], value, np.flatnonzero(~ready), 1.0 / _SIGMA)
            mean_gain = np.maximum(gain, np.float32(mean_gain))

        np.subtract(value, forecast, out=exact)
        np.copyto(residual, exact, casting="same_kind")
        np.abs(residual, out=size)
        np.maximum(spread, s["step"], out=scale)
        np.subtract(residual, mean, out=work)
        work *= mean_gain
        mean += work
        np.abs(mean, out=shift)
        np.multiply(scale, self._least_mean_spread, out=mean_scale)
        np.maximum(mean_scale, mean_spread, out=mean_scale)
        np.divide(size, scale, out=statistic)
        np.divide(shift, mean_scale, out=work)
        np.maximum(statistic, work, out=statistic)

        beyond = np.greater(statistic, _TAIL, out=flag).nonzero()[0]
        if len(beyond):
            coarse = beyond[spread[beyond] <= s["step"][beyond]]
            if len(coarse):
                finer = finer_step(s["step"], s[PREVIOUS], value, coarse, 1.0 / _SIGMA)
                scale[finer] = np.maximum(spread[finer], s["step"][finer])
                mean_scale[finer] = np.maximum(scale[finer] * np.float32(self._least_mean_spread), mean_spread[finer])
                statistic[finer] = np.maximum(size[finer] / scale[finer], shift[finer] / mean_scale[finer])
                beyond = beyond[statistic[beyond] > _TAIL]
        score = np.empty(len(value))
        np.multiply(statistic, (1.0 - _TAIL_SHARE) / _TAIL, out=work)
        np.copyto(score, work)
        abnormal, reached = _NOBODY, False
        if len(beyond):
            most = _CLIP if ready is None else np.where(ready[beyond], np.float32(_CLIP), np.float32(_CLIP_COLD))
            bounded = np.minimum(size[beyond], scale[beyond] * most)
            size[beyond] = bounded
            residual[beyond] = np.copysign(bounded, residual[beyond])
            shift[beyond] = np.minimum(shift[beyond], mean_scale[beyond] * most)
            found = self._tail(s, at, beyond, statistic[beyond].astype(np.float64), count[beyond])
            score[beyond] = found
            reached = bool(found.max() >= self._limit)
            if reached:
                abnormal = beyond[found >= self._limit]
                if ready is not None:
                    abnormal = abnormal[ready[abnormal]]
                slope[abnormal] *= _ABNORMAL_SLOPE

        low = np.empty(len(value))
        scale *= _BAND
        np.copyto(low, scale)
        high = forecast + low
        np.subtract(forecast, low, out=low)
        np.multiply(residual, self._slope_gain, out=work)
        slope += work
        size -= spread
        shift -= mean_spread
        for change in (residual, size, shift):
            change *= gain
            if len(abnormal):
                change[abnormal] *= _ABNORMAL_GAIN
        residual += slope
        np.copyto(exact, residual)
        forecast += exact
        spread += size
        mean_spread += shift
        self.seen(s, value)
        self.keep(at, s)
        if len(beyond):
            slots = self._index[at][beyond]
            if reached or self._abnormal_since[slots].max() != NEVER:
                self._accept(slots, time[beyond], score[beyond] >= self._limit)
        return score, low, high

    def _tail(self, s: dict[str, npt.NDArray[Any]], at: At, beyond: Index, statistic: Floats, count: Floats) -> Floats:
        """Scores of rows beyond the tail's threshold.

        An excursion counts once, with its peak, when it is over: a fault that lasts teaches nothing. That it is over shows at
        the first reading of the next one, which is soon enough.
        """
        rows = s["tail"][beyond]
        peak, newest, excess, number = rows.T
        over = ((newest < count - 1.0) & (peak > 0.0)).nonzero()[0]
        if len(over):
            known = excess[over]
            seen = np.minimum(peak[over] - _TAIL, known * _EXCESS_CLIP)
            seen -= known
            number[over] += 1.0
            seen /= np.minimum(number[over] + _TAIL_WEIGHT, _TAIL_MEMORY)
            known += seen
            excess[over], peak[over] = known, 0.0
            self._abnormal_since[self._index[at][beyond[over]]] = NEVER
        np.maximum(peak, np.minimum(statistic, _HIGHEST), out=peak)
        newest[:] = count
        s["tail"][beyond] = rows
        found: Floats = 1.0 - _TAIL_SHARE * np.exp((_TAIL - statistic) / excess)
        return found

    def _accept(self, slots: Index, time: Times, abnormal: Bools) -> None:
        since = self._abnormal_since[slots]
        since = np.where(abnormal & (since == NEVER), time, since)
        self._abnormal_since[slots] = since
        if self._accept_after_us:
            accepted = slots[(since != NEVER) & (time - since >= self._accept_after_us)]
            if len(accepted):
                # What was accepted once, like a machine's other regime, is to stand out less when it comes again.
                peak, _, excess, _ = self.state["tail"][accepted].T
                excess += (peak - _TAIL - excess) * _ACCEPTED_SHARE
                self._relearn(accepted)
                self.state["tail"][accepted, _EXCESS] = excess
                self._abnormal_since[accepted] = NEVER

    def problem(self, tag: Tag, row: ScoreRow) -> str:
        """See Explains."""
        expected = interval(row.low, row.high, tag)
        if row.low <= row.value <= row.high:
            side = "above" if row.value > (row.low + row.high) / 2 else "below"
            return f"{tag.display} stays {side} its usual level: {quantity(row.value, tag)}, normally {expected}"
        return f"{tag.display} is {quantity(row.value, tag)}, expected {expected}"


PLUGIN: Plugin[ForecastResidualConfig, EdgeModel] = Plugin(ForecastResidualConfig, ForecastResidual)
