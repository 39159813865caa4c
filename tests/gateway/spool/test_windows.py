"""Readings become windows: what is averaged, what is kept as it is, and that windows of windows say the same."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from gateway.spool.windows import WIDTHS_US, thin
from schemas import quality as q
from schemas.kinds import Origin, make_batch, telemetry

MINUTE = WIDTHS_US[0]
START = 1_767_225_600_000_000  # a whole minute


def at(*seconds: float) -> list[int]:
    return [START + round(second * 1e6) for second in seconds]


def test_the_readings_of_a_tag_and_minute_become_one_row_with_mean_least_greatest_and_count():
    batch = make_batch(
        "telemetry", 6, time=at(0, 10, 20, 30, 70, 80), tag=[1, 2, 1, 1, 1, 1], value=[1.0, 7.0, 4.0, 1.0, 5.0, 6.0],
        quality=[0, 0, q.UNCERTAIN, 0, 0, 0], lag=[5, 0, 6, 7, 8, 9], origin=0,
    )  # fmt: skip
    rows = thin(batch, MINUTE).to_pylist()
    assert [(row["tag"], row["value"], row["value_min"], row["value_max"], row["count"]) for row in rows] == [
        (1, 2.0, 1.0, 4.0, 3), (2, 7.0, None, None, None), (1, 5.5, 5.0, 6.0, 2),
    ]  # fmt: skip
    assert [row["quality"] for row in rows] == [q.UNCERTAIN, 0, 0]  # the worst of the window
    assert [row["origin"] for row in rows] == [Origin.DOWNSAMPLED, Origin.LIVE, Origin.DOWNSAMPLED]
    assert [int(row["time"].timestamp()) - START // 10**6 for row in rows] == [0, 10, 70]  # of the first reading
    assert [row["lag"] for row in rows] == [5, 0, 8]


def test_whole_numbers_keep_their_last_value_exactly():
    big = 2**60 + 1
    batch = make_batch("telemetry", 3, time=at(0, 1, 2), tag=3, value_int=[5, big + 1, big], quality=0, origin=0)
    (row,) = thin(batch, MINUTE).to_pylist()
    assert (row["value_int"], row["value"], row["count"]) == (big, None, 3)
    assert (row["value_min"], row["value_max"]) == (5.0, float(big + 1))
    assert int(row["time"].timestamp()) == START // 10**6 + 2


def test_texts_bad_readings_and_infinite_numbers_stay_where_they_change_and_nowhere_else():
    batch = make_batch(
        "telemetry", 10, time=at(*range(10)), tag=1, origin=0,
        text=["run", "run", "stop", "stop", None, None, None, None, "run", None],
        value=[1.0, 1.0, 2.0, 2.0, None, None, math.inf, math.inf, 1.0, 3.0],
        quality=[0, 0, 0, 0, q.BAD, q.BAD, 0, 0, 0, 0],
    )  # fmt: skip
    found = thin(batch, MINUTE)
    seconds = [time // 10**6 - START // 10**6 for time in found.column("time").view(pa.int64()).to_pylist()]
    assert seconds == [0, 2, 4, 6, 8, 9]
    assert found.equals(batch.take(pa.array(seconds)))  # unchanged, their origin too


def test_of_waveforms_the_first_of_a_window_stays():
    batch = make_batch("telemetry", 3, time=at(0, 1, 61), tag=1, samples=[[1.0], [2.0], [3.0]], quality=0, origin=0)
    assert thin(batch, MINUTE).column("samples").to_pylist() == [[1.0], [3.0]]


def test_readings_inside_their_deadband_count_and_a_window_of_such_alone_stays_one():
    batch = make_batch(
        "telemetry",
        4,
        time=at(0, 1, 61, 62),
        tag=1,
        value=[1.0, 3.0, 5.0, 7.0],
        quality=0,
        origin=0,
        thinned=[None, True, True, True],
    )
    rows = thin(batch, MINUTE).to_pylist()
    assert [(row["value"], row["count"], row["thinned"]) for row in rows] == [(2.0, 2, None), (6.0, 2, True)]


def test_great_numbers_do_not_overflow():
    (row,) = thin(telemetry(time_us=START, tag=np.zeros(3, np.int32), value=np.full(3, 1.7e308)), MINUTE).to_pylist()
    assert row["value"] == row["value_max"] == 1.7e308


READINGS = st.lists(
    st.tuples(st.integers(0, 7200), st.integers(0, 2), st.floats(-1e6, 1e6)), min_size=1, max_size=60,
)  # fmt: skip


@given(READINGS)
def test_windows_of_windows_are_the_windows_of_the_readings(readings):
    readings.sort()
    batch = telemetry(
        time_us=np.array([START + second * 10**6 for second, _, _ in readings]),
        tag=np.array([tag for _, tag, _ in readings], np.int32),
        value=np.array([value for *_, value in readings]),
    )
    once, twice = thin(batch, WIDTHS_US[2]), thin(thin(batch, MINUTE), WIDTHS_US[2])
    assert once.num_rows == twice.num_rows == len({(tag, second // 3600) for second, tag, _ in readings})
    for column in ("time", "tag", "value_min", "value_max", "count", "origin"):
        assert once.column(column).equals(twice.column(column)), column
    assert np.allclose(once.column("value").to_numpy(), twice.column("value").to_numpy(), rtol=1e-9, atol=1e-6)
    counts = once.column("count").fill_null(1).to_numpy()
    assert counts.sum() == len(readings)
