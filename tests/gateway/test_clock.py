"""The watch over the wall clock."""

from __future__ import annotations

import pytest

from gateway.clock import ClockWatch, WallClock, looks_unset


@pytest.mark.parametrize("step_s", [-3600.0, -2.0, 5.0, 30 * 86400.0])
def test_a_step_of_the_wall_clock_is_measured_once(manual_clock, step_s):
    watch = ClockWatch(manual_clock)
    watch.check(10.0)
    manual_clock.step(1.0 + step_s)
    assert watch.check(11.0) == pytest.approx(step_s)
    manual_clock.step(1.0)
    assert watch.check(12.0) == 0.0
    assert watch.steps == 1


def test_a_clock_that_is_slewed_is_no_step(manual_clock):
    watch = ClockWatch(manual_clock)
    steady = 0.0
    for _ in range(100):
        assert watch.check(steady) == 0.0
        steady += 1.0
        manual_clock.step(1.0005)


def test_a_machine_without_a_battery_starts_in_the_past():
    assert looks_unset(0)
    assert not looks_unset(WallClock().now_us())
