"""`novelty` finds a course that a tag has not taken before, inside its range too, and takes what has happened once for known."""

from __future__ import annotations

import numpy as np
import pytest

from edge_models import novelty
from edge_models.base import ModelContext, ScoreRow
from tests.conformance.model import POLL_US, T0, make_tag, readings


def scores(value: np.ndarray, **options: object) -> np.ndarray:
    """value float64[n, tags] -> score float64[n, tags]; NaN until warm."""
    polls, tags = value.shape
    config = novelty.PLUGIN.config.model_validate({"kind": "novelty", "warm_up": "0s", **options})
    model = novelty.PLUGIN.build(config, ModelContext("m", [make_tag(n) for n in range(tags)]))
    found = np.full(value.shape, np.nan)
    ids = np.arange(tags, dtype=np.int32)
    for k in range(polls):
        (batch,) = model.update(readings(ids, value[k], T0 + k * POLL_US, first_seq=k * tags), 0)
        found[k] = batch.column("score").to_numpy(zero_copy_only=False)
    return found


def cycle(n: int, seed: int = 0) -> np.ndarray:
    return np.sin(np.arange(n) / 15) + np.random.default_rng(seed).normal(0, 0.02, n)


def test_a_missing_half_cycle_inside_the_range_is_new_and_the_same_again_is_not() -> None:
    value = cycle(3000)
    for start in (1565, 2507):  # the same phase, ten cycles apart
        value[start : start + 60] = value[start]
    found = scores(value[:, None])[:, 0]
    assert found[1565:1650].max() > 0.999999
    assert found[2507:2600].max() < 0.999
    elsewhere = np.r_[found[800:1550], found[1750:2500], found[2700:]]
    assert elsewhere.max() < 0.999


def test_leaving_the_range_counts_beside_the_course() -> None:
    value = cycle(1600)
    value[1500] = 1.6
    found = scores(value[:, None])[:, 0]
    assert found[1500] > 0.999999
    assert np.nanmax(found[800:1500]) < 0.999


def test_noise_of_any_kind_seldom_alarms() -> None:
    rng = np.random.default_rng(7)
    n, tags = 2500, 8
    correlated = np.zeros((n, tags))
    for k in range(1, n):
        correlated[k] = 0.95 * correlated[k - 1] + rng.normal(size=tags)
    walk = np.cumsum(rng.normal(size=(n, tags)), axis=0)
    noise = np.concatenate([rng.normal(size=(n, tags)), correlated, rng.exponential(size=(n, tags)), walk], axis=1)
    late = scores(noise)[1000:]
    assert (late >= 0.999).mean() < 2e-3
    assert (late >= 0.999999).mean() < 2e-4  # the range of a tag that is young is still growing


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e9, 1e20])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_it_does_not_hang_on_unit_or_offset(scale: float, offset: float) -> None:
    """Offsets in units of the signal; what float64 itself rounds away may differ."""
    value = cycle(600)
    value[500:540] = value[500]
    plain = scores(value[:, None], patterns=50)
    moved = scores(((value + offset) * scale)[:, None], patterns=50)
    if scale <= 1e9:
        np.testing.assert_allclose(moved, plain, atol=0.02)
    assert np.isfinite(moved[300:]).all()


def test_it_says_what_is_new() -> None:
    model = novelty.PLUGIN.build(
        novelty.PLUGIN.config.model_validate({"kind": "novelty"}), ModelContext("m", [make_tag(0, name="force")])
    )
    row = ScoreRow("novelty", T0, None, 12.0, 1.0, 0.999999, 3.0, 5.0)
    assert model.problem(make_tag(0, name="force"), row) == (  # type: ignore[attr-defined]
        "press force takes a course that it has not taken before: 12 mm/s, in the most similar one 3 to 5 mm/s"
    )
