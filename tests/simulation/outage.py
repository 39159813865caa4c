"""A gateway's collector and adapter in virtual time before a device that is not there, day after day, and what they hold on to."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import structlog

from adapters.base import Adapter, AdapterContext
from adapters.modbus import PLUGIN as MODBUS
from adapters.opcua import PLUGIN as OPCUA
from adapters.s7 import PLUGIN as S7
from gateway.collector import Collector
from schemas import quality as q
from schemas.plugin import Plugin
from tests.conformance.adapter import bind
from tests.simulation.loop import VirtualClock

TAGS: Mapping[str, Mapping[str, Any]] = {
    "modbus": {f"w{n}": {"address": f"hr:{n}", "type": "uint16"} for n in range(20)},
    "opcua": {f"w{n}": {"address": f"ns=2;s=W{n}", "type": "float64"} for n in range(20)},
    "s7": {f"w{n}": {"address": f"DB1.DBW{2 * n}", "type": "word"} for n in range(20)},
}
PLUGINS: Mapping[str, Plugin[Any, Adapter]] = {"modbus": MODBUS, "opcua": OPCUA, "s7": S7}


@dataclass(frozen=True, slots=True)
class Mark:
    """What this process holds when the first attempt of a day begins: nothing of any attempt before."""

    attempts: int
    blocks: int  # of memory that Python has taken
    objects: int  # that may refer to others
    descriptors: int
    tasks: int


@dataclass
class Outage:
    """One connection that is down: what came of it, counted and not kept."""

    collector: Collector
    log: Counter[str]
    rows: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    gaps: list[Mapping[str, Any]] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    attempts: int = 0
    good: int = 0  # rows
    longest_s: float = 0.0  # between two attempts
    _last: float | None = None
    _marking: asyncio.Event = field(default_factory=asyncio.Event)

    async def live(self, days: int, day_s: float) -> None:
        """So many days, and what is held on each of them."""
        async with self.running():
            for _ in range(days):
                await asyncio.sleep(day_s)
                self._marking.clear()
                await self._marking.wait()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The collector at work. What it raises is raised here."""
        self._marking.set()
        running = asyncio.create_task(self.collector.run())
        try:
            yield
        finally:
            if running.done():
                running.result()
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running

    def attempt(self) -> None:
        """`connect` is called."""
        now = asyncio.get_running_loop().time()
        if self._last is not None:
            self.longest_s = max(self.longest_s, now - self._last)
        self._last = now
        self.attempts += 1
        if not self._marking.is_set():
            self.marks.append(self.mark())
            self._marking.set()

    async def put(self, kind: str, batch: pa.RecordBatch) -> int:
        """The spool."""
        self.rows[kind] += batch.num_rows
        if kind == "telemetry":
            self.good += int((batch.column("quality").to_numpy() < q.BAD).sum())
        elif kind == "event":
            self.events.update(batch.column("event").to_pylist())
        elif kind == "gap":
            self.gaps.extend(batch.to_pylist())
        return 0

    def mark(self) -> Mark:
        """What is held now."""
        gc.collect()
        descriptors = len(os.listdir("/proc/self/fd"))
        return Mark(self.attempts, sys.getallocatedblocks(), len(gc.get_objects()), descriptors, len(asyncio.all_tasks()))


class _Counted:
    """An adapter whose attempts are counted."""

    outage: Outage

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self.batches, self.aclose = adapter.batches, adapter.aclose

    async def connect(self) -> None:
        self.outage.attempt()
        await self._adapter.connect()


def outage(
    kind: str, endpoint: str, directory: Path, *, wrap: Callable[[Adapter], Adapter] = lambda a: a, **options: Any
) -> Outage:
    """The collector of one connection as the gateway builds it, with the real back-off. To be made on a loop in virtual time."""
    loop = asyncio.get_running_loop()
    clock = VirtualClock(loop)
    logged: Counter[str] = Counter()

    def count(_: object, level: str, entry: Any) -> Any:
        logged[f"{level}: {entry['event']}"] += 1
        raise structlog.DropEvent

    log: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        None, processors=[count], wrapper_class=structlog.stdlib.BoundLogger
    )
    entry = {"kind": kind, "endpoint": endpoint, "scan": "1s", "timeout": "2s", "tags": TAGS[kind]} | options
    config = PLUGINS[kind].config.model_validate(entry)
    bound = bind("press", config)
    adapter = wrap(PLUGINS[kind].build(config, AdapterContext("press", bound, clock, directory, log, base=directory)))
    tags = [b.tag for b in bound]
    counted = _Counted(adapter)
    collector = Collector(
        "press",
        cast(Adapter, counted),
        tags,
        put=lambda *given: counted.outage.put(*given),
        clock=clock,
        rng=random.Random(7),
        log=log,
    )
    counted.outage = Outage(collector, logged)
    return counted.outage
