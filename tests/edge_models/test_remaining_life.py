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
    file.write_bytes(train(QUICK, lives(40), ["a", "b"], step="500ms", note="made up", folds=3))
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


def test_a_value_that_is_missing_at_first_delays_the_forecast_and_no_more(fleet: tuple[Path, Trained]) -> None:
    life = lives(1, seed=7)[0]
    life[0, 1] = np.nan
    first = build(fleet[0])
    found = told(first.update(polls(life[:5]), 0), "health")
    then = build(fleet[0])
    then.restore(first.snapshot())
    found += told(then.update(polls(life[5:], 5), 0), "health")
    delay = 2  # rows: in the next one nobody waits for the tag yet
    assert len(found) == len(life) - QUICK.window + 1 - delay
    truth = remaining(len(life), QUICK.cap)[QUICK.window - 1 + delay :]
    assert np.mean([abs(row["value"] - one) for row, one in zip(found, truth, strict=True)]) < 10


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
    slow_again = np.repeat(np.column_stack([other, np.arange(len(other))]), 3, axis=0)
    again = told(model.update(polls(slow_again, len(slow)), 0), "health")
    fresh = told(build(fleet[0]).update(polls(other), 0), "health")
    assert [row["value"] for row in again] == [row["value"] for row in fresh]


def test_a_counter_that_falls_for_a_moment_or_is_missing_begins_no_new_life(fleet: tuple[Path, Trained]) -> None:
    life = lives(1, seed=3)[0]
    slow = np.repeat(np.column_stack([life, np.arange(len(life))]), 3, axis=0)
    plain = told(build(fleet[0]).update(polls(life), 0), "health")
    slow[30:32, 2] = 0
    slow[60:62, 2] = [np.nan, 0]
    slow[90:93, 2] = [np.nan, 0, 30]
    first = build(fleet[0], names=("a", "b", "cycles"), cycle="cycles", lateness="100ms")
    found = told(first.update(polls(slow[:31]), 0), "health")  # in the midst of a fall
    then = build(fleet[0], names=("a", "b", "cycles"), cycle="cycles", lateness="100ms")
    then.restore(first.snapshot())
    found += told(then.update(polls(slow[31:], 31), 0), "health")
    assert [row["value"] for row in found] == [row["value"] for row in plain]


def test_a_counter_that_jumps_up_for_a_moment_begins_no_new_life(fleet: tuple[Path, Trained]) -> None:
    life = lives(1, seed=3)[0]
    slow = np.repeat(np.column_stack([life, np.arange(len(life))]), 3, axis=0)

    def made() -> remaining_life.RemainingLife:
        return build(fleet[0], names=("a", "b", "cycles"), cycle="cycles")

    plain = {row["time"]: row["value"] for row in told(made().update(polls(slow), 0), "health")}
    slow[61:65, 2] = 65535  # from the midst of a cycle into the next one
    first, then = made(), made()
    found = told(first.update(polls(slow[:63]), 0), "health")
    then.restore(first.snapshot())
    found += told(then.update(polls(slow[63:], 63), 0), "health")
    assert len(found) == len(plain) + 1  # the jump is a row too; a new life would have no forecast for a window
    same = [(row["value"], plain[row["time"]]) for row in found if row["time"] in plain]
    assert len(same) == len(plain) - 1
    assert max(abs(one - other) for one, other in same) < 3.0


def test_a_file_says_what_its_rows_are(fleet: tuple[Path, Trained], tmp_path: Path) -> None:
    def graph(step: str) -> Path:
        metadata = {"genba.features": ["a", "b"], "genba.cap": "125", "genba.conformal": CONFORMAL.text(), "genba.step": step}
        return mean_graph(tmp_path / "m.onnx", 2, 2, metadata=metadata, change=lambda model: model.graph.output.pop(0))

    def made(file: Path, **options: Any) -> remaining_life.RemainingLife:
        config = remaining_life.RemainingLifeConfig.model_validate({"kind": "remaining_life", "file": str(file), **options})
        tags = [make_tag(n, name=name) for n, name in enumerate(("a", "b", "cycles"))]
        return remaining_life.RemainingLife(config, ModelContext("life", tags))

    hourly = np.repeat(np.arange(5), 2) * 3_600_000_000 + T0
    hours = readings([0, 1] * 5, [50.0] * 10, hourly)
    twice = readings([0, 1] * 10, [50.0] * 20, np.repeat(hourly, 2) + np.tile([0, 0, 1_000_000, 1_000_000], 5))
    settings: list[dict[str, Any]] = [{}, {"every": "1h"}]
    for given in settings:
        assert len(told(made(graph("1h"), **given).update(hours, 0), "health")) == 4
        assert len(told(made(graph("1h"), **given).update(twice, 0), "health")) == 4
    refused: list[tuple[str, dict[str, Any], str, str]] = [
        ("1h", {"every": "1s"}, "every", r"was trained on rows 1h apart, and every: is 1s"),
        ("cycle", {}, "cycle", "was trained by cycles, and no tag says when one begins"),
        ("often", {}, "file", r"genba\.step of .* are no time"),
        ("0s", {}, "file", r"genba\.step of .* are no time"),
    ]
    for step, options, key, said in refused:
        with pytest.raises(ConfigError, match=said) as caught:
            made(graph(step), **options)
        assert caught.value.where == f"models.life.{key}"
        assert caught.value.hint
    made(graph("cycle"), cycle="cycles")
    made(graph(""), every="7s")


@pytest.mark.parametrize(
    ("options", "change", "said"),
    [
        ({"step": "sometimes"}, lambda given: given, "not a duration"),
        ({"step": "0s"}, lambda given: given, "longer than 0s"),
        ({}, lambda given: given[:4], "4 lives are too few: give at least 5"),
        ({}, lambda given: [*given, np.array([[1.0, np.nan]])], r"lives\[6\] is no table of finite numbers with 2 columns"),
        ({}, lambda given: [np.zeros((9, 3)), *given], r"lives\[0\] is no table"),
    ],
)
def test_what_cannot_be_trained_is_said_before_it_is(options: dict[str, Any], change: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        train(QUICK, change(lives(6)), ["a", "b"], **options)


def test_the_counter_may_be_one_of_the_inputs(tmp_path: Path) -> None:
    metadata = {"genba.features": ["cycles", "b"], "genba.cap": "125", "genba.conformal": CONFORMAL.text()}
    file = mean_graph(tmp_path / "m.onnx", 2, 2, metadata=metadata, change=lambda model: model.graph.output.pop(0))
    slow = np.repeat(np.column_stack([np.arange(10.0), np.full(10, 40.0)]), 3, axis=0)
    found = told(build(file, names=("cycles", "b"), cycle="cycles").update(polls(slow), 0), "health")
    assert [row["value"] for row in found] == [pytest.approx((40 + count - 0.5) / 2) for count in range(1, 10)]


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
