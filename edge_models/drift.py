"""`drift`: has a tag that holds a level been creeping away from it, too slowly for any single reading to stand out?"""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from typing import ClassVar, Final

import numpy as np
from pydantic import Field

from schemas.plugin import Plugin
from schemas.tags import Tag
from schemas.values import Duration

from .base import EdgeModel, ModelConfig, ModelContext, ScoreRow
from .per_tag import PerTagModel, learn_step
from .sentences import interval, quantity
from .slots import At, Bools, Floats, Times

_LIMIT: Final = 0.999999  # the score at which the sum has reached `threshold`
_CLIP: Final = 4.0  # standard deviations that one reading may add
_CLIP_COLD: Final = 10.0
_SUSPICIOUS: Final = 0.2  # share of `threshold` from which the reference is learnt slower
_SUSPICIOUS_GAIN: Final = 0.05
_ROOM: Final = 1.25  # times `threshold` is as far as a sum grows, so that it comes back soon after the fault
_MEAN_OF_ABSOLUTE: Final = 1.2533  # standard deviation over mean absolute deviation of a Gaussian


class DriftConfig(ModelConfig):
    """Adds up small deviations from a learnt level. For tags that are held at a level: zones, pressures, flows."""

    warm_up: Duration = Field(Duration("10m"), description="Time from the first good reading of a tag until it may raise alarms.")
    slack: float = Field(1.0, gt=0, description="Deviation in standard deviations that is still normal and adds nothing.")
    threshold: float = Field(
        12.0, gt=0, description="Sum of the deviations beyond the slack, in standard deviations, that is a drift."
    )
    memory: int = Field(20_000, ge=50, description="Readings over which level and spread are learnt.", examples=[20_000])
    min_samples: int = Field(15, ge=10, description="Readings of a tag before its first score.")


class Drift(PerTagModel):
    """Two-sided CUSUM (Page 1954) of the readings standardised by a slowly learnt level and robust spread.

    The score is 1 − 10^(−6 S/threshold) for the larger sum S: the tail of a CUSUM falls exponentially (Siegmund 1985), and the
    threshold stands for a tail of one in a million. While a sum is suspicious the level is learnt twenty times slower, so that a
    drift is not followed. 72 bytes of state per tag.
    """

    kind: ClassVar[str] = "drift"
    version: ClassVar[int] = 1
    initial: ClassVar[Mapping[str, float]] = {
        "level": 0.0,
        "spread": 0.0,
        "step": np.inf,  # smallest change ever seen: the resolution of the sensor
        "previous": np.nan,
        "up": 0.0,
        "down": 0.0,
    }
    learnt_with: ClassVar[tuple[str, ...]] = ("memory",)

    def __init__(self, config: DriftConfig, context: ModelContext) -> None:
        super().__init__(config, context, limit=_LIMIT, min_samples=config.min_samples)
        self._slowest, self._slack, self._threshold = 1.0 / config.memory, config.slack, config.threshold
        self._decay = log(1.0 - _LIMIT) / config.threshold

    def _score(self, at: At, time: Times, value: Floats, count: Floats, ready: Bools | None) -> tuple[Floats, Floats, Floats]:
        s = self.view(at)
        level, spread, up, down = s["level"], s["spread"], s["up"], s["down"]
        gain = np.maximum(1.0 / count, self._slowest)
        if ready is not None:  # some slot may be cold: its first reading is its level
            cold = np.flatnonzero(count == 1.0)
            level[cold] = s["previous"][cold] = value[cold]
        learn_step(s["step"], s["previous"], value)

        scale = np.maximum(spread, s["step"])
        residual = value - level
        deviation = residual / scale
        np.minimum(deviation, _CLIP, out=deviation)
        np.maximum(deviation, -_CLIP, out=deviation)
        up += deviation
        down -= deviation
        room = self._threshold * _ROOM
        for total in (up, down):
            total -= self._slack
            np.maximum(total, 0.0, out=total)
            np.minimum(total, room, out=total)
            if ready is not None:
                total *= ready
        largest = np.maximum(up, down)

        score = np.zeros(len(value))
        rising = np.flatnonzero(largest)
        if len(rising):
            sums = largest[rising]
            score[rising] = 1.0 - np.exp(self._decay * sums)
            gain[rising[sums > _SUSPICIOUS * self._threshold]] *= _SUSPICIOUS_GAIN
        margin = scale * 3.0
        low, high = level - margin, level + margin
        reach = (_CLIP if ready is None else np.where(ready, _CLIP, _CLIP_COLD)) * scale
        size = np.minimum(np.abs(residual), reach)
        level += np.copysign(size, residual) * gain
        spread += (size * _MEAN_OF_ABSOLUTE - spread) * gain
        self.keep(at, s)
        return score, low, high

    def problem(self, tag: Tag, row: ScoreRow) -> str:
        """See Explains."""
        usual = (row.low + row.high) / 2
        way = "up" if row.value > usual else "down"
        by = quantity(float(f"{abs(row.value - usual):.2g}"), tag)
        return f"{tag.display} has drifted {way} by about {by} to {quantity(row.value, tag)}, normally {interval(row.low, row.high, tag)}"


PLUGIN: Plugin[DriftConfig, EdgeModel] = Plugin(DriftConfig, Drift)
