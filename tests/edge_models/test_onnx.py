"""`onnx`: what it takes and refuses, what it says, and the conformance suite in both ways of scoring."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx as onnx_files
import pyarrow as pa
import pytest
from onnx import TensorProto, helper

from edge_models import onnx
from edge_models.base import EdgeModel, ModelContext, SiteAlarms
from edge_models.onnx_file import NotOnnx, describe
from edge_models.runtime import ModelSet
from schemas.errors import ConfigError, StateMismatch
from schemas.kinds import SCORE, telemetry, with_seq
from tests.conformance.model import POLL_US, T0, TAGS, ModelConformance, make_tag, plain_stream, readings, renumbered

from .graphs import FLOAT, constant, mean_graph, save

NAMES = [f"t{n}" for n in range(TAGS)]


def build(file: Path, tags: Sequence[int] = range(2), *, per_asset: int = 2, **options: Any) -> onnx.Onnx:
    config = onnx.OnnxConfig.model_validate(
        {"kind": "onnx", "every": "500ms", "file": str(file), "inputs": NAMES[:per_asset], "output": "score", **options}
    )
    named = [make_tag(tag, name=f"t{tag % per_asset}", asset=f"acme/osaka/press-{tag // per_asset}") for tag in tags]
    model = onnx.PLUGIN.build(config, ModelContext("watch", named))
    assert isinstance(model, onnx.Onnx)
    return model


def polls(values: object, first: int = 0, gap_us: int = 0) -> pa.RecordBatch:
    table = np.asarray(values, dtype=np.float64)
    n, tags = table.shape
    time = np.repeat(T0 + gap_us + (first + np.arange(n)) * POLL_US, tags)
    return readings(np.tile(np.arange(tags, dtype=np.int32), n), table.ravel(), time, first_seq=first * tags)


def rows(found: Sequence[pa.RecordBatch]) -> list[dict[str, Any]]:
    return pa.Table.from_batches(found, SCORE).to_pylist()


def test_the_output_is_the_score_of_the_asset_over_the_window(tmp_path: Path) -> None:
    model = build(mean_graph(tmp_path / "m.onnx", window=3))
    told = rows(model.update(polls([[20, 20], [21, 21], [22, 22], [23, 25], [26, 22]]), 0))
    means = [None, None, 21.0, 67 / 3, 70 / 3]
    expected = [None if mean is None else 1 / (1 + np.exp(22 - mean)) for mean in means]
    assert [row["score"] for row in told] == [one if one is None else pytest.approx(one, abs=1e-6) for one in expected]
    assert {row["asset"] for row in told} == {"acme/osaka/press-0"}
    assert [row["tag"] for row in told] == [None] * 5
    assert [row["limit"] for row in told] == [0.5] * 5
    assert [row["value"] for row in told] == [row["score"] for row in told]


def test_columns_are_bound_by_name_whatever_the_order_of_the_tags(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Slice", ["rows", "from", "to", "axis"], ["first"]),
        helper.make_node("Reshape", ["first", "column"], ["score"]),
    ]
    file = save(
        tmp_path / "first.onnx", nodes, {"rows": (FLOAT, ["batch", 1, 2])}, {"score": (FLOAT, ["batch", 1])},
        [constant("from", [0], np.int64), constant("to", [1], np.int64), constant("axis", [2], np.int64), constant("column", [-1, 1], np.int64)],
        metadata={"genba.features": ["a", "b"]},
    )  # fmt: skip
    values = polls([[0.25, 0.75]])
    assert rows(build(file, inputs=["t0", "t1"]).update(values, 0))[0]["score"] == 0.25
    assert rows(build(file, inputs=["t1", "t0"]).update(values, 0))[0]["score"] == 0.75
    assert rows(build(file, inputs={"b": "t0", "a": "t1"}).update(values, 0))[0]["score"] == 0.75
    assert rows(build(file, inputs={"a": "press-0/t0", "b": "osaka/press-0/t1"}).update(values, 0))[0]["score"] == 0.25
    with pytest.raises(ConfigError, match=r"it has no tag for b and .*first\.onnx has no column c"):
        build(file, inputs={"a": "t1", "c": "t0"})
    with pytest.raises(ConfigError, match=r"none of the tags is called a or b"):
        build(file, inputs=[])


def test_a_pause_empties_the_window_and_a_missing_tag_makes_no_score(tmp_path: Path) -> None:
    model = build(mean_graph(tmp_path / "m.onnx", window=2), max_gap="10s", lateness="2s")
    assert [row["score"] is None for row in rows(model.update(polls([[20, 20]] * 3), 0))] == [True, False, False]
    after = rows(model.update(polls([[20, 20]] * 3, first=3, gap_us=60_000_000), 0))
    assert [row["score"] is None for row in after] == [True, False, False]
    alone = readings([0] * 12, [20.0] * 12, T0 + 100_000_000 + np.arange(12) * POLL_US, first_seq=100)
    assert rows(model.update(alone, 0))[-1]["score"] is None
    takes_nan = build(mean_graph(tmp_path / "m.onnx", window=2), missing="nan", lateness="2s")
    nodes = [helper.make_node("IsNaN", ["rows"], ["is"]), helper.make_node("Cast", ["is"], ["score"], to=FLOAT)]
    file = save(tmp_path / "nan.onnx", nodes, {"rows": (FLOAT, ["batch", 2])}, {"score": (FLOAT, ["batch", 2])})
    takes_nan = build(file, missing="nan", lateness="2s")
    assert rows(takes_nan.update(alone, 0))[-1]["score"] == 1.0


def test_few_rows_are_enough_where_the_entry_says_so(tmp_path: Path) -> None:
    model = build(mean_graph(tmp_path / "m.onnx", window=4), min_rows=2)
    told = rows(model.update(polls([[22, 22], [26, 26]]), 0))
    assert told[0]["score"] is None
    assert told[1]["score"] == pytest.approx(1 / (1 + np.exp(-1.0)), abs=1e-6)  # 22 stands for the two that are missing


def test_a_calibrated_output_is_unusual_by_its_own_past(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(500, 3, (2400, 2))
    values[2300:2305] += 40
    model = build(mean_graph(tmp_path / "m.onnx", window=1), output="mean", score="calibrated", worse="both")
    told = rows(model.update(polls(values), 0))
    assert [row["score"] for row in told[:100]] == [None] * 100
    assert all(row["score"] >= row["limit"] == 0.999999 for row in told[2300:2305])
    usual = np.array([row["score"] for row in told[200:2300]])
    assert (usual >= 0.999999).sum() == 0
    assert 0.003 < (usual >= 0.99).mean() < 0.03  # one in a hundred is as unusual as one in a hundred
    assert told[2300]["value"] == pytest.approx(values[2300].mean(), abs=1e-3)


def test_an_answer_that_is_no_score_is_none(tmp_path: Path) -> None:
    file = mean_graph(tmp_path / "m.onnx", window=1)
    assert rows(build(file, output="mean").update(polls([[20, 20]]), 0))[0]["score"] is None
    nodes = [helper.make_node("Log", ["rows"], ["score"])]
    logs = save(tmp_path / "log.onnx", nodes, {"rows": (FLOAT, ["batch", 2])}, {"score": (FLOAT, ["batch", 2])})
    told = rows(build(logs).update(polls([[1, -1], [1, 0], [1, 1.5]]), 0))
    assert [row["score"] for row in told] == [None, None, pytest.approx(np.log(1.5), abs=1e-6)]


def refused(file: Path, **options: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        build(file, **options)
    assert caught.value.hint
    assert caught.value.where.startswith("models.watch.")
    return caught.value


def test_a_file_that_does_not_fit_is_named_with_the_way_out(tmp_path: Path) -> None:
    three = mean_graph(tmp_path / "three.onnx", window=3, inputs=3)
    error = refused(three)
    assert "rows: float[batch, 3, 3]" in str(error)
    assert "a window of 3 rows of 2 tags" in str(error)
    assert "a window of 5 rows" in str(refused(mean_graph(tmp_path / "w.onnx", window=3), window=5))
    assert refused(tmp_path / "none.onnx").where == "models.watch.file"
    assert "no output other" in str(refused(mean_graph(tmp_path / "ok.onnx"), output="other"))
    assert "has 2 outputs" in str(refused(mean_graph(tmp_path / "two.onnx"), output=None))
    whole = save(
        tmp_path / "int.onnx", [helper.make_node("Identity", ["rows"], ["score"])], {"rows": (TensorProto.INT64, ["batch", 2])},
        {"score": (TensorProto.INT64, ["batch", 2])},
    )  # fmt: skip
    assert "wants rows: int64[batch, 2]" in str(refused(whole))
    many = save(
        tmp_path / "many.onnx",
        [helper.make_node("Identity", ["rows"], ["score"])],
        {"rows": (FLOAT, [64, 2])},
        {"score": (FLOAT, [64, 2])},
    )
    assert "64 rows at once" in str(refused(many))
    pair = save(
        tmp_path / "pair.onnx", [helper.make_node("Add", ["a", "b"], ["score"])], {"a": (FLOAT, ["batch", 2]), "b": (FLOAT, ["batch", 2])},
        {"score": (FLOAT, ["batch", 2])},
    )  # fmt: skip
    assert "takes 2 inputs" in str(refused(pair))
    assert "no column 3" in str(refused(mean_graph(tmp_path / "c.onnx"), output="score", column=3))
    assert "press-0 has no t2" in str(refused(three, per_asset=2, inputs=["t0", "t1", "t2"]))
    assert "is named twice" in str(refused(three, inputs=["t0", "t0", "t1"]))


def broken(model: Any) -> None:
    model.opset_import.add(domain="com.acme", version=1)


def outside(model: Any) -> None:
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (lambda ok: b"", "no ONNX model"),
        (lambda ok: b"\x89PNG\r\n\x1a\n" + bytes(100), "no ONNX model"),
        (lambda ok: b"<html>not found</html>", "no ONNX model"),
        (lambda ok: ok[: len(ok) // 2], "no ONNX model"),
    ],
)
def test_what_is_no_onnx_is_said_to_be_none(tmp_path: Path, data: Callable[[bytes], bytes], said: str) -> None:
    whole = mean_graph(tmp_path / "ok.onnx").read_bytes()
    file = tmp_path / "bad.onnx"
    file.write_bytes(data(whole))
    assert said in str(refused(file))


def test_bytes_of_all_kinds_are_read_or_refused_and_never_more(tmp_path: Path) -> None:
    whole = mean_graph(tmp_path / "ok.onnx").read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(2000):
        spoilt = bytearray(whole[: int(rng.integers(1, len(whole) + 1))])
        spoilt[int(rng.integers(len(spoilt)))] ^= 1 << int(rng.integers(8))
        try:
            describe(bytes(spoilt))
        except NotOnnx:
            continue


def test_what_only_the_runtime_can_know_is_an_error_with_the_way_out(tmp_path: Path) -> None:
    assert "com.acme" in str(refused(mean_graph(tmp_path / "a.onnx", change=broken)))
    assert "weights lie in another file" in str(refused(mean_graph(tmp_path / "b.onnx", change=outside)))
    future = build(
        mean_graph(tmp_path / "new.onnx", window=1, opset=17, change=lambda model: setattr(model.opset_import[0], "version", 99))
    )
    with pytest.raises(ConfigError, match=r"does not take .*new\.onnx") as caught:
        future.update(polls([[20, 20]]), 0)
    assert "older operator set" in caught.value.hint


def test_the_account_of_a_file_is_that_of_the_onnx_package(tmp_path: Path) -> None:
    file = mean_graph(tmp_path / "m.onnx", metadata={"genba.window": "3", "who": "acme"})
    said, whole = describe(file.read_bytes()), onnx_files.load(file)
    assert [value.name for value in said.inputs] == [value.name for value in whole.graph.input]
    assert [value.name for value in said.outputs] == [value.name for value in whole.graph.output]
    assert said.inputs[0].shape == ("batch", 3, 2)
    assert said.opsets == {"": 17}
    assert said.metadata == {"genba.window": "3", "who": "acme"}


def test_a_state_learnt_with_another_file_is_refused(tmp_path: Path) -> None:
    state = build(mean_graph(tmp_path / "a.onnx")).snapshot()
    build(mean_graph(tmp_path / "a.onnx")).restore(state)
    with pytest.raises(StateMismatch):
        build(mean_graph(tmp_path / "b.onnx", level=30.0)).restore(state)


def test_each_row_has_its_answer_whatever_rows_are_beside_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["rows", "w"], ["h"]),
        helper.make_node("Tanh", ["h"], ["t"]),
        helper.make_node("MatMul", ["t", "v"], ["score"]),
    ]
    file = save(
        tmp_path / "mlp.onnx", nodes, {"rows": (FLOAT, ["batch", 40])}, {"score": (FLOAT, ["batch", 1])},
        [constant("w", rng.normal(0, 1, (40, 64))), constant("v", rng.normal(0, 0.1, (64, 1)))],
    )  # fmt: skip
    stream = polls(rng.normal(0, 1, (300, 2)))
    options: dict[str, Any] = {"window": 20, "score": "calibrated"}
    whole = [row["value"] for row in rows(build(file, **options).update(stream, 0))]
    model = build(file, **options)
    single = [row["value"] for at in range(stream.num_rows) for row in rows(model.update(stream.slice(at, 1), 0))]
    assert single == whole


def transitions(file: Path, values: object, site: SiteAlarms | None = None, **alarm: Any) -> list[tuple[str, str, str]]:
    """Name of the asset, transition and problem of each alert of a set with one `onnx` over two presses of two tags."""
    options = {
        "kind": "onnx",
        "tags": ["**"],
        "file": str(file),
        "every": "500ms",
        "inputs": NAMES[:2],
        "output": "score",
        "alarm": alarm,
    }
    tags = [make_tag(tag, name=f"t{tag % 2}", asset=f"acme/osaka/press-{tag // 2}", limits=None) for tag in range(4)]
    models = ModelSet.build({"watch": onnx.OnnxConfig.model_validate(options)}, tags, lambda _: onnx.PLUGIN, site)
    out = models.update(polls(np.repeat(np.asarray(values, dtype=np.float64), 2, axis=1)), T0)
    told = [row for batch in out.alerts for row in batch.to_pylist()]
    assert all(row["contributions"] is None and row["tag"] is None for row in told)
    return [(row["asset"].rpartition("/")[2], row["transition"], row["problem"]) for row in told]


def test_its_alarms_are_those_of_the_one_alarm_layer(tmp_path: Path) -> None:
    file = mean_graph(tmp_path / "m.onnx", window=1)
    calm, high, higher = [20.0, 20.0], [25.0, 20.0], [60.0, 20.0]  # scores of 0.12, 0.95, 1.0
    ((asset, transition, problem),) = transitions(file, [calm, high])
    assert (asset, transition) == ("press-0", "raised")
    assert problem.startswith("press-0 is unusual, its score is 0.9526 of 1 (unsigned ")
    assert re.search(r"m\.onnx, sha256:[0-9a-f]{12}\)$", problem)

    def short(values: object, site: SiteAlarms | None = None, **alarm: Any) -> list[tuple[str, str]]:
        return [(asset, transition) for asset, transition, _ in transitions(file, values, site, **alarm)]

    assert short([high, calm, high, calm], count="3 of 4") == []
    assert short([high, calm, high, high], count="3 of 4") == [("press-0", "raised")]
    assert short([high, calm, high, calm], peak_first="1m") == [
        ("press-0", "raised"),
        ("press-0", "cleared"),
        ("press-0", "suppressed"),
    ]
    assert short([high, calm, higher], peak_first="1m")[-1] == ("press-0", "raised")
    flooded = short([high, [25.0, 25.0]], SiteAlarms(flood=1))
    assert sorted(flooded) == [("osaka", "raised"), ("press-0", "raised"), ("press-1", "suppressed")]


class _Conformance(ModelConformance):
    plugin = onnx.PLUGIN
    kind = "onnx"
    row_per_reading = False
    most_bytes_per_tag = 200
    file: Path

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.file = mean_graph(tmp_path / "m.onnx", window=3, inputs=TAGS)

    def model(self, tags: Sequence[int] = range(TAGS), **options: Any) -> EdgeModel:
        return build(
            self.file, tags, per_asset=TAGS,
            **{"warm_up": f"{self.warm_up_us / 1e6:g}s", **self.options, **options},
        )  # fmt: skip

    def test_each_reading_of_a_watched_tag_has_one_row_in_order(self) -> None:
        found = pa.Table.from_batches(self.run([plain_stream()]))
        assert found.num_rows == 120
        assert found.column("tag").null_count == 120
        assert found.column("seq").to_pylist() == list(range(TAGS - 1, 120 * TAGS, TAGS))

    def test_the_order_of_tags_within_a_poll_changes_nothing(self) -> None:
        stream, rng = plain_stream(), np.random.default_rng(1)
        order = np.concatenate([poll * TAGS + rng.permutation(TAGS) for poll in range(stream.num_rows // TAGS)])
        assert [row["score"] for row in rows(self.run([renumbered(stream.take(pa.array(order)))]))] == [
            row["score"] for row in rows(self.run([stream]))
        ]

    def test_tags_may_appear_and_vanish_over_a_restart(self) -> None:
        old = self.model([*range(TAGS), *range(TAGS, 2 * TAGS)])
        stream = plain_stream(polls=200, tags=2 * TAGS)
        self.run([stream.slice(0, 1200)], old)
        new = self.model([*range(TAGS, 2 * TAGS), *range(3 * TAGS, 4 * TAGS)])  # one asset stays, one is gone, one is new
        new.restore(old.snapshot())

        def of(model: EdgeModel, asset: str) -> list[Any]:
            return [row["score"] for row in rows(self.run([stream.slice(1200)], model)) if row["asset"] == f"acme/osaka/{asset}"]

        assert of(new, "press-1") == of(old, "press-1") != []

    def test_a_clock_set_back_blinds_it_for_ten_readings_at_most(self) -> None:
        model = self.model()
        self.run([plain_stream()], model)
        after = plain_stream(seed=8)
        shift = pa.array(after.column("time").view(pa.int64()).to_numpy() - 3_600_000_000).view(pa.timestamp("us", tz="UTC"))
        back = renumbered(after.set_column(0, after.schema.field(0), shift), 10_000)
        found = pa.Table.from_batches(self.run([back], model))
        assert found.num_rows >= 109
        assert found.slice(20).column("score").null_count == 0

    def test_a_million_rows_in_one_batch(self) -> None:
        tags, count = 1_200, 10
        rng = np.random.default_rng(0)
        ids = np.tile(np.arange(tags, dtype=np.int32), count)
        time = np.repeat(T0 + np.arange(count) * POLL_US, tags)
        values = rng.normal(20, 1, tags * count)
        batch = with_seq(telemetry(time_us=time, tag=ids, value=values, quality=np.zeros(tags * count, np.uint32)), 0)
        found = self.run([batch], self.model(range(tags)))
        assert sum(one.num_rows for one in found) == tags // TAGS * count


class TestOnnxDirect(_Conformance):
    pass


class TestOnnxCalibrated(_Conformance):
    options: ClassVar[dict[str, Any]] = {"output": "mean", "score": "calibrated"}

    def test_scores_are_null_until_warm_and_between_0_and_1(self) -> None:
        told = rows(self.run([plain_stream(polls=300)]))
        assert [row["score"] for row in told[:100]] == [None] * 100
        assert all(0 <= row["score"] <= 1 for row in told[150:])

    def test_it_survives_extremes_and_goes_on(self) -> None:
        model = self.model()
        self.run([plain_stream()], model)
        extremes = [np.nan, np.inf, -np.inf, 1e99, -1e99, 5e-324, -0.0, 1e-300, 0.0]
        wild = readings([0] * len(extremes), extremes, T0 + 10**9 + np.arange(len(extremes)) * POLL_US, first_seq=10_000)
        self.run([wild], model)
        after = plain_stream(polls=400)
        time = pa.array(after.column("time").view(pa.int64()).to_numpy() + 2 * 10**9).view(pa.timestamp("us", tz="UTC"))
        told = rows(self.run([renumbered(after.set_column(0, after.schema.field(0), time), 20_000)], model))
        assert None not in [row["score"] for row in told[200:]]

    def test_a_clock_set_back_blinds_it_for_ten_readings_at_most(self) -> None:
        pytest.skip("as for a direct score, behind a calibration that needs a hundred rows")
