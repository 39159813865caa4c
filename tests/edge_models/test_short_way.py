"""While polls are alike, models count them instead of writing each down. What comes out is what comes out of the long way, bit for bit.

The long way is a model that is restored before every batch: it knows nothing of the polls before but its state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from edge_models import drift, envelope, forecast_residual, stuck
from edge_models.base import EdgeModel, ModelContext
from schemas import quality as q
from tests.conformance.model import POLL_US, T0, by_tag, make_tag, readings

PLUGINS: Mapping[str, Any] = {
    "forecast_residual": forecast_residual.PLUGIN,
    "drift": drift.PLUGIN,
    "stuck": stuck.PLUGIN,
    "envelope": envelope.PLUGIN,
}
TAGS, POLLS = 9, 330


def polls(seed: int) -> Iterator[tuple[pa.RecordBatch, int]]:
    """Long runs of clean polls; between them everything that ends one: held values, spikes, missing rows, several times in one poll,
    a late poll, a pause, a burst; and what a few tags may do while the others go on: bad, away or gated for some polls, no
    number, and with odd seeds one that is bad for the first hundred."""
    rng = np.random.default_rng(seed)
    now, seq, before = T0, 0, np.zeros(TAGS)
    away = np.zeros((3, TAGS), dtype=np.int64)  # until which poll: bad, away, gated
    for k in range(POLLS):
        now += POLL_US
        value = rng.normal(20, 1, TAGS)
        tag = np.arange(TAGS, dtype=np.int32)
        time = np.full(TAGS, now)
        quality = np.zeros(TAGS, dtype=np.uint32)
        value[0] = value[0] if seed % 2 else 7.0  # with even seeds tag 0 is constant
        kind = rng.integers(0, 13) if k > 40 and k % 3 == 0 and k % 80 < 50 else -1
        if kind == 0:
            value[2] = before[2]
        elif kind == 1:
            value[1] += 40.0
        elif kind == 2:
            quality[3] = q.BAD_SENSOR_FAILURE
        elif kind == 3:
            keep = tag != 4
            tag, value, time, quality = tag[keep], value[keep], time[keep], quality[keep]
        elif kind == 4:
            time = time - np.arange(TAGS) * 1000
        elif kind == 5:
            time -= 2 * POLL_US
        elif kind == 6:
            now += 20_000_000
            time += 20_000_000
        elif kind == 7:
            tag, value, time = np.tile(tag, 2), np.r_[value, value + 0.5], np.r_[time - 1000, time]
            quality = np.tile(quality, 2)
        elif kind == 8:
            value[:] = before
        elif kind == 9:
            value[5] = np.nan
        if len(value) == TAGS and k > 40 and k % 5 == 0:
            away[rng.integers(0, 3), rng.integers(2, TAGS)] = k + rng.integers(1, 9)
        if seed % 2 and k < 100:
            away[0, 8] = 100
        bad, gone, gated = away[:, tag % TAGS] > k
        quality = np.where(gone, q.BAD_NOT_CONNECTED, np.where(bad, q.BAD_SENSOR_FAILURE, quality)).astype(np.uint32)
        batch = readings(tag, value, time, first_seq=seq, quality=quality, lag=((now - time) // 1000).astype(np.int32))
        if gated.any():
            batch = batch.append_column("active", pa.array(~gated))
        seq += len(tag)
        before = value[:TAGS] if len(value) >= TAGS else before
        yield batch, now


def model(kind: str) -> EdgeModel:
    plugin = PLUGINS[kind]
    options = {"at_least": "2s", "min_changes": 5} if kind == "stuck" else {}
    made: EdgeModel = plugin.build(
        plugin.config.model_validate({"kind": kind, "warm_up": "4s", **options}),
        ModelContext("watch", [make_tag(n) for n in range(TAGS)]),
    )
    return made


@pytest.mark.parametrize("kind", PLUGINS)
@pytest.mark.parametrize("seed", range(4))
def test_the_short_way_leads_where_the_long_way_does(kind: str, seed: int) -> None:
    short = model(kind)
    state = short.snapshot()
    for number, (batch, now) in enumerate(polls(seed)):
        long = model(kind)
        long.restore(state)
        assert by_tag(short.update(batch, now)) == by_tag(long.update(batch, now)), number
        if number % 50 == 49:
            tick = batch.slice(0, 0)
            assert by_tag(short.update(tick, now + 9_000_000)) == by_tag(long.update(tick, now + 9_000_000)), number
        state = long.snapshot()
    assert short.snapshot() == state


@pytest.mark.parametrize("bad", [False, True])
def test_stuck_goes_the_short_way_when_polls_are_clean_and_when_a_few_readings_are_bad(bad: bool) -> None:
    """The control: without it the test above would compare the long way with itself."""
    watched = stuck.PLUGIN.build(
        stuck.PLUGIN.config.model_validate({"kind": "stuck", "warm_up": "4s"}),
        ModelContext("watch", [make_tag(n) for n in range(TAGS)]),
    )
    assert isinstance(watched, stuck.Stuck)
    rng = np.random.default_rng(0)
    quality = np.zeros(TAGS, dtype=np.uint32)
    ways = []
    for k in range(60):
        quality[:] = 0
        if bad and k > 30:
            quality[k % 2] = q.BAD_SENSOR_FAILURE
        tag = np.arange(TAGS, dtype=np.int32)
        pace = watched._pace
        watched.update(readings(tag, rng.normal(20, 1, TAGS), T0 + k * POLL_US, first_seq=k * TAGS, quality=quality.copy()), T0)
        ways.append(pace is not None and watched._pace is pace)
    assert all(ways[-29:])
    assert watched._pace is not None
    assert watched._pace.polls > 20 or bad
