"""A day of the month in virtual time, every month that found something once, and a control."""

from __future__ import annotations

import pytest

from .month import Skipping, play, stored

pytestmark = pytest.mark.timeout(300)  # a day takes seconds; a machine that does much else takes longer


def test_a_day_with_outages_reboots_bursts_and_steps_of_the_clock_loses_nothing():
    month = play(1, 1.0)
    assert month.wrong == []
    assert month.polls > 9_000
    assert month.lost == 0


@pytest.mark.parametrize(("seed", "days", "each"), [one for one in stored() if one[1] <= 1.0])
def test_a_month_that_found_something_once_finds_it_no_more(seed: int, days: float, each: int):
    assert play(seed, days, each=each).wrong == []


def test_a_seed_is_always_the_same_month():
    assert play(3, 0.1).digest == play(3, 0.1).digest != play(4, 0.1).digest


def test_control_a_delivery_that_skips_a_span_after_an_error_is_found():
    assert any("are there" in sentence for sentence in play(1, 0.5, delivery=Skipping).wrong)
