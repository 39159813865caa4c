"""The newest reading of every tag."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa

from gateway.latest import Latest
from schemas.kinds import Origin, make_batch
from schemas.quality import BAD_NO_COMMUNICATION
from tests.gateway.samples import rows


def reading(tags, **columns):
    return make_batch("telemetry", len(tags), tag=np.array(tags, np.int32), **{"time": 5, "quality": 0, **columns})


def test_before_the_first_reading_a_tag_waits():
    latest = Latest(2)
    assert math.isnan(latest.value[0])
    assert latest.quality[0] >= 0x8000_0000
    assert latest.time_us[0] == 0


def test_the_last_row_of_a_tag_wins_and_other_tags_keep_theirs():
    latest = Latest(3)
    latest.update(rows([0, 1, 0], [1.0, 2.0, 3.0], time_us=[10, 20, 30]))
    latest.update(rows([1], [None], time_us=40, quality=BAD_NO_COMMUNICATION))
    assert latest.value[0] == 3.0
    assert math.isnan(latest.value[1])
    assert latest.quality.tolist()[:2] == [0, BAD_NO_COMMUNICATION]
    assert latest.time_us.tolist() == [30, 40, 0]
    assert latest.count == 4


def test_whole_numbers_are_values_also_beside_floats_and_an_older_one_does_not_cover_a_newer_bad_row():
    latest = Latest(2)
    latest.update(reading([0, 1], value=[None, 2.5], value_int=[7, None]))
    assert latest.value.tolist() == [7.0, 2.5]
    latest.update(reading([0, 0], value_int=[8, None], quality=pa.array([0, BAD_NO_COMMUNICATION], pa.uint32())))
    assert math.isnan(latest.value[0])


def test_a_label_goes_when_the_next_reading_has_none():
    latest = Latest(2)
    latest.update(reading([0, 1], value=[1.0, 2.0], text=["run", "idle"]))
    latest.update(reading([0], value=[7.0]))  # a number the enum does not name
    assert latest.text == {1: "idle"}
    latest.update(reading([1, 1], value=[1.0, 7.0], text=["run", None]))
    assert latest.text == {}


def test_a_row_that_is_not_live_does_not_replace_a_newer_one() -> None:
    latest = Latest(3)
    latest.update(reading([1], value=[2.0], time=2_000_000))
    latest.update(reading([1, 2], value=[1.0, 5.0], time=1_000_000, origin=Origin.BACKFILL))
    assert latest.value[1] == 2.0
    assert math.isnan(latest.value[2])
    assert latest.time_us[1] == 2_000_000
    assert latest.count == 3
