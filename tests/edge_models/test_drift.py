"""`drift` of the scatter: noise and oscillation are found although the level holds, quiet is not, and what it says."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from edge_models.base import Explains, ModelContext, ScoreRow
from edge_models.drift import PLUGIN, Drift, DriftConfig
from tests.conformance.model import POLL_US, T0, make_tag, readings

TAGS = 20


def built(**options: object) -> Drift:
    config = DriftConfig.model_validate({"kind": "drift", "warm_up": "0s", "threshold": 20, **options})
    model = PLUGIN.build(config, ModelContext("m", [make_tag(tag) for tag in range(TAGS)]))
    assert isinstance(model, Drift)
    return model


def scores(
    values: npt.NDArray[np.float64], pause_us: npt.NDArray[np.int64] | int = 0, **options: object
) -> npt.NDArray[np.float64]:
    """The scores of TAGS tags, one a column; `pause_us` is how much later than else each poll is."""
    polls = len(values)
    time = np.repeat(T0 + np.arange(polls) * POLL_US + pause_us, TAGS)
    (found,) = built(**options).update(readings(np.tile(np.arange(TAGS, dtype=np.int32), polls), values.ravel(), time), T0)
    return np.asarray(found.column("score").to_numpy(zero_copy_only=False)).reshape(polls, TAGS)


def steady(polls: int = 3000, seed: int = 5) -> npt.NDArray[np.float64]:
    """Noise of heavier tails than Gaussian around a level that holds."""
    return np.asarray(50 + np.random.default_rng(seed).standard_t(6, (polls, TAGS)))


@pytest.mark.parametrize("fault", ["noise", "oscillation"])
def test_restless_readings_are_found_though_the_level_holds(fault: str) -> None:
    values, at = steady(), np.arange(200)[:, None]
    if fault == "noise":
        values[2000:2200] += np.random.default_rng(1).normal(0, 4, (200, TAGS))
    else:
        values[2000:2200] += 3 * 1.22 * np.sin(2 * np.pi * at / 12)  # three standard deviations of the noise
    found = scores(values, of="scatter")
    assert (found[:2000] < 0.999999)[50:].all()
    assert (found[2000:2100] >= 0.999999).any(axis=0).all()
    assert (found[2600:] < 0.999999).all()  # and it is over when it is over
    assert not (scores(values)[2000:2200] >= 0.999999).any(axis=0).all()  # the level tells nothing of it


def test_quiet_readings_and_ordinary_ones_raise_nothing() -> None:
    values = steady(6000, seed=6)
    values[3000:3500] = 50 + (values[3000:3500] - 50) / 20
    assert (scores(values, of="scatter")[50:] < 0.999999).all()


@pytest.mark.parametrize(("hours", "told_again"), [(3, True), (5, False)])
def test_a_drift_before_a_long_pause_is_not_told_again_behind_it(hours: int, told_again: bool) -> None:
    values = steady(1200)
    values[1000:1100] += 5
    pause = np.where(np.arange(1200) >= 1100, hours * 3_600_000_000, 0)
    found = scores(values, pause)
    assert (found[1090:1100] >= 0.999999).all()
    assert ((found[1100] >= 0.999999) == told_again).all()
    if not told_again:
        assert (found[1100:] < 0.999999).all()
        values[1150:] += 5  # what comes behind it is
        assert (scores(values, pause)[1170:] >= 0.999999).any(axis=0).all()
        assert (scores(values, pause, forget_after="0s")[1100] >= 0.999999).all()


def test_it_says_that_the_tag_has_grown_restless() -> None:
    model = built(of="scatter")
    assert isinstance(model, Explains)
    row = ScoreRow("restless", 0, None, 53.0, 1.0, 0.999999, 46.0, 54.0)
    assert model.problem(make_tag(0, unit="bar"), row) == "press t0 has grown restless: 53 bar, normally 46 to 54 bar"
