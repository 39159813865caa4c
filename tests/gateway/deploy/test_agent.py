"""The agent on a running pipeline: wishes are carried out whole or not at all, survive a restart, and lose no row."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from prometheus_client import generate_latest
from structlog.testing import capture_logs

from gateway import logs
from gateway.deploy.agent import ShadowAgent
from gateway.metrics import registry_for
from gateway.troubles import Troubles
from schemas.errors import Busy, ConfigError, NotConnected
from schemas.span import Command
from tests.gateway.samples import until as until_
from tests.gateway.test_supervisor import Device, Sink, opened, quick

__all__ = ["opened", "quick"]  # fixtures


async def until(condition, timeout_s=20.0):
    await until_(condition, timeout_s)


class Keeper(Sink):
    """A sink whose service keeps a shadow."""

    report_bytes = 8192

    def __init__(self, **options):
        super().__init__(**options)
        self.reports, self.raises = [], []

    async def report(self, state):
        if self.raises:
            raise self.raises.pop(0)
        if not self.reports or self.reports[-1] != state:
            self.reports.append(state)

    def desire(self, version=1, **wishes):
        self.orders.put_nowait(Command("desired", "core", {"document": json.dumps(wishes), "version": version}))


@pytest.fixture
def level():
    before = logs.level()
    yield
    logs.set_level(before)


@pytest.fixture
def kept(opened, level):
    """A plant whose sink `broker` keeps the shadow; its devices are made anew as often as they are planned anew."""

    async def open_(**options):
        plant = await opened()
        p = plant.pipeline
        plant.keeper = p.sinks["broker"] = Keeper()
        delivery = next(one for one in p.deliveries if one.name == "broker")
        delivery._sink = plant.sinks["broker"] = plant.keeper
        plant.planned, plant.seen = [], []

        def adapter_of(configuration, name, tags, last_seen_us):
            plant.seen.append(last_seen_us)
            mine = [tag for tag in tags if tag.adapter == name]
            device = Device(mine[0].id)
            plant.planned.append((name, [tag.period_us for tag in mine], device))
            return device, mine

        p.adapter_of = adapter_of
        plant.supervisor._agent = plant.agent = ShadowAgent(
            p, "broker", plant.keeper, plant.supervisor._replan, **{"pace_s": 0.0, "every_s": 3600.0, **options}
        )
        return plant

    return open_


def last(plant):
    return plant.keeper.reports[-1] if plant.keeper.reports else {}


def delivery_of(plant, name):
    return next(one for one in plant.pipeline.deliveries if one.name == name)


async def test_it_reports_its_parts_and_no_tag(kept):
    plant = await kept()
    async with plant.running():
        await until(lambda: last(plant).get("counts", {}).get("adapters") == {"up": 2})
    told = last(plant)
    assert told["adapters"]["press"] == {"state": "up", "scan_classes": ["1s"]}
    assert told["sinks"] == {"lake": {"state": "up", "paused": False}, "broker": {"state": "up", "paused": False}}
    assert told["models"] == {"limits": "limits 1"}
    assert told["version"]
    assert told["spool"]["bytes"] > 0
    assert "temp" not in json.dumps(told)


async def test_a_paused_sink_gets_nothing_loses_nothing_and_raises_no_alarm(kept):
    plant = await kept()
    p = plant.pipeline
    async with plant.running():
        await until(lambda: plant.delivered("lake") > 3)
        plant.keeper.desire(sinks={"lake": {"paused": True}})
        await until(lambda: last(plant).get("sinks", {}).get("lake", {}).get("paused") is True)
        before, other = plant.delivered("lake"), plant.delivered("broker")
        await until(lambda: plant.delivered("broker") > other + 20)
        assert plant.delivered("lake") <= before + 2  # the write that was under way
        assert p.spool.account("telemetry", "lake").spooled > 10
        assert 'genba_sink_paused{sink="lake"} 1.0' in _metrics(p)
        assert 'genba_sink_paused{sink="broker"} 0.0' in _metrics(p)
        delivery = delivery_of(plant, "lake")
        delivery.state, delivery.since_us = "down", 0
        assert not [one for one in Troubles(p)._conditions(p.clock.now_us(), 10**12) if one.subject == "lake" and one.active]
        delivery.state = "up"
        plant.keeper.desire(2)
        await until(lambda: p.spool.account("telemetry", "lake").spooled < 5)
        assert delivery.overdue_s() < 1.0
    numbers = plant.sinks["lake"].rows()
    assert numbers == list(range(len(numbers)))


async def test_a_stop_waits_for_no_sink_that_is_paused_and_its_rows_come_after_the_restart(kept):
    plant = await kept()
    async with plant.running():
        plant.keeper.desire(sinks={"lake": {"paused": True}})
        await until(lambda: last(plant).get("sinks", {}).get("lake", {}).get("paused") is True)
        await until(lambda: plant.pipeline.spool.account("telemetry", "lake").spooled > 10)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    held = plant.delivered("lake")
    again = await kept()
    async with again.running():
        await until(lambda: again.pipeline.spool.account("telemetry", "broker").delivered > held + 20)
        assert delivery_of(again, "lake").paused  # nobody has told it since: it was kept
        assert again.delivered("lake") == 0
        again.keeper.desire(9)
        await until(lambda: again.delivered("lake") > 20)
    numbers = plant.sinks["lake"].rows() + again.sinks["lake"].rows()
    assert numbers == list(range(len(numbers)))


async def test_another_scan_class_is_planned_anew_and_rows_stay_those_of_the_tag(kept):
    plant = await kept()
    p = plant.pipeline
    ids = {tag.path: tag.id for tag in p.tags}
    before, robot = plant.devices["press"], plant.devices["robot"]
    async with plant.running():
        await until(lambda: before.sent > 3)
        p.models.alarms.condition(
            "x", subject="press", asset="a", active=True, now=p.clock.now_us(), severity="info", problem="", action=""
        )
        plant.keeper.desire(adapters={"press": {"scan": "5s"}})
        await until(lambda: last(plant).get("adapters", {}).get("press", {}).get("scan") == "5s")
        ((name, periods, after),) = plant.planned
        assert (name, periods) == ("press", [5_000_000])
        assert abs(plant.seen[0] - p.clock.now_us()) < 60e6  # and not the end of the run before: history is fetched from there
        await until(lambda: after.sent > 3)
        assert before.closed == 1
        assert robot.closed == 0
        assert {tag.path: tag.id for tag in p.tags} == ids
        assert last(plant)["adapters"]["press"]["scan_classes"] == ["5s"]
        assert p.registry[ids["acme/osaka/press/temp"]].period_us == 5_000_000
        assert [entry.alarm for entry in p.alarms.active()] == ["x"]  # models and alarms go along
        sent = after.sent
        plant.keeper.desire(2)
        await until(lambda: len(plant.planned) == 2)
        assert plant.planned[1][1] == [1_000_000]
        await until(lambda: plant.planned[1][2].sent > 3 and after.closed == 1)
        assert sent <= after.sent
    numbers = plant.sinks["lake"].rows()
    assert numbers == list(range(len(numbers)))
    assert plant.sinks["lake"].rows("gap") == []


async def test_a_scan_class_is_wished_for_before_the_first_reading_of_the_next_run(kept):
    plant = await kept()
    async with plant.running():
        plant.keeper.desire(adapters={"press": {"scan": "5s"}})
        await until(lambda: len(plant.planned) == 1)
        await until(lambda: last(plant).get("adapters", {}).get("press", {}).get("scan") == "5s")
    again = await kept()
    async with again.running():
        ((name, periods, device),) = again.planned
        assert (name, periods) == ("press", [5_000_000])
        await until(lambda: device.sent > 3)
        assert again.devices["press"].connects == 0
        assert [tag.period_us for tag in again.pipeline.tags] == [5_000_000, 1_000_000]


async def test_the_log_level(kept):
    plant = await kept()
    logs.set_level("info")
    async with plant.running():
        plant.keeper.desire(log_level="error")
        await until(lambda: last(plant).get("log_level") == "error")
        assert logs.level() == "error"
        plant.keeper.desire(2)
        await until(lambda: last(plant).get("log_level") == "info")


async def test_a_wrong_wish_is_refused_whole_and_said(kept):
    plant = await kept()
    async with plant.running():
        plant.keeper.desire(log_level="error", sinks={"lake": {"paused": True}})
        await until(lambda: last(plant).get("log_level") == "error")
        plant.keeper.desire(2, log_level="debug", adapters={"pres": {"scan": "5s"}})
        await until(lambda: bool(last(plant).get("errors")))
        (error,) = last(plant)["errors"]
        assert (error["code"], error["key"], error["message"]) == ("E012", "adapters.pres", "unknown key")
        assert "press" in error["hint"]
        assert last(plant)["log_level"] == "error"  # what was in force before stays
        assert delivery_of(plant, "lake").paused
        assert plant.planned == []
        plant.keeper.desire(3)
        await until(lambda: last(plant).get("errors") == [])
        assert not delivery_of(plant, "lake").paused


async def test_what_cannot_be_carried_out_changes_nothing_and_is_tried_again(kept):
    plant = await kept(retry_s=0.5)
    made = plant.pipeline.adapter_of
    refusals = [ConfigError("the certificate is gone")]

    def adapter_of(*given):
        if refusals:
            raise refusals.pop()
        return made(*given)

    plant.pipeline.adapter_of = adapter_of
    async with plant.running():
        plant.keeper.desire(adapters={"press": {"scan": "5s"}}, sinks={"lake": {"paused": True}})
        await until(lambda: bool(last(plant).get("errors")))
        assert "the certificate is gone" in last(plant)["errors"][0]["message"]
        assert not delivery_of(plant, "lake").paused
        assert plant.devices["press"].closed == 0
        await until(lambda: last(plant).get("errors") == [] and delivery_of(plant, "lake").paused)  # it is tried again


async def test_wishes_that_failed_are_not_tried_again_once_something_else_is_desired(kept):
    plant = await kept(retry_s=0.2)

    def adapter_of(*given):
        plant.seen.append(given)
        raise ConfigError("the certificate is gone")

    plant.pipeline.adapter_of = adapter_of
    async with plant.running():
        plant.keeper.desire(log_level="error")
        await until(lambda: last(plant).get("log_level") == "error")
        plant.keeper.desire(2, log_level="error", adapters={"press": {"scan": "5s"}})
        await until(lambda: len(plant.seen) > 1)
        plant.keeper.desire(3, log_level="error")
        await until(lambda: last(plant).get("errors") == [])
        tried = len(plant.seen)
        await asyncio.sleep(1.5)
        assert len(plant.seen) == tried
        assert last(plant)["log_level"] == "error"


async def test_only_the_sink_with_the_shadow_is_obeyed(kept):
    plant = await kept()
    async with plant.running():
        await until(lambda: bool(plant.keeper.reports))
        plant.sinks["lake"].orders.put_nowait(Command("desired", "lake", {"document": '{"log_level": "error"}', "version": 1}))
        plant.keeper.desire(sinks={"lake": {"paused": True}})
        await until(lambda: delivery_of(plant, "lake").paused)
        assert last(plant)["log_level"] != "error"


async def test_a_shadow_that_cannot_be_kept_is_said_once_and_stops_nothing(kept):
    plant = await kept()
    plant.keeper.raises = [NotConnected("away"), Busy(0.0, "slower"), ConfigError("not allowed")]
    with capture_logs() as logged:
        async with plant.running():
            await until(lambda: not plant.keeper.raises, 10)
            await until(lambda: plant.delivered("broker") > 5)
    assert [entry["error"] for entry in logged if entry["event"] == "the shadow cannot be kept"] == ["not allowed"]


async def test_a_damaged_file_of_wishes_counts_as_none(kept, tmp_path):
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "shadow.json").write_bytes(b'{"log_le')
    plant = await kept()
    async with plant.running():
        await until(lambda: bool(plant.keeper.reports))
    assert last(plant)["errors"] == []


def _metrics(pipeline):
    return generate_latest(registry_for(pipeline)).decode()
