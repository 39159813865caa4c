"""Bookmarks under crashes: rows of a source are in the spool once each, wherever the process died."""

from __future__ import annotations

import json
import random

import numpy as np
import pyarrow as pa
import pytest

from adapters.base import START, Mark, replay_mark
from gateway import bookmarks
from gateway.bookmarks import Bookmark
from schemas.kinds import Origin, make_batch, telemetry
from tests.gateway.spool.conftest import crash, everything, open_spool, readings  # noqa: F401 (fixture)

ROWS = 3_000


def source(kind: str) -> pa.RecordBatch:
    """A source whose times repeat, up to seven times."""
    time = np.arange(ROWS, dtype=np.int64) // 7 * 1000
    if kind == "event":
        texts = [f'{{"n": {n}, {replay_mark("day")}}}' for n in range(ROWS)]
        return make_batch("event", ROWS, time=time, source="plc", event="step", severity="info", attributes=texts)
    tags = np.arange(ROWS, dtype=np.int32) % 7 + 10
    return telemetry(time_us=time, tag=tags, value=np.arange(ROWS, dtype=np.float64), origin=Origin.REPLAY)


def others(rows: int) -> pa.RecordBatch:
    """Events that come from elsewhere."""
    return make_batch("event", rows, time=0, source="gateway", event="step", severity="info")


def after(batch: pa.RecordBatch, mark: Mark) -> int:
    """The first row behind a mark."""
    time = batch.column("time").cast(pa.int64()).to_numpy()
    return int(np.searchsorted(time, mark.time_us)) + mark.rows


@pytest.mark.parametrize("kind", ["telemetry", "event"])
@pytest.mark.parametrize("seed", range(6))
async def test_every_row_of_the_source_is_there_once_over_crashes_at_any_moment(open_spool, kind, seed):  # noqa: F811
    rng, rows = random.Random(seed), source(kind)
    lives, whole = 0, False
    while not whole:
        lives += 1
        spool = await open_spool(retention_grace_s=0.0)
        for read in ("telemetry", "event"):
            await spool.ledger.register(read, "lake")
        bookmark = Bookmark("day", "./recording", list(range(10, 17)), spool)
        await bookmarks.restore([bookmark], spool)
        assert not spool.recovery[kind].missing
        at = after(rows, bookmark.reached[kind])
        whole = at == ROWS
        put = bookmark.through(spool.put)
        for _ in range(rng.randint(1, 12)):
            if rng.random() < 0.5:  # of somebody else, and perhaps not durable when the bookmark is saved
                await (spool.put("telemetry", readings(3)) if kind == "telemetry" else spool.put("event", others(3)))
            n = min(rng.randint(1, 120), ROWS - at)
            if n:
                await put(kind, rows.slice(at, n))
                at += n
            await put("telemetry", readings(rng.randint(1, 50)))  # of somebody else
            if rng.random() < 0.4:
                await spool.flush()
            if rng.random() < 0.3:
                await bookmark.save()
        crash(spool)
    assert lives > 3
    spool = await open_spool()
    assert not spool.recovery[kind].missing
    found = pa.Table.from_batches([batch for _, batch in await everything(spool, kind)])
    if kind == "event":
        mine = [text for text in found.column("attributes").to_pylist() if text is not None]
        assert mine == rows.column("attributes").to_pylist()
    else:
        mine = [
            value for value, origin in zip(found["value"].to_pylist(), found["origin"].to_pylist(), strict=True) if origin == 2
        ]
        assert mine == list(range(ROWS))


async def test_another_source_of_the_same_name_begins_anew(open_spool):  # noqa: F811
    spool = await open_spool()
    bookmark = Bookmark("day", "./one", list(range(10, 17)), spool)
    await bookmark.restore()
    await bookmark.through(spool.put)("telemetry", source("telemetry"))
    await spool.flush()
    await bookmark.save()
    same, other = (Bookmark("day", where, list(range(10, 17)), spool) for where in ("./one", "./two"))
    await same.restore()
    await other.restore()
    assert same.reached["telemetry"] == Mark(428_000, 4)
    assert other.reached["telemetry"] == START


async def test_a_source_that_says_nothing_holds_nobody_s_rows_back_and_one_that_is_no_more_neither(open_spool):  # noqa: F811
    spool = await open_spool()
    bookmark = Bookmark("day", "./one", [10], spool)
    await bookmark.restore()
    for start in range(0, 30_000, 1000):
        await spool.put("telemetry", readings(1000, start))
    await spool.flush()
    await bookmark.save()
    pin = spool.ledger.pin_of("telemetry", bookmark.name)
    assert pin is not None
    assert pin.row == 30_000
    await bookmarks.restore([], spool)
    assert spool.ledger.pin_of("telemetry", bookmark.name) is None


async def test_without_the_bookmark_rows_come_twice(open_spool):  # noqa: F811
    """The control: a place noted only now and then, without a look at what came behind it, is not enough."""
    spool = await open_spool()
    bookmark = Bookmark("day", "./one", list(range(10, 17)), spool)
    await bookmark.restore()
    put, rows = bookmark.through(spool.put), source("telemetry")
    await put("telemetry", rows.slice(0, 700))
    await spool.flush()
    await bookmark.save()
    noted = spool.ledger.pin_of("telemetry", bookmark.name)
    await put("telemetry", rows.slice(700, 700))
    await spool.flush()
    crash(spool)
    again = await open_spool()
    bookmark = Bookmark("day", "./one", list(range(10, 17)), again)
    await bookmark.restore()
    assert after(rows, bookmark.reached["telemetry"]) == 1400
    assert noted is not None
    _, time_us, same = json.loads(noted.note)
    assert after(rows, Mark(time_us, same)) == 700
