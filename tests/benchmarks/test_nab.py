"""The scorer of the Numenta Anomaly Benchmark on cases that were worked out by hand, and against a literal row-by-row version."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from math import exp, inf, nan
from pathlib import Path

import numpy as np
import pytest
from model_sets import nab
from model_sets._nab_score import (
    PROFILES,
    Events,
    Profile,
    Series,
    best_threshold,
    events,
    normalised,
    read,
    sigmoid,
    weights,
)

STANDARD = PROFILES["standard"]
MINUTES5 = 300_000_000


def series(n: int, *windows: tuple[int, int]) -> Series:
    return Series("a/one.csv", np.arange(n, dtype=np.int64) * MINUTES5, np.zeros(n), windows)


def alarms(n: int, *rows: int, at: float = 1.0) -> np.ndarray:
    score = np.zeros(n)
    score[list(rows)] = at
    return score


def test_the_sigmoid_at_its_landmarks() -> None:
    found = sigmoid(np.array([-1.0, -0.2, 0.0, 0.25, 1.0, 3.0, 3.01]))
    assert found == pytest.approx(
        [0.9866142981514303, 0.46211715726000973, 0.0, -0.5545997223493823, -0.9866142981514303, -0.9999993881955461, -1.0]
    )


def test_probation_is_a_share_of_the_file_and_no_more_than_750_rows() -> None:
    assert [series(n).probation for n in (20, 4032, 5000, 22_695)] == [3, 604, 750, 750]


def test_what_each_row_is_worth() -> None:
    worth, window = weights(series(20, (10, 14)), STANDARD)
    assert window.tolist() == [-1] * 10 + [0] * 5 + [-1] * 5
    assert worth[:10].tolist() == [-0.11] * 10  # no window before: a false alarm costs all
    # The left edge is worth 1; row 12 lies 3/5 before the end, row 14 1/5.
    edge = 2 / (1 + exp(-5)) - 1
    assert worth[[10, 12, 14]] == pytest.approx([1.0, 0.9051482536448664 / edge, 0.46211715726000973 / edge])
    # Behind the window the distance counts in widths less one: 1/4, then 4/4.
    assert worth[[15, 18]] == pytest.approx([0.11 * -0.5545997223493823, 0.11 * -edge])


@pytest.mark.parametrize(
    ("rows", "profile", "expected"),
    [
        ((), "standard", 0.0),  # the null detector
        ((10, 30), "standard", 100.0),  # the perfect one
        ((10, 11, 12, 30, 34), "standard", 100.0),  # only the earliest counts, and more in a window cost nothing
        ((10,), "standard", 50.0),
        ((6, 10), "standard", 100 * (2 - 0.11) / 4),
        ((6, 10), "low FP", 100 * (2 - 0.22) / 4),
        ((6, 10), "low FN", 100 * (3 - 0.11) / 6),
        ((6,), "standard", 100 * -0.11 / 4),
        ((14, 15), "standard", 100 * (1 + 0.46211715726000973 / 0.9866142981514303 - 0.11 * 0.5545997223493823) / 4),
        ((0, 1, 2, 3, 4, 5), "standard", 0.0),  # probation: 6 of 40 rows
    ],
)
def test_worked_cases(rows: tuple[int, ...], profile: str, expected: float) -> None:
    given = PROFILES[profile]
    found = events(series(40, (10, 14), (30, 34)), alarms(40, *rows), given)
    assert found.windows == 2
    assert normalised([found], 1.0, given) == pytest.approx(expected, abs=1e-12)


def test_a_window_that_lies_in_probation_cannot_be_found_and_is_not_asked_for() -> None:
    found = events(series(40, (1, 4), (30, 34)), alarms(40, 2, 30), STANDARD)
    assert found.windows == 1
    assert normalised([found], 1.0, STANDARD) == pytest.approx(100.0)


def test_the_threshold_is_the_best_of_the_whole_corpus_and_equal_scores_go_together() -> None:
    one = events(series(40, (10, 14)), np.where(np.arange(40) == 10, 0.7, np.where(np.arange(40) == 20, 0.9, 0.0)), STANDARD)
    assert best_threshold([one]) == 0.7  # the false alarm at 0.9 is the price
    quiet = events(series(40), np.where(np.arange(40) >= 10, 0.7, 0.0), STANDARD)  # 30 false alarms at the same score
    assert best_threshold([one, quiet]) == inf
    assert normalised([one, quiet], inf, STANDARD) == 0.0
    assert best_threshold([]) == inf


def literal(corpus: list[tuple[Series, np.ndarray]], threshold: float, profile: Profile) -> float:
    """The published description read row by row."""
    total, windows = 0.0, 0
    for one, score in corpus:
        for first, last in one.windows:
            if last < one.probation:
                continue
            windows += 1
            hits = [row for row in range(max(first, one.probation), last + 1) if score[row] >= threshold]
            if not hits:
                total -= profile.fn
            else:
                y = -(last - hits[0] + 1) / (last - first + 1)
                total += profile.tp * (2 / (1 + exp(5 * y)) - 1) / (2 / (1 + exp(-5)) - 1)
        for row in range(one.probation, len(score)):
            if score[row] >= threshold and not any(first <= row <= last for first, last in one.windows):
                before = [(first, last) for first, last in one.windows if last < row]
                if not before:
                    total -= profile.fp
                else:
                    first, last = before[-1]
                    y = (row - last) / (last - first)
                    total += profile.fp * (-1.0 if y > 3 else 2 / (1 + exp(5 * y)) - 1)
    null, perfect = -profile.fn * windows, profile.tp * windows
    return 100 * (total - null) / (perfect - null)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("profile", PROFILES)
def test_it_agrees_with_the_description_read_row_by_row(seed: int, profile: str) -> None:
    rng = np.random.default_rng(seed)
    corpus = []
    for _ in range(4):
        n = int(rng.integers(60, 200))
        edges = np.sort(rng.choice(np.arange(2, n - 2), 4, replace=False)).tolist()
        windows = [(edges[0], edges[1]), (edges[2], edges[3])][: int(rng.integers(0, 3))]
        corpus.append((series(n, *windows), rng.integers(0, 30, n) / 30))
    given = PROFILES[profile]
    found = [events(one, score, given) for one, score in corpus]
    if not sum(one.windows for one in found):
        return
    values = {t / 30: literal(corpus, t / 30, given) for t in range(31)}
    for threshold, value in values.items():
        assert normalised(found, threshold, given) == pytest.approx(value, abs=1e-9)
    assert normalised(found, best_threshold(found), given) == pytest.approx(max(0.0, *values.values()), abs=1e-9)


def test_peak_first_lets_only_a_clearly_higher_row_through_for_a_while() -> None:
    time = [hour * 3_600_000_000 for hour in range(8)]
    decades = np.array([nan, 2.0, 2.9, 3.1, 3.0, 2.0, 9.0, 1.0])
    kept = nab.peak_first(time, decades, 2 * 3_600_000_000)
    assert np.flatnonzero(~np.isnan(kept)).tolist() == [1, 3, 5, 6]


def test_halves_never_share_a_file_and_cut_every_folder() -> None:
    names = [f"{folder}/{n}.csv" for folder, count in (("a", 5), ("b", 2), ("c", 3)) for n in range(count)]
    for one, two in nab.halves(names, 10):
        assert sorted([*one, *two]) == list(range(10))
        assert abs(len(one) - len(two)) <= 1
        assert len([n for n in one if names[n].startswith("b")]) == 1


def test_held_out_scores_with_what_the_other_half_chose() -> None:
    good = Events(np.array([0.5]), np.array([2.0]), 1)  # found at 0.5
    shy = Events(np.array([0.4]), np.array([2.0]), 1)  # only found at 0.4
    assert nab.held_out([[good, shy]], [([0], [1])], STANDARD) == [0.0, 100.0]


def write(folder: Path, name: str, value: np.ndarray, *windows: tuple[int, int]) -> None:
    began = datetime(2026, 1, 1, tzinfo=UTC)
    stamps = [(began + timedelta(minutes=5 * row)).strftime("%Y-%m-%d %H:%M:%S") for row in range(len(value))]
    path = folder / "nab" / "data" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = "".join(f"{stamp},{number}\n" for stamp, number in zip(stamps, value.tolist(), strict=True))
    path.write_text("timestamp,value\n" + rows, encoding="utf-8")
    labels = folder / "nab" / "labels" / "combined_windows.json"
    labels.parent.mkdir(parents=True, exist_ok=True)
    told = json.loads(labels.read_text(encoding="utf-8")) if labels.exists() else {}
    told[name] = [[f"{stamps[first]}.000000", f"{stamps[last]}.000000"] for first, last in windows]
    labels.write_text(json.dumps(told), encoding="utf-8")


def test_the_whole_way_from_files_to_figures(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    for number, folder in enumerate(("a", "a", "b", "b")):
        value = np.sin(np.arange(700) / 20) + rng.normal(0, 0.05, 700)
        value[500:520] += 3.0
        write(tmp_path, f"{folder}/{number}.csv", value, (480, 540))
    assert [one.windows for one in read(tmp_path / "nab")] == [[(480, 540)]] * 4
    found = {figure.name: figure for figure in nab.run(tmp_path, tmp_path, True).figures}
    assert found["novelty, standard, in sample"].value > 80
    assert 40 < found["novelty, standard, held out: threshold chosen"].value <= 100
    assert found["every row an alarm, standard"].value < -100
    assert found["novelty, in sample: windows found"].value == 4
    labels = tmp_path / "nab" / "labels" / "combined_windows.json"
    labels.write_text(labels.read_text(encoding="utf-8").replace("2026-01-02 16:00", "2026-01-02 16:01"), encoding="utf-8")
    with pytest.raises(ValueError, match="no row at 2026-01-02 16:01"):
        read(tmp_path / "nab")
