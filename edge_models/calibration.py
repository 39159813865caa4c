"""How unusual a number is among those of its own past, as a score: for models whose output has no scale of its own."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from .slots import Bools, Floats, Index

Side = Literal["high", "low", "both"]
ENOUGH: Final = 100
"""So many numbers are learnt before the first score."""
_FROM: Final = 2.0  # mean absolute deviations from the level, from which on the tail is learnt
_SHARE: Final = 0.055  # of a Gaussian beyond that, on one side
_EXCESS: Final = 0.6  # mean excess over that, in mean absolute deviations: a Gaussian's is 0.47
_WITNESSES: Final = 20.0  # how many numbers that assumption counts for
_SUSPICIOUS: Final = 0.9999  # a score from which on a number is learnt a hundred times slower
_SUSPICIOUS_GAIN: Final = 0.01


class Calibration:
    """Level, mean absolute deviation and exponential tail (peaks over a threshold, Pickands 1975) of one number per slot.

    A number is scored by what was known before it, then learnt: exactly over the first `memory`, then exponentially; one that is suspicious
    (score 0.9999) counts for a hundredth. A number that has never varied may vary by a millionth of itself. 40 bytes per slot.
    """

    def __init__(self, slots: int, *, memory: int, side: Side, limit: float) -> None:
        self._memory, self._side, self._limit = float(memory), side, limit
        self.state: dict[str, Floats] = {name: np.zeros(slots) for name in ("count", "level", "spread", "share", "excess")}

    def score(self, at: Index, value: Floats, learn: Bools) -> Floats:
        """Score k numbers of different slots and learn those that `learn` says: 1 − tail probability, NaN before there are enough."""
        s = {name: array[at] for name, array in self.state.items()}
        spread = np.maximum(s["spread"], 1e-6 * np.abs(s["level"]) + 1e-12)
        deviation = (value - s["level"]) / spread
        size = np.abs(deviation) if self._side == "both" else deviation if self._side == "high" else -deviation
        sides = 2.0 if self._side == "both" else 1.0
        share = (s["count"] * s["share"] + _WITNESSES * _SHARE * sides) / (s["count"] + _WITNESSES)
        seen = s["count"] * s["share"]
        excess = (seen * s["excess"] + _WITNESSES * _SHARE * _EXCESS) / (seen + _WITNESSES * _SHARE)
        beyond = size - _FROM
        # Below the threshold the tail goes from 1 at the level to its share there.
        tail = np.where(beyond > 0.0, share * np.exp(-np.maximum(beyond, 0.0) / excess), share ** np.clip(size / _FROM, 0.0, 1.0))
        enough = s["count"] >= ENOUGH
        score = np.where(enough & ~np.isnan(value), 1.0 - tail, np.nan)

        usable = learn & ~np.isnan(value)
        weight = np.where(enough & (score >= min(self._limit, _SUSPICIOUS)), _SUSPICIOUS_GAIN, 1.0)
        gain = np.where(usable, np.maximum(1.0 / (s["count"] + 1.0), 1.0 / self._memory) * weight, 0.0)
        known = np.where(np.isnan(value), s["level"], value)
        known = np.where(enough, np.clip(known, s["level"] - 20.0 * spread, s["level"] + 20.0 * spread), known)
        away = known - s["level"]
        in_tail = usable & enough & (beyond > 0.0)
        s["level"] += gain * away
        s["spread"] += gain * (np.where(s["count"] > 0.0, np.abs(away), 0.0) - s["spread"])  # the first one is off from nothing
        s["share"] += np.where(enough, gain, 0.0) * (in_tail - s["share"])
        step = np.where(in_tail, weight / np.maximum(seen + 1.0, 1.0), 0.0)
        s["excess"] += step * (np.where(in_tail, np.minimum(beyond, 20.0), 0.0) - s["excess"])
        s["count"] += np.where(usable, np.minimum(weight, np.maximum(self._memory - s["count"], 0.0)), 0.0)
        for name, array in s.items():
            self.state[name][at] = array
        return score

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """The state, to be stored."""
        return {**self.state}
