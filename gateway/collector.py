"""Drives one adapter: connects with back-off, hands its batches to the spool, and turns its absences into rows.

Losing a device is data: one bad-quality row per tag when it goes, one gap row per tag for the time it was away, one log line
and one event each way, however many attempts lie between.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, Literal, cast

import numpy as np
import pyarrow as pa
import structlog

from adapters.base import Adapter, Certified
from schemas import quality as q
from schemas.certificates import CertificateFact
from schemas.clock import Clock
from schemas.errors import ConfigError, EndOfStream, NotConnected
from schemas.kinds import Kind, kind_of, make_batch, telemetry
from schemas.tags import Tag

from .absences import Absence
from .backoff import Backoff
from .normalise import Normaliser

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

MISCONFIGURED_S: Final = 30.0
"""Until the next attempt where a person must act. It is theirs to be noticed soon, and no reason to fill the device's log."""

_UNHEARD: Final = np.array([q.BAD_TIMEOUT, q.BAD_NO_COMMUNICATION, q.BAD_NOT_CONNECTED], dtype=np.uint32)
"""Qualities of readings for which nobody answered."""

State = Literal["starting", "up", "down", "misconfigured", "finished"]
Put = Callable[[Kind, pa.RecordBatch], Awaitable[int]]
"""Hands a batch to the spool; waits when the spool is full. Returns the first row number."""


class Collector:
    """One adapter's life. `run()` ends only when the source ends or the task is cancelled."""

    def __init__(
        self,
        name: str,
        adapter: Adapter,
        tags: Sequence[Tag],
        *,
        put: Put,
        clock: Clock,
        rng: random.Random,
        log: structlog.stdlib.BoundLogger,
        last_seen_us: int | None = None,
        absence: Absence | None = None,
        steady_s: float = 10.0,
    ) -> None:
        """`last_seen_us` is the time of the last durable row of the previous run: the time since is a gap. `absence` keeps on disk since
        when the device is away; what it knows of the previous run goes before `last_seen_us`.

        A connection that lived for `steady_s` starts the back-off anew.
        """
        self.name, self.tags = name, tags
        self.state: State = "starting"
        self.since_us = clock.now_us()  # of the state
        self.error = ""
        self.rows = 0
        self.connects = 0
        self._adapter, self._put, self._clock, self._log = adapter, put, clock, log.bind(adapter=name)
        self._ids = np.array([tag.id for tag in tags], dtype=np.int32)
        self._normaliser = Normaliser(tags)
        self._backoff = Backoff(rng, first_s=0.25, max_s=3.0)
        self._steady_s = steady_s
        self._gap_from_us = last_seen_us
        self._gap_cause = "gateway_stopped"
        self._absence = absence
        pending = None if absence is None else absence.pending
        if pending is not None:
            self._gap_from_us, self._gap_cause = pending.since_us, pending.cause
        self._last_batch_us = 0
        self._heard_s: float | None = None  # loop time of the last batch, or of the beginning

    @property
    def adapter(self) -> Adapter:
        """What is driven."""
        return self._adapter

    @property
    def seen_us(self) -> int | None:
        """Time up to which everything is there; None when nothing ever was."""
        return self._gap_from_us if self._gap_from_us is not None else self._last_batch_us or None

    def replan(self, adapter: Adapter, tags: Sequence[Tag]) -> None:
        """Go on with another adapter for the same tags, read at other times. Only while `run` does not run.

        A pause of more than two periods of a tag is a gap; the rows before and behind it are of the same tag.
        """
        now = self._clock.now_us()
        self._adapter, self.tags = adapter, tags
        if self.state == "up":
            self._gap_from_us, self._gap_cause = self._last_batch_us or now, "replanned"

    @property
    def certificates(self) -> Sequence[CertificateFact]:
        """The certificates that the connection rests on; none where the protocol or the connection has none."""
        return self._adapter.certificates() if isinstance(self._adapter, Certified) else ()

    async def run(self) -> None:
        """Collect until cancelled. Raises only what is a bug (the supervisor restarts it)."""
        loop = asyncio.get_running_loop()
        if self._heard_s is None:
            self._heard_s = loop.time()
        try:
            while True:
                connected_s: float | None = None
                try:
                    await self._adapter.connect()
                    connected_s = loop.time()
                    self.connects += 1
                    if not self.tags and self.state != "up":  # only events, if they come: there is no reading to wait for
                        await self._heard_again(None)
                        await self._enter("up", "")
                    await self._collect()
                except EndOfStream:
                    await self._enter("finished", "")
                    return
                except ConfigError as error:
                    # A person must act, and the other devices must not wait for it.
                    await self._went_down("misconfigured", str(error), q.BAD_CONFIGURATION_ERROR)
                    await asyncio.sleep(MISCONFIGURED_S)
                except NotConnected as error:
                    await self._went_down("down", str(error), error.quality or q.BAD_NO_COMMUNICATION)
                    if connected_s is not None and loop.time() - connected_s > self._steady_s:
                        self._backoff.reset()
                    await asyncio.sleep(self._backoff.next_s())
        finally:
            await self._adapter.aclose()

    async def _collect(self) -> None:
        stream = cast("AsyncGenerator[pa.RecordBatch, None]", self._adapter.batches())
        async with aclosing(stream) as batches:
            async for batch in batches:
                kind = kind_of(batch)
                if kind == "telemetry" and batch.num_rows:
                    if self.state != "up" or self._gap_from_us is not None:
                        await self._came_up(batch)
                    if _heard(batch):
                        self._last_batch_us = self._clock.now_us()
                        self._heard_s = asyncio.get_running_loop().time()
                    batch = self._normaliser.apply(batch)
                await self._put(kind, batch)
                self.rows += batch.num_rows

    async def _came_up(self, batch: pa.RecordBatch) -> None:
        start = self._gap_from_us
        gap_row = None
        if start is not None:
            end = _seen_us(batch)
            if end <= start:  # the clock was set back meanwhile: the gap ends now, and is as long as it is known to be
                start = end - self._unheard_us()
            missed = self._ids
            if self._gap_cause == "replanned":
                missed = missed[[end - start > 2 * tag.period_us for tag in self.tags]]
            if end > start and len(missed):
                gap = make_batch("gap", len(missed), time=start, end=end, tag=missed, source=self.name, cause=self._gap_cause)
                gap_row = await self._put("gap", gap)
        await self._heard_again(gap_row)
        if self.state != "up":
            await self._enter("up", "")

    def _unheard_us(self) -> int:
        """Since when nothing has been heard in this run, by a clock that nobody sets."""
        now = asyncio.get_running_loop().time()
        return round(1e6 * (now - (now if self._heard_s is None else self._heard_s)))

    async def _heard_again(self, gap_row: int | None) -> None:
        self._gap_from_us = None
        if self._absence is not None:
            await self._absence.told(gap_row)

    async def _went_down(self, state: State, error: str, quality: int) -> None:
        if self.state in ("down", "misconfigured"):
            self.error = error
            return
        now = self._clock.now_us()
        if self.state == "up":
            self._gap_from_us, self._gap_cause = self._last_batch_us or now, "not_connected"
        elif self._gap_from_us is None:
            self._gap_from_us, self._gap_cause = now, "not_connected"
        if self._absence is not None:
            await self._absence.begin(self._gap_from_us, self._gap_cause)
        await self._put("telemetry", self._normaliser.apply(telemetry(time_us=now, tag=self._ids, quality=quality)))
        self.rows += len(self._ids)
        await self._enter(state, error)

    async def _enter(self, state: State, error: str) -> None:
        self.state, self.error, self.since_us = state, error, self._clock.now_us()
        if state == "up":
            self._log.info("device is connected", tags=len(self._ids))
        elif state == "finished":
            self._log.info("source has no more data")
        else:
            self._log.warning("device is not connected" if state == "down" else "device is misconfigured", error=error)
        event = {"up": "adapter_up", "finished": "adapter_finished", "misconfigured": "adapter_misconfigured"}.get(
            state, "adapter_down"
        )
        severity = "info" if state in ("up", "finished") else "warning"
        await self._put(
            "event",
            make_batch(
                "event",
                1,
                time=self.since_us,
                source=self.name,
                event=event,
                severity=severity,
                message=error or f"{self.name} is {state}",
            ),
        )


def _heard(batch: pa.RecordBatch) -> bool:
    """Whether somebody has answered. Where a request that ran out of time held up the others, what they missed is part of the gap."""
    quality = batch.column("quality").to_numpy()
    return bool((quality < q.BAD).any()) or not bool(np.isin(quality, _UNHEARD).all())


def _seen_us(batch: pa.RecordBatch) -> int:
    """When the gateway saw the first row: a server resends unchanged values with source times from before the gap."""
    time, lag = batch.column("time").cast(pa.int64())[0].as_py(), batch.column("lag")[0].as_py()
    return int(time) + 1000 * int(lag or 0)
