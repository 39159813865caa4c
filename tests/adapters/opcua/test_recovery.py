"""Quiet tags against asyncua's server: silence that is right costs a read, silence that is not is noticed, told once and ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from asyncua import ua

from adapters.opcua import adapter as adapter_module
from adapters.opcua import connection, subscriptions
from adapters.opcua.liveness import Pace
from adapters.opcua.recovery import Recovery
from schemas import quality as q
from tests.adapters.opcua.plants import Plant, live
from tests.adapters.opcua.rig import configure

pytestmark = pytest.mark.asyncio(loop_scope="module")

FAST = Pace(tick_s=0.05, first_value_s=0.3, grace_s=0.1, polled_s=0.2, new_session_s=0.0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plant() -> AsyncIterator[Plant]:
    """One server for all tests of this file (it takes a second to start); each test adds its own variables."""
    plant = await Plant().start()
    yield plant
    await plant.stop()


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_module, "LIVENESS_PACE", FAST)
    monkeypatch.setattr("adapters.opcua.plan._KEEP_ALIVE_US", 100_000)


STEPS = (
    "quiet tags are subscribed anew",
    "a new session for quiet tags",
    "a new connection for quiet tags",
    "quiet tags are read instead of subscribed",
)


async def test_a_set_point_that_stands_still_is_read_and_nothing_is_said(
    plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    plain = Recovery._look

    async def counted(self: Recovery, due: Any) -> Any:
        looks.append(len(due))
        return await plain(self, due)

    monkeypatch.setattr(Recovery, "_look", counted)
    for i in range(120):
        await plant.add(f"Still{i}", float(i))
    config = configure({f"t{i}": f"ns=2;s=Still{i}" for i in range(120)}, plant.endpoint, verify_quiet="300ms")
    async with live(config, tmp_path) as found:
        await asyncio.sleep(1.2)
    assert all(len(rows) == 1 for rows in found.seen.rows.values())
    assert 2 * 120 <= sum(looks) <= 5 * 120  # each about every 300 ms
    assert max(looks) <= 100  # spread, not all at once
    assert found.events() == found.gaps() == found.logs == []


async def test_an_update_that_was_never_delivered_is_found_and_the_tag_subscribed_anew(plant: Plant, tmp_path: Path) -> None:
    node = await plant.add("Lost", 1.0)
    await plant.add("Beside", 5.0)
    config = configure({"t": "ns=2;s=Lost", "u": "ns=2;s=Beside"}, plant.endpoint, verify_quiet="300ms")
    async with live(config, tmp_path) as found:
        plant.mute(node)
        await plant.write(node, 2.0)
        await found.until(lambda s: len(s.rows["t"]) >= 2)
        await asyncio.sleep(0.2)
        await plant.write(node, 3.0)  # the new item delivers it
        await found.until(lambda s: s.rows["t"][-1]["value"] == 3.0)
        await found.until(lambda _: found.told("tags are delivered again"))
    assert found.values("t") == [1.0, 2.0, 3.0]  # delivered, read (and no second time as the new item's first), delivered
    assert found.values("u") == [5.0]
    assert found.told(*STEPS) == ["quiet tags are subscribed anew"]
    (gap,) = found.gaps()
    assert (gap["tag"], gap["cause"]) == (100, "lost")
    assert [event["event"] for event in found.events()] == ["tags_recovering"]


async def test_recovery_goes_on_to_a_new_session_a_new_connection_and_to_reading(
    plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that makes items and never delivers their values: control for the test above, where the first step helps."""
    node = await plant.add("Dead", 1.0)
    await plant.add("Alive", 5.0)
    sessions: list[str] = []
    plain = connection._Client.create_session

    async def counted(self: connection._Client) -> Any:
        sessions.append("session")
        return await plain(self)

    monkeypatch.setattr(connection._Client, "create_session", counted)
    service = plant.server.iserver.subscription_service
    create = service.create_monitored_items

    async def forgetful(params: Any, *more: Any) -> Any:
        results = await create(params, *more)
        for item in params.ItemsToCreate:
            if item.ItemToMonitor.NodeId == node:
                plant.mute(node)
                for subscription in service.subscriptions.values():
                    for waiting in subscription._triggered_datachanges.values():
                        waiting[:] = [one for one in waiting if one.ClientHandle != item.RequestedParameters.ClientHandle]
        return results

    monkeypatch.setattr(service, "create_monitored_items", forgetful)
    config = configure({"t": "ns=2;s=Dead", "u": "ns=2;s=Alive"}, plant.endpoint, verify_quiet="300ms")
    async with live(config, tmp_path) as found:
        await found.until(lambda _: STEPS[-1] in found.told(*STEPS))
        await plant.write(node, 7.0)
        await found.until(lambda s: s.rows["t"][-1]["value"] == 7.0)
    assert found.told(*STEPS) == list(STEPS)
    assert len(sessions) == 3  # the first, the new one, the one of the new connection
    assert set(found.values("u")) == {5.0}
    assert q.BAD_NO_COMMUNICATION not in {row["quality"] for row in found.seen.rows["u"]}  # nobody else was down


async def test_a_tag_that_must_change_and_does_not_is_bad_and_told_once(plant: Plant, tmp_path: Path) -> None:
    node = await plant.add("Frozen", 1.0)
    await plant.add("Calm", 5.0)
    tags = {"t": {"address": "ns=2;s=Frozen", "expect_update_within": "1s"}, "u": "ns=2;s=Calm"}
    async with live(configure(tags, plant.endpoint, verify_quiet="0s"), tmp_path) as found:
        for value in (2.0, 3.0):
            await asyncio.sleep(0.6)
            await plant.write(node, value)
        await found.until(lambda s: len(s.rows["t"]) == 4)
        frozen = found.seen.rows["t"][-1]
        await found.until(lambda _: STEPS[-1] in found.told(*STEPS))  # new items, a new session, a new connection: still nothing
        assert len(found.seen.rows["t"]) == 4  # and the value that they begin with is no update
        await plant.write(node, 4.0)
        await found.until(lambda s: len(s.rows["t"]) == 5)
        await found.until(lambda _: "tag_updates_again" in [event["event"] for event in found.events()])
    assert (frozen["value"], frozen["quality"]) == (None, q.BAD_NO_COMMUNICATION)
    assert found.values("t") == [1.0, 2.0, 3.0, None, 4.0]
    assert set(found.values("u")) == {5.0}
    assert found.told("tags are silent", *STEPS) == ["tags are silent", *STEPS]
    about = [(event["event"], event["tag"], event["severity"]) for event in found.events() if event["tag"] is not None]
    assert about == [("tag_silent", 100, "warning"), ("tag_updates_again", 100, "info")]


async def test_a_node_that_vanishes_silently_is_bad_quarantined_and_taken_when_it_is_back(
    plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "RETRY_S", 0.3)
    node = await plant.add("Renamed", 1.0)
    await plant.add("Stays", 5.0)
    config = configure({"t": "ns=2;s=Renamed", "u": "ns=2;s=Stays"}, plant.endpoint, verify_quiet="300ms")
    async with live(config, tmp_path) as found:
        plant.remove(node)
        await found.until(lambda _: found.told("tags cannot be read"))
        await plant.add("Renamed", 2.0)
        await found.until(lambda s: s.rows["t"][-1]["value"] == 2.0)
    qualities = [row["quality"] for row in found.seen.rows["t"]]
    assert (qualities[0], qualities[1], qualities[-1]) == (q.GOOD, q.BAD_NODE_ID_UNKNOWN, q.GOOD)
    assert found.values("u") == [5.0]
    assert found.told("tags cannot be read", "tags can be read again") == ["tags cannot be read", "tags can be read again"]


async def test_a_server_without_subscriptions_keeps_the_contract_too(
    plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unsupported(*_: object, **__: object) -> None:
        raise ua.UaStatusCodeError(ua.StatusCodes.BadServiceUnsupported)

    monkeypatch.setattr(connection._Session, "create_subscription", unsupported)
    monkeypatch.setattr("adapters.opcua.cyclic._LOOK_S", 0.1)
    node = await plant.add("Stuck", 1.0)
    config = configure({"t": {"address": "ns=2;s=Stuck", "expect_update_within": "1s"}}, plant.endpoint)
    async with live(config, tmp_path) as found:
        await found.until(lambda _: "a new connection for quiet tags" in found.told(*STEPS))
        await plant.write(node, 2.0)
        await found.until(lambda _: found.told("tags are delivered again"))
    assert found.told("tags are silent", *STEPS)[:3] == ["tags are silent", *STEPS[1:3]]
    assert [row["quality"] for row in found.seen.rows["t"]].count(q.BAD_NO_COMMUNICATION) == 1


@pytest.mark.parametrize("refusal", [ua.UaStatusCodeError(ua.StatusCodes.BadTooManyOperations), TimeoutError()])
async def test_reads_that_are_too_large_for_a_server_become_smaller_and_cost_no_connection(
    plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Exception
) -> None:
    sizes: list[int] = []
    plain = Recovery._read

    async def small(self: Recovery, due: Any) -> Any:
        sizes.append(len(due))
        if len(due) > 10:
            raise refusal
        return await plain(self, due)

    monkeypatch.setattr(Recovery, "_read", small)
    name = type(refusal).__name__
    nodes = [await plant.add(f"{name}{i}", float(i)) for i in range(40)]
    config = configure({f"t{i}": f"ns=2;s={name}{i}" for i in range(40)}, plant.endpoint, verify_quiet="300ms")
    async with live(config, tmp_path) as found:
        await found.until(lambda _: sizes and sizes[-1] <= 10)
        plant.mute(nodes[3])
        await plant.write(nodes[3], 99.0)
        await found.until(lambda s: s.rows["t3"][-1]["value"] == 99.0)
    assert found.lost == []
    assert max(sizes) > 10


async def test_a_server_that_reads_nothing_is_told_once_and_left_alone(
    plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    async def never(self: Recovery, due: Any) -> Any:
        asked.append(len(due))
        raise ua.UaStatusCodeError(ua.StatusCodes.BadServiceUnsupported)

    monkeypatch.setattr(Recovery, "_read", never)
    node = await plant.add("Unread", 1.0)
    async with live(configure({"t": "ns=2;s=Unread"}, plant.endpoint, verify_quiet="100ms"), tmp_path) as found:
        await found.until(lambda _: found.told("quiet tags cannot be verified: the server does not read them"))
        before = len(asked)
        await asyncio.sleep(0.5)
        assert len(asked) == before
        await plant.write(node, 2.0)
        await found.until(lambda s: s.rows["t"][-1]["value"] == 2.0)
    assert found.lost == []
