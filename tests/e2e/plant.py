"""A small plant for end-to-end tests: simulated devices in this process, a gateway in this process or in one of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import polars as pl
import structlog

from adapters.base import Simulator, SimulatorContext
from adapters.simulation import Replay, Scenario, Signals
from cloud_sinks import lake
from gateway import catalogue, config, service
from gateway.config import Configuration
from gateway.pipeline import Pipeline, bind

HEAD = """
enterprise: acme
site: osaka
gateway: gw-1
time_zone: Asia/Tokyo
status: {listen: null}
"""
PRESS = """
adapters:
  press:
    kind: modbus
    endpoint: tcp://127.0.0.1:1
    timeout: 500ms
    scan: 50ms
    tags:
      temp: {address: "hr:0", type: float64, unit: °C, limits: {high: 90}}
      mode: {address: "hr:10", type: uint16, enum: {0: idle, 1: run}}
"""
LAKE = """
  lake: {kind: parquet, location: ./lake, roll: {max_age: 300ms}}
"""


def write(directory: Path, text: str) -> Path:
    """The YAML file of a test."""
    path = directory / "plant.yaml"
    path.write_text(text, encoding="utf-8")
    return path


async def load(path: Path) -> Configuration:
    """The configuration, read off the loop."""
    return await asyncio.to_thread(config.load, path)


def simulator_of(
    configuration: Configuration,
    name: str,
    *,
    scenario: Scenario | None = None,
    replays: tuple[Replay, ...] = (),
    signals: Signals | None = None,
) -> Simulator:
    """The simulator of one adapter, not started. `signals` stand for scenario and recordings."""
    tags = [replace(tag, id=number) for number, tag in enumerate(configuration.tags)]
    signals = signals or Signals(scenario or Scenario(), asyncio.get_running_loop().time, replays)
    entry = configuration.plant.adapters[name]
    simulate = catalogue.plugin("adapters", entry.kind).simulate
    assert simulate is not None
    return simulate(entry, SimulatorContext(name=name, tags=bind(configuration, name, tags), signals=signals))


def replay_file(directory: Path, rows: int) -> Path:
    """A recording whose value is its row number."""
    path = directory / "recording.csv"
    path.write_text("value\n" + "".join(f"{n}.5\n" for n in range(rows)), encoding="utf-8")
    return path


@asynccontextmanager
async def gateway(path: Path, endpoints: Mapping[str, str], *, grace_s: float = 5.0) -> AsyncIterator[Pipeline]:
    """A gateway in this process, stopped gracefully at the end."""
    configuration = await load(path)
    async with service.running(configuration, log=structlog.get_logger(), endpoints=endpoints, grace_s=grace_s) as (
        pipeline,
        _stop,
    ):
        yield pipeline


async def until(condition: Callable[[], bool], what: str, timeout_s: float = 10.0) -> None:
    """Wait until something is true; the failure says what was not."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not within {timeout_s} s: {what}"
        await asyncio.sleep(0.02)


def telemetry_of(location: Path, tag: str) -> pl.DataFrame:
    """The rows of one tag in the lake, in the order in which they were stored."""
    return lake.scan(location, tags=f"**/{tag}").sort("seq").collect()


class GatewayProcess:
    """`genba run` as a process of its own, for what only a real process can show."""

    def __init__(
        self,
        path: Path,
        endpoints: Mapping[str, str],
        *,
        before: Sequence[str] = (),
        program: Sequence[str] = ("-m", "gateway"),
        env: Mapping[str, str] | None = None,
    ) -> None:
        """`before` stands before the command (`nsenter …`), `program` is what Python runs."""
        self._before, self._program, self._env = before, program, env or {}
        self._endpoints = path.parent / "endpoints.json"
        self._endpoints.write_text(json.dumps(dict(endpoints)), encoding="utf-8")
        self._path = path
        self.lines: list[dict[str, object]] = []

    async def start(self) -> None:
        """Start (again) and wait until it is ready."""
        await self.spawn()
        await until(lambda: self.said("gateway is ready") or self.process.returncode is not None, "gateway is ready", 20)
        assert self.process.returncode is None, self.lines

    async def spawn(self) -> None:
        """Start (again)."""
        self.lines.clear()
        self.process = await asyncio.create_subprocess_exec(
            *self._before, sys.executable, *self._program, "run", str(self._path), "--endpoints", str(self._endpoints), "--log-json",
            stderr=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **self._env},
        )  # fmt: skip
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            try:
                self.lines.append(json.loads(line))
            except ValueError:
                self.lines.append({"event": line.decode(errors="replace")})

    def said(self, event: str) -> dict[str, object] | None:
        """The newest log line with this event."""
        return next((line for line in reversed(self.lines) if line.get("event") == event), None)

    async def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        await self.process.wait()
        await self._reader

    async def stop(self) -> int:
        """SIGTERM, and the exit status."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        status = await asyncio.wait_for(self.process.wait(), 30)
        await self._reader
        return status
