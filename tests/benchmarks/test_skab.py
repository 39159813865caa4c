"""The scoring of `benchmarks/models.py --only skab` on cases worked out by hand, and a run over experiments of our own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from model_sets import skab

from tests.edge_models.test_multivariate import machine


def experiment(length: int, *anomalies: tuple[int, int]) -> skab.Experiment:
    anomaly = np.zeros(length, dtype=bool)
    change = np.zeros(length, dtype=bool)
    for first, end in anomalies:
        anomaly[first:end] = True
        change[[first, end]] = True
    return skab.Experiment("valve1/0", np.zeros((length, 8)), anomaly, change)


def test_rates_are_those_of_the_counts() -> None:
    true = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], dtype=bool)
    predicted = np.array([1, 1, 1, 0, 1, 0, 0, 0, 0, 0], dtype=bool)
    assert skab.pointwise(predicted, true) == pytest.approx((6 / 8, 1 / 6, 1 / 4))
    assert skab.pointwise(np.zeros(10, dtype=bool), true) == (0.0, 0.0, 1.0)
    assert skab.pointwise(np.ones(10, dtype=bool), true)[1:] == (1.0, 0.0)


def test_a_change_at_once_is_worth_all_and_one_after_the_window_nothing() -> None:
    one = experiment(1200, (600, 900))
    perfect = one.anomaly[400:]

    def worth(predicted: skab.Bools) -> float:
        return skab.normalised([skab.changes(one, predicted)], 1.0, skab._STANDARD)

    assert worth(perfect) == pytest.approx(100.0)
    assert worth(np.zeros(800, dtype=bool)) == pytest.approx(0.0)
    late = np.roll(perfect, 30)  # in the middle of the window
    assert 80 < worth(late) < 100
    early = np.roll(perfect, -100)  # both changes before their windows: two false alarms, two missed
    assert worth(early) == pytest.approx(100 * -0.11 * 2 / 4, abs=1.0)


def test_files_are_read_and_a_machine_with_a_broken_tag_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "skab" / "valve1"
    folder.mkdir(parents=True)
    for number in range(4):
        sensors = np.tile(machine(900, number), (1, 2))[:, :8]
        sensors[600:750, 1] += 8
        lines = ["datetime;" + ";".join(f"s{n}" for n in range(8)) + ";anomaly;changepoint"]
        for row, values in enumerate(sensors):
            cells = [f"{value:.6f}" for value in values]
            lines.append(
                f"2020-03-09 10:{row // 60:02}:{row % 60:02};{';'.join(cells)};{float(600 <= row < 750)};{float(row in (600, 750))}"
            )
        (folder / f"{number}.csv").write_text("\n".join(lines) + "\n")
    found = {figure.name: figure.value for figure in skab.run(tmp_path, tmp_path, quick=True).figures}
    assert found["multivariate, as shipped: F1"] > 0.85
    assert found["multivariate, as shipped: FAR"] < 10
    assert found["multivariate, held out: changepoints, NAB standard"] > 50
    assert found["every row an alarm: F1"] == pytest.approx(2 * 150 / (150 + 500))


def test_a_file_with_other_columns_is_named(tmp_path: Path) -> None:
    path = tmp_path / "valve1" / "x.csv"
    path.parent.mkdir()
    path.write_text("time;a;anomaly;changepoint\n2020-01-01 00:00:00;1;0;0\n")
    with pytest.raises(ValueError, match=r"x\.csv: its columns are"):
        skab.read(tmp_path)
