"""Delivers from the spool to one sink: cuts logs into spans by the sink's policy, alerts before bulk, in order, retried.

A cut is durable in the ledger before the write and is repeated with the same rows until the sink took it, also after a crash;
so a sink that names its objects after the span writes exactly once. Every row read is filtered, delivered, spooled, dropped or
dead-lettered, per kind and sink, at every moment.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

import pyarrow as pa
import pyarrow.compute as pc
import structlog

from cloud_sinks.base import Sink
from schemas.clock import Clock
from schemas.errors import Busy, ConfigError, NotConnected, Rejected
from schemas.kinds import PRIORITY, Kind, with_seq
from schemas.span import SpoolSpan

from .backoff import Backoff
from .router import Router, total_rows
from .spool import Cut, Spool

State = Literal["starting", "up", "down", "misconfigured"]
Report = Callable[[str, str, str], Awaitable[None]]
"""(event, severity, message): writes an event row about this sink."""


_LEAST_WAIT_S: Final = 0.05  # of a sink that says it is busy and names no time


class Delivery:
    """One sink's life. `run()` ends only after `finish()` or when it is cancelled."""

    def __init__(
        self,
        name: str,
        sink: Sink,
        kinds: Sequence[Kind],
        *,
        spool: Spool,
        router: Router,
        clock: Clock,
        rng: random.Random,
        dead_letters: Path,
        report: Report,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self.name = name
        self.state: State = "starting"
        self.error = ""
        self.since_us = clock.now_us()
        self.writes = 0
        self.kinds: tuple[Kind, ...] = tuple(kind for kind in PRIORITY if kind in kinds)
        self._sink, self._spool, self._router, self._clock = sink, spool, router, clock
        self._backoff = Backoff(rng, first_s=0.25, max_s=5.0)
        self._dead_letters, self._report, self._log = dead_letters, report, log.bind(sink=name)
        self._waiting: dict[Kind, float] = {}  # loop time at which the oldest undelivered row of a kind was noticed
        self.paused = False
        self._released = asyncio.Event()  # not paused
        self._released.set()
        self._finishing = asyncio.Event()
        self._enough = {kind: sink.policy(kind).max_rows for kind in self.kinds}  # rows that fill a cut
        self._due = dict.fromkeys(self.kinds, 0)  # rows below this are due, whatever their age
        self._start = {kind: spool.end(kind) for kind in self.kinds}

    def finish(self) -> None:
        """Deliver what there is, ages and sizes aside, and let `run` return."""
        self._finishing.set()

    async def pause(self, paused: bool) -> None:
        """Deliver nothing until it is called with False. The connection stays, and so does every row, in the spool.

        What is being written when it comes is written to its end. A stop waits for nothing that is paused.
        """
        if paused == self.paused:
            return
        self.paused = paused
        if paused:
            self._released.clear()
            self._waiting.clear()
        else:
            # What has waited is due now, and its age says nothing about the sink.
            self._due = {kind: self._spool.durable(kind) for kind in self.kinds}
            self._released.set()
        self._log.info("sink is paused" if paused else "sink is resumed")
        what = "is paused: its rows wait in the spool" if paused else "is resumed"
        await self._report("sink_paused" if paused else "sink_resumed", "info", f"{self.name} {what}")

    def overdue_s(self) -> float:
        """Seconds by which the oldest waiting row should have been delivered; 0 while all is well. By the loop's time."""
        now = asyncio.get_running_loop().time()
        return max((now - began - self._sink.policy(kind).max_age_s for kind, began in self._waiting.items()), default=0.0)

    async def run(self) -> None:
        """Deliver until `finish()` and nothing is left, or cancelled. Raises only what is a bug."""
        try:
            while not (self._finishing.is_set() and (self.paused or self._nothing_left())):
                wait_s = 0.0
                try:
                    await self._sink.connect()
                    await self._enter("up", "")
                    await self._deliver()
                    return
                except ConfigError as error:
                    await self._enter("misconfigured", str(error))
                except NotConnected as error:
                    await self._enter("down", str(error))
                except Busy as busy:
                    await self._enter("down", str(busy))
                    wait_s = busy.wait_s
                await self._pause(max(wait_s, self._backoff.next_s()))
        finally:
            await self._sink.aclose()

    async def _pause(self, seconds: float) -> None:
        """Back off; `finish()` cuts it short once, so that a stop finds out at once whether the sink is back."""
        if self._finishing.is_set():
            await asyncio.sleep(seconds)
            return
        try:
            async with asyncio.timeout(seconds):
                await self._finishing.wait()
        except TimeoutError:
            return

    def _nothing_left(self) -> bool:
        return all(self._spool.durable(kind) <= self._spool.ledger.cursor(kind, self.name).acked for kind in self.kinds)

    async def _deliver(self) -> None:
        lost = asyncio.ensure_future(self._sink.lost())
        try:
            while True:
                seen = self._spool.progress
                kind, due_in_s = (None, None) if self.paused else self._next()
                if kind is not None:
                    with suppress(_Paused):
                        await self._cut_and_write(kind)
                elif self._finishing.is_set():
                    return
                elif self.paused:
                    await self._wait_paused(lost)
                else:
                    await self._wait(seen, due_in_s, lost)
                if lost.done():
                    raise NotConnected("the connection was lost")
        finally:
            await _cancel(lost)

    async def _wait(self, seen: int, due_in_s: float | None, lost: asyncio.Future[None]) -> None:
        """Until rows have come, the next cut falls due, the connection is lost, or `finish()`."""
        grown = asyncio.ensure_future(self._spool.wait(seen))
        finishing = asyncio.ensure_future(_until(self._finishing))
        try:
            await asyncio.wait({grown, finishing, lost}, timeout=due_in_s, return_when=asyncio.FIRST_COMPLETED)
            for future in (grown, lost):
                if future.done():
                    future.result()  # a spool that has ended must not be asked again and again
        finally:
            await _cancel(grown, finishing)

    async def _wait_paused(self, lost: asyncio.Future[None]) -> None:
        """Until it is resumed, the connection is lost, or `finish()`."""
        released = asyncio.ensure_future(_until(self._released))
        finishing = asyncio.ensure_future(_until(self._finishing))
        try:
            await asyncio.wait({released, finishing, lost}, return_when=asyncio.FIRST_COMPLETED)
            if lost.done():
                lost.result()
        finally:
            await _cancel(released, finishing)

    def _next(self) -> tuple[Kind | None, float | None]:
        """The kind to deliver now, or none and the seconds until one falls due."""
        now = asyncio.get_running_loop().time()
        soonest: float | None = None
        for kind in self.kinds:
            cursor = self._spool.ledger.cursor(kind, self.name)
            if cursor.cut is not None:
                return kind, 0.0
            available = self._spool.durable(kind) - cursor.acked
            if available <= 0:
                self._waiting.pop(kind, None)
                continue
            policy = self._sink.policy(kind)
            # Rows of a previous run have waited for an unknown time: they are due at once.
            began = self._waiting.setdefault(kind, now if cursor.acked >= self._start[kind] else now - policy.max_age_s)
            due_in = began + policy.max_age_s - now
            if (
                self._finishing.is_set()
                or due_in <= 0
                or available >= min(policy.max_rows, self._enough[kind])
                or cursor.acked < self._due[kind]
            ):
                return kind, 0.0
            soonest = due_in if soonest is None else min(soonest, due_in)
        return None, soonest

    async def _cut_and_write(self, kind: Kind) -> None:
        cursor = self._spool.ledger.cursor(kind, self.name)
        policy = self._sink.policy(kind)
        cut = cursor.cut
        if cut is None:
            end = self._spool.durable(kind)
            read = await self._spool.read(kind, cursor.acked, max_rows=policy.max_rows, max_bytes=policy.max_bytes, last=end - 1)
            if not read:
                # Rows that are durable and not readable were quarantined: they are lost to this sink, and counted.
                await self._spool.skip_missing(kind, self.name)
                return
            cut = Cut(first=cursor.acked, last=read[-1][0] + read[-1][1].num_rows - 1)
            self._learn(kind, cut, end, policy.max_rows)
            try:
                await self._spool.ledger.begin_cut(kind, self.name, cut.first, cut.last)
            except Busy:
                return  # the oldest rows were given up for room meanwhile: cut again from where the sink stands now
        else:
            read = await self._spool.read(kind, cut.first, max_rows=cut.last - cut.first + 1, last=cut.last)
        rows = total_rows([batch for _, batch in read])
        missing = cut.last - cut.first + 1 - rows
        selected = [self._router.select(kind, self.name, with_seq(batch, first)) for first, batch in read]
        selected = [batch for batch in selected if batch.num_rows]
        delivered = total_rows(selected)
        span = SpoolSpan(self._spool.gateway, self._spool.epoch, kind, cut.first, cut.last)
        dead = 0
        if selected:
            dead = await self._write(selected, span)
        await self._spool.ledger.acknowledge(
            kind, self.name, cut.last, delivered=delivered - dead, filtered=rows - delivered, dead_lettered=dead, dropped=missing
        )
        self._waiting.pop(kind, None)
        self.writes += 1

    def _learn(self, kind: Kind, cut: Cut, end: int, most: int) -> None:
        """How many rows fill a cut, where bytes do before rows; and what such a cut leaves over has waited as long as it has."""
        rows = cut.last - cut.first + 1
        if cut.last + 1 < end and rows < most:
            self._enough[kind], self._due[kind] = rows, end
        elif rows >= self._enough[kind]:
            self._enough[kind] = min(most, 2 * self._enough[kind])

    async def _write(self, batches: list[pa.RecordBatch], span: SpoolSpan) -> int:
        """Write until the sink has decided about every row; returns how many were dead-lettered."""
        while True:
            try:
                await self._sink.write(batches, span)
            except Busy as busy:
                await asyncio.sleep(max(_LEAST_WAIT_S, busy.wait_s))
                if self.paused:
                    raise _Paused from None  # the cut stays in flight and is written again, the same rows
                continue
            except Rejected as rejected:
                self._backoff.reset()
                try:
                    dead = await asyncio.to_thread(bury, self._dead_letters / self.name, batches, span, rejected)
                except OSError as error:
                    # Neither taken nor buried: the cut stays in flight, and somebody must know why.
                    raise NotConnected(f"rejected rows cannot be stored: {error.strerror or error}") from error
                self._log.error("rows were rejected for good", kind=span.kind, rows=dead, error=rejected.reason)
                await self._report(
                    "dead_lettered", "warning", f"{dead} {span.kind} rows rejected by {self.name}: {rejected.reason}"
                )
                return dead
            self._backoff.reset()
            return 0

    async def _enter(self, state: State, error: str) -> None:
        before, self.state, self.error = self.state, state, error
        if before == state:
            return
        self.since_us = self._clock.now_us()
        if state == "up":
            self._log.info("sink is connected")
            if before != "starting":
                await self._report("sink_up", "info", f"{self.name} is connected")
        else:
            self._log.warning("sink is not connected" if state == "down" else "sink is misconfigured", error=error)
            await self._report("sink_down" if state == "down" else "sink_misconfigured", "warning", error)


class _Paused(Exception):
    """The sink was paused between two attempts of one write."""


async def _until(event: asyncio.Event) -> None:
    await event.wait()


async def _cancel(*futures: asyncio.Future[None]) -> None:
    for future in futures:
        future.cancel()
    await asyncio.gather(*futures, return_exceptions=True)


def bury(directory: Path, batches: Sequence[pa.RecordBatch], span: SpoolSpan, rejected: Rejected) -> int:
    """Write the rejected rows as an Arrow file with the reason beside it, durable when this returns; returns their number.

    Blocking; the files are named after the span, so that burying twice leaves one grave.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if rejected.rows:
        wanted = pa.array(sorted(rejected.rows), pa.int64())
        batches = [batch.filter(pc.is_in(batch.column(batch.num_columns - 1), value_set=wanted)) for batch in batches]
        batches = [batch for batch in batches if batch.num_rows]
    rows = total_rows(batches)
    if not rows:
        return 0
    stem = f"{span.kind}-{span.epoch}-{span.first:014d}-{span.last:014d}"
    with pa.OSFile(str(directory / f"{stem}.arrow.part"), "wb") as file, pa.ipc.new_file(file, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    reason = {
        "sink": directory.name,
        "kind": span.kind,
        "first": span.first,
        "last": span.last,
        "rows": rows,
        "reason": rejected.reason,
    }
    (directory / f"{stem}.json").write_text(json.dumps(reason, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    for name in (f"{stem}.arrow.part", f"{stem}.json"):
        descriptor = os.open(directory / name, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    os.replace(directory / f"{stem}.arrow.part", directory / f"{stem}.arrow")
    descriptor = os.open(directory, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    return rows
