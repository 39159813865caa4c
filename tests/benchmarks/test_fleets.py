"""C-MAPSS and AI4I: scores on hand-computed cases, and the official split's path with made-up engines."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from model_sets import ai4i, cmapss
from sklearn.metrics import average_precision_score

from edge_models.train import failure
from edge_models.train.remaining_life import Recipe, fit

QUICK = Recipe(trees=15, leaves=7, learning_rate=0.2, networks=0, edges=(60.0,))


def engines(count: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        rows = int(rng.integers(120, 200))
        wear = np.exp(-np.arange(rows)[::-1] / 40.0)
        found.append(rng.normal(100, 1, 14) + np.outer(wear, np.linspace(-5, 5, 14)) + rng.normal(0, 0.3, (rows, 14)))
    return found


def write(file: Path, made: list[np.ndarray]) -> None:
    """In the layout of the data set: unit, cycle, three settings, 21 sensors."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for unit, engine in enumerate(made, start=1):
        table = np.zeros((len(engine), 26))
        table[:, 0], table[:, 1] = unit, np.arange(1, len(engine) + 1)
        table[:, [4 + sensor for sensor in cmapss.SENSORS]] = engine
        lines.append(table)
    np.savetxt(file, np.concatenate(lines), fmt="%.6f")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cmapss, "RECIPE", QUICK)
    monkeypatch.setattr(cmapss, "_REPETITIONS", 1)


def test_the_official_engines_are_scored_at_their_last_row_by_a_model_of_the_other_directory(tmp_path: Path, quick: None) -> None:
    train, whole = engines(12, 0), engines(5, 1)
    left = np.array([10, 40, 70, 130, 150])
    cut = [engine[: max(len(engine) - int(rows), 31)] for engine, rows in zip(whole, left, strict=True)]
    write(tmp_path / "calibrate" / "cmapss" / "train_FD001.txt", train)
    write(tmp_path / "data" / "cmapss" / "train_FD001.txt", engines(6, 5))  # not to be looked at
    write(tmp_path / "data" / "cmapss" / "test_FD001.txt", cut)
    np.savetxt(tmp_path / "data" / "cmapss" / "RUL_FD001.txt", left, fmt="%d")
    found = {figure.name: figure.value for figure in cmapss.run(tmp_path / "data", tmp_path / "calibrate", False).figures}
    model = fit(QUICK, cmapss.read(tmp_path / "calibrate" / "cmapss" / "train_FD001.txt"), cmapss.NAMES)
    told = np.array([model.predict(engine)[-1] for engine in cmapss.read(tmp_path / "data" / "cmapss" / "test_FD001.txt")])
    capped = np.minimum(left, 125)
    assert found["official test: RMSE, capped at 125"] == pytest.approx(np.sqrt(np.mean((told - capped) ** 2)))
    assert found["official test: RMSE, test labels not capped"] == pytest.approx(np.sqrt(np.mean((told - left) ** 2)))
    assert found["official test: NASA score, test labels capped"] == pytest.approx(cmapss.nasa(told, capped))
    assert 0 <= found["official test: coverage of the 90 % interval"] <= 1
    assert found["cross-validated: RMSE, capped at 125"] > 0
    np.savetxt(tmp_path / "data" / "cmapss" / "RUL_FD001.txt", left[:4], fmt="%d")
    with pytest.raises(ValueError, match="5 test engines and 4 answers"):
        cmapss.run(tmp_path / "data", tmp_path / "calibrate", False)


def test_the_challenge_score_costs_late_predictions_more() -> None:
    assert cmapss.nasa(np.array([50.0]), np.array([50.0])) == 0.0
    assert cmapss.nasa(np.array([40.0]), np.array([53.0])) == pytest.approx(np.e - 1)
    assert cmapss.nasa(np.array([60.0]), np.array([50.0])) == pytest.approx(np.e - 1)


def test_average_precision_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        score, positive = rng.integers(0, 8, 60).astype(float), rng.random(60) < 0.2
        if positive.any():
            assert ai4i.average_precision(score, positive) == pytest.approx(average_precision_score(positive, score))


def test_ai4i_is_read_dealt_out_and_scored(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    file = tmp_path / "ai4i" / "ai4i2020.csv"
    file.parent.mkdir()
    with file.open("w", encoding="utf-8-sig", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["UDI", "Product ID", "Type", *ai4i.COLUMNS.values(), "Machine failure", "TWF"])
        for n in range(600):
            speed, torque = rng.normal(1500, 150), rng.normal(40, 10)
            writer.writerow(
                [n, "x", "LMH"[n % 3], 300, 310, f"{speed:.0f}", f"{torque:.1f}", n % 200, int(speed * torque > 75000), 0]
            )
    rows, failed = ai4i.read(file)
    assert rows[4].tolist()[:3] == [1.0, 300.0, 310.0]
    fold = ai4i.folds(failed, 5, 0)
    assert [int(failed[fold == n].sum()) for n in range(5)] == pytest.approx([failed.sum() / 5] * 5, abs=1)
    (figure,) = ai4i.run(tmp_path, tmp_path, True).figures
    assert figure.value > 0.6
    other = tmp_path / "other"
    (other / "ai4i").mkdir(parents=True)
    (other / "ai4i" / "ai4i2020.csv").write_bytes(file.read_bytes())
    (trained,) = ai4i.run(tmp_path, other, True).figures
    assert trained.name == "average precision, trained on DIR2"
    assert trained.value > 0.9


def test_the_file_of_the_failure_recipe_says_what_the_recipe_says(tmp_path: Path) -> None:
    from edge_models.inference import InProcess, Request

    rng = np.random.default_rng(0)
    rows = np.column_stack(
        [rng.integers(0, 3, 400), rng.normal(0, 1, (400, 5)) * [2, 1.5, 180, 10, 60] + [300, 310, 1538, 40, 108]]
    )
    failed = rows[:, 3] * rows[:, 4] > 70_000
    recipe = replace(failure.AI4I, trees=20)
    data = failure.train(recipe, rows, failed, ai4i.NAMES, note="made up")
    file = InProcess(data, "failure.onnx", "models.x.file")
    assert file.described.metadata["genba.window"] == "1"
    assert '"made up"' in file.described.metadata["genba.training"]
    found = file.run(Request({"rows": rows.astype(np.float32)}, "failure"))
    assert found[:, 0] == pytest.approx(failure.fit(recipe, rows, failed, ai4i.NAMES).predict(rows), abs=1e-5)
