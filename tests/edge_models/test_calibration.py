"""The calibration of an output against its own past: a score of q is reached as often as it says."""

from __future__ import annotations

import numpy as np
import pytest

from edge_models.calibration import ENOUGH, Calibration, Side


@pytest.mark.parametrize(
    ("draw", "side"), [("chisquare", "high"), ("laplace", "both"), ("exponential", "high"), ("laplace", "low")]
)
def test_a_score_is_as_rare_as_it_says(draw: str, side: Side) -> None:
    rng = np.random.default_rng(0)
    shape = (4000, 50)
    value = rng.chisquare(3, shape) if draw == "chisquare" else getattr(rng, draw)(size=shape)
    model = Calibration(50, memory=20_000, side=side, limit=0.999999)
    slots, learn = np.arange(50), np.ones(50, dtype=bool)
    score = np.array([model.score(slots, row, learn) for row in value])
    assert np.isnan(score[:ENOUGH]).all()
    late = score[1000:]
    for level, factor in ((0.99, 1.5), (0.999, 2.0), (0.9999, 4.0)):
        assert (1 - level) / factor < (late >= level).mean() < (1 - level) * factor
    assert (late >= 0.999999).mean() < 3e-5


def test_nothing_is_learnt_of_what_is_missing_or_not_to_be_learnt() -> None:
    model = Calibration(2, memory=1000, side="high", limit=0.999999)
    both = np.arange(2)
    for value in np.random.default_rng(0).normal(10, 1, 300):
        model.score(both, np.array([value, value]), np.array([True, True]))
    before = {name: array.copy() for name, array in model.arrays().items()}
    found = model.score(both, np.array([np.nan, 1e6]), np.array([True, False]))
    assert np.isnan(found[0])
    assert found[1] > 0.999999
    assert all((array == model.arrays()[name]).all() for name, array in before.items())


def test_a_number_that_never_varied_may_vary_by_a_millionth() -> None:
    model = Calibration(1, memory=1000, side="both", limit=0.999999)
    one, learn = np.arange(1), np.array([True])
    for _ in range(200):
        model.score(one, np.array([7.0]), learn)
    assert model.score(one, np.array([7.000001]), np.array([False]))[0] < 0.999
    assert model.score(one, np.array([7.1]), learn)[0] > 0.999999
