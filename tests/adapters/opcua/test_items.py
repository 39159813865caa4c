"""Monitored items against a server that is particular: filters it refuses, values it revises."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
import structlog
from asyncua import ua

from adapters.opcua.connection import Connection
from adapters.opcua.items import Items, Remarks, filter_of
from adapters.opcua.plan import compile_plan
from adapters.opcua.sampling import Sampling, ServerDeadband
from adapters.opcua.wire import MalformedMessage
from tests.adapters.opcua.rig import bind, configure

CODES = ua.StatusCodes
Log = list[Any]


class Particular:
    """A session that refuses percent deadbands, then every filter, and revises what it likes."""

    def __init__(
        self, *, filters: str = "all", interval: float | None = None, queue: int | None = None, missing: int = 0
    ) -> None:
        self.session = self
        self.calls: list[list[tuple[int, Any]]] = []
        self._filters, self._interval, self._queue, self._missing = filters, interval, queue, missing

    async def create_monitored_items(self, asked: ua.CreateMonitoredItemsParameters) -> list[ua.MonitoredItemCreateResult]:
        await asyncio.sleep(0)
        wanted = [item.RequestedParameters for item in asked.ItemsToCreate]
        filters = [one.Filter if isinstance(one.Filter, ua.DataChangeFilter) else None for one in wanted]
        self.calls.append([(one.ClientHandle, found) for one, found in zip(wanted, filters, strict=True)])
        return [self._answer(one, found) for one, found in zip(wanted, filters, strict=True)][self._missing :]

    def _answer(self, asked: ua.MonitoringParameters, found: ua.DataChangeFilter | None) -> ua.MonitoredItemCreateResult:
        status = 0
        if found is not None and self._filters == "none":
            status = CODES.BadMonitoredItemFilterUnsupported
        elif found is not None and found.DeadbandType == 2 and self._filters == "absolute":
            status = CODES.BadDeadbandFilterInvalid
        if asked.ClientHandle == 2:
            status = CODES.BadNodeIdUnknown
        return ua.MonitoredItemCreateResult(
            StatusCode=ua.StatusCode(status),
            RevisedSamplingInterval=self._interval or asked.SamplingInterval,
            RevisedQueueSize=self._queue or asked.QueueSize,
        )


TAGS: dict[str, dict[str, Any]] = {
    "plain": {"address": "i=1"},
    "percent": {"address": "i=2", "server_deadband": "2 %", "trigger": "timestamp"},
    "unknown": {"address": "i=3", "server_deadband": 1},
    "absolute": {"address": "i=4", "server_deadband": 1},
}


async def add(server: Particular, remarks: Remarks | None = None) -> tuple[dict[int, int], Log]:
    config = configure(TAGS)
    plan = compile_plan(bind(config), config)
    with structlog.testing.capture_logs() as logs:
        items = Items(cast(Connection, server), plan, 3, remarks or Remarks("robot", structlog.get_logger()))
        refused = await items.add(7, plan.classes[0], plan.classes[0].positions, {p: ua.NodeId(p + 1) for p in range(4)})
        items.tell()
    return refused, logs


def test_what_a_filter_asks_for() -> None:
    assert filter_of(Sampling()) is None
    absolute = filter_of(Sampling(deadband=ServerDeadband(0.5)))
    assert absolute is not None
    assert (absolute.Trigger, absolute.DeadbandType, absolute.DeadbandValue) == (ua.DataChangeTrigger.StatusValue, 1, 0.5)
    percent = filter_of(Sampling(deadband=ServerDeadband(2, percent=True), trigger="status"))
    assert percent is not None
    assert (percent.Trigger, percent.DeadbandType, percent.DeadbandValue) == (ua.DataChangeTrigger.Status, 2, 2)
    trigger = filter_of(Sampling(trigger="timestamp"))
    assert trigger is not None
    assert (trigger.Trigger, trigger.DeadbandType) == (ua.DataChangeTrigger.StatusValueTimestamp, 0)


async def test_a_server_that_does_all_is_asked_once_and_nothing_is_said() -> None:
    server = Particular()
    assert await add(server) == ({2: CODES.BadNodeIdUnknown}, [])
    assert [[handle for handle, _ in call] for call in server.calls] == [[0, 1, 2], [3]]


async def test_a_refused_deadband_leaves_the_trigger() -> None:
    server = Particular(filters="absolute")
    refused, logs = await add(server)
    assert refused == {2: CODES.BadNodeIdUnknown}
    ((handle, found),) = server.calls[-1]
    assert (handle, found.Trigger, found.DeadbandType) == (1, ua.DataChangeTrigger.StatusValueTimestamp, 0)
    assert [(entry["count"], entry["tags"]) for entry in logs] == [(1, ["acme/osaka/robot/percent: BadDeadbandFilterInvalid"])]


async def test_a_server_without_filters_loses_no_tag() -> None:
    server = Particular(filters="none")
    refused, logs = await add(server)
    assert refused == {2: CODES.BadNodeIdUnknown}
    assert [[(handle, found is not None) for handle, found in call] for call in server.calls] == [
        [(0, False), (1, True), (2, True)], [(3, True)], [(1, True), (3, False)], [(1, False)],
    ]  # fmt: skip
    assert [entry["count"] for entry in logs] == [2]


async def test_what_the_server_revises_is_one_sentence_until_it_changes() -> None:
    log = structlog.get_logger()
    remarks = Remarks("robot", log)
    said = (await add(Particular(interval=1000.0, queue=1), remarks))[1]
    assert [{k: v for k, v in entry.items() if k not in ("log_level", "adapter")} for entry in said] == [
        {"event": "the server samples at another interval than asked", "count": 3, "asked_ms": 50.0, "got_ms": 1000.0},
        {"event": "the server keeps another number of values than asked", "count": 3, "asked": 10, "got": 1},
    ]
    assert (await add(Particular(interval=1000.0, queue=1), remarks))[1] == []  # the next session
    assert len((await add(Particular(interval=500.0, queue=1), remarks))[1]) == 1


async def test_answers_that_are_too_few_are_malformed() -> None:
    with pytest.raises(MalformedMessage):
        await add(Particular(missing=1))
