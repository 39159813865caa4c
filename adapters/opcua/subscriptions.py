"""The subscriptions of one session: creates them, keeps publish requests under way, watches that answers come."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import structlog
from asyncua import ua

from schemas.clock import Clock
from schemas.errors import NotConnected
from schemas.kinds import make_batch

from .connection import Connection
from .decode import Publish, decode_publish
from .items import Items, Remarks
from .outbox import Outbox
from .plan import MAX_NOTIFICATIONS_PER_PUBLISH, Plan, SamplingClass
from .refusals import RETRY_S, Refusals
from .resolve import Resolved, ServerFacts, resolve
from .rows import Rows
from .structures import load_types

_UNSUPPORTED: Final = ("BadServiceUnsupported", "BadNotImplemented", "BadNotSupported")
_MAX_PUBLISHES: Final = 4
_LAST_SEQUENCE: Final = 0xFFFF_FFFF


class NoSubscriptions(Exception):
    """The server has no subscriptions; its nodes are read cyclically instead."""


@dataclass(slots=True)
class _Subscription:
    id: int
    sampling: SamplingClass
    silence_s: float  # a keep-alive or data comes at least this often
    answered_at: float
    sequence: int = 0  # of the last notification message


class Subscriber:
    """Runs the subscriptions of `plan` on one connection and puts batches into `outbox`. `run` ends only by raising."""

    def __init__(
        self,
        connection: Connection,
        facts: ServerFacts,
        plan: Plan,
        rows: Rows,
        outbox: Outbox,
        *,
        name: str,
        clock: Clock,
        log: structlog.stdlib.BoundLogger,
        timeout_s: float,
        remarks: Remarks | None = None,
    ) -> None:
        self._connection, self._facts, self._plan, self._rows, self._outbox = connection, facts, plan, rows, outbox
        self._name, self._clock, self._log, self._timeout_s = name, clock, log, timeout_s
        self._loop = asyncio.get_running_loop()
        self._subscriptions: dict[int, _Subscription] = {}
        self._acks: list[ua.SubscriptionAcknowledgement] = []
        self._refusals = Refusals(plan, name, log)
        self._items = Items(connection, plan, facts.items_per_call, remarks or Remarks(name, log))
        self._publishes = 0

    async def run(self) -> None:
        """Raises NoSubscriptions, NotConnected (a subscription fell silent or was closed), and what `failures` translates."""
        for sampling in self._plan.classes:
            await self._create(sampling)
        async with asyncio.TaskGroup() as group:
            # Spare requests wait at the server, so that answers don't take a round trip each.
            self._publishes = min(len(self._subscriptions) + 1, _MAX_PUBLISHES)
            for _ in range(self._publishes):
                group.create_task(self._publish())
            group.create_task(self._watch())
            group.create_task(self._monitor())

    async def _create(self, sampling: SamplingClass) -> None:
        asked = ua.CreateSubscriptionParameters(
            RequestedPublishingInterval=sampling.publishing_ms,
            RequestedLifetimeCount=sampling.lifetime_count,
            RequestedMaxKeepAliveCount=sampling.keep_alive_count,
            MaxNotificationsPerPublish=MAX_NOTIFICATIONS_PER_PUBLISH,
        )
        try:
            granted = await self._connection.session.create_subscription(asked, callback=_unused)
        except ua.UaStatusCodeError as error:
            if ua.StatusCode(error.code).name in _UNSUPPORTED:
                raise NoSubscriptions from error
            raise
        silence_s = granted.RevisedPublishingInterval * max(1, granted.RevisedMaxKeepAliveCount) / 1000
        self._subscriptions[granted.SubscriptionId] = _Subscription(
            granted.SubscriptionId, sampling, silence_s, self._loop.time()
        )

    async def _publish(self) -> None:
        while True:
            request = ua.PublishRequest()
            acks, self._acks = self._acks, []
            request.Parameters.SubscriptionAcknowledgements = acks
            try:
                answer = decode_publish(await self._connection.request(request, patient=True))
            except ua.UaStatusCodeError as error:
                status = ua.StatusCode(error.code).name
                self._acks = [*acks, *self._acks]
                if status == "BadTooManyPublishRequests" and self._publishes > 1:
                    self._publishes -= 1
                    return
                if status != "BadTimeout":  # the server gave up waiting for news: ask again
                    raise
            else:
                self._take(answer)

    def _take(self, answer: Publish) -> None:
        subscription = self._subscriptions.get(answer.subscription)
        if answer.result & 0x8000_0000:
            raise NotConnected(f"publish failed: {ua.StatusCode(answer.result).name}")
        if answer.closed is not None:
            raise NotConnected(f"the server closed a subscription: {ua.StatusCode(answer.closed).name}")
        if subscription is None:
            return
        subscription.answered_at = self._loop.time()
        self._check_sequence(subscription, answer)
        if answer.keep_alive:
            return
        self._acks.append(ua.SubscriptionAcknowledgement(SubscriptionId=subscription.id, SequenceNumber=answer.sequence))
        if answer.changes is not None:
            now = self._clock.now_us()
            self._outbox.put(self._rows.overflows(answer.changes, now, self._name))
            self._outbox.put(self._rows.batch(answer.changes, now))

    def _check_sequence(self, subscription: _Subscription, answer: Publish) -> None:
        """A number left out means messages that the server gave up; a keep-alive bears the number of the next message."""
        last = subscription.sequence
        expected = 1 if last == _LAST_SEQUENCE else last + 1
        if last and answer.sequence != expected:
            now = self._clock.now_us()
            self._log.warning("notification messages are missing", adapter=self._name, expected=expected, got=answer.sequence)
            self._outbox.put(make_batch("gap", 1, time=now, end=now, source=self._name, cause="overflow"))
        subscription.sequence = answer.sequence if not answer.keep_alive else (answer.sequence - 1 or last)

    async def _watch(self) -> None:
        """Two looks in a row, so that a pause of this process is not taken for one of the server."""
        suspects: set[int] = set()
        while True:
            await asyncio.sleep(0.25)
            now = self._loop.time()
            silent = {s.id for s in self._subscriptions.values() if now - s.answered_at > s.silence_s + self._timeout_s}
            if silent & suspects:
                raise NotConnected("a subscription has fallen silent")
            suspects = silent

    async def _monitor(self) -> None:
        """Creates the monitored items, then asks again now and then for those that were refused."""
        every = [position for sampling in self._plan.classes for position in sampling.positions]
        await self._add(await resolve(self._connection, self._facts, self._plan.addresses, every))
        while True:
            await asyncio.sleep(RETRY_S)
            again = self._refusals.positions
            if again:
                await self._add(await resolve(self._connection, self._facts, self._plan.addresses, again))

    async def _add(self, found: Resolved) -> None:
        refused = dict(found.refused)
        await load_types(self._connection, self._plan, found.nodes, self._facts.nodes_per_read, self._rows.types)
        for subscription in self._subscriptions.values():
            wanted = [position for position in subscription.sampling.positions if position in found.nodes]
            refused |= await self._items.add(subscription.id, subscription.sampling, wanted, found.nodes)
        self._items.tell()
        new = self._refusals.update(refused)
        if new:
            self._outbox.put(self._rows.bad(list(new), list(new.values()), self._clock.now_us()))


def _unused(_: ua.PublishResult) -> None:
    """asyncua wants a callback per subscription; publish answers are decoded in `Subscriber`."""
