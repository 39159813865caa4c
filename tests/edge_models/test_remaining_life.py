"""`remaining_life`: intervals that hold, lives that begin anew, files that do not say enough, and the conformance suite."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from edge_models import remaining_life
from edge_models.base import EdgeModel, ModelContext
from edge_models.conformal import Conformal
from edge_models.runtime import ModelSet
from edge_models.train.conformal import calibrate
from edge_models.train.remaining_life import Recipe, Trained, fit, intervals, out_of_fold, remaining, train
from schemas.errors import ConfigError
from schemas.kinds import HEALTH, SCORE, kind_of
from tests.conformance.model import POLL_US, T0, TAGS, make_tag, plain_stream, readings

from . import test_onnx
from .graphs import mean_graph

QUICK = Recipe(window=8, cap=60.0, trees=40, leaves=7, learning_rate=0.15, networks=1, epochs=4, edges=(20.0, 40.0))
CONFORMAL = Conformal((20.0,), (0.05, 0.1, 0.5, 0.9, 0.95), ((-4.0, -3.0, 0.0, 3.0, 4.0), (-10.0, -8.0, 0.0, 8.0, 10.0)))


def lives(count: int, seed: int = 0) -> list[Any]:
    """Machines whose two tags wear ever faster, each of them with an offset of its own."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        rows = int(rng.integers(60, 110))
        wear = np.exp(-np.arange(rows)[::-1] / 25.0)
        found.append(rng.normal(50, 1, 2) + np.outer(wear, [4.0, -3.0]) + rng.normal(0, 0.15, (rows, 2)))
    return found


def polls(values: Any, first: int = 0) -> pa.RecordBatch:
    n, tags = values.shape
    time = np.repeat(T0 + (first + np.arange(n)) * POLL_US, tags)
    return readings(np.tile(np.arange(tags, dtype=np.int32), n), values.ravel(), time, first_seq=first * tags)


def build(file: Path, names: Sequence[str] = ("a", "b"), **options: Any) -> remaining_life.RemainingLife:
    config = remaining_life.RemainingLifeConfig.model_validate(
        {"kind": "remaining_life", "every": "500ms", "file": str(file), **options}
    )
    made = remaining_life.PLUGIN.build(config, ModelContext("life", [make_tag(n, name=name) for n, name in enumerate(names)]))
    assert isinstance(made, remaining_life.RemainingLife)
    return made


def told(found: Sequence[pa.RecordBatch], kind: str) -> list[dict[str, Any]]:
    return [row for batch in found if kind_of(batch) == kind for row in batch.to_pylist()]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trained]:
    """A file trained on forty lives, and the same model as numpy."""
    file = tmp_path_factory.mktemp("life") / "fleet.onnx"
    file.write_bytes(train(QUICK, lives(40), ["a", "b"], note="made up", folds=3))
    return file, fit(QUICK, lives(40), ["a", "b"])


def test_the_file_predicts_what_was_trained_and_the_interval_holds_the_truth(fleet: tuple[Path, Trained]) -> None:
    file, trained = fleet
    inside, widths = [], []
    for life in lives(12, seed=99):
        found = build(file).update(polls(life), 0)
        health = told(found, "health")
        assert {(row["measure"], row["unit"], row["asset"], row["model"]) for row in health} == {
            ("remaining_useful_life", "cycles", "acme/osaka/press", "life")
        }
        assert len(health) == len(life) - QUICK.window + 1
        by_numpy = trained.predict(life)[QUICK.window - 1 :]
        assert [row["value"] for row in health] == [pytest.approx(one, abs=0.05) for one in by_numpy]
        truth = remaining(len(life), QUICK.cap)[QUICK.window - 1 :]
        inside += [
            row["low"] <= one and (row["high"] is None or one <= row["high"]) for row, one in zip(health, truth, strict=True)
        ]
        widths += [row["high"] - row["low"] for row in health if row["high"] is not None]
        assert all(row["high"] is None or row["low"] <= row["value"] <= row["high"] < QUICK.cap for row in health)
    assert 0.8 < np.mean(inside) <= 1.0
    assert np.mean(widths) < 40


def test_the_same_lives_make_the_same_file() -> None:
    few = lives(9)
    quick = Recipe(window=8, cap=60.0, trees=5, leaves=4, networks=1, epochs=2, edges=())
    assert train(quick, few, ["a", "b"], folds=3) == train(quick, few, ["a", "b"], folds=3)


def test_the_score_is_the_probability_that_the_life_ends_within(fleet: tuple[Path, Trained]) -> None:
    life = lives(1, seed=7)[0]
    scores = told(build(fleet[0], within=10).update(polls(life), 0), "score")
    assert scores[0]["score"] is None
    assert scores[-1]["score"] > 0.6 > 0.1 > scores[len(life) // 2]["score"]
    assert scores[-1]["limit"] == 0.9
    sooner = told(build(fleet[0], within=3).update(polls(life), 0), "score")
    assert all(a["score"] <= b["score"] for a, b in zip(sooner, scores, strict=True) if a["score"] is not None)


def test_the_alarm_says_how_long_and_how_sure(fleet: tuple[Path, Trained]) -> None:
    config = remaining_life.RemainingLifeConfig.model_validate(
        {"kind": "remaining_life", "tags": ["**"], "every": "500ms", "file": str(fleet[0]), "within": 20}
    )
    tags = [make_tag(n, name=name, limits=None) for n, name in enumerate(("a", "b"))]
    models = ModelSet.build({"life": config}, tags, lambda _: remaining_life.PLUGIN)
    out = models.update(polls(lives(1, seed=7)[0]), T0)
    (raised,) = [row for batch in out.alerts for row in batch.to_pylist() if row["transition"] == "raised"]
    pattern = r"press has about [\d.]+ cycles left \([\d.]+ to [\d.]+\), and fails within 20 with \d\d % certainty by what became of others \(unsigned .*\)"
    assert re.fullmatch(pattern, raised["problem"])
    assert out.health


def test_a_counter_makes_the_rows_and_a_new_life_when_it_falls(fleet: tuple[Path, Trained]) -> None:
    life = lives(1, seed=3)[0]
    slow = np.repeat(np.column_stack([life, np.arange(len(life))]), 3, axis=0)  # three polls a cycle
    model = build(fleet[0], names=("a", "b", "cycles"), cycle="cycles")
    found = told(model.update(polls(slow), 0), "health")
    plain = told(build(fleet[0]).update(polls(life), 0), "health")
    assert [row["value"] for row in found] == [row["value"] for row in plain]
    other = lives(1, seed=4)[0]
    again = told(model.update(polls(np.column_stack([other, np.arange(len(other))]), len(slow)), 0), "health")
    fresh = told(build(fleet[0]).update(polls(other), 0), "health")
    assert [row["value"] for row in again] == [row["value"] for row in fresh]


def test_a_file_without_intervals_is_refused_with_the_way_out(tmp_path: Path) -> None:
    def graph(**metadata: str) -> Path:
        return mean_graph(
            tmp_path / "m.onnx",
            3,
            2,
            metadata={"genba.features": ["a", "b"], **metadata},
            change=lambda model: model.graph.output.pop(),
        )

    for metadata in (
        {},
        {"genba.cap": "125"},
        {"genba.cap": "125", "genba.conformal": "[]"},
        {"genba.cap": "125", "genba.conformal": "{"},
    ):
        with pytest.raises(ConfigError, match="how far its predictions are off") as caught:
            build(graph(**metadata))
        assert "edge_models.train.remaining_life" in caught.value.hint
    build(graph(**{"genba.cap": "125", "genba.conformal": CONFORMAL.text()}))


def test_conformal_quantiles_survive_as_text_and_open_sides_take_the_whole_doubt() -> None:
    assert Conformal.of(CONFORMAL.text()) == CONFORMAL
    low, high = CONFORMAL.interval(np.array([2.0, 15.0, 50.0, 96.0]), 0.9, 100.0)
    assert low.tolist() == [0.0, 11.0, 40.0, 88.0]
    assert high.tolist() == [5.0, 19.0, 60.0, 100.0]
    assert CONFORMAL.share_within(np.array([15.0]), 15.0, 100.0)[0] == pytest.approx(0.5)
    for bad in (
        "",
        "{}",
        "[]",
        '{"edges": [2, 1], "levels": [0.1, 0.9], "offsets": [[0, 0], [0, 0], [0, 0]]}',
        '{"edges": [1], "levels": [0.1, 0.9], "offsets": [[0, 0]]}',
    ):
        with pytest.raises(ValueError, match=r"conformal|line 1"):
            Conformal.of(bad)


def test_calibration_covers_as_promised_on_lives_that_it_has_not_seen() -> None:
    rng = np.random.default_rng(0)

    def made(count: int) -> tuple[list[Any], list[Any]]:
        truth = [rng.uniform(0, 100, 50) for _ in range(count)]
        return [one + rng.normal(0, 2 + one / 10) for one in truth], truth

    conformal = calibrate(*made(200), edges=(25.0, 50.0, 75.0))
    predicted, truth = made(400)
    low, high = conformal.interval(np.concatenate(predicted), 0.9, 1e9)
    covered = (low <= np.concatenate(truth)) & (np.concatenate(truth) <= high)
    assert covered.mean() == pytest.approx(0.9, abs=0.03)


def test_out_of_fold_predictions_are_of_models_that_have_not_seen_the_life() -> None:
    few = lives(9)
    quick = Recipe(window=8, cap=60.0, trees=5, leaves=4, networks=0, edges=())
    found = out_of_fold(quick, few, ["a", "b"], folds=3, seed=2)
    order = np.random.default_rng(2).permutation(9)
    held = order[1::3].tolist()
    by_hand = fit(quick, [life for n, life in enumerate(few) if n not in held], ["a", "b"])
    assert all((found[n] == by_hand.predict(few[n])).all() for n in held)
    assert len(intervals(quick, found).offsets) == 1


class TestRemainingLife(test_onnx._Conformance):
    plugin = remaining_life.PLUGIN
    kind = "remaining_life"
    gives_health = True

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        metadata = {"genba.features": test_onnx.NAMES, "genba.cap": "125", "genba.conformal": CONFORMAL.text()}
        self.file = mean_graph(
            tmp_path / "m.onnx", 3, TAGS, metadata=metadata, change=lambda model: model.graph.output.remove(model.graph.output[0])
        )

    def model(self, tags: Sequence[int] = range(TAGS), **options: Any) -> EdgeModel:
        config = remaining_life.RemainingLifeConfig.model_validate(
            {"kind": self.kind, "every": "500ms", "file": str(self.file), "warm_up": f"{self.warm_up_us / 1e6:g}s", **options}
        )
        named = [make_tag(tag, name=f"t{tag % TAGS}", asset=f"acme/osaka/press-{tag // TAGS}") for tag in tags]
        return remaining_life.PLUGIN.build(config, ModelContext("watch", named))

    def test_health_comes_with_each_score(self) -> None:
        found = self.model().update(plain_stream(), T0)
        scores, health = (
            pa.Table.from_batches([b for b in found if kind_of(b) == kind], schema)
            for kind, schema in (("score", SCORE), ("health", HEALTH))
        )
        known = scores.filter(scores.column("score").is_valid())
        assert known.num_rows == health.num_rows == 112
        assert known.column("seq").to_pylist() == health.column("seq").to_pylist()
        assert known.column("value").to_pylist() == health.column("value").to_pylist()
