"""Runs the edge models over the telemetry log: from memory while they keep up, from disk when they do not.

The runner is a consumer of the spool like a sink. Its cursor is stored with the models' snapshot, so that after a crash models
and alarms resume at the row where they were; alert ids are hashes of what raised them, so nothing is raised twice.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import structlog

from edge_models.runtime import Begun, ModelSet, Outputs
from schemas.clock import Clock
from schemas.errors import Busy
from schemas.kinds import Kind, with_seq

from .collector import Put
from .isolation.inference import WorkerExecutor
from .spool import Spool

_REMEMBERED = 100_000
_AT_ONCE: Final = 50_000  # rows
_WINDOW_BYTES: Final = 32 << 20
_NAME = re.compile(r"state-(\d+)\.bin")


class ModelRunner:
    """Feeds telemetry to the model set in row order and puts what comes out back into the spool."""

    def __init__(
        self,
        models: ModelSet,
        *,
        spool: Spool,
        put: Put,
        keep: Sequence[Kind],
        clock: Clock,
        directory: Path,
        log: structlog.stdlib.BoundLogger,
        snapshot_every_s: float = 60.0,
        max_rows: int = 200_000,
    ) -> None:
        """`keep` names the output kinds that go to any sink (scores are dropped here when nobody wants them).

        `max_rows` bounds what waits in memory; beyond it the oldest rows are read back from disk.
        """
        self.models = models
        self.cursor = 0  # next telemetry row
        self.alerts = 0
        self.stored = 0  # snapshots that are durable
        self._spool, self._put, self._clock = spool, put, clock
        self._keep_kinds = frozenset(keep)
        self._directory, self._log = directory, log
        self._snapshot_every_s, self._max_rows = snapshot_every_s, max_rows
        self._memory: deque[tuple[int, pa.RecordBatch]] = deque()
        self._memory_rows = 0
        self._wake = asyncio.Event()
        self._finishing = False
        self._now = 0
        self._stumbled = -1  # row of the batch on which a model crashed
        self._workers = _workers(models)
        self._keepers: list[asyncio.Task[None]] = []  # of the workers' processes
        self._group: asyncio.TaskGroup | None = None  # they run in, while `run` does
        self._begun: Begun | None = None  # while workers are asked
        self._unanswered: Outputs | None = None  # of a batch whose models were replaced meanwhile
        self._unstored = ""  # why the newest snapshot could not be stored
        self._store_soon = False

    def offer(self, first: int, batch: pa.RecordBatch) -> None:
        """Take a batch that has just been put into the spool. Never waits; what does not fit is read from disk later."""
        self._memory.append((first, batch))
        self._memory_rows += batch.num_rows
        while self._memory_rows > self._max_rows and len(self._memory) > 1:
            self._memory_rows -= self._memory.popleft()[1].num_rows
        self._wake.set()

    @property
    def behind_rows(self) -> int:
        """Rows in the spool that the models have not seen."""
        return self._spool.end("telemetry") - self.cursor

    def replace(self, models: ModelSet) -> None:
        """Go on with the same models built over tags that are read at other times; what they know goes along.

        A batch for which workers are being asked is finished at once, without their answers. New workers start beside the data.
        """
        if self._begun is not None:
            self._unanswered = self.models.finish(self._begun, {})
            for name, _, request in self._begun.requests:
                self._workers[name].unscored += request.rows
            self._begun = None
        for name, reason in models.restore(self.models.snapshot()).items():
            self._log.warning("model starts fresh", model=name, error=reason)
        self.models = models
        before, self._workers = self._workers, _workers(models)
        for name, worker in self._workers.items():
            worker.unscored = before[name].unscored if name in before else 0
        self._keep()

    def _keep(self) -> None:
        """Let the processes of the workers run, and those of workers before them end. Nobody waits for either."""
        for keeper in self._keepers:
            keeper.cancel()
        self._keepers = (
            [] if self._group is None else [self._group.create_task(worker.keep()) for worker in self._workers.values()]
        )

    @property
    def workers(self) -> Mapping[str, WorkerExecutor]:
        """The workers of those models that lie in files, by name of the model."""
        return self._workers

    @property
    def suspended(self) -> dict[str, str]:
        """Each model that runs in a worker, and why it is suspended; empty where it is not."""
        return {name: worker.suspended for name, worker in self._workers.items()}

    def finish(self) -> None:
        """Score what there is and let `run` return."""
        self._finishing = True
        self._wake.set()

    async def restore(self) -> None:
        """Take over the newest usable snapshot; without one the models start at the end of the log, cold, and are stored as of there.

        A snapshot of rows that were never durable is left aside. Where the newest is damaged as a whole, the one before is taken.
        """
        durable = self._spool.durable("telemetry")
        found = [(row, path) for row, path in await asyncio.to_thread(_snapshots, self._directory) if row <= durable]
        self.cursor = max((row for row, _ in found), default=durable)
        for row, path in sorted(found, reverse=True):
            try:
                fresh = self.models.restore(await asyncio.to_thread(path.read_bytes))
            except OSError as error:
                fresh = dict.fromkeys(self.models.names, error.strerror or str(error))
            for name, reason in fresh.items():
                self._log.warning("model starts fresh", model=name, snapshot=path.name, error=reason)
            if not self.models.names or not fresh.keys() >= set(self.models.names):
                self.cursor = row
                break
        await self._spool.ledger.pin("telemetry", "models", min((row for row, _ in found), default=self.cursor))
        alerts, events = await self._newest("alert", 50_000), await self._newest("event", 20_000)
        told = self.models.replay_alerts(alerts, events=events, now=self._clock.now_us())
        await self._remember()
        if told is not None:
            await self._put("alert", told)
        if not found:
            await self.snapshot()  # whoever ends before the next one finds its beginning again, not the end of the log

    async def _newest(self, kind: Kind, most: int) -> list[pa.RecordBatch]:
        end = self._spool.end(kind)
        first = max(self._spool.oldest(kind), end - most)
        return [batch for _, batch in await self._spool.read(kind, first, max_rows=most)] if end > first else []

    async def _remember(self) -> None:
        """Show the models the rows before `cursor`, as far as they are held: they are the context of the next alarms."""
        first = max(self._spool.oldest("telemetry"), self.cursor - _REMEMBERED)
        if not self.models.names or first >= min(self.cursor, self._spool.durable("telemetry")):
            return
        for number, batch in await self._spool.read("telemetry", first, max_rows=_REMEMBERED):
            self.models.remember(with_seq(batch.slice(0, max(0, self.cursor - number)), number))

    def store_soon(self) -> None:
        """Store the state without waiting for its time: a person has changed something that must not be forgotten."""
        self._store_soon = True
        self._wake.set()

    async def run(self) -> None:
        """Score until `finish()` and nothing is left, or cancelled. The workers of models start beside it and end with it."""
        crash: Exception | None = None
        async with asyncio.TaskGroup() as self._group:
            self._keep()
            try:
                await self._run()
            except Exception as error:  # noqa: BLE001 (raised below as it is, not within a group)
                crash = error
            finally:
                self._group = None
                self._keep()
        if crash is not None:
            raise crash

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        next_snapshot = loop.time() + self._snapshot_every_s
        while True:
            self._wake.clear()
            try:
                worked = await self._step()
            except Busy as busy:
                # What fell out of memory is not on disk yet, and the disk takes nothing: the spool raises the alarm.
                if self._finishing:
                    return
                await asyncio.sleep(busy.wait_s)
                continue
            if self._store_soon or loop.time() >= next_snapshot:
                self._store_soon = False
                await self.snapshot()
                next_snapshot = loop.time() + self._snapshot_every_s
            if worked:
                continue
            if self._finishing:
                await self.snapshot()
                return
            try:
                async with asyncio.timeout(1.0):  # wait_for of Python 3.11 may swallow a cancellation
                    await self._wake.wait()
            except TimeoutError:
                # A tick: off-delays run out and missing updates are noticed although nothing arrives.
                await self._tick()

    async def _step(self) -> bool:
        """Score the next rows, wherever they are. False when there are none."""
        while self._memory and self._memory[0][0] + self._memory[0][1].num_rows <= self.cursor:
            self._memory_rows -= self._memory.popleft()[1].num_rows
        if self._memory and self._memory[0][0] <= self.cursor:
            first, batch = self._from_memory()
            skip = self.cursor - first
            await self._score(self.cursor, batch.slice(skip) if skip else batch)
            return True
        end = self._memory[0][0] if self._memory else self._spool.end("telemetry")
        if self.cursor >= end:
            return False
        if self._spool.durable("telemetry") <= self.cursor:
            await self._spool.flush()
        read = await self._spool.read("telemetry", self.cursor, max_rows=_AT_ONCE)
        if not read:
            self.cursor = min(end, self._spool.durable("telemetry"))  # quarantined rows: nobody will ever read them
        for first, batch in _joined(read) if self._workers else read:
            await self._score(first, batch)
        return True

    def _from_memory(self) -> tuple[int, pa.RecordBatch]:
        """The oldest batch; beside workers all that wait: whoever waits for a worker waits once, however much has come meanwhile."""
        taken = [self._memory.popleft()]
        first, count = taken[0][0], taken[0][1].num_rows
        while self._workers and self._memory and self._memory[0][0] == first + count:
            if count + self._memory[0][1].num_rows > _AT_ONCE:
                break
            taken.append(self._memory.popleft())
            count += taken[-1][1].num_rows
        self._memory_rows -= count
        return _joined(taken)[0]

    async def _score(self, first: int, batch: pa.RecordBatch) -> None:
        """One batch. Beside workers in parts, so that the windows of its rows take a bounded room; its budget is one."""
        since: float | None = None
        began = asyncio.get_running_loop().time()
        at = 0
        while at < batch.num_rows:
            room = sum(worker.row_bytes for worker in self._workers.values())
            part = batch.slice(at, max(1, _WINDOW_BYTES // room)) if room else batch
            await self._score_part(first + at, part, since)
            at += part.num_rows
            since = began

    async def _score_part(self, first: int, batch: pa.RecordBatch, since: float | None) -> None:
        self._now = max(self._now, self._clock.now_us())
        try:
            # Without a model the rows need no numbers: nobody looks at them.
            if not self.models.names:
                out = self.models.tick(self._now)
            elif self._workers:
                out = await self._ask(with_seq(batch, first), since)
            else:
                out = self.models.update(with_seq(batch, first), self._now)
        except Exception as error:
            if self._stumbled != first:
                self._stumbled = first  # once more after the restart
                raise
            # Not for ever: the limits of every other tag are watched by the same models.
            self.cursor = first + batch.num_rows
            self._log.error(
                "models cannot take these rows and go on behind them", first=first, rows=batch.num_rows, error=repr(error)
            )
            return
        self.cursor = first + batch.num_rows
        await self._tell(out)

    async def _tick(self) -> None:
        self._now = max(self._now, self._clock.now_us())
        await self._tell(self.models.tick(self._now))

    async def _tell(self, out: Outputs) -> None:
        for batch in out.alerts:
            self.alerts += batch.num_rows
            await self._put("alert", batch)
        for batch in out.events:
            await self._put("event", batch)
        outputs: tuple[tuple[Kind, list[pa.RecordBatch]], ...] = (("health", out.health), ("score", out.scores))
        for kind, batches in outputs:
            if kind in self._keep_kinds:
                for batch in batches:
                    await self._put(kind, batch)

    async def _ask(self, batch: pa.RecordBatch, since: float | None) -> Outputs:
        """`ModelSet.update` with the workers' answers; each has its own budget, and they work side by side. `since`: see `answer`."""
        begun = self._begun = self.models.begin(batch, self._now)
        workers = self._workers
        try:
            async with asyncio.TaskGroup() as group:
                tasks = {name: group.create_task(workers[name].answer(one, since)) for name, _, one in begun.requests}
        finally:
            replaced, self._unanswered = self._unanswered, None
            self._begun = None
        if replaced is not None:
            return replaced
        return self.models.finish(begun, {name: task.result() for name, task in tasks.items()})

    async def snapshot(self) -> None:
        """Store the models' state as of `cursor`, durable, after every row up to it is durable.

        A disk that does not take it is said once; the state before stays in force, and the next call tries again.
        """
        row, state = self.cursor, self.models.snapshot()
        try:
            await self._spool.flush()
            oldest = await asyncio.to_thread(_store, self._directory, row, state)
        except (Busy, OSError) as error:
            if not self._unstored:
                self._log.warning("the state of the models cannot be stored", error=str(error))
            self._unstored = str(error)
            return
        self._unstored = ""
        self.stored += 1
        await self._spool.ledger.pin("telemetry", "models", oldest)


def _workers(models: ModelSet) -> dict[str, WorkerExecutor]:
    return {name: one for name, one in models.executors.items() if isinstance(one, WorkerExecutor)}


def _joined(batches: Sequence[tuple[int, pa.RecordBatch]]) -> list[tuple[int, pa.RecordBatch]]:
    """Batches with their first rows; those that follow one another without a hole are one."""
    runs: list[tuple[int, list[pa.RecordBatch]]] = []
    end = -1
    for first, batch in batches:
        if first != end:
            runs.append((first, []))
        runs[-1][1].append(batch)
        end = first + batch.num_rows
    return [(first, run[0] if len(run) == 1 else pa.concat_batches(run)) for first, run in runs]


def _snapshots(directory: Path) -> list[tuple[int, Path]]:
    if not directory.is_dir():
        return []
    return [(int(match[1]), path) for path in directory.iterdir() if (match := _NAME.fullmatch(path.name))]


def _store(directory: Path, row: int, state: bytes) -> int:
    """Durable and whole or not at all; the one before is kept in case this one is damaged. Returns the row of the oldest kept."""
    directory.mkdir(parents=True, exist_ok=True)
    part = directory / ".state.part"
    with part.open("wb") as file:
        file.write(state)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, directory / f"state-{row:014d}.bin")
    descriptor = os.open(directory, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    held = sorted(_snapshots(directory))
    # One that is ahead of this one is of rows that were never durable.
    for _, old in [one for one in held if one[0] > row] + [one for one in held if one[0] <= row][:-2]:
        old.unlink()
    return min(number for number, _ in _snapshots(directory))
