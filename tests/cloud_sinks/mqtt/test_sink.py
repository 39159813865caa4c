"""The MQTT sink against a real broker (3.1.1) and a scripted one (5): the common suite, topics, status, versions, refusals, commands."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from cloud_sinks.base import Sink, SinkContext
from cloud_sinks.mqtt import PLUGIN
from cloud_sinks.mqtt.config import MqttConfig
from schemas.errors import Busy, ConfigError, NotConnected, Rejected
from schemas.kinds import KINDS, Kind, make_batch, with_seq
from schemas.span import Command
from tests.conformance.sink import T0, SinkConformance, Tags, batch_of, span_of

from .conftest import RealBroker, ScriptedBroker, Subscriber, topics_of


class BrokerHarness:
    exactly_once = False
    kinds = ("alert", *(kind for kind in KINDS if kind != "alert"))

    def __init__(self, broker: RealBroker) -> None:
        self._broker, self.subscriber = broker, Subscriber()

    def build(self, context: SinkContext) -> Sink:
        # 3.1.1 from the start: amqtt keeps a socket open for every CONNECT of version 5, which would be taken for ours.
        return PLUGIN.build(MqttConfig(endpoint=self._broker.endpoint, protocol="3.1.1"), context)

    async def down(self) -> None:
        await self.subscriber.close()
        await self._broker.stop()

    async def up(self) -> None:
        await self._broker.start()
        await self.subscriber.open(self._broker.port)

    async def rows(self, kind: Kind, context: SinkContext, expected: int) -> list[tuple[int, str]]:
        await self.subscriber.wait(lambda _: len(self.subscriber.json(f"genba/{kind}/")) >= expected)
        return [(message["row"], message["tag"]) for message in self.subscriber.json(f"genba/{kind}/")]


class TestConformance(SinkConformance):
    @pytest.fixture
    async def harness(self, broker: RealBroker) -> AsyncIterator[BrokerHarness]:
        harness = BrokerHarness(broker)
        await harness.subscriber.open(broker.port)
        yield harness
        await harness.subscriber.close()


def build(context: SinkContext, endpoint: str, **options: object) -> Sink:
    return PLUGIN.build(MqttConfig(endpoint=endpoint, **options), context)  # type: ignore[arg-type]


async def send(sink: Sink, context: SinkContext, rows: int = 3, *, first: int = 0, kind: Kind = "alert") -> None:
    assert isinstance(context.tags, Tags)
    await sink.write([batch_of(kind, first, rows, context.tags)], span_of(kind, first, rows))


async def test_an_alert_reaches_those_who_come_later_and_a_person_understands_it(
    context: SinkContext, broker: RealBroker
) -> None:
    sink = build(context, broker.endpoint, protocol="3.1.1")
    await sink.connect()
    await send(sink, context)
    await send(sink, context, kind="telemetry")
    late = await Subscriber().open(broker.port, "genba/#")
    await late.wait(lambda messages: len(messages) >= 3)
    await asyncio.sleep(0.1)
    assert sorted(topics_of(late.messages)) == [
        "genba/alert/acme/osaka/fan-1/high",
        "genba/alert/acme/osaka/press-07/high",
        "genba/status/gw-1",
    ], "telemetry is not retained, alarm states and the gateway's state are"
    (message,) = late.json("genba/alert/acme/osaka/fan-1")
    assert message == {
        "version": 1, "time": "2026-01-01T00:00:02.000000Z", "local_time": "2026-01-01T09:00:02.000000+09:00",
        "since": "2026-01-01T00:00:02.000000Z", "local_since": "2026-01-01T09:00:02.000000+09:00",
        "enterprise": "acme", "site": "osaka", "gateway": "gw-1", "epoch": 1, "kind": "alert", "row": 2, "onset_row": 2,
        "id": "id-2", "alarm": "high", "model": "limits", "state": "unacknowledged", "transition": "raised", "severity": "warning",
        "problem": "too hot", "action": "call", "subject": "Motor", "asset": "acme/osaka/fan-1", "tag": "acme/osaka/fan-1/speed",
        "value": 1.0, "unit": "°C", "unit_code": "Cel", "expected": {"low": 0.0, "high": 90.0}, "score": 1.0, "limit": 1.0,
    }  # fmt: skip
    await late.close()
    await sink.aclose()


async def test_a_cleared_alarm_leaves_its_normal_state_behind(context: SinkContext, broker: RealBroker) -> None:
    sink = build(context, broker.endpoint, protocol="3.1.1")
    await sink.connect()
    common = {"id": "x", "alarm": "high", "asset": "acme/osaka/fan-1", "severity": "warning", "problem": "p"}
    states = [("unacknowledged", "raised"), ("returned", "cleared"), ("normal", "acknowledged")]
    rows = [make_batch("alert", 1, time=T0 + n, state=s, transition=t, **common) for n, (s, t) in enumerate(states)]
    live = await Subscriber().open(broker.port, "genba/alert/#", name="live")
    await sink.write([with_seq(row, n) for n, row in enumerate(rows)], span_of("alert", 0, 3))
    await live.wait(lambda messages: len(messages) == 3)
    assert [message["state"] for message in live.json("genba")] == ["unacknowledged", "returned", "normal"]
    late = await Subscriber().open(broker.port, "genba/alert/#", name="late")
    await late.wait(lambda _: bool(late.json("genba/alert/")))  # amqtt may send a retained message twice, and unasked
    assert {message["state"] for message in late.json("genba/alert/")} == {"normal"}
    for subscriber in (live, late):
        await subscriber.close()
    await sink.aclose()


async def test_retain_can_be_switched_off(context: SinkContext, scripted: ScriptedBroker) -> None:
    sink = build(context, scripted.endpoint, retain=False)
    await sink.connect()
    await send(sink, context)
    await sink.aclose()
    assert [retained for topic, _, retained in scripted.published if topic.startswith("genba/alert")] == [False] * 3


async def test_status_online_stopped_and_the_will_offline(context: SinkContext, scripted: ScriptedBroker) -> None:
    sink = build(context, scripted.endpoint)
    await sink.connect()
    await sink.aclose()
    assert scripted.published == [("genba/status/gw-1", b"online", True), ("genba/status/gw-1", b"stopped", True)]
    (connect,) = scripted.connects
    assert connect[7] & 0b0011_1100 == 0b0010_1100, "a will, QoS 1, retained"
    assert connect[7] & 0b10, "clean start"
    assert b"genba/status/gw-1" in connect
    assert b"offline" in connect


@pytest.mark.parametrize("answer", [0x84, None, "silent"], ids=["refuses", "closes", "is silent"])
async def test_falls_back_to_3_1_1_and_remembers(
    context: SinkContext, scripted: ScriptedBroker, answer: int | str | None
) -> None:
    scripted.connack = {5: answer, 4: 0}
    sink = build(context, scripted.endpoint, timeout="1s")
    await sink.connect()
    await send(sink, context)
    await scripted.stop()
    await sink.lost()
    with pytest.raises(NotConnected):
        await sink.connect()
    await scripted.start()
    await sink.connect()
    await send(sink, context)
    await sink.aclose()
    assert scripted.versions == [5, 4, 4]


async def test_falls_back_with_a_real_broker_of_3_1_1(context: SinkContext, broker: RealBroker) -> None:
    sink = build(context, broker.endpoint)
    await sink.connect()
    await send(sink, context)
    await sink.aclose()


async def test_version_5_is_used_where_it_is_spoken(context: SinkContext, scripted: ScriptedBroker) -> None:
    sink = build(context, scripted.endpoint)
    await sink.connect()
    await sink.aclose()
    assert scripted.versions == [5]


@pytest.mark.parametrize("protocol", [5, "5", "3.1.1"])
async def test_a_fixed_version_never_falls_back(context: SinkContext, scripted: ScriptedBroker, protocol: int | str) -> None:
    scripted.connack = {5: 0x84, 4: 1}
    sink = build(context, scripted.endpoint, protocol=protocol)
    with pytest.raises((ConfigError, NotConnected)):
        await sink.connect()
    assert scripted.versions == [5 if str(protocol) == "5" else 4]
    await sink.aclose()


@pytest.mark.parametrize(("version", "code"), [(5, 0x86), (5, 0x87), (4, 4), (4, 5)])
@pytest.mark.parametrize("username", [None, "genba"])
async def test_wrong_credentials_are_for_a_person(
    context: SinkContext, scripted: ScriptedBroker, version: int, code: int, username: str | None
) -> None:
    scripted.connack = {version: code, 9 - version: 0}
    options = {"username": username, "password": "hunter2"} if username else {}
    sink = build(context, scripted.endpoint, protocol="5" if version == 5 else "3.1.1", **options)
    with pytest.raises(ConfigError) as caught:
        await sink.connect()
    assert "correct username and password" in str(caught.value) if username else "wants username" in str(caught.value)
    assert "sinks.out" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    await sink.aclose()


async def test_a_busy_broker_is_tried_again(context: SinkContext, scripted: ScriptedBroker) -> None:
    scripted.connack = {5: 0x89, 4: 3}
    sink = build(context, scripted.endpoint)
    with pytest.raises(NotConnected, match="refuses the connection"):
        await sink.connect()
    scripted.connack = {5: 0, 4: 0}
    await sink.connect()
    await sink.aclose()


async def test_an_endpoint_that_never_answers_is_not_connected_in_time(context: SinkContext, scripted: ScriptedBroker) -> None:
    scripted.connack = {5: "silent", 4: "silent"}
    sink = build(context, scripted.endpoint, timeout="1s")
    started = asyncio.get_running_loop().time()
    with pytest.raises(NotConnected, match="no answer within"):
        await sink.connect()
    assert asyncio.get_running_loop().time() - started < 3
    await sink.aclose()


@pytest.mark.parametrize("host", ["127.0.0.1:1", "no-such-host.invalid:1883"])
async def test_an_absent_broker_is_not_connected_and_named(context: SinkContext, host: str) -> None:
    sink = build(context, f"mqtt://{host}", timeout="5s")
    with pytest.raises(NotConnected, match=host.split(":")[0]):
        await sink.connect()
    await sink.aclose()


async def test_order_and_window(context: SinkContext, scripted: ScriptedBroker) -> None:
    scripted.delay_s = 0.01
    sink = build(context, scripted.endpoint, max_in_flight=7)
    await sink.connect()
    await send(sink, context, rows=60)
    rows = [json.loads(payload)["row"] for topic, payload, _ in scripted.published if "alert" in topic]
    assert rows == list(range(60))
    assert 1 < scripted.most_under_way <= 7
    await sink.aclose()


async def test_the_brokers_receive_maximum_is_kept(context: SinkContext, scripted: ScriptedBroker) -> None:
    scripted.properties, scripted.delay_s = b"\x21\x00\x02", 0.01
    sink = build(context, scripted.endpoint)
    await sink.connect()
    await send(sink, context, rows=20)
    assert scripted.most_under_way == 2
    await sink.aclose()


async def test_connection_lost_in_the_middle_repeats_with_the_same_ids(context: SinkContext, scripted: ScriptedBroker) -> None:
    scripted.puback = lambda n, topic: 0 if n != 5 else None
    sink = build(context, scripted.endpoint)
    await sink.connect()
    with pytest.raises(NotConnected, match="closed"):
        await send(sink, context, rows=10)
    await asyncio.wait_for(sink.lost(), 1)
    with pytest.raises(NotConnected, match="not connected"):
        await send(sink, context, rows=10)
    await sink.connect()
    await send(sink, context, rows=10)
    await sink.aclose()
    sent = [json.loads(payload) for topic, payload, _ in scripted.published if "alert" in topic]
    assert [message["row"] for message in sent[-10:]] == list(range(10))
    assert all(message["id"] == f"id-{message['row']}" for message in sent)


async def test_a_broker_that_never_acknowledges_is_not_connected(context: SinkContext, scripted: ScriptedBroker) -> None:
    scripted.puback = lambda n, topic: "silent"
    sink = build(context, scripted.endpoint, timeout="1s")
    await sink.connect()
    with pytest.raises(NotConnected, match="does not acknowledge"):
        await send(sink, context)
    await asyncio.wait_for(sink.lost(), 1)
    await sink.aclose()


async def test_reason_codes_say_who_must_act(context: SinkContext, scripted: ScriptedBroker) -> None:
    sink = build(context, scripted.endpoint)
    await sink.connect()
    scripted.puback = lambda n, topic: 0x10
    await send(sink, context)
    scripted.puback = lambda n, topic: 0x97
    with pytest.raises(Busy):
        await send(sink, context)
    scripted.puback = lambda n, topic: 0x87
    with pytest.raises(ConfigError, match=r"publish on genba/alert/.*access list"):
        await send(sink, context)
    count = len([topic for topic, _, _ in scripted.published if "alert" in topic])
    scripted.puback = lambda n, topic: 0x99 if n == count + 1 else 0
    with pytest.raises(Rejected, match="payload format invalid") as caught:
        await send(sink, context)
    assert caught.value.rows == (1,)
    await sink.aclose()


async def test_rows_that_no_message_can_say_are_rejected_and_the_others_delivered(
    context: SinkContext, scripted: ScriptedBroker
) -> None:
    scripted.properties = b"\x27\x00\x00\x08\x00"  # maximum packet size 2048
    sink = build(context, scripted.endpoint)
    await sink.connect()
    rows = make_batch(
        "alert", 4, time=T0, id="x", alarm="a", severity="info", problem=["short", "long" * 600, "short", "short"],
        state=["normal", "normal", "no such state", "normal"], transition="raised", asset="acme/osaka/press-07",
    )  # fmt: skip
    with pytest.raises(Rejected) as caught:
        await sink.write([with_seq(rows, 100)], span_of("alert", 100, 4))
    assert caught.value.rows == (101, 102)
    assert [json.loads(payload)["row"] for topic, payload, _ in scripted.published if "alert" in topic] == [100, 103]
    await sink.aclose()


async def test_rows_about_no_tag_have_a_topic_too(context: SinkContext, scripted: ScriptedBroker) -> None:
    sink = build(context, scripted.endpoint, topic="plant/{site}/{data}/{asset}/{alarm}")
    await sink.connect()
    none: dict[Kind, dict[str, object]] = {
        "event": {"event": "adapter_up", "source": "gateway"}, "gap": {"cause": "overrun"}, "health": {"measure": "health_index", "seq": 1},
    }  # fmt: skip
    for kind, columns in none.items():
        await sink.write([with_seq(make_batch(kind, 1, time=T0, **columns), 0)], span_of(kind, 0, 1))
    await sink.aclose()
    assert [topic for topic, _, _ in scripted.published if topic.startswith("plant")] == [
        "plant/osaka/event/acme/osaka/gw-1/adapter_up",
        "plant/osaka/gap/acme/osaka/gw-1/overrun",
        "plant/osaka/health/acme/osaka/gw-1/health_index",
    ]


async def test_commands(context: SinkContext, broker: RealBroker) -> None:
    sink = build(context, broker.endpoint, protocol="3.1.1")
    await sink.connect()
    person = await Subscriber().open(broker.port, "nothing", name="person")
    topic = "genba/command/gw-1/"
    await person.publish("genba/command/gw-2/acknowledge", b'{"id": "other gateway"}')
    for name, payload in [
        ("acknowledge", b'{"id": "x", "by": "Sato"}'), ("reboot", b"{}"), ("acknowledge", b"not json"), ("acknowledge", b"[1]"),
        ("acknowledge", b'{"id": {"nested": 1}}'), ("shelve", b'{"id": "y", "for": "8h"}'), ("unshelve", b""),
    ]:  # fmt: skip
        await person.publish(topic + name, payload)
    source = "mqtt sink out"
    found = sink.commands()
    async with asyncio.timeout(5):
        assert await anext(found) == Command("acknowledge", source, {"id": "x", "by": "Sato"})
        assert await anext(found) == Command("shelve", source, {"id": "y", "for": "8h"})
        assert await anext(found) == Command("unshelve", source, {})
    await broker.stop()
    await sink.lost()
    await broker.start()
    await sink.connect()
    person = await Subscriber().open(broker.port, "nothing", name="person")
    await person.publish(topic + "acknowledge", b'{"id": "z"}')
    async with asyncio.timeout(5):
        assert (await anext(found)).arguments == {"id": "z"}, "the same iterator goes on over reconnects"
    await person.close()
    await sink.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(found)


async def test_a_broker_that_refuses_the_subscription_still_gets_alerts(context: SinkContext, scripted: ScriptedBroker) -> None:
    scripted.suback = 0x87
    sink = build(context, scripted.endpoint)
    await sink.connect()
    await send(sink, context)
    await sink.aclose()


async def test_retained_commands_are_old_and_passed_over(context: SinkContext, broker: RealBroker) -> None:
    person = await Subscriber().open(broker.port, "nothing", name="person")
    await person.publish("genba/command/gw-1/acknowledge", b'{"id": "x"}', retain=True)
    sink = build(context, broker.endpoint, protocol="3.1.1")
    await sink.connect()
    await asyncio.sleep(0.1)
    await person.publish("genba/command/gw-1/shelve", b'{"id": "y"}')
    async with asyncio.timeout(5):
        assert (await anext(sink.commands())).name == "shelve"
    await person.close()
    await sink.aclose()


async def test_commands_can_be_switched_off(context: SinkContext, broker: RealBroker) -> None:
    sink = build(context, broker.endpoint, protocol="3.1.1", commands=False)
    await sink.connect()
    person = await Subscriber().open(broker.port, "nothing", name="person")
    await person.publish("genba/command/gw-1/acknowledge", b'{"id": "x"}')
    await asyncio.sleep(0.1)
    await person.close()
    await sink.aclose()
    assert [command async for command in sink.commands()] == []


async def test_a_flood_of_commands_is_bounded(context: SinkContext, broker: RealBroker) -> None:
    sink = build(context, broker.endpoint, protocol="3.1.1")
    await sink.connect()
    person = await Subscriber().open(broker.port, "nothing", name="person")
    for n in range(150):
        await person.publish("genba/command/gw-1/acknowledge", json.dumps({"id": n}).encode())
    await asyncio.sleep(0.1)
    await person.close()
    await sink.aclose()
    assert 50 <= len([command async for command in sink.commands()]) <= 100


async def test_a_cancelled_connect_leaves_no_socket(context: SinkContext, scripted: ScriptedBroker) -> None:
    scripted.connack = {5: "silent", 4: "silent"}
    sink = build(context, scripted.endpoint)
    task = asyncio.ensure_future(sink.connect())
    async with asyncio.timeout(5):
        await scripted.came.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    scripted.connack = {5: 0, 4: 0}
    await sink.connect()
    await send(sink, context)
    await sink.aclose()


async def test_a_cancelled_write_does_not_disturb_the_next(context: SinkContext, scripted: ScriptedBroker) -> None:
    scripted.delay_s = 0.05
    sink = build(context, scripted.endpoint)
    await sink.connect()
    task = asyncio.ensure_future(send(sink, context, rows=5))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await send(sink, context, rows=5)
    await sink.aclose()


async def test_unusable_tls_files_and_time_zone_are_for_a_person(context: SinkContext, tmp_path: Path) -> None:
    (tmp_path / "junk.pem").write_text("junk")
    for option, file in [("ca", "missing.pem"), ("ca", "junk.pem")]:
        sink = build(context, "mqtts://127.0.0.1:1", **{option: file})
        with pytest.raises(ConfigError, match=rf"sinks\.out\.{option}: {file} cannot be used"):
            await sink.connect()
    sink = build(context, "mqtts://127.0.0.1:1", certificate="junk.pem", key="junk.pem")
    with pytest.raises(ConfigError, match="certificate"):
        await sink.connect()
    lost = build(replace(context, time_zone="Mars/Olympus"), "mqtt://127.0.0.1:1")
    with pytest.raises(ConfigError, match="Asia/Tokyo"):
        await lost.connect()


async def test_telemetry_in_bulk(context: SinkContext, scripted: ScriptedBroker) -> None:
    sink = build(context, scripted.endpoint)
    await sink.connect()
    started = asyncio.get_running_loop().time()
    await send(sink, context, rows=1000, kind="telemetry")
    assert asyncio.get_running_loop().time() - started < 5
    await sink.aclose()
    assert len([topic for topic, _, _ in scripted.published if topic == "genba/telemetry/acme/osaka/press-07/temp"]) == 334
