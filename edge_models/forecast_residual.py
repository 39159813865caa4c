"""`forecast_residual`: is this reading, or the level of the last few, unlike what the tag's own history foretells?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

import numpy as np
from pydantic import Field

from schemas.plugin import Plugin
from schemas.tags import Tag
from schemas.values import Duration

from .base import EdgeModel, ModelConfig, ModelContext, ScoreRow
from .per_tag import PerTagModel, learn_step
from .sentences import interval, quantity
from .slots import NEVER, At, Bools, Floats, Index, Times

_TAIL: Final = 2.5  # from so many standard deviations the tail is learnt instead of assumed
_TAIL_SHARE: Final = 0.02  # of normal readings lie beyond it (Gaussian, the larger of two statistics)
_TAIL_MEAN: Final = 0.5  # what the mean excess is taken to be before any was seen; a Gaussian has 0.35
_TAIL_WEIGHT: Final = 20.0  # how many excursions that assumption counts for
_TAIL_MEMORY: Final = 200.0
_ACCEPTED_SHARE: Final = 1 / 3  # how far the tail moves towards an excursion that has been accepted
_BAND: Final = 3.0  # the expected band is so many standard deviations to either side
_CLIP: Final = 3.0  # standard deviations that one reading may count for; not below _TAIL
_CLIP_COLD: Final = 10.0  # the same before the first score: a spread that began too small must grow
_ABNORMAL_GAIN: Final = 0.05  # how much slower an abnormal reading is learnt
_ABNORMAL_SLOPE: Final = 0.9  # what is left of the trend after an abnormal reading, lest it runs on while nothing corrects it
_MEAN_OF_ABSOLUTE: Final = 1.2533  # standard deviation over mean absolute deviation of a Gaussian


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

    Two statistics in standard deviations: the one-step residual, and the short mean against the forecast, which finds small
    lasting shifts. The larger one is scored by a peaks-over-threshold tail that is learnt per tag from the peak of each
    excursion (exponential excesses; Pickands 1975), so a heavy-tailed tag needs a larger excursion than a quiet one.
    Abnormal readings are learnt twenty times slower. 128 bytes of state per tag.
    """

    kind: ClassVar[str] = "forecast_residual"
    version: ClassVar[int] = 1
    initial: ClassVar[Mapping[str, float]] = {
        "level": 0.0,
        "slope": 0.0,  # per reading
        "spread": 0.0,  # standard deviation of the residuals, robust
        "mean": 0.0,  # of the last few readings
        "mean_spread": 0.0,
        "step": np.inf,  # smallest change ever seen: the resolution of the sensor
        "previous": np.nan,
        "peak": 0.0,  # largest statistic of the excursion under way, 0 for none
        "excursions": 0.0,
        "excess": _TAIL_MEAN,
    }
    learnt_with: ClassVar[tuple[str, ...]] = ("memory", "window")

    def __init__(self, config: ForecastResidualConfig, context: ModelContext) -> None:
        super().__init__(config, context, limit=config.limit, min_samples=config.min_samples)
        self._limit = config.limit
        self._slowest = np.full(len(self.slots), 1.0 / config.memory)  # an array: numpy is faster with one than with a number
        self._slope_gain = config.memory**-2 / 4.0  # critically damped together with the level
        self._window_gain = 2.0 / (config.window + 1.0)
        self._least_mean_spread = float(np.sqrt(self._window_gain / (2.0 - self._window_gain)))  # of white noise
        self._accept_after_us = config.accept_after.us
        self._abnormal_since: Times = np.full(len(self.slots), NEVER)

    def _times(self) -> dict[str, Times]:
        return {"abnormal_since": self._abnormal_since}

    def _score(self, at: At, time: Times, value: Floats, count: Floats, ready: Bools | None) -> tuple[Floats, Floats, Floats]:
        s = self.view(at)
        level, slope, mean, spread, mean_spread = s["level"], s["slope"], s["mean"], s["spread"], s["mean_spread"]
        gain = 1.0 / count
        np.maximum(gain, self._slowest[at], out=gain)
        mean_gain: Floats | float = self._window_gain
        if ready is not None:  # some slot may be cold: its first reading is its level
            cold = np.flatnonzero(count == 1.0)
            level[cold] = mean[cold] = s["previous"][cold] = value[cold]
            mean_gain = np.maximum(gain, mean_gain)
        learn_step(s["step"], s["previous"], value)

        forecast = level + slope
        residual = value - forecast
        scale = np.maximum(spread, s["step"])
        size = np.abs(residual)
        mean += (value - mean) * mean_gain
        shift = np.abs(mean - forecast)
        mean_scale = np.maximum(mean_spread, scale * self._least_mean_spread)
        statistic = np.maximum(size / scale, shift / mean_scale)

        score = statistic * ((1.0 - _TAIL_SHARE) / _TAIL)
        beyond = np.flatnonzero(statistic > _TAIL)
        if len(beyond):
            self._clip(beyond, ready, residual, size, scale, shift, mean_scale)
            score[beyond] = 1.0 - _TAIL_SHARE * np.exp((_TAIL - statistic[beyond]) / s["excess"][beyond])
            abnormal = beyond[score[beyond] >= self._limit]
            if ready is not None:
                abnormal = abnormal[ready[abnormal]]
            gain[abnormal] *= _ABNORMAL_GAIN
            slope[abnormal] *= _ABNORMAL_SLOPE

        slope += residual * self._slope_gain
        np.add(forecast, residual * gain, out=level)
        size *= _MEAN_OF_ABSOLUTE
        size -= spread
        spread += size * gain
        shift *= _MEAN_OF_ABSOLUTE
        shift -= mean_spread
        mean_spread += shift * gain
        self.keep(at, s)
        self._learn_tail(at, time, statistic, beyond, score)
        scale *= _BAND
        return score, forecast - scale, forecast + scale

    @staticmethod
    def _clip(
        beyond: Index, ready: Bools | None, residual: Floats, size: Floats, scale: Floats, shift: Floats, mean_scale: Floats
    ) -> None:
        """Bound in place what one reading may teach. Only rows in the tail can be concerned."""
        most = _CLIP if ready is None else np.where(ready[beyond], _CLIP, _CLIP_COLD)
        size[beyond] = np.minimum(size[beyond], most * scale[beyond])
        residual[beyond] = np.copysign(size[beyond], residual[beyond])
        shift[beyond] = np.minimum(shift[beyond], most * mean_scale[beyond])

    def _learn_tail(self, at: At, time: Times, statistic: Floats, beyond: Index, score: Floats) -> None:
        """Each excursion counts once, with its peak, when it is over: a fault that lasts teaches nothing."""
        s = self.state
        peak = s["peak"][at]
        if len(beyond) == 0 and not peak.any():
            return
        under_way = peak > 0.0
        slots = np.arange(len(self.slots))[at]
        under_way[beyond] = False
        over = slots[under_way]
        if len(over):
            number = s["excursions"][over] + 1.0
            excess = s["excess"][over]
            seen = np.minimum(s["peak"][over] - _TAIL, _CLIP * excess)
            s["excess"][over] = excess + (seen - excess) / np.minimum(_TAIL_WEIGHT + number, _TAIL_MEMORY)
            s["excursions"][over] = number
            s["peak"][over] = 0.0
            self._abnormal_since[over] = NEVER
        if len(beyond):
            going = slots[beyond]
            s["peak"][going] = np.maximum(s["peak"][going], statistic[beyond])
            self._accept(going, time[beyond], score[beyond] >= self._limit)

    def _accept(self, slots: Index, time: Times, abnormal: Bools) -> None:
        since = self._abnormal_since[slots]
        since = np.where(abnormal & (since == NEVER), time, since)
        self._abnormal_since[slots] = since
        if self._accept_after_us:
            accepted = slots[(since != NEVER) & (time - since >= self._accept_after_us)]
            if len(accepted):
                # What was accepted once, like a machine's other regime, is to stand out less when it comes again.
                excess = self.state["excess"][accepted]
                excess += (self.state["peak"][accepted] - _TAIL - excess) * _ACCEPTED_SHARE
                self._relearn(accepted)
                self.state["excess"][accepted] = excess
                self._abnormal_since[accepted] = NEVER

    def problem(self, tag: Tag, row: ScoreRow) -> str:
        """See Explains."""
        expected = interval(row.low, row.high, tag)
        if row.low <= row.value <= row.high:
            side = "above" if row.value > (row.low + row.high) / 2 else "below"
            return f"{tag.display} stays {side} its usual level: {quantity(row.value, tag)}, normally {expected}"
        return f"{tag.display} is {quantity(row.value, tag)}, expected {expected}"


PLUGIN: Plugin[ForecastResidualConfig, EdgeModel] = Plugin(ForecastResidualConfig, ForecastResidual)
