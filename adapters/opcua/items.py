"""Makes the monitored items of a session: in calls that the server allows, with filters it takes, each answer looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from asyncua import ua

from .connection import Connection
from .plan import Plan, SamplingClass, chunks
from .sampling import Sampling
from .wire import MalformedMessage

_REFUSED_FILTERS: Final = frozenset(
    {
        ua.StatusCodes.BadMonitoredItemFilterInvalid,
        ua.StatusCodes.BadMonitoredItemFilterUnsupported,
        ua.StatusCodes.BadFilterNotAllowed,
        ua.StatusCodes.BadDeadbandFilterInvalid,
    }
)
_TRIGGERS: Final = {
    "status": ua.DataChangeTrigger.Status,
    "value": ua.DataChangeTrigger.StatusValue,
    "timestamp": ua.DataChangeTrigger.StatusValueTimestamp,
}
_NO_FILTER: Final = Sampling()
_AT_MOST: Final = 5  # names in one log line


class Remarks:
    """What a server does otherwise than it was asked to, each said once and again only when it changes; outlives a session."""

    def __init__(self, name: str, log: structlog.stdlib.BoundLogger) -> None:
        self._name, self._log = name, log
        self._said: dict[str, Mapping[str, object]] = {}

    def say(self, sentence: str, **facts: object) -> None:
        """Log `sentence` with `facts`, unless these were its last facts."""
        if self._said.get(sentence) != facts:
            self._said[sentence] = facts
            self._log.warning(sentence, adapter=self._name, **facts)


@dataclass(slots=True)
class _Revised:
    """How many items were given another value than asked for, and the value that differs most."""

    count: int = 0
    asked: float = 0.0
    got: float = 0.0

    def note(self, asked: float, got: float) -> None:
        if not self.count or abs(got - asked) > abs(self.got - self.asked):
            self.asked, self.got = asked, got
        self.count += 1


class Items:
    """The monitored items of one session. What a server refuses to filter is monitored without a filter, and said once."""

    def __init__(self, connection: Connection, plan: Plan, items_per_call: int, remarks: Remarks) -> None:
        self._connection, self._plan, self._items_per_call, self._remarks = connection, plan, items_per_call, remarks
        self._sampling = dict(enumerate(plan.sampling))
        self._unfiltered: dict[int, int] = {}  # status code by position
        self._slower, self._shorter = _Revised(), _Revised()

    async def add(
        self, subscription: int, sampling: SamplingClass, positions: Sequence[int], nodes: Mapping[int, ua.NodeId]
    ) -> dict[int, int]:
        """Monitor `positions` in a subscription; returns the status codes of those that the server refuses.

        An item whose filter is refused is asked for again without the deadband, then without any filter.
        """
        refused: dict[int, int] = {}
        wanted = list(positions)
        while wanted:
            again: list[int] = []
            for chunk in chunks(wanted, self._items_per_call):
                results = await self._connection.session.create_monitored_items(self._asked(subscription, sampling, chunk, nodes))
                if len(results) != len(chunk):
                    raise MalformedMessage(f"{len(results)} answers to {len(chunk)} monitored items")
                for position, result in zip(chunk, results, strict=True):
                    status = int(result.StatusCode.value)
                    if result.StatusCode.is_good():
                        self._note(position, sampling, result)
                    elif status in _REFUSED_FILTERS and self._weaken(position):
                        self._unfiltered.setdefault(position, status)
                        again.append(position)
                    else:
                        refused[position] = status
            wanted = again
        return refused

    def tell(self) -> None:
        """Say, in one sentence for all items, what the server does otherwise than asked."""
        if self._unfiltered:
            tags = [f"{self._plan.paths[p]}: {ua.StatusCode(s).name}" for p, s in list(self._unfiltered.items())[:_AT_MOST]]
            count = len(self._unfiltered)
            self._remarks.say("the server does not filter these tags: they are monitored without", count=count, tags=tags)
        if self._slower.count:
            self._remarks.say(
                "the server samples at another interval than asked",
                count=self._slower.count, asked_ms=self._slower.asked, got_ms=self._slower.got,
            )  # fmt: skip
        if self._shorter.count:
            self._remarks.say(
                "the server keeps another number of values than asked",
                count=self._shorter.count, asked=int(self._shorter.asked), got=int(self._shorter.got),
            )  # fmt: skip

    def _note(self, position: int, sampling: SamplingClass, result: ua.MonitoredItemCreateResult) -> None:
        if abs(result.RevisedSamplingInterval - sampling.sampling_ms) > 0.5:
            self._slower.note(sampling.sampling_ms, float(result.RevisedSamplingInterval))
        asked = self._sampling[position].queue_size
        if result.RevisedQueueSize != asked:
            self._shorter.note(asked, int(result.RevisedQueueSize))

    def _weaken(self, position: int) -> bool:
        """Ask less of the filter from now on; False when there was none."""
        now = self._sampling[position]
        if now.deadband is not None:
            self._sampling[position] = Sampling(now.queue_size, now.discard, None, now.trigger, now.read)
        elif now.trigger != _NO_FILTER.trigger:
            self._sampling[position] = Sampling(now.queue_size, now.discard, None, _NO_FILTER.trigger, now.read)
        else:
            return False
        return True

    def _asked(
        self, subscription: int, sampling: SamplingClass, chunk: Sequence[int], nodes: Mapping[int, ua.NodeId]
    ) -> ua.CreateMonitoredItemsParameters:
        items = []
        for position in chunk:
            how = self._sampling[position]
            asked = ua.MonitoringParameters(
                ClientHandle=position,
                SamplingInterval=sampling.sampling_ms,
                QueueSize=how.queue_size,
                DiscardOldest=how.discard == "oldest",
            )
            wanted = filter_of(how)
            if wanted is not None:
                asked.Filter = wanted
            items.append(
                ua.MonitoredItemCreateRequest(
                    ItemToMonitor=ua.ReadValueId(NodeId=nodes[position], AttributeId=ua.AttributeIds.Value),
                    MonitoringMode=ua.MonitoringMode.Reporting,
                    RequestedParameters=asked,
                )
            )
        return ua.CreateMonitoredItemsParameters(
            SubscriptionId=subscription, TimestampsToReturn=ua.TimestampsToReturn.Both, ItemsToCreate=items
        )


def filter_of(how: Sampling) -> ua.DataChangeFilter | None:
    """The filter that these options ask for (OPC 10000-4, 7.22.2); None where the server's default does."""
    if how.deadband is None and how.trigger == _NO_FILTER.trigger:
        return None
    kind = ua.DeadbandType.None_
    if how.deadband is not None:
        kind = ua.DeadbandType.Percent if how.deadband.percent else ua.DeadbandType.Absolute
    return ua.DataChangeFilter(
        Trigger=_TRIGGERS[how.trigger], DeadbandType=int(kind), DeadbandValue=how.deadband.value if how.deadband else 0.0
    )
