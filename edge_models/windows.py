"""The last rows of each asset, as a model over a window sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from schemas.errors import StateMismatch

from .slots import NEVER, Floats, Index, Times

Arrays = Mapping[str, npt.NDArray[np.generic]]
Singles = npt.NDArray[np.float32]
_LARGEST: Final = 3.4e38  # that a graph can take
BASELINE_ROWS: Final = 10
"""So many first rows of a life make its baseline."""


class Windows:
    """A window of rows per asset, oldest first, with the number of rows since its life began and the mean of its first ten.

    Before a window is full its oldest row stands for those that are missing. 4 (window + 2) bytes per input and 32 per asset.
    """

    def __init__(self, assets: int, window: int, inputs: int) -> None:
        self.window = window
        self.rows: Singles = np.full((assets, window, inputs), np.nan, dtype=np.float32)
        self.total: Floats = np.zeros((assets, inputs))  # of the first rows
        self.age: Times = np.zeros(assets, dtype=np.int64)  # rows of this life
        self.first: Times = np.full(assets, NEVER)  # µs, of the first row ever
        self.last: Times = np.full(assets, NEVER)  # µs

    def begin(self, assets: Index) -> None:
        """A new life: what was before is forgotten."""
        self.age[assets] = 0
        self.total[assets] = 0.0

    def push(self, assets: Index, value: Floats, time: Times) -> None:
        """One row each of different assets: `value` float64[k, inputs], which may hold NaN."""
        young = assets[self.age[assets] == 0]
        self.rows[assets, :-1] = self.rows[assets, 1:]
        self.rows[assets, -1] = np.clip(value, -_LARGEST, _LARGEST)
        if len(young):
            self.rows[young, :] = self.rows[young, -1:]
        early = self.age[assets] < BASELINE_ROWS
        if early.any():
            self.total[assets[early]] += value[early]
        self.age[assets] += 1
        self.first[assets] = np.where(self.first[assets] == NEVER, time, np.minimum(self.first[assets], time))
        self.last[assets] = time

    def baseline(self, assets: Index) -> Singles:
        """Mean of the first rows of the life, as many of them as there were: float32[k, inputs]."""
        count = np.clip(self.age[assets], 1, BASELINE_ROWS)
        found: Singles = np.clip(self.total[assets] / count[:, None], -_LARGEST, _LARGEST).astype(np.float32)
        return found

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """The state, to be stored."""
        return {"rows": self.rows, "total": self.total, "age": self.age, "first": self.first, "last": self.last}

    def restore(self, stored: Arrays, into: Index, out: Index) -> None:
        """Take over the assets `out` of a state as the assets `into`. Raises StateMismatch, and then nothing has changed."""
        mine = self.arrays()
        if any(stored[name].shape[1:] != array.shape[1:] for name, array in mine.items()):
            raise StateMismatch("the stored state holds windows of another size")
        for name, array in mine.items():
            array[into] = stored[name].astype(array.dtype)[out]


def same_length(arrays: Sequence[npt.NDArray[np.generic]], n: int) -> bool:
    """Whether the first axis of all is `n` long."""
    return all(array.ndim > 0 and len(array) == n for array in arrays)
