"""Runs a pipeline: starts every room, restarts what crashes, stops in an order that loses nothing acknowledged."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from adapters.base import Adapter
from schemas.errors import Busy, ConfigError
from schemas.tags import Tag

from . import bookmarks
from .backoff import Backoff
from .commands import obey
from .deploy.agent import agent_of
from .pipeline import Crashes, Pipeline
from .troubles import Troubles

_LET_GO_S: Final = 2.0  # for closing a connection; after that it is left to the operating system
_STEADY_S: Final = 60.0  # a task that ran for so long starts its back-off anew


class Supervisor:
    """One running gateway. `run(stop)` returns after a graceful stop."""

    def __init__(self, pipeline: Pipeline, *, rng: random.Random, grace_s: float = 10.0, patience_s: float = 3.0) -> None:
        """`grace_s` is how long models and sinks together may take at the stop for what there is; the rest stays in the spool."""
        self._pipeline, self._rng, self._grace_s = pipeline, rng, grace_s
        self._troubles = Troubles(pipeline, patience_s=patience_s)
        self._devices: dict[str, asyncio.Task[None]] = {}  # by adapter, while they run
        self._start: Callable[[str, Callable[[], Awaitable[None]]], asyncio.Task[None]] | None = None
        self._agent = agent_of(pipeline, self._replan)
        self.ready = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set: devices first let go, then models and sinks finish, then the spool closes."""
        p = self._pipeline
        assert p.runner is not None
        try:
            for delivery in p.deliveries:
                begin = p.configuration.plant.sinks[delivery.name].from_
                for kind in delivery.kinds:
                    await p.spool.ledger.register(kind, delivery.name, begin)
            if self._agent is not None:
                await self._agent.restore()
            await p.runner.restore()
            await p.event("gateway_started", "info", f"{p.configuration.plant.gateway} started with {len(p.tags)} tags")
            async with asyncio.TaskGroup() as group:

                def start(name: str, run: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
                    return group.create_task(self._keep(name, run), name=name)

                self._start = start
                self._devices = {one.name: start(f"adapter {one.name}", one.run) for one in p.collectors}
                models = start("models", p.runner.run)
                sinks = [start(f"sink {delivery.name}", delivery.run) for delivery in p.deliveries]
                sides = [start(f"commands of {name}", self._commands(name)) for name in p.sinks]
                sides.append(start("troubles", self._troubles.run))
                if p.bookmarks:
                    sides.append(start("bookmarks", lambda: bookmarks.keep(p.bookmarks)))
                agent = [] if self._agent is None else [start("shadow", self._agent.run)]
                # Nothing is of use without the spool: the process ends, and the service manager starts it anew.
                sides.append(group.create_task(p.spool.died(), name="spool"))
                self.ready.set()
                p.log.info("gateway is ready", tags=len(p.tags), adapters=len(self._devices), sinks=len(sinks))
                try:
                    await stop.wait()
                finally:
                    await self._cancel(agent)  # first, that it starts no device any more
                    await self._cancel(self._devices.values())
                    await self._wind_down(models, sinks)
                    await self._cancel([*sides, models, *sinks])
        finally:
            await p.spool.close()
            p.log.info("gateway stopped")

    async def _wind_down(self, models: asyncio.Task[None], sinks: list[asyncio.Task[None]]) -> None:
        """Score and deliver what was collected, within the grace; what is left waits in the spool for the next start."""
        p = self._pipeline
        assert p.runner is not None
        end = asyncio.get_running_loop().time() + self._grace_s
        p.runner.finish()
        await _wait(models, until=end)
        try:
            async with asyncio.timeout_at(end):
                await p.event("gateway_stopping", "info", f"{p.configuration.plant.gateway} is stopping")
                await p.spool.flush()
        except (Busy, TimeoutError):
            p.log.warning("the disk does not take what was collected last", error=p.spool.failure)
        for delivery in p.deliveries:
            delivery.finish()
        await _wait(*sinks, until=end)

    async def _replan(self, name: str, adapter: Adapter, tags: Sequence[Tag]) -> None:
        """Let go of a device and go on with another adapter for it."""
        collector = next(one for one in self._pipeline.collectors if one.name == name)
        if self._start is None or collector.state == "finished":
            collector.replan(adapter, tags)
            return
        await self._cancel([self._devices[name]])
        collector.replan(adapter, tags)
        self._devices[name] = self._start(f"adapter {name}", collector.run)

    def _commands(self, name: str) -> Callable[[], Awaitable[None]]:
        async def listen() -> None:
            p = self._pipeline
            async for command in p.sinks[name].commands():
                if command.name == "desired":
                    if self._agent is not None and self._agent.sink == name:
                        self._agent.desired(command)
                    continue
                p.log.info("command received", sink=name, command=command.name)
                try:
                    await obey(p, command)
                except (ValueError, KeyError) as error:
                    p.log.warning("command refused", sink=name, command=command.name, error=str(error))

        return listen

    async def _keep(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run again after a crash, with back-off; a crash is a bug, counted and logged with its traceback."""
        p, loop = self._pipeline, asyncio.get_running_loop()
        backoff = Backoff(self._rng, first_s=1.0, max_s=30.0)
        while True:
            began = loop.time()
            try:
                await run()
                return
            except ConfigError as error:
                p.log.error("a person must act", task=name, error=str(error))
            except Exception as error:  # whatever it is, the other rooms must live on
                p.crashes[name] = Crashes(p.crashes[name].count + 1 if name in p.crashes else 1, loop.time(), repr(error))
                p.log.exception("task crashed and is restarted", task=name, crashes=p.crashes[name].count)
            if loop.time() - began > _STEADY_S:
                backoff.reset()
            await asyncio.sleep(backoff.next_s())

    async def _cancel(self, tasks: Iterable[asyncio.Task[None]]) -> None:
        """End tasks. One that hangs while it lets go of its connection is interrupted there too, and named."""
        tasks = list(tasks)
        for task in tasks:
            task.cancel()
        hanging = await _wait(*tasks, until=asyncio.get_running_loop().time() + _LET_GO_S)
        for task in hanging:
            self._pipeline.log.warning("a task does not let go and is cut off", task=task.get_name())
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _wait(*tasks: asyncio.Task[None], until: float) -> set[asyncio.Task[None]]:
    """Until all have ended or it is `until` by the loop's time; returns those that have not ended."""
    if not tasks:
        return set()
    _, pending = await asyncio.wait(tasks, timeout=max(0.0, until - asyncio.get_running_loop().time()))
    return pending
