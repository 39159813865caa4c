"""C-MAPSS FD001, remaining useful life by the shipped recipe (`edge_models.train.remaining_life`), labels capped at 125 cycles.

Grouped cross-validation by engine: in each repetition the training engines are dealt into five folds at random, and a model of the other
four predicts an engine of the fifth. As the papers do it, an engine is one row: it is cut at a random cycle, from its 30th to its last but
one, and what is left then is predicted from the rows up to the cut. RMSE is over the engines; mean ± standard deviation over 200 draws of cuts in each
repetition. The 90 % interval of an engine comes from the out-of-fold errors of the engines of the other folds (cross-conformal); at 0
and at the cap it is open to one side. Where `test_FD001.txt` and `RUL_FD001.txt` are there the official test engines are scored at their
last row, once, by a model trained on all engines of the training file; one configuration, no choice is made on them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from report import Figure

from edge_models.train.remaining_life import Recipe, fit, intervals, out_of_fold, remaining

from . import Measured

NEEDS = ("cmapss/train_FD001.txt",)
SENSORS: Final = (2, 3, 4, 7, 8, 9, 11, 12, 13, 14, 15, 17, 20, 21)
"""Those of the 21 that are not constant in FD001."""
NAMES: Final = tuple(f"s{number}" for number in SENSORS)
RECIPE: Final = Recipe()
CONFIDENCE: Final = 0.9
_DRAWS: Final = 200
_REPETITIONS: Final = 3
_TRIED: Final = (
    "Seventeen configurations (features, boosted trees of two libraries, weights of the rows, networks, random trees, means of them) were "
    "looked at on one partition of the training engines before this one was fixed."
)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """Predictions with their intervals against the truth, one row an engine."""

    predicted: Floats
    low: Floats
    high: Floats
    truth: Floats

    @property
    def rmse(self) -> float:
        """Root of the mean squared error."""
        return float(np.sqrt(np.mean((self.predicted - self.truth) ** 2)))

    @property
    def coverage(self) -> float:
        """Share of the intervals that hold the truth."""
        return float(np.mean((self.low <= self.truth) & (self.truth <= self.high)))

    @property
    def width(self) -> float:
        """Mean width of the intervals."""
        return float(np.mean(self.high - self.low))


def read(file: Path) -> list[Floats]:
    """The engines of a file in order, each as rows of the used sensors."""
    raw = np.loadtxt(file)
    return [raw[raw[:, 0] == unit][:, [4 + number for number in SENSORS]] for unit in np.unique(raw[:, 0])]


def nasa(predicted: Floats, truth: Floats) -> float:
    """The score of the PHM 2008 challenge: a late prediction costs more (Saxena et al. 2008)."""
    error = predicted - truth
    return float(np.where(error < 0, np.exp(-error / 13.0) - 1.0, np.exp(error / 10.0) - 1.0).sum())


def run(data: Path, calibrate: Path, quick: bool) -> Measured:
    """See the module's docstring."""
    test, answers = data / "cmapss" / "test_FD001.txt", data / "cmapss" / "RUL_FD001.txt"
    recipe = replace(RECIPE, trees=100, networks=1, epochs=4) if quick else RECIPE
    engines = read(calibrate / "cmapss" / "train_FD001.txt")
    figures: list[Figure] = []
    notes = [_TRIED]
    if quick:
        notes.append("Quick: fewer trees and epochs, one repetition.")
    found, predictions = cross_validated(recipe, engines, 1 if quick else _REPETITIONS)
    figures += _figures("cross-validated", found, calibrate_on=len(engines))
    constant = np.array([np.std(one.truth) for one in found])
    notes.append(f"A constant prediction, the mean of the truth, has an RMSE of {constant.mean():.1f} on the same rows.")
    if test.is_file() and answers.is_file():
        figures += official(recipe, engines, predictions, read(test), np.loadtxt(answers).reshape(-1))
    else:
        notes.append("The official test engines are not there.")
    return Measured(figures, notes)


def cross_validated(recipe: Recipe, engines: Sequence[Floats], repetitions: int) -> tuple[list[Scored], list[Floats]]:
    """What each draw of cuts gives, and the out-of-fold predictions of the first repetition."""
    found: list[Scored] = []
    kept: list[Floats] = []
    for repetition in range(repetitions):
        predicted = out_of_fold(
            recipe, engines, NAMES, seed=repetition, tell=lambda text: print(f"cmapss: {text}", file=sys.stderr)
        )
        kept = kept or predicted
        order = np.random.default_rng(repetition).permutation(len(engines))
        low, high = list(predicted), list(predicted)
        for fold in range(5):
            held = order[fold::5].tolist()
            conformal = intervals(recipe, predicted, [n for n in range(len(engines)) if n not in held])
            for n in held:
                low[n], high[n] = conformal.interval(predicted[n], CONFIDENCE, recipe.cap)
        rng = np.random.default_rng(1000 + repetition)
        truth = [remaining(len(engine), recipe.cap) for engine in engines]
        for _ in range(_DRAWS):
            cuts = [int(rng.integers(min(recipe.window, len(engine) - 1) - 1, len(engine) - 1)) for engine in engines]
            found.append(
                Scored(*(np.array([one[cut] for one, cut in zip(of, cuts, strict=True)]) for of in (predicted, low, high, truth)))
            )
    return found, kept


def official(
    recipe: Recipe, engines: Sequence[Floats], out: Sequence[Floats], test: Sequence[Floats], truth: Floats
) -> list[Figure]:
    """The last row of each test engine. Raises ValueError where there are not as many answers as engines."""
    if len(test) != len(truth):
        raise ValueError(f"{len(test)} test engines and {len(truth)} answers")
    model, conformal = fit(recipe, engines, NAMES), intervals(recipe, out)
    predicted = np.array([model.predict(engine)[-1] for engine in test])
    low, high = conformal.interval(predicted, CONFIDENCE, recipe.cap)
    capped = Scored(predicted, low, high, np.minimum(truth, recipe.cap))
    uncapped = Scored(predicted, low, high, truth)
    return [
        *_figures("official test", [capped], calibrate_on=len(engines)),
        Figure("official test: RMSE, test labels not capped", uncapped.rmse, "cycles", "lower", 12.5),
        Figure("official test: NASA score, test labels capped", nasa(predicted, capped.truth), "", "lower"),
        Figure("official test: NASA score, test labels not capped", nasa(predicted, truth), "", "lower"),
    ]


def _figures(name: str, found: Sequence[Scored], *, calibrate_on: int) -> list[Figure]:
    rmse, coverage, width = (np.array([getattr(one, what) for one in found]) for what in ("rmse", "coverage", "width"))
    spread = (lambda values: float(values.std())) if len(found) > 1 else (lambda values: None)
    return [
        Figure(
            f"{name}: RMSE, capped at 125", float(rmse.mean()), "cycles", "lower", 11.0, f"{calibrate_on} engines", spread(rmse)
        ),
        Figure(f"{name}: coverage of the 90 % interval", float(coverage.mean()), "", "higher", 0.88, spread=spread(coverage)),
        Figure(f"{name}: distance of that coverage from 0.90", abs(float(coverage.mean()) - CONFIDENCE), "", "lower", 0.02),
        Figure(f"{name}: mean width of the interval", float(width.mean()), "cycles", "lower", 50.0, spread=spread(width)),
    ]
