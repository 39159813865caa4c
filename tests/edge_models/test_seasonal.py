"""`seasonal` finds what is wrong for the time of the day, inside the range too, and leaves shifts, breaks, weekends and clocks alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from edge_models import envelope, seasonal
from edge_models.base import EdgeModel, ModelContext, ScoreRow
from edge_models.calendar import Calendar
from tests.conformance.model import make_tag, readings
from tests.edge_models.days import PER_DAY, STEP_US, Numbers, load, moments

LIMIT = 0.999999
WEEK = {"cycle": "7d", "slot": "1h"}
TWO_SHIFTS = {"early": "mon-fri 06:00-14:00", "late": "mon-fri 14:00-22:00"}


def build(tags: int = 1, zone: str = "Europe/Berlin", kind: Any = seasonal, **options: object) -> EdgeModel:
    config = kind.PLUGIN.config.model_validate({"kind": kind.__name__.rsplit(".", 1)[1], "warm_up": "0s", **options})
    found: EdgeModel = kind.PLUGIN.build(config, ModelContext("m", [make_tag(n, period_us=STEP_US) for n in range(tags)], zone))
    return found


def run(model: EdgeModel, time: Any, value: Numbers, first: int = 0) -> tuple[Numbers, Numbers, Numbers]:
    """Score, low and high [readings, tags], NaN for null."""
    n, tags = value.shape
    batch = readings(np.tile(np.arange(tags, dtype=np.int32), n), value.ravel(), np.repeat(time, tags), first_seq=first)
    (told,) = model.update(batch, 0)
    score, low, high = (told.column(name).to_numpy(zero_copy_only=False).reshape(n, tags) for name in ("score", "low", "high"))
    return score, low, high


def at(day: int, hour: float) -> int:
    """The reading at this hour of this day of a stream."""
    return day * PER_DAY + round(hour * 4)


def test_it_finds_a_machine_that_runs_on_sunday_at_night_or_not_at_all_inside_its_range() -> None:
    time = moments("2026-01-05", 21)  # a Monday
    value = load(time, 12)
    faults = {"runs on Sunday": (20, 9.0, 100.0), "runs at night": (17, 2.0, 100.0), "stands in the shift": (16, 16.0, 20.0)}
    for day, hour, level in faults.values():
        value[at(day, hour) : at(day, hour + 2)] = level + np.random.default_rng(3).normal(0, 1.5, (8, 12))
    score, _, _ = run(build(12, slot="1h", shifts=TWO_SHIFTS), time, value)
    beside, _, _ = run(build(12, kind=envelope), time, value)
    for name, (day, hour, _) in faults.items():
        during = slice(at(day, hour + 0.5), at(day, hour + 2))
        assert (score[during].max(axis=0) >= LIMIT).all(), name
        assert np.nanmax(beside[during]) < LIMIT  # the control: the value is in its range


@pytest.mark.parametrize("options", [WEEK, {"slot": "1h", "shifts": TWO_SHIFTS}])
def test_it_leaves_five_weeks_of_ordinary_days_alone(options: dict[str, Any]) -> None:
    time = moments("2026-01-05", 35)
    score, low, high = run(build(20, **options), time, value := load(time, 20, seed=4))
    late = slice(at(21, 0), None)
    assert np.isfinite(score[late]).all()
    starts = ((score[late] >= LIMIT) & ~(np.roll(score, 1, axis=0)[late] >= LIMIT)).sum()
    assert starts / (20 * 14) < 0.01  # alarms a tag and day
    inside = (value[late] >= low[late]) & (value[late] <= high[late])
    assert inside.mean() > 0.97
    quiet = slice(at(31, 1), at(31, 4))
    assert (high[quiet] - low[quiet]).max() < 50  # the control: the night is not hidden in a band as wide as the day


def test_days_that_differ_need_a_week_or_shifts() -> None:
    time = moments("2026-01-05", 13)  # ends with a Saturday
    value = load(time, 6, seed=5)
    saturday = slice(at(12, 7), at(12, 11))
    daily, _, _ = run(build(6, slot="1h"), time[: at(5, 24)], value[: at(5, 24)])
    assert (daily[at(5, 7) : at(5, 11)] >= LIMIT).any(axis=0).all()
    weekly, _, _ = run(build(6, **WEEK), time, value)
    assert np.isnan(weekly[saturday]).all()  # seen once only: nothing is known of a Saturday
    by_shift, _, _ = run(build(6, slot="1h", shifts=TWO_SHIFTS), time, value)
    assert np.nanmax(by_shift[at(12, 0) : at(12, 5)]) < LIMIT  # the hours at night are known from the workdays
    assert np.isfinite(by_shift[at(11, 7) : at(11, 21)]).all()
    assert np.isnan(by_shift[at(12, 7)]).all()  # an off time at 7 h has been seen on two days


def test_a_slot_is_null_until_it_has_been_seen_often_enough() -> None:
    time = moments("2026-01-05", 5)
    score, low, _ = run(build(2, slot="1h", min_visits=3), time, load(time, 2))
    assert np.isnan(score[: at(3, 0)]).all()
    assert np.isnan(low[: at(3, 0)]).all()
    assert np.isfinite(score[at(3, 0) :]).all()


def test_the_clock_of_the_plant_counts_over_the_change_to_summer_time() -> None:
    time = moments("2026-03-02", 35)  # summer time begins on the 29th
    value = load(time, 6, seed=6)
    after = slice(at(28, 0), None)
    local, _, _ = run(build(6, **WEEK), time, value)
    assert (np.nan_to_num(local[after]) >= LIMIT).sum() == 0
    for stubborn in (build(6, zone="UTC", **WEEK), build(6, time_zone="Etc/GMT-1", **WEEK)):
        fixed, _, _ = run(stubborn, time, value)
        assert (np.nan_to_num(fixed[after]) >= LIMIT).any(axis=0).all()  # the control: everybody is an hour early


def test_the_hour_that_comes_twice_in_autumn_is_the_same_slot_and_the_missing_one_none() -> None:
    calendar = Calendar(seasonal.SeasonalConfig(kind="seasonal"), "Europe/Berlin")
    autumn = moments("2026-10-25", 1)
    position, _ = calendar.place(autumn)
    assert (position == 8).sum() == 2  # 2:00 to 2:15, twice a reading
    assert position[at(0, 6)] == 20  # 6 hours after midnight it is 5 o'clock
    spring, _ = calendar.place(moments("2026-03-29", 1))
    assert 8 not in spring
    assert spring[at(0, 2)] == 12


def test_holidays_are_not_scored_and_teach_nothing() -> None:
    time = moments("2026-01-05", 22)
    value = load(time, 3, seed=7)
    other = value.copy()
    other[at(15, 0) : at(16, 0)] = -500.0
    found = [run(build(3, slot="1h", holidays=["2026-01-20"], shifts=TWO_SHIFTS), time, one)[0] for one in (value, other)]
    assert np.isnan(found[0][at(15, 0) : at(16, 0)]).all()
    # Behind it the first two readings may differ: the median of three looks at them where a slot is new.
    assert np.array_equal(found[0], found[1], equal_nan=True)


def test_a_change_for_good_is_told_and_after_a_time_taken_for_usual() -> None:
    time = moments("2026-01-05", 28)
    value = load(time, 4, seed=8)
    night = np.array([hour < 5 for hour in (np.arange(len(time)) % PER_DAY) / 4])
    value[night & (np.arange(len(time)) >= at(14, 0))] += 30.0  # a pump that is left on from now on
    options = {"slot": "1h", "shifts": TWO_SHIFTS}
    score, _, _ = run(build(4, **options), time, value)
    for day in (14, 15, 17):
        assert (score[at(day, 0.5) : at(day, 4.5)] >= LIMIT).mean() > 0.9, day
    assert np.nanmax(score[at(24, 0) :]) < LIMIT
    _, _, high = run(build(4, **options, accept_after="0s"), time, value)
    assert high[at(25, 0.5) : at(25, 4.5)].max() < 50.0  # still what it was before
    assert np.nanmax(score[at(15, 7) : at(16, 0)]) < LIMIT  # other slots are as they were


def test_single_outliers_and_one_wild_day_do_not_spoil_the_profile() -> None:
    time = moments("2026-01-05", 33)
    value = load(time, 4, seed=9)
    rng = np.random.default_rng(10)
    value[rng.random(value.shape) < 0.005] = 5000.0  # from the first day on
    value[at(23, 0) : at(24, 0)] += 60.0
    _, low, high = run(build(4, slot="1h", shifts=TWO_SHIFTS), time, value)
    noon, night = slice(at(32, 9), at(32, 11)), slice(at(32, 1), at(32, 4))
    assert ((low[noon] < 100) & (high[noon] > 100)).all()
    assert ((low[night] < 20) & (high[night] > 20)).all()
    assert (high[noon] - low[noon]).mean() < 120
    assert (high[night] - low[night]).mean() < 60


def test_a_day_is_one_lesson_however_often_the_tag_is_read() -> None:
    time = moments("2026-01-05", 12)
    value = load(time, 2, seed=11)
    often = np.sort(np.r_[time, time + STEP_US // 2])
    bands = [
        run(build(2, slot="1h", shifts=TWO_SHIFTS), when, values)[1:]
        for when, values in ((time, value), (often, np.repeat(value, 2, axis=0)))
    ]
    for few, many in zip(bands[0], bands[1], strict=True):
        np.testing.assert_allclose(few[at(11, 13)], many[2 * at(11, 13)], atol=6.0)


def test_a_state_learnt_under_another_clock_is_refused() -> None:
    from schemas.errors import StateMismatch

    state = build(1, zone="Europe/Berlin").snapshot()
    build(1, zone="UTC", time_zone="Europe/Berlin").restore(state)
    with pytest.raises(StateMismatch):
        build(1, zone="UTC").restore(state)


def test_a_night_shift_goes_on_over_midnight_and_over_sunday() -> None:
    config = seasonal.SeasonalConfig(kind="seasonal", slot="1h", shifts={"night": "sun-thu 22:00-06:00"})  # type: ignore[arg-type]
    table = Calendar(config, "UTC").slot_at.reshape(7, 24)
    assert (table[0, :6] == table[3, :6]).all()
    assert (table[6, 22:] == table[2, 22:]).all()
    assert not set(table[5, :6]) & set(table[3, :6])
    assert table.max() + 1 == 8 + 24  # a shift of eight hours, and each hour of the day without one


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"cycle": "5h"}, "neither whole days nor goes into a day"),
        ({"slot": "7m"}, "do not fill the cycle"),
        ({"cycle": "7d", "slot": "1m"}, "2 to 2016 slots, not 10080"),
        ({"shifts": {"early": "6-14"}}, "write it like mon-fri 06:00-14:00"),
        ({"shifts": {"early": "mon-fry 06:00-14:00"}}, "'mon-fry' are no days"),
        ({"shifts": {"a": "06:00-14:00", "b": "fri 13:00-15:00"}}, "the shifts a and b overlap on fri"),
        ({"shifts": TWO_SHIFTS, "cycle": "8d"}, "leave `cycle` out"),
        ({"holidays": ["25.12.2026"]}, "write it like 2026-12-25"),
        ({"time_zone": "Mars/Olympus"}, "unknown time zone"),
    ],
)
def test_what_makes_no_calendar_says_how_to_write_it(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        seasonal.SeasonalConfig.model_validate({"kind": "seasonal", **options})


def test_it_explains_itself() -> None:
    row = ScoreRow("m", int(moments("2026-01-10", 1)[at(0, 14)]), None, 100.2, 1.0, LIMIT, 17.1, 23.4)
    assert build().problem(make_tag(0, label="Press load", unit="kW"), row) == (  # type: ignore[attr-defined]
        "Press load is 100.2 kW, usual for this time (Saturday 14:00) is 17.1 to 23.4 kW"
    )
