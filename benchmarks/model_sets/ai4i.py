"""AI4I 2020, failure of a milling machine by the shipped recipe (`edge_models.train.failure`): average precision.

Each row stands by itself: product type, two temperatures, speed, torque, tool wear; the label is `Machine failure`, the columns that
give the cause away are not used. Stratified five-fold cross-validation, repeated with other splits: in each fold a model of the other four
scores the rows of the fifth. Mean ± standard deviation over all folds. Where DIR2 is another directory, a model of all its rows scores
all rows of DIR instead. The data are synthetic (Matzka 2020): a part of the failures is random and cannot be foretold.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from report import Figure

from edge_models.train.failure import AI4I, fit

from . import Measured

NEEDS = ("ai4i/ai4i2020.csv",)
COLUMNS: Final = {
    "air_temp": "Air temperature [K]", "process_temp": "Process temperature [K]", "speed": "Rotational speed [rpm]",
    "torque": "Torque [Nm]", "tool_wear": "Tool wear [min]",
}  # fmt: skip
NAMES: Final = ("type", *COLUMNS)
_TYPES: Final = "LMH"
_REPETITIONS: Final = 5
_TRIED: Final = "Seven configurations were looked at (boosted trees of two libraries, with and without the made columns, with three shares of the columns in a split, two kinds of random trees) before this one was fixed."

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def read(file: Path) -> tuple[Floats, Bools]:
    """Rows in the order of NAMES, the type as 0, 1, 2, and whether each is a failure."""
    with file.open(encoding="utf-8-sig", newline="") as lines:
        rows = list(csv.DictReader(lines))
    table = [[float(_TYPES.index(row["Type"])), *(float(row[column]) for column in COLUMNS.values())] for row in rows]
    return np.array(table), np.array([row["Machine failure"] == "1" for row in rows])


def average_precision(score: Floats, positive: Bools) -> float:
    """Area under precision over recall as a sum of steps; rows with equal scores are one step. 0 without a positive."""
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(positive[order])
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    precision, recall = hits[last] / (last + 1.0), hits[last] / max(int(hits[-1]), 1)
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def folds(positive: Bools, count: int, seed: int) -> npt.NDArray[np.intp]:
    """The fold of each row: positives and negatives are dealt out apart."""
    rng = np.random.default_rng(seed)
    found = np.zeros(len(positive), dtype=np.intp)
    for which in (True, False):
        rows = rng.permutation(np.flatnonzero(positive == which))
        found[rows] = np.arange(len(rows)) % count
    return found


def run(data: Path, calibrate: Path, quick: bool) -> Measured:
    """See the module's docstring."""
    rows, failed = read(data / NEEDS[0])
    share = float(failed.mean())
    notes = [f"{len(rows)} rows, {int(failed.sum())} failures; a constant score has an average precision of {share:.3f}.", _TRIED]
    if calibrate.resolve() != data.resolve():
        model = fit(AI4I, *read(calibrate / NEEDS[0]), NAMES)
        value = average_precision(model.predict(rows), failed)
        return Measured([Figure("average precision, trained on DIR2", value, "", "higher", 0.80)], notes)
    found = []
    for seed in range(1 if quick else _REPETITIONS):
        fold = folds(failed, 5, seed)
        for number in range(5):
            test = fold == number
            model = fit(AI4I, rows[~test], failed[~test], NAMES)
            found.append(average_precision(model.predict(rows[test]), failed[test]))
    values = np.array(found)
    return Measured(
        [
            Figure(
                "average precision, repeated stratified splits",
                float(values.mean()),
                "",
                "higher",
                0.80,
                f"{share:.3f} by chance",
                float(values.std()),
            )
        ],
        notes,
    )
