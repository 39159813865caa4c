"""How long a spool lasts: never less than `genba check` says, measured on a spool that is really filled."""

from __future__ import annotations

import numpy as np
import pytest
import structlog

from gateway import autonomy
from gateway.spool import Spool
from schemas.kinds import telemetry
from tests.gateway.samples import make_tag


@pytest.mark.parametrize("tags", [1, 30, 2_000])
async def test_the_least_compressible_readings_take_no_more_than_is_said(tmp_path, manual_clock, tags):
    spool = await Spool.open(tmp_path, gateway="gw", clock=manual_clock, log=structlog.get_logger())
    rng = np.random.default_rng(1)
    before, polls = spool.bytes_written, 40
    for n in range(polls):
        time = 1_767_225_600_000_000 + n * 1_000_000 + rng.integers(0, 200_000, tags)
        lag = rng.integers(0, 50, tags).astype(np.int32)
        await spool.put(
            "telemetry", telemetry(time_us=time, tag=np.arange(tags, dtype=np.int32), value=rng.normal(0, 1, tags), lag_ms=lag)
        )
        await spool.flush()
    await spool.close()
    written = spool.bytes_written - before
    said = polls * autonomy.bytes_per_second([make_tag(n) for n in range(tags)], 250_000)
    assert said / 2 < written < said


def test_hours_are_the_budget_less_what_the_spool_keeps_for_itself():
    tags = [make_tag(n) for n in range(1_000)]
    hours = autonomy.hours(tags, max_bytes=20 * 10**9, segment_bytes=16 << 20, commit_every_us=250_000)
    assert hours == pytest.approx((20e9 - 256 * 1024 - 2 * (16 << 20)) / (1_000 * 16 + 256) / 3600)
    assert autonomy.hours([], max_bytes=20 * 10**9, segment_bytes=16 << 20, commit_every_us=250_000) is None


@pytest.mark.parametrize(
    ("hours", "words"), [(0.001, "1 min"), (0.5, "30 min"), (1.2, "1 hour"), (71.6, "72 hours"), (24 * 400, "400 days")]
)  # fmt: skip
def test_in_words(hours, words):
    assert autonomy.in_words(hours) == words
