"""What `envelope` takes for a new range, how often it is wrong on normal data, and what it says."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from edge_models.base import ModelContext, ScoreRow
from edge_models.envelope import PLUGIN
from tests.conformance.model import POLL_US, T0, make_tag, readings


def scores(values: npt.NDArray[np.float64], **options: object) -> npt.NDArray[np.float64]:
    """The scores of many tags, one a column; null is NaN."""
    polls, tags = values.shape
    model = PLUGIN.build(
        PLUGIN.config.model_validate({"kind": "envelope", "warm_up": "0s", **options}),
        ModelContext("m", [make_tag(tag) for tag in range(tags)]),
    )
    time = np.repeat(T0 + np.arange(polls) * POLL_US, tags)
    batch = readings(np.tile(np.arange(tags, dtype=np.int32), polls), values.ravel(), time)
    (found,) = model.update(batch, T0)
    return np.asarray(found.column("score").to_numpy(zero_copy_only=False)).reshape(polls, tags)


@pytest.mark.parametrize("seed", [11, 12])
def test_the_score_is_one_minus_the_tail_probability_on_normal_data(seed: int) -> None:
    """Among 2 million Gaussian readings scores beyond 1 − p are about p of them, and never more than three times as many."""
    found = scores(np.random.default_rng(seed).normal(20, 2, (1000, 2000)))[50:]
    for p in (1e-3, 1e-4, 1e-5):
        share = float((found >= 1 - p).mean())
        assert share <= 3 * p
    assert float((found >= 1 - 1e-3).mean()) > 1e-4  # and it is not silent either
    assert (found >= 1 - 1e-6).sum() <= 6


def test_a_heavy_tailed_tag_is_told_by_its_own_excursions() -> None:
    laplace = scores(np.random.default_rng(3).laplace(0, 1, (1000, 1000)))[50:]
    assert float((laplace >= 1 - 1e-5).mean()) < 1e-4


def test_a_new_range_is_found_and_followed_in_time() -> None:
    values = np.random.default_rng(1).normal(20, 1, (3000, 8))
    values[1000:] += 15
    found = scores(values)
    assert (found[1000] >= 0.999999).all()
    assert (found[1001:1050] >= 0.999999).mean() > 0.9  # it lasts, so that delays and off-delays can work with it
    assert (found[2500:] < 0.999999).all()  # and the new range is the normal one at last


def test_a_constant_tag_is_novel_with_its_first_other_value_and_a_quantised_one_is_not() -> None:
    values = np.full((300, 2), 7.0)
    values[200:, 0] = 8.0
    values[:, 1] = np.random.default_rng(2).integers(5, 9, 300)
    values[200, 1] = 9.0
    found = scores(values)
    assert found[200, 0] >= 0.999999
    assert found[200, 1] < 0.999999


def test_a_range_that_is_not_used_any_more_is_forgotten() -> None:
    rng = np.random.default_rng(5)
    values = np.concatenate([rng.normal(0, 10, (300, 4)), rng.normal(0, 1, (6000, 4)), np.full((1, 4), 25.0)])
    assert (scores(values, memory=1000)[-1] >= 0.999999).all()
    assert (scores(values, memory=10**9)[-1] < 0.999999).all()


def test_it_says_by_how_much() -> None:
    model = PLUGIN.build(PLUGIN.config(kind="envelope"), ModelContext("m", []))
    row = ScoreRow("m", T0, None, 9.5, 1.0, 0.999999, 2.0, 8.0)
    assert model.problem(make_tag(0, label="Spindle vibration"), row) == (  # type: ignore[attr-defined]
        "Spindle vibration is 9.5 mm/s, outside the range in which it has been, by 25 % of it: 2 to 8 mm/s"
    )
