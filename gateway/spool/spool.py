"""The spool: what has been put is numbered at once, durable a moment later, and read back by row number until everybody had it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import pyarrow as pa
import structlog

from schemas.clock import Clock
from schemas.errors import Busy
from schemas.kinds import KINDS, SCHEMAS, Kind

from .codec import Decoder, Encoder
from .commit import COMMIT_ORDER, write
from .ledger import Ledger
from .log import SpoolFull
from .opening import Opened, missing_rows, open_directory
from .recent import Recent
from .recovery import KindRecovery
from .retention import Loss, Retention, WhenFull
from .storage import DiskStorage, Storage
from .worker import ThreadWorker, Worker

Tap = Callable[[int, pa.RecordBatch], None]
"""Sees (first row number, batch) of every put, in row order, before the rows are durable. Must not wait or raise."""

_RETRY_S: Final = (0.1, 2.0)
_UNLIMITED: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Account:
    """What became of the rows that one sink was to have of one kind. read = filtered + delivered + spooled + dropped + dead_lettered."""

    read: int
    filtered: int
    delivered: int
    spooled: int
    dropped: int
    dead_lettered: int


class Spool:
    """The durable state of one gateway. Made by `Spool.open`, ended by `close`; all methods are for the event loop."""

    def __init__(
        self,
        directory: Path,
        opened: Opened,
        *,
        clock: Clock,
        storage: Storage,
        writer: Worker,
        reader: Worker,
        commit_every_s: float,
        commit_bytes: int,
        segment_bytes: int,
        fsync: Literal["group", "always"],
        max_bytes: int | None,
        when_full: Mapping[Kind, WhenFull],
        buffer_bytes: int,
        immediate: Iterable[Kind],
        retention_grace_s: float,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        """For `open`."""
        self.directory = directory
        self.gateway, self.epoch = opened.identity.gateway, opened.identity.epoch
        self.recovery: Mapping[Kind, KindRecovery] = opened.recovery
        self.progress = 0
        """Rises whenever rows became durable, or could not be made durable."""
        self._clock, self._storage, self._log = clock, storage, log
        self._writer, self._reader = writer, reader
        self._commit_every_s, self._commit_bytes, self._buffer_bytes = commit_every_s, commit_bytes, buffer_bytes
        self._always, self._immediate = fsync == "always", frozenset(immediate)
        self._lock, self._ledger_file, self._logs = opened.lock, opened.ledger_file, opened.logs
        self._encoder = Encoder(Decoder())
        self._end = {kind: log.next for kind, log in self._logs.items()}
        self._durable = dict(self._end)
        self._durable_us = {kind: report.last_durable_us for kind, report in opened.recovery.items()}
        self._buffers: dict[Kind, deque[tuple[int, pa.RecordBatch, int]]] = {kind: deque() for kind in KINDS}
        self._buffered = dict.fromkeys(KINDS, 0)
        self._turns: dict[Kind, deque[asyncio.Future[None]]] = {kind: deque() for kind in KINDS}
        self._recent = {kind: Recent(4 << 20) for kind in KINDS}
        self._taps: dict[Kind, list[Tap]] = {kind: [] for kind in KINDS}
        self._failures: dict[str, str] = {}
        self._failing_since_s = 0.0
        self._losses: list[Loss] = []
        self._work, self._urgent, self._retry = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._grown = asyncio.Event()
        self._first_buffered_s = 0.0
        self._closing = self._closed = False
        loop = asyncio.get_running_loop()
        self._collect_from_s = loop.time() + retention_grace_s
        self.ledger = Ledger(
            self._ledger_file, opened.book, writer, durable=self.durable, oldest=self.oldest, failed=self._ledger_failed
        )
        self.retention = Retention(
            self._logs, self.ledger, writer, max_bytes=max_bytes, reserve_bytes=segment_bytes, when_full=when_full,
            lost=self._losses.append,
        )  # fmt: skip
        self._tell_recovery()
        self._first_collection = loop.call_at(self._collect_from_s, self.ledger.changed.set)
        self._tasks = [
            loop.create_task(self._commit_for_ever(), name="spool commits"),
            loop.create_task(self._keep_books(), name="spool ledger"),
        ]

    @classmethod
    async def open(
        cls,
        directory: Path,
        *,
        gateway: str,
        clock: Clock,
        log: structlog.stdlib.BoundLogger,
        storage: Storage | None = None,
        commit_every_s: float = 0.25,
        commit_bytes: int = 1 << 20,
        segment_bytes: int = 16 << 20,
        fsync: Literal["group", "always"] = "group",
        max_bytes: int | None = None,
        when_full: Mapping[Kind, WhenFull] | None = None,
        buffer_bytes: int = 32 << 20,
        immediate: Iterable[Kind] = ("alert",),
        retention_grace_s: float = 5.0,
        writer: Worker | None = None,
        reader: Worker | None = None,
    ) -> Spool:
        """Open or make the spool in `directory` and recover what is there.

        Rows are flushed together when the oldest waits for `commit_every_s`, when `commit_bytes` wait, or at once for the kinds in
        `immediate`; with `fsync` always, each put is. `max_bytes` is the budget of the directory, `buffer_bytes` what may wait in memory per kind before
        `put` waits. Nothing is unlinked in the first `retention_grace_s`, so that sinks can be registered.
        Raises ConfigError when another process has the directory or a person must act otherwise; damaged files never keep it from opening.
        """
        storage = storage or DiskStorage()
        writer, reader = writer or ThreadWorker("spool-write"), reader or ThreadWorker("spool-read")
        if max_bytes is not None:
            segment_bytes = max(64 << 10, min(segment_bytes, max_bytes // 16))
        made: list[Spool] = []
        try:
            opened = await writer.run(
                lambda: open_directory(
                    directory, storage=storage, gateway=gateway, now_us=clock.now_us(), segment_bytes=segment_bytes,
                    allows=lambda size: made[0].retention.allows(size),
                )
            )  # fmt: skip
        except BaseException:
            writer.close()
            reader.close()
            raise
        spool = cls(
            directory, opened, clock=clock, storage=storage, writer=writer, reader=reader, commit_every_s=commit_every_s,
            commit_bytes=commit_bytes, segment_bytes=segment_bytes, fsync=fsync, max_bytes=max_bytes, when_full=when_full or {},
            buffer_bytes=buffer_bytes, immediate=immediate, retention_grace_s=retention_grace_s, log=log,
        )  # fmt: skip
        made.append(spool)
        return spool

    # Putting

    async def put(self, kind: Kind, batch: pa.RecordBatch) -> int:
        """Take rows of a kind and return the number of the first; the others follow. Numbers are given in the order of the calls.

        The rows are durable after the next commit (`durable`), with `fsync` always when this returns. Waits while more than the buffer
        allows is waiting for the disk. Raises ValueError for a batch that has not the exact schema of its kind.
        """
        if not batch.schema.equals(SCHEMAS[kind]):
            raise ValueError(f"not a batch of {kind}: {batch.schema.names}")
        batch.validate()
        self._check_alive()
        if self._buffered[kind] >= self._buffer_bytes or self._turns[kind]:
            await self._wait_for_turn(kind)
        first = self._end[kind]
        if not batch.num_rows:
            return first
        self._end[kind] = first + batch.num_rows
        size = batch.nbytes
        if not self._work.is_set():
            self._first_buffered_s = asyncio.get_running_loop().time()
            self._work.set()
        self._buffers[kind].append((first, batch, size))
        self._buffered[kind] += size
        for tap in self._taps[kind]:
            tap(first, batch)
        if self._always or kind in self._immediate or sum(self._buffered.values()) >= self._commit_bytes:
            self._urgent.set()
        self._pass_turn(kind)
        if self._always:
            while self._durable[kind] < first + batch.num_rows:
                await self.wait(self.progress)
        return first

    def tap(self, kind: Kind, tap: Tap) -> Callable[[], None]:
        """Let `tap` see every batch of a kind as it is put; the returned function ends that."""
        self._taps[kind].append(tap)
        return lambda: self._taps[kind].remove(tap)

    async def flush(self, kind: Kind | None = None, *, patience_s: float = 5.0) -> None:
        """Return when everything put so far (of one kind, or of all) is durable.

        Raises Busy when the disk has not taken anything for `patience_s`; the rows stay in memory and are tried again and again.
        """
        goals = {k: self._end[k] for k in KINDS if kind in (None, k)}
        while any(self._durable[k] < goal for k, goal in goals.items()):
            self._check_alive()
            if self.failure and asyncio.get_running_loop().time() - self._failing_since_s >= patience_s:
                raise Busy(1.0, f"rows cannot be made durable: {self.failure}")
            self._urgent.set()
            await self.wait(self.progress)

    # Reading

    def end(self, kind: Kind) -> int:
        """The number that the next row put gets."""
        return self._end[kind]

    def durable(self, kind: Kind) -> int:
        """The first row number that is not durable yet. Sinks and snapshots must not go beyond it."""
        return self._durable[kind]

    def oldest(self, kind: Kind) -> int:
        """The first row that is still held; `durable` when none is."""
        return min(self._logs[kind].oldest, self._durable[kind])

    async def read(
        self, kind: Kind, first: int, *, max_rows: int, max_bytes: int | None = None, last: int | None = None
    ) -> list[tuple[int, pa.RecordBatch]]:
        """Durable rows from `first` on, up to `last` (included), as (number of the first row, batch) in row order.

        Rows that are no more are skipped: a jump in the numbers shows it. Empty when nothing durable and readable is left. `max_bytes`
        counts decoded rows; at least one row is returned.
        """
        end = self._durable[kind] if last is None else min(self._durable[kind], last + 1)
        if first >= end:
            return []
        room = _UNLIMITED if max_bytes is None else max_bytes
        found = self._recent[kind].read(first, end=end, max_rows=max_rows, max_bytes=room)
        if found is not None:
            return found
        log = self._logs[kind]
        found = await self._reader.run(lambda: log.read(first, end=end, max_rows=max_rows, max_bytes=room))
        while log.gone:
            self._note_damage(kind, *log.gone.popleft())
        return found

    async def skip_missing(self, kind: Kind, sink: str) -> int:
        """Move a sink over rows that are durable by number and no longer readable, counted as dropped; returns how many."""
        end = self._durable[kind]
        found = await self.read(kind, self.ledger.cursor(kind, sink).acked, max_rows=1, last=end - 1)
        upto = found[0][0] if found else end
        rows = upto - self.ledger.cursor(kind, sink).acked
        if rows > 0:
            await self.ledger.acknowledge(kind, sink, upto - 1, delivered=0, filtered=0, dropped=rows)
        return max(0, rows)

    async def wait(self, seen: int) -> None:
        """Return when `progress` is not `seen` (any more): `seen = spool.progress`, look, then wait."""
        while self.progress == seen:
            self._check_alive()
            await self._grown.wait()

    async def died(self) -> None:
        """Return never while the spool works. Raises RuntimeError when its commits have ended, which only a bug does."""
        while True:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            self._check_alive()
            await asyncio.sleep(1.0)  # it is being closed

    # Looking

    @property
    def failure(self) -> str:
        """Why rows cannot be made durable at present, in words; empty while all is well."""
        return next(iter(self._failures.values()), "")

    def account(self, kind: Kind, sink: str) -> Account:
        """What became of this sink's rows, at this moment. Rows count once they are durable."""
        cursor, end = self.ledger.cursor(kind, sink), self._durable[kind]
        gone = self.ledger.gone(kind).within(cursor.acked, end)
        return Account(
            read=end - cursor.start, filtered=cursor.filtered, delivered=cursor.delivered, spooled=end - cursor.acked - gone,
            dropped=cursor.dropped + gone, dead_lettered=cursor.dead_lettered,
        )  # fmt: skip

    def last_durable_us(self, kind: Kind) -> int | None:
        """Wall time (µs) at which the newest durable row was handed to the disk, after a restart too; None when there never was one."""
        return self._durable_us[kind]

    def time_of(self, kind: Kind, row: int) -> int:
        """Wall time (µs) at which a row, or the next one held, was handed to the disk; now when there is none."""
        found = self._logs[kind].commit_us(row)
        return self._clock.now_us() if found is None else found

    def buffered_bytes(self) -> int:
        """Bytes in memory that are not durable yet."""
        return sum(self._buffered.values())

    def bytes_used(self) -> int:
        """Bytes on disk: segments with their preallocated room, and the ledger."""
        return self.retention.used_bytes()

    @property
    def bytes_written(self) -> int:
        """Bytes handed to the disk since the start, headers and ledger included."""
        return sum(log.written for log in self._logs.values()) + self.ledger.bytes_written

    @property
    def corrupt_records(self) -> int:
        """Records whose damage was found by reading since the start."""
        return sum(log.corrupt_records for log in self._logs.values())

    def take_losses(self) -> list[Loss]:
        """Rows that are no more, found or given up since the last call: each is worth a gap row."""
        taken = list(self._losses)
        self._losses.clear()
        return taken

    async def close(self) -> None:
        """Make durable what there is, note where everybody stands, close the files. May be called twice.

        Rows that the disk does not take are lost, were never acknowledged, and are named in the log.
        """
        if self._closed:
            return
        self._closed = self._closing = True
        self._first_collection.cancel()
        commits, books = self._tasks
        for event in (self._work, self._urgent, self._retry):
            event.set()
        await asyncio.wait({commits})
        books.cancel()
        await asyncio.wait({books})
        try:
            await self.ledger.try_save()
            for log in self._logs.values():
                await self._writer.run(log.roll)
            await self.ledger.close()
            lock = self._lock
            await self._writer.run(lambda: self._storage.close(lock))
        finally:
            self._writer.close()
            self._reader.close()
        lost = {kind: self._end[kind] - self._durable[kind] for kind in KINDS if self._end[kind] > self._durable[kind]}
        if lost:
            self._log.error("rows could not be made durable and are lost", rows=lost, error=self.failure)
        self._bump()

    # The commits

    async def _commit_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        pause_s = _RETRY_S[0]
        while True:
            await self._work.wait()
            wait_s = self._first_buffered_s + self._commit_every_s - loop.time()
            if wait_s > 0 and not self._closing:
                await _wait_at_most(self._urgent, wait_s)
            self._urgent.clear()
            if await self._commit():
                pause_s = _RETRY_S[0]
                if not any(self._buffers.values()):
                    self._work.clear()
                    if self._closing:
                        return
                else:
                    self._first_buffered_s = loop.time()
            elif self._closing:
                return
            else:
                self._retry.clear()
                await _wait_at_most(self._retry, pause_s)
                pause_s = min(2 * pause_s, _RETRY_S[1])

    async def _commit(self) -> bool:
        """One round over all kinds; False when something could not be written."""
        now = self._clock.now_us()
        taken = {kind: list(self._buffers[kind]) for kind in COMMIT_ORDER if self._buffers[kind]}
        segments = sum(len(log.segments) for log in self._logs.values())
        stored, error = await self._writer.run(lambda: write(taken, now, self._logs, self._encoder))
        for kind, encoded in stored:
            self._recent[kind].add(encoded.record.first, encoded.batch, encoded.record.raw)
        for kind in dict.fromkeys(kind for kind, _ in stored):
            self._durable[kind], self._durable_us[kind] = self._logs[kind].next, now
            buffer = self._buffers[kind]
            while buffer and buffer[0][0] + buffer[0][1].num_rows <= self._durable[kind]:
                self._buffered[kind] -= buffer.popleft()[2]
            self._pass_turn(kind)
        if sum(len(log.segments) for log in self._logs.values()) != segments:
            self.ledger.changed.set()  # something was closed: it may be free to go
        if isinstance(error, SpoolFull) and await self.retention.make_room(error.size):
            self._bump()
            return await self._commit()
        self._set_failure("commit", error)
        self._bump()
        return error is None

    async def _keep_books(self) -> None:
        """Writes the ledger a moment after it changed, then frees what everybody has had."""
        loop = asyncio.get_running_loop()
        while True:
            await self.ledger.changed.wait()
            await asyncio.sleep(max(self._commit_every_s, 0.01))
            self.ledger.changed.clear()
            if not await self.ledger.try_save():
                self.ledger.changed.set()
                await asyncio.sleep(_RETRY_S[1] / 4)
            elif loop.time() >= self._collect_from_s and await self.retention.collect():
                self._retry.set()

    # Turns, failures, losses

    async def _wait_for_turn(self, kind: Kind) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._turns[kind].append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            self._turns[kind].remove(turn)
            self._pass_turn(kind)
            raise
        self._turns[kind].remove(turn)
        self._check_alive()

    def _pass_turn(self, kind: Kind) -> None:
        turns = self._turns[kind]
        if turns and not turns[0].done() and self._buffered[kind] < self._buffer_bytes:
            turns[0].set_result(None)

    def _bump(self) -> None:
        self.progress += 1
        grown, self._grown = self._grown, asyncio.Event()
        grown.set()

    def _check_alive(self) -> None:
        for task in self._tasks:
            if task.done() and not self._closing:
                raise RuntimeError(f"{task.get_name()} ended") from (None if task.cancelled() else task.exception())
        if self._closed:
            raise RuntimeError("the spool is closed")

    def _set_failure(self, what: str, error: Exception | None) -> None:
        before = self.failure
        if error is None:
            self._failures.pop(what, None)
        else:
            text = error.strerror if isinstance(error, OSError) else None
            self._failures[what] = text or str(error)
        if self.failure and not before:
            self._failing_since_s = asyncio.get_running_loop().time()
            self._log.error("rows cannot be made durable and wait in memory", error=self.failure)
        elif before and not self.failure:
            self._log.info("rows are durable again")

    def _ledger_failed(self, error: OSError | None) -> None:
        self._set_failure("ledger", error)

    def _note_damage(self, kind: Kind, first: int, end: int) -> None:
        for low, high in self.ledger.gone(kind).missing_from(first, end):
            sinks = {
                sink: high - max(low, acked)
                for sink in self.ledger.sinks_of(kind)
                if (acked := self.ledger.cursor(kind, sink).acked) < high
            }
            self.ledger.note_gone(kind, low, high)
            log = self._logs[kind]
            now = self._clock.now_us()
            before, after = log.commit_us(max(0, low - 1)), log.commit_us(high)
            self._losses.append(Loss(kind, low, high - 1, "quarantined", sinks, before or now, after or now))
            self._log.error("rows are damaged or missing", kind=kind, first=low, last=high - 1)

    def _tell_recovery(self) -> None:
        for kind, report in self.recovery.items():
            for first, end in report.missing:
                self._note_damage(kind, first, end)
            for trouble in report.trouble:
                self._log.warning("the disk made trouble at the start", kind=kind, error=trouble)
        cut = {kind: report.truncated_bytes for kind, report in self.recovery.items() if report.truncated_bytes}
        aside = [name for report in self.recovery.values() for name in report.quarantined]
        if cut or aside or self.ledger.condition in ("one slot", "lost"):
            self._log.warning(
                "the spool was repaired", torn_bytes=cut, quarantined=aside, ledger=self.ledger.condition,
                missing_rows=missing_rows(self.recovery),
            )  # fmt: skip


async def _wait_at_most(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
