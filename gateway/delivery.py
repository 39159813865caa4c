"""Delivers from the spool to one sink: cuts logs into spans by the sink's policy, alerts before bulk, in order, retried.

A cut is durable in the ledger before the write and is repeated with the same rows until the sink took it, also after a crash;
so a sink that names its objects after the span writes exactly once. Every row read is filtered, delivered, spooled, dropped or
dead-lettered, per kind and sink, at every moment.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, Literal, cast, get_args

import pyarrow as pa
import structlog

from cloud_sinks.base import Holding, Sink
from schemas.clock import Clock
from schemas.errors import Busy, ConfigError, NotConnected, Rejected
from schemas.kinds import PRIORITY, Kind, with_seq
from schemas.span import SpoolSpan

from .backoff import Backoff
from .dead_letters import Grave, asked, bury
from .pace import Overtaking, Pace
from .resending import Resends
from .router import Router, total_rows
from .spool import Cut, Resend, Spool

State = Literal["starting", "up", "down", "misconfigured"]
Circuit = Literal["closed", "open", "half_open"]
"""`open`: nothing is sent until the back-off is over. `half_open`: one probe is under way, a connection and then the write that failed, where
one did; it closes the circuit, or opens it again. A service that says it is busy is there: that is no matter of the circuit."""
CIRCUITS: Final[tuple[Circuit, ...]] = get_args(Circuit)
_AT_ONCE_S: Final = 1.0
"""A sink that lets alerts wait longer than this does not mind if a write of bulk takes long."""
Report = Callable[[str, str, str], Awaitable[None]]
"""(event, severity, message): writes an event row about this sink."""


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
        max_rows_per_s: float | None = None,
    ) -> None:
        """`max_rows_per_s` bounds how many rows are delivered on average; alerts count, and never wait for it."""
        self.name = name
        self.state: State = "starting"
        self.circuit: Circuit = "closed"
        self.error = ""
        self.since_us = clock.now_us()
        self.writes = 0
        self.kinds: tuple[Kind, ...] = tuple(kind for kind in PRIORITY if kind in kinds)
        self._sink, self._spool, self._router, self._clock = sink, spool, router, clock
        self._backoff = Backoff(rng, first_s=0.25, max_s=5.0)
        self._pace = Pace(rng, max_rows_per_s)
        at_once = "alert" in self.kinds and sink.policy("alert").max_age_s <= _AT_ONCE_S
        self._overtaking = Overtaking(alerts=at_once)
        self._resends = Resends(name, sink, self.kinds, spool, self._pace, self._overtaking)
        self._dead_letters, self._report, self._log = dead_letters, report, log.bind(sink=name)
        self._waiting: dict[Kind, float] = {}  # loop time at which the oldest undelivered row of a kind was noticed
        self.paused = False
        self._released = asyncio.Event()  # not paused
        self._released.set()
        self._finishing = asyncio.Event()
        self._failed_write = False  # since the circuit was closed the last time
        self._enough = {kind: sink.policy(kind).max_rows for kind in self.kinds}  # rows that fill a cut
        self._due = dict.fromkeys(self.kinds, 0)  # rows below this are due, whatever their age
        self._graves: list[Grave] = []  # dead letters to be delivered once more
        self._looked_for = -1  # `spool.redeliveries` when they were looked for
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
                    if not self._unproven():
                        await self._close_circuit()
                    await self._deliver()
                    return
                except ConfigError as error:
                    await self._enter("misconfigured", str(error))
                except NotConnected as error:
                    await self._enter("down", str(error))
                except Busy as busy:
                    await self._enter("down", str(busy))
                    wait_s = busy.wait_s
                self.circuit = "open"
                await self._pause(max(wait_s, self._backoff.next_s()))
                self.circuit = "half_open"
        finally:
            await self._sink.aclose()

    def _unproven(self) -> bool:
        """Whether the write that failed is still to be made: a service that connects and takes nothing is not back."""
        ledger = self._spool.ledger
        return (
            self.circuit != "closed"
            and self._failed_write
            and (
                any(ledger.cursor(kind, self.name).cut is not None for kind in self.kinds)
                or any(one.cut is not None for one in ledger.resends if one.sink == self.name)
            )
        )

    async def _close_circuit(self) -> None:
        self.circuit, self._failed_write = "closed", False
        await self._enter("up", "")

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
                if self.circuit == "half_open" and not self._unproven():
                    await self._close_circuit()
                kind, due_in_s = (None, None) if self.paused else self._next()
                if kind is not None:
                    await self._cut_and_write(kind)
                elif self._finishing.is_set() and due_in_s is None:
                    return
                elif self.paused:
                    await self._wait_paused(lost)
                elif (resend := self._resends.due()) is not None:
                    await self._once_more(resend)
                elif (grave := await self._grave()) is not None:
                    await self._deliver_grave(grave)
                elif self._finishing.is_set():
                    await asyncio.sleep(due_in_s or 0.0)
                else:
                    await self._wait(seen, self._soonest_again(due_in_s), lost)
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
        """The kind to deliver now, or none and the seconds until one falls due. A kind that has to wait holds no other back."""
        now = asyncio.get_running_loop().time()
        soonest: float | None = None
        for kind in self.kinds:
            cursor = self._spool.ledger.cursor(kind, self.name)
            pause = self._pace.pause_s(kind)
            if cursor.cut is not None:
                if pause <= 0:
                    return kind, 0.0
                soonest = pause if soonest is None else min(soonest, pause)
                continue
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
                or available >= min(self._overtaking.most(kind, policy.max_rows), self._enough[kind])
                or cursor.acked < self._due[kind]
            ):
                due_in = pause
                if pause <= 0:
                    return kind, 0.0
            soonest = due_in if soonest is None else min(soonest, due_in)
        return None, soonest

    async def _once_more(self, resend: Resend) -> None:
        """One write of a resend."""
        ledger, kind = self._spool.ledger, resend.kind
        try:
            begun = await self._resends.begin(resend)
            if begun is None:
                return
            assert begun.cut is not None
            read = await self._spool.read(kind, begun.next, max_rows=begun.cut - begun.next + 1, last=begun.cut)
            selected = self._select(kind, read)
            dead = await self._write(selected, self._span(kind, begun.next, begun.cut)) if selected else 0
            ledger.end_resend(begun, begun.cut, total_rows(selected) - dead)
        except Busy as busy:
            self._pace.hold(kind, busy)
        except ConfigError as error:
            # Not the sink is wrong but what was asked of it: it goes on with what waits.
            self._log.error("rows cannot be delivered once more", kind=kind, first=resend.next, error=str(error))
            self._resends.give_up(kind)
            await self._report(
                "resend_failed", "warning", f"{kind} rows from {resend.next} on, once more to {self.name}: {error}"
            )

    async def _grave(self) -> Grave | None:
        """The next dead letters that a person wants delivered and that may go now."""
        if self._looked_for != self._spool.redeliveries:
            self._looked_for = self._spool.redeliveries
            self._graves = await asyncio.to_thread(asked, self._dead_letters, self.name)
        return next((one for one in self._graves if self._pace.pause_s(cast(Kind, one.kind)) <= 0), None)

    def _soonest_again(self, otherwise: float | None) -> float | None:
        """Seconds until anything that is to go once more may go, or `otherwise` where that is less."""
        soonest = self._resends.soonest(otherwise)
        pauses = [max(0.0, self._pace.pause_s(cast(Kind, one.kind))) for one in self._graves]
        return min([*pauses, *([] if soonest is None else [soonest])], default=None)

    async def _deliver_grave(self, grave: Grave) -> None:
        """One write of dead letters, under the span that they had. Afterwards they count as delivered, or are dead letters again."""
        try:
            span, batches = grave.span(self._spool.gateway), await asyncio.to_thread(grave.rows)
        except (OSError, ValueError) as error:  # also ArrowInvalid
            await self._leave(grave, f"its file cannot be read: {error}")
            return
        dead = 0
        try:
            there = isinstance(self._sink, Holding) and await self._sink.holds(span)
            if there and not await asyncio.to_thread(grave.refused_as_a_whole):
                await self._leave(grave, "a file of their span is there without them, and no row may be there twice")
                return
            if not there:  # otherwise the process died behind the write
                dead = await self._write(batches, span)
        except Busy as busy:
            self._pace.hold(cast(Kind, grave.kind), busy)
            return
        except ConfigError as error:
            await self._leave(grave, str(error))
            return
        self._graves.remove(grave)
        await asyncio.to_thread(grave.leave if dead else grave.open)
        self._spool.ledger.redelivered(span.kind, self.name, total_rows(batches) - dead)

    async def _leave(self, grave: Grave, why: str) -> None:
        """They stay what they are, and somebody hears why."""
        self._graves.remove(grave)
        await asyncio.to_thread(grave.leave)
        self._log.error("dead letters cannot be delivered", file=str(grave.path), error=why)
        await self._report("resend_failed", "warning", f"dead letters {grave.path.stem} to {self.name}: {why}")

    def _span(self, kind: Kind, first: int, last: int) -> SpoolSpan:
        return SpoolSpan(self._spool.gateway, self._spool.epoch, kind, first, last)

    def _select(self, kind: Kind, read: Sequence[tuple[int, pa.RecordBatch]]) -> list[pa.RecordBatch]:
        """The rows that go to this sink, each with its number."""
        selected = [self._router.select(kind, self.name, with_seq(batch, first)) for first, batch in read]
        return [batch for batch in selected if batch.num_rows]

    async def _cut_and_write(self, kind: Kind) -> None:
        cursor = self._spool.ledger.cursor(kind, self.name)
        policy = self._sink.policy(kind)
        most = self._overtaking.most(kind, policy.max_rows)
        cut = cursor.cut
        if cut is None:
            end, rewritten = self._spool.durable(kind), self._spool.rewritten(kind)
            read = await self._spool.read(kind, cursor.acked, max_rows=most, max_bytes=policy.max_bytes, last=end - 1)
            if not read:
                # Rows that are durable and not readable were quarantined: they are lost to this sink, and counted.
                await self._spool.skip_missing(kind, self.name)
                return
            cut = Cut(first=cursor.acked, last=read[-1][0] + read[-1][1].num_rows - 1)
            self._learn(kind, cut, end, most)
            try:
                if self._spool.rewritten(kind) != rewritten:
                    return  # what was read has become windows meanwhile, and a repeated read would give these
                await self._spool.ledger.begin_cut(kind, self.name, cut.first, cut.last)
            except Busy as busy:
                # The oldest rows were given up for room meanwhile, or are being rewritten: cut again from where the sink stands then.
                await asyncio.sleep(busy.wait_s)
                return
        else:
            read = await self._spool.read(kind, cut.first, max_rows=cut.last - cut.first + 1, last=cut.last)
        rows = total_rows([batch for _, batch in read])
        missing = cut.last - cut.first + 1 - rows
        selected = self._select(kind, read)
        delivered = total_rows(selected)
        span = self._span(kind, cut.first, cut.last)
        dead = 0
        if selected:
            try:
                dead = await self._write(selected, span)
            except Busy as busy:
                self._pace.hold(kind, busy)  # the cut stays in flight; alerts need not wait for it
                return
        if self._spool.ledger.cursor(kind, self.name).cut != cut:
            return  # a person let this sink do without these rows, or forgot it, while they were under way
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
        """Write once; returns how many rows were dead-lettered. Raises Busy and NotConnected: then the same rows are due again."""
        rows, began = total_rows(batches), asyncio.get_running_loop().time()
        try:
            await self._sink.write(batches, span)
            self._overtaking.took(span.kind, rows, asyncio.get_running_loop().time() - began)
        except (NotConnected, ConfigError):
            self._failed_write = True
            raise
        except Busy:
            await self._there()
            raise
        except Rejected as rejected:
            await self._worked(rows)
            try:
                dead = await asyncio.to_thread(bury, self._dead_letters / self.name, batches, span, rejected)
            except OSError as error:
                # Neither taken nor buried: the cut stays in flight, and somebody must know why.
                raise NotConnected(f"rejected rows cannot be stored: {error.strerror or error}") from error
            self._log.error("rows were rejected for good", kind=span.kind, rows=dead, error=rejected.reason)
            await self._report("dead_lettered", "warning", f"{dead} {span.kind} rows rejected by {self.name}: {rejected.reason}")
            return dead
        await self._worked(rows)
        return 0

    async def _worked(self, rows: int) -> None:
        """The service answered: it is neither away nor busy."""
        self._backoff.reset()
        self._pace.worked(rows)
        await self._there()

    async def _there(self) -> None:
        if self.circuit != "closed":
            await self._close_circuit()

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


async def _until(event: asyncio.Event) -> None:
    await event.wait()


async def _cancel(*futures: asyncio.Future[None]) -> None:
    for future in futures:
        future.cancel()
    await asyncio.gather(*futures, return_exceptions=True)
