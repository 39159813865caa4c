"""Fills a gap from the server's own history: what it recorded while nobody listened, beside the live data and behind it.

For each tag the window is open at both ends: after the last row before the outage, before the first row behind it, so that nothing
comes twice. ReadRawModified (OPC 10000-11, 6.5.3) in small pages, one request at a time, with pauses. A window that a new outage
interrupts is gone on with in the next session.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
import structlog
from asyncua import ua

from schemas.clock import Clock
from schemas.kinds import Origin, make_batch

from .connection import Connection
from .decode import Changes, History, decode_history
from .large import decoded
from .outbox import Outbox
from .plan import Plan, chunks
from .refusals import names
from .resolve import ServerFacts
from .rows import Rows, row_times

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_BOUND_NOT_FOUND: Final = 0x80D7_0000  # a value that stands for the edge of the window
_HISTORY_READ: Final = 0x04  # bit of AccessLevel
_MOST_JOBS: Final = 16  # outages whose windows wait; beyond that the oldest is given up
_MOST_PAGES: Final = 100_000  # of a few nodes: a server that never comes to an end
_NO_POINTS: Final = (ua.StatusCodes.BadNoContinuationPoints, ua.StatusCodes.BadContinuationPointInvalid)
_TIMEOUTS: Final = 3
"""Requests of a session that were not answered in time, before the rest of its history is left alone."""
_STRIKES: Final = 3
"""Connections in a row that were lost while a page was awaited, before history is left alone."""
_SLACK_US: Final = 60_000_000
"""How far the clock of the server may be behind ours: nothing is taken twice, this only reads a little more."""

Times = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Pace:
    """How history is read. The defaults keep the server's work for it below a fifth of its time."""

    settle_s: float = 10.0  # how long the first values of a session may take
    nodes: int = 20  # in one request
    values: int = 1000  # of one node in one answer
    timeout_s: float = 30.0
    pause_s: float = 0.1  # at least, and four times as long as the request took
    waiting_rows: int = 20_000  # live rows that wait for the gateway go first


@dataclass(slots=True)
class _Job:
    """The windows of one outage by position: µs, both ends excluded. `start` moves on as pages come."""

    start: dict[int, int]
    end: dict[int, int]
    rows: int = 0


@dataclass(slots=True)
class Memory:
    """What history knows over the sessions of one adapter."""

    last_seen_us: int = 0  # the end of what the gateway's previous run has; 0: there was none
    heard_us: int = 0  # when the last session was heard last
    jobs: deque[_Job] = field(default_factory=deque)
    strikes: int = 0
    told: bool = False


class Backfill:
    """The history of one session. `note` sees every live value before it becomes a row; `run` reads."""

    def __init__(
        self, connection: Connection, memory: Memory, plan: Plan, rows: Rows, outbox: Outbox, *, max_us: int, facts: ServerFacts,
        name: str, clock: Clock, log: structlog.stdlib.BoundLogger, pace: Pace,
    ) -> None:  # fmt: skip
        """`max_us` is how far back a window may reach."""
        self._connection, self._memory, self._plan, self._rows, self._outbox = connection, memory, plan, rows, outbox
        self._max_us, self._name, self._clock, self._log, self._pace = max_us, name, clock, log, pace
        self._nodes_per_call = min(facts.history_nodes or pace.nodes, pace.nodes)
        self._nodes_per_read = facts.nodes_per_read
        self._start = self._starts()
        subscribed = np.zeros(rows.size, bool)
        subscribed[[position for sampling in plan.classes for position in sampling.positions]] = True
        self._open = subscribed & (self._start > 0)  # tags whose first value of this session has not come
        self._settled = asyncio.Event()
        self._timeouts = 0
        self._waiting = True
        self._look()
        self._end = np.zeros(rows.size, np.int64)

    def note(self, changes: Changes, now_us: int) -> None:
        """The first live value of a tag closes its window."""
        if not self._waiting:
            return
        where = changes.handle.astype(np.intp)
        mine = np.flatnonzero(where < self._rows.size)[::-1]  # of two values of one tag the first is assigned last
        where, time_us = where[mine], row_times(changes, now_us)[mine]
        first = self._open[where]
        self._end[where[first]] = time_us[first]
        self._open[where[first]] = False
        self._look()

    def _look(self) -> None:
        self._waiting = bool(self._open.any())
        if not self._waiting:
            self._settled.set()

    async def run(self, nodes: Mapping[int, ua.NodeId]) -> None:
        """Read what is missing, window after window, then wait for late first values. Never raises but for a lost connection."""
        try:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._pace.settle_s):
                        await self._settled.wait()
                self._collect()
                if self._memory.strikes >= _STRIKES and self._memory.jobs:
                    self._memory.jobs.clear()
                    self._log.warning(
                        "history is left alone: the connection broke each time that it was read", adapter=self._name
                    )
                while self._memory.jobs:
                    try:
                        await self._fill(self._memory.jobs[0], nodes)
                    except ua.UaStatusCodeError as error:  # the access levels cannot be read
                        self._refused(error)
                    self._memory.jobs.popleft()
                if not self._waiting:
                    return
        finally:
            self._collect()

    def _starts(self) -> Times:
        """int64[n]: the time of the last row before this session; 0: nothing is known, so nothing is missing."""
        last = self._rows.last_us
        heard = self._memory.heard_us
        newest = int(last.max(initial=0))
        if heard:
            floor = min(heard, newest) - _SLACK_US if newest else heard
            return np.where(last > 0, np.maximum(last, floor), np.int64(heard))
        return np.full(self._rows.size, self._memory.last_seen_us, np.int64)

    def _collect(self) -> None:
        """The windows that are closed by now become a job."""
        missing = np.flatnonzero(self._end - self._start > 1)
        job = _Job({}, {})
        for position in missing.tolist():
            job.end[position] = int(self._end[position])
            job.start[position] = max(int(self._start[position]), job.end[position] - self._max_us)
        self._end[:] = 0
        if job.start:
            self._memory.jobs.append(job)
        while len(self._memory.jobs) > _MOST_JOBS:
            self._memory.jobs.popleft()
            self._log.warning("an outage is not filled from history: too many of them wait", adapter=self._name)

    async def _fill(self, job: _Job, nodes: Mapping[int, ua.NodeId]) -> None:
        nodes = {position: nodes[position] for position in job.start if position in nodes}  # items come and go meanwhile
        recorded = await self._recorded(list(nodes), nodes)
        filled = sorted(recorded)
        for chunk in chunks(recorded, self._nodes_per_call):
            if self._timeouts >= _TIMEOUTS:
                break
            await self._read(list(chunk), job, nodes)
        if job.rows:
            self._log.info("a gap was filled from history", adapter=self._name, rows=job.rows, tags=names(self._plan, filled))
            message = f"{job.rows} rows of {len(filled)} tags were read from the server's history"
            self._outbox.put(
                make_batch(
                    "event", 1, time=self._clock.now_us(), source=self._name, event="gap_filled", severity="info", message=message
                )
            )

    async def _recorded(self, positions: Sequence[int], nodes: Mapping[int, ua.NodeId]) -> list[int]:
        """Those of which the server says that their history may be read."""
        found: list[int] = []
        for chunk in chunks(positions, self._nodes_per_read):
            levels = await self._connection.session.read_attributes([nodes[p] for p in chunk], ua.AttributeIds.UserAccessLevel)
            for position, level in zip(chunk, levels, strict=True):
                value = level.Value.Value if level.Value is not None and level.StatusCode.is_good() else 0
                if isinstance(value, int) and value & _HISTORY_READ:
                    found.append(position)
        return found

    async def _read(self, positions: list[int], job: _Job, nodes: Mapping[int, ua.NodeId]) -> None:
        """The windows of a few nodes, page by page. A node that is cut short is asked again alone."""
        groups = deque([positions])
        pages, values = (
            0,
            max(1, self._pace.values >> 2 * self._memory.strikes),
        )  # fewer where an answer may have broken the connection
        while groups:
            asked, points = groups.popleft(), dict[int, bytes]()
            alone = len(asked) == 1
            while asked and pages < _MOST_PAGES:
                pages += 1
                answers = await self._page(asked, points, values, job, nodes)
                points = {}
                for position, answer in zip(asked, answers, strict=False):  # none at all: it was given up
                    moved = self._emit(position, answer.changes, job)
                    cut = len(answer.changes) >= values
                    if answer.status & 0x8000_0000:
                        cut = answer.status in _NO_POINTS
                    elif answer.more:
                        points[position] = answer.more
                        continue
                    if cut and (moved or not alone):
                        groups.append([position])
                asked = list(points)

    async def _page(
        self, asked: list[int], points: Mapping[int, bytes], values: int, job: _Job, nodes: Mapping[int, ua.NodeId]
    ) -> list[History]:
        """One request. Empty when the server does not answer it, which is told once."""
        details = ua.ReadRawModifiedDetails(
            IsReadModified=False,
            StartTime=_EPOCH + timedelta(microseconds=min(job.start[position] for position in asked)),
            EndTime=_EPOCH + timedelta(microseconds=max(job.end[position] for position in asked) + 1),
            NumValuesPerNode=values,
            ReturnBounds=False,
        )
        wanted = [ua.HistoryReadValueId(NodeId=nodes[p], ContinuationPoint=points.get(p)) for p in asked]
        parameters = ua.HistoryReadParameters(
            HistoryReadDetails=details,
            TimestampsToReturn=ua.TimestampsToReturn.Both,
            ReleaseContinuationPoints=False,  # asyncua's default would have the server forget them
            NodesToRead=wanted,
        )
        loop = asyncio.get_running_loop()
        while self._outbox.rows > self._pace.waiting_rows:  # noqa: ASYNC110 - a full queue is rare, and nobody waits for history
            await asyncio.sleep(self._pace.pause_s)
        began = loop.time()
        self._memory.strikes += 1  # taken back when the connection lives on
        try:
            async with asyncio.timeout(self._pace.timeout_s):
                answer = await self._connection.request(ua.HistoryReadRequest(Parameters=parameters), patient=True)
            result, found = await decoded(partial(self._decode, asked), answer)
            if result & 0x8000_0000:
                raise ua.UaStatusCodeError(result)
        except (ua.UaStatusCodeError, TimeoutError) as error:
            found = []
            self._timeouts += isinstance(error, TimeoutError)
            self._refused(error)
        self._memory.strikes = 0
        await asyncio.sleep(max(self._pace.pause_s, 4 * (loop.time() - began)))
        return found

    def _decode(self, asked: Sequence[int], answer: bytes) -> tuple[int, list[History]]:
        """The service result and the values of each node that was `asked` for, prepared."""
        result, found = decode_history(answer)
        for position, history in zip(asked, found, strict=False):
            history.changes.handle[:] = position
            self._rows.prepare(history.changes)
        return result, found

    def _refused(self, error: Exception) -> None:
        if not self._memory.told:
            self._memory.told = True
            self._log.warning("history cannot be read", adapter=self._name, error=str(error) or "no answer")

    def _emit(self, position: int, changes: Changes, job: _Job) -> bool:
        """Rows of one page that are inside of the window. True when the page led on."""
        if not len(changes):
            return False
        now = self._clock.now_us()
        time_us = row_times(changes, now)
        inside = (time_us > job.start[position]) & (time_us < job.end[position]) & (changes.status != _BOUND_NOT_FOUND)
        last = int(time_us.max())
        moved = last > job.start[position]
        if inside.any():
            order = np.flatnonzero(inside)[np.argsort(time_us[inside], kind="stable")]
            page = changes.only(order)
            self._outbox.put(self._rows.batch(page, now, Origin.BACKFILL))
            job.rows += len(page)
        job.start[position] = max(job.start[position], min(last, job.end[position]))
        return moved and last < job.end[position]
