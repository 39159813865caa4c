"""The spool: what has been put is numbered at once, durable a moment later, and read back by row number until everybody had it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import pyarrow as pa
import structlog

from schemas.clock import Clock
from schemas.errors import Busy
from schemas.kinds import KINDS, SCHEMAS, Kind

from .accounts import Account, account_of
from .committing import Commits
from .failures import Failures
from .ledger import Ledger
from .losses import Loss
from .noticing import Noticing
from .opening import Opened, open_directory, other_bytes
from .recent import Recent
from .recovery import KindRecovery
from .retention import Retention, WhenFull
from .scrubbing import Scrub
from .storage import DiskStorage, Storage
from .waiting import Waiting
from .worker import ThreadWorker, Worker

Tap = Callable[[int, pa.RecordBatch], None]
"""Sees (first row number, batch) of every put, in row order, before the rows are durable. Must not wait or raise."""

_UNLIMITED: Final = 1 << 62
_RECENT_BYTES: Final[Mapping[Kind, int]] = {"telemetry": 4 << 20, "score": 4 << 20, "image": 4 << 20}
_FEW_RECENT_BYTES: Final = 256 << 10
"""Of the kinds with few rows, which would fill a larger window over hours: to its owner that looks like a leak."""


@dataclass(frozen=True, slots=True)
class Options:
    """What `Spool.open` takes, for the rooms behind it."""

    commit_every_s: float
    commit_bytes: int
    segment_bytes: int
    fsync: Literal["group", "always"]
    max_bytes: int | None
    when_full: Mapping[Kind, WhenFull]
    buffer_bytes: int
    immediate: frozenset[Kind]
    retention_grace_s: float
    keep_s: float
    scrub_every_s: float


class Spool:
    """The durable state of one gateway. Made by `Spool.open`, ended by `close`; all methods are for the event loop."""

    def __init__(
        self,
        directory: Path,
        opened: Opened,
        options: Options,
        *,
        clock: Clock,
        storage: Storage,
        writer: Worker,
        reader: Worker,
        thinner: Worker,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        """For `open`."""
        self.directory = directory
        self.redeliveries = 0  # how often a person asked for dead letters to be delivered once more
        self.gateway, self.epoch = opened.identity.gateway, opened.identity.epoch
        self.recovery: Mapping[Kind, KindRecovery] = opened.recovery
        self._clock, self._storage, self._log = clock, storage, log
        self._writer, self._reader, self._thinner = writer, reader, thinner
        self._always, self._immediate, self._commit_bytes = options.fsync == "always", options.immediate, options.commit_bytes
        self._lock, self._ledger_file, self._logs = opened.lock, opened.ledger_file, opened.logs
        self._end = {kind: log.next for kind, log in self._logs.items()}
        self._durable = dict(self._end)
        self._durable_us = {kind: report.last_durable_us for kind, report in opened.recovery.items()}
        self._waiting = Waiting(options.buffer_bytes)
        self._recent = {kind: Recent(_RECENT_BYTES.get(kind, _FEW_RECENT_BYTES)) for kind in KINDS}
        self._taps: dict[Kind, list[Tap]] = {kind: [] for kind in KINDS}
        self._failures = Failures(log)
        self._closing = self._closed = False
        loop = asyncio.get_running_loop()
        self.ledger = Ledger(
            self._ledger_file, opened.book, writer, durable=self.durable, oldest=self.oldest,
            failed=lambda error: self._failures.set("ledger", error),
        )  # fmt: skip
        self._noticing = Noticing(self._logs, self.ledger, clock=clock, log=log)
        self.retention = Retention(
            self._logs, self.ledger, writer, storage=storage, epoch=self.epoch, thinner=thinner, max_bytes=options.max_bytes,
            reserve_bytes=options.segment_bytes, other_bytes=opened.other_bytes, when_full=options.when_full,
            keep_us=round(options.keep_s * 1e6), now_us=clock.now_us, measure=lambda: other_bytes(directory, storage), lost=self._noticing.lost, rewritten=lambda kind, row: self._recent[kind].forget(row),
        )  # fmt: skip
        self._commits = Commits(
            self._waiting, self._logs, self.ledger, self.retention, writer, self._failures, clock=clock, recent=self._recent, durable=self._have,
            commit_every_s=options.commit_every_s, ahead_bytes=2 * options.segment_bytes,
            collect_from_s=loop.time() + options.retention_grace_s,
        )  # fmt: skip
        self._noticing.tell_recovery(opened.recovery)
        self.scrub = Scrub(self._logs, thinner, storage=storage, look=self._look, pause_s=options.scrub_every_s)
        self._first_collection = loop.call_at(loop.time() + options.retention_grace_s, self.ledger.changed.set)
        self._tasks = [
            loop.create_task(self._commits.for_ever(), name="spool commits"),
            loop.create_task(self._commits.keep_books(), name="spool ledger"),
            loop.create_task(self._commits.make_room_ahead(), name="spool downsampling"),
            loop.create_task(self.scrub.for_ever(), name="spool scrub"),
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
        keep_s: float = 0.0,
        scrub_every_s: float = 1.0,
        writer: Worker | None = None,
        reader: Worker | None = None,
        thinner: Worker | None = None,
    ) -> Spool:
        """Open or make the spool in `directory` and recover what is there.

        Rows are flushed together when the oldest waits for `commit_every_s`, when `commit_bytes` wait, or at once for the kinds in
        `immediate`; with `fsync` always, each put is. `max_bytes` is the budget of the directory, `buffer_bytes` what may wait in memory per kind before
        `put` waits. Nothing is unlinked in the first `retention_grace_s`, so that sinks can be registered; rows are kept for `keep_s` after they came,
        although every sink has had them, while there is room. Every `scrub_every_s` a segment is read to check it.
        Raises ConfigError when another process has the directory or a person must act otherwise; damaged files never keep it from opening.
        """
        storage = storage or DiskStorage()
        workers = [
            given or ThreadWorker(f"spool-{name}") for name, given in (("write", writer), ("read", reader), ("thin", thinner))
        ]
        if max_bytes is not None:
            segment_bytes = max(64 << 10, min(segment_bytes, max_bytes // 16))
        made: list[Spool] = []
        try:
            opened = await workers[0].run(
                lambda: open_directory(
                    directory, storage=storage, gateway=gateway, now_us=clock.now_us(), segment_bytes=segment_bytes,
                    allows=lambda size: made[0].retention.allows(size),
                )
            )  # fmt: skip
        except BaseException:
            for worker in workers:
                worker.close()
            raise
        options = Options(
            commit_every_s, commit_bytes, segment_bytes, fsync, max_bytes, when_full or {}, buffer_bytes, frozenset(immediate),
            retention_grace_s,
            keep_s,
            scrub_every_s,
        )  # fmt: skip
        spool = cls(
            directory,
            opened,
            options,
            clock=clock,
            storage=storage,
            writer=workers[0],
            reader=workers[1],
            thinner=workers[2],
            log=log,
        )
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
        await self._waiting.turn(kind)
        self._check_alive()
        first = self._end[kind]
        if not batch.num_rows:
            return first
        self._end[kind] = first + batch.num_rows
        self._waiting.add(kind, first, batch)
        for tap in self._taps[kind]:
            tap(first, batch)
        self._commits.wanted(now=self._always or kind in self._immediate or self._waiting.bytes >= self._commit_bytes)
        self._waiting.next_turn(kind)
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
            if self._failures.last_for(patience_s):
                raise Busy(1.0, f"rows cannot be made durable: {self.failure}")
            self._commits.wanted(now=True)
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
        self._noticing.look(kind)
        return found

    def rewritten(self, kind: Kind) -> int:
        """Rises whenever rows on disk were replaced by windows of them: what was read before is not what a repeated read gives."""
        return self._logs[kind].rewritten

    async def skip_missing(self, kind: Kind, sink: str) -> int:
        """Move a sink over rows that are durable by number and no longer readable, counted as dropped; returns how many."""
        end = self._durable[kind]
        found = await self.read(kind, self.ledger.cursor(kind, sink).acked, max_rows=1, last=end - 1)
        upto = found[0][0] if found else end
        rows = upto - self.ledger.cursor(kind, sink).acked
        if rows > 0:
            await self.ledger.acknowledge(kind, sink, upto - 1, delivered=0, filtered=0, dropped=rows)
        return max(0, rows)

    @property
    def progress(self) -> int:
        """Rises whenever rows became durable, or could not be made durable."""
        return self._commits.progress

    async def wait(self, seen: int) -> None:
        """Return when `progress` is not `seen` (any more): `seen = spool.progress`, look, then wait."""
        while self.progress == seen:
            self._check_alive()
            await self._commits.grown.wait()

    def wake(self) -> None:
        """Let everybody who waits for progress look again."""
        self._commits.bump()

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
        return self._failures.text

    def account(self, kind: Kind, sink: str) -> Account:
        """What became of this sink's rows, at this moment. Rows count once they are durable."""
        return account_of(self.ledger.cursor(kind, sink), self._durable[kind], self.ledger.gone(kind), self._logs[kind])

    def last_durable_us(self, kind: Kind) -> int | None:
        """Wall time (µs) at which the newest durable row was handed to the disk, after a restart too; None when there never was one."""
        return self._durable_us[kind]

    def time_of(self, kind: Kind, row: int) -> int:
        """Wall time (µs) at which a row, or the next one held, was handed to the disk; now when there is none."""
        found = self._logs[kind].commit_us(row)
        return self._clock.now_us() if found is None else found

    def row_at(self, kind: Kind, time_us: int) -> int:
        """The first row that was handed to the disk at `time_us` or later; `durable` when none was."""
        return min(self._logs[kind].row_at(time_us), self._durable[kind])

    def note_loss(self, loss: Loss) -> None:
        """Count rows that are no more, for a gap row."""
        self.ledger.note_loss(loss)
        self._noticing.lost(loss)

    async def drop(self, kind: Kind, sink: str, end: int) -> tuple[int, int]:
        """Let one sink do without the rows before `end`; how many were held of them, and where it stands now. Durable when it returns."""
        rows = await self.ledger.drop(kind, sink, end, self._logs[kind].thinned())
        return rows, self.ledger.cursor(kind, sink).acked

    def buffered_bytes(self) -> int:
        """Bytes in memory that are not durable yet."""
        return self._waiting.bytes

    def bytes_used(self) -> int:
        """Bytes on disk: segments with their preallocated room, the ledger, and what else the directory holds."""
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
        """Rows that are no more, found or given up since the last call: each is worth a gap row.

        Call `ledger.told` once that row is durable; otherwise the next start hands them out again.
        """
        return self._noticing.take()

    async def close(self) -> None:
        """Make durable what there is, note where everybody stands, close the files. May be called twice.

        Rows that the disk does not take are lost, were never acknowledged, and are named in the log.
        """
        if self._closed:
            return
        self._closed = self._closing = True
        self._first_collection.cancel()
        commits, *others = self._tasks
        self._commits.finish()
        await asyncio.wait({commits})
        for task in others:
            task.cancel()
        await asyncio.wait(others)
        try:
            await self.ledger.try_save()
            for log in self._logs.values():
                await self._writer.run(log.roll)
            await self.ledger.close()
            lock = self._lock
            await self._writer.run(lambda: self._storage.close(lock))
        finally:
            for worker in (self._writer, self._reader, self._thinner):
                worker.close()
        lost = {kind: self._end[kind] - self._durable[kind] for kind in KINDS if self._end[kind] > self._durable[kind]}
        if lost:
            self._log.error("rows could not be made durable and are lost", rows=lost, error=self.failure)
        self._commits.bump()

    def _have(self, kind: Kind, row: int, now_us: int) -> None:
        """Everything before `row` is durable."""
        self._durable[kind], self._durable_us[kind] = row, now_us

    async def _look(self, kind: Kind, row: int) -> None:
        """Read one row, so that what is wrong with it is noticed."""
        await self.read(kind, row, max_rows=1, last=row)

    def _check_alive(self) -> None:
        for task in self._tasks:
            if task.done() and not self._closing:
                raise RuntimeError(f"{task.get_name()} ended") from (None if task.cancelled() else task.exception())
        if self._closed:
            raise RuntimeError("the spool is closed")
