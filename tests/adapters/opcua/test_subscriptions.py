"""The subscriber against a scripted session: what it does with answers that a well-behaved server never gives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog
from asyncua import ua
from asyncua.ua.ua_binary import struct_to_binary

from adapters.opcua.connection import Connection
from adapters.opcua.decode import decode_publish
from adapters.opcua.liveness import Liveness, Pace, contract_of
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

    def __init__(self, *answers: Answer, keep_alive_ms: float = 1000, kept: Mapping[int, bytes] | None = None) -> None:
        """`kept` are the messages that the server can send again."""
        self.session = self
        self._kept = kept or {}
        self.asked_again: list[int] = []
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
        if isinstance(request, ua.RepublishRequest):
            self.asked_again.append(request.Parameters.RetransmitSequenceNumber)
            if request.Parameters.RetransmitSequenceNumber not in self._kept:
                raise ua.UaStatusCodeError(ua.StatusCodes.BadMessageNotAvailable)
            return self._kept[request.Parameters.RetransmitSequenceNumber]
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
    response.Parameters.NotificationMessage = message(sequence, value)
    return struct_to_binary(response)


def again(sequence: int, value: float) -> bytes:
    """The same message, sent again."""
    return struct_to_binary(ua.RepublishResponse(NotificationMessage=message(sequence, value)))


def message(sequence: int, value: float | None) -> ua.NotificationMessage:
    found = ua.NotificationMessage(SequenceNumber=sequence)
    if value is not None:
        item = ua.MonitoredItemNotification(ClientHandle=0, Value=ua.DataValue(ua.Variant(value, ua.VariantType.Double)))
        found.NotificationData = [ua.DataChangeNotification(MonitoredItems=[item])]
    return found


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
        liveness=Liveness(contract_of(compile_plan(bound), [50_000] * len(bound), {}, 0), Pace()),
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


@pytest.mark.parametrize("messages", [[(1, 1.0), (4, 4.0)], [(1, 1.0), (4, None), (4, 4.0)]])
async def test_missing_messages_are_asked_for_again_before_they_are_a_gap(messages: list[tuple[int, float | None]]) -> None:
    script = Script(*(answer(*one) for one in messages), kept={2: again(2, 2.0), 3: again(3, 3.0)})
    batches = await run(script, 4)
    assert [kind_of(batch) for batch in batches] == ["telemetry"] * 4
    assert [batch.column("value").to_pylist() for batch in batches] == [[1.0], [2.0], [3.0], [4.0]]
    assert script.asked_again == [2, 3]


async def test_what_the_server_no_longer_has_is_a_gap_and_the_rest_is_not_lost() -> None:
    script = Script(answer(1, 1.0), answer(300, 4.0), kept={298: again(298, 2.0), 299: again(299, 3.0)})
    batches = await run(script, 5)
    assert [kind_of(batch) for batch in batches] == ["telemetry", "telemetry", "telemetry", "gap", "telemetry"]
    assert len(script.asked_again) == 100
    (gap,) = batches[3].to_pylist()
    assert (gap["cause"], gap["source"], gap["tag"]) == ("overflow", "robot", None)
    assert gap["time"] <= gap["end"]


async def test_the_first_messages_of_a_subscription_are_asked_for_when_another_session_got_them() -> None:
    script = Script(answer(3, 3.0), kept={1: again(1, 1.0), 2: again(2, 2.0)})
    batches = await run(script, 3)
    assert [batch.column("value").to_pylist() for batch in batches] == [[1.0], [2.0], [3.0]]


async def test_a_server_that_does_not_begin_with_1_has_lost_nothing() -> None:
    for first in (2, 77):
        batches = await run(Script(answer(first, 1.0), answer(first + 1, 2.0)), 2)
        assert [kind_of(batch) for batch in batches] == ["telemetry"] * 2


async def test_numbers_that_begin_anew_are_a_gap_and_nothing_is_asked_for() -> None:
    script = Script(answer(500, 1.0), answer(3, 2.0))
    batches = await run(script, 3)
    assert [kind_of(batch) for batch in batches] == ["telemetry", "gap", "telemetry"]
    assert script.asked_again == []


async def test_missing_messages_are_looked_for_behind_the_wrap() -> None:
    script = Script(answer(2**32 - 2, 1.0), answer(2, 4.0), kept={2**32 - 1: again(2**32 - 1, 2.0), 1: again(1, 3.0)})
    batches = await run(script, 4)
    assert [batch.column("value").to_pylist() for batch in batches] == [[1.0], [2.0], [3.0], [4.0]]


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
        while len(script.items) < 5:  # noqa: ASYNC110
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
    assert asked == [(1, [0, 1]), (1, [2, 3]), (2, [4, 5]), (2, [6]), (1, [0xFFFF_FFFE])]  # the last: the namespaces
    assert {i.RequestedParameters.SamplingInterval for i in script.items[3].ItemsToCreate} == {2000}
    assert {i.RequestedParameters.QueueSize for params in script.items[:4] for i in params.ItemsToCreate} == {7}
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


@pytest.mark.parametrize("status", [ua.StatusCodes.BadServiceUnsupported, ua.StatusCodes.BadTooManySubscriptions])
async def test_tags_that_are_only_polled_do_not_suffer_when_events_cannot_be_subscribed(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise ua.UaStatusCodeError(status)

    script = Script()
    monkeypatch.setattr(script, "create_subscription", refuse)
    subscriber, _ = make(script, {"t": {"address": "ns=2;s=T", "read": "poll"}})
    subscriber._conditions = cast(Any, SimpleNamespace())
    await subscriber.run()
    assert script.requests == []  # nothing is published to a session without a subscription


async def test_a_value_that_recovery_has_read_ends_the_window_of_its_history_as_a_delivered_one_does() -> None:
    """Else history would bring the same row again, up to the first value that is delivered later."""
    subscriber, outbox = make(Script())
    noted: list[list[int]] = []
    subscriber._backfill = cast(Any, SimpleNamespace(note=lambda changes, _: noted.append(changes.handle.tolist())))
    read = decode_publish(answer(1, 7.0)).changes
    assert read is not None
    subscriber.emit(read)
    assert noted == [[0]]
    assert (await outbox.get()).num_rows == 1


async def test_a_small_answer_behind_a_large_one_waits_for_it() -> None:
    """The large one is decoded in a thread, and the next is here long before that is done."""
    texts = [ua.MonitoredItemNotification(ClientHandle=0, Value=ua.DataValue(ua.Variant("x" * 20))) for _ in range(20_000)]
    large = ua.PublishResponse()
    large.Parameters.SubscriptionId = 1
    large.Parameters.NotificationMessage = ua.NotificationMessage(
        SequenceNumber=1, NotificationData=[ua.DataChangeNotification(MonitoredItems=texts)]
    )
    found = await run(Script(struct_to_binary(large), answer(2, 2.0), answer(3, 3.0)), 3)
    assert [batch.num_rows for batch in found] == [20_000, 1, 1]
    assert [batch.column("value").to_pylist() for batch in found[1:]] == [[2.0], [3.0]]
