"""The schedule in virtual time: no drift, no queue of missed slots, nothing due together, nobody starved."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.polling import Schedule
from tests.simulation.loop import in_virtual_time


async def slots(
    schedule: Schedule, polls: int, took_s: Callable[[int], float] = lambda _: 0.0
) -> AsyncIterator[tuple[float, int]]:
    """(time since the first slot, class) of each slot; poll number n takes `took_s(n)`."""
    loop = asyncio.get_running_loop()
    t0 = None
    for number in range(polls):
        index = await schedule.next()
        t0 = loop.time() if t0 is None else t0
        yield round(loop.time() - t0, 6), index  # work takes a nanosecond here and there
        await asyncio.sleep(took_s(number))


def test_one_class_is_due_every_period_whatever_a_poll_takes() -> None:
    async def test() -> None:
        schedule = Schedule([100_000])
        times = [at async for at, _ in slots(schedule, 1000, lambda n: 0.03 * (n % 3))]
        assert times == pytest.approx([n * 0.1 for n in range(1000)], abs=1e-6)
        assert schedule.overruns == [0]

    in_virtual_time(test)


def test_a_slot_that_has_passed_is_skipped_and_counted() -> None:
    async def test() -> None:
        schedule = Schedule([100_000])
        times = [at async for at, _ in slots(schedule, 6, lambda n: 0.35 if n == 1 else 0.0)]
        # Poll 1 lasts from 0.1 to 0.45: slots 2 and 3 are gone, slot 4 is taken late, slot 5 is in time again.
        assert times == pytest.approx([0.0, 0.1, 0.45, 0.5, 0.6, 0.7])
        assert schedule.overruns == [2]

    in_virtual_time(test)


def test_every_class_is_polled_at_once_and_then_beside_the_others() -> None:
    async def test() -> None:
        schedule = Schedule([3_600_000_000, 60_000_000, 60_000_000])
        seen = [slot async for slot in slots(schedule, 60)]
        assert seen[:3] == [(0.0, 0), (0.0, 1), (0.0, 2)]
        later = [round(at, 3) for at, _ in seen[3:]]
        assert len(set(later)) == len(later), "nothing falls due together"

    in_virtual_time(test)


def test_a_cancelled_wait_loses_no_slot() -> None:
    async def test() -> None:
        schedule = Schedule([100_000, 250_000])
        assert [await schedule.next(), await schedule.next()] == [0, 1]
        for _ in range(5):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(schedule.next(), 0.01)
        assert {await schedule.next() for _ in range(4)} == {0, 1}
        assert schedule.overruns == [0, 0]

    in_virtual_time(test)


@given(st.lists(st.integers(1, 100), min_size=1, max_size=5), st.lists(st.floats(0, 0.05), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_slots_done_and_slots_skipped_are_all_the_slots_there_were(tenths: list[int], took_s: list[float]) -> None:
    periods = [n * 100_000 for n in tenths]

    async def test() -> None:
        schedule = Schedule(periods)
        done = [0] * len(periods)
        last = [0.0] * len(periods)
        async for at, index in slots(schedule, 300, lambda n: took_s[n % len(took_s)]):
            done[index] += 1
            last[index] = at
        for index, period in enumerate(periods):
            there_were = last[index] / (period / 1e6) + 1
            # Late by less than a period, and up to the stagger (at most the shortest period) behind the first slot.
            assert -1e-6 <= there_were - (done[index] + schedule.overruns[index]) <= 2
            assert schedule.overruns[index] == 0 or max(took_s) * len(periods) >= period / 1e6

    in_virtual_time(test)


@given(st.lists(st.integers(1, 50), min_size=2, max_size=4))
@settings(max_examples=30, deadline=None)
def test_overload_starves_no_class(hundredths: list[int]) -> None:
    async def test() -> None:
        schedule = Schedule([n * 10_000 for n in hundredths])
        seen = [index async for _, index in slots(schedule, 400, lambda _: 0.6)]  # each poll outlasts every period
        for index in range(len(hundredths)):
            assert seen.count(index) > 50

    in_virtual_time(test)


def test_a_period_of_nothing_is_refused() -> None:
    for periods in ([], [0], [1000, -1]):
        with pytest.raises(ValueError, match="above 0"):
            Schedule(periods)
