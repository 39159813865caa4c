"""Trains a classifier for `onnx` from rows of which some are failures: probability of failure of each row by itself.

Physics first: products and differences of the columns that the person who knows the machine names (power is torque times speed) become columns
of their own, inside the file. Thresholds, also those that differ by product type, are learnt by boosted trees.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .graphs import Graph
from .threads import single_thread

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Recipe:
    """What is trained. `products` and `differences` are pairs of columns by name."""

    products: tuple[tuple[str, str], ...] = ()
    differences: tuple[tuple[str, str], ...] = ()
    trees: int = 200
    leaves: int = 15
    learning_rate: float = 0.05
    seed: int = 1


AI4I: Final = Recipe(products=(("torque", "speed"), ("tool_wear", "torque")), differences=(("process_temp", "air_temp"),))
"""For the AI4I 2020 data: power, overstrain, and the temperature difference that carries heat away."""


@dataclass(frozen=True)
class Trained:
    """A model that predicts here as its file does at the edge, up to rounding."""

    recipe: Recipe
    names: tuple[str, ...]
    booster: Any  # of scikit-learn

    def predict(self, rows: Floats) -> Floats:
        """Probability of failure of each row float64[rows, inputs]."""
        with single_thread():
            found = self.booster.predict_proba(features(self.recipe, self.names, rows))[:, 1]
        return np.asarray(found, dtype=np.float64)

    def onnx(self, *, digest: str, note: str = "") -> bytes:
        """The file that `onnx` takes: `[1, inputs]` in, `failure` out."""
        g = Graph()
        column = {name: g.add("Gather", "rows", g.constant([at], np.int64), axis=1) for at, name in enumerate(self.names)}
        made = [g.add("Mul", column[a], column[b]) for a, b in self.recipe.products]
        made += [g.add("Sub", column[a], column[b]) for a, b in self.recipe.differences]
        found = g.trees(g.add("Concat", "rows", *made, axis=1), self.booster)
        g.add("Identity", found, name="failure")
        metadata = {
            "genba.kind": "onnx", "genba.features": json.dumps(list(self.names)), "genba.window": "1",
            "genba.training": json.dumps({"sha256": digest, "note": note}),
        }  # fmt: skip
        return g.bytes({"rows": [len(self.names)]}, {"failure": 1}, metadata)


def fit(recipe: Recipe, rows: Floats, failed: npt.NDArray[np.bool_], names: Sequence[str]) -> Trained:
    """Train on rows float64[rows, inputs] and whether each is a failure."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    booster = HistGradientBoostingClassifier(
        max_iter=recipe.trees, max_leaf_nodes=recipe.leaves, learning_rate=recipe.learning_rate, min_samples_leaf=10, max_features=0.8,
        early_stopping=False, random_state=recipe.seed,
    )  # fmt: skip
    with single_thread():
        booster.fit(features(recipe, names, rows), failed)
    return Trained(recipe, tuple(names), booster)


def train(recipe: Recipe, rows: Floats, failed: npt.NDArray[np.bool_], names: Sequence[str], *, note: str = "") -> bytes:
    """The whole recipe: one file from all rows."""
    digest = hashlib.sha256(np.ascontiguousarray(rows).tobytes() + np.ascontiguousarray(failed).tobytes()).hexdigest()
    return fit(recipe, rows, failed, names).onnx(digest=digest, note=note)


def features(recipe: Recipe, names: Sequence[str], rows: Floats) -> Singles:
    """The columns with their products and differences, as the file computes them: in single precision."""
    single = rows.astype(np.float32)
    at = {name: number for number, name in enumerate(names)}
    made = [single[:, at[a]] * single[:, at[b]] for a, b in recipe.products]
    made += [single[:, at[a]] - single[:, at[b]] for a, b in recipe.differences]
    return np.column_stack([single, *made])
