"""Looks after quiet tags in a session: reads them now and then, and brings back those whose subscription has died.

The steps are those of `liveness.Step`: what was read is kept, the item is made anew, then the session, then the connection; what
is still not delivered is read instead. Each step is logged once for all tags that take it together.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import structlog
from asyncua import ua

from schemas import quality as q
from schemas.clock import Clock
from schemas.kinds import make_batch

from .connection import Connection
from .decode import Changes
from .large import decoded
from .liveness import Handles, Liveness, Step, Verdict
from .outbox import Outbox
from .plan import MAX_ITEMS_PER_CALL, Plan
from .refusals import names
from .rows import Rows

_MAX_AGE_MS: Final = 60_000.0
"""The server may answer from what it has sampled in the last minute: looking after 10,000 tags must not make it ask its devices."""
_READ_S: Final = 30.0
_LOST: Final = ("BadSession", "BadSecureChannel", "BadConnection", "BadServer", "BadShutdown", "BadTcp")
_SENTENCES: Final = {
    Step.RESUBSCRIBED: "quiet tags are subscribed anew",
    Step.NEW_SESSION: "a new session for quiet tags",
    Step.NEW_CLIENT: "a new connection for quiet tags",
    Step.POLLED: "quiet tags are read instead of subscribed",
}


class Renew(Exception):
    """Ends a session on purpose; the adapter goes on with a new one, or with a new connection, without an outage to tell of."""

    def __init__(self, step: Step, reason: str) -> None:
        super().__init__(reason)
        self.step, self.reason = step, reason


class Monitored(Protocol):
    """The monitored items of a session."""

    @property
    def nodes(self) -> Mapping[int, ua.NodeId]:
        """The node of each position that has one."""
        ...

    def emit(self, changes: Changes) -> None:
        """Make rows of values, as of those that are delivered."""
        ...

    async def recreate(self, positions: Sequence[int]) -> None:
        """Delete the items of these positions and make new ones."""
        ...


class Told:
    """Rows, events and log lines about quiet tags."""

    def __init__(
        self, plan: Plan, rows: Rows, outbox: Outbox, *, name: str, clock: Clock, log: structlog.stdlib.BoundLogger
    ) -> None:
        self._plan, self._rows, self._outbox, self._name, self._clock, self._log = plan, rows, outbox, name, clock, log

    def silent(self, positions: Handles, within_s: npt.NDArray[np.float64]) -> None:
        """No update within the time that was promised: a bad row and an event for each tag, once."""
        if not len(positions):
            return
        now = self._clock.now_us()
        self._outbox.put(self._rows.bad(positions.tolist(), [q.BAD_NO_COMMUNICATION] * len(positions), now))
        details = [json.dumps({"expect_update_within_s": float(s)}) for s in within_s]
        self._events(positions, "tag_silent", "warning", "has had no update for longer than expected", details)
        self._log.warning("tags are silent", adapter=self._name, count=len(positions), tags=names(self._plan, positions))

    def lost(self, positions: Handles) -> None:
        """The server kept updates to itself: a gap row for each tag, since its last row."""
        if not len(positions):
            return
        now = self._clock.now_us()
        where = np.array([tag for _, tag in self._plan.tags_of(positions.tolist())], np.intp)
        since = self._rows.last_us[where]
        start = np.where(since > 0, np.minimum(since, now), now)
        ids = self._rows.ids[where]
        self._outbox.put(make_batch("gap", len(ids), time=start, end=now, tag=ids, source=self._name, cause="lost"))

    def step(self, step: Step, positions: Handles) -> None:
        """Recovery goes a step further."""
        tags = names(self._plan, positions)
        self._log.warning(_SENTENCES[step], adapter=self._name, count=len(positions), tags=tags)
        message = f"{_SENTENCES[step]}: {', '.join(tags)}"
        now = self._clock.now_us()
        self._outbox.put(
            make_batch(
                "event", 1, time=now, source=self._name, event="tags_recovering", severity="warning", message=message,
                attributes=json.dumps({"step": step.name.lower(), "tags": len(positions)}),
            )
        )  # fmt: skip

    def unreadable(self, error: str) -> None:
        """The server does not answer reads, not even of one tag."""
        self._log.warning("quiet tags cannot be verified: the server does not read them", adapter=self._name, error=error)

    def back(self, positions: Handles, silent: Handles) -> None:
        """Updates come again."""
        if not len(positions):
            return
        self._events(silent, "tag_updates_again", "info", "is updated again", [None] * len(silent))
        self._log.info("tags are delivered again", adapter=self._name, count=len(positions), tags=names(self._plan, positions))

    def _events(self, positions: Handles, event: str, severity: str, what: str, attributes: Sequence[str | None]) -> None:
        if len(positions):
            paths = [self._plan.paths[position] for position in positions]
            self._outbox.put(
                make_batch(
                    "event", len(paths), time=self._clock.now_us(), tag=self._rows.ids[positions], source=self._name, event=event,
                    severity=severity, message=[f"{path} {what}" for path in paths], attributes=list(attributes),
                )
            )  # fmt: skip


class Recovery:
    """Runs beside the subscriptions of one session. `run` ends only by raising: Renew, or what a failed read raises."""

    def __init__(
        self,
        connection: Connection,
        items: Monitored,
        liveness: Liveness,
        rows: Rows,
        told: Told,
        nodes_per_read: int,
    ) -> None:
        """`nodes_per_read` is the server's limit, 0 for none."""
        self._connection, self._items, self._liveness, self._rows, self._told = connection, items, liveness, rows, told
        self._limit = min(nodes_per_read or MAX_ITEMS_PER_CALL, MAX_ITEMS_PER_CALL)

    async def run(self) -> None:
        """One look a tick, one read at most in each."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._liveness.pace.tick_s)
            self._told.back(*self._liveness.back())
            due = self._liveness.due(loop.time(), min(self._liveness.quota(), self._limit))
            due = due[[int(position) in self._items.nodes for position in due]] if len(due) else due
            if len(due) and (verdict := await self._look(due)) is not None:
                await self._act(verdict)

    async def _look(self, due: Handles) -> Verdict | None:
        now = asyncio.get_running_loop().time
        try:
            read = await self._read(due)
        except (ua.UaStatusCodeError, TimeoutError) as error:
            # Too much for this server at once; whether the connection lives is for others to say.
            if isinstance(error, ua.UaStatusCodeError) and ua.StatusCode(error.code).name.startswith(_LOST):
                raise
            self._limit //= 2
            self._liveness.skip(due, now())
            if not self._limit:
                self._told.unreadable(str(error) or "no answer")
            return None
        verdict = self._liveness.judge(read, now())
        if len(verdict.lost):
            self._told.lost(verdict.lost)
            self._items.emit(read.only(np.flatnonzero(np.isin(due, verdict.lost))))
        self._told.silent(verdict.silent, self._liveness.contract.within_s[verdict.silent])
        return verdict

    async def _read(self, due: Handles) -> Changes:
        nodes = self._items.nodes
        asked = [ua.ReadValueId(NodeId=nodes[int(position)], AttributeId=ua.AttributeIds.Value) for position in due]
        parameters = ua.ReadParameters(MaxAge=_MAX_AGE_MS, TimestampsToReturn=ua.TimestampsToReturn.Both, NodesToRead=asked)
        async with asyncio.timeout(_READ_S):
            answer = await self._connection.request(ua.ReadRequest(Parameters=parameters), patient=True)
        result, read = await decoded(partial(self._rows.read, due.astype(np.uint32)), answer)
        if result & 0x8000_0000:
            raise ua.UaStatusCodeError(result)
        return read

    async def _act(self, verdict: Verdict) -> None:
        renew_for(verdict, self._told)
        if Step.RESUBSCRIBED in verdict.steps:
            await self._items.recreate(verdict.steps[Step.RESUBSCRIBED].tolist())


def renew_for(verdict: Verdict, told: Told) -> None:
    """Tell the steps of a verdict; raises Renew where one of them needs it, which makes every item anew."""
    for step, positions in sorted(verdict.steps.items()):
        told.step(step, positions)
    for step in (Step.NEW_CLIENT, Step.NEW_SESSION):
        if step in verdict.steps:
            raise Renew(step, _SENTENCES[step])
