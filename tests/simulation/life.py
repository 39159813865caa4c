"""A gateway in virtual time: collectors, spool, deliveries and the watch over its troubles are its own; disk, devices and services are simulated.

Left out are the supervisor's restarts, the edge models and the web page: they look at the clock every second.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import structlog

from edge_models.runtime import ModelSet
from gateway.absences import Absences
from gateway.collector import Collector
from gateway.delivery import Delivery
from gateway.latest import Latest
from gateway.pipeline import Pipeline
from gateway.registry import TagRegistry
from gateway.router import Router
from gateway.spool import Spool
from gateway.spool.worker import InlineWorker
from gateway.troubles import Troubles
from schemas.data import Kind
from schemas.errors import Busy
from schemas.tags import Tag
from tests.gateway.spool.conftest import crash
from tests.gateway.spool.power import PowerStorage

from .stands import Device, Stand, SteppedClock
from .weather import Reboot, Weather

GRACE_S: Final = 10.0


class Rule(NamedTuple):
    """One entry below `routes:`."""

    data: Kind
    to: Sequence[str]
    tags: Sequence[str] = ()


class Disk(PowerStorage):
    """Loses power; dies with its process; knows the most that was ever on it."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self.dead = False

    def look(self) -> None:
        """Nothing is written by who is no more."""
        if self.dead:
            raise OSError(5, "the process is gone")

    def create(self, path: Path, size: int) -> int:
        """See `Storage.create`."""
        fd = super().create(path, size)
        self.peak = max(self.peak, self.used())
        return fd

    def used(self) -> int:
        """Bytes of all files."""
        return sum(map(len, self.files.values()))


class Life:
    """One gateway, over all its restarts."""

    def __init__(
        self,
        weather: Weather,
        tags: Sequence[Tag],
        devices: Mapping[str, Device],
        stands: Mapping[str, Stand],
        rules: Sequence[Rule],
        *,
        clock: SteppedClock,
        rng: random.Random,
        directory: Path,
        delivery: type[Delivery] = Delivery,
        tap: Callable[[int, Any], None],
    ) -> None:
        self.weather, self.devices, self.stands, self.clock = weather, devices, stands, clock
        self.disk = Disk()
        self.up_since = 0.0
        self.acknowledged: dict[Kind, int] = {}
        """What had been durable when the gateway ended last."""
        self.restarts = dict.fromkeys(("stop", "kill", "power"), 0)
        self.untidy: list[str] = []
        self._tags, self._rules, self._rng, self._directory = tags, rules, rng, directory
        self._delivery, self._tap = delivery, tap
        self._log: structlog.stdlib.BoundLogger = structlog.wrap_logger(
            None, processors=[_silent], wrapper_class=structlog.stdlib.BoundLogger
        )
        self._tasks: list[asyncio.Task[None]] = []
        self.pipeline: Pipeline | None = None

    @property
    def spool(self) -> Spool:
        """That of the gateway that runs."""
        assert self.pipeline is not None
        return self.pipeline.spool

    async def start(self) -> None:
        """As `open_pipeline` and the supervisor do."""
        w, loop = self.weather, asyncio.get_running_loop()
        self.disk.dead = False
        spool = await Spool.open(
            self._directory, gateway="gw", clock=self.clock, log=self._log, storage=self.disk, commit_every_s=w.commit_every_s,
            max_bytes=w.budget, when_full={"telemetry": w.when_full}, scrub_every_s=600.0,
            writer=InlineWorker(), reader=InlineWorker(), thinner=InlineWorker(),
        )  # fmt: skip
        for kind, durable in self.acknowledged.items():
            if not durable <= spool.durable(kind):
                self.untidy.append(f"{durable} rows of {kind} were durable, {spool.durable(kind)} are there after a restart")
        spool.tap("telemetry", self._tap)
        registry = await TagRegistry.open(self._directory, log=self._log, storage=self.disk)
        tags = await registry.resolve(self._tags, self.clock.now_us(), row=spool.end("telemetry"))
        self.pipeline = p = Pipeline(
            configuration=None, clock=self.clock, log=self._log, spool=spool, registry=registry, tags=tags,  # type: ignore[arg-type]
            latest=Latest(len(tags)), models=ModelSet({}, tags), asset="acme/north/gw", spool_budget=w.budget,
        )  # fmt: skip
        sinks = dict.fromkeys(self.stands, "any")
        router = Router(self._rules, sinks, tags)

        async def report(source: str, event: str, severity: str, message: str) -> None:
            await p.event(event, severity, message, source=source)

        for name, stand in self.stands.items():
            for kind in stand.kinds:
                await spool.ledger.register(kind, name)
            p.deliveries.append(
                self._delivery(
                    name, stand, stand.kinds, spool=spool, router=router, clock=self.clock, rng=self._rng,
                    dead_letters=self._directory / "dead-letters", report=partial(report, name), log=self._log,
                )
            )  # fmt: skip
        last_seen = spool.last_durable_us("telemetry")
        absences = await Absences.open(
            self._directory, self.devices, last_seen_us=last_seen, durable_gaps=partial(spool.durable, "gap"), log=self._log,
            storage=self.disk,
        )  # fmt: skip
        for name, device in self.devices.items():
            mine = [tag for tag in tags if tag.adapter == name]
            p.collectors.append(
                Collector(
                    name, device, mine, put=p.put, clock=self.clock, rng=self._rng, log=self._log, last_seen_us=last_seen,
                    absence=absences.of(name),
                )
            )  # fmt: skip
        if end := spool.end("alert"):
            first = max(spool.oldest("alert"), end - 50_000)
            p.models.replay_alerts([batch for _, batch in await spool.read("alert", first, max_rows=50_000)])
        await p.event("gateway_started", "info", "started")
        self.troubles = Troubles(p)
        self._rooms = [loop.create_task(one.run(), name=f"adapter {one.name}") for one in p.collectors]
        self._sinks = [loop.create_task(one.run(), name=f"sink {one.name}") for one in p.deliveries]
        self.up_since = loop.time()

    async def end(self, manner: Reboot) -> None:
        """It ends, one way or another."""
        p = self.pipeline
        assert p is not None
        self.restarts[manner] += 1
        if manner == "stop":
            await self._stop(p)
        else:
            self.disk.dead = True
            for task in (*self._rooms, *self._sinks, *p.spool._tasks):
                task.cancel()
            await asyncio.gather(*self._rooms, *self._sinks, *p.spool._tasks, return_exceptions=True)
            self.acknowledged = {kind: p.spool.durable(kind) for kind in p.spool._durable}
            crash(p.spool)
            if manner == "power":
                self.disk.cut_power(self._rng)
        self.pipeline = None

    async def let_go_of_devices(self) -> None:
        """No more readings."""
        for task in self._rooms:
            task.cancel()
        await asyncio.gather(*self._rooms, return_exceptions=True)

    async def _stop(self, p: Pipeline) -> None:
        """As the supervisor does."""
        loop = asyncio.get_running_loop()
        await self.let_go_of_devices()
        end = loop.time() + GRACE_S
        with suppress(Busy, TimeoutError):
            async with asyncio.timeout_at(end):
                await p.event("gateway_stopping", "info", "stopping")
                await p.spool.flush()
        for delivery in p.deliveries:
            delivery.finish()
        await asyncio.wait(self._sinks, timeout=end - loop.time())
        for task in self._sinks:
            task.cancel()
        await asyncio.gather(*self._sinks, return_exceptions=True)
        self.acknowledged = {kind: p.spool.end(kind) for kind in p.spool._durable}
        await p.spool.close()

    def crashed(self) -> list[str]:
        """Rooms that have ended by themselves."""
        return [
            f"{task.get_name()} ended: {task.exception()!r}"
            for task in (*self._rooms, *self._sinks)
            if task.done() and not task.cancelled()
        ]


def _silent(_: object, __: str, entry: Any) -> Any:
    raise structlog.DropEvent
