"""The scoring of the Numenta Anomaly Benchmark, written anew from its description (Lavin and Ahmad 2015, arXiv:1510.03336).

Rows of a series are alarms where their score reaches the one threshold of the whole corpus. A window counts its best alarm, which
is its earliest; every alarm outside a window costs, less just behind one. What a threshold is worth is a sum over rows, so each
series becomes a list of (score, gain) events that any set of series can be added up from.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
_PROBATION_SHARE: Final = 0.15
_PROBATION_OF: Final = 5000  # rows: the probation of a longer series does not grow


@dataclass(frozen=True)
class Profile:
    """What a found window, a false alarm and a missed window weigh."""

    tp: float
    fp: float
    fn: float


PROFILES: Final = {"standard": Profile(1.0, 0.11, 1.0), "low FP": Profile(1.0, 0.22, 1.0), "low FN": Profile(1.0, 0.11, 2.0)}


@dataclass(frozen=True)
class Series:
    """One file: `time` µs int64[n], `value` float64[n], windows as first and last row (both inside)."""

    name: str
    time: npt.NDArray[np.int64]
    value: Floats
    windows: Sequence[tuple[int, int]]

    @property
    def probation(self) -> int:
        """So many rows at the beginning do not count."""
        return int(min(np.floor(_PROBATION_SHARE * len(self.time)), _PROBATION_SHARE * _PROBATION_OF))


@dataclass(frozen=True)
class Events:
    """What lowering the threshold brings: `gain[i]` is added once it is at or below `score[i]`. `windows` that can be found."""

    score: Floats
    gain: Floats
    windows: int


def sigmoid(position: Floats) -> Floats:
    """Worth of an alarm at a position relative to a window: -1 is the left edge, 0 the right one, 1 one width behind it."""
    worth: Floats = np.where(position > 3.0, -1.0, 2.0 / (1.0 + np.exp(5.0 * np.minimum(position, 3.0))) - 1.0)
    return worth


def weights(series: Series, profile: Profile) -> tuple[Floats, npt.NDArray[np.intp]]:
    """Worth of an alarm at each row, and the window that the row lies in, -1 for none."""
    n = len(series.time)
    row = np.arange(n)
    worth, window = np.full(n, -profile.fp), np.full(n, -1)
    for number, (first, last) in enumerate(series.windows):
        width = last - first + 1
        inside = slice(first, last + 1)
        window[inside] = number
        worth[inside] = profile.tp * sigmoid(-(last - row[inside] + 1) / width) / sigmoid(np.array([-1.0]))
        worth[last + 1 :] = profile.fp * sigmoid((row[last + 1 :] - last) / max(width - 1, 1))
    return worth, window


def events(series: Series, score: Floats, profile: Profile) -> Events:
    """The series under a detector's scores. A score that is not a number never alarms."""
    worth, window = weights(series, profile)
    counted = np.arange(len(score)) >= series.probation
    findable = len(np.unique(window[counted & (window >= 0)]))
    rows = np.flatnonzero(counted & ~np.isnan(score))
    rows = rows[np.argsort(-score[rows], kind="stable")]
    outside = rows[window[rows] < 0]
    scores, gains = [score[outside]], [worth[outside]]
    for number in range(len(series.windows)):
        mine = rows[window[rows] == number]
        if len(mine):
            best = np.maximum.accumulate(worth[mine])
            better = np.flatnonzero(np.diff(best, prepend=-np.inf) > 0)
            scores.append(score[mine[better]])
            gains.append(np.diff(best[better], prepend=-profile.fn))
    return Events(np.concatenate(scores), np.concatenate(gains), findable)


def best_threshold(corpus: Sequence[Events]) -> float:
    """The threshold at which the sum over all series is largest, the highest of equals; infinite when no alarm is worth it."""
    score = np.concatenate([np.zeros(0), *(one.score for one in corpus)])
    order = np.argsort(-score, kind="stable")
    score = score[order]
    total = np.cumsum(np.concatenate([np.zeros(0), *(one.gain for one in corpus)])[order])
    last = np.flatnonzero(np.append(score[1:] != score[:-1], True)) if len(score) else np.array([], dtype=np.intp)
    if len(last) == 0 or total[last].max() <= 0.0:
        return np.inf
    return float(score[last[np.argmax(total[last])]])


def normalised(corpus: Sequence[Events], threshold: float, profile: Profile) -> float:
    """0 is a detector that never alarms, 100 one that alarms at the first row of every window and nowhere else."""
    windows = sum(one.windows for one in corpus)
    gained = sum(float(one.gain[one.score >= threshold].sum()) for one in corpus)
    return 100.0 * gained / ((profile.tp + profile.fn) * windows) if windows else float("nan")


def read(folder: Path) -> list[Series]:
    """Every series of a `nab` directory, in order of name. Raises ValueError for a window whose edges are no rows."""
    labelled = json.loads((folder / "labels" / "combined_windows.json").read_text(encoding="utf-8"))
    found = []
    for path in sorted((folder / "data").rglob("*.csv")):
        name = path.relative_to(folder / "data").as_posix()
        with path.open(encoding="utf-8", newline="") as file:
            rows = [(_time(row["timestamp"]), float(row["value"])) for row in csv.DictReader(file)]
        time = np.array([row[0] for row in rows], dtype=np.int64)
        windows = []
        for left, right in labelled[name]:
            first = np.flatnonzero(time == _time(left))
            last = np.flatnonzero(time == _time(right))
            if len(first) == 0 or len(last) == 0:
                raise ValueError(f"{name}: no row at {left} or {right}")
            windows.append((int(first[0]), int(last[last >= first[0]][0])))
        found.append(Series(name, time, np.array([row[1] for row in rows]), sorted(windows)))
    return found


def _time(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000
