"""Trains a model for `remaining_life` from lives that ended in failure: rows of the same tags, one array per machine."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edge_models.conformal import Conformal
from edge_models.windows import BASELINE_ROWS

from .conformal import calibrate
from .graphs import Graph
from .threads import single_thread

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]

_MEANS: Final = (1, 5, 10, 20)  # rows; and the whole window
_KEPT: Final = (0, 1, 4, 5)  # of the linear features: last, mean of 5, mean of the window, slope
_AGAINST_BASELINE: Final = (1, 2, 3, 4)
_AGE: Final = 0.01
_BATCH: Final = 4096


@dataclass(frozen=True)
class Recipe:
    """What is trained: the mean of boosted trees and of small networks over causal features of a window."""

    window: int = 30
    cap: float = 125.0  # a longer life is not told from this one
    trees: int = 250
    leaves: int = 15
    learning_rate: float = 0.03
    networks: int = 2
    epochs: int = 10
    edges: tuple[float, ...] = (20.0, 40.0, 60.0, 80.0, 100.0, 115.0)
    seed: int = 1


@dataclass(frozen=True)
class Trained:
    """A model that predicts here as its file does at the edge, up to rounding."""

    recipe: Recipe
    names: tuple[str, ...]
    mean: Floats
    scale: Floats
    booster: Any  # of scikit-learn
    networks: tuple[tuple[list[Floats], list[Floats]], ...]
    centre: Floats
    spread: Floats

    def predict(self, life: Floats) -> Floats:
        """Remaining life at each row of a life float64[rows, inputs]; a row sees those before it alone."""
        made = features(_standard(life, self.mean, self.scale), self.recipe.window)
        with single_thread():
            found = np.asarray(self.booster.predict(made), dtype=np.float64)
        told = [_layers((made - self.centre) / self.spread, *network)[:, 0] * self.recipe.cap for network in self.networks]
        if told:
            found = (found + np.mean(told, axis=0)) / 2.0
        return np.clip(found, 0.0, self.recipe.cap)

    def onnx(self, conformal: Conformal, *, unit: str, digest: str, note: str = "") -> bytes:
        """The file that `remaining_life` takes: `[1, window, inputs]`, baseline and age in, remaining life out."""
        window, count = self.recipe.window, len(self.names)
        g = Graph()
        mean, scale = g.constant(self.mean), g.constant(self.scale)
        rows = g.add("Div", g.add("Sub", "rows", mean), scale)
        base = g.add("Div", g.add("Sub", "baseline", mean), scale)
        linear = g.add("MatMul", g.constant(_linear(window)), rows)

        def take(which: Sequence[int]) -> str:
            return g.add("Gather", linear, g.constant(list(which), np.int64), axis=1)

        whole = take([len(_MEANS)])
        squares = g.add("MatMul", g.constant(np.full((1, window), 1.0 / window)), g.add("Mul", rows, rows))
        variance = g.add("Max", g.add("Sub", squares, g.add("Mul", whole, whole)), g.constant(0.0))
        above = g.add("Sub", take(_AGAINST_BASELINE), g.add("Unsqueeze", base, g.constant([1], np.int64)))
        listed = g.add("Flatten", g.add("Concat", take(_KEPT), g.add("Sqrt", variance), above, axis=1), axis=1)
        made = g.add("Concat", listed, g.add("Mul", "age", g.constant(_AGE)), axis=1)
        found = g.trees(made, self.booster)
        if self.networks:
            given = g.add("Div", g.add("Sub", made, g.constant(self.centre)), g.constant(self.spread))
            told = [g.layers(given, *network) for network in self.networks]
            total = told[0] if len(told) == 1 else g.add("Sum", *told)
            half = g.constant(self.recipe.cap / len(told) / 2.0)
            found = g.add("Add", g.add("Mul", found, g.constant(0.5)), g.add("Mul", total, half))
        g.add("Clip", found, g.constant(0.0), g.constant(self.recipe.cap), name="remaining")
        metadata = {
            "genba.kind": "remaining_life", "genba.features": json.dumps(list(self.names)), "genba.window": str(window),
            "genba.unit": unit, "genba.cap": str(self.recipe.cap), "genba.conformal": conformal.text(),
            "genba.training": json.dumps({"sha256": digest, "note": note}),
        }  # fmt: skip
        return g.bytes({"rows": [window, count], "baseline": [count], "age": [1]}, {"remaining": 1}, metadata)


def fit(recipe: Recipe, lives: Sequence[Floats], names: Sequence[str]) -> Trained:
    """Train on lives that end with the last row before the failure; in the trees each life counts the same."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    everything = np.concatenate(lives)
    mean, scale = everything.mean(axis=0), everything.std(axis=0)
    scale = np.where(scale > 1e-9 * (1.0 + np.abs(mean)), scale, 1.0)
    made = np.concatenate([features(_standard(life, mean, scale), recipe.window) for life in lives])
    truth = np.concatenate([remaining(len(life), recipe.cap) for life in lives])
    # Weights would say it more plainly, but scikit-learn 1.9 takes a minute for the quantiles of weighted rows.
    usual, ends = round(len(everything) / len(lives)), np.cumsum([len(life) for life in lives])
    even = np.concatenate(
        [np.linspace(end - len(life), end - 1, usual).round().astype(np.intp) for end, life in zip(ends, lives, strict=True)]
    )
    booster = HistGradientBoostingRegressor(
        max_iter=recipe.trees, max_leaf_nodes=recipe.leaves, learning_rate=recipe.learning_rate, min_samples_leaf=60, max_features=0.3,
        l2_regularization=5.0, early_stopping=False, random_state=recipe.seed,
    )  # fmt: skip
    with single_thread():
        booster.fit(made[even], truth[even])
    centre, spread = made.mean(axis=0, dtype=np.float64), made.std(axis=0, dtype=np.float64) + 1e-6
    networks = tuple(
        _network((made - centre) / spread, truth / recipe.cap, recipe.epochs, recipe.seed + number)
        for number in range(recipe.networks)
    )
    return Trained(recipe, tuple(names), mean, scale, booster, networks, centre, spread)


def out_of_fold(
    recipe: Recipe, lives: Sequence[Floats], names: Sequence[str], *, folds: int = 5, seed: int = 0, tell: Callable[[str], None] | None = None
) -> list[Floats]:  # fmt: skip
    """Predictions for each row of each life by a model that has not seen that life."""
    order = np.random.default_rng(seed).permutation(len(lives))
    found: list[Floats] = [np.zeros(0)] * len(lives)
    for fold in range(folds):
        held = set(order[fold::folds].tolist())
        model = fit(recipe, [life for number, life in enumerate(lives) if number not in held], names)
        for number in held:
            found[number] = model.predict(lives[number])
        if tell is not None:
            tell(f"fold {fold + 1} of {folds}")
    return found


def intervals(recipe: Recipe, predicted: Sequence[Floats], which: Sequence[int] | None = None) -> Conformal:
    """The conformal quantiles of predictions `out_of_fold`, from full windows on; of some of the lives where `which` names them."""
    chosen = range(len(predicted)) if which is None else which
    first = recipe.window - 1
    return calibrate(
        [predicted[number][first:] for number in chosen],
        [remaining(len(predicted[number]), recipe.cap)[first:] for number in chosen],
        recipe.edges,
    )


def train(
    recipe: Recipe, lives: Sequence[Floats], names: Sequence[str], *, unit: str = "cycles", note: str = "", folds: int = 5
) -> bytes:
    """The whole recipe: intervals by cross-validation over lives, the model from all lives, one file."""
    conformal = intervals(recipe, out_of_fold(recipe, lives, names, folds=folds))
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(life).tobytes() for life in lives)).hexdigest()
    return fit(recipe, lives, names).onnx(conformal, unit=unit, digest=digest, note=note)


def remaining(rows: int, cap: float) -> Floats:
    """Rows that are left after each of `rows`; 0 at the last."""
    return np.minimum(np.arange(rows - 1, -1, -1, dtype=np.float64), cap)


def features(life: Floats, window: int) -> Singles:
    """Causal features of each row of a standardised life: float32[rows, 9 × inputs + 1].

    Last value, means of 5 rows and of the window, slope and standard deviation over the window, four means against the
    mean of the first ten rows, and the age. Before the first full window its oldest row stands for those that are missing.
    """
    rows = len(life)
    padded = np.concatenate([np.repeat(life[:1], window - 1, axis=0), life])
    seen = np.lib.stride_tricks.sliding_window_view(padded, window, axis=0)  # [rows, inputs, window]
    linear = seen @ _linear(window).T  # [rows, inputs, features]
    whole = linear[:, :, len(_MEANS)]
    deviation = np.sqrt(np.maximum((seen**2).mean(axis=2) - whole**2, 0.0))
    age = np.arange(1, rows + 1)
    base = np.cumsum(life, axis=0)[np.minimum(age, BASELINE_ROWS) - 1] / np.minimum(age, BASELINE_ROWS)[:, None]
    parts = [linear[:, :, one] for one in _KEPT] + [deviation] + [linear[:, :, one] - base for one in _AGAINST_BASELINE]
    return np.concatenate([*parts, age[:, None] * _AGE], axis=1).astype(np.float32)


def _linear(window: int) -> Floats:
    """Weights of the rows of a window, oldest first: float64[6, window]."""
    lines: list[npt.NDArray[Any]] = []
    for rows in (*_MEANS, window):
        line = np.zeros(window)
        line[-rows:] = 1.0 / min(rows, window)
        lines.append(line)
    place = np.arange(window) - (window - 1) / 2.0
    lines.append(place / max(float(place @ place), 1.0))
    return np.stack(lines)


def _standard(life: Floats, mean: Floats, scale: Floats) -> Floats:
    found: Floats = (life - mean) / scale
    return found


def _network(given: Floats, truth: Floats, epochs: int, seed: int) -> tuple[list[Floats], list[Floats]]:
    from sklearn.neural_network import MLPRegressor

    net = MLPRegressor(
        hidden_layer_sizes=(64, 32), alpha=0.1, max_iter=epochs, n_iter_no_change=epochs + 1, learning_rate_init=1e-3, batch_size=256,
        random_state=seed,
    )  # fmt: skip
    with single_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged: so few epochs are meant
        net.fit(given, truth)
    return list(net.coefs_), list(net.intercepts_)


def _layers(value: Floats, weights: Sequence[Floats], biases: Sequence[Floats]) -> Floats:
    for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        value = value @ weight + bias
        if number < len(weights) - 1:
            value = np.maximum(value, 0.0)
    return value
