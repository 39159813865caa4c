"""`envelope`: has a tag left the range in which it has ever been, and by how much of that range?"""

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
from .sentences import interval, number, quantity
from .slots import At, Bools, Floats, Index, Times

_WIDER: Final = 0.2  # how much of a new excursion's size the typical size takes over
_HEAVIEST: Final = 10.0
_FEW: Final = 10  # readings before which a range means nothing
_ABNORMAL_GAIN: Final = 0.01  # of the distance, per reading, by which the range follows while it is abnormally far away


class EnvelopeConfig(ModelConfig):
    """Learns the range of each tag and tells when it is left. Cheap, sure of itself, and right for most tags that never wander."""

    warm_up: Duration = Field(Duration("1h"), description="Time from the first good reading of a tag until it may raise alarms.")
    limit: float = Field(0.999999, gt=0.5, lt=1, description="A score at or above it is abnormal; 0.9999 is keener.")
    memory: int = Field(
        100_000, ge=100, description="Readings after which a range that is not used any more has shrunk to a third of its excess."
    )
    min_samples: int = Field(50, ge=10, description="Readings of a tag before its first score.")


class Envelope(PerTagModel):
    """How far a reading leaves the range [low, high] of those before it, as a share e of its width.

    The score is 1 − p with p = 2/(n+1) · exp(−e/s), the chance that one of n+1 like readings is outermost (either end) times an
    exponential tail beyond (peaks over threshold, Pickands 1975). The scale s of the tail is that of a Gaussian of this
    range, 1 / (4 ln n), times how much larger the tag's own excursions have been than that on average, where they were: so a tag whose
    range grows by and by is not told again and again. n ends at `memory`. A reading inside scores 0; the range takes a new
    value over at once while the score is normal, and by a hundredth of the distance per reading while it is not. 80 bytes of state per tag.
    """

    kind: ClassVar[str] = "envelope"
    version: ClassVar[int] = 1
    initial: ClassVar[Mapping[str, float]] = {
        "low": np.inf,
        "high": -np.inf,
        "heavy": 1.0,  # mean size of the excursions that were normal, in units of what a Gaussian's would be
        "step": np.inf,  # smallest change ever seen: the resolution of the sensor
        "previous": np.nan,
    }
    learnt_with: ClassVar[tuple[str, ...]] = ("memory",)

    def __init__(self, config: EnvelopeConfig, context: ModelContext) -> None:
        super().__init__(config, context, limit=config.limit, min_samples=config.min_samples)
        self._memory, self._tail = float(config.memory), log(1.0 - config.limit)

    def _score(self, at: At, time: Times, value: Floats, count: Floats, ready: Bools | None) -> tuple[Floats, Floats, Floats]:
        s = self.view(at)
        low, high, heavy = s["low"], s["high"], s["heavy"]
        if ready is not None:
            cold = np.flatnonzero(count == 1.0)
            low[cold] = high[cold] = s["previous"][cold] = value[cold]
        learn_step(s["step"], s["previous"], value)
        before_low, before_high = low.copy(), high.copy()
        outside, log_tail = leave_range(low, high, heavy, s["step"], value, count, ready, memory=self._memory, tail=self._tail)
        score = np.zeros(len(value))
        if len(outside):
            score[outside] = 1.0 - np.exp(log_tail)
        self.keep(at, s)
        return score, before_low, before_high

    def problem(self, tag: Tag, row: ScoreRow) -> str:
        """See Explains."""
        width = row.high - row.low
        beyond = max(row.value - row.high, row.low - row.value)
        by = f", by {number(float(f'{100 * beyond / width:.2g}'))} % of it" if width > 0 and np.isfinite(beyond / width) else ""
        return f"{tag.display} is {quantity(row.value, tag)}, outside the range in which it has been{by}: {interval(row.low, row.high, tag)}"


def leave_range(
    low: Floats, high: Floats, heavy: Floats, step: Floats, value: Floats, count: Floats, ready: Bools | None, *, memory: float, tail: float
) -> tuple[Index, Floats]:  # fmt: skip
    """The rows whose value lies outside [low, high] and the logarithm of how likely that was. The range learns them, in place.

    `tail` is the logarithm from which on a row is abnormal.
    """
    outside = np.flatnonzero((value < low) | (value > high))
    log_tail = np.zeros(len(outside))
    if len(outside):
        one, bottom, top = value[outside], low[outside], high[outside]
        resolution = step[outside]
        width = np.maximum(top - bottom, np.where(np.isfinite(resolution), resolution, 0.0))
        beyond = np.where(one > top, one - top, bottom - one)
        share = np.where(width > 0, beyond / width, np.inf)
        n = np.minimum(count[outside], memory)
        gaussian = 1.0 / (4.0 * np.log(np.maximum(n, 3.0)))
        scale = gaussian * np.maximum(heavy[outside], 1.0)
        log_tail = np.minimum(np.log(2.0 / (n + 1.0)) - share / scale, 0.0)
        normal = log_tail > tail
        if ready is not None:
            normal |= ~ready[outside]
        rest = np.where(normal, 0.0, (1.0 - _ABNORMAL_GAIN) * beyond)
        low[outside] = np.where(one < bottom, one + rest, bottom)
        high[outside] = np.where(one > top, one - rest, top)
        seen = np.minimum(share / gaussian, _HEAVIEST)
        heavy[outside] += np.where(normal & (n >= _FEW), _WIDER * (seen - heavy[outside]), 0.0)
    # A range that is not used any more shrinks towards what is: slowly, and never past the reading.
    high -= (high - value).clip(0.0) / memory
    low += (value - low).clip(0.0) / memory
    return outside, log_tail


PLUGIN: Plugin[EnvelopeConfig, EdgeModel] = Plugin(EnvelopeConfig, Envelope)
