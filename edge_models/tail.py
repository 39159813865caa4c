"""The calibrated tail that turns a statistic in standard deviations into a score: peaks over a threshold (Pickands 1975).

Below `TAIL` a statistic is nothing unusual. Beyond it the excess is taken to be exponential, with a mean that is learnt per tag
from the peak of each excursion once it is over: a tag that has always had outliers needs larger ones, and a fault that lasts
teaches nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from .slots import Bools, Floats

TAIL: Final = 4.0
STATE: Final[Mapping[str, float]] = {
    "peak": 0.0,  # largest statistic of the excursion under way, 0 for none
    "excursions": 0.0,
    "excess": 0.6,  # mean excess; 0.6 until something else has been seen
}
_WEIGHT: Final = 20.0  # how many excursions that assumption counts for
_MEMORY: Final = 200.0
_CLIP: Final = 4.0  # times the mean excess that one excursion may teach


def tail_score(statistic: Floats, excess: Floats, share: float) -> Floats:
    """1 − probability that a normal statistic is as large, when `share` of them lie beyond `TAIL`. float64[m]."""
    beyond = 1.0 - share * np.exp((TAIL - statistic) / excess)
    found: Floats = np.where(statistic > TAIL, beyond, np.maximum(statistic, 0.0) * ((1.0 - share) / TAIL))
    return found


def learn_tail(s: Mapping[str, Floats], statistic: Floats, beyond: Bools) -> None:
    """Follow the excursions of m slots; `beyond` bool[m] is where the statistic is beyond `TAIL` and counts. `s` in place."""
    over = (s["peak"] > 0.0) & ~beyond
    s["excursions"][:] += over
    excess = s["excess"]
    seen = np.minimum(s["peak"] - TAIL, _CLIP * excess)
    excess += np.where(over, (seen - excess) / np.minimum(_WEIGHT + s["excursions"], _MEMORY), 0.0)
    s["peak"][:] = np.where(beyond, np.maximum(s["peak"], statistic), 0.0)


def gaussian_tail(z: Floats) -> Floats:
    """1 − Φ(z), z in standard deviations, to a relative 0.3 % however far out (Börjesson and Sundberg 1979)."""
    size = np.abs(z)
    tail: Floats = np.exp(-0.5 * size * size) / (np.sqrt(2.0 * np.pi) * (0.661 * size + 0.339 * np.sqrt(size * size + 5.51)))
    found: Floats = np.where(z < 0.0, 1.0 - tail, tail)
    return found
