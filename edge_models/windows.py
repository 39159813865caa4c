"""The last rows of each asset, as a model over a window sees them."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from .slots import NEVER, Floats, Index, Times

Singles = npt.NDArray[np.float32]
_LARGEST: Final = 3.4e38  # that a graph can take
BASELINE_ROWS: Final = 10
"""So many first values of each input in a life make its baseline."""


class Windows:
    """A window of rows per asset, oldest first, with the number of rows since its life began and the mean of each input's first ten values.

    Before a window is full its oldest row stands for those that are missing. 4 window + 9 bytes per input and 24 per asset.
    """

    def __init__(self, assets: int, window: int, inputs: int) -> None:
        self.window = window
        self.rows: Singles = np.full((assets, window, inputs), np.nan, dtype=np.float32)
        self.total: Floats = np.zeros((assets, inputs))  # of the first values of each input
        self.based: npt.NDArray[np.uint8] = np.zeros((assets, inputs), dtype=np.uint8)  # so many; a missing one is none
        self.age: Times = np.zeros(assets, dtype=np.int64)  # rows of this life
        self.first: Times = np.full(assets, NEVER)  # µs, of the first row ever
        self.last: Times = np.full(assets, NEVER)  # µs

    def begin(self, assets: Index) -> None:
        """A new life: what was before is forgotten."""
        self.age[assets] = 0
        self.total[assets] = 0.0
        self.based[assets] = 0

    def push(self, assets: Index, value: Floats, time: Times) -> None:
        """One row each of different assets: `value` float64[k, inputs], which may hold NaN."""
        young = assets[self.age[assets] == 0]
        self.rows[assets, :-1] = self.rows[assets, 1:]
        self.rows[assets, -1] = np.clip(value, -_LARGEST, _LARGEST)
        if len(young):
            self.rows[young, :] = self.rows[young, -1:]
        early = (self.based[assets] < BASELINE_ROWS) & ~np.isnan(value)
        if early.any():
            self.total[assets] += np.where(early, value, 0.0)
            self.based[assets] += early
        self.age[assets] += 1
        self.first[assets] = np.where(self.first[assets] == NEVER, time, np.minimum(self.first[assets], time))
        self.last[assets] = time

    def baseline(self, assets: Index) -> Singles:
        """Mean of the first values of each input in the life, as many as there were, NaN before the first: float32[k, inputs]."""
        count = self.based[assets]
        mean = np.where(count > 0, self.total[assets] / np.maximum(count, 1), np.nan)
        found: Singles = np.clip(mean, -_LARGEST, _LARGEST).astype(np.float32)
        return found

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """The state, to be stored."""
        return {
            "rows": self.rows,
            "total": self.total,
            "based": self.based,
            "age": self.age,
            "first": self.first,
            "last": self.last,
        }
