"""A gateway with an isolated adapter, end to end: the adapter's process is killed, and so is the gateway's."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import polars as pl
import pytest

from cloud_sinks import lake
from schemas import quality as q
from tests.e2e import plant

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]

BOTH = plant.PRESS + plant.PRESS.replace("adapters:\n", "").replace("press:", "other:").replace("temp:", "heat:")
ISOLATED = BOTH.replace("kind: modbus", "kind: modbus\n    isolation: process", 1)


def command_line(pid: int) -> bytes:
    """Empty for a process that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def child_of(pid: int) -> int:
    """The one child process of ours of a process, 0 when there is none. Other tests' servers (Spark's JVM) may live beside it."""
    children = [int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()]
    found = [child for child in children if b"gateway" in command_line(child)]
    assert len(found) <= 1
    return found[0] if found else 0


def alive(pid: int) -> bool:
    """Whether it is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


async def test_killed_it_is_bad_rows_a_gap_and_a_new_process_and_the_other_adapter_does_not_skip_a_beat(tmp_path):
    path = plant.write(tmp_path, plant.HEAD + ISOLATED + "sinks:\n" + plant.LAKE)
    configuration = await plant.load(path)
    simulators = {name: plant.simulator_of(configuration, name) for name in ("press", "other")}
    endpoints = {name: await simulator.start() for name, simulator in simulators.items()}
    async with plant.gateway(path, endpoints) as pipeline:
        press, other = pipeline.collectors
        await plant.until(lambda: press.rows > 20 and other.rows > 20, "values", 20)
        first = child_of(os.getpid())
        os.kill(first, signal.SIGKILL)
        await plant.until(lambda: press.state == "down", "the loss is noticed", 2)
        await plant.until(lambda: press.state == "up", "it is back", 10)
        assert child_of(os.getpid()) not in (0, first)
        seen = press.rows
        await plant.until(lambda: press.rows > seen + 20, "values again")
    assert child_of(os.getpid()) == 0
    for simulator in simulators.values():
        await simulator.aclose()
    for tag in ("press/temp", "press/mode"):
        rows = lake.scan(tmp_path / "lake", tags=f"**/{tag}").sort("seq").collect()
        bad = rows.filter(pl.col("quality") >= q.BAD)
        assert bad["quality"].to_list() == [q.BAD_NO_COMMUNICATION]
        gaps = lake.scan(tmp_path / "lake", kind="gap", tags=f"**/{tag}").collect()
        assert gaps["cause"].to_list() == ["not_connected"]
    others = lake.scan(tmp_path / "lake", tags="**/other/heat").sort("seq").collect()
    assert others.filter(pl.col("quality") != 0).height == 0
    assert lake.scan(tmp_path / "lake", kind="gap", tags="**/other/*").collect().height == 0
    longest = others["time"].diff().drop_nulls().dt.total_milliseconds().max()
    assert longest < 400, "scan is 50 ms; the machine of a test may be busy"


async def test_killed_the_gateway_takes_the_adapter_along_and_stopped_it_lets_go_of_it(tmp_path):
    path = plant.write(tmp_path, plant.HEAD + ISOLATED + "sinks:\n" + plant.LAKE)
    configuration = await plant.load(path)
    simulators = {name: plant.simulator_of(configuration, name) for name in ("press", "other")}
    gateway = plant.GatewayProcess(path, {name: await simulator.start() for name, simulator in simulators.items()})

    def connected() -> bool:
        return sum(line.get("event") == "device is connected" for line in gateway.lines) == 2

    await gateway.start()
    await plant.until(connected, "both are connected", 20)
    child = child_of(gateway.process.pid)
    assert alive(child)
    await gateway.kill()
    await plant.until(lambda: not alive(child), "the adapter's process is gone too", 2)

    await gateway.start()
    await plant.until(connected, "both are connected", 20)
    child = child_of(gateway.process.pid)
    os.kill(child, signal.SIGSTOP)  # hangs while its parent dies: nothing is left of it either
    await gateway.kill()
    await plant.until(lambda: not alive(child), "the adapter's process is gone too", 2)

    await gateway.start()
    await plant.until(connected, "both are connected", 20)
    child = child_of(gateway.process.pid)
    os.killpg(gateway.process.pid, signal.SIGTERM)  # as a service manager does
    os.kill(child, signal.SIGTERM)
    assert await gateway.stop() == 0
    assert not alive(child)
    assert gateway.said("the process of the adapter ended") is None
    for simulator in simulators.values():
        await simulator.aclose()


async def test_a_gateway_with_nothing_but_an_isolated_adapter_delivers_what_the_device_has(tmp_path):
    text = plant.PRESS.replace("kind: modbus", "kind: modbus\n    isolation: process\n    memory_limit: 300 MB", 1)
    path = plant.write(tmp_path, plant.HEAD + text + "sinks:\n" + plant.LAKE)
    replay = plant.Replay(tag="press/temp", file=plant.replay_file(tmp_path, 20))
    simulator = plant.simulator_of(await plant.load(path), "press", replays=(replay,))
    async with plant.gateway(path, {"press": await simulator.start()}) as pipeline:
        await plant.until(lambda: pipeline.latest.count > 60, "values", 20)
        await asyncio.sleep(0.6)
    await simulator.aclose()
    values = plant.telemetry_of(tmp_path / "lake", "temp").filter(pl.col("quality") == 0)["value"].to_list()
    assert values[:20] == [n + 0.5 for n in range(20)]
