"""The subscriber against a scripted session: what it does with answers that a well-behaved server never gives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog
from asyncua import ua
from asyncua.ua.ua_binary import struct_to_binary

from adapters.opcua.connection import Connection
from adapters.opcua.outbox import Outbox
from adapters.opcua.plan import compile_plan
from adapters.opcua.resolve import ServerFacts
from adapters.opcua.rows import Rows
from adapters.opcua.subscriptions import NoSubscriptions, Subscriber
from adapters.opcua.wire import MalformedMessage
from schemas.errors import NotConnected
from schemas.kinds import kind_of
from tests.adapters.opcua.rig import SystemClock, bind, configure

Answer = bytes | Exception


class Script:
    """A connection whose publish answers are given one by one; behind the last one the server is silent."""

    def __init__(self, *answers: Answer, keep_alive_ms: float = 1000) -> None:
        self.session = self
        self.requests: list[Any] = []
        self.created: list[Any] = []
        self.items: list[Any] = []
        self._answers = list(answers)
        self._keep_alive_ms = keep_alive_ms

    async def create_subscription(self, asked: Any, callback: Callable[..., None]) -> Any:
        self.created.append(asked)
        return SimpleNamespace(
            SubscriptionId=len(self.created), RevisedPublishingInterval=self._keep_alive_ms, RevisedMaxKeepAliveCount=1
        )

    async def create_monitored_items(self, params: Any) -> list[Any]:
        self.items.append(params)
        return [ua.MonitoredItemCreateResult() for _ in params.ItemsToCreate]

    async def request(self, request: Any, *, patient: bool = False) -> bytes:
        assert patient
        self.requests.append(request)
        if not self._answers:
            await asyncio.Event().wait()
        answer = self._answers.pop(0)
        await asyncio.sleep(0.01)
        if isinstance(answer, Exception):
            raise answer
        return answer


def answer(sequence: int, value: float | None = None, subscription: int = 1) -> bytes:
    """A notification message with one value of handle 0, or a keep-alive."""
    response = ua.PublishResponse()
    response.Parameters.SubscriptionId = subscription
    response.Parameters.NotificationMessage.SequenceNumber = sequence
    if value is not None:
        item = ua.MonitoredItemNotification(ClientHandle=0, Value=ua.DataValue(ua.Variant(value, ua.VariantType.Double)))
        response.Parameters.NotificationMessage.NotificationData = [ua.DataChangeNotification(MonitoredItems=[item])]
    return struct_to_binary(response)


def make(script: Script, tags: dict[str, Any] | None = None, timeout_s: float = 2.0) -> tuple[Subscriber, Outbox]:
    config = configure(tags or {"t": "ns=2;s=T"}, queue_size=7)
    bound = bind(config)
    log = structlog.get_logger()
    outbox = Outbox("robot", SystemClock(), log)
    subscriber = Subscriber(
        cast(Connection, script),
        ServerFacts({}, items_per_call=2),
        compile_plan(bound, config),
        Rows(bound),
        outbox,
        name="robot",
        clock=SystemClock(),
        log=log,
        timeout_s=timeout_s,
    )
    return subscriber, outbox


async def run(script: Script, batches: int) -> list[Any]:
    """The first batches of a script."""
    subscriber, outbox = make(script)
    task = asyncio.create_task(subscriber.run())
    try:
        async with asyncio.timeout(5):
            return [await outbox.get() for _ in range(batches)]
    finally:
        task.cancel()
        await asyncio.wait([task])


async def failure(script: Script, timeout_s: float = 2.0) -> BaseException:
    subscriber, _ = make(script, timeout_s=timeout_s)
    with pytest.raises(BaseExceptionGroup) as group:
        async with asyncio.timeout(5):
            await subscriber.run()
    return group.value.exceptions[0]


async def test_messages_are_acknowledged_and_keep_alives_are_not() -> None:
    script = Script(answer(1, 1.0), answer(2), answer(2, 2.0), answer(3, 3.0))
    batches = await run(script, 3)
    assert [batch.column("value").to_pylist() for batch in batches] == [[1.0], [2.0], [3.0]]
    await asyncio.sleep(0)
    acknowledged = [a for r in script.requests for a in r.Parameters.SubscriptionAcknowledgements]
    assert [(a.SubscriptionId, a.SequenceNumber) for a in acknowledged][:2] == [(1, 1), (1, 2)]


@pytest.mark.parametrize("messages", [[(1, 1.0), (4, 2.0)], [(1, 1.0), (4, None), (4, 2.0)]])
async def test_missing_messages_are_a_gap(messages: list[tuple[int, float | None]]) -> None:
    batches = await run(Script(*(answer(*message) for message in messages)), 3)
    assert [kind_of(batch) for batch in batches] == ["telemetry", "gap", "telemetry"]
    (gap,) = batches[1].to_pylist()
    assert (gap["cause"], gap["source"], gap["tag"]) == ("overflow", "robot", None)


async def test_sequence_numbers_wrap() -> None:
    batches = await run(Script(answer(2**32 - 1, 1.0), answer(1), answer(1, 2.0), answer(2, 3.0)), 3)
    assert [kind_of(batch) for batch in batches] == ["telemetry"] * 3


async def test_answers_for_a_subscription_of_somebody_else_are_left_out() -> None:
    batches = await run(Script(answer(1, 9.0, subscription=77), answer(1, 1.0)), 1)
    assert batches[0].column("value").to_pylist() == [1.0]


async def test_the_server_may_let_a_publish_time_out_and_allow_fewer_of_them() -> None:
    timeout = ua.UaStatusCodeError(ua.StatusCodes.BadTimeout)
    too_many = ua.UaStatusCodeError(ua.StatusCodes.BadTooManyPublishRequests)
    batches = await run(Script(timeout, too_many, answer(1, 1.0), answer(2, 2.0), answer(3, 3.0)), 3)
    assert [batch.column("value").to_pylist() for batch in batches] == [[1.0], [2.0], [3.0]]


async def test_items_are_asked_for_in_the_calls_that_the_server_allows() -> None:
    script = Script()
    tags = {f"t{i}": {"address": f"ns=2;s=T{i}", "scan": "2s" if i > 3 else "100ms"} for i in range(7)}
    subscriber, _ = make(script, tags)
    task = asyncio.create_task(subscriber.run())
    async with asyncio.timeout(5):
        while len(script.items) < 4:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    assert [(asked.RequestedPublishingInterval, asked.RequestedMaxKeepAliveCount) for asked in script.created] == [
        (100, 10),
        (1000, 1),
    ]
    asked = [
        (params.SubscriptionId, [i.RequestedParameters.ClientHandle for i in params.ItemsToCreate]) for params in script.items
    ]
    assert asked == [(1, [0, 1]), (1, [2, 3]), (2, [4, 5]), (2, [6])]
    assert {i.RequestedParameters.SamplingInterval for i in script.items[3].ItemsToCreate} == {2000}
    assert {i.RequestedParameters.QueueSize for params in script.items for i in params.ItemsToCreate} == {7}
    assert len(script.requests) == 3


async def test_silence_is_a_lost_connection() -> None:
    found = await failure(Script(answer(1, 1.0), keep_alive_ms=100), timeout_s=0.2)
    assert isinstance(found, NotConnected)
    assert "silent" in str(found)


async def test_a_closed_subscription_is_a_lost_connection() -> None:
    response = ua.PublishResponse()
    change = ua.StatusChangeNotification(Status=ua.StatusCode(ua.StatusCodes.BadTimeout))
    response.Parameters.SubscriptionId = 1
    response.Parameters.NotificationMessage = ua.NotificationMessage(NotificationData=[change])
    found = await failure(Script(struct_to_binary(response)))
    assert isinstance(found, NotConnected)
    assert "BadTimeout" in str(found)


async def test_a_publish_that_fails_in_its_header_is_a_lost_connection() -> None:
    response = ua.PublishResponse()
    response.ResponseHeader.ServiceResult = ua.StatusCode(ua.StatusCodes.BadSessionClosed)
    found = await failure(Script(struct_to_binary(response)))
    assert isinstance(found, NotConnected)
    assert "BadSessionClosed" in str(found)


async def test_other_faults_and_nonsense_end_the_session() -> None:
    assert isinstance(await failure(Script(ua.UaStatusCodeError(ua.StatusCodes.BadNoSubscription))), ua.UaStatusCodeError)
    assert isinstance(await failure(Script(b"nonsense")), MalformedMessage)


@pytest.mark.parametrize("status", [ua.StatusCodes.BadServiceUnsupported, ua.StatusCodes.BadTooManySubscriptions])
async def test_only_a_server_without_the_service_is_read_cyclically(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise ua.UaStatusCodeError(status)

    script = Script()
    monkeypatch.setattr(script, "create_subscription", refuse)
    subscriber, _ = make(script)
    unsupported = status == ua.StatusCodes.BadServiceUnsupported
    with pytest.raises(NoSubscriptions if unsupported else ua.UaStatusCodeError):
        await subscriber.run()
