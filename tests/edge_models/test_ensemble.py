"""`ensemble`: what its members say of a reading becomes one score and one alarm."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from pydantic import ValidationError

from edge_models import drift, ensemble, envelope, forecast_residual
from edge_models.base import ModelContext
from edge_models.runtime import ModelSet
from tests.conformance.model import POLL_US, T0, make_tag, plain_stream, readings

PLUGINS: dict[str, Any] = {
    "forecast_residual": forecast_residual.PLUGIN,
    "drift": drift.PLUGIN,
    "envelope": envelope.PLUGIN,
    "ensemble": ensemble.PLUGIN,
}
THREE = ("forecast_residual", "drift", "envelope")


def built(kind: str, **options: Any) -> Any:
    plugin = PLUGINS[kind]
    config = plugin.config.model_validate({"kind": kind, "warm_up": "10s", **options})
    return plugin.build(config, ModelContext("m", [make_tag(0)]))


def scored(model: Any, batch: pa.RecordBatch) -> npt.NDArray[np.float64]:
    found: npt.NDArray[np.float64] = model.update(batch, 0)[0].column("score").to_numpy(zero_copy_only=False)
    return found


def stream(value: npt.NDArray[np.float64]) -> pa.RecordBatch:
    return readings(np.zeros(len(value), np.int32), value, T0 + np.arange(len(value)) * POLL_US)


def stepped(seed: int = 0, size: float = 8.0, n: int = 2000) -> npt.NDArray[np.float64]:
    value = np.random.default_rng(seed).normal(20, 1, n)
    value[n - 100 :] += size
    return value


def test_the_harmonic_mean_of_probabilities_worked_out_by_hand() -> None:
    """1e-8 alone among three counts as three times as likely; seen by all three it counts as it is."""
    model = built("ensemble", min_samples=1)
    alone, together = 3 / (1e8 + 1 + 1), 3 / (1e8 + 1e8 + 1e8)
    evidence = -np.log(np.array([alone, together, 0.5]))
    found = model._tail(stream_of(3), evidence)
    assert 1 - found == pytest.approx([alone, together, 0.5], rel=1e-6)
    assert 1 - found[0] == pytest.approx(3e-8, rel=1e-6)


def stream_of(n: int) -> Any:
    from edge_models.slots import decode

    return decode(stream(np.zeros(n)))


def test_each_score_is_that_of_the_members_put_together() -> None:
    batch = stream(stepped())
    each = np.stack([scored(built(kind, min_samples=30), batch) for kind in THREE])
    found = scored(built("ensemble", min_samples=1, members={kind: {"min_samples": 30} for kind in THREE}), batch)
    likely = 1 - each
    expected = 3 / np.sum(1 / np.maximum(likely, 1e-16), axis=0)
    known = ~np.isnan(found)
    assert known.sum() > 1900
    # Its own tail is as long as it must be, never shorter: a score is never above what the members justify.
    assert (1 - found[known] >= expected[known] * (1 - 1e-6)).all()
    assert (1 - found[known] >= likely[:, known].min(axis=0) * (1 - 1e-6)).all()
    before = np.flatnonzero(known)[0]
    assert 1 - found[before] == pytest.approx(expected[before])


def test_a_fault_is_one_alarm_and_not_three() -> None:
    def alarms(**entries: Any) -> list[str]:
        configs = {
            name: PLUGINS[entry["kind"]].config.model_validate({"tags": ["**"], "warm_up": "10s", **entry})
            for name, entry in entries.items()
        }
        made = ModelSet.build(configs, [make_tag(0, limits=None)], PLUGINS.__getitem__)
        out = made.update(stream(stepped(size=15.0)), 0)
        return [row["problem"] for batch in out.alerts for row in batch.to_pylist() if row["transition"] == "raised"]

    assert len(alarms(**{kind: {"kind": kind} for kind in THREE})) == 3
    (said,) = alarms(all={"kind": "ensemble"})
    assert " is unusual: " in said
    assert ", normally " in said
    assert ", by " in said


def test_an_abnormal_row_names_the_shares_of_its_members() -> None:
    (rows,) = built("ensemble").update(stream(stepped(size=15.0)), 0)
    score = rows.column("score").to_numpy(zero_copy_only=False)
    because = rows.column("contributions").to_pylist()
    assert [one is not None for one in because] == (score >= 0.999999).tolist()
    told = [json.loads(one) for one in because if one is not None]
    assert told
    assert all(set(one) == set(THREE) and sum(one.values()) == pytest.approx(1.0, abs=0.002) for one in told)


def test_a_tag_with_outliers_of_its_own_needs_larger_ones() -> None:
    rng = np.random.default_rng(3)
    calm, wild = built("ensemble", members={"forecast_residual": {}}), built("ensemble", members={"forecast_residual": {}})
    noise = rng.normal(20, 1, 6000)
    outliers = np.where(rng.random(6000) < 0.005, rng.normal(0, 12, 6000), 0.0)
    scored(calm, stream(noise))
    scored(wild, stream(noise + outliers))
    assert wild.state["excess"][0] > 1.5 * calm.state["excess"][0] >= 1.5


def test_a_state_whose_member_cannot_be_taken_back_changes_nothing() -> None:
    old = built("ensemble", members={"drift": {"memory": 500}})
    scored(old, plain_stream(tags=1))
    new = built("ensemble", members={"drift": {"memory": 600}})
    before = new.snapshot()
    with pytest.raises(Exception, match="parameters"):
        new.restore(old.snapshot())
    assert new.snapshot() == before
    with pytest.raises(Exception, match="parameters"):
        built("ensemble").restore(old.snapshot())


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"stuck": {}}, "'stuck' cannot be a member; there are forecast_residual, drift, envelope, novelty, shape"),
        ({"drift": {"tags": ["**"]}}, "drift: `tags` stands at the ensemble"),
        ({"drift": {"treshold": 3}}, "drift.treshold: "),
        ({"drift": {"threshold": -3}}, "it has forget_after, memory, min_samples, of, slack, threshold"),
    ],
)
def test_mistakes_in_members_are_told(members: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        built("ensemble", members=members)
    assert says in str(caught.value)
