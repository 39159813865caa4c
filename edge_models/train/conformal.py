"""Finds how far off a model's predictions are: split conformal quantiles in bins of the prediction (Mondrian; Vovk 2005)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from edge_models.conformal import Conformal

Floats = npt.NDArray[np.float64]
LEVELS: Final[Sequence[float]] = (0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975)


def calibrate(predicted: Sequence[Floats], truth: Sequence[Floats], edges: Sequence[float]) -> Conformal:
    """From predictions of lives that the model was not trained on: one array per life, each life counts the same.

    Within a bin a life's rows are not independent, so the correction for a finite sample counts lives and not rows.
    """
    life = np.concatenate([np.full(len(one), number) for number, one in enumerate(predicted)])
    weight = np.concatenate([np.full(len(one), 1.0 / max(len(one), 1)) for one in predicted])
    at, error = np.concatenate(predicted), np.concatenate(truth) - np.concatenate(predicted)
    bins = np.searchsorted(np.asarray(edges), at, side="right")
    offsets = []
    for number in range(len(edges) + 1):
        here = bins == number
        if not here.any():
            here = np.ones(len(bins), dtype=bool)
        lives = len(np.unique(life[here]))
        offsets.append(tuple(_quantile(error[here], weight[here], _corrected(level, lives)) for level in LEVELS))
    return Conformal(tuple(edges), tuple(LEVELS), tuple(offsets))


def _corrected(level: float, lives: int) -> float:
    """The level among n that holds for the one to come: ⌈(n+1) level⌉ / n above the middle, mirrored below."""
    share = (lives + 1.0) / lives
    return min(1.0, level * share) if level > 0.5 else max(0.0, 1.0 - (1.0 - level) * share) if level < 0.5 else level


def _quantile(value: Floats, weight: Floats, level: float) -> float:
    order = np.argsort(value, kind="stable")
    share = np.cumsum(weight[order]) / weight.sum()
    return float(value[order][min(int(np.searchsorted(share, level)), len(order) - 1)])
