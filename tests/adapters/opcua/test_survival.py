"""What a connection survives: sessions that end, namespaces that get other numbers, networks that swallow packets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from asyncua import ua

from adapters.opcua import adapter as adapter_module
from adapters.opcua import cyclic, subscriptions
from schemas import quality as q
from tests.adapters.opcua.plants import URI, Network, Plant, live
from tests.adapters.opcua.rig import Recorder, configure

pytestmark = pytest.mark.asyncio(loop_scope="module")
OTHER = "http://acme.example/other"
NAMESPACE_ARRAY = ua.NodeId(ua.ObjectIds.Server_NamespaceArray)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plant() -> AsyncIterator[Plant]:
    """One server for most tests of this file (it takes a second to start); each test adds its own variables."""
    plant = await Plant().start(namespaces=(URI, OTHER))
    yield plant
    await plant.stop()


async def test_a_session_that_the_server_has_closed_is_made_anew(
    plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_module, "_QUIET_S", 0.1)
    node = await plant.add("Session", 1.0)
    async with live(configure({"t": "ns=2;s=Session"}, plant.endpoint), tmp_path) as found:
        assert plant.server.bserver is not None
        for client in plant.server.bserver.clients:
            assert client.processor is not None
            assert client.processor.session is not None
            await client.processor.session.close_session(True)
            client.processor.session = None
        await plant.write(node, 2.0)
        await found.until(lambda s: s.rows["t"][-1]["value"] == 2.0, timeout_s=10)
    assert len(found.lost) == 1
    assert "BadSession" in found.lost[0] or "BadUserAccessDenied" in found.lost[0]  # as asyncua answers without a session


@pytest.mark.parametrize(
    "code", ["BadSessionIdInvalid", "BadSubscriptionIdInvalid", "BadNoSubscription", "BadSecureChannelIdInvalid"]
)
async def test_a_publish_that_is_refused_is_a_lost_connection(
    plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    await plant.add(code, 1.0)
    refusals = [ua.UaStatusCodeError(getattr(ua.StatusCodes, code))]
    plain = subscriptions.Subscriber._take

    async def refused(self: subscriptions.Subscriber, message: subscriptions._Message) -> None:
        await plain(self, message)
        if message.publish.changes is not None and refusals:
            raise refusals.pop()

    monkeypatch.setattr(subscriptions.Subscriber, "_take", refused)
    async with live(configure({"t": f"ns=2;s={code}"}, plant.endpoint), tmp_path) as found:
        await found.until(lambda s: len(s.rows["t"]) == 2, timeout_s=10)
    assert len(found.lost) == 1
    assert code in found.lost[0]


async def test_renumbered_namespaces_never_give_another_tag_s_value(tmp_path: Path) -> None:
    """After a restart the node of the same name in the other namespace has the number that ours had."""
    first = await Plant().start(namespaces=(URI, OTHER))
    for space, value in ((2, 1.0), (3, -1.0)):
        await first.add("Same", value, space=space)
    tags = {"plain": "ns=2;s=Same", "pinned": f"nsu={URI};s=Same", "path": "/Objects/2:Same"}
    async with live(configure(tags, first.endpoint), tmp_path) as found:
        await first.stop()
        await found.until(lambda _: found.lost)
        second = Plant()
        await second.prepare((OTHER, URI))
        for space, value in ((2, -2.0), (3, 2.0)):
            await second.add("Same", value, space=space)
        await second.listen(first.port)
        try:
            await found.until(lambda s: all(rows[-1]["value"] == 2.0 for rows in s.rows.values()))
        finally:
            await second.stop()
    assert {name: found.values(name) for name in tags} == {name: [1.0, 2.0] for name in tags}
    assert found.told("the server has renumbered its namespaces") == ["the server has renumbered its namespaces"]


async def test_a_namespace_that_is_gone_makes_its_tags_bad_instead_of_wrong(
    plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_module, "_QUIET_S", 0.1)
    await plant.add("Ours", 1.0)
    await plant.add("Ours", -1.0, space=3)
    uris = (await plant.server.get_namespace_array())[:]
    async with live(configure({"t": "ns=2;s=Ours", "own": "i=2256"}, plant.endpoint), tmp_path) as found:
        try:
            await plant.server.get_node(NAMESPACE_ARRAY).write_value([*uris[:2], "http://else.example", *uris[3:]])
            await found.until(lambda s: s.rows["t"][-1]["quality"] == q.BAD_NODE_ID_UNKNOWN)
        finally:
            await plant.server.get_node(NAMESPACE_ARRAY).write_value(uris)
        await found.until(lambda s: s.rows["t"][-1]["value"] == 1.0)
    assert found.lost == []  # a new session, no outage
    assert -1.0 not in found.values("t")


async def test_namespaces_that_are_renumbered_while_a_session_lives_are_noticed(
    plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await plant.add("Swapped", 1.0)
    await plant.add("Swapped", 2.0, space=3)
    uris = (await plant.server.get_namespace_array())[:]
    async with live(configure({"t": f"nsu={URI};s=Swapped"}, plant.endpoint), tmp_path) as found:
        try:
            await plant.server.get_node(NAMESPACE_ARRAY).write_value([*uris[:2], OTHER, URI])
            await found.until(lambda s: s.rows["t"][-1]["value"] == 2.0)
            await plant.server.get_node(NAMESPACE_ARRAY).write_value([*uris[:2], OTHER, URI, "http://new.example"])
            await asyncio.sleep(0.3)
        finally:
            await plant.server.get_node(NAMESPACE_ARRAY).write_value(uris)
    assert found.lost == []
    assert found.told("a new session is open") == ["a new session is open"]  # one more namespace changes nothing


async def test_a_server_that_is_read_cyclically_may_renumber_too(
    plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unsupported(*_: object, **__: object) -> None:
        raise ua.UaStatusCodeError(ua.StatusCodes.BadServiceUnsupported)

    monkeypatch.setattr("adapters.opcua.connection._Session.create_subscription", unsupported)
    monkeypatch.setattr(cyclic, "_LOOK_S", 0.1)
    await plant.add("Polled", 1.0)
    await plant.add("Polled", 2.0, space=3)
    uris = (await plant.server.get_namespace_array())[:]
    async with live(configure({"t": f"nsu={URI};s=Polled"}, plant.endpoint), tmp_path) as found:
        try:
            await plant.server.get_node(NAMESPACE_ARRAY).write_value([*uris[:2], OTHER, URI])
            await found.until(lambda s: s.rows["t"][-1]["value"] == 2.0)
        finally:
            await plant.server.get_node(NAMESPACE_ARRAY).write_value(uris)
    assert found.lost == []


@asynccontextmanager
async def network(plant: Plant) -> AsyncIterator[tuple[Network, str]]:
    found = Network(plant.port)
    server = await asyncio.start_server(found.handle, "127.0.0.1", 0)
    try:
        yield found, f"opc.tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}/plant"
    finally:
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0.05)


async def test_a_network_that_swallows_packets_is_noticed_in_time(plant: Plant, tmp_path: Path) -> None:
    node = await plant.add("Swallowed", 1.0)
    async with (
        network(plant) as (net, endpoint),
        live(configure({"t": "ns=2;s=Swallowed"}, endpoint, timeout="500ms"), tmp_path) as found,
    ):
        net.swallow = True
        began = time.monotonic()
        await found.until(lambda _: found.lost)
        assert time.monotonic() - began < 5  # silence, the timeout, and a busy machine
        assert "does not answer" in found.lost[0] or "silent" in found.lost[0]
        await plant.write(node, 2.0)
        net.swallow = False
        await found.until(lambda s: s.rows["t"][-1]["value"] == 2.0)


async def test_the_first_values_come_again_after_each_of_many_interruptions(
    plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(50):
        await plant.add(f"Many{i}", float(i))
    tags = {f"t{i}": f"ns=2;s=Many{i}" for i in range(50)}
    async with live(configure(tags, plant.endpoint), tmp_path) as found:
        for times in range(2, 5):
            assert plant.server.bserver is not None
            for client in list(plant.server.bserver.clients):
                client.transport.abort()
            await found.until(lambda s, times=times: all(len(rows) >= times for rows in s.rows.values()))
    assert all({row["value"] for row in found.seen.rows[f"t{i}"]} == {float(i)} for i in range(50))
    assert Recorder.everything(found.seen)
