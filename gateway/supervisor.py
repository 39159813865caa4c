"""Runs a pipeline: starts every room, restarts what crashes, stops in an order that loses nothing acknowledged."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from schemas.errors import ConfigError

from .backoff import Backoff
from .pipeline import Pipeline
from .troubles import Troubles


class Supervisor:
    """One running gateway. `run(stop)` returns after a graceful stop."""

    def __init__(self, pipeline: Pipeline, *, rng: random.Random, grace_s: float = 10.0, patience_s: float = 3.0) -> None:
        """`grace_s` is how long sinks may take at the stop to deliver what there is; the rest stays in the spool."""
        self._pipeline, self._rng, self._grace_s = pipeline, rng, grace_s
        self._troubles = Troubles(pipeline, patience_s=patience_s)
        self.crashes: dict[str, int] = {}
        self.ready = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set: devices first let go, then models and sinks finish, then the spool closes."""
        p = self._pipeline
        assert p.runner is not None
        try:
            for delivery in p.deliveries:
                for kind in delivery.kinds:
                    await p.spool.ledger.register(kind, delivery.name)
            await p.runner.restore()
            await p.event("gateway_started", "info", f"{p.configuration.plant.gateway} started with {len(p.tags)} tags")
            async with asyncio.TaskGroup() as group:
                devices = [group.create_task(self._keep(f"adapter {c.name}", c.run)) for c in p.collectors]
                models = group.create_task(self._keep("models", p.runner.run))
                sinks = [group.create_task(self._keep(f"sink {d.name}", d.run)) for d in p.deliveries]
                sides = [group.create_task(self._keep(f"commands of {name}", self._commands(name))) for name in p.sinks]
                sides.append(group.create_task(self._keep("troubles", self._troubles.run)))
                self.ready.set()
                p.log.info("gateway is ready", tags=len(p.tags), adapters=len(devices), sinks=len(sinks))
                try:
                    await stop.wait()
                finally:
                    await _cancel(devices)
                    await self._wind_down(models, sinks)
                    await _cancel([*sides, models, *sinks])
        finally:
            await p.spool.close()
            p.log.info("gateway stopped")

    async def _wind_down(self, models: asyncio.Task[None], sinks: list[asyncio.Task[None]]) -> None:
        """Score and deliver what was collected, within the grace; what is left waits in the spool for the next start."""
        p = self._pipeline
        assert p.runner is not None
        p.runner.finish()
        await asyncio.wait({models}, timeout=self._grace_s)
        await p.event("gateway_stopping", "info", f"{p.configuration.plant.gateway} is stopping")
        await p.spool.flush()
        for delivery in p.deliveries:
            delivery.finish()
        if sinks:
            await asyncio.wait(set(sinks), timeout=self._grace_s)

    def _commands(self, name: str) -> Callable[[], Awaitable[None]]:
        async def listen() -> None:
            p = self._pipeline
            async for command in p.sinks[name].commands():
                p.log.info("command received", sink=name, command=command.name)
                try:
                    batch = p.alarms.command(command, p.clock.now_us())
                except (ValueError, KeyError) as error:
                    p.log.warning("command refused", sink=name, command=command.name, error=str(error))
                    continue
                if batch is not None:
                    await p.put("alert", batch)

        return listen

    async def _keep(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run again after a crash, with back-off; a crash is a bug, counted and logged with its traceback."""
        backoff = Backoff(self._rng, first_s=1.0, max_s=30.0)
        while True:
            try:
                await run()
                return
            except ConfigError as error:
                self._pipeline.log.error("a person must act", task=name, error=str(error))
            except Exception:  # whatever it is, the other rooms must live on
                self.crashes[name] = self.crashes.get(name, 0) + 1
                self._pipeline.log.exception("task crashed and is restarted", task=name, crashes=self.crashes[name])
            await asyncio.sleep(backoff.next_s())


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
