"""Events and conditions of asyncua's server as event rows, and what is made of notifications that no server should send."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from asyncua import Node, ua
from asyncua.server.event_generator import EventGenerator

from adapters.opcua import conditions
from schemas.kinds import EVENT, kind_of
from tests.adapters.opcua.plants import Live, Plant, live
from tests.adapters.opcua.rig import configure

pytestmark = pytest.mark.asyncio(loop_scope="module")
ALARM = ua.ObjectIds.OffNormalAlarmType
calls: list[int] = []  # of ConditionRefresh, by subscription


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plant() -> AsyncIterator[Plant]:
    """One server for all tests of this file (it takes a second to start); each test adds its own nodes."""
    plant = await Plant().start()
    refresh = plant.server.iserver.subscription_service.condition_refresh

    async def refreshed(parent: Any, subscription: ua.Variant) -> Any:
        calls.append(int(subscription.Value))
        return await refresh(parent, subscription)

    for kind in (ua.ObjectIds.RefreshStartEventType, ua.ObjectIds.RefreshEndEventType):
        plant.server.iserver.subscription_service.standard_events[kind] = await plant.server.get_event_generator(kind)
    plant.server.link_method(plant.server.get_node(ua.NodeId(ua.ObjectIds.ConditionType_ConditionRefresh)), refreshed)
    yield plant
    await plant.stop()


@pytest.fixture(autouse=True)
def _nobody_called(plant: Plant) -> None:
    calls.clear()
    plant.server.iserver.subscription_service._conditions.clear()  # it keeps those of interest by itself


async def press(plant: Plant, name: str) -> Node:
    """A node with its value, whose events there are."""
    await plant.add(name, 1.0)
    return plant.server.get_node(ua.NodeId(name, 2))


async def alarm(plant: Plant, source: Node) -> EventGenerator:
    found = await plant.server.get_event_generator(ALARM, plant.server.nodes.server)
    found.event.SourceNode = source.nodeid
    found.event.SourceName = "Press 7"
    found.event.ConditionName = "Overload"
    found.event.NodeId = ua.NodeId("Overload", 2)
    return found


async def trigger(generator: EventGenerator, message: str, *, active: bool, acked: bool = False, level: int = 700) -> None:
    event: Any = generator.event
    event.Severity, event.Retain = level, active or not acked
    setattr(event, "ActiveState/Id", active)
    setattr(event, "AckedState/Id", acked)
    await generator.trigger(message=message)


def of(found: Live, *names: str) -> list[dict[str, Any]]:
    return [event for event in found.events() if event["event"] in names]


DEVICE = ("device_event", "device_condition", "device_alarm")


async def test_an_alarm_becomes_a_row_about_its_tag_when_it_comes_and_when_it_goes(plant: Plant, tmp_path: Path) -> None:
    node = await press(plant, "Force")
    generator = await alarm(plant, node)
    config = configure({"force": "ns=2;s=Force"}, plant.endpoint, events=True)
    async with live(config, tmp_path) as found:
        await found.until(lambda _: calls)  # it listens
        before = datetime.now(UTC)
        await trigger(generator, "press overloaded", active=True)
        await trigger(generator, "press overloaded", active=False, acked=True)
        await found.until(lambda _: len(of(found, *DEVICE)) == 2)
    raised, cleared = of(found, *DEVICE)
    assert (raised["event"], raised["severity"], raised["message"]) == ("device_alarm", "critical", "press overloaded")
    assert (raised["tag"], raised["asset"], raised["source"]) == (100, "acme/osaka/robot", "robot")
    assert abs((raised["time"] - before).total_seconds()) < 5
    told = json.loads(raised["attributes"])
    assert {name: told[name] for name in ("type", "source_node", "source_name", "severity", "condition", "condition_id")} == {
        "type": "OffNormalAlarmType",
        "source_node": "ns=2;s=Force",
        "source_name": "Press 7",
        "severity": 700,
        "condition": "Overload",
        "condition_id": "ns=2;s=Overload",
    }
    assert (told["active"], told["acknowledged"], told["retain"]) == (True, False, True)
    assert told["event_id"]
    assert (cleared["event"], cleared["severity"], json.loads(cleared["attributes"])["active"]) == ("device_alarm", "info", False)
    assert all(batch.schema.equals(EVENT, check_metadata=True) for batch in found.seen.batches if kind_of(batch) == "event")


async def test_events_without_a_condition_and_a_severity_that_is_too_low(plant: Plant, tmp_path: Path) -> None:
    generator = await plant.server.get_event_generator()
    config = configure({}, plant.endpoint, events={"min_severity": 300})
    async with live(config, tmp_path) as found:
        await found.until(lambda _: calls)  # it listens
        for level in (299, 300, 500):
            generator.event.Severity = level
            await generator.trigger(message=f"level {level}")
        await found.until(lambda _: len(of(found, *DEVICE)) == 2)
    assert [(event["event"], event["message"], event["severity"]) for event in of(found, *DEVICE)] == [
        ("device_event", "level 300", "info"),
        ("device_event", "level 500", "warning"),
    ]
    assert {event["tag"] for event in of(found, *DEVICE)} == {None}


async def test_the_end_of_an_alarm_comes_whatever_its_severity(plant: Plant, tmp_path: Path) -> None:
    generator = await alarm(plant, await press(plant, "Ends"))
    async with live(configure({}, plant.endpoint, events={"min_severity": 300}), tmp_path) as found:
        await found.until(lambda _: calls)  # it listens
        await trigger(generator, "raised", active=True, level=500)
        await trigger(generator, "back to normal", active=False, level=0)  # as node-opcua does
        await found.until(lambda _: len(of(found, *DEVICE)) == 2)
    assert [event["message"] for event in of(found, *DEVICE)] == ["raised", "back to normal"]


async def test_only_the_types_that_are_asked_for(plant: Plant, tmp_path: Path) -> None:
    plain = await plant.server.get_event_generator()
    generator = await alarm(plant, await press(plant, "Typed"))
    config = configure({}, plant.endpoint, events={"types": [f"i={int(ALARM)}", "i=2130"]})
    async with live(config, tmp_path) as found:
        await found.until(lambda _: calls)  # it listens
        await plain.trigger(message="no alarm")
        await trigger(generator, "an alarm", active=True)
        await found.until(lambda _: of(found, *DEVICE))
        await asyncio.sleep(0.6)
    assert [event["message"] for event in of(found, *DEVICE)] == ["an alarm"]


async def test_what_is_told_again_after_a_new_connection_is_no_new_row(plant: Plant, tmp_path: Path) -> None:
    generator = await alarm(plant, await press(plant, "Again"))
    config = configure({"t": "ns=2;s=Again"}, plant.endpoint, events=True)
    async with live(config, tmp_path) as found:
        await found.until(lambda _: calls)  # it listens
        await trigger(generator, "still there", active=True)
        await found.until(lambda _: len(of(found, *DEVICE)) == 1)
        calls.clear()
        assert plant.server.bserver is not None
        for client in list(plant.server.bserver.clients):
            client.transport.abort()
        await found.until(lambda s: len(s.rows["t"]) == 2)
        await found.until(lambda _: calls)
        await asyncio.sleep(0.6)
        await trigger(generator, "gone", active=False)
        await found.until(lambda _: len(of(found, *DEVICE)) == 2)
    assert [event["message"] for event in of(found, *DEVICE)] == ["still there", "gone"]
    async with live(config, tmp_path) as other:  # control: somebody who has not seen it gets it by the refresh
        await other.until(lambda _: of(other, *DEVICE))
    assert json.loads(of(other, *DEVICE)[0]["attributes"])["refreshed"] is True


async def test_a_notifier_that_is_not_there_is_named_and_the_others_are_watched(plant: Plant, tmp_path: Path) -> None:
    generator = await plant.server.get_event_generator()
    config = configure({}, plant.endpoint, events={"notifiers": ["ns=2;s=Nowhere", "i=2253"]})
    async with live(config, tmp_path) as found:
        await found.until(lambda _: calls)  # it listens
        await generator.trigger(message="heard")
        await found.until(lambda _: of(found, *DEVICE))
    (refused,) = [entry for entry in found.logs if entry["event"] == "events cannot be subscribed"]
    assert [node.split(":")[0] for node in refused["nodes"]] == ["ns=2;s=Nowhere"]


async def test_an_overflow_is_a_gap(plant: Plant, tmp_path: Path) -> None:
    generator = await plant.server.get_event_generator(ua.ObjectIds.EventQueueOverflowEventType)
    async with live(configure({}, plant.endpoint, events=True), tmp_path) as found:
        await found.until(lambda _: calls)  # it listens
        await generator.trigger(message="queue")
        await found.until(lambda _: found.gaps())
    (gap,) = found.gaps()
    assert (gap["cause"], gap["tag"], gap["source"]) == ("overflow", None, "robot")
    assert of(found, *DEVICE) == []


async def test_a_server_that_asks_for_it_is_refreshed_again(
    plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditions, "_REFRESH_S", 0.1)
    generator = await plant.server.get_event_generator(ua.ObjectIds.RefreshRequiredEventType)
    async with live(configure({}, plant.endpoint, events=True), tmp_path) as found:
        await found.until(lambda _: calls)
        await asyncio.sleep(0.4)
        assert len(calls) == 1
        await generator.trigger()
        await found.until(lambda _: len(calls) == 2)
    assert of(found, *DEVICE) == []
