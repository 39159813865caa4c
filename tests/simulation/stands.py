"""What the simulated gateway talks to: devices that count, a record of what they said, and sinks that check what they get."""

from __future__ import annotations

import asyncio
import math
import random
import zlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cloud_sinks.base import BatchPolicy
from schemas.clock import Clock
from schemas.errors import Busy, NotConnected, Rejected
from schemas.kinds import Kind, Origin, telemetry
from schemas.span import Command, SpoolSpan

from .weather import TIMEOUT_S, Link

START_US: Final = 1_767_225_600_000_000
BURST: Final = 10
SENT_AGAIN_S: Final = 1.0
"""What was sent while nobody heard it is sent again so often, until the attempt has taken too long."""


class SteppedClock(Clock):
    """The wall clock of the machine: the loop's time, and whoever sets it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._offset_us, self.steps = loop, START_US - round(loop.time() * 1e6), 0

    def now_us(self) -> int:
        """µs since 1970."""
        return self._offset_us + round(self._loop.time() * 1e6)

    def step(self, seconds: float) -> None:
        """Somebody sets it."""
        self._offset_us += round(seconds * 1e6)
        self.steps += 1


class Column:
    """An array that grows."""

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self._held = np.zeros(1 << 12, dtype)
        self.size = 0

    def put(self, first: int, values: npt.NDArray[Any] | float) -> None:
        """Set the values from `first` on; what was behind is kept."""
        end = first + (len(values) if isinstance(values, np.ndarray) else 1)
        self.room(end)
        self._held[first:end] = values
        self.size = max(self.size, end)

    def room(self, end: int) -> npt.NDArray[Any]:
        """All of it, at least `end` long."""
        while end > len(self._held):
            self._held = np.concatenate([self._held, np.zeros_like(self._held)])
        return self._held

    @property
    def values(self) -> npt.NDArray[Any]:
        """What was put."""
        return self._held[: self.size]


class Truth:
    """What was put into the telemetry log, row by row."""

    def __init__(self) -> None:
        self.value, self.tag, self.thinned = Column(np.float64), Column(np.int32), Column(np.bool_)

    def tap(self, first: int, batch: pa.RecordBatch) -> None:
        """Sees every put; rows that a cut took are overwritten by those that come in their place."""
        self.value.put(first, batch.column(3).to_numpy(zero_copy_only=False))
        self.tag.put(first, batch.column(2).to_numpy())
        thinned = batch.column(9)
        rows = batch.num_rows
        self.thinned.put(
            first,
            np.zeros(rows, np.bool_) if thinned.null_count == rows else thinned.fill_null(False).to_numpy(zero_copy_only=False),
        )


class Device:
    """An adapter whose readings are numbered through, so that each says which it is."""

    def __init__(
        self, ids: Sequence[int], period_s: float, link: Link, bursts: Link, clock: Clock, first: int, each: int
    ) -> None:
        """`first` is the number of its first reading. It hands over the readings of `each` polls at once, as a subscription does."""
        self._link, self._bursts, self._clock = link, bursts, clock
        self._tags = np.array(ids, np.int32)
        self._publish_s = period_s * each
        self._noise = np.random.default_rng(first % 97)
        self.period_s, self.each = period_s, each
        self.first = first
        self.next = first
        self.polls = Column(np.float64)
        """Loop time of each poll."""
        self.begins = Column(np.int64)
        """The number of the first reading of each poll."""
        self.last_poll = -1.0

    async def connect(self) -> None:
        """See `Adapter.connect`."""
        await reach(self._link)

    async def batches(self) -> AsyncIterator[pa.RecordBatch]:
        """See `Adapter.batches`. Drift-free; polls before an outage are handed over, those in it never happen."""
        loop = asyncio.get_running_loop()
        slot = loop.time()
        while True:
            if self.each > 1:
                until = min(slot + self._publish_s, max(slot, self._link.next_outage(loop.time())))
                await asyncio.sleep(until - loop.time())
            now = loop.time()
            if self.each == 1 and self._link.away(now) is not None:
                await self._asked_in_vain()
            polls = 1 if self.each == 1 else math.ceil((until - slot) / self.period_s - 1e-9)
            if polls:
                yield self._polled(slot, polls, now)
            slot += self.period_s * max(1, polls)
            if self.each > 1:
                if self._link.away(now) is not None:
                    await self._asked_in_vain()
                slot = max(slot, loop.time())
                continue
            if slot <= loop.time():  # late: the next one in time
                slot += self.period_s * ((loop.time() - slot) // self.period_s + 1)
            await asyncio.sleep(slot - loop.time())

    async def _asked_in_vain(self) -> None:
        await reach(self._link)
        raise NotConnected("the answer came too late")

    def _polled(self, slot: float, polls: int, now: float) -> pa.RecordBatch:
        """The readings of polls from `slot` on."""
        times = slot + self.period_s * np.arange(polls)
        fold = BURST if self._bursts.away(now) is not None else 1
        rows, width = polls * fold * len(self._tags), len(self._tags)
        self.polls.put(self.polls.size, times)
        self.begins.put(self.begins.size, self.next + fold * width * np.arange(polls))
        value = np.arange(self.next, self.next + rows) + self._noise.random(rows)  # which one it is, and something to store
        self.next += rows
        self.last_poll = float(times[-1])
        if rows == width:
            return telemetry(time_us=self._clock.now_us(), tag=self._tags, value=pa.array(value))
        each = np.repeat(times, fold) - self.period_s / BURST * np.tile(np.arange(fold)[::-1], polls)
        time_us = self._clock.now_us() + np.round((each - now) * 1e6).astype(np.int64)
        return telemetry(time_us=np.repeat(time_us, width), tag=np.tile(self._tags, polls * fold), value=pa.array(value))

    async def aclose(self) -> None:
        """See `Adapter.aclose`."""


async def reach(link: Link) -> None:
    """One attempt. Raises NotConnected at once, or when it has taken too long."""
    outage = link.away(asyncio.get_running_loop().time())
    if outage is None:
        return
    outage.attempts += 1
    if outage.manner == "silent":
        left_s = outage.end - asyncio.get_running_loop().time()
        await asyncio.sleep(min(TIMEOUT_S, left_s + SENT_AGAIN_S))
        if left_s + SENT_AGAIN_S < TIMEOUT_S and link.away(asyncio.get_running_loop().time()) is None:
            return
    raise NotConnected("nobody is there")


class Stand:
    """A sink that knows what it must get. What must not be goes to `wrong`."""

    def __init__(
        self,
        name: str,
        link: Link,
        policies: Mapping[Kind, BatchPolicy],
        truth: Truth,
        wrong: Callable[[str], None],
        rng: random.Random,
        *,
        write_s: float,
        faults: Mapping[str, float],
        tags: frozenset[int] | None = None,
        once: bool = False,
        holds: bool = False,
    ) -> None:
        """`once`: it keeps what is named by a span once. `holds` a connection between writes. `tags` are those routed to it."""
        self.name, self.kinds = name, tuple(policies)
        self._link, self._policies, self._truth, self._wrong, self._rng = link, policies, truth, wrong, rng
        self._write_s, self._faults, self._once, self._holds = write_s, faults, once, holds
        self._taste = rng.random()
        self.tags = None if tags is None else np.array(sorted(tags), np.int32)
        self.got: dict[Kind, Column] = {kind: Column(np.uint8) for kind in policies}
        self.refused: dict[Kind, Column] = {kind: Column(np.bool_) for kind in policies}
        self._span: dict[Kind, tuple[int, int, int]] = {}  # first, last, digest of the last one tried
        self._high = dict.fromkeys(policies, -1)  # of the rows that had a first time
        self.durable: Callable[[Kind], int] = lambda kind: 0
        self.up_since: Callable[[], float] = lambda: 0.0
        """When the gateway was started last."""
        self.alerts_put: dict[int, float] = {}
        self.alert_waits: list[float] = []
        self.gaps: list[dict[str, Any]] = []
        self.writes = self.repeats = 0
        self.digest = 0

    def policy(self, kind: Kind) -> BatchPolicy:
        """See `Sink.policy`."""
        return self._policies[kind]

    async def connect(self) -> None:
        """See `Sink.connect`."""
        await reach(self._link)

    async def write(self, batches: Sequence[pa.RecordBatch], span: SpoolSpan) -> None:
        """See `Sink.write`."""
        await reach(self._link)
        kind, chance = span.kind, self._rng.random()
        before = self._rng.random() < 0.5  # who is ended in the middle of it may have done it, or not
        if kind == "telemetry" and chance < self._faults["busy"]:
            raise Busy(self._rng.choice((0.0, 1.0, 20.0)))
        refused: list[int] = []
        taste = random.Random(f"{self._taste} {span.first} {span.last}")  # of the same rows it thinks the same each time
        if kind == "telemetry" and taste.random() < self._faults["rejected"]:
            rows = batches[0].column(batches[0].num_columns - 1).to_pylist()
            refused = taste.sample(rows, taste.randrange(1, len(rows) + 1))
        if before:
            self._take(batches, span, refused)
        await asyncio.sleep(self._write_s)
        if self._link.away(asyncio.get_running_loop().time()) is not None:
            raise NotConnected("the connection broke")
        if not before:
            self._take(batches, span, refused)
        if self._rng.random() < self._faults["taken and not said"]:
            raise NotConnected("it was taken and nobody heard so")
        if refused:
            raise Rejected("not like this", refused)

    def _take(self, batches: Sequence[pa.RecordBatch], span: SpoolSpan, refused: Sequence[int]) -> None:
        kind = span.kind
        rows = np.concatenate([batch.column(batch.num_columns - 1).to_numpy() for batch in batches])
        now = asyncio.get_running_loop().time()
        digest = zlib.crc32(rows.tobytes())
        if kind == "telemetry":
            digest = zlib.crc32(np.concatenate([b.column(3).to_numpy(zero_copy_only=False) for b in batches]).tobytes(), digest)
        self.digest = zlib.crc32(f"{now}{kind}{span.first}{span.last}{digest}".encode(), self.digest)
        self.writes += 1
        known = self._span.get(kind)
        self._span[kind] = (span.first, span.last, digest)
        if (np.diff(rows) <= 0).any() or rows[0] < span.first or rows[-1] > span.last:
            self._wrong(f"{self.name}: {kind} rows of {span.first} to {span.last} are out of order, or of another span")
        if span.last >= self.durable(kind):
            self._wrong(f"{self.name}: {kind} row {span.last} came before it was durable")
        if known is not None and (span.first, span.last) == known[:2]:
            self.repeats += 1
            if digest != known[2]:
                self._wrong(f"{self.name}: {kind} rows {span.first} to {span.last} came again with other rows")
            if self._once:
                return
        elif rows[0] <= self._high[kind]:
            self._wrong(f"{self.name}: {kind} rows {span.first} to {span.last} came behind row {self._high[kind]}")
        self._high[kind] = max(self._high[kind], int(rows[-1]))
        if kind == "telemetry":
            for batch in batches:
                self._compare(batch)
        took = rows
        if refused:
            took = np.setdiff1d(rows, np.array(refused))
            held = self.refused[kind].room(span.last + 1)
            held[np.array(refused)] = True
        held = self.got[kind].room(span.last + 1)
        held[took] += held[took] < 255
        if kind == "alert":
            back = max(self._link.up_since, self.up_since())
            self.alert_waits += [now - max(self.alerts_put.get(row, now), back) for row in rows.tolist()]
        elif kind == "gap":
            for batch in batches:
                self.gaps += batch.to_pylist()

    def _compare(self, batch: pa.RecordBatch) -> None:
        """Telemetry: what was put, or windows of it; and nothing that is not for this sink."""
        rows = batch.column(batch.num_columns - 1).to_numpy()
        tags = batch.column(2).to_numpy()
        value = batch.column(3).to_numpy(zero_copy_only=False)
        put = self._truth.value.values
        if rows[-1] >= len(put):
            self._wrong(f"{self.name}: row {rows[-1]} was never put")
            return
        origin = batch.column(8).to_numpy(zero_copy_only=False)
        window = origin == Origin.DOWNSAMPLED
        if not window.any():
            same = (value == put[rows]) | (np.isnan(value) & np.isnan(put[rows]))
            if not same.all() or not np.array_equal(tags, self._truth.tag.values[rows]):
                self._wrong(f"{self.name}: row {rows[~same][:1]} is not what was put")
            if self._truth.thinned.values[rows].any():
                self._wrong(f"{self.name}: rows inside their deadband came")
        else:
            least, most = (batch.column(at).to_numpy(zero_copy_only=False)[window] for at in (10, 11))
            mean = value[window]
            if not ((least <= mean) & (mean <= most)).all() or not np.isin(least, put).all() or not np.isin(most, put).all():
                self._wrong(f"{self.name}: a window of rows {rows[0]} to {rows[-1]} is not of what was put")
        if self.tags is not None and not np.isin(tags, self.tags).all():
            self._wrong(f"{self.name}: rows of other tags came")

    async def commands(self) -> AsyncIterator[Command]:
        """See `Sink.commands`."""
        return
        yield

    async def lost(self) -> None:
        """See `Sink.lost`."""
        loop = asyncio.get_running_loop()
        at = self._link.next_outage(loop.time()) if self._holds else float("inf")
        if at == float("inf"):
            await loop.create_future()
        await asyncio.sleep(at - loop.time())

    async def aclose(self) -> None:
        """See `Sink.aclose`."""
