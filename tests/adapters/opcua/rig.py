"""What the OPC UA tests are built from: configurations, bound tags, an adapter with a real clock, rows as dictionaries."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pyarrow as pa
import structlog

from adapters.base import AdapterContext, BoundTag, SimulatorContext, TagConfig, devices_of
from adapters.opcua import PLUGIN, OpcuaConfig
from adapters.opcua.adapter import OpcuaAdapter
from adapters.opcua.simulator import OpcuaSimulator
from adapters.simulation import Scenario, SignalConfig, Signals
from schemas.kinds import kind_of
from schemas.tags import Tag

Row = dict[str, Any]


class SystemClock:
    def now_us(self) -> int:
        return time.time_ns() // 1000


def configure(
    tags: Mapping[str, Mapping[str, Any] | str], endpoint: str = "opc.tcp://127.0.0.1:4840/plant", **more: Any
) -> OpcuaConfig:
    """A configuration with the default scan of 50 ms; a tag is its options, or its address alone."""
    spelled = {name: {"address": tag} if isinstance(tag, str) else tag for name, tag in tags.items()}
    return OpcuaConfig.model_validate({"kind": "opcua", "endpoint": endpoint, "scan": "50ms", "tags": spelled} | more)


def bind(config: OpcuaConfig, name: str = "robot") -> list[BoundTag[TagConfig]]:
    bound = []
    for key, device in devices_of(name, config).items():
        for tag_name, tag in device.tags.items():
            period = tag.scan or device.scan or config.scan or 1_000_000
            resolved = Tag(
                path=f"acme/osaka/{key}/{tag_name}",
                asset=f"acme/osaka/{key}",
                name=tag_name,
                adapter=name,
                device=key,
                address=tag.wire_address(),
                value_type=tag.value_type(),
                period_us=int(period),
                enum=tag.enum or {},
                id=100 + len(bound),
            )
            bound.append(BoundTag(resolved, tag, key))
    return bound


def make_adapter(config: OpcuaConfig, directory: Path, log: structlog.stdlib.BoundLogger | None = None) -> OpcuaAdapter:
    context = AdapterContext("robot", bind(config), SystemClock(), directory, log or structlog.get_logger(), base=directory)
    built = PLUGIN.build(config, context)
    assert isinstance(built, OpcuaAdapter)
    return built


def make_simulator(config: OpcuaConfig, signals: Mapping[str, SignalConfig] | None = None) -> OpcuaSimulator:
    assert PLUGIN.simulate is not None
    plant = Signals(Scenario(signals=signals or {}), asyncio.get_running_loop().time)
    made = PLUGIN.simulate(config, SimulatorContext("robot", bind(config), plant))
    assert isinstance(made, OpcuaSimulator)
    return made


class Recorder:
    """Rows by tag name and batches by kind, as they come out of an adapter."""

    def __init__(self, config: OpcuaConfig) -> None:
        self._names = {bound.tag.id: bound.tag.name for bound in bind(config)}
        self.rows: dict[str, list[Row]] = {name: [] for name in self._names.values()}
        self.batches: list[pa.RecordBatch] = []

    async def until(
        self, stream: AsyncGenerator[pa.RecordBatch, None], enough: Callable[[Recorder], object], timeout_s: float = 15
    ) -> None:
        """Take batches until `enough`; the stream stays open."""
        async with asyncio.timeout(timeout_s):
            while not enough(self):
                self.add(await anext(stream))

    def add(self, batch: pa.RecordBatch) -> None:
        self.batches.append(batch)
        if kind_of(batch) == "telemetry":
            times = batch.column("time").cast(pa.int64()).to_pylist()
            for row, time_us in zip(batch.to_pylist(), times, strict=True):
                self.rows[self._names[row["tag"]]].append(row | {"time": time_us})

    def everything(self) -> bool:
        """Every tag has a row."""
        return all(self.rows.values())


async def read_some(config: OpcuaConfig, directory: Path, enough: Callable[[Recorder], object] = Recorder.everything) -> Recorder:
    """Connect, take batches until `enough`, close."""
    adapter = make_adapter(config, directory)
    recorder = Recorder(config)
    try:
        await adapter.connect()
        async with aclosing(adapter.batches()) as stream:
            await recorder.until(stream, enough)
    finally:
        await adapter.aclose()
    return recorder
