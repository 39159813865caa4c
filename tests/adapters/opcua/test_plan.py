from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.opcua.plan import SamplingClass, chunks, compile_plan
from tests.adapters.opcua.rig import bind, configure


def test_one_class_per_scan_with_handles_in_tag_order() -> None:
    tags = {
        "a": {"address": "i=1"},
        "b": {"address": "i=2", "scan": "10ms"},
        "c": {"address": "i=3"},
        "d": {"address": "i=4", "scan": "5s"},
    }
    plan = compile_plan(bind(configure(tags)))
    assert [(c.period_us, c.positions) for c in plan.classes] == [(10_000, (1,)), (50_000, (0, 2)), (5_000_000, (3,))]
    assert [str(address) for address in plan.addresses] == ["i=1", "i=2", "i=3", "i=4"]


@pytest.mark.parametrize(
    ("period_us", "sampling", "publishing", "keep_alive", "lifetime"),
    [
        (10_000, 10, 10, 100, 6000),
        (200_000, 200, 200, 5, 300),
        (1_000_000, 1000, 1000, 1, 60),
        (60_000_000, 60_000, 1000, 1, 60),
    ],
)
def test_what_is_asked_of_the_server(period_us: int, sampling: float, publishing: float, keep_alive: int, lifetime: int) -> None:
    asked = SamplingClass(period_us, (0,))
    assert (asked.sampling_ms, asked.publishing_ms) == (sampling, publishing)
    assert (asked.keep_alive_count, asked.lifetime_count) == (keep_alive, lifetime)


@given(st.integers(1000, 10**9))
def test_signs_of_life_about_every_second_and_a_lifetime_of_three_of_them(period_us: int) -> None:
    asked = SamplingClass(period_us, ())
    assert 0.5 <= asked.keep_alive_count * asked.publishing_ms / 1000 <= 1.5
    assert asked.lifetime_count >= 3 * asked.keep_alive_count
    assert asked.publishing_ms <= asked.sampling_ms


@given(st.lists(st.integers(), max_size=3000), st.integers(0, 2000))
def test_calls_hold_every_item_once_within_the_limit(positions: list[int], limit: int) -> None:
    calls = list(chunks(positions, limit))
    assert [p for call in calls for p in call] == positions
    assert all(0 < len(call) <= (min(limit, 1000) or 1000) for call in calls)
