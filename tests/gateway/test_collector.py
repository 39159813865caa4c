"""What becomes of a device that is absent, dies and returns: rows, one event each way, a gap."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
from collections import deque

import numpy as np
import pyarrow as pa
import pytest
import structlog

from gateway.collector import Collector
from schemas.errors import ConfigError, EndOfStream, NotConnected
from schemas.kinds import telemetry
from schemas.quality import BAD_NO_COMMUNICATION, BAD_NODE_ID_UNKNOWN, BAD_TIMEOUT
from tests.gateway.samples import make_tag, rows, until


class ScriptedAdapter:
    """Plays a script: what `connect` does, then the batches of that connection and how it ends."""

    def __init__(self, script):
        self.script = deque(script)
        self.closed = 0

    async def connect(self):
        outcome, self.rest = self.script.popleft()
        if isinstance(outcome, Exception):
            raise outcome

    async def batches(self):
        for item in self.rest:
            if isinstance(item, Exception):
                raise item
            yield item
        await asyncio.sleep(3600)

    async def aclose(self):
        self.closed += 1


@pytest.fixture
def play(manual_clock, monkeypatch):
    """Run a script to its end (EndOfStream, or `still` seconds) with instant back-off; returns what was put, and the collector."""

    async def run(script, *, last_seen_us=None, still=0.2, tags=(0, 1)):
        put: list[tuple[str, pa.RecordBatch]] = []

        async def record(kind, batch):
            put.append((kind, batch))
            manual_clock.step(1)
            return len(put)

        adapter = ScriptedAdapter(script)
        collector = Collector(
            "press", adapter, [make_tag(tag) for tag in tags], put=record, clock=manual_clock, rng=random.Random(1),
            log=structlog.get_logger(), last_seen_us=last_seen_us,
        )  # fmt: skip
        collector._backoff._first_s = collector._backoff._max_s = 0.001
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(collector.run(), timeout=still)
        return put, collector, adapter

    return run


def of(put, kind):
    return [batch for found, batch in put if found == kind]


def events(put):
    return [name for batch in of(put, "event") for name in batch.column("event").to_pylist()]


GOOD = rows([0, 1], [1.0, 2.0], time_us=1_767_225_700_000_000)


async def test_an_absent_device_writes_one_bad_row_per_tag_and_one_event_however_often_it_is_tried(play):
    put, _collector, adapter = await play([(NotConnected("refused"), ()) for _ in range(5)] + [(EndOfStream(), ())])
    (bad,) = of(put, "telemetry")
    assert bad.column("quality").to_pylist() == [BAD_NO_COMMUNICATION] * 2
    assert bad.column("value").null_count == 2
    assert events(put) == ["adapter_down", "adapter_finished"]
    assert adapter.closed == 1


async def test_a_device_that_dies_and_returns_leaves_bad_rows_and_a_gap_per_tag(play):
    put, collector, _ = await play([(None, [GOOD, NotConnected("reset", quality=BAD_TIMEOUT)]), (None, [GOOD, EndOfStream()])])
    assert events(put) == ["adapter_up", "adapter_down", "adapter_up", "adapter_finished"]
    assert [batch.column("quality").to_pylist() for batch in of(put, "telemetry")] == [[0, 0], [BAD_TIMEOUT] * 2, [0, 0]]
    (gap,) = of(put, "gap")
    assert gap.column("tag").to_pylist() == [0, 1]
    assert set(gap.column("cause").to_pylist()) == {"not_connected"}
    assert collector.rows == 6


async def test_a_gap_begins_when_the_device_was_last_heard_not_at_the_last_poll_that_waited_in_vain(play, manual_clock):
    silent = telemetry(time_us=1_767_225_701_000_000, tag=np.array([0], dtype=np.int32), quality=BAD_TIMEOUT)
    refused = telemetry(time_us=1_767_225_701_000_000, tag=np.array([0], dtype=np.int32), quality=BAD_NODE_ID_UNKNOWN)
    starts = []
    for between in ([], [silent], [silent, silent], [refused]):
        began_us = manual_clock.now_us()
        put, _, _ = await play([(None, [GOOD, *between, NotConnected("silent")]), (None, [GOOD, EndOfStream()])])
        (gap,) = of(put, "gap")
        starts.append(gap.column("time").cast(pa.int64())[0].as_py() - began_us)
    assert starts[0] == starts[1] == starts[2] < starts[3]


async def test_the_time_since_the_previous_run_is_a_gap_named_for_its_cause(play):
    put, _, _ = await play([(None, [GOOD, EndOfStream()])], last_seen_us=1_767_225_600_000_000)
    (gap,) = of(put, "gap")
    assert set(gap.column("cause").to_pylist()) == {"gateway_stopped"}
    assert gap.column("time").cast(pa.int64()).to_pylist() == [1_767_225_600_000_000] * 2
    assert gap.column("end").cast(pa.int64()).to_pylist() == [1_767_225_700_000_000] * 2


async def test_a_gap_in_which_the_clock_was_set_back_ends_when_the_device_is_back(play):
    early_us = 1_767_225_600_000_000 - 3_600_000_000
    early = telemetry(time_us=early_us, tag=np.array([0, 1], dtype=np.int32))
    for script, last_seen_us, cause in (
        ([(None, [GOOD, NotConnected("gone")]), (None, [early, EndOfStream()])], None, "not_connected"),
        ([(None, [early, EndOfStream()])], 1_767_225_600_000_000, "gateway_stopped"),
    ):
        put, _, _ = await play(script, last_seen_us=last_seen_us)
        (gap,) = of(put, "gap")
        assert set(gap.column("cause").to_pylist()) == {cause}
        begin, end = (gap.column(name).cast(pa.int64())[0].as_py() for name in ("time", "end"))
        assert begin < end == early_us


async def test_attempts_that_take_long_to_fail_do_not_begin_the_back_off_anew(play, monkeypatch):
    resets = []
    monkeypatch.setattr("gateway.backoff.Backoff.reset", lambda self: resets.append(self.failures))
    monkeypatch.setattr(Collector, "__init__", functools.partialmethod(Collector.__init__, steady_s=0.01))

    class Slow(ScriptedAdapter):
        async def connect(self):
            await asyncio.sleep(0.02)
            await super().connect()

    monkeypatch.setattr(f"{__name__}.ScriptedAdapter", Slow)
    await play([(NotConnected("nobody answers"), [])] * 3 + [(None, [EndOfStream()])], still=5)
    assert resets == []


async def test_a_first_start_has_no_gap(play):
    put, _, _ = await play([(None, [GOOD, EndOfStream()])])
    assert of(put, "gap") == []


async def test_a_misconfigured_device_says_so_once_and_does_not_end_the_task(play):
    put, collector, _ = await play([(ConfigError("unit id 300 does not exist"), ())])
    assert collector.state == "misconfigured"
    assert "unit id 300" in collector.error
    assert events(put) == ["adapter_misconfigured"]


async def test_a_bug_in_an_adapter_reaches_the_supervisor_and_the_connection_is_closed(play):
    with pytest.raises(ZeroDivisionError):
        await play([(None, [GOOD, ZeroDivisionError()])])


async def test_a_device_that_has_only_events_is_up_before_the_first_of_them(play):
    put, collector, _ = await play([(None, [NotConnected("reset")]), (None, [])], tags=())
    assert events(put) == ["adapter_up", "adapter_down", "adapter_up"]
    assert collector.state == "up"
    assert of(put, "gap") == []


async def test_another_plan_goes_on_without_an_event_and_a_pause_of_two_periods_is_a_gap(manual_clock):
    """One tag is read every second, one every minute: a pause of 10 s is a gap of the first only."""
    put: list[tuple[str, pa.RecordBatch]] = []

    async def record(kind, batch):
        put.append((kind, batch))
        return len(put)

    async def play(batches):
        """Run until so many batches more were put, or to the end."""
        wanted = len(put) + batches
        run = asyncio.create_task(collector.run())
        await until(lambda: len(put) >= wanted or run.done(), 20)
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)

    tags = [make_tag(0), make_tag(1, period_us=60_000_000)]
    first = ScriptedAdapter([((), (GOOD,))])
    collector = Collector("press", first, tags, put=record, clock=manual_clock, rng=random.Random(1), log=structlog.get_logger())
    await play(2)
    stopped = collector._last_batch_us
    second = ScriptedAdapter([((), (rows([0, 1], [1.0, 2.0], time_us=stopped + 10_000_000),))])
    collector.replan(second, tags)
    await play(2)
    assert (first.closed, second.closed) == (1, 1)
    assert events(put) == ["adapter_up"]
    (gap,) = of(put, "gap")
    assert gap.select(["tag", "cause"]).to_pylist() == [{"tag": 0, "cause": "replanned"}]
    assert len(of(put, "telemetry")) == 2

    collector.replan(ScriptedAdapter([((), (rows([0, 1], [1.0, 2.0], time_us=collector._last_batch_us + 1_500_000),))]), tags)
    await play(1)
    assert len(of(put, "gap")) == 1

    collector.replan(ScriptedAdapter([(NotConnected("away"), ()), (EndOfStream(), ())]), tags)
    await play(3)
    assert events(put) == ["adapter_up", "adapter_down", "adapter_finished"]
