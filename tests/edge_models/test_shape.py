"""An odd shape within the usual range is found where limits and forecasts see nothing; a cycle that repeats is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import ValidationError

from edge_models import envelope, forecast_residual
from edge_models.base import ModelContext, ScoreRow
from edge_models.shape import PLUGIN
from schemas import quality as q
from tests.conformance.model import T0, make_tag, readings

S = 1_000_000
CYCLE = 50
LIMIT = 0.999999
Numbers = npt.NDArray[np.float64]


def model_of(plugin: Any = PLUGIN, kind: str = "shape", tags: int = 1, **options: Any) -> Any:
    config = plugin.config.model_validate({"kind": kind, "warm_up": "0s", **options})
    return plugin.build(config, ModelContext("m", [make_tag(tag, period_us=S, limits=None) for tag in range(tags)]))


def scores(model: Any, value: Numbers, *, first: int = 0, quality: object = 0, skip: Sequence[int] = ()) -> Numbers:
    """Scores of one tag read once a second; NaN is null. Readings of `skip` never come."""
    keep = np.setdiff1d(np.arange(len(value)), skip)
    codes = np.broadcast_to(np.asarray(quality, np.uint32), (len(value),))[keep]
    batch = readings(np.zeros(len(keep), np.int32), value[keep], T0 + (first + keep) * S, first_seq=first, quality=codes)
    found = np.full(len(value), np.nan)
    found[keep] = model.update(batch, T0)[0].column("score").to_numpy(zero_copy_only=False)
    return found


def cycles(n: int, seed: int, noise: float = 0.1) -> Numbers:
    """A press that goes through the same cycle again and again, at a slightly varying pace."""
    rng = np.random.default_rng(seed)
    turn = np.cumsum(rng.normal(1.0, 0.05, n)) / CYCLE * 2 * np.pi
    return np.asarray(10 + np.sin(turn) + 0.4 * np.sin(2 * turn + 1) + rng.normal(0, noise, n))


def odd(seed: int) -> Numbers:
    """As long and not as high as any cycle, but it goes up and down three times."""
    noise = np.random.default_rng(seed).normal(0, 0.05, CYCLE)
    return np.asarray(10 + 0.7 * np.sin(np.arange(CYCLE) / CYCLE * 6 * np.pi) + noise)


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.2])
def test_an_odd_shape_within_the_range_is_found_within_a_window(noise: float) -> None:
    value = cycles(2400, 1, noise)
    at = 2000
    value[at : at + CYCLE] = cycles(CYCLE, 2, noise)[::-1]
    found = scores(model_of(), value)
    assert np.nanmax(found[:at]) < LIMIT
    assert (found[at : at + 2 * CYCLE] >= LIMIT).any()
    assert np.nanmax(found[at + 2 * CYCLE + 10 :]) < LIMIT


def test_neither_the_range_nor_a_forecast_sees_that_shape() -> None:
    """The control: other models over the same readings, so that this one is needed."""
    value = cycles(2400, 1)
    value[2000 : 2000 + CYCLE] = odd(2)
    assert value[:2000].min() <= value[2000 : 2000 + CYCLE].min()
    assert value[2000 : 2000 + CYCLE].max() <= value[:2000].max()
    for plugin, kind in ((envelope.PLUGIN, "envelope"), (forecast_residual.PLUGIN, "forecast_residual")):
        found = scores(model_of(plugin, kind), value)
        assert np.nanmax(found[2000 : 2000 + 2 * CYCLE]) < LIMIT


def test_cycles_that_repeat_noise_and_wandering_raise_nothing() -> None:
    rng = np.random.default_rng(0)
    n, tags = 1800, 12
    value = np.concatenate(
        [
            np.stack([cycles(n, seed) for seed in range(6)]), rng.normal(5, 1, (3, n)), np.cumsum(rng.normal(0, 1, (2, n)), axis=1),
            np.full((1, n), 7.0),
        ]
    )  # fmt: skip
    batch = readings(np.tile(np.arange(tags, dtype=np.int32), n), value.T.ravel(), T0 + np.repeat(np.arange(n), tags) * S)
    found = model_of(tags=tags).update(batch, T0)[0].column("score").to_numpy(zero_copy_only=False).reshape(n, tags)
    assert np.isfinite(found[500:]).all()
    assert np.nanmax(found) < LIMIT


def test_a_machine_that_stands_still_is_no_shape_blown_up_to_full_height() -> None:
    rng = np.random.default_rng(0)
    value = np.concatenate([cycles(1000, 3), 10 + rng.normal(0, 0.01, 300), cycles(500, 4), 10 + rng.normal(0, 0.01, 300)])
    found = scores(model_of(accept_after="2m"), value)
    assert (found[1040:1150] >= LIMIT).any()  # it is something new
    assert np.nanmax(found[1860:]) < LIMIT  # the second time the machine stands it is known


def test_an_odd_shape_is_not_learnt_until_it_has_gone_on_for_long() -> None:
    value = np.concatenate([cycles(1500, 1), np.tile(odd(2), 30)]) + np.random.default_rng(9).normal(0, 0.05, 3000)
    never = scores(model_of(accept_after="0s"), value)
    assert (never[1600:] >= LIMIT).mean() > 0.9
    soon = scores(model_of(accept_after="5m"), value)
    assert (soon[1560:1780] >= LIMIT).mean() > 0.9
    assert np.nanmax(soon[2200:]) < LIMIT


@pytest.mark.parametrize("how", ["bad", "missing", "not a number"])
def test_a_reading_that_is_not_there_breaks_the_window(how: str) -> None:
    value, at = cycles(1200, 5), 1000
    quality = np.zeros(1200, np.uint32)
    if how == "bad":
        quality[at] = q.BAD_SENSOR_FAILURE
    elif how == "not a number":
        value[at] = np.nan
    found = scores(model_of(), value, quality=quality, skip=[at] if how == "missing" else [])
    assert np.isnan(found[at : at + CYCLE]).all()
    assert np.isfinite(found[at + CYCLE : at + CYCLE + 1]).all()
    assert np.nanmax(found) < LIMIT
    assert np.isfinite(scores(model_of(max_gap="3s"), value, quality=quality, skip=[at] if how == "missing" else [])[at + 1])


def test_the_history_before_a_break_still_counts() -> None:
    """A tag whose windows break often has a history all the same, with seams that no stretch spans."""
    value = cycles(3000, 6)
    lost = list(range(110, 3000, 110))
    found = scores(model_of(), value, skip=lost)
    assert np.isfinite(found[2000:]).any()
    value[2586 : 2586 + CYCLE] = odd(3)
    assert (scores(model_of(), value, skip=lost)[2586:2640] >= LIMIT).any()


def test_tags_of_a_poll_do_not_see_one_another() -> None:
    both = np.stack([cycles(1500, 7), cycles(1500, 8)])
    both[1, 1200 : 1200 + CYCLE] = odd(4)
    model = model_of(tags=2)
    batch = readings(np.tile(np.array([0, 1], np.int32), 1500), both.T.ravel(), T0 + np.repeat(np.arange(1500), 2) * S)
    found = model.update(batch, T0)[0].column("score").to_numpy(zero_copy_only=False).reshape(1500, 2)
    for tag in range(2):
        assert found[:, tag].tobytes() == scores(model_of(), both[tag]).tobytes()


def test_distance_is_that_of_the_definition() -> None:
    """Against brute force: the smallest z-normalised Euclidean distance over all stretches that do not overlap the window."""
    rng = np.random.default_rng(3)
    value = rng.normal(0, 1, 120)
    model = model_of(window=10, history=200, every=1, flat=0.0, min_samples=16)
    for k in range(120):
        scores(model, value[k : k + 1], first=k)
    z = [(part - part.mean()) / part.std() for part in (value[k : k + 10] for k in range(111))]
    nearest = min(float(np.linalg.norm(z[110] - z[k])) for k in range(101))
    assert model._distance(0) == pytest.approx(nearest / np.sqrt(20), rel=1e-9)


def test_a_history_too_short_for_the_window_is_refused() -> None:
    with pytest.raises(ValidationError, match="too short for shapes of 100"):
        PLUGIN.config(kind="shape", window=100, history=300)


def test_it_explains_itself() -> None:
    row = ScoreRow("m", T0, None, 0.8, 1.0, LIMIT, float("nan"), float("nan"))
    assert model_of().problem(make_tag(0, label="Press force"), row) == (
        "Press force has run through a shape in its last 50 readings that is unlike its last 1000"
    )
