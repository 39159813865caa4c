"""A whole pipeline with scripted devices and sinks: crashes, the order of stopping, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import errno
import random
import sys
import textwrap
import threading
import time
import traceback
from contextlib import asynccontextmanager

import pytest
import structlog
from structlog.testing import capture_logs

from gateway import config, supervisor
from gateway.clock import WallClock
from gateway.pipeline import open_pipeline
from gateway.supervisor import Supervisor
from schemas.errors import ConfigError
from schemas.span import Command
from tests.gateway.deliveries import ScriptedSink
from tests.gateway.samples import rows, until
from tests.gateway.spool.conftest import FaultyStorage

PLANT = """
enterprise: acme
site: osaka
gateway: gw-1
status: {listen: null}
spool: {commit_every: 10ms}
adapters:
  press: {kind: modbus, endpoint: "tcp://127.0.0.1:1", tags: {temp: {address: "hr:0", type: float64, limits: {high: 90}}}}
  robot: {kind: modbus, endpoint: "tcp://127.0.0.1:1", tags: {load: {address: "hr:0", type: float64}}}
sinks:
  lake: {kind: parquet, location: ./lake}
  broker: {kind: mqtt, endpoint: "mqtt://127.0.0.1:1"}
routes:
  - {data: telemetry, to: [lake, broker]}
"""


class Device:
    """An adapter that hands over one row every 10 ms, and does what a test tells it to."""

    def __init__(self, tag):
        self.tag, self.value = tag, 1.0
        self.raises: list[Exception] = []
        self.sent = self.connects = self.closed = 0
        self.close = None

    async def connect(self):
        self.connects += 1
        if self.raises:
            raise self.raises.pop(0)

    async def batches(self):
        while True:
            if self.raises:
                raise self.raises.pop(0)
            yield rows([self.tag], [self.value], time_us=time.time_ns() // 1000)
            self.sent += 1
            await asyncio.sleep(0.01)

    async def aclose(self):
        self.closed += 1
        if self.close is not None:
            await self.close()


class Sink(ScriptedSink):
    """A sink that is also commanded."""

    def __init__(self, **options):
        super().__init__(**options)
        self.orders: asyncio.Queue = asyncio.Queue()
        self.close = None

    async def commands(self):
        while True:
            order = await self.orders.get()
            if isinstance(order, Exception):
                raise order
            yield order

    async def aclose(self):
        self.closed += 1
        if self.close is not None:
            await self.close()


class Plant:
    """The pipeline of PLANT, its devices and sinks replaced by scripted ones."""

    def __init__(self, pipeline, **options):
        self.pipeline = pipeline
        self.devices, self.sinks = {}, {}
        for collector in pipeline.collectors:
            self.devices[collector.name] = collector._adapter = Device(collector.tags[0].id)
            collector._backoff._first_s = collector._backoff._max_s = 0.01
        for delivery in pipeline.deliveries:
            self.sinks[delivery.name] = pipeline.sinks[delivery.name] = delivery._sink = Sink()
            delivery._backoff._first_s = delivery._backoff._max_s = 0.01
        self.supervisor = Supervisor(pipeline, rng=random.Random(1), **options)
        self.stop = asyncio.Event()

    @asynccontextmanager
    async def running(self, within_s=10.0):
        task = asyncio.create_task(self.supervisor.run(self.stop))
        await asyncio.wait({task, asyncio.ensure_future(self.supervisor.ready.wait())}, return_when=asyncio.FIRST_COMPLETED)
        try:
            yield task
        finally:
            self.stop.set()
            await asyncio.wait_for(task, within_s)

    def delivered(self, name):
        return len(self.sinks[name].rows())


@pytest.fixture
def quick(monkeypatch):
    """Restarts and cut-offs without their production waits."""
    monkeypatch.setattr(supervisor, "_LET_GO_S", 0.2)
    plain = supervisor.Backoff
    monkeypatch.setattr(supervisor, "Backoff", lambda rng, **_: plain(rng, first_s=0.01, max_s=0.02))


@pytest.fixture
def opened(tmp_path, quick):
    """Open the pipeline in tmp_path, as a process would at its start."""

    async def open_(**options):
        path = tmp_path / "plant.yaml"
        path.write_text(PLANT, encoding="utf-8")
        configuration = await asyncio.to_thread(config.load, path)
        pipeline = await open_pipeline(configuration, clock=WallClock(), log=structlog.get_logger(), rng=random.Random(1))
        return Plant(pipeline, **options)

    return open_


async def test_rows_of_every_device_reach_every_sink_and_a_stop_leaves_none_behind(opened):
    plant = await opened()
    async with plant.running():
        await until(lambda: plant.delivered("lake") > 10)
    sent = sum(device.sent for device in plant.devices.values())
    end = plant.pipeline.spool.end("telemetry")
    assert end >= sent
    assert plant.sinks["lake"].rows() == plant.sinks["broker"].rows() == list(range(end))
    assert all(device.closed == 1 for device in plant.devices.values())
    assert plant.pipeline.runner.behind_rows == 0
    for delivery in plant.pipeline.deliveries:
        for kind in delivery.kinds:
            account = plant.pipeline.spool.account(kind, delivery.name)
            assert account.spooled == 0
            assert account.read == account.delivered + account.filtered + account.dropped + account.dead_lettered


async def test_the_stop_is_in_order_devices_models_sinks_spool(opened):
    plant = await opened()
    order = []

    def note(what):
        async def closed():
            order.append(what)

        return closed

    for name, device in plant.devices.items():
        device.close = note(f"device {name}")
    for name, sink in plant.sinks.items():
        sink.close = note(f"sink {name}")
    store, close = plant.pipeline.runner.snapshot, plant.pipeline.spool.close

    async def snapshot():
        await store()
        order.append("models")

    async def close_spool():
        order.append("spool")
        await close()

    plant.pipeline.runner.snapshot, plant.pipeline.spool.close = snapshot, close_spool
    async with plant.running():
        await until(lambda: plant.delivered("lake") > 3)
        order.clear()  # the models were stored at the start too
    assert [what.split()[0] for what in order] == ["device", "device", "models", "sink", "sink", "spool"]


async def test_alerts_from_rows_collected_last_are_scored_and_delivered_before_the_end(opened):
    plant = await opened()
    async with plant.running():
        await until(lambda: plant.delivered("broker") > 3)
        plant.devices["press"].value = 95.0
        sent = plant.devices["press"].sent
        await until(lambda: plant.devices["press"].sent > sent + 1)
    assert plant.sinks["broker"].rows("alert") == [0]


@pytest.mark.parametrize("where", ["adapter press", "sink lake", "commands of broker", "models", "troubles"])
async def test_what_crashes_is_restarted_and_counted_and_the_others_live_on(opened, where, monkeypatch):
    plant = await opened()
    crash = ZeroDivisionError("a bug")
    if where == "models":
        update, crashes = plant.pipeline.models.update, [crash]

        def buggy(batch, now):
            if crashes and batch.num_rows:
                raise crashes.pop()
            return update(batch, now)

        monkeypatch.setattr(plant.pipeline.models, "update", buggy)
    with capture_logs() as said:
        async with plant.running():
            await until(lambda: plant.delivered("lake") > 3)
            if where == "adapter press":
                plant.devices["press"].raises.append(crash)
            elif where == "sink lake":
                plant.sinks["lake"].on_write.append(crash)
            elif where == "commands of broker":
                plant.sinks["broker"].orders.put_nowait(crash)
            elif where == "troubles":
                monkeypatch.setattr(plant.supervisor._troubles, "look", lambda: (_ for _ in ()).throw(crash))
            await until(lambda: where in plant.pipeline.crashes)
            before = {name: plant.delivered(name) for name in plant.sinks}, plant.devices["press"].sent
            await until(lambda: all(plant.delivered(name) > before[0][name] + 5 for name in plant.sinks))
            await until(lambda: plant.devices["press"].sent > before[1] + 5)
    assert set(plant.pipeline.crashes) == {where}
    assert plant.pipeline.crashes[where].error == "ZeroDivisionError('a bug')"
    told = [line for line in said if line["event"] == "task crashed and is restarted"]
    assert told[0]["task"] == where
    assert told[0]["exc_info"]
    assert plant.sinks["lake"].rows() == list(range(plant.pipeline.spool.end("telemetry")))
    assert plant.pipeline.runner.behind_rows == 0


async def test_a_command_is_obeyed_and_told_and_a_wrong_one_is_refused_and_harmless(opened):
    plant = await opened()
    plant.devices["press"].value = 95.0
    with capture_logs() as said:
        async with plant.running():
            await until(lambda: plant.pipeline.alarms.active() != [])
            (alarm,) = plant.pipeline.alarms.active()
            for name, arguments in (
                ("acknowledge", {"id": "nobody"}),
                ("explode", {"id": alarm.id}),
                ("acknowledge", {"id": alarm.id}),
            ):
                plant.sinks["broker"].orders.put_nowait(Command(name, "broker", arguments))
            await until(lambda: plant.sinks["broker"].rows("alert") == [0, 1])
    assert [line["command"] for line in said if line["event"] == "command refused"] == ["acknowledge", "explode"]
    assert plant.pipeline.crashes == {}


# Stopping when something hangs


async def hang():
    await asyncio.Event().wait()


async def test_a_sink_that_hangs_costs_the_grace_and_its_rows_wait_for_the_next_start(opened, tmp_path):
    plant = await opened(grace_s=0.5)
    plant.sinks["broker"].on_write = [hang]
    async with plant.running():
        await until(lambda: plant.delivered("lake") > 3)
        began = time.monotonic()
    assert 0.4 < time.monotonic() - began < 5
    end = plant.pipeline.spool.end("telemetry")
    assert plant.sinks["lake"].rows() == list(range(end))
    assert plant.sinks["broker"].rows() == []
    again = await opened()
    async with again.running():
        await until(lambda: again.delivered("broker") > end)
    assert again.sinks["broker"].rows()[:end] == list(range(end))
    assert min(again.sinks["lake"].rows()) == end


@pytest.mark.parametrize("what", ["device", "sink"])
async def test_a_connection_that_does_not_let_go_is_cut_off_and_named(opened, what):
    plant = await opened(grace_s=0.5)
    (plant.devices["press"] if what == "device" else plant.sinks["lake"]).close = hang
    with capture_logs() as said:
        async with plant.running(within_s=5):
            await until(lambda: plant.delivered("lake") > 3)
            began = time.monotonic()
    assert time.monotonic() - began < 2
    if what == "device":
        assert [line["task"] for line in said if line["event"] == "a task does not let go and is cut off"] == ["adapter press"]


async def test_a_disk_that_takes_nothing_does_not_hold_the_stop_up(opened):
    plant = await opened(grace_s=0.5)
    storage = FaultyStorage()
    with capture_logs() as said:
        async with plant.running(within_s=8):
            await until(lambda: plant.delivered("lake") > 3)
            for log in plant.pipeline.spool._logs.values():
                log._storage = storage
            storage.fail("write", errno.ENOSPC)
            await until(lambda: plant.pipeline.spool.failure != "")
    events = [line["event"] for line in said]
    assert "the disk does not take what was collected last" in events
    assert "rows could not be made durable and are lost" in events  # said, never silent
    assert "gateway stopped" in events


async def test_nothing_is_left_behind(opened):
    tasks, threads = asyncio.all_tasks(), set(threading.enumerate())
    plant = await opened()
    async with plant.running():
        await until(lambda: plant.delivered("lake") > 3)
    await until(lambda: asyncio.all_tasks() <= tasks)

    def left() -> list[str]:
        now = set(threading.enumerate()) - threads
        return [thread.name for thread in now if not thread.name.startswith("asyncio_")]

    for _ in range(100):  # a thread that was told to end may take a moment on a busy machine
        if not left():
            break
        await asyncio.sleep(0.02)
    assert left() == []


async def test_a_spool_that_died_ends_the_process_instead_of_crashing_for_ever(opened, monkeypatch):
    plant = await opened()

    async def broken(*_):
        raise ZeroDivisionError("a bug in the commits")

    task = asyncio.create_task(plant.supervisor.run(plant.stop))
    await plant.supervisor.ready.wait()
    await until(lambda: plant.delivered("lake") > 3)
    monkeypatch.setattr(plant.pipeline.spool._commits, "_commit", broken)
    _, pending = await asyncio.wait({task}, timeout=10)
    assert not pending
    assert "spool commits ended" in "".join(traceback.format_exception(task.exception()))


# Starting


async def test_a_spool_that_another_process_has_is_what_a_person_must_see(opened, tmp_path):
    (tmp_path / "spool").mkdir()
    script = textwrap.dedent(f"""
        import asyncio, structlog
        from pathlib import Path
        from gateway.clock import WallClock
        from gateway.spool import Spool
        async def main():
            spool = await Spool.open(Path({str(tmp_path / "spool")!r}), gateway="gw-1", clock=WallClock(), log=structlog.get_logger())
            print("open", flush=True)
            await asyncio.to_thread(input)
            await spool.close()
        asyncio.run(main())
    """)
    pipe = asyncio.subprocess.PIPE
    other = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdin=pipe, stdout=pipe)
    try:
        assert await other.stdout.readline() == b"open\n"
        threads = set(threading.enumerate())
        with pytest.raises(ConfigError):
            await opened()
        await until(lambda: {t for t in threading.enumerate() if not t.name.startswith("asyncio_")} <= threads)
    finally:
        await asyncio.wait_for(other.communicate(b"\n"), 10)
    plant = await opened()  # and when the other one has gone, nothing is in the way
    async with plant.running():
        await until(lambda: plant.delivered("lake") > 0)


async def test_a_sink_that_was_added_starts_at_the_tail_and_a_removed_one_is_kept_in_mind(opened, tmp_path, monkeypatch):
    plant = await opened()
    async with plant.running():
        await until(lambda: plant.delivered("lake") > 3)
    end = plant.pipeline.spool.end("telemetry")
    monkeypatch.setattr(sys.modules[__name__], "PLANT", PLANT.replace("broker", "second"))
    again = await opened()
    async with again.running():
        await until(lambda: again.delivered("second") > 3)
    assert min(again.sinks["second"].rows()) >= end
    assert again.pipeline.spool.ledger.sinks == {"lake", "broker", "second"}


async def test_a_sink_that_was_added_with_from_oldest_gets_what_the_spool_still_holds(opened, tmp_path, monkeypatch):
    plant = await opened()
    async with plant.running():
        await until(lambda: plant.delivered("lake") > 3)
    end = plant.pipeline.spool.end("telemetry")
    text = PLANT.replace("broker", "second").replace('"mqtt://127.0.0.1:1"', '"mqtt://127.0.0.1:1", from: oldest')
    monkeypatch.setattr(sys.modules[__name__], "PLANT", text)
    again = await opened()
    oldest = again.pipeline.spool.oldest("telemetry")
    async with again.running():
        await until(lambda: again.delivered("second") > end - oldest)
    assert oldest < end
    assert again.sinks["second"].rows()[: end - oldest] == list(range(oldest, end))
