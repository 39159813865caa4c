"""What the S7 tests are built from: configurations, bound tags, adapters and simulators, rows as dictionaries."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import structlog

from adapters.base import AdapterContext, BoundTag, SimulatorContext, TagConfig, devices_of
from adapters.s7 import PLUGIN, S7Config
from adapters.s7.adapter import S7Adapter
from adapters.s7.simulator import S7Simulator
from adapters.simulation import Replay, Scenario, SignalConfig, Signals
from schemas.clock import Clock
from schemas.tags import Tag

Row = dict[str, Any]


class SystemClock:
    def now_us(self) -> int:
        return time.time_ns() // 1000


def configure(tags: Mapping[str, Mapping[str, Any] | tuple[str, str]], endpoint: str = "s7://127.0.0.1", **more: Any) -> S7Config:
    """A configuration with the default scan of 20 ms; a tag is its options, or address and type."""
    spelled = {name: {"address": tag[0], "type": tag[1]} if isinstance(tag, tuple) else tag for name, tag in tags.items()}
    return S7Config.model_validate({"kind": "s7", "endpoint": endpoint, "scan": "20ms", "tags": spelled} | more)


def bind(config: S7Config, name: str = "furnace") -> list[BoundTag[TagConfig]]:
    bound: list[BoundTag[TagConfig]] = []
    for key, device in devices_of(name, config).items():
        for tag_name, tag in device.tags.items():
            resolved = Tag(
                path=f"acme/osaka/{key}/{tag_name}",
                asset=f"acme/osaka/{key}",
                name=tag_name,
                adapter=name,
                device=key,
                address=tag.wire_address(),
                value_type=tag.value_type(),
                period_us=int(tag.scan or device.scan or config.scan or 1_000_000),
                enum=tag.enum or {},
                id=100 + len(bound),
            )
            bound.append(BoundTag(resolved, tag, key))
    return bound


class SetClock:
    """Shows the time that it is set to, in seconds."""

    def __init__(self, now_s: float = 1_800_000_000.0) -> None:
        self.now_s = now_s

    def now_us(self) -> int:
        return round(self.now_s * 1e6)


def make_adapter(
    config: S7Config,
    endpoint: str,
    log: Any = None,
    time_zone: str = "UTC",
    directory: Path = Path(),
    clock: Clock | None = None,
) -> S7Adapter:
    """The adapter; without `directory` what it keeps goes to the working directory, which is the test's own."""
    config = config.model_copy(update={"endpoint": endpoint})
    context = AdapterContext("furnace", bind(config), clock or SystemClock(), directory, log or structlog.get_logger(), time_zone)
    built = PLUGIN.build(config, context)
    assert isinstance(built, S7Adapter)
    return built


def make_simulator(
    config: S7Config, signals: Mapping[str, SignalConfig] | None = None, replays: tuple[Replay, ...] = (), time_zone: str = "UTC"
) -> S7Simulator:
    assert PLUGIN.simulate is not None
    plant = Signals(Scenario(signals=signals or {}), asyncio.get_running_loop().time, replays)
    made = PLUGIN.simulate(config, SimulatorContext("furnace", bind(config), plant, time_zone))
    assert isinstance(made, S7Simulator)
    return made


@asynccontextmanager
async def connected(
    config: S7Config, endpoint: str, log: Any = None, time_zone: str = "UTC", **more: Any
) -> AsyncIterator[S7Adapter]:
    adapter = make_adapter(config, endpoint, log, time_zone, **more)
    try:
        await adapter.connect()
        yield adapter
    finally:
        await adapter.aclose()


def rows_of(config: S7Config, batch: pa.RecordBatch) -> dict[str, Row]:
    """Rows by tag name."""
    names = {bound.tag.id: bound.tag.name for bound in bind(config)}
    return {names[row["tag"]]: row for row in batch.to_pylist()}


async def take(adapter: S7Adapter, batches: int) -> list[pa.RecordBatch]:
    """The next batches."""
    taken: list[pa.RecordBatch] = []
    async with asyncio.timeout(15), aclosing(adapter.batches()) as stream:
        while len(taken) < batches:
            taken.append(await anext(stream))
    return taken


async def drain(stream: AsyncIterator[pa.RecordBatch]) -> None:
    """Take batches until the stream raises."""
    async with asyncio.timeout(15):
        async for _ in stream:
            pass
