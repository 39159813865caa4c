"""Wires the rooms of a gateway from a configuration. Opens the spool and the registry; runs nothing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import structlog

from adapters.base import Adapter, AdapterContext, BoundTag, TagConfig
from cloud_sinks.base import Sink, SinkContext
from edge_models.alarms import AlarmLayer
from edge_models.runtime import ModelSet
from schemas.clock import Clock
from schemas.kinds import KINDS, Kind, make_batch
from schemas.tags import Tag
from schemas.values import Strict

from . import bookmarks, catalogue, dead_letters
from .absences import Absences
from .bookmarks import Bookmark, bookmark_name
from .building import build_adapter
from .collector import Collector, Put
from .config import Configuration
from .delivery import Delivery
from .isolation.inference import open_worker
from .latest import Latest
from .registry import TagRegistry
from .router import Router, destinations
from .runner import ModelRunner
from .spool import Spool

C = TypeVar("C", bound=Strict)


@dataclass(frozen=True, slots=True)
class Crashes:
    """How often a task crashed, when last (the loop's time, seconds) and of what."""

    count: int
    last_s: float
    error: str


@dataclass
class Pipeline:
    """Everything that a running gateway consists of. The supervisor runs it."""

    configuration: Configuration
    clock: Clock
    log: structlog.stdlib.BoundLogger
    spool: Spool
    registry: TagRegistry
    tags: Sequence[Tag]
    latest: Latest
    models: ModelSet
    asset: str  # of the gateway itself
    spool_budget: int
    runner: ModelRunner | None = None
    adapter_of: Callable[[Configuration, str, Sequence[Tag], int | None], tuple[Adapter, list[Tag]]] | None = None
    """The adapter of an entry below `adapters:`, not connected, and its tags out of those given; the last argument is the time up to
    which everything is there (`AdapterContext.last_seen_us`). Raises ConfigError."""
    collectors: list[Collector] = field(default_factory=list)
    bookmarks: list[Bookmark] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    sinks: dict[str, Sink] = field(default_factory=dict)
    crashes: dict[str, Crashes] = field(default_factory=dict)  # by task; kept by the supervisor

    @property
    def alarms(self) -> AlarmLayer:
        """The one alarm layer of this gateway."""
        return self.models.alarms

    async def put(self, kind: Kind, batch: pa.RecordBatch) -> int:
        """Into the spool, and telemetry also to the live values and, from memory, to the models."""
        first = await self.spool.put(kind, batch)
        if kind == "telemetry":
            self.latest.update(batch)
            if self.runner is not None:
                self.runner.offer(first, batch)
        return first

    async def event(self, event: str, severity: str, message: str, *, source: str = "gateway") -> None:
        """Put one event row about the gateway itself."""
        now = self.clock.now_us()
        row = make_batch("event", 1, time=now, asset=self.asset, source=source, event=event, severity=severity, message=message)
        await self.put("event", row)

    def oldest_age_s(self, delivery: Delivery) -> float:
        """Age in seconds of the oldest row that a sink has not taken yet; 0.0 when it has all."""
        now = self.clock.now_us()
        times = [
            self.spool.time_of(kind, self.spool.ledger.cursor(kind, delivery.name).acked)
            for kind in delivery.kinds
            if self.spool.ledger.cursor(kind, delivery.name).acked < self.spool.durable(kind)
        ]
        return max(0.0, (now - min(times)) / 1e6) if times else 0.0


async def open_pipeline(
    configuration: Configuration,
    *,
    clock: Clock,
    log: structlog.stdlib.BoundLogger,
    rng: random.Random,
    endpoints: Mapping[str, str] | None = None,
) -> Pipeline:
    """Open the durable state and build every room on it. `endpoints` replaces endpoints by name of adapter or sink (a simulated plant).

    Raises ConfigError for what a person must edit. Nothing is connected yet.
    """
    plant = configuration.plant
    directory = configuration.directory / plant.spool.directory
    spool = await Spool.open(
        directory,
        gateway=plant.gateway,
        clock=clock,
        commit_every_s=plant.spool.commit_every.s,
        commit_bytes=int(plant.spool.commit_size),
        segment_bytes=int(plant.spool.segment_size),
        fsync=plant.spool.fsync,
        max_bytes=int(plant.spool.max_size),
        when_full=plant.spool.when_full,
        keep_s=plant.spool.keep.s,
        log=log,
    )
    try:
        registry = await TagRegistry.open(directory, log=log)
        tags = await registry.resolve(configuration.tags, clock.now_us(), row=spool.end("telemetry"))
        pipeline = Pipeline(
            configuration=configuration,
            clock=clock,
            log=log,
            spool=spool,
            registry=registry,
            tags=tags,
            latest=Latest(len(registry)),
            models=await asyncio.to_thread(build_models, configuration, tags, log),  # some lie in files
            asset=f"{plant.enterprise}/{plant.site}/{plant.gateway}",
            spool_budget=int(plant.spool.max_size),
        )
        _add_deliveries(pipeline, directory, rng, endpoints or {})
        wanted = [kind for kind in KINDS if any(kind in delivery.kinds for delivery in pipeline.deliveries)]
        pipeline.runner = ModelRunner(
            pipeline.models, spool=spool, put=pipeline.put, keep=wanted, clock=clock, directory=directory / "models", log=log
        )
        last_seen = spool.last_durable_us("telemetry")
        pipeline.bookmarks = _bookmarks(configuration, tags, spool, endpoints or {})
        await bookmarks.restore(pipeline.bookmarks, spool)
        # A recording waits: nothing of it is missed while the gateway is not running.
        live = [name for name, config in configuration.plant.adapters.items() if not config.replays]
        absences = await Absences.open(
            directory, live, last_seen_us=last_seen, durable_gaps=partial(spool.durable, "gap"), log=log,
        )  # fmt: skip
        pipeline.adapter_of = partial(
            make_adapter,
            clock=clock,
            log=log,
            directory=directory / "adapters",
            endpoints=endpoints or {},
            bookmarks=pipeline.bookmarks,
        )
        pipeline.collectors = build_collectors(
            configuration, tags, put=pipeline.put, clock=clock, rng=rng, log=log, directory=directory / "adapters",
            endpoints=endpoints or {}, last_seen_us=last_seen, bookmarks=pipeline.bookmarks, absences=absences,
        )  # fmt: skip
    except BaseException:
        await spool.close()
        raise
    return pipeline


def build_models(configuration: Configuration, tags: Sequence[Tag], log: structlog.stdlib.BoundLogger) -> ModelSet:
    """The models of the file over the resolved tags, with the implicit limit watch; those that lie in files run in workers."""
    plant = configuration.plant
    return ModelSet.build(
        plant.models, tags, lambda kind: catalogue.plugin("models", kind), plant.alarms, plant.time_zone,
        open_model=open_worker(configuration.directory, log),
    )  # fmt: skip


def build_collectors(
    configuration: Configuration,
    tags: Sequence[Tag],
    *,
    put: Put,
    clock: Clock,
    rng: random.Random,
    log: structlog.stdlib.BoundLogger,
    directory: Path,
    endpoints: Mapping[str, str],
    last_seen_us: int | None = None,
    bookmarks: Sequence[Bookmark] = (),
    absences: Absences | None = None,
) -> list[Collector]:
    """One collector per entry below `adapters:`, in the order of the file."""
    collectors = []
    for name, config in configuration.plant.adapters.items():
        adapter, mine = make_adapter(
            configuration, name, tags, last_seen_us, clock=clock, log=log, directory=directory, endpoints=endpoints,
            bookmarks=bookmarks,
        )  # fmt: skip
        bookmark = _bookmark_of(bookmarks, name)
        collectors.append(
            Collector(
                name,
                adapter,
                mine,
                put=put if bookmark is None else bookmark.through(put),
                clock=clock,
                rng=rng,
                log=log,
                last_seen_us=None if config.replays else last_seen_us,
                absence=None if config.replays or absences is None else absences.of(name),
            )
        )
    return collectors


def make_adapter(
    configuration: Configuration,
    name: str,
    tags: Sequence[Tag],
    last_seen_us: int | None,
    *,
    clock: Clock,
    log: structlog.stdlib.BoundLogger,
    directory: Path,
    endpoints: Mapping[str, str],
    bookmarks: Sequence[Bookmark] = (),
) -> tuple[Adapter, list[Tag]]:
    """The adapter of one entry and its tags, with the ids of `tags`."""
    bound = bind(configuration, name, tags)
    bookmark = _bookmark_of(bookmarks, name)
    context = AdapterContext(
        name=name,
        tags=bound,
        clock=clock,
        directory=directory / name,
        log=log,
        time_zone=configuration.plant.time_zone,
        base=configuration.directory,
        last_seen_us=last_seen_us,
        reached={} if bookmark is None else bookmark.reached,
    )
    adapter = build_adapter(at_endpoint(configuration.plant.adapters[name], endpoints.get(name)), context)
    return adapter, [one.tag for one in bound]


def _bookmark_of(bookmarks: Sequence[Bookmark], adapter: str) -> Bookmark | None:
    return next((bookmark for bookmark in bookmarks if bookmark.name == bookmark_name(adapter)), None)


def _bookmarks(configuration: Configuration, tags: Sequence[Tag], spool: Spool, endpoints: Mapping[str, str]) -> list[Bookmark]:
    """One per adapter whose source can be read again from any place."""
    found = []
    for name, config in configuration.plant.adapters.items():
        if config.replays:
            ids = [bound.tag.id for bound in bind(configuration, name, tags)]
            found.append(Bookmark(name, endpoints.get(name, config.endpoint), ids, spool))
    return found


def bind(configuration: Configuration, adapter: str, tags: Sequence[Tag]) -> list[BoundTag[TagConfig]]:
    """The bound tags of one adapter, with the ids of `tags`."""
    by_path = {tag.path: tag for tag in tags}
    return [replace(bound, tag=by_path[bound.tag.path]) for bound in configuration.bound[adapter]]


def at_endpoint(config: C, endpoint: str | None) -> C:
    """The same adapter or sink at another endpoint."""
    return config if endpoint is None else config.model_copy(update={"endpoint": endpoint})


def _add_deliveries(pipeline: Pipeline, directory: Path, rng: random.Random, endpoints: Mapping[str, str]) -> None:
    plant = pipeline.configuration.plant
    kinds_of_sinks = {name: config.kind for name, config in plant.sinks.items()}
    router = Router(plant.routes, kinds_of_sinks, pipeline.tags)
    routed = destinations(plant.routes, kinds_of_sinks)
    for name, config in plant.sinks.items():
        context = SinkContext(
            name=name,
            enterprise=plant.enterprise,
            site=plant.site,
            gateway=plant.gateway,
            tags=pipeline.registry,
            clock=pipeline.clock,
            directory=directory / "sinks" / name,
            base=pipeline.configuration.directory,
            log=pipeline.log,
            time_zone=plant.time_zone,
        )
        config = at_endpoint(config, endpoints.get(name))
        sink: Sink = catalogue.plugin("sinks", config.kind).build(config, context)
        pipeline.sinks[name] = sink

        async def report(event: str, severity: str, message: str, source: str = name) -> None:
            await pipeline.event(event, severity, message, source=source)

        pipeline.deliveries.append(
            Delivery(
                name,
                sink,
                [kind for kind in KINDS if name in routed[kind]],
                spool=pipeline.spool,
                router=router,
                clock=pipeline.clock,
                rng=rng,
                dead_letters=directory / dead_letters.DIRECTORY,
                max_rows_per_s=None if config.max_rate is None else config.max_rate / 86_400,
                report=report,
                log=pipeline.log,
            )
        )
