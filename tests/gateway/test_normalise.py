"""Deadband and heartbeat: which rows change nothing worth reporting."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from gateway.normalise import Normaliser
from schemas.quality import BAD_TIMEOUT
from tests.gateway.samples import make_tag, rows


def thinned(batch):
    return [bool(flag) for flag in batch.column("thinned").to_pylist()]


def test_without_deadband_the_batch_is_untouched():
    batch = rows([0], [1.0])
    assert Normaliser([make_tag(0)]).apply(batch) is batch


def test_a_change_smaller_than_the_deadband_is_thinned_and_the_reference_stays_the_last_reported_value():
    normaliser = Normaliser([make_tag(0, deadband=0.5)])
    seen = [thinned(normaliser.apply(rows([0], [value])))[0] for value in (10.0, 10.3, 10.4, 10.5, 10.9, 11.0)]
    assert seen == [False, True, True, False, True, False]


def test_a_slow_creep_is_reported_once_it_adds_up():
    normaliser = Normaliser([make_tag(0, deadband=1.0)])
    reported = [v for v in (i / 10 for i in range(31)) if not thinned(normaliser.apply(rows([0], [v])))[0]]
    assert reported == [0.0, 1.0, 2.0, 3.0]


def test_a_change_of_quality_is_always_reported():
    normaliser = Normaliser([make_tag(0, deadband=5.0)])
    normaliser.apply(rows([0], [1.0]))
    assert thinned(normaliser.apply(rows([0], [None], quality=BAD_TIMEOUT))) == [False]
    assert thinned(normaliser.apply(rows([0], [1.0]))) == [False]


def test_the_heartbeat_reports_an_unchanged_value():
    normaliser = Normaliser([make_tag(0, deadband=5.0, report_at_least_us=10_000_000)])
    times = [0, 5_000_000, 10_000_000, 12_000_000]
    assert thinned(normaliser.apply(rows([0] * 4, [1.0] * 4, time_us=times))) == [False, True, False, True]


def test_rows_that_are_not_live_are_reported_and_change_no_reference():
    normaliser = Normaliser([make_tag(0, deadband=1.0)])
    normaliser.apply(rows([0], [1.0]))
    old = rows([0, 0], [5.0, 5.1])
    backfilled = old.set_column(old.schema.get_field_index("origin"), old.schema.field("origin"), pa.array([1, 1], pa.uint8()))
    assert not any(thinned(normaliser.apply(backfilled)))
    assert thinned(normaliser.apply(rows([0], [1.5]))) == [True]


def test_only_tags_with_a_deadband_are_thinned():
    normaliser = Normaliser([make_tag(0, deadband=1.0), make_tag(1)])
    normaliser.apply(rows([0, 1], [1.0, 1.0]))
    assert thinned(normaliser.apply(rows([0, 1], [1.0, 1.0]))) == [True, False]


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=30), st.integers(1, 30))
def test_how_rows_are_cut_into_batches_changes_nothing(values, cut):
    whole, parts = Normaliser([make_tag(0, deadband=3.0)]), Normaliser([make_tag(0, deadband=3.0)])
    at_once = thinned(whole.apply(rows([0] * len(values), values)))
    pieces = [values[i : i + cut] for i in range(0, len(values), cut)]
    assert [flag for piece in pieces for flag in thinned(parts.apply(rows([0] * len(piece), piece)))] == at_once
