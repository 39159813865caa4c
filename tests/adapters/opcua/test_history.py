"""Gaps filled from the history of asyncua's server: complete, in order, nothing twice, beside live data."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from asyncua import ua

from adapters.opcua import adapter as adapter_module
from adapters.opcua import connection
from adapters.opcua.history import Pace
from schemas.kinds import Origin
from tests.adapters.opcua.plants import Live, Plant, live
from tests.adapters.opcua.rig import Row, configure, make_adapter

pytestmark = pytest.mark.asyncio(loop_scope="module")

FAST = Pace(settle_s=1.0, nodes=2, values=7, pause_s=0.0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plant() -> AsyncIterator[Plant]:
    """One server for all tests of this file (it takes a second to start); each test adds its own variables."""
    plant = await Plant().start()
    yield plant
    await plant.stop()


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_module, "HISTORY_PACE", FAST)


async def recorded(plant: Plant, name: str, value: float = 0.0) -> ua.NodeId:
    node = await plant.add(name, value)
    await plant.server.historize_node_data_change(plant.server.get_node(node))
    return node


async def cut(plant: Plant, found: Live) -> None:
    """The server hangs up on everybody; returns once the adapter has noticed, and before it is back."""
    lost = len(found.lost)
    assert plant.server.bserver is not None
    for client in list(plant.server.bserver.clients):
        client.transport.abort()
    await found.until(lambda _: len(found.lost) > lost)


def backfilled(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["origin"] == Origin.BACKFILL]


def numbers(rows: list[Row]) -> list[float]:
    """The values in the order of their times, the same value at the same time once (as each session begins with the old one)."""
    return [value for _, value in sorted({(row["time"], row["value"]) for row in rows if row["value"] is not None})]


@asynccontextmanager
async def outage(plant: Plant, found: Live, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Everybody is thrown out, and nobody can connect."""

    async def unreachable(*_: object) -> None:
        raise OSError("no route to host")

    with monkeypatch.context() as patch:
        patch.setattr(connection._Client, "connect_socket", unreachable)
        await cut(plant, found)
        yield


async def write(plant: Plant, nodes: Sequence[ua.NodeId], values: range) -> None:
    for value in values:
        for node in nodes:
            await plant.write(node, float(value))
        await asyncio.sleep(0.002)


async def test_an_outage_is_filled_in_order_and_nothing_comes_twice(
    plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [await recorded(plant, f"H{i}") for i in range(3)]
    plain = await plant.add("Unrecorded", 0.0)
    tags = {f"h{i}": f"ns=2;s=H{i}" for i in range(3)} | {"plain": "ns=2;s=Unrecorded"}
    async with live(configure(tags, plant.endpoint, queue_size=1000), tmp_path) as found:
        for value in range(1, 4):
            for node in nodes:
                await plant.write(node, float(value))
        await found.until(lambda s: all(rows[-1]["value"] == 3.0 for name, rows in s.rows.items() if name != "plain"))
        async with outage(plant, found, monkeypatch):
            await write(plant, [*nodes, plain], range(4, 40))
        await found.until(lambda _: "gap_filled" in [event["event"] for event in found.events()])
        for value in range(40, 43):
            for node in nodes:
                await plant.write(node, float(value))
        await found.until(lambda s: s.rows["h2"][-1]["value"] == 42.0)
    for name in ("h0", "h1", "h2"):
        rows = found.seen.rows[name]
        assert numbers(rows) == [float(value) for value in range(43)]
        filled = backfilled(rows)
        assert [row["value"] for row in filled] == [float(value) for value in range(4, 39)]  # 39 came with the new session
        times = [row["time"] for row in filled]
        assert times == sorted(times)
        assert len({row["time"] for row in rows}) == len(rows)
        assert all(row["lag"] >= 0 for row in filled)
    assert backfilled(found.seen.rows["plain"]) == []
    (event,) = [event for event in found.events() if event["event"] == "gap_filled"]
    assert event["message"].startswith("105 rows of 3 tags")


async def test_without_an_outage_and_where_it_is_off_no_history_is_read(
    plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await recorded(plant, "Off")
    async with live(configure({"t": "ns=2;s=Off"}, plant.endpoint, history=False, queue_size=100), tmp_path) as found:
        async with outage(plant, found, monkeypatch):
            await write(plant, [node], range(1, 10))
        await found.until(lambda s: s.rows["t"][-1]["value"] == 9.0)
        await asyncio.sleep(0.3)
    assert backfilled(found.seen.rows["t"]) == []
    for value in range(10, 15):
        await plant.write(node, float(value))
    async with live(configure({"t": "ns=2;s=Off"}, plant.endpoint), tmp_path) as fresh:  # a gateway that never ran before
        await asyncio.sleep(0.3)
    assert [row["value"] for row in fresh.seen.rows["t"]] == [14.0]


async def test_a_gap_reaches_back_as_far_as_allowed(plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.opcua.history._SLACK_US", 3_600_000_000)
    node = await recorded(plant, "Far")
    now = datetime.now(UTC) - timedelta(hours=1)
    await plant.write(node, 1.0, at=now - timedelta(minutes=30))
    config = configure({"t": "ns=2;s=Far"}, plant.endpoint, history={"max": "10s"})
    async with live(config, tmp_path) as found:
        async with outage(plant, found, monkeypatch):
            for age_s in range(20, -1, -1):
                await plant.write(node, float(age_s), at=now - timedelta(seconds=age_s))
        await found.until(lambda _: "gap_filled" in [event["event"] for event in found.events()])
    assert [row["value"] for row in backfilled(found.seen.rows["t"])] == [float(age_s) for age_s in range(9, 0, -1)]


async def test_a_restarted_gateway_fills_from_where_the_previous_run_ended(plant: Plant, tmp_path: Path) -> None:
    node = await recorded(plant, "Restarted")
    config = configure({"t": "ns=2;s=Restarted"}, plant.endpoint)
    async with live(config, tmp_path) as before:
        await plant.write(node, 1.0)
        await before.until(lambda s: s.rows["t"][-1]["value"] == 1.0)
    last = before.seen.rows["t"][-1]["time"]
    for value in range(2, 12):
        await plant.write(node, float(value))
    adapter = make_adapter(config, tmp_path)
    context = replace(adapter._context, last_seen_us=last)
    async with live(config, tmp_path, adapter_module.OpcuaAdapter(config, context)) as after:
        await after.until(lambda _: "gap_filled" in [event["event"] for event in after.events()])
    assert numbers(before.seen.rows["t"]) + numbers(after.seen.rows["t"]) == [float(value) for value in range(12)]


async def test_a_second_outage_amid_filling_is_filled_too(plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_module, "HISTORY_PACE", replace(FAST, values=3, pause_s=0.05))
    node = await recorded(plant, "Twice")
    async with live(configure({"t": "ns=2;s=Twice"}, plant.endpoint), tmp_path) as found:
        async with outage(plant, found, monkeypatch):
            await write(plant, [node], range(1, 60))
        await found.until(lambda s: len(backfilled(s.rows["t"])) >= 6)
        async with outage(plant, found, monkeypatch):
            await write(plant, [node], range(60, 80))
        assert len(backfilled(found.seen.rows["t"])) < 50
        await found.until(lambda _: numbers(found.seen.rows["t"]) == [float(value) for value in range(80)])
    assert len({row["time"] for row in found.seen.rows["t"]}) == len(found.seen.rows["t"])


async def test_live_values_go_on_while_a_slow_server_looks_for_history(
    plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_module, "HISTORY_PACE", replace(FAST, timeout_s=1.0))
    node = await recorded(plant, "Slow")
    asked: list[Any] = []

    async def never(params: Any) -> Any:
        asked.append(params)
        await asyncio.sleep(5)

    monkeypatch.setattr(plant.server.iserver.history_manager, "read_history", never)
    async with live(configure({"t": "ns=2;s=Slow"}, plant.endpoint), tmp_path) as found:
        async with outage(plant, found, monkeypatch):
            await write(plant, [node], range(1, 10))
        await found.until(lambda _: asked)
        await found.until(lambda _: found.told("history cannot be read"))
        lost = len(found.lost)
        await plant.write(node, 50.0)
        await found.until(lambda s: s.rows["t"][-1]["value"] == 50.0)
        assert len(found.lost) == lost
    assert 1 <= len(asked) <= len(found.lost)  # once for each time that the session was lost, which a busy machine may do as well
    assert np.isfinite(found.seen.rows["t"][-1]["value"])
