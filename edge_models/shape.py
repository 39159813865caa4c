"""`shape`: has this tag ever run through a shape like that of its last readings?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from schemas.plugin import Plugin
from schemas.tags import Tag
from schemas.values import Duration

from .base import EdgeModel, ModelConfig, ModelContext, ScoreRow
from .per_tag import PerTagModel
from .sentences import number
from .slots import NEVER, At, Bools, Floats, Index, Times
from .tail import STATE, TAIL, learn_tail, tail_score

_EVALUATIONS: Final = 20  # before the first score
_MEMORY: Final = 1000.0  # evaluations over which the usual distance is learnt
_LEAST_SPREAD: Final = (
    0.02  # of the distance, which goes from 0 (the same shape) over 1 (nothing in common) to 1.4 (the opposite)
)
_CLIP: Final = 4.0
_CLIP_COLD: Final = 10.0
_SUSPICIOUS_GAIN: Final = 0.05
_MEAN_OF_ABSOLUTE: Final = 1.2533
_TAIL_SHARE: Final = 0.01
_PERIODS: Final = 1.5  # scan periods without a good reading that break a window
_EVALUATIONS_PER_WINDOW: Final = 8


class ShapeConfig(ModelConfig):
    """Compares the shape of the last readings with all shapes of its past. For a few selected tags that run in cycles."""

    warm_up: Duration = Field(Duration("10m"), description="Time from the first good reading of a tag until it may raise alarms.")
    window: int = Field(50, ge=8, le=1000, description="Readings of a shape: about a cycle, or the part of it that matters.")
    history: int = Field(1000, ge=32, le=100_000, description="Readings of the past that are kept: ten cycles or more.")
    every: int | None = Field(
        None, ge=1, description="Readings from one comparison to the next; by default an eighth of the window."
    )
    flat: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="A shape lower than this share of the usual height is not blown up to full height: noise has no shape.",
    )
    max_gap: Duration = Field(
        Duration("0s"),
        description="Time without a good reading that breaks a shape; 0s is one and a half scan periods of the tag.",
    )
    accept_after: Duration = Field(
        Duration("4h"), description="Abnormal shapes that go on for this long become the new normal and are learnt; 0s is never."
    )
    limit: float = Field(0.999999, gt=0, lt=1, description="A score at or above it is abnormal.")
    min_samples: int = Field(300, ge=16, description="Readings of a tag before its first score.")

    @model_validator(mode="after")
    def _room(self) -> Self:
        if self.history < 4 * self.window:
            raise ValueError(
                f"a history of {self.history} readings is too short for shapes of {self.window}: four times as long at least"
            )
        return self


class Shape(PerTagModel):
    """Distance of the last `window` readings to the nearest like stretch of the history (a causal discord; Keogh 2005, Yeh 2016).

    Stretches are compared z-normalised, all of them, `every` readings; between comparisons the score stays. The history holds
    the last `history` readings that are older than the window itself, so that nothing is its own neighbour; stretches found abnormal do not enter it
    until they have gone on for `accept_after`. The distance is scored by its tail over the tag's own past distances. A reading that is
    missing or bad breaks the window: the score is null until `window` readings have come without a gap. Cost: a comparison is
    history x window multiplications. 16568 bytes of state per tag: 16 for each reading of the history, 8 for each of the window.
    """

    kind: ClassVar[str] = "shape"
    version: ClassVar[int] = 1
    initial: ClassVar[Mapping[str, float]] = {
        "origin": np.nan,  # readings are kept relative to the first one
        "filled": 0.0,  # readings of the window under way, without a gap
        "due": 0.0,  # readings until the next comparison
        "place": 0.0,  # of the next reading in the history, a ring
        "skip": 0.0,  # readings that belong to an abnormal shape and are not to enter the history
        "height": 0.0,  # usual standard deviation of a stretch
        "stretches": 0.0,  # up to `history`
        "level": 0.0,  # usual distance
        "spread": 0.0,
        "seen": 0.0,  # comparisons
        "score": np.nan,
        **STATE,
    }  # fmt: skip
    learnt_with: ClassVar[tuple[str, ...]] = ("window", "history", "flat", "every")

    def __init__(self, config: ShapeConfig, context: ModelContext) -> None:
        super().__init__(config, context, limit=config.limit, min_samples=config.min_samples)
        n = len(self.slots)
        self._m, self._size, self._flat, self._limit = config.window, config.history, config.flat, config.limit
        self._every = config.every or max(1, config.window // _EVALUATIONS_PER_WINDOW)
        self._accept_us = config.accept_after.us
        period = np.array([tag.period_us for tag in context.tags], dtype=np.float64)
        self._gap: Floats = np.full(n, float(config.max_gap.us)) if config.max_gap else period * _PERIODS
        self._window = np.zeros((n, config.window))  # oldest first
        self._history = np.full((n, config.history), np.nan)  # NaN between stretches that do not belong together
        self._heights = np.full((n, config.history), np.nan)  # standard deviation of the stretch that ends there
        self._before: Times = np.full(n, NEVER)
        self._abnormal_since: Times = np.full(n, NEVER)

    def _times(self) -> dict[str, Times]:
        return {"before": self._before, "abnormal_since": self._abnormal_since}

    def _arrays(self) -> dict[str, npt.NDArray[np.float64] | npt.NDArray[np.int64]]:
        return {**super()._arrays(), "window": self._window, "history": self._history, "heights": self._heights}

    def _settle(self) -> None:
        """Never: a window may break at any time, and then the score is null."""

    def _score(self, at: At, time: Times, value: Floats, count: Floats, ready: Bools | None) -> tuple[Floats, Floats, Floats]:
        slots: Index = np.arange(len(self.slots))[at]
        s, m = self.state, self._m
        fresh = slots[np.isnan(s["origin"][slots])]
        s["origin"][fresh] = value[np.isnan(s["origin"][slots])]
        passed = time - self._before[slots]
        broken = (self._before[slots] != NEVER) & ((passed > self._gap[slots]) | (passed <= 0))
        self._before[slots] = time
        if broken.any():
            self._break(slots[broken])
        full = slots[s["filled"][slots] == m]
        if len(full):
            self._push(full, self._window[full, 0])
        self._window[slots, :-1] = self._window[slots, 1:]
        self._window[slots, -1] = value - s["origin"][slots]
        s["filled"][slots] = np.minimum(s["filled"][slots] + 1.0, m)
        s["due"][slots] -= 1.0
        due = np.flatnonzero((s["filled"][slots] == m) & (s["due"][slots] <= 0.0))
        if len(due):
            self._compare(slots[due], time[due], np.ones(len(due), dtype=bool) if ready is None else ready[due])
        nothing = np.full(len(slots), np.nan)
        return s["score"][slots], nothing, nothing

    def _break(self, slots: Index) -> None:
        """The readings of these windows go into the history as they are, and a new window begins."""
        s, m = self.state, self._m
        filled = s["filled"][slots]
        for k in range(m):
            have = slots[filled >= m - k]
            if len(have):
                self._push(have, self._window[have, k])
        self._push(slots, np.full(len(slots), np.nan))
        s["filled"][slots], s["due"][slots], s["score"][slots] = 0.0, 0.0, np.nan

    def _push(self, slots: Index, value: Floats) -> None:
        """One reading each into the history; NaN is a seam, and two in a row are one. What is to be skipped is a seam too."""
        s, m, size = self.state, self._m, self._size
        skipped = (s["skip"][slots] > 0.0) & ~np.isnan(value)
        s["skip"][slots] -= skipped
        value = np.where(skipped, np.nan, value)
        place = s["place"][slots].astype(np.intp)
        go = ~(np.isnan(value) & np.isnan(self._history[slots, place - 1]))
        slots, place, value = slots[go], place[go], value[go]
        self._history[slots, place] = value
        stretch = self._history[slots[:, None], place[:, None] - np.arange(m)]  # a negative place counts from the end of the ring
        height = stretch.std(axis=1)
        self._heights[slots, place] = height
        s["place"][slots] = (place + 1) % size
        whole = ~np.isnan(height)
        slots, height = slots[whole], height[whole]
        number_ = np.minimum(s["stretches"][slots] + 1.0, size)
        usual = s["height"][slots]
        most = np.where(number_ > m, _CLIP * usual, np.inf)
        s["height"][slots] = usual + (np.minimum(height, most) - usual) / number_
        s["stretches"][slots] = number_

    def _compare(self, slots: Index, time: Times, ready: Bools) -> None:
        """Compare the whole windows of these slots with their histories; sets `score`, and learns."""
        distance = np.array([self._distance(slot) for slot in slots.tolist()])
        known = ~np.isnan(distance)
        slots, time, ready, distance = slots[known], time[known], ready[known], distance[known]
        s = {name: array[slots] for name, array in self.state.items()}
        first = s["seen"] == 0.0
        s["level"][first] = distance[first]
        scale = np.maximum(s["spread"], _LEAST_SPREAD)
        residual = distance - s["level"]
        statistic = residual / scale
        judged = s["seen"] >= _EVALUATIONS
        s["score"] = np.where(judged, tail_score(statistic, s["excess"], _TAIL_SHARE), np.nan)
        counts = judged & ready
        suspicious = counts & (statistic > TAIL)
        gain = np.maximum(1.0 / (s["seen"] + 1.0), 1.0 / _MEMORY) * np.where(suspicious, _SUSPICIOUS_GAIN, 1.0)
        most = np.where(judged, _CLIP, _CLIP_COLD) * scale
        residual = np.clip(residual, -most, most)
        s["level"] += residual * gain
        s["spread"] += (np.abs(residual) * _MEAN_OF_ABSOLUTE - s["spread"]) * gain
        s["seen"] += 1.0
        s["due"][:] = self._every
        learn_tail(s, statistic, suspicious)
        abnormal = counts & (s["score"] >= self._limit)
        since = np.where(abnormal, np.where(self._abnormal_since[slots] == NEVER, time, self._abnormal_since[slots]), NEVER)
        self._abnormal_since[slots] = since
        accepted = abnormal & (time - since >= self._accept_us) if self._accept_us else np.zeros(len(slots), dtype=bool)
        s["skip"] = np.where(accepted, 0.0, np.where(abnormal, float(self._m), s["skip"]))
        for name, array in s.items():
            self.state[name][slots] = array

    def _distance(self, slot: int) -> float:
        """sqrt(1 − correlation) with the nearest stretch of the history; NaN while it holds none."""
        m, place = self._m, int(self.state["place"][slot])
        ring, heights = self._history[slot], self._heights[slot]
        history = np.concatenate([ring[place:], ring[:place]])
        height = np.concatenate([heights[place:], heights[:place]])[m - 1 :]
        least = self._flat * self.state["height"][slot]
        shape = self._window[slot] - np.add.reduce(self._window[slot]) / m
        own = float(np.sqrt(np.add.reduce(shape * shape) / m))
        high = max(own, least) or 1.0
        shape /= high
        other = np.maximum(height, least)
        other[other == 0.0] = 1.0
        # Half the mean square of the difference of two shapes, the mean of each taken off: `shape` has none, so the other's drops out.
        found = 0.5 * ((own / high) ** 2 + (height / other) ** 2) - np.correlate(history, shape, "valid") / (m * other)
        best = float(np.fmin.reduce(found))
        return float(np.sqrt(max(best, 0.0))) if best == best else float("nan")

    def problem(self, tag: Tag, row: ScoreRow) -> str:
        """See Explains."""
        return (
            f"{tag.display} has run through a shape in its last {self._m} readings that is unlike its last {number(self._size)}"
        )


PLUGIN: Plugin[ShapeConfig, EdgeModel] = Plugin(ShapeConfig, Shape)
