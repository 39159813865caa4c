"""Sink faults: every kind of sink there is behind the real spool and delivery, each fault of its service, several at a time.

`python -m tests.chaos.sinks --quick --seed 7 --json part.json`
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import structlog

from cloud_sinks.base import BatchPolicy, Sink
from gateway import catalogue
from gateway.clock import WallClock
from gateway.delivery import Delivery
from gateway.router import Router
from gateway.spool import Spool
from schemas.errors import GenbaError
from schemas.kinds import Kind
from schemas.span import Command, SpoolSpan
from tests.chaos.day.stands import CREDENTIALS
from tests.chaos.sink_stands import LIKE, STANDS, Fault, Row, Stand, standing
from tests.conformance.sink import Tags, batch_of, context_of
from tests.proof import Proof, command

KINDS: tuple[Kind, ...] = ("telemetry", "alert")
TAGS = Tags(*(f"acme/osaka/press-{n:02d}/x" for n in range(12)))
GIVEN_UP_S = 180.0
"""Patience, not a promise: so many services and sinks share the cores with other parts of the proof."""


class Watched:
    """A sink, and the errors that it raised. What it is not built to do itself it leaves to the real one."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.troubles = 0

    def policy(self, kind: Kind) -> BatchPolicy:
        """Of the real one."""
        return self._sink.policy(kind)

    async def connect(self) -> None:
        """The real one does."""
        await self._seen(self._sink.connect())

    async def write(self, batches: Sequence[pa.RecordBatch], span: SpoolSpan) -> None:
        """The real one does."""
        await self._seen(self._sink.write(batches, span))

    async def _seen(self, work: Awaitable[None]) -> None:
        try:
            await work
        except GenbaError:
            self.troubles += 1
            raise

    def commands(self) -> AsyncIterator[Command]:
        """Of the real one."""
        return self._sink.commands()

    async def lost(self) -> None:
        """Of the real one."""
        await self._sink.lost()
        self.troubles += 1

    async def aclose(self) -> None:
        """The real one does."""
        await self._sink.aclose()


class Lying(Watched):
    """Control: now and then it says that it has written what it has not; or it writes what it has, once more."""

    def __init__(self, sink: Sink, *, twice: bool) -> None:
        super().__init__(sink)
        self._twice, self._writes = twice, 0

    async def write(self, batches: Sequence[pa.RecordBatch], span: SpoolSpan) -> None:
        """Every third write is a lie; with `twice` another third is made twice."""
        self._writes += 1
        if self._writes % 3:
            await super().write(batches, span)
        if self._twice and self._writes % 3 == 1:
            await super().write(batches, replace(span, epoch=span.epoch + 1))


@dataclass
class Run:
    """Everything of one run. `wrong` are sentences."""

    spool: Spool
    rng: random.Random
    proof: Proof
    stands: dict[str, Stand] = field(default_factory=dict)
    sinks: dict[str, Watched] = field(default_factory=dict)
    deliveries: dict[str, Delivery] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)

    def wrong(self, sentence: str) -> None:
        """Something that must not be, once."""
        if sentence not in self.proof.wrong:
            self.proof.wrong.append(sentence)

    def behind(self, name: str, upto: dict[Kind, int]) -> bool:
        """Whether a sink has not had all rows below `upto`."""
        return any(self.spool.ledger.cursor(kind, name).acked < row for kind, row in upto.items())

    def durable(self) -> dict[Kind, int]:
        """The end of each log."""
        return {kind: self.spool.durable(kind) for kind in KINDS}

    def accounts(self) -> None:
        """read = filtered + delivered + spooled + dropped + dead-lettered, and nothing was given up."""
        for kind in KINDS:
            for name in self.deliveries:
                a = self.spool.account(kind, name)
                if a.read != a.filtered + a.delivered + a.spooled + a.dropped + a.dead_lettered:
                    self.wrong(f"{name}, {kind}: the account does not hold: {a}")
                if a.dropped or a.dead_lettered:
                    self.wrong(f"{name}, {kind}: rows were given up")


async def waited(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Whether it came true in time."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    return condition()


async def produce(run: Run) -> None:
    """Rows whose values tell their numbers, until it is cancelled; the accounts are looked at meanwhile."""
    while True:
        for kind, rows in (("telemetry", run.rng.randrange(1, 24)), ("alert", run.rng.random() < 0.4)):
            if rows:
                batch = batch_of(kind, run.spool.end(kind), int(rows), TAGS)  # type: ignore[arg-type]
                await run.spool.put(kind, batch.select(batch.schema.names[:-1]))  # type: ignore[arg-type]
        run.accounts()
        await asyncio.sleep(0.05)


async def deliver(run: Run, name: str) -> None:
    """As the supervisor does it: a crash is a bug, and is restarted."""
    while True:
        try:
            await run.deliveries[name].run()
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not be
            run.wrong(f"{name}: crashed with {error!r}")
            await asyncio.sleep(0.5)


@asynccontextmanager
async def trouble(run: Run, name: str, fault: Fault) -> AsyncIterator[None]:
    """A fault that the sink has met when the block begins, and that is over after it."""
    before = run.sinks[name].troubles
    felt = fault.felt or (lambda: run.sinks[name].troubles > before)
    await fault.begin()
    try:
        if await waited(felt, GIVEN_UP_S):
            run.seen[f"{name}: {fault.name}"] += 1
        else:
            run.wrong(f"{name}: {fault.name} is not noticed")
        yield
    finally:
        await fault.end()


async def alone(run: Run, name: str, fault: Fault) -> None:
    """One service is in trouble, the others are well: they get everything meanwhile."""
    async with trouble(run, name, fault):
        await asyncio.sleep(run.rng.uniform(0.3, 0.6))
        upto = run.durable()
        others = [other for other in run.deliveries if other != name]
        if not await waited(lambda: not any(run.behind(other, upto) for other in others), GIVEN_UP_S):
            late = [other for other in others if run.behind(other, upto)]
            run.wrong(f"{name}: {fault.name} holds {', '.join(late)} back")
        if fault.like == "away" and not run.behind(name, upto):
            run.wrong(f"{name}: {fault.name}, and it takes rows")
    if not await waited(lambda: not run.behind(name, upto), GIVEN_UP_S):
        run.wrong(f"{name}: does not come back after {fault.name}")


async def storm(run: Run, name: str, faults: Sequence[Fault]) -> None:
    """One fault of a service after the other, while other services have theirs."""
    for fault in faults:
        await asyncio.sleep(run.rng.uniform(0, 0.5))
        async with trouble(run, name, fault):
            await asyncio.sleep(run.rng.choice((0, run.rng.uniform(0, 2))))
        if run.rng.random() < 0.3:
            upto = run.durable()
            if not await waited(lambda upto=upto: not run.behind(name, upto), GIVEN_UP_S):  # type: ignore[misc]
                run.wrong(f"{name}: does not come back after {fault.name}")


def missing_stands() -> Iterator[str]:
    """Sentences about kinds of sinks that nothing is known of, and about stands without a fault of a class."""
    known = {kind for kind, _ in STANDS.values()}
    for kind in catalogue.installed().built_in("sinks"):
        if kind not in known:
            yield f"the sink {kind} has no stand-in and no faults: tests/chaos/sink_stands.py"


def compare(run: Run, name: str, kind: Kind, found: Sequence[Row]) -> None:
    """What is there, against what was acknowledged."""
    proof, stand = run.proof, run.stands[name]
    numbers = Counter(number for number, *_ in found)
    lost = run.spool.durable(kind) - len(numbers)
    twice = numbers.total() - len(numbers) if stand.exactly_once else 0
    proof.figures["lost"] += lost
    proof.figures["duplicated"] += twice
    if lost or twice:
        run.wrong(f"{name}, {kind}: {lost} rows are missing, {twice} are there twice")
    if set(numbers) - set(range(run.spool.durable(kind))):
        run.wrong(f"{name}, {kind}: rows that never were")
    if any(
        tag != TAGS[number % len(TAGS)].path or (kind == "telemetry" and value != number * 0.5) for number, tag, value in found
    ):
        run.wrong(f"{name}, {kind}: other values than were put")
    first: dict[str, dict[int, None]] = defaultdict(dict)
    for number, tag, _ in found:
        first[tag].setdefault(number)
    if any(list(mine) != sorted(mine) for mine in first.values()):
        run.wrong(f"{name}, {kind}: out of order")


async def play(
    seed: int,
    folder: Path,
    course: Callable[[Run], Awaitable[None]],
    make: Callable[[Stand, Sink], Watched] = lambda stand, sink: Watched(sink),
) -> Proof:
    """Deliver to every stand during `course`, and compare."""
    proof = Proof("sink faults", seed, dict.fromkeys(("faults", "rows_acknowledged", "lost", "duplicated"), 0))
    log = structlog.get_logger()
    async with standing(folder) as stands:
        spool = await Spool.open(
            folder / "spool", gateway="gw-1", clock=WallClock(), log=log, commit_every_s=0.05, segment_bytes=1 << 18
        )
        run = Run(spool, random.Random(seed), proof, {stand.name: stand for stand in stands})
        names = {stand.name: stand.kind for stand in stands}
        router = Router([_Rule(kind, list(names)) for kind in KINDS], names, TAGS)
        for stand in stands:
            for kind in KINDS:
                await spool.ledger.register(kind, stand.name)
            mine = folder / stand.name.replace(" ", "-")
            sink = make(stand, stand.build(context_of(mine, WallClock(), TAGS, name="out")))
            run.sinks[stand.name] = sink
            run.deliveries[stand.name] = Delivery(
                stand.name, sink, KINDS, spool=spool, router=router, clock=WallClock(), rng=random.Random(run.rng.random()),
                dead_letters=folder / "dead-letters", report=_unheard, log=log,
            )  # fmt: skip
        for stand in stands:
            classes = {fault.like for fault in stand.faults}
            for like in LIKE:
                if like not in classes:
                    run.wrong(f"{stand.name}: no fault is like {like!r}")
        tasks = [asyncio.create_task(deliver(run, name)) for name in run.deliveries]
        producer = asyncio.create_task(produce(run))
        try:
            await course(run)
            producer.cancel()
            with suppress(asyncio.CancelledError):
                await producer
            await spool.flush()
            for delivery in run.deliveries.values():
                delivery.finish()
            _, late = await asyncio.wait(tasks, timeout=2 * GIVEN_UP_S)
            if late:
                run.wrong(f"{len(late)} sinks do not end")
            run.accounts()
            for stand in stands:
                for kind in KINDS:
                    compare(run, stand.name, kind, await asyncio.to_thread(stand.rows, kind))
            proof.figures["faults"] = run.seen.total()
            proof.figures["rows_acknowledged"] = sum(run.durable().values())
            proof.measured["sinks"] = len(stands)
            proof.measured["kinds_of_faults"] = len(run.seen)
        finally:
            for task in (producer, *tasks):
                task.cancel()
            await asyncio.gather(producer, *tasks, return_exceptions=True)
            await spool.close()
    return proof


@dataclass
class _Rule:
    data: Kind
    to: Sequence[str]
    tags: Sequence[str] = ()


async def _unheard(event: str, severity: str, message: str) -> None:
    """Events are no part of this."""


def weather(rounds: int, most: int | None, single: Sequence[str] = ("away", "slow")) -> Callable[[Run], Awaitable[None]]:
    """Each service alone in trouble, `single`; then all of them through all of their faults, `rounds` times, in an order of the seed."""

    async def course(run: Run) -> None:
        for _ in range(rounds):
            for name, stand in run.rng.sample(sorted(run.stands.items()), len(run.stands)):
                for like in single:
                    await alone(run, name, run.rng.choice([fault for fault in stand.faults if fault.like == like]))
            async with asyncio.TaskGroup() as group:
                for name, stand in run.stands.items():
                    faults = run.rng.sample(stand.faults, len(stand.faults))
                    group.create_task(storm(run, name, faults[:most]))

    return course


async def calm(run: Run) -> None:
    """Nothing happens but rows."""
    await waited(lambda: run.spool.durable("telemetry") > 150, GIVEN_UP_S)
    await asyncio.sleep(2.5)


def _played(seed: int, course: Callable[[Run], Awaitable[None]], **options: Callable[[Stand, Sink], Watched]) -> Proof:
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.dict(os.environ, CREDENTIALS),
        structlog.testing.capture_logs(),
    ):
        return asyncio.run(play(seed, Path(folder), course, **options))


def run(seed: int, quick: bool, most: int | None = None) -> Proof:
    """All faults, and the controls. `most`: so many of the faults of each sink in the storm, and none but being away alone."""
    course = weather(1, most, ("away",)) if most is not None else weather(1, 5) if quick else weather(3, None)
    proof = _played(seed, course)
    proof.wrong += missing_stands()
    lied = _played(seed, calm, make=lambda stand, sink: Lying(sink, twice=stand.exactly_once))
    for name, (kind, _) in STANDS.items():
        found = next((one for one in lied.wrong if one.startswith(f"{name}, telemetry: ")), ": 0 rows, 0 are there twice")
        proof.controls[f"{name} says yes before it has written"] = "" if ": 0 rows" in found else found
        if kind == "parquet":
            proof.controls[f"{name} writes once more under another name"] = "" if ", 0 are there twice" in found else found
    return proof


if __name__ == "__main__":
    sys.exit(command("sink faults", run, __doc__))
