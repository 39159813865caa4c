"""The subscriptions of one session: creates them, keeps publish requests under way, watches that answers come."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import structlog
from asyncua import ua

from schemas.clock import Clock
from schemas.errors import NotConnected
from schemas.kinds import make_batch

from .conditions import EVENTS, Conditions, Event, decode_events
from .connection import Connection
from .decode import Changes, Publish, decode_publish, decode_republish
from .history import Backfill
from .items import Items, Remarks
from .large import decoded
from .liveness import Liveness, Step
from .outbox import Outbox
from .plan import Plan, SamplingClass
from .recovery import Recovery, Renew, Told
from .refusals import RETRY_S, Refusals
from .resolve import NAMESPACES, Resolved, ServerFacts, read_facts, resolve
from .rows import Rows
from .structures import load_types

_UNSUPPORTED: Final = ("BadServiceUnsupported", "BadNotImplemented", "BadNotSupported")
_MAX_PUBLISHES: Final = 4
_LAST_SEQUENCE: Final = 0xFFFF_FFFF
_MAX_REPUBLISHED: Final = 100  # messages asked for again at one gap; servers keep fewer
_FIRST_MESSAGES: Final = 10
_NAMESPACES_HANDLE: Final = 0xFFFF_FFFE
_NAMESPACES_S: Final = 60.0
"""How often the namespaces are looked at, besides when the server says that they have changed."""


class NoSubscriptions(Exception):
    """The server has no subscriptions; its nodes are read cyclically instead."""


@dataclass(slots=True)
class _Subscription:
    id: int
    sampling: SamplingClass
    silence_s: float  # a keep-alive or data comes at least this often
    publishing_ms: float
    answered_at: float
    sequence: int = 0  # of the last notification message
    taken_us: int = 0  # when it came


@dataclass(frozen=True, slots=True)
class _Message:
    """A notification message, with the events of each of its notifications."""

    publish: Publish
    events: Sequence[Sequence[Event]]


class Subscriber:
    """Runs the subscriptions of `plan` on one connection and puts batches into `outbox`."""

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
        liveness: Liveness,
        backfill: Backfill | None = None,
        conditions: Conditions | None = None,
    ) -> None:
        self._connection, self._facts, self._plan, self._rows, self._outbox = connection, facts, plan, rows, outbox
        self._name, self._clock, self._log, self._timeout_s = name, clock, log, timeout_s
        self._loop = asyncio.get_running_loop()
        self._subscriptions: dict[int, _Subscription] = {}
        self._acks: list[ua.SubscriptionAcknowledgement] = []
        self._refusals = Refusals(plan, name, log)
        self._items = Items(connection, plan, facts.items_per_call, remarks or Remarks(name, log))
        self._publishes = 0
        self._order = asyncio.Lock()  # answers are taken in the order in which they came, also while messages are asked for again
        self._liveness, self._backfill, self._conditions = liveness, backfill, conditions
        told = Told(plan, rows, outbox, name=name, clock=clock, log=log)
        self._recovery = Recovery(connection, self, liveness, rows, told, facts.nodes_per_read)
        self._nodes: dict[int, ua.NodeId] = {}
        self._namespaces_changed = asyncio.Event()

    @property
    def nodes(self) -> Mapping[int, ua.NodeId]:
        """The node of each position that has one."""
        return self._nodes

    async def run(self) -> None:
        """Raises NoSubscriptions, NotConnected (a subscription fell silent or was closed), Renew, and what `failures` translates.

        Returns only where no tag is subscribed and the server has no subscription for events.
        """
        for sampling in self._plan.classes:
            await self._create(sampling)
        events = await self._create_events()
        if not self._subscriptions:
            return
        async with asyncio.TaskGroup() as group:
            # Spare requests wait at the server, so that answers don't take a round trip each.
            self._publishes = min(len(self._subscriptions) + 1, _MAX_PUBLISHES)
            for _ in range(self._publishes):
                group.create_task(self._publish())
            group.create_task(self._watch())
            await self._add(await self._resolve([p for sampling in self._plan.classes for p in sampling.positions]))
            if self._conditions is not None:
                await self._conditions.start(events)
                group.create_task(self._conditions.run())
            group.create_task(self._retry())
            group.create_task(self._namespaces())
            group.create_task(self._recovery.run())
            if self._backfill is not None:
                group.create_task(self._backfill.run(self._nodes))

    async def _create_events(self) -> int:
        """The subscription of events; a server that has none left goes on with its tags."""
        if self._conditions is None:
            return 0
        try:
            return await self._create(EVENTS)
        except (NoSubscriptions, ua.UaStatusCodeError) as error:
            refused = ua.StatusCode(error.code).name if isinstance(error, ua.UaStatusCodeError) else "BadServiceUnsupported"
            self._log.warning("events cannot be subscribed", adapter=self._name, error=refused)
            self._conditions = None
            return 0

    async def _create(self, sampling: SamplingClass) -> int:
        asked = ua.CreateSubscriptionParameters(
            RequestedPublishingInterval=sampling.publishing_ms,
            RequestedLifetimeCount=sampling.lifetime_count,
            RequestedMaxKeepAliveCount=sampling.keep_alive_count,
            MaxNotificationsPerPublish=sampling.notifications_per_publish,
        )
        try:
            granted = await self._connection.session.create_subscription(asked, callback=_unused)
        except ua.UaStatusCodeError as error:
            if ua.StatusCode(error.code).name in _UNSUPPORTED:
                raise NoSubscriptions from error
            raise
        silence_s = granted.RevisedPublishingInterval * max(1, granted.RevisedMaxKeepAliveCount) / 1000
        self._subscriptions[granted.SubscriptionId] = _Subscription(
            granted.SubscriptionId, sampling, silence_s, granted.RevisedPublishingInterval, self._loop.time()
        )
        return int(granted.SubscriptionId)

    async def _publish(self) -> None:
        while True:
            request = ua.PublishRequest()
            acks, self._acks = self._acks, []
            request.Parameters.SubscriptionAcknowledgements = acks
            try:
                answer = await self._connection.request(request, patient=True)
            except ua.UaStatusCodeError as error:
                status = ua.StatusCode(error.code).name
                self._acks = [*acks, *self._acks]
                if status == "BadTooManyPublishRequests" and self._publishes > 1:
                    self._publishes -= 1
                    return
                if status != "BadTimeout":  # the server gave up waiting for news: ask again
                    raise
            else:
                async with self._order:
                    await self._take(await decoded(self._decode, answer))

    def _decode(self, answer: bytes, republished: int | None = None) -> _Message:
        """All that takes long with a large answer; a publish response, or the message of a subscription that is sent again."""
        publish = decode_publish(answer) if republished is None else decode_republish(answer, republished)
        if publish.changes is not None:
            self._rows.prepare(publish.changes)
        return _Message(publish, [decode_events(body) for body in publish.events])

    async def _take(self, message: _Message) -> None:
        answer = message.publish
        if answer.result & 0x8000_0000:
            raise NotConnected(f"publish failed: {ua.StatusCode(answer.result).name}")
        if answer.closed is not None:
            raise NotConnected(f"the server closed a subscription: {ua.StatusCode(answer.closed).name}")
        subscription = self._subscriptions.get(answer.subscription)
        if subscription is None:
            return
        subscription.answered_at = self._loop.time()
        await self._fill(subscription, answer)
        if not answer.keep_alive:
            self._deliver(subscription, message)

    def _deliver(self, subscription: _Subscription, message: _Message) -> None:
        answer = message.publish
        self._acks.append(ua.SubscriptionAcknowledgement(SubscriptionId=subscription.id, SequenceNumber=answer.sequence))
        if self._conditions is not None:
            for events in message.events:
                self._conditions.take(events)
        changes = answer.changes
        if changes is None:
            return
        if int(changes.handle.max()) >= self._rows.size:
            if (changes.handle == _NAMESPACES_HANDLE).any():
                self._namespaces_changed.set()
            changes = changes.only(np.flatnonzero(changes.handle < self._rows.size))
        if len(changes):
            self._values(changes)

    def _values(self, changes: Changes) -> None:
        self._liveness.note(changes, self._loop.time())
        self.emit(changes)

    def emit(self, changes: Changes) -> None:
        """Rows and gaps of `changes`. The first of a tag in this session ends the window of its history."""
        now = self._clock.now_us()
        if self._backfill is not None:
            self._backfill.note(changes, now)
        self._outbox.put(self._rows.overflows(changes, now, self._name))
        self._outbox.put(self._rows.batch(changes, now))

    async def _fill(self, subscription: _Subscription, answer: Publish) -> None:
        """A number left out is a message that was lost: the server is asked for it, and what it no longer has is a gap.

        A keep-alive bears the number of the next message.
        """
        last, since_us, now = subscription.sequence, subscription.taken_us, self._clock.now_us()
        subscription.sequence = answer.sequence if not answer.keep_alive else (answer.sequence - 1 or last)
        subscription.taken_us = now
        expected = 1 if last == _LAST_SEQUENCE else last + 1
        if answer.sequence == expected or (not last and answer.sequence > _FIRST_MESSAGES):
            return  # some servers do not begin with 1
        missing = (answer.sequence - expected) % _LAST_SEQUENCE  # the numbers 1 … 2^32-1 go round
        again = 0
        for back in range(min(missing, _MAX_REPUBLISHED) if missing < _LAST_SEQUENCE // 2 else 0, 0, -1):
            number = (answer.sequence - back - 1) % _LAST_SEQUENCE + 1
            if await self._republish(subscription, number):
                again += 1
        gone = missing - again
        if not last:  # a server may have answered publish requests of the session before
            return
        self._log.warning(
            "notification messages were missing", adapter=self._name, expected=expected, got=answer.sequence, sent_again=again
        )
        if gone:
            self._outbox.put(make_batch("gap", 1, time=min(since_us, now), end=now, source=self._name, cause="overflow"))

    async def _republish(self, subscription: _Subscription, number: int) -> bool:
        request = ua.RepublishRequest()
        request.Parameters.SubscriptionId = subscription.id
        request.Parameters.RetransmitSequenceNumber = number
        try:
            answer = await self._connection.request(request)
            message = await decoded(partial(self._decode, republished=subscription.id), answer)
        except ua.UaStatusCodeError:  # BadMessageNotAvailable, or a server that never has any
            return False
        if message.publish.result & 0x8000_0000 or message.publish.sequence != number:
            return False
        self._deliver(subscription, message)
        return True

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

    async def _retry(self) -> None:
        """Asks again now and then for the tags that were refused."""
        while True:
            await asyncio.sleep(RETRY_S)
            again = self._refusals.positions
            if again:
                await self._add(await self._resolve(again))

    async def _resolve(self, positions: Sequence[int]) -> Resolved:
        return await resolve(self._connection, self._facts, self._plan.addresses, positions)

    async def recreate(self, positions: Sequence[int]) -> None:
        """Delete the items of these positions and make new ones, for the nodes that their addresses lead to now."""
        await self._items.remove(positions)
        await self._add(await self._resolve(positions))

    async def _add(self, found: Resolved) -> None:
        refused = dict(found.refused)
        await load_types(self._connection, self._plan, found.nodes, self._facts.nodes_per_read, self._rows.types)
        for subscription in self._subscriptions.values():
            wanted = [position for position in subscription.sampling.positions if position in found.nodes]
            self._liveness.expect(wanted, self._loop.time())
            refused |= await self._items.add(subscription.id, subscription.sampling, wanted, found.nodes)
            made = [position for position in wanted if position not in refused]
            slowest = [max(self._items.sampled_ms(position), subscription.publishing_ms) / 1000 for position in made]
            self._liveness.sampled(made, slowest)
        self._items.tell()
        self._nodes |= found.nodes
        if self._conditions is not None:
            self._conditions.positions |= {(node.NamespaceIndex, node.Identifier): at for at, node in found.nodes.items()}
        for position in refused:
            self._nodes.pop(position, None)
        self._liveness.refused(list(refused))
        new = self._refusals.update(refused, asked=found.nodes.keys() | found.refused.keys())
        if new:
            self._outbox.put(self._rows.bad(list(new), list(new.values()), self._clock.now_us()))

    async def _namespaces(self) -> None:
        """Renews the session when a namespace has got another number: what was resolved before may be another tag's now."""
        subscription = next(iter(self._subscriptions.values()))
        item = ua.MonitoredItemCreateRequest(
            ItemToMonitor=ua.ReadValueId(NodeId=NAMESPACES, AttributeId=ua.AttributeIds.Value),
            MonitoringMode=ua.MonitoringMode.Reporting,
            RequestedParameters=ua.MonitoringParameters(ClientHandle=_NAMESPACES_HANDLE, SamplingInterval=1000, QueueSize=1),
        )
        asked = ua.CreateMonitoredItemsParameters(
            SubscriptionId=subscription.id, TimestampsToReturn=ua.TimestampsToReturn.Neither, ItemsToCreate=[item]
        )
        with suppress(ua.UaStatusCodeError):  # then once a minute must do
            await self._connection.session.create_monitored_items(asked)
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_NAMESPACES_S):
                    await self._namespaces_changed.wait()
            self._namespaces_changed.clear()
            facts = await read_facts(self._connection, self._facts.pinned)
            if self._facts.renumbered(facts):
                raise Renew(Step.NEW_SESSION, "the server has renumbered its namespaces")
            if facts.namespaces:
                self._facts = facts


def _unused(_: ua.PublishResult) -> None:
    """asyncua wants a callback per subscription; publish answers are decoded in `Subscriber`."""
