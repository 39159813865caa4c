"""Cyclic reads, by choice or for a server without subscriptions: prepared requests per sampling class, resent on schedule."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
import structlog
from asyncua import ua

from adapters.polling import Schedule
from schemas.clock import Clock
from schemas.errors import NotConnected

from .connection import Connection
from .large import decoded
from .liveness import Liveness, Step
from .outbox import Outbox
from .plan import Plan, SamplingClass, chunks
from .prepared import PreparedRead
from .recovery import Renew, Told, renew_for
from .refusals import RETRY_S, Refusals
from .resolve import ServerFacts, read_facts, resolve
from .rows import Rows
from .structures import load_types

_NODE_FAULTS: Final = np.array(
    [
        ua.StatusCodes.BadNodeIdUnknown,
        ua.StatusCodes.BadNodeIdInvalid,
        ua.StatusCodes.BadAttributeIdInvalid,
        ua.StatusCodes.BadNotReadable,
        ua.StatusCodes.BadUserAccessDenied,
    ],
    np.uint32,
)
"""What a read answers for a node that a subscription would have refused; other bad codes are the value's."""
_LOOK_S: Final = 5.0
"""How often the namespaces are looked at: after they were renumbered at most so much is read from what may be another tag's node."""
_Poll = tuple[PreparedRead, npt.NDArray[np.uint32]]  # the request, and the positions that it reads


class Reader:
    """Reads the nodes of `classes` class by class and puts a batch per request into `outbox`. `run` ends only by raising."""

    def __init__(
        self,
        connection: Connection,
        facts: ServerFacts,
        plan: Plan,
        classes: Sequence[SamplingClass],
        rows: Rows,
        outbox: Outbox,
        *,
        name: str,
        clock: Clock,
        log: structlog.stdlib.BoundLogger,
        liveness: Liveness,
    ) -> None:
        self._connection, self._facts, self._plan, self._rows, self._outbox = connection, facts, plan, rows, outbox
        self._classes, self._clock, self._liveness = classes, clock, liveness
        self._told = Told(plan, rows, outbox, name=name, clock=clock, log=log)
        self._refusals = Refusals(plan, name, log)
        self._unresolved: dict[int, int] = {}  # addresses that lead to no node
        self._unread: dict[int, int] = {}  # nodes that the server does not read

    async def run(self) -> None:
        """Raises NotConnected (the server refuses to read), Renew, and what `failures` translates."""
        loop = asyncio.get_running_loop()
        polls = await self._prepare()
        schedule, retry_at = Schedule([sampling.period_us for sampling in self._classes]), loop.time() + RETRY_S
        look_at = loop.time() + _LOOK_S
        while True:
            number = await schedule.next()
            if loop.time() >= look_at:
                await self._look(loop.time())
                look_at = loop.time() + _LOOK_S
            if self._unresolved and loop.time() >= retry_at:
                polls, retry_at = await self._prepare(), loop.time() + RETRY_S
            for request, positions in polls[number]:
                answer = await self._connection.request(request, positions=positions)
                result, changes = await decoded(partial(self._rows.read, positions), answer)
                if result & 0x8000_0000:
                    raise NotConnected(f"read failed: {ua.StatusCode(result).name}")
                self._liveness.polled(changes, loop.time())
                self._outbox.put(self._rows.batch(changes, self._clock.now_us()))
                self._note(positions, changes.status)
                await asyncio.sleep(0)

    async def _look(self, now: float) -> None:
        """Whether the namespaces still have their numbers, and whether tags that must change do."""
        facts = await read_facts(self._connection, self._facts.pinned)
        if self._facts.renumbered(facts):
            raise Renew(Step.NEW_SESSION, "the server has renumbered its namespaces")
        self._told.back(*self._liveness.back())
        verdict = self._liveness.breaches(now)
        self._told.silent(verdict.silent, self._liveness.contract.within_s[verdict.silent])
        renew_for(verdict, self._told)

    async def _prepare(self) -> list[list[_Poll]]:
        """The requests of each sampling class; a bad row, once, for a tag whose address leads nowhere."""
        polls: list[list[_Poll]] = []
        unresolved: dict[int, int] = {}
        for sampling in self._classes:
            found = await resolve(self._connection, self._facts, self._plan.addresses, sampling.positions)
            unresolved |= found.refused
            await load_types(self._connection, self._plan, found.nodes, self._facts.nodes_per_read, self._rows.types)
            polls.append([])
            for chunk in chunks(list(found.nodes), self._facts.nodes_per_read):
                request = PreparedRead([found.nodes[position] for position in chunk])
                polls[-1].append((request, np.array(chunk, np.uint32)))
        self._unresolved = unresolved
        new = self._refusals.update(self._unresolved | self._unread)
        if new:
            self._outbox.put(self._rows.bad(list(new), list(new.values()), self._clock.now_us()))
        return polls

    def _note(self, positions: npt.NDArray[np.uint32], status: npt.NDArray[np.uint32]) -> None:
        """Keep account of nodes that the server does not read; their bad rows are in the batch."""
        refused = np.flatnonzero(np.isin(status, _NODE_FAULTS))
        if len(refused) == 0 and not self._unread:
            return
        unread = {position: code for position, code in self._unread.items() if position not in positions}
        unread |= {int(positions[at]): int(status[at]) for at in refused}
        if unread != self._unread:
            self._unread = unread
            self._refusals.update(self._unresolved | unread)
