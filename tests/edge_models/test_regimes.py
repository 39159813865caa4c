"""`multivariate` with `regimes`: a recipe that is new to a machine is learnt and told once, and raises nothing meanwhile."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from edge_models import multivariate
from edge_models.base import EdgeModel, ModelContext
from edge_models.regimes import MOST_REGIMES
from edge_models.runtime import ModelSet
from schemas import quality as q
from schemas.errors import ConfigError, StateMismatch
from schemas.kinds import kind_of
from schemas.tags import Tag
from tests.conformance.model import POLL_US, T0, by_tag, make_tag, readings
from tests.edge_models.test_multivariate import machine

RECIPE = 6
CHANGE = 1500
LIMIT = 0.999999


def tags(assets: int = 1, **recipe: Any) -> list[Tag]:
    made = []
    for at in range(assets):
        asset = f"acme/osaka/press-{at}"
        made += [make_tag(at * 7 + n, asset=asset, name=f"t{n}") for n in range(RECIPE)]
        made.append(make_tag(at * 7 + RECIPE, asset=asset, name="recipe", limits=None, unit="1", **recipe))
    return made


def build(assets: int = 1, recipe: Mapping[str, Any] | None = None, **options: Any) -> multivariate.Multivariate:
    config = multivariate.MultivariateConfig.model_validate(
        {"kind": "multivariate", "every": "500ms", "warm_up": "300s", "regimes": ["recipe"], "learn_regime": "100s", **options}
    )
    model = multivariate.PLUGIN.build(config, ModelContext("watch", tags(assets, **(recipe or {}))))
    assert isinstance(model, multivariate.Multivariate)
    return model


def plant(
    polls: int = 2400, seed: int = 3, assets: int = 1, change: int = CHANGE
) -> tuple[list[npt.NDArray[np.float64]], npt.NDArray[np.int64]]:
    """Machines that make recipe 0 and 1 in turn, and from poll `change` on recipe 2, which drives two tags elsewhere."""
    recipe = np.arange(polls) // 150 % 2
    recipe[change:] = 2
    values = [machine(polls, seed + at) for at in range(assets)]
    for one in values:
        one[:, 2] += 3.0 * (recipe == 1)
        one[recipe == 2, 0] += 10.0
        one[recipe == 2, 3] += 6.0
    return values, recipe


def rows(values: Sequence[npt.NDArray[np.float64]], recipe: npt.NDArray[Any], *, bad: Sequence[int] = ()) -> pa.RecordBatch:
    """A poll of all tags after another; the recipe comes first in each, and only when it has changed or each hundredth time."""
    polls = len(recipe)
    blocks = [np.column_stack([recipe.astype(float), one]) for one in values]
    value = np.concatenate(blocks, axis=1)
    ids = np.concatenate([[at * 7 + RECIPE, *range(at * 7, at * 7 + RECIPE)] for at in range(len(values))]).astype(np.int32)
    tag, time = np.tile(ids, polls), np.repeat(T0 + np.arange(polls) * POLL_US, len(ids))
    quality = np.zeros(value.shape, dtype=np.uint32)
    quality[list(bad), ::7] = q.BAD_SENSOR_FAILURE
    told = np.r_[True, np.diff(recipe) != 0] | (np.arange(polls) % 100 == 0)
    told[[*bad, *(at + 1 for at in bad)]] = True
    sent = np.ones(value.shape, dtype=bool)
    sent[:, ::7] = told[:, None]
    keep = sent.ravel()
    return readings(tag[keep], value.ravel()[keep], time[keep], quality=quality.ravel()[keep])


def run(model: EdgeModel, stream: pa.RecordBatch, size: int | None = None) -> tuple[list[pa.RecordBatch], list[dict[str, Any]]]:
    """SCORE batches, and the events as rows."""
    size = size or stream.num_rows
    found = [out for at in range(0, stream.num_rows, size) for out in model.update(stream.slice(at, size), 0)]
    events = [row for out in found if kind_of(out) == "event" for row in out.to_pylist()]
    return [out for out in found if kind_of(out) == "score"], events


def scores(found: Sequence[pa.RecordBatch]) -> npt.NDArray[np.float64]:
    return np.asarray(pa.Table.from_batches(found).column("score").to_numpy(zero_copy_only=False))


def test_a_new_recipe_is_learnt_and_told_once_and_raises_nothing() -> None:
    values, recipe = plant()
    found, events = run(build(), rows(values, recipe))
    score = scores(found)
    assert len(score) == 2400
    assert np.isfinite(score[700:CHANGE]).all()
    assert np.isnan(score[CHANGE : CHANGE + 199]).all()  # 100 s of 500 ms
    assert np.isfinite(score[CHANGE + 202 :]).all()
    assert (score[700:] >= LIMIT).mean() < 0.005
    (event,) = events
    assert event["event"] == "regime_new"
    assert event["asset"] == "acme/osaka/press-0"
    assert event["source"] == "watch"
    assert event["message"] == (
        "press-0 works in a regime that watch does not know yet: recipe 2; it is learnt for 1 min 40 s, and nothing is raised meanwhile"
    )
    assert json.loads(event["attributes"]) == {"regime": "recipe 2", "learn_s": 100.0}
    assert event["time"].timestamp() * 1e6 == pytest.approx(T0 + CHANGE * POLL_US)
    # Without being told of recipes it takes the new one for a fault.
    plain = build(regimes=())
    unaware = scores(
        run(plain, rows(values, recipe).filter(pa.array(rows(values, recipe).column("tag").to_numpy() != RECIPE)))[0]
    )
    assert (unaware[CHANGE + 50 : CHANGE + 199] >= LIMIT).mean() > 0.9


def test_an_event_that_was_durable_before_a_crash_is_not_told_once_more() -> None:
    config = multivariate.MultivariateConfig.model_validate(
        {
            "kind": "multivariate",
            "tags": ["**"],
            "every": "500ms",
            "warm_up": "300s",
            "regimes": ["recipe"],
            "learn_regime": "100s",
        }
    )

    def models() -> ModelSet:
        return ModelSet.build({"watch": config}, tags(), lambda _: multivariate.PLUGIN)

    def events(of: ModelSet, part: pa.RecordBatch) -> list[pa.RecordBatch]:
        return of.update(part, 0).events

    values, recipe = plant()
    stream = rows(values, recipe)
    begin = int(np.searchsorted(stream.column("time").view(pa.int64()).to_numpy(), T0 + (CHANGE - 100) * POLL_US))
    before, after = stream.slice(0, begin), stream.slice(begin)
    first = models()
    assert events(first, before) == []
    state = first.snapshot()
    told = events(first, after)
    assert [row["event"] for batch in told for row in batch.to_pylist()] == ["regime_new"]
    again, forgetful = models(), models()
    for one, durable in ((again, told), (forgetful, [])):
        assert one.restore(state) == {}
        one.replay_alerts([], events=durable)
    assert events(again, after) == []
    assert events(forgetful, after) == told  # the control


def test_a_fault_is_found_in_a_known_recipe_and_in_one_that_has_been_learnt() -> None:
    values, recipe = plant(2700)
    values[0][1100:1300, 1] += 8
    values[0][2400:2600, 1] += 8
    score = scores(run(build(), rows(values, recipe))[0])
    assert (score[1140:1300] >= LIMIT).mean() > 0.8
    assert (score[2440:2600] >= LIMIT).mean() > 0.8


def test_a_recipe_that_was_left_in_between_is_learnt_by_the_time_spent_in_it() -> None:
    values, recipe = plant()
    recipe[CHANGE + 50 : CHANGE + 250] = 0
    values[0][CHANGE + 50 : CHANGE + 250] = machine(200, 9)
    found, events = run(build(), rows(values, recipe))
    score = scores(found)
    assert np.isnan(score[CHANGE : CHANGE + 50]).all()
    assert np.isfinite(score[CHANGE + 51 : CHANGE + 250]).all()
    assert np.isnan(score[CHANGE + 250 : CHANGE + 395]).all()
    assert np.isfinite(score[CHANGE + 410 :]).all()
    assert len(events) == 1


def test_an_asset_that_is_learnt_anew_forgets_which_recipes_it_knew() -> None:
    values, recipe = [machine(2400, 3)], np.zeros(2400, dtype=np.int64)
    recipe[:200] = recipe[2200:] = 1
    values[0][700:, 1] += 8  # stays, and is accepted after 100 s
    found, events = run(build(warm_up="200s", accept_after="100s", learn_regime="90s"), rows(values, recipe))
    score = scores(found)
    assert np.isfinite(score[500:900]).all()
    assert np.isnan(score[905:1300]).all()
    assert np.isfinite(score[1400:2200]).all()
    assert np.isnan(score[2200:2375]).all()  # it knew recipe 1 once
    assert [json.loads(event["attributes"])["regime"] for event in events] == ["recipe 1"]


def test_nothing_is_scored_while_the_recipe_is_bad() -> None:
    values, recipe = plant()
    found, events = run(build(), rows(values, recipe, bad=range(1210, 1230)))
    score = scores(found)
    assert np.isnan(score[1210:1230]).all()
    assert np.isfinite(score[1231:1300]).all()
    assert len(events) == 1


@pytest.mark.parametrize("size", [5, 13, 700])
def test_however_rows_are_cut_scores_events_and_state_are_the_same(size: int) -> None:
    values, recipe = plant(700, assets=2, change=500)
    stream = rows(values, recipe)
    whole, pieces = build(2, warm_up="150s", learn_regime="50s"), build(2, warm_up="150s", learn_regime="50s")
    at_once, told = run(whole, stream)
    cut, told_too = run(pieces, stream, size)
    assert by_tag(at_once) == by_tag(cut)
    assert told == told_too
    assert len(told) == 2
    assert whole.snapshot() == pieces.snapshot()


def test_what_is_known_survives_a_restart_and_a_damaged_state_changes_nothing() -> None:
    values, recipe = plant(assets=2)
    stream = rows(values, recipe)
    cut = int(np.searchsorted(stream.column("time").view(pa.int64()).to_numpy(), T0 + (CHANGE + 80) * POLL_US))
    whole = build(2)
    expected, _ = run(whole, stream)
    first, second = build(2), build(2)
    head, told = run(first, stream.slice(0, cut))
    second.restore(first.snapshot())
    tail, again = run(second, stream.slice(cut))
    assert by_tag([*head, *tail]) == by_tag(expected)
    assert len(told) == 2
    assert not again
    before = second.snapshot()
    with pytest.raises(StateMismatch):
        second.restore(build(2, regimes=()).snapshot())
    assert second.snapshot() == before


def test_a_recipe_that_is_an_enumeration_is_named_and_one_in_words_is_a_regime_too() -> None:
    values, recipe = plant(1600)
    _, (event,) = run(build(recipe={"enum": {0: "small", 1: "large", 2: "extra"}}), rows(values, recipe))
    assert "recipe extra" in event["message"]


def test_of_too_many_values_the_first_are_regimes() -> None:
    values = [machine(700, 1)]
    recipe = np.r_[np.zeros(400, dtype=int), np.arange(300) // 2]
    found, _ = run(build(warm_up="100s", learn_regime="1s"), rows(values, recipe))
    score = scores(found)
    assert np.isnan(score[400 + 2 * MOST_REGIMES :]).all()


def test_assets_that_stay_keep_their_regimes_when_others_come_and_go() -> None:
    values, recipe = plant(700, assets=2, change=500)
    old = build(2, warm_up="150s")
    run(old, rows(values, recipe))
    before = old._regimes
    new = build(3, warm_up="150s")
    new.restore(old.snapshot())
    after = new._regimes
    assert before is not None
    assert after is not None
    known, kept = before.arrays(), after.arrays()
    for name in ("now", "before", "last", "spent", "told"):
        assert np.array_equal(kept[name][..., :2], known[name])
    assert (kept["now"][2], kept["spent"][:, 2].sum()) == (-1, 0)
    fewer = build(1, warm_up="150s")
    fewer.restore(new.snapshot())
    assert fewer._regimes is not None
    assert np.array_equal(fewer._regimes.arrays()["spent"], known["spent"][:, :1])


def test_an_asset_without_the_state_tag_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"press-0 has no tag 'product'"):
        build(regimes=["product"])
