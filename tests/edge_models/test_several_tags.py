"""What holds for every model over several tags of an asset: bound by name, aligned with a stated lateness, gated by the state of its asset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from edge_models import multivariate, onnx, remaining_life
from edge_models.runtime import ModelSet
from schemas.kinds import SCORE
from schemas.tags import Tag
from tests.conformance.model import POLL_US, T0, make_tag, readings

from .graphs import mean_graph
from .test_remaining_life import CONFORMAL

NAMES = ("force", "current", "mode")
POLLS = 400
KINDS: dict[str, Any] = {
    "multivariate": multivariate.PLUGIN, "onnx": onnx.PLUGIN, "remaining_life": remaining_life.PLUGIN,
}  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    "multivariate": {"warm_up": "60s", "smoothing": 1},
    "onnx": {"score": "calibrated", "output": "mean", "worse": "both"},
    "remaining_life": {},
}

Build = Callable[..., ModelSet]


@pytest.fixture(params=list(KINDS))
def build(request: pytest.FixtureRequest, tmp_path: Path) -> Build:
    """A set with one model over `force` and `current` of two presses."""
    kind = str(request.param)
    options: dict[str, Any] = {"kind": kind, "tags": ["**/force", "**/current"], "every": "500ms", **OPTIONS[kind]}
    if kind != "multivariate":
        metadata = {"genba.features": ["force", "current"], "genba.cap": "125", "genba.conformal": CONFORMAL.text()}
        both = kind == "onnx"
        file = mean_graph(
            tmp_path / "m.onnx", 2, 2, metadata=metadata, change=None if both else lambda model: model.graph.output.remove(model.graph.output[0]),
        )  # fmt: skip
        options["file"] = str(file)

    def built(tags: Sequence[Tag] | None = None, **further: Any) -> ModelSet:
        config = KINDS[kind].config.model_validate({**options, **further})
        return ModelSet.build({"watch": config}, presses() if tags is None else tags, lambda _: KINDS[kind])

    return built


def presses() -> list[Tag]:
    return [make_tag(n, name=NAMES[n % 3], asset=f"acme/osaka/press-{n // 3}", limits=None) for n in range(6)]


def stream(idle: Sequence[int] = (), broken: Sequence[int] = ()) -> pa.RecordBatch:
    """Polls of mode, force and current of both presses; press-0 rests in the polls `idle`, and its force is off in the polls `broken`."""
    rng = np.random.default_rng(5)
    load = np.repeat(20 + rng.normal(0, 1, (POLLS, 2, 1)), 2, axis=2) + rng.normal(0, 0.05, (POLLS, 2, 2))
    load[list(broken), 0, 0] += 40
    load[list(idle), 0] = 0.0
    mode = np.ones((POLLS, 2, 1))
    mode[list(idle), 0] = 0
    value = np.concatenate([mode, load], axis=2).reshape(POLLS, 6)
    time = np.repeat(T0 + np.arange(POLLS) * POLL_US, 6)
    return readings(np.tile(np.array([2, 0, 1, 5, 3, 4], dtype=np.int32), POLLS), value.ravel(), time)


def scores(models: ModelSet, batch: pa.RecordBatch, asset: str) -> list[tuple[int, float | None]]:
    """Poll (of the newest reading) and score of the rows of one asset."""
    out = models.update(batch, T0)
    table = pa.Table.from_batches(out.scores, SCORE)
    table = table.filter(pc.equal(table.column("asset"), f"acme/osaka/{asset}"))
    poll = (table.column("time").cast(pa.int64()).to_numpy() - T0) // POLL_US
    return list(zip(poll.tolist(), table.column("score").to_pylist(), strict=True))


def test_an_idle_asset_is_neither_scored_nor_learnt_and_the_other_one_is(build: Build) -> None:
    idle = range(200, 260)
    whole = stream(idle)
    rows = np.arange(whole.num_rows)
    without = whole.take(pa.array(rows[~(np.isin(rows // 6, idle) & np.isin(rows % 6, [1, 2]))]))
    gated, plain = build(active_when="mode == 1"), build()
    told = scores(gated, whole, "press-0")
    assert len(told) == POLLS - len(idle)
    assert told == scores(plain, without, "press-0")  # as if what came meanwhile had never come
    assert scores(build(active_when="mode == 1"), whole, "press-1") == scores(build(), whole, "press-1")
    assert sum(score is not None for _, score in told) > 150


@pytest.mark.parametrize("build", ["multivariate", "onnx"], indirect=True)
def test_its_alarm_clears_when_its_asset_falls_idle(build: Build) -> None:
    models = build(active_when="mode == 1")
    batch = stream(idle=range(350, 400), broken=range(340, 400))
    told = [
        (row["asset"], row["transition"], (row["time"].timestamp() * 1e6 - T0) // POLL_US)
        for at in range(0, batch.num_rows, 6)
        for one in models.update(batch.slice(at, 6), T0).alerts
        for row in one.to_pylist()
    ]
    assert told == [("acme/osaka/press-0", "raised", 340.0), ("acme/osaka/press-0", "cleared", 350.0)]


def test_the_order_in_which_tags_are_named_or_read_is_none_of_its_business(build: Build) -> None:
    batch = stream()
    turned = batch.take(pa.array(np.arange(batch.num_rows).reshape(POLLS, 6)[:, ::-1].ravel()))
    turned = turned.set_column(turned.schema.get_field_index("seq"), "seq", batch.column("seq"))
    expected = [score for _, score in scores(build(), batch, "press-1")]
    found = [score for _, score in scores(build(list(reversed(presses()))), turned, "press-1")]
    assert found == [score if score is None else pytest.approx(score, abs=1e-9) for score in expected]
    assert sum(score is not None for score in found) > 150


@pytest.mark.parametrize(
    ("build", "further", "patient", "strict"),
    [
        ("multivariate", {}, range(350, 360), range(0)),  # what is missing most of the time has no part in it
        ("onnx", {"score": "direct", "output": "score"}, range(350, 361), range(351, 353)),  # its window is two rows
    ],
    indirect=["build"],
)
def test_a_reading_stands_for_its_tag_as_long_as_lateness_says(
    build: Build, further: dict[str, Any], patient: range, strict: range
) -> None:
    """`force` of press-0 comes every tenth poll, five seconds apart, and is off once."""
    batch = stream(broken=[350])
    rows = np.arange(batch.num_rows)
    rare = batch.take(pa.array(rows[(rows % 6 != 1) | (rows // 6 % 10 == 0)]))

    def abnormal(lateness: str) -> list[int]:
        found = scores(build(lateness=lateness, **further), rare, "press-0")
        return [poll for poll, score in found if score is not None and score >= 0.999]

    assert abnormal("6s") == list(patient)
    assert abnormal("1s") == list(strict)
