"""How far off a model's predictions are, by what it predicts: quantiles found once on lives that it was not trained on."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Conformal:
    """Quantiles of truth − prediction: `offsets[bin][level]`; bin i holds predictions below `edges[i]`, the last one the rest."""

    edges: tuple[float, ...]
    levels: tuple[float, ...]
    offsets: tuple[tuple[float, ...], ...]

    def text(self) -> str:
        """As JSON, for a file's metadata."""
        rounded = [[round(offset, 4) for offset in line] for line in self.offsets]
        return json.dumps({"edges": self.edges, "levels": self.levels, "offsets": rounded})

    @classmethod
    def of(cls, text: str) -> Conformal:
        """The inverse of `text`. Raises ValueError for anything else."""
        try:
            plain = json.loads(text)
            edges, levels = (tuple(float(one) for one in plain[name]) for name in ("edges", "levels"))
            offsets = tuple(tuple(float(one) for one in line) for line in plain["offsets"])
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError("no conformal quantiles") from error
        if len(offsets) != len(edges) + 1 or any(len(line) != len(levels) for line in offsets) or len(levels) < 2:
            raise ValueError("the conformal quantiles are not one line of levels for each bin")
        if (
            list(edges) != sorted(edges)
            or list(levels) != sorted(levels)
            or not np.isfinite([*edges, *levels, *np.ravel(offsets)]).all()
        ):
            raise ValueError("the conformal quantiles are not in order")
        return cls(edges, levels, offsets)

    def at(self, predicted: Floats) -> Floats:
        """The quantiles of the truth for each prediction: float64[n, levels]."""
        bins = np.searchsorted(np.asarray(self.edges), predicted, side="right")
        found: Floats = predicted[:, None] + np.asarray(self.offsets)[bins]
        return found

    def interval(self, predicted: Floats, confidence: float, cap: float) -> tuple[Floats, Floats]:
        """The interval that holds the truth with this confidence, between 0 and `cap`, which stands for everything beyond.

        Where one side is open, because it reaches 0 or the cap, the whole doubt is on the other side.
        """
        quantiles, half = self.at(predicted), (1.0 - confidence) / 2.0
        low, high = self._level(quantiles, half), self._level(quantiles, 1.0 - half)
        beyond, ended = high >= cap, low <= 0.0
        low = np.where(beyond, self._level(quantiles, 2.0 * half), low)
        high = np.where(ended & ~beyond, self._level(quantiles, 1.0 - 2.0 * half), high)
        return np.clip(np.minimum(low, predicted), 0.0, cap), np.clip(np.maximum(high, predicted), 0.0, cap)

    def share_within(self, predicted: Floats, within: float, cap: float) -> Floats:
        """The probability that the truth is at most `within`, for each prediction; 0 at 0 and 1 at the cap."""
        quantiles = np.clip(self.at(predicted), 0.0, cap)
        levels = np.array([0.0, *self.levels, 1.0])
        n = len(predicted)
        ordered = np.concatenate([np.zeros((n, 1)), np.maximum.accumulate(quantiles, axis=1), np.full((n, 1), cap)], axis=1)
        if within >= cap:
            return np.ones(n)
        return np.array([float(np.interp(within, line, levels)) if np.isfinite(line).all() else np.nan for line in ordered])

    def _level(self, quantiles: Floats, level: float) -> Floats:
        place = float(np.clip(np.interp(level, self.levels, np.arange(len(self.levels))), 0, len(self.levels) - 1))
        below = int(place)
        above = min(below + 1, len(self.levels) - 1)
        found: Floats = quantiles[:, below] + (place - below) * (quantiles[:, above] - quantiles[:, below])
        return found
