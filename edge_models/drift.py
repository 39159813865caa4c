"""`drift`: has a tag that holds a level been creeping away from it, or grown restless, too slowly for any single reading to stand out?"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import exp, log
from typing import Any, ClassVar, Final, Literal

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

_LIMIT: Final = 0.999999  # the score at which the sum has reached `threshold`
_SIGMA: Final = 1.2533  # standard deviation over mean absolute deviation of a Gaussian; the spread is kept as the latter
_BAND: Final = 3.0 * _SIGMA  # the expected band is so many standard deviations to either side
_CLIP: Final = 4.0 * _SIGMA  # standard deviations that one reading may add
_CLIP_COLD: Final = 10.0 * _SIGMA
_SUSPICIOUS: Final = 0.2  # share of `threshold` from which the reference is learnt slower
_SUSPICIOUS_GAIN: Final = 0.05
_ROOT_MEAN: Final = 0.82218  # mean and standard deviation of √|z| of a Gaussian z
_ROOT_SIGMA: Final = 0.34914
_ROOM: Final = 1.25  # times `threshold` is as far as a sum grows, so that it comes back soon after the fault


class DriftConfig(ModelConfig):
    """Adds up small deviations from a learnt level. For tags that are held at a level: zones, pressures, flows."""

    warm_up: Duration = Field(Duration("10m"), description="Time from the first good reading of a tag until it may raise alarms.")
    of: Literal["level", "scatter"] = Field(
        "level", description="What is watched: `level`, or `scatter`, how far readings lie from the level: noise, oscillation."
    )
    slack: float = Field(1.0, gt=0, description="Deviation in standard deviations that is still normal and adds nothing.")
    threshold: float = Field(
        12.0, gt=0, description="Sum of the deviations beyond the slack, in standard deviations, that is a drift."
    )
    forget_after: Duration = Field(
        Duration("4h"),
        description="Behind a pause of so long (a stop, another product) what had added up to a drift before it is forgotten; 0 is never.",
    )
    memory: int = Field(20_000, ge=50, description="Readings over which level and spread are learnt.", examples=[20_000])
    min_samples: int = Field(15, ge=10, description="Readings of a tag before its first score.")


class Drift(PerTagModel):
    """Two-sided CUSUM (Page 1954) of the readings standardised by a slowly learnt level and robust spread.

    The score is 1 − 10^(−6 S/threshold) for the larger sum S: the tail of a CUSUM falls exponentially (Siegmund 1985), and the
    threshold stands for a tail of one in a million. Below a fifth of the threshold it rises evenly. While a sum is suspicious the level is learnt twenty times slower, so that a
    drift is not followed. Of the scatter the sum is one-sided, of (√|z| − 0.822) / 0.349 for a reading z standard deviations from the
    level: nearly Gaussian, and larger where readings spread wider, by noise or by oscillation (Hawkins 1981). Behind a
    pause of `forget_after` a sum that had reached the threshold begins anew. 80 bytes of state per tag.
    """

    kind: ClassVar[str] = "drift"
    version: ClassVar[int] = 3
    initial: ClassVar[Mapping[str, float]] = {
        "level": 0.0,
        "spread": 0.0,  # mean absolute deviation, robust
        "step": float(UNKNOWN_STEP),  # smallest change seen while it mattered: the resolution of the sensor
        PREVIOUS: np.nan,
        "up": 0.0,  # sums in mean absolute deviations
        "down": 0.0,
    }
    single: ClassVar[Collection[str]] = frozenset(initial) - {"level", PREVIOUS}
    learnt_with: ClassVar[tuple[str, ...]] = ("memory", "of")

    def __init__(self, config: DriftConfig, context: ModelContext) -> None:
        super().__init__(config, context, limit=_LIMIT, min_samples=config.min_samples)
        n = len(self.slots)
        self._memory, self._scatter = float(config.memory), config.of == "scatter"
        self._slack, self._threshold = config.slack * _SIGMA, config.threshold * _SIGMA
        self._decay = log(1.0 - _LIMIT) / self._threshold
        self._rise = (1.0 - exp(self._decay * self._threshold * _SUSPICIOUS)) / (self._threshold * _SUSPICIOUS)
        self._forget_us = config.forget_after.us
        self._over: Times = np.full(n, NEVER)  # time of the newest reading, where the sum had reached the threshold
        self._any_over = True
        self._nothing = np.zeros(n, dtype=np.float32)  # numpy is faster with an array than with a number
        self._scratch = Scratch(n, 5)

    def _times(self) -> dict[str, Times]:
        return {"over": self._over}

    def restore(self, state: bytes) -> None:
        """See EdgeModel."""
        super().restore(state)
        self._any_over = True

    def _score(self, at: At, time: Times, value: Floats, count: Floats, ready: Bools | None) -> tuple[Floats, Floats, Floats]:
        s = self.view(at)
        level, spread, up, down = s["level"], s["spread"], s["up"], s["down"]
        (residual, deviation, scale, largest, work), exact, flag = self._scratch.of(len(value))
        gain = self.gain(count, self._memory)
        if ready is not None:  # some slot may be cold: its first reading is its level
            cold = np.flatnonzero(count == 1.0)
            level[cold] = s[PREVIOUS][cold] = value[cold]
            finer_step(s["step"], s[PREVIOUS], value, np.flatnonzero(~ready), 1.0 / _SIGMA)

        np.subtract(value, level, out=exact)
        np.copyto(residual, exact, casting="same_kind")
        np.maximum(spread, s["step"], out=scale)
        np.divide(residual, scale, out=deviation)
        np.abs(deviation, out=work)
        far = np.greater(work, _CLIP, out=flag).nonzero()[0]
        if len(far):
            self._clip(far, s, value, ready, residual, deviation, scale)
        if self._scatter:
            np.abs(deviation, out=deviation)
            deviation /= _SIGMA
            np.sqrt(deviation, out=deviation)
            deviation -= _ROOT_MEAN
            deviation *= _SIGMA / _ROOT_SIGMA
        nothing = self._nothing[: len(value)]
        np.subtract(deviation, self._slack, out=work)
        up += work
        np.add(deviation, self._slack, out=work)
        if not self._scatter:  # quieter than usual is no fault
            down -= work
        for total in (up, down):
            np.maximum(total, nothing, out=total)
            if ready is not None:
                total *= ready
        np.maximum(up, down, out=largest)

        suspicious = np.greater(largest, self._threshold * _SUSPICIOUS, out=flag).nonzero()[0]
        over = bool(len(suspicious)) and bool((largest[suspicious] > self._threshold).any())
        if over or self._any_over:
            self._pause(at, time, up, down, largest)
        if over:
            room = np.float32(self._threshold * _ROOM)
            for total in (up, down, largest):
                total[suspicious] = np.minimum(total[suspicious], room)
        score = np.empty(len(value))
        np.multiply(largest, self._rise, out=work)
        np.copyto(score, work)
        if len(suspicious):
            score[suspicious] = 1.0 - np.exp(largest[suspicious].astype(np.float64) * self._decay)
        low = np.empty(len(value))
        scale *= _BAND
        np.copyto(low, scale)
        high = level + low
        np.subtract(level, low, out=low)

        np.abs(residual, out=work)
        work -= spread
        for change in (residual, work):
            change *= gain
            if len(suspicious):
                change[suspicious] *= _SUSPICIOUS_GAIN
        np.copyto(exact, residual)
        level += exact
        spread += work
        self.seen(s, value)
        self.keep(at, s)
        return score, low, high

    def _pause(self, at: At, time: Times, up: Singles, down: Singles, largest: Singles) -> None:
        """Begin anew, in place, where the sum had reached the threshold before a long pause."""
        before, beyond = self._over[at], largest > self._threshold
        if self._forget_us:
            lapsed = beyond & (before != NEVER) & (time - before >= self._forget_us)
            for total in (up, down, largest):
                total[lapsed] = 0.0
            beyond &= ~lapsed
        self._over[at] = np.where(beyond, time, NEVER)
        self._any_over = bool((self._over != NEVER).any())

    @staticmethod
    def _clip(
        far: Index, s: Mapping[str, npt.NDArray[Any]], value: Floats, ready: Bools | None, residual: Singles, deviation: Singles, scale: Singles
    ) -> None:  # fmt: skip
        """Bound in place what one reading may add and teach, unless it was only finer than any change before."""
        finer = finer_step(s["step"], s[PREVIOUS], value, far, 1.0 / _SIGMA)
        if len(finer):
            scale[finer] = np.maximum(s["spread"][finer], s["step"][finer])
            deviation[finer] = residual[finer] / scale[finer]
        most = np.float32(_CLIP) if ready is None else np.where(ready[far], np.float32(_CLIP), np.float32(_CLIP_COLD))
        residual[far] = np.copysign(np.minimum(np.abs(residual[far]), scale[far] * most), residual[far])
        deviation[far] = np.clip(deviation[far], np.float32(-_CLIP), np.float32(_CLIP))

    def problem(self, tag: Tag, row: ScoreRow) -> str:
        """See Explains."""
        if self._scatter:
            return f"{tag.display} has grown restless: {quantity(row.value, tag)}, normally {interval(row.low, row.high, tag)}"
        usual = (row.low + row.high) / 2
        way = "up" if row.value > usual else "down"
        by = quantity(float(f"{abs(row.value - usual):.2g}"), tag)
        return f"{tag.display} has drifted {way} by about {by} to {quantity(row.value, tag)}, normally {interval(row.low, row.high, tag)}"


PLUGIN: Plugin[DriftConfig, EdgeModel] = Plugin(DriftConfig, Drift)
