"""Whether the intervals hold the truth as often as they say, over seeded degradations, and when it keeps silent."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edge_models.base import ModelContext, ScoreRow
from edge_models.trend_to_limit import PLUGIN
from schemas.kinds import kind_of
from schemas.tags import Limits
from tests.conformance.model import T0, make_tag, readings

S = 1_000_000
TAGS, POLLS = 40, 1500
Rows = list[dict[str, Any]]


def run(values: npt.NDArray[np.float64], **options: object) -> tuple[Rows, Rows]:
    """(SCORE rows, HEALTH rows) of tags with an upper limit of 1, read once a second."""
    polls, tags = values.shape
    model = PLUGIN.build(
        PLUGIN.config.model_validate({"kind": "trend_to_limit", "window": "640s", "warm_up": "0s", **options}),
        ModelContext("wear", [make_tag(tag, limits=Limits(high=1.0), period_us=S) for tag in range(tags)]),
    )
    time = T0 + np.repeat(np.arange(polls) * S, tags)
    found = model.update(readings(np.tile(np.arange(tags, dtype=np.int32), polls), values.ravel(), time), T0)
    scores, health = (
        [row for batch in found if kind_of(batch) == kind for row in batch.to_pylist()] for kind in ("score", "health")
    )
    return scores, health


def degradation(shape: str, seed: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Noisy values that wear from 0 to the limit and beyond, the wear without noise, and when (s) it crosses the limit."""
    rng = np.random.default_rng(seed)
    k = np.arange(POLLS)[:, None]
    start, life = rng.integers(200, 500, TAGS), rng.integers(600, 1000, TAGS)
    x = np.clip((k - start) / life, 0, None)
    if shape == "wandering":
        wear = np.cumsum(np.where(k > start, (1 + rng.normal(0, 3, (POLLS, TAGS))) / life, 0), axis=0)
    else:
        wear = {
            "steady": x, "slowing": 0.5 * x + 0.5 * np.sqrt(x), "accelerating": 0.3 * x + 0.7 * x**2, "exponential": np.expm1(2 * x) / np.expm1(2)
        }[shape]  # fmt: skip
    beyond = wear >= 1
    crossed = np.where(beyond.any(axis=0), beyond.argmax(axis=0), np.nan)
    return wear + rng.normal(0, 0.02, wear.shape), wear, crossed


@pytest.mark.parametrize("shape", ["steady", "slowing", "accelerating", "exponential", "wandering"])
def test_ninety_per_cent_of_the_intervals_hold_the_truth(shape: str) -> None:
    held, narrow, forecasts, tags = 0, 0, 0, set()
    for seed in (21, 22):
        values, _, crossed = degradation(shape, seed)
        for row in run(values)[1]:
            at = int(row["time"].timestamp()) - T0 // S
            truth = crossed[row["tag"]] - at
            if row["value"] is None or not truth > 0:
                continue
            assert row["measure"] == "time_to_limit"
            assert row["unit"] == "s"
            assert row["low"] <= row["value"]
            held += row["low"] <= truth <= (row["high"] or np.inf)
            narrow += abs(np.log(truth / row["value"])) < 0.05
            forecasts += 1
            tags.add((seed, row["tag"]))
    assert len(tags) > TAGS  # it does speak
    assert held / forecasts > 0.87
    assert narrow / forecasts < 0.8  # the control: an interval of five per cent would not hold it


def test_a_steady_wear_is_forecast_closely() -> None:
    values, _, crossed = degradation("steady", 23)
    off = [
        abs(row["value"] / (crossed[row["tag"]] - (row["time"].timestamp() - T0 // S)) - 1)
        for row in run(values)[1]
        if row["value"] is not None and crossed[row["tag"]] - (row["time"].timestamp() - T0 // S) > 20
    ]
    assert float(np.median(off)) < 0.15


def test_it_says_nothing_without_a_trend_away_from_the_limit_or_too_far_from_it() -> None:
    rng = np.random.default_rng(9)
    k = np.arange(POLLS)[:, None]
    noise = rng.normal(0, 0.02, (POLLS, 8))
    for values in (0.5 + noise, 0.9 - k / 2000 + noise, k / 100_000 + noise / 100):
        scores, health = run(values)
        assert [row for row in health if row["value"] is not None] == []
        assert {row["score"] for row in scores[400:]} == {0.0}


def test_it_says_nothing_before_its_forecasts_have_a_record() -> None:
    values, wear, crossed = degradation("steady", 24)
    first = min(row["time"].timestamp() for row in run(values)[1]) - T0 // S
    started = int((wear > 0).argmax(axis=0).min())
    assert first - started > 100
    assert np.isfinite(crossed).any()


def test_a_trend_that_ends_is_told_once_without_a_value() -> None:
    k = np.arange(POLLS)[:, None]
    values = np.minimum(k, 700) / 1000 + np.random.default_rng(2).normal(0, 0.01, (POLLS, 1))
    known = [row["value"] is not None for row in run(values)[1]]
    assert known[0]
    assert sum(not one for one in known) >= 1
    assert not known[-1]
    assert all(known[at] or known[at - 1] for at in range(1, len(known)))  # never two rows without a value


def test_the_score_is_high_shortly_before_the_limit_and_low_long_before() -> None:
    values, _, crossed = degradation("steady", 25)
    scores, _ = run(values, within="200s")
    for tag in range(TAGS):
        mine = np.array([row["score"] if row["score"] is not None else 0.0 for row in scores if row["tag"] == tag])
        if crossed[tag] > 1000:
            assert mine[int(crossed[tag]) - 60 : int(crossed[tag]) - 20].max() > 0.85
            assert mine[: int(crossed[tag]) - 600].max(initial=0.0) < 0.9


def test_it_explains_itself() -> None:
    model = PLUGIN.build(PLUGIN.config(kind="trend_to_limit"), ModelContext("m", []))
    row = ScoreRow("m", T0, None, 0.8, 0.934, 0.9, float("nan"), float("nan"))
    assert model.problem(make_tag(0, label="Filter pressure", unit="bar"), row) == (  # type: ignore[attr-defined]
        "Filter pressure is 0.8 bar and will, with 93 % certainty by its trend, cross its limit within 8 h"
    )
