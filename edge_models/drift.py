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
_BAND: Final = 3.0  # the expected band is so many standard deviations to either side
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
    drift is not followed. 88 bytes of state per tag.
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
        self._slack, self._threshold = config.slack, config.threshold
        # Arrays: numpy is faster with one than with a number.
        self._slowest, self._nothing = np.full(len(self.slots), 1.0 / config.memory), np.zeros(len(self.slots))
        self._decay = log(1.0 - _LIMIT) / config.threshold

    def _score(self, at: At, time: Times, value: Floats, count: Floats, ready: Bools | None) -> tuple[Floats, Floats, Floats]:
        s = self.view(at)
        level, spread, up, down = s["level"], s["spread"], s["up"], s["down"]
        gain = 1.0 / count
        np.maximum(gain, self._slowest[at], out=gain)
        if ready is not None:  # some slot may be cold: its first reading is its level
            cold = np.flatnonzero(count == 1.0)
            level[cold] = s["previous"][cold] = value[cold]
        learn_step(s["step"], s["previous"], value)

        scale = np.maximum(spread, s["step"])
        residual = value - level
        deviation = residual / scale
        size = np.abs(deviation)
        far = np.flatnonzero(size > _CLIP)
        if len(far):
            most = _CLIP if ready is None else np.where(ready[far], _CLIP, _CLIP_COLD)
            residual[far] = np.copysign(np.minimum(size[far], most) * scale[far], residual[far])
            deviation[far] = np.copysign(_CLIP, deviation[far])
        nothing = self._nothing[at]
        up += deviation
        down -= deviation
        for total in (up, down):
            total -= self._slack
            np.maximum(total, nothing, out=total)
            if ready is not None:
                total *= ready
        largest = np.maximum(up, down)

        suspicious = np.flatnonzero(largest > self._threshold * _SUSPICIOUS)
        if len(suspicious):
            room = self._threshold * _ROOM
            for total in (up, down, largest):
                total[suspicious] = np.minimum(total[suspicious], room)
            gain[suspicious] *= _SUSPICIOUS_GAIN
        largest *= self._decay
        score = np.exp(largest, out=largest)
        np.subtract(1.0, score, out=score)
        margin = scale * _BAND
        low, high = level - margin, level + margin
        level += residual * gain
        size = np.abs(residual)
        size *= _MEAN_OF_ABSOLUTE
        size -= spread
        spread += size * gain
        self.keep(at, s)
        return score, low, high

    def problem(self, tag: Tag, row: ScoreRow) -> str:
        """See Explains."""
        usual = (row.low + row.high) / 2
        way = "up" if row.value > usual else "down"
        by = quantity(float(f"{abs(row.value - usual):.2g}"), tag)
        return f"{tag.display} has drifted {way} by about {by} to {quantity(row.value, tag)}, normally {interval(row.low, row.high, tag)}"


PLUGIN: Plugin[DriftConfig, EdgeModel] = Plugin(DriftConfig, Drift)
