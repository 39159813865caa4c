"""Deliveries on a real spool, and a sink that does what its script says."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager, suppress

import structlog

from cloud_sinks.base import BatchPolicy
from gateway.delivery import Delivery
from gateway.router import Router
from schemas.kinds import make_batch
from tests.gateway.samples import make_tag, rows

TAGS = [make_tag(number) for number in range(4)]


class ScriptedSink:
    """Keeps what it was given. `on_write` and `on_connect` hold exceptions (raised) or coroutine functions (awaited) in turn."""

    def __init__(self, *, policy=None, on_connect=(), on_write=()):
        self._policy = policy or BatchPolicy(max_rows=1000, max_age_s=0.0)
        self.on_connect, self.on_write = list(on_connect), list(on_write)
        self.tried: list[tuple[str, int, int, list[int]]] = []
        self.taken: list[tuple[str, int, int, list[int]]] = []
        self.connects = self.closed = 0
        self.gone = asyncio.Event()

    def policy(self, kind):
        return self._policy if isinstance(self._policy, BatchPolicy) else self._policy[kind]

    async def connect(self):
        self.connects += 1
        self.gone = asyncio.Event()
        await self._play(self.on_connect)

    async def write(self, batches, span):
        told = (
            span.kind,
            span.first,
            span.last,
            [n for batch in batches for n in batch.column(batch.num_columns - 1).to_pylist()],
        )
        self.tried.append(told)
        await self._play(self.on_write)
        self.taken.append(told)

    async def _play(self, script):
        if script:
            step = script.pop(0)
            if isinstance(step, Exception):
                raise step
            if step is not None:
                await step()

    def commands(self):
        raise NotImplementedError

    async def lost(self):
        await self.gone.wait()

    async def aclose(self):
        self.closed += 1

    def rows(self, kind="telemetry"):
        return [n for k, _, _, numbers in self.taken if k == kind for n in numbers]


class Rig:
    """Deliveries on one spool, with what they reported."""

    def __init__(self, spool, tmp_path, clock, *, tags=TAGS):
        self.spool, self.clock, self.tags = spool, clock, tags
        self.dead_letters = tmp_path / "dead-letters"
        self.reports: list[tuple[str, str, str]] = []

    async def delivery(self, sink, *, name="lake", kinds=("telemetry",), rules=None, **options):
        async def report(event, severity, message):
            self.reports.append((event, severity, message))

        for kind in kinds:
            await self.spool.ledger.register(kind, name)
        rules = rules if rules is not None else [Rule(kind, [name]) for kind in kinds]
        made = Delivery(
            name, sink, kinds, spool=self.spool, router=Router(rules, {name: "parquet"}, self.tags), clock=self.clock,
            rng=random.Random(1), dead_letters=self.dead_letters, report=report, log=structlog.get_logger(),
            **options,
        )  # fmt: skip
        made._backoff._first_s = made._backoff._max_s = 0.01
        return made

    async def put(self, count, *, kind="telemetry", tag=0):
        batch = rows([tag] * count, list(range(count))) if kind == "telemetry" else make_batch(kind, count, time=0)
        first = await self.spool.put(kind, batch)
        await self.spool.flush()
        return first

    def events(self):
        return [event for event, _, _ in self.reports]

    def account(self, name="lake", kind="telemetry"):
        """The account, with the identity asserted."""
        found = self.spool.account(kind, name)
        assert found.read == found.filtered + found.delivered + found.spooled + found.dropped + found.dead_lettered
        return found


class Rule:
    def __init__(self, data, to, tags=()):
        self.data, self.to, self.tags = data, to, tags


@asynccontextmanager
async def running(*deliveries):
    tasks = [asyncio.create_task(one.run()) for one in deliveries]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):  # we have just cancelled them
            await asyncio.gather(*tasks)


async def finished(delivery, timeout_s=5):
    """Run until everything there is has been delivered."""
    delivery.finish()
    await asyncio.wait_for(delivery.run(), timeout_s)
