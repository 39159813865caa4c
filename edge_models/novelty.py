"""`novelty`: has a tag ever taken a course like this, at any of five time scales, within a range like this?"""

from __future__ import annotations

from collections.abc import Mapping
from math import log, sqrt
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from schemas.plugin import Plugin
from schemas.tags import Tag
from schemas.values import Duration

from .base import EdgeModel, ModelConfig, ModelContext, ScoreRow
from .envelope import leave_range
from .per_tag import PerTagModel, learn_step
from .sentences import interval, quantity
from .slots import At, Bools, Floats, Index, Times

_SCALES: Final = (3, 9, 27, 81)  # readings that are averaged; the newest reading is the first of the five scales
_MEANS: Final = tuple(f"mean_{scale}" for scale in _SCALES)
_USUAL_GAIN: Final = 1 / 1000
_SLOPE: Final = 2.0 * log(10.0)  # of the tail: two decades for each time that a course is as new as is usual and discernible
_RANGE_WEIGHT: Final = 0.4  # of the decades by which the reading leaves its range; more lets the range alone decide
_LEAST_LOG_TAIL: Final = -20.0 * log(10.0)
_FARTHEST: Final = 1e18  # squares of differences stay finite in float32
_NARROWEST: Final = 1e-37

Patterns = npt.NDArray[np.float32]
Stamps = npt.NDArray[np.int32]


class NoveltyConfig(ModelConfig):
    """Remembers the courses that each tag has taken and tells when it takes a new one. For selected tags that matter."""

    warm_up: Duration = Field(Duration("1h"), description="Time from the first good reading of a tag until it may raise alarms.")
    limit: float = Field(0.999999, gt=0.5, lt=1, description="A score at or above it is abnormal; 0.997 is keener.")
    patterns: int = Field(
        200, ge=20, le=2000, description="Courses that are remembered per tag; the one not seen longest gives way."
    )
    resolution: float = Field(
        0.02, gt=0, lt=1, description="Two courses closer than this share of the range of the tag are the same."
    )
    memory: int = Field(
        100_000, ge=100, description="Readings after which a range that is not used any more has shrunk to a third of its excess."
    )
    min_samples: int = Field(200, ge=10, description="Readings of a tag before its first score.")


class Novelty(PerTagModel):
    """Distance of the tag's course to the nearest of those it has taken before: a nearest-neighbour discord with a capped memory.

    A course is the newest reading and four exponential means of it, over 3, 9, 27 and 81 readings. Its distance to a remembered one
    is the root mean square of the five differences, as a share of the widest range seen. A course that is farther than
    `resolution` from all others is remembered, in the place of the one that was not met for longest, so what has happened once
    is not new again. The score is 1 − p with p = 10^(−2 d/(resolution + u)) · q^0.4: d is the distance, u what it usually is
    for this tag, and q the tail by which the reading leaves its range (see `envelope`; 1 inside). The slope of the tail
    was set on noise (white, autoregressive, exponential, random walk). 4944 bytes of state per tag at 200 patterns.
    """

    kind: ClassVar[str] = "novelty"
    version: ClassVar[int] = 1
    initial: ClassVar[Mapping[str, float]] = {
        "low": np.inf,
        "high": -np.inf,
        "heavy": 1.0,  # see envelope
        "step": np.inf,  # smallest change ever seen: the resolution of the sensor
        "previous": np.nan,
        "lowest": np.inf,
        "highest": -np.inf,
        "base": 0.0,  # the first reading: patterns are kept relative to it, so that half the digits are enough
        "usual": 0.0,  # mean distance
        **dict.fromkeys(_MEANS, 0.0),
    }
    learnt_with: ClassVar[tuple[str, ...]] = ("patterns", "resolution", "memory")

    def __init__(self, config: NoveltyConfig, context: ModelContext) -> None:
        super().__init__(config, context, limit=config.limit, min_samples=config.min_samples)
        self._resolution, self._memory = config.resolution, float(config.memory)
        self._decades = -log(1.0 - config.limit) / _SLOPE  # d/(resolution + u) at which the course alone is abnormal
        shape = (len(self.slots), config.patterns)
        # One array per scale: sums over scales are elementwise then, and the same for any number of rows.
        self._patterns: list[Patterns] = [np.full(shape, np.inf, dtype=np.float32) for _ in range(len(_SCALES) + 1)]
        self._met: Stamps = np.full(shape, -1, dtype=np.int32)  # reading of the tag at which a pattern was met last

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        patterns = {f"pattern_{number}": array for number, array in enumerate(self._patterns)}
        return {**super()._arrays(), **patterns, "met": self._met}

    def _score(self, at: At, time: Times, value: Floats, count: Floats, ready: Bools | None) -> tuple[Floats, Floats, Floats]:
        s = self.view(at)
        if ready is not None:
            cold = np.flatnonzero(count == 1.0)
            for name in ("low", "high", "previous", "lowest", "highest", "base", *_MEANS):
                s[name][cold] = value[cold]
        learn_step(s["step"], s["previous"], value)
        outside, log_tail = leave_range(
            s["low"], s["high"], s["heavy"], s["step"], value, count, ready, memory=self._memory, tail=-self._decades * _SLOPE
        )
        np.minimum(s["lowest"], value, out=s["lowest"])
        np.maximum(s["highest"], value, out=s["highest"])
        span = s["highest"] - s["lowest"]
        recent = 1.0 / count
        course = [self._relative(value, s["base"])]
        for scale, name in zip(_SCALES, _MEANS, strict=True):
            s[name] += (value - s[name]) * np.maximum(recent, 2.0 / (scale + 1.0))
            course.append(self._relative(s[name], s["base"]))

        slots = np.arange(len(self.slots))[at]
        squares, nearest = self._nearest(at, course, span)
        distance = np.where(np.isfinite(squares) & (span > 0.0), np.sqrt(squares / len(course)), 0.0)
        margin = self._resolution + s["usual"]
        exponent = distance / margin * -_SLOPE
        if len(outside):
            exponent[outside] += _RANGE_WEIGHT * np.maximum(log_tail, _LEAST_LOG_TAIL)
        score = 1.0 - np.exp(exponent)
        expected = np.where(np.isfinite(squares), s["base"] + self._patterns[0][slots, nearest], value)
        margin *= self._decades * sqrt(len(course)) * span  # by so much may the reading alone differ

        s["usual"] += (distance - s["usual"]) * np.maximum(recent, _USUAL_GAIN)
        self._remember(slots, course, nearest, ~np.isfinite(squares) | (distance > self._resolution), count)
        # A range that is not used any more is forgotten slowly, like that of `envelope`.
        s["highest"] -= (s["highest"] - value) / self._memory
        s["lowest"] += (value - s["lowest"]) / self._memory
        self.keep(at, s)
        return score, expected - margin, expected + margin

    @staticmethod
    def _relative(mean: Floats, base: Floats) -> Patterns:
        return np.clip(mean - base, -_FARTHEST, _FARTHEST).astype(np.float32)

    def _nearest(self, at: At, course: list[Patterns], span: Floats) -> tuple[Floats, Index]:
        """Sum of the squared differences to the nearest pattern, as shares of the range, and which one it is; infinite without any."""
        share = (1.0 / np.maximum(span, _NARROWEST)).astype(np.float32)[:, None]
        total: Patterns | None = None
        for known, mean in zip(self._patterns, course, strict=True):
            apart = known[at] - mean[:, None]
            apart *= share
            apart *= apart
            total = apart if total is None else np.add(total, apart, out=total)
        assert total is not None
        nearest = total.argmin(axis=1)
        return total[np.arange(len(nearest)), nearest].astype(np.float64), nearest

    def _remember(self, slots: Index, course: list[Patterns], nearest: Index, new: Bools, count: Floats) -> None:
        place = nearest
        learnt = np.flatnonzero(new)
        if len(learnt):
            place = nearest.copy()
            place[learnt] = self._met[slots[learnt]].argmin(axis=1)
            for known, mean in zip(self._patterns, course, strict=True):
                known[slots[learnt], place[learnt]] = mean[learnt]
        self._met[slots, place] = np.minimum(count, 2.0**31 - 1).astype(np.int32)

    def problem(self, tag: Tag, row: ScoreRow) -> str:
        """See Explains."""
        usual = interval(row.low, row.high, tag)
        return f"{tag.display} takes a course that it has not taken before: {quantity(row.value, tag)}, in the most similar one {usual}"


PLUGIN: Plugin[NoveltyConfig, EdgeModel] = Plugin(NoveltyConfig, Novelty)
