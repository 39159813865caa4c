"""Events, alarms and conditions of a server as event rows (OPC 10000-9).

One more subscription watches the notifiers. After it is made, and when the server asks for it, ConditionRefresh brings the conditions
that are of interest now: what came before does not become a row again. ConditionRefresh is the only method that is ever called; it
changes nothing but what this subscription is sent.
"""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa
import structlog
from asyncua import ua

from schemas.clock import Clock
from schemas.kinds import make_batch

from . import wire
from .address import parse
from .connection import Connection
from .outbox import Outbox
from .plan import SamplingClass
from .resolve import ServerFacts, resolve
from .rows import EPOCH_DIFFERENCE
from .wire import Budget, MalformedMessage, NodeKey

EVENTS: Final = SamplingClass(500_000, (), notifications_per_publish=1_000)
"""The subscription of events: published twice a second."""
_MAX_EVENTS: Final = 10_000  # of one notification; ten times what is asked for
_MAX_FIELDS: Final = 100  # of one event; we ask for 13
_SEEN: Final = 20_000
_MAX_TEXT: Final = 2_000
_REFRESH_S: Final = 10.0  # the least time between two refreshes
_QUEUE: Final = 1_000  # events that the server keeps between two answers

_BASE, _CONDITION, _ACKNOWLEDGEABLE, _ALARM = (
    ua.ObjectIds.BaseEventType,
    ua.ObjectIds.ConditionType,
    ua.ObjectIds.AcknowledgeableConditionType,
    ua.ObjectIds.AlarmConditionType,
)
_FIELDS: Final = (
    (_BASE, ("EventId",)),
    (_BASE, ("EventType",)),
    (_BASE, ("SourceNode",)),
    (_BASE, ("SourceName",)),
    (_BASE, ("Time",)),
    (_BASE, ("Message",)),
    (_BASE, ("Severity",)),
    (_CONDITION, ()),  # the NodeId of the condition
    (_CONDITION, ("ConditionName",)),
    (_CONDITION, ("BranchId",)),
    (_CONDITION, ("Retain",)),
    (_ACKNOWLEDGEABLE, ("AckedState", "Id")),
    (_ALARM, ("ActiveState", "Id")),
)
_REFRESH_START, _REFRESH_END, _REFRESH_REQUIRED, _OVERFLOW = (
    (0, int(kind))
    for kind in (
        ua.ObjectIds.RefreshStartEventType,
        ua.ObjectIds.RefreshEndEventType,
        ua.ObjectIds.RefreshRequiredEventType,
        ua.ObjectIds.EventQueueOverflowEventType,
    )
)
_NUMBERS: Final = {1: "<?", 2: "<b", 3: "<B", 4: "<h", 5: "<H", 6: "<i", 7: "<I", 8: "<q", 9: "<Q", 10: "<f", 11: "<d", 13: "<q"}
_BYTES, _NODES = 15, (17, 18)
_TEXTS: Final = (12, 14, 16, 20, 21)

Field = bool | int | float | str | bytes | NodeKey | None


@dataclass(slots=True)
class Event:
    """One notification. What the type of the event does not have is None, a text is then empty."""

    id: bytes
    type: NodeKey | None
    source: NodeKey | None
    source_name: str
    time_us: int  # 0: the server gives none
    message: str
    severity: int
    condition: NodeKey | None
    condition_name: str
    branch: NodeKey | None
    retain: bool | None
    acknowledged: bool | None
    active: bool | None


@dataclass(slots=True)
class Seen:
    """Which notifications there are rows of, over the sessions of one adapter; the newest 20,000."""

    known: OrderedDict[tuple[object, ...], None] = field(default_factory=OrderedDict)

    def new(self, key: tuple[object, ...]) -> bool:
        """True the first time."""
        if key in self.known:
            self.known.move_to_end(key)
            return False
        self.known[key] = None
        while len(self.known) > _SEEN:
            self.known.popitem(last=False)
        return True


class Conditions:
    """The events of one session. `start` once the subscription is there, `take` for each notification, `run` refreshes."""

    def __init__(
        self,
        connection: Connection,
        facts: ServerFacts,
        outbox: Outbox,
        seen: Seen,
        *,
        notifiers: Sequence[str],
        types: Sequence[str],
        min_severity: int,
        about: Callable[[int], tuple[int | None, str]],
        asset: str | None,
        name: str,
        clock: Clock,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        """`about` gives id and asset of the tag at a position, no id where its node is several tags; `asset` is for other nodes' events."""
        self._connection, self._facts, self._outbox, self._seen = connection, facts, outbox, seen
        self._notifiers, self._types, self._min_severity = notifiers, types, min_severity
        self._about, self._asset, self._name, self._clock, self._log = about, asset, name, clock, log
        self._subscription = 0
        self.positions: dict[NodeKey, int] = {}
        """Of the nodes that are tags."""
        self._refreshing = False
        self._wanted = asyncio.Event()
        self._last_us = clock.now_us()

    async def start(self, subscription: int) -> None:
        """Watch the notifiers; says which of them the server refuses. Raises what `failures` translates."""
        self._subscription = subscription
        addresses = [parse(text) for text in (*self._notifiers, *self._types)]
        found = await resolve(self._connection, self._facts, addresses, range(len(addresses)))
        refused = dict(found.refused)
        count = len(self._notifiers)
        wanted = [position for position in range(count) if position in found.nodes]
        types = [found.nodes[position] for position in range(count, len(addresses)) if position in found.nodes]
        if wanted and bool(types) == bool(self._types):
            refused |= await self._watch(wanted, [self._item(position, found.nodes[position], types) for position in wanted])
        if refused:
            named = [f"{addresses[position]}: {ua.StatusCode(status).name}" for position, status in refused.items()]
            self._log.warning("events cannot be subscribed", adapter=self._name, nodes=named)
        if len(refused) < len(addresses):
            self._wanted.set()

    async def _watch(self, positions: Sequence[int], asked: Sequence[ua.MonitoredItemCreateRequest]) -> dict[int, int]:
        """Status codes of those that the server refuses."""
        parameters = ua.CreateMonitoredItemsParameters(
            SubscriptionId=self._subscription, TimestampsToReturn=ua.TimestampsToReturn.Neither, ItemsToCreate=list(asked)
        )
        try:
            answers = await self._connection.session.create_monitored_items(parameters)
        except ua.UaStatusCodeError as error:  # all of them; the tags go on
            return dict.fromkeys(positions, error.code)
        if len(answers) != len(positions):
            raise MalformedMessage(f"{len(answers)} answers to {len(positions)} notifiers")
        told = zip(positions, answers, strict=True)
        return {position: int(answer.StatusCode.value) for position, answer in told if not answer.StatusCode.is_good()}

    async def run(self) -> None:
        """Refreshes once, then whenever the server asks for it. Raises only for a lost connection."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            request = ua.CallMethodRequest(
                ObjectId=ua.NodeId(ua.ObjectIds.ConditionType),
                MethodId=ua.NodeId(ua.ObjectIds.ConditionType_ConditionRefresh),
                InputArguments=[ua.Variant(self._subscription, ua.VariantType.UInt32)],
            )
            try:
                (answer,) = await self._connection.session.call([request])
                status = answer.StatusCode
            except ua.UaStatusCodeError as error:
                status = ua.StatusCode(error.code)
            if not status.is_good():  # most servers have no conditions: their events come all the same
                self._log.debug("conditions are not refreshed", adapter=self._name, error=status.name)
            await asyncio.sleep(_REFRESH_S)

    def take(self, events: Sequence[Event]) -> None:
        """The rows of an event notification."""
        now = self._clock.now_us()
        rows: list[dict[str, object]] = []
        for event in events:
            if event.type == _REFRESH_START or event.type == _REFRESH_END:
                self._refreshing = event.type == _REFRESH_START
            elif event.type == _REFRESH_REQUIRED:
                self._wanted.set()
            elif event.type == _OVERFLOW:
                self._log.warning("events were lost: the server's queue was full", adapter=self._name)
                start = min(self._last_us, now)
                self._outbox.put(make_batch("gap", 1, time=start, end=now, source=self._name, cause="overflow"))
            elif self._is_new(event) and (event.active is False or max(1, event.severity) >= self._min_severity):
                rows.append(self._row(event, now))
        self._last_us = now
        self._outbox.put(_batch(rows))

    def _is_new(self, event: Event) -> bool:
        """False for what there is a row of: it came by another notifier too, or is told again by a refresh."""
        state = (
            event.condition or event.source,
            event.condition_name,
            event.branch,
            event.time_us,
            event.active,
            event.acknowledged,
        )
        fresh = self._seen.new((*state, event.id))
        told_before = not self._seen.new((*state, event.message)) and self._refreshing  # some number their events anew
        return fresh and not told_before

    def _row(self, event: Event, now_us: int) -> dict[str, object]:
        position = self.positions.get(event.source) if event.source is not None else None
        tag, asset = self._about(position) if position is not None else (None, self._asset)
        known: dict[str, object] = {
            "type": _spelled(event.type),
            "source_node": _spelled(event.source),
            "source_name": event.source_name,
            "severity": event.severity,
            "event_id": base64.b64encode(event.id).decode(),
            "condition": event.condition_name,
            "condition_id": _spelled(event.condition),
            "branch_id": _spelled(event.branch),
            "active": event.active,
            "acknowledged": event.acknowledged,
            "retain": event.retain,
            "refreshed": self._refreshing or None,
        }
        return {
            "time": event.time_us or now_us,
            "tag": tag,
            "asset": asset,
            "source": self._name,
            "event": "device_event" if event.condition is None and not event.condition_name
            else "device_condition" if event.active is None else "device_alarm",
            "severity": "info" if event.active is False else severity(event.severity),
            "message": event.message or event.condition_name or event.source_name,
            "attributes": json.dumps({name: value for name, value in known.items() if value not in (None, "")}, ensure_ascii=False),
        }  # fmt: skip

    def _item(self, position: int, node: ua.NodeId, types: Sequence[ua.NodeId]) -> ua.MonitoredItemCreateRequest:
        return ua.MonitoredItemCreateRequest(
            ItemToMonitor=ua.ReadValueId(NodeId=node, AttributeId=ua.AttributeIds.EventNotifier),
            MonitoringMode=ua.MonitoringMode.Reporting,
            RequestedParameters=ua.MonitoringParameters(
                ClientHandle=position, SamplingInterval=0, QueueSize=_QUEUE, DiscardOldest=True, Filter=event_filter(types)
            ),
        )


def severity(value: int) -> str:
    """Ours, for the 1 … 1000 of OPC UA: low and medium-low is information, medium a warning, high critical (OPC 10000-9, 5.5.2)."""
    return "info" if value <= 333 else "warning" if value <= 666 else "critical"


def event_filter(types: Sequence[ua.NodeId]) -> ua.EventFilter:
    """Our fields of every event, or of those that are of one of `types` or a subtype."""
    clauses = [
        ua.SimpleAttributeOperand(
            TypeDefinitionId=ua.NodeId(kind),
            BrowsePath=[ua.QualifiedName(name) for name in path],
            AttributeId=ua.AttributeIds.Value if path else ua.AttributeIds.NodeId,
        )
        for kind, path in _FIELDS
    ]
    elements = [
        ua.ContentFilterElement(
            FilterOperator=ua.FilterOperator.OfType, FilterOperands=[ua.LiteralOperand(ua.Variant(node, ua.VariantType.NodeId))]
        )
        for node in types
    ]
    # An operand of Or is an element behind it: or(type 0, or(type 1, type 2)).
    count = len(elements)
    joins = [
        ua.ContentFilterElement(
            FilterOperator=ua.FilterOperator.Or,
            FilterOperands=[
                ua.ElementOperand(count - 1 + k),
                ua.ElementOperand(k + 1 if k + 2 < count else 2 * count - 2),
            ],
        )
        for k in range(count - 1)
    ]
    return ua.EventFilter(SelectClauses=clauses, WhereClause=ua.ContentFilter(Elements=joins + elements))


def decode_events(body: bytes) -> list[Event]:
    """The events of an EventNotificationList. Raises MalformedMessage; nothing is kept that is not in the message."""
    events: list[Event] = []
    budget = Budget()
    at = 4
    for _ in range(wire.at_most(wire.count(body, 0, 8), _MAX_EVENTS, "events")):
        fields = wire.at_most(wire.count(body, at + 4, 1), _MAX_FIELDS, "fields of an event")
        at += 8
        budget.take(fields)
        found: list[Field] = []
        for _ in range(fields):
            end = wire.variant_end(body, at, budget=budget)
            if len(found) < len(_FIELDS):
                found.append(_field(body, at))
            at = end
        events.append(_event(found + [None] * (len(_FIELDS) - len(found))))
    return events


def _event(fields: Sequence[Field]) -> Event:
    identity, kind, source, source_name, time, message, how_severe, condition, name, branch, retain, acknowledged, active = fields
    filetime = time if isinstance(time, int) else 0
    return Event(
        id=identity if isinstance(identity, bytes) else b"",
        type=_key(kind),
        source=_key(source),
        source_name=_text(source_name),
        time_us=(filetime - EPOCH_DIFFERENCE + 5) // 10 if filetime > EPOCH_DIFFERENCE else 0,
        message=_text(message),
        severity=how_severe if isinstance(how_severe, int) else 1,
        condition=_key(condition),
        condition_name=_text(name),
        branch=_key(branch),
        retain=retain if isinstance(retain, bool) else None,
        acknowledged=acknowledged if isinstance(acknowledged, bool) else None,
        active=active if isinstance(active, bool) else None,
    )


def _field(data: bytes, at: int) -> Field:
    """The scalar in the Variant at `at`, which has been walked over; None for anything else."""
    kind = data[at]
    at += 1
    if kind in _NUMBERS:
        value: Field = struct.unpack_from(_NUMBERS[kind], data, at)[0]
        return value
    if kind in _TEXTS:
        return wire.scalar_text(data, at, kind)[0]
    if kind == _BYTES:
        return data[at + 4 : wire.bytes_end(data, at)]
    return wire.node_key(data, at)[0] if kind in _NODES else None


def _key(value: Field) -> NodeKey | None:
    """A NodeId that is not null."""
    return value if isinstance(value, tuple) and value != (0, 0) else None


def _text(value: Field) -> str:
    return value[:_MAX_TEXT] if isinstance(value, str) else ""


def _spelled(key: NodeKey | None) -> str:
    """`OffNormalAlarmType` for what the standard names, else the NodeId."""
    if key is None:
        return ""
    space, identifier = key
    if space == 0 and isinstance(identifier, int):
        return str(ua.ObjectIdNames.get(identifier, f"i={identifier}"))
    kind = (
        "i"
        if isinstance(identifier, int)
        else "s"
        if isinstance(identifier, str)
        else "b"
        if isinstance(identifier, bytes)
        else "g"
    )
    text = base64.b64encode(identifier).decode() if isinstance(identifier, bytes) else str(identifier)
    return f"ns={space};{kind}={text}"[:_MAX_TEXT]


def _batch(rows: Sequence[Mapping[str, object]]) -> pa.RecordBatch | None:
    if not rows:
        return None
    return make_batch("event", len(rows), **{name: [row[name] for row in rows] for name in rows[0]})
