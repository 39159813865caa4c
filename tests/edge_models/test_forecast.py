"""Whether the intervals of `forecast` hold the truth as often as they say, whether it beats doing nothing, and when it keeps silent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from edge_models import forecast
from edge_models.base import EdgeModel, ModelContext, ScoreRow
from schemas.kinds import kind_of
from tests.conformance.model import make_tag, readings
from tests.edge_models.days import PER_DAY, STEP_US, Numbers, load, moments

TAGS, DAYS = 6, 21
SLOT_US = 2 * STEP_US
PEAK = 105.0
Rows = list[dict[str, Any]]


def build(tags: int = TAGS, **options: object) -> EdgeModel:
    config = forecast.PLUGIN.config.model_validate(
        {"kind": "forecast", "warm_up": "0s", "slot": "30m", "horizon": "1h", "cycle": "7d", "peak": PEAK, **options}
    )
    made = [make_tag(n, period_us=STEP_US, unit="kW", label="Hall 3 load") for n in range(tags)]
    return forecast.PLUGIN.build(config, ModelContext("m", made, "Europe/Berlin"))


def run(model: EdgeModel, time: Any, value: Numbers) -> tuple[Numbers, Rows]:
    """Scores [readings, tags], NaN for null, and the HEALTH rows."""
    n, tags = value.shape
    found = model.update(readings(np.tile(np.arange(tags, dtype=np.int32), n), value.ravel(), np.repeat(time, tags)), 0)
    health = [row for batch in found if kind_of(batch) == "health" for row in batch.to_pylist()]
    return found[0].column("score").to_numpy(zero_copy_only=False).reshape(n, tags), health


@pytest.fixture(scope="module")
def weeks() -> tuple[Any, Numbers, Numbers, Rows]:
    """Time, load, scores and HEALTH of three weeks; from Thursday noon of the last one on all is 12 kW more."""
    time = moments("2026-01-05", DAYS)
    value = load(time, TAGS, seed=3)
    value[17 * PER_DAY + 48 :] += 12.0
    return time, value, *run(build(), time, value)


def truths(time: Any, value: Numbers, health: Rows, measure: str, ahead: int) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """For each forecast: what came, value, half width, and the mean of the slot before it was made."""
    means = value.reshape(-1, 2, value.shape[1]).mean(axis=1)
    found = []
    for row in health:
        slot = int((round(row["time"].timestamp() * 1e6) - time[0]) // SLOT_US)
        if row["measure"] == measure and slot + ahead <= len(means):
            came, before = means[slot + ahead - 1, row["tag"]], means[slot - 1, row["tag"]]
            found.append((came, row["value"], (row["high"] - row["low"]) / 2, before))
    came, foretold, half, before = np.array(found).T
    return came, foretold, half, before


@pytest.mark.parametrize(("measure", "ahead"), [("forecast_30m", 1), ("forecast_1h", 2)])
def test_ninety_per_cent_of_the_intervals_hold_the_truth(
    weeks: tuple[Any, Numbers, Numbers, Rows], measure: str, ahead: int
) -> None:
    time, value, _, health = weeks
    came, foretold, half, before = truths(time, value, health, measure, ahead)
    assert len(came) > 2000
    assert 0.86 < (np.abs(came - foretold) <= half).mean() < 0.97
    assert (np.abs(came - foretold) <= half / 4).mean() < 0.8  # the control: a quarter of the width would not do
    assert np.abs(came - foretold).mean() < 0.75 * np.abs(came - before).mean()  # better than `as now`


def test_it_says_nothing_before_its_forecasts_have_a_record(weeks: tuple[Any, Numbers, Numbers, Rows]) -> None:
    time, _, score, health = weeks
    first = (min(row["time"].timestamp() for row in health) * 1e6 - time[0]) / 86_400e6
    assert 7.3 < first < 7.6  # a week for the profile, then nineteen outcomes of half an hour
    assert np.isnan(score[: 7 * PER_DAY + 32]).all()
    assert np.isfinite(score[8 * PER_DAY :]).all()
    assert {row["measure"] for row in health} == {"forecast_30m", "forecast_1h"}
    assert {row["unit"] for row in health} == {"kW"}


def test_the_score_tells_when_a_peak_is_near(weeks: tuple[Any, Numbers, Numbers, Rows]) -> None:
    _, _, score, _ = weeks
    risen = score[17 * PER_DAY + 52 : 17 * PER_DAY + 80]  # 13 to 20 h, at about 112 of 105 kW
    assert (risen.max(axis=0) > 0.8).mean() > 0.8
    night = score[16 * PER_DAY : 16 * PER_DAY + 16]
    assert night.max() < 0.1
    ordinary = score[16 * PER_DAY + 32 : 16 * PER_DAY + 80]
    assert np.median(ordinary) < 0.4


def test_a_gap_ends_the_forecast_and_a_limit_of_the_tag_stands_for_a_peak() -> None:
    time = moments("2026-01-05", 6)
    value = load(time, 2, seed=4)
    keep = np.ones(len(time), dtype=bool)
    keep[4 * PER_DAY + 40 : 4 * PER_DAY + 56] = False
    score, health = run(build(2, cycle="1d", peak=None), time[keep], value[keep])  # the tag's `high` is 25
    assert np.isnan(score[4 * PER_DAY + 40]).all()
    assert np.isfinite(score[4 * PER_DAY + 42 :]).all()
    silent = {round(row["time"].timestamp() * 1e6) for row in health}
    assert int(time[4 * PER_DAY + 56]) not in silent
    assert score[3 * PER_DAY + 40].min() > 0.9


@pytest.mark.parametrize("horizon", ["45m", "13h", "10m"])
def test_a_horizon_is_some_slots(horizon: str) -> None:
    with pytest.raises(ValidationError, match="1 to 24 slots of 30m"):
        build(horizon=horizon)


def test_it_explains_itself() -> None:
    row = ScoreRow("m", 0, None, 99.0, 0.934, 0.8, 95.0, 103.0)
    assert build().problem(make_tag(0, label="Hall 3 load", unit="kW"), row) == (  # type: ignore[attr-defined]
        "Hall 3 load will, with 93 % probability, exceed 105 kW in the mean of 30 min within 1 h"
    )
