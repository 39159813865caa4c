"""Cyclic reads, for a server without subscriptions: one prepared request per sampling class, resent on schedule."""

from __future__ import annotations

import asyncio

import numpy as np
import numpy.typing as npt
from asyncua import ua

from adapters.polling import Schedule
from schemas.clock import Clock
from schemas.errors import NotConnected

from .connection import Connection
from .decode import decode_read
from .outbox import Outbox
from .plan import Plan, chunks
from .resolve import ServerFacts, resolve
from .rows import Rows
from .wire import MalformedMessage

_Poll = tuple[ua.ReadRequest, npt.NDArray[np.uint32]]  # the request, and the positions that it reads


class Reader:
    """Reads the nodes of `plan` class by class and puts a batch per request into `outbox`. `run` ends only by raising."""

    def __init__(
        self, connection: Connection, facts: ServerFacts, plan: Plan, rows: Rows, outbox: Outbox, *, clock: Clock
    ) -> None:
        self._connection, self._facts, self._plan, self._rows, self._outbox = connection, facts, plan, rows, outbox
        self._clock = clock

    async def run(self) -> None:
        """Raises NotConnected (the server refuses to read) and what `failures` translates."""
        polls = [await self._prepare(sampling.positions) for sampling in self._plan.classes]
        schedule = Schedule([sampling.period_us for sampling in self._plan.classes])
        while True:
            for request, positions in polls[await schedule.next()]:
                result, changes = decode_read(await self._connection.request(request))
                if result & 0x8000_0000:
                    raise NotConnected(f"read failed: {ua.StatusCode(result).name}")
                if len(changes) != len(positions):
                    raise MalformedMessage(f"{len(changes)} values for {len(positions)} nodes")
                changes.handle = positions
                self._outbox.put(self._rows.batch(changes, self._clock.now_us()))
                await asyncio.sleep(0)

    async def _prepare(self, positions: tuple[int, ...]) -> list[_Poll]:
        found = await resolve(self._connection, self._facts, self._plan.addresses, positions)
        if found.refused:
            self._outbox.put(self._rows.bad(list(found.refused), list(found.refused.values()), self._clock.now_us()))
        polls: list[_Poll] = []
        for chunk in chunks(list(found.nodes), self._facts.nodes_per_read):
            nodes = [ua.ReadValueId(NodeId=found.nodes[p], AttributeId=ua.AttributeIds.Value) for p in chunk]
            asked = ua.ReadParameters(TimestampsToReturn=ua.TimestampsToReturn.Both, NodesToRead=nodes)
            polls.append((ua.ReadRequest(Parameters=asked), np.array(chunk, np.uint32)))
        return polls
