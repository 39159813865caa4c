"""The day's look at gap rows: what counts as named, without playing a day."""

from __future__ import annotations

import pytest

from tests.chaos.day.check import named

S = 1_000_000


@pytest.mark.parametrize(
    ("spans", "holds"),
    [
        ([(10, 20)], True),
        ([(11, 19)], True),
        ([(0, 10), (10, 14), (14, 20), (20, 30)], True),
        ([(10, 13), (14, 20)], True),
        ([(10, 19), (12, 14)], True),
        ([], False),
        ([(0, 10), (20, 30)], False),
        ([(12, 20)], False),
        ([(10, 18)], False),
        ([(10, 13), (15, 20)], False),
    ],
    ids=[
        "one", "nearly", "a kill between two", "a little between two", "one in another", "none", "only those beside it", "too late",
        "too short", "a hole",
    ],
)  # fmt: skip
def test_gap_rows_name_the_time_between_two_readings(spans: list[tuple[int, int]], holds: bool) -> None:
    assert named(10 * S, 20 * S, [(start * S, end * S) for start, end in spans]) is holds
