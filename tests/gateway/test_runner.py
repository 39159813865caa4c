"""The models as a consumer of a real spool: from memory, from disk, across crashes, and beside failing disks."""

from __future__ import annotations

import asyncio
import errno
import json
from contextlib import asynccontextmanager, suppress

import numpy as np
import pytest
import structlog
from structlog.testing import capture_logs

from edge_models.runtime import ModelSet, Outputs
from gateway import catalogue
from gateway.runner import ModelRunner
from schemas.kinds import make_batch
from schemas.span import Command
from schemas.tags import Limits
from tests.gateway.samples import make_tag, rows, until
from tests.gateway.spool.conftest import FaultyStorage, crash

START_US = 1_767_225_600_000_000
TAGS = [make_tag(0, limits=Limits(high=90.0)), make_tag(1)]


class ScriptedModels:
    """Stands where a ModelSet does: notes rows and ticks, and crashes on rows it is told to."""

    names = ("scripted",)
    executors: dict[str, object] = {}  # noqa: RUF012

    def __init__(self, *, poison=(), times=1 << 30, outputs=None):
        self.seen: list[int] = []
        self.ticks: list[int] = []
        self.cuts: list[tuple[int, int]] = []
        self.poison, self.times, self.outputs = set(poison), times, outputs

    def update(self, batch, now):
        numbers = batch.column("seq").to_pylist()
        if self.poison.intersection(numbers) and self.times:
            self.times -= 1
            raise ZeroDivisionError
        self.seen += numbers
        self.cuts.append((numbers[0], numbers[-1]))
        return self.outputs() if self.outputs else Outputs()

    def tick(self, now):
        self.ticks.append(now)
        return Outputs()

    def snapshot(self):
        return b"state"

    def restore(self, state):
        return {} if state == b"state" else {"scripted": "damaged"}

    def replay_alerts(self, alerts, *, events, now):
        return None

    def remember(self, batch):
        pass


def limits():
    """Limits of 90 on tag 0, as the gateway builds them."""
    return ModelSet.build({}, TAGS, lambda kind: catalogue.plugin("models", kind))


class Rig:
    """One run of a gateway: spool, models and the runner between them."""

    def __init__(self, spool, models, clock, directory, *, keep=("alert",), **options):
        self.spool, self.models = spool, models
        self.runner = ModelRunner(
            models, spool=spool, put=spool.put, keep=keep, clock=clock, directory=directory, log=structlog.get_logger(), **options
        )  # fmt: skip

    async def put(self, values, *, offer=True, tag=0):
        end = self.spool.end("telemetry")
        batch = rows([tag] * len(values), values, time_us=[START_US + 1_000_000 * (end + n) for n in range(len(values))])
        first = await self.spool.put("telemetry", batch)
        if offer:
            self.runner.offer(first, batch)
        return first

    async def finished(self):
        self.runner.finish()
        await asyncio.wait_for(self.runner.run(), 5)

    async def alerts(self):
        await self.spool.flush()
        found = await self.spool.read("alert", 0, max_rows=10_000)
        return [(row["transition"], row["onset_seq"], row["id"]) for _, batch in found for row in batch.to_pylist()]


@pytest.fixture
def start(open_spool, manual_clock, tmp_path):
    """Start a gateway's spool, models and runner, restored from what is there."""

    async def start_(models=None, *, spool=None, restore=True, **options):
        spool = spool or await open_spool()
        rig = Rig(spool, models if models is not None else limits(), manual_clock, tmp_path / "models", **options)
        if restore:
            await rig.runner.restore()
        return rig

    return start_


@asynccontextmanager
async def running(rig):
    task = asyncio.create_task(rig.runner.run())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


# Where rows come from


async def test_rows_are_scored_from_memory_before_they_are_durable(start, open_spool):
    rig = await start(ScriptedModels(), spool=await open_spool(commit_every_s=60))
    async with running(rig):
        await rig.put([1.0, 2.0, 3.0])
        await until(lambda: rig.models.seen == [0, 1, 2], 1)
        assert rig.spool.durable("telemetry") == 0
        assert rig.runner.behind_rows == 0


async def test_what_does_not_fit_into_memory_is_read_from_disk_each_row_once_and_in_order(start):
    rig = await start(ScriptedModels(), max_rows=50)
    for _ in range(30):
        await rig.put([1.0] * 10)
    assert rig.runner.behind_rows == 300
    assert rig.runner._memory_rows <= 50
    async with running(rig):
        await until(lambda: rig.runner.behind_rows == 0)
        await rig.put([1.0] * 10)
        await until(lambda: len(rig.models.seen) == 310)
    assert rig.models.seen == list(range(310))


async def test_rows_nobody_offered_are_read_from_disk(start):
    rig = await start(ScriptedModels())
    await rig.put([1.0] * 5, offer=False)
    await rig.put([1.0] * 5)
    await rig.finished()
    assert rig.models.seen == list(range(10))


async def test_one_batch_larger_than_the_bound_is_still_taken_from_memory(start):
    rig = await start(ScriptedModels(), max_rows=5)
    await rig.put([1.0] * 20)
    await rig.finished()
    assert rig.models.cuts == [(0, 19)]


def wave(count):
    """Up and down through the limit."""
    return (90 + 20 * np.sin(np.arange(count) / 7 - 1.3)).tolist()


@pytest.mark.parametrize("max_rows", [10, 1_000_000])
async def test_alerts_are_the_same_from_memory_and_from_disk(start, max_rows):
    rig = await start(max_rows=max_rows)
    for at in range(0, 400, 20):
        await rig.put(wave(400)[at : at + 20])
    await rig.finished()
    found = await rig.alerts()
    assert [onset for transition, onset, _ in found if transition == "raised"] == RAISED
    assert len({identity for transition, _, identity in found if transition == "raised"}) == len(RAISED)


RAISED = [n for n in range(1, 400) if wave(400)[n] > 90 >= wave(400)[n - 1]]


# Crashes


async def test_after_a_crash_models_resume_at_the_row_of_the_snapshot(start):
    rig = await start(ScriptedModels())
    await rig.put([1.0] * 10)
    await rig.finished()
    await rig.put([1.0] * 5)
    await rig.spool.flush()
    crash(rig.spool)
    again = await start(ScriptedModels())
    assert again.runner.cursor == 10
    assert again.runner.behind_rows == 5
    await again.finished()
    assert again.models.seen == [10, 11, 12, 13, 14]


@pytest.mark.parametrize("at", [100, 150, 190])
async def test_alerts_told_before_a_crash_are_not_told_again_and_none_is_missing(start, at):
    values = wave(400)
    rig = await start()
    await rig.put(values[:100])
    async with running(rig):
        await until(lambda: rig.runner.behind_rows == 0)
        await rig.runner.snapshot()
        await rig.put(values[100:at])
        await until(lambda: rig.runner.behind_rows == 0)
        await rig.spool.flush()
    crash(rig.spool)  # the rows after the snapshot will be scored a second time
    again = await start()
    assert again.runner.cursor == 100
    await again.put(values[at:])
    await again.finished()
    found = await again.alerts()
    assert [onset for transition, onset, _ in found if transition == "raised"] == RAISED
    told = [(transition, identity) for transition, _, identity in found]
    assert len(told) == len(set(told))


async def test_what_a_person_put_aside_is_stored_at_once(start):
    rig = await start()
    async with running(rig):
        await rig.put([95.0])
        await until(lambda: rig.models.alarms.active() != [])
        (alarm,) = rig.models.alarms.active()
        now = rig.models.alarms.active()[0].since_us
        told = rig.models.alarms.command(Command("shelve", "test", {"id": alarm.id, "for": "30d"}), now)
        await rig.spool.put("event", told.events)
        await rig.spool.flush()
        before = rig.runner.stored
        rig.runner.store_soon()
        await until(lambda: rig.runner.stored > before)
    crash(rig.spool)
    again = await start()
    assert again.models.alarms.aside() == rig.models.alarms.aside() != []
    assert [entry.state for entry in again.models.alarms.active()] == ["shelved"]


async def test_what_a_person_put_aside_survives_a_crash_before_the_state_is_stored(start):
    rig = await start()
    async with running(rig):
        await rig.put([95.0])
        await until(lambda: rig.models.alarms.active() != [])
    (alarm,) = rig.models.alarms.active()
    told = rig.models.alarms.command(Command("shelve", "test", {"id": alarm.id, "for": "30d"}), alarm.since_us)
    await rig.spool.put("event", told.events)
    await rig.spool.put("alert", told.alerts)
    await rig.spool.flush()
    crash(rig.spool)
    again = await start()
    assert again.models.alarms.aside() == rig.models.alarms.aside() != []
    async with running(again):
        await until(lambda: again.runner.behind_rows == 0)
        await until(lambda: [entry.state for entry in again.models.alarms.active()] == ["shelved"])
    assert [transition for transition, _, _ in await again.alerts()] == ["raised", "shelved"]


async def test_the_first_alarm_after_a_restart_has_the_readings_from_before_it(start):
    rig = await start()
    await rig.put([20.0] * 30)
    await rig.finished()
    await rig.spool.close()
    again = await start()
    await again.put([95.0])
    await again.finished()
    await again.spool.flush()
    ((_, batch),) = await again.spool.read("alert", 0, max_rows=10)
    context = json.loads(batch.column("context")[0].as_py())
    assert [value for _, value in context] == [20.0] * 30 + [95.0]


async def test_a_gateway_that_never_lives_until_its_first_snapshot_forgets_no_alert_either(start):
    """Found by tests/chaos/day: killed in its first minute, it began at the end of the log again, and rows in between were never scored."""
    values = wave(400)
    rig = await start()
    for at in range(0, 400, 80):
        await rig.put(values[at : at + 80])
        if at % 160:  # killed before they were scored, or after
            async with running(rig):
                await until(lambda rig=rig: rig.runner.behind_rows == 0)
        await rig.spool.flush()
        crash(rig.spool)
        rig = await start()
    await rig.finished()
    found = await rig.alerts()
    assert [onset for transition, onset, _ in found if transition == "raised"] == RAISED
    told = [(transition, identity) for transition, _, identity in found]
    assert len(told) == len(set(told))


async def test_a_first_start_begins_at_the_end_of_the_log(start, open_spool):
    spool = await open_spool()
    await spool.put("telemetry", rows([0] * 5, [1.0] * 5))
    await spool.flush()
    rig = await start(ScriptedModels(), spool=spool)
    assert rig.runner.cursor == 5
    assert rig.spool.ledger.pin_of("telemetry", "models").row == 5


async def test_a_snapshot_of_rows_that_were_never_durable_is_not_used_and_does_not_hide_later_ones(start, tmp_path):
    rig = await start(ScriptedModels())
    await rig.put([1.0] * 10)
    await rig.finished()
    await rig.spool.close()
    (tmp_path / "models" / f"state-{5_000:014d}.bin").write_bytes(b"state")
    again = await start(ScriptedModels())
    assert again.runner.cursor == 10
    await again.put([1.0] * 5)
    await again.finished()
    await again.spool.close()
    third = await start(ScriptedModels())
    assert third.runner.cursor == 15


async def test_a_damaged_snapshot_is_said_and_the_one_before_is_taken(start, tmp_path):
    rig = await start(ScriptedModels())
    for _ in range(2):
        await rig.put([1.0] * 10)
        rig.runner._finishing = False
        await rig.finished()
    await rig.spool.close()
    (tmp_path / "models" / f"state-{20:014d}.bin").write_bytes(b"torn")
    with capture_logs() as said:
        again = await start(ScriptedModels())
    assert [line["snapshot"] for line in said if line["event"] == "model starts fresh"] == ["state-00000000000020.bin"]
    assert again.runner.cursor == 10
    await again.finished()
    assert again.models.seen == list(range(10, 20))  # the pin held them


async def test_without_a_usable_snapshot_models_start_fresh_say_so_and_score_what_was_not_scored(start, tmp_path):
    rig = await start()
    await rig.put([50.0] * 10)
    await rig.finished()
    await rig.spool.close()
    for path in (tmp_path / "models").glob("state-*"):
        path.write_bytes(b"nonsense")
    with capture_logs() as said:
        again = await start()
    assert {line["model"] for line in said if line["event"] == "model starts fresh"} == {"limits"}
    await again.put([50.0, 95.0])
    await again.finished()
    assert [(t, onset) for t, onset, _ in await again.alerts()] == [("raised", 11)]


async def test_rows_between_the_two_snapshots_are_held_for_the_models(start):
    rig = await start(ScriptedModels())
    for expected in (0, 10, 20):
        rig.runner._finishing = False
        await rig.put([1.0] * 10)
        await rig.finished()
        assert rig.spool.ledger.pin_of("telemetry", "models").row == expected


async def test_models_that_crash_on_rows_try_once_more_and_then_go_on_behind_them(start):
    rig = await start(ScriptedModels(poison=[3]))
    await rig.put([1.0] * 6)
    await rig.put([1.0] * 4)
    for _ in range(2):
        with suppress(ZeroDivisionError):
            await rig.finished()
    assert rig.runner.behind_rows == 0
    await rig.put([1.0] * 4)
    with capture_logs() as said:
        await rig.finished()
    assert rig.models.seen[-4:] == [10, 11, 12, 13]
    assert said == []


async def test_models_that_crash_once_lose_no_row(start):
    rig = await start(ScriptedModels(poison=[3], times=1))
    await rig.put([1.0] * 6)
    with pytest.raises(ZeroDivisionError):
        await rig.finished()
    await rig.finished()
    assert rig.models.seen == list(range(6))


# Beside a failing disk


async def test_a_disk_that_takes_no_snapshot_is_said_once_and_is_no_crash(start, tmp_path):
    (tmp_path / "models").write_text("a file where the directory should be")
    with capture_logs() as said:
        rig = await start(ScriptedModels(), snapshot_every_s=0.0)
        async with running(rig) as task:
            for _ in range(5):
                await rig.put([1.0])
                await until(lambda: rig.runner.behind_rows == 0)
                await asyncio.sleep(0.02)
            assert not task.done()
            assert [line["event"] for line in said].count("the state of the models cannot be stored") == 1
            await asyncio.to_thread((tmp_path / "models").unlink)
            await rig.put([1.0])
            await until(lambda: (tmp_path / "models").is_dir() and any((tmp_path / "models").glob("state-*")))
            await until(lambda: rig.runner.behind_rows == 0)
    assert rig.models.seen == list(range(6))


async def test_a_spool_that_cannot_store_does_not_crash_the_models_which_go_on_from_memory(start, open_spool, monkeypatch):
    storage = FaultyStorage()
    spool = await open_spool(storage=storage)
    flush = spool.flush

    async def impatient(kind=None, *, patience_s=5.0):
        await flush(kind, patience_s=0.05)

    monkeypatch.setattr(spool, "flush", impatient)
    rig = await start(ScriptedModels(), spool=spool, snapshot_every_s=0.0)
    storage.fail("write", errno.ENOSPC)
    async with running(rig) as task:
        for _ in range(3):
            await rig.put([1.0] * 5)
            await until(lambda: rig.runner.behind_rows == 0)
        await asyncio.sleep(0.2)
        assert not task.done()
        storage.heal()
        await until(lambda: rig.spool.durable("telemetry") == 15)
    assert rig.models.seen == list(range(15))


# Outputs and time


def batch_of(kind):
    return make_batch(kind, 2, time=0)


@pytest.mark.parametrize("keep", [("alert",), ("alert", "health"), ("alert", "health", "score")])
async def test_scores_and_health_are_stored_only_where_somebody_wants_them_alerts_and_events_always(start, keep):
    outputs = lambda: Outputs([batch_of("score")], [batch_of("alert")], [batch_of("health")], [batch_of("event")])  # noqa: E731
    rig = await start(ScriptedModels(outputs=outputs), keep=keep)
    await rig.put([1.0])
    await rig.finished()
    await rig.spool.flush()
    assert {kind: rig.spool.end(kind) for kind in ("alert", "health", "score")} == {
        kind: 2 if kind in keep else 0 for kind in ("alert", "health", "score")
    }
    assert rig.runner.alerts == rig.spool.end("event") == 2


async def test_alerts_are_stored_though_no_sink_takes_them(start):
    rig = await start(keep=())
    await rig.put([50.0, 95.0])
    await rig.finished()
    assert [t for t, _, _ in await rig.alerts()] == ["raised"]


async def test_models_are_told_that_time_passes_while_nothing_arrives(start, manual_clock):
    rig = await start(ScriptedModels())
    async with running(rig):
        await until(lambda: rig.models.ticks, 3)
    assert rig.models.ticks == [manual_clock.now_us()]


async def test_the_time_that_models_see_never_decreases(start, manual_clock):
    times = []
    models = ScriptedModels()
    rig = await start(models)
    plain = models.update
    models.update = lambda batch, now: (times.append(now), plain(batch, now))[1]
    async with running(rig):
        for step in (0, 10, -3600, 5):
            manual_clock.step(step)
            await rig.put([1.0])
            await until(lambda: rig.runner.behind_rows == 0)
    assert times == sorted(times)
    assert len(times) == 4


async def test_finish_scores_what_is_there_and_stores_a_snapshot(start, tmp_path):
    rig = await start(ScriptedModels())
    async with running(rig) as task:
        await rig.put([1.0] * 3)
        rig.runner.finish()
        await asyncio.wait_for(task, 2)
    assert rig.models.seen == [0, 1, 2]
    assert (tmp_path / "models" / f"state-{3:014d}.bin").exists()
    assert rig.spool.ledger.pin_of("telemetry", "models").row == 0  # of the one before
