"""The MQTT sink against mosquitto: version 5, retained states, last will, TLS, access lists, and a broker that is killed."""

from __future__ import annotations

import asyncio
import json
import queue
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest

from cloud_sinks.base import Sink, SinkContext
from cloud_sinks.mqtt import PLUGIN
from cloud_sinks.mqtt.config import MqttConfig
from schemas.errors import ConfigError, NotConnected
from schemas.kinds import KINDS, Kind
from tests.conformance.sink import SinkConformance, Tags, batch_of, context_of, span_of
from tests.conftest import ManualClock

pytestmark = pytest.mark.interop


class Person:
    """Somebody else's client: paho with its own thread, version 5."""

    def __init__(self, port: int, *topics: str) -> None:
        self.messages: list[tuple[str, bytes, bool]] = []
        self._arrived: queue.Queue[None] = queue.Queue()
        subscribed: queue.Queue[None] = queue.Queue()
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.on_connect = lambda client, *_: client.subscribe([(topic, paho.SubscribeOptions(qos=1)) for topic in topics])
        self._client.on_subscribe = lambda *_: subscribed.put(None)
        self._client.on_message = lambda _client, _data, message: self._take(message)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        subscribed.get(timeout=10)

    def _take(self, message: paho.MQTTMessage) -> None:
        self.messages.append((message.topic, bytes(message.payload), bool(message.retain)))
        self._arrived.put(None)

    def wait(
        self, enough: Callable[[list[tuple[str, bytes, bool]]], bool], timeout_s: float = 10
    ) -> list[tuple[str, bytes, bool]]:
        deadline = time.monotonic() + timeout_s
        while not enough(self.messages):
            self._arrived.get(timeout=max(0.0, deadline - time.monotonic()))
        return self.messages

    def publish(self, topic: str, payload: bytes) -> None:
        self._client.publish(topic, payload, qos=1).wait_for_publish(5)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@contextmanager
def person(port: int, *topics: str) -> Iterator[Person]:
    made = Person(port, *topics)
    try:
        yield made
    finally:
        made.close()


class MosquittoHarness:
    exactly_once = False
    kinds = ("alert", *(kind for kind in KINDS if kind != "alert"))

    def __init__(self, broker: Any) -> None:
        self._broker = broker
        self._listener = Person(broker.port, "genba/#")

    def build(self, context: SinkContext) -> Sink:
        return PLUGIN.build(MqttConfig(endpoint=f"mqtt://127.0.0.1:{self._broker.port}"), context)

    async def down(self) -> None:
        await asyncio.to_thread(self._broker.kill)

    async def up(self) -> None:
        await asyncio.to_thread(self._broker.start)
        await asyncio.to_thread(self._listener.close)
        self._listener = await asyncio.to_thread(Person, self._broker.port, "genba/#")

    async def rows(self, kind: Kind, context: SinkContext, expected: int) -> list[tuple[int, str]]:
        def mine() -> list[dict[str, Any]]:
            # What was retained before a restart comes again; only what is published now counts.
            return [
                json.loads(m)
                for topic, m, retained in self._listener.messages
                if topic.startswith(f"genba/{kind}/") and not retained
            ]

        await asyncio.to_thread(self._listener.wait, lambda _: len(mine()) >= expected)
        return [(message["row"], message["tag"]) for message in mine()]

    def close(self) -> None:
        self._listener.close()


class TestConformance(SinkConformance):
    @pytest.fixture
    async def harness(self, mosquitto: Callable[..., Any]) -> AsyncIterator[MosquittoHarness]:
        harness = MosquittoHarness(await asyncio.to_thread(mosquitto))
        yield harness
        await asyncio.to_thread(harness.close)


@pytest.fixture
def context(tmp_path: Path, manual_clock: ManualClock) -> SinkContext:
    return context_of(tmp_path, manual_clock)


def build(context: SinkContext, endpoint: str, **options: object) -> Sink:
    return PLUGIN.build(MqttConfig(endpoint=endpoint, **options), context)  # type: ignore[arg-type]


async def send(sink: Sink, context: SinkContext, rows: int = 3, *, first: int = 0) -> None:
    assert isinstance(context.tags, Tags)
    await sink.write([batch_of("alert", first, rows, context.tags)], span_of("alert", first, rows))


def reconfigure(broker: Any, *lines: str, without: str = "") -> None:
    file = broker.folder / "mosquitto.conf"
    kept = [line for line in file.read_text().splitlines() if line != without]
    file.write_text("\n".join([*kept, *lines]) + "\n")
    broker.restart()


async def test_version_5_retained_states_and_a_clean_goodbye(context: SinkContext, mosquitto: Callable[..., Any]) -> None:
    broker = mosquitto()
    sink = build(context, f"mqtt://127.0.0.1:{broker.port}", protocol=5)
    await sink.connect()
    await send(sink, context, rows=6)
    with person(broker.port, "genba/#") as late:
        await asyncio.to_thread(late.wait, lambda messages: len(messages) >= 3)
        found = {topic: payload for topic, payload, retained in late.messages if retained}
        assert len(late.messages) == 3
        assert json.loads(found["genba/alert/acme/osaka/press-07/high"])["row"] == 4, "the last transition is kept"
        assert json.loads(found["genba/alert/acme/osaka/fan-1/high"])["row"] == 5
        assert found["genba/status/gw-1"] == b"online"
        await sink.aclose()
        await asyncio.to_thread(late.wait, lambda messages: len(messages) >= 4)
        await asyncio.sleep(0.3)
        assert late.messages[3:] == [("genba/status/gw-1", b"stopped", False)], "and no last will behind it"


def test_last_will_when_the_gateway_is_killed(mosquitto: Callable[..., Any], tmp_path: Path) -> None:
    broker = mosquitto()
    code = f"""
import asyncio, sys
from pathlib import Path
from cloud_sinks.mqtt import PLUGIN
from cloud_sinks.mqtt.config import MqttConfig
from tests.conformance.sink import context_of
from tests.conftest import ManualClock

async def main():
    sink = PLUGIN.build(MqttConfig(endpoint="mqtt://127.0.0.1:{broker.port}"), context_of(Path({str(tmp_path)!r}), ManualClock()))
    await sink.connect()
    await asyncio.sleep(60)

asyncio.run(main())
"""
    with person(broker.port, "genba/status/#") as operator:
        gateway = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL)
        try:
            operator.wait(lambda messages: len(messages) == 1, timeout_s=30)
        finally:
            gateway.kill()
            gateway.wait()
        operator.wait(lambda messages: len(messages) == 2)
        assert [payload for _, payload, _ in operator.messages] == [b"online", b"offline"]
    with person(broker.port, "genba/status/#") as late:
        late.wait(lambda messages: len(messages) == 1)
        assert late.messages == [("genba/status/gw-1", b"offline", True)]


async def test_a_broker_killed_again_and_again_gets_everything_in_order(
    context: SinkContext, mosquitto: Callable[..., Any]
) -> None:
    """As delivery does it: a span is repeated until it is written. The broker's disk is slower than its death, so a listener counts."""
    broker = await asyncio.to_thread(mosquitto)
    sink = build(context, f"mqtt://127.0.0.1:{broker.port}", timeout="2s")
    heard: list[int] = []
    done = asyncio.Event()

    async def deliver() -> None:
        first = 0
        while first < 3000:
            try:
                await sink.connect()
                while first < 3000:
                    await send(sink, context, rows=50, first=first)
                    heard.extend(range(first, first + 50))
                    first += 50
            except NotConnected:
                await asyncio.sleep(0.02)
        done.set()

    async def disturb() -> None:
        for _ in range(4):
            await asyncio.sleep(0.15)
            await asyncio.to_thread(broker.restart)

    async with asyncio.timeout(50), asyncio.TaskGroup() as group:
        group.create_task(deliver())
        group.create_task(disturb())
    assert heard == list(range(3000))
    await sink.aclose()


async def test_an_idle_connection_notices_that_the_broker_is_gone(context: SinkContext, mosquitto: Callable[..., Any]) -> None:
    broker = mosquitto()
    sink = build(context, f"mqtt://127.0.0.1:{broker.port}")
    await sink.connect()
    broker.kill()
    await asyncio.wait_for(sink.lost(), 2)
    broker.start()
    await sink.connect()
    with person(broker.port, "genba/status/#") as late:
        await asyncio.to_thread(late.wait, lambda messages: messages[-1:] == [("genba/status/gw-1", b"online", True)])
    await sink.aclose()


async def test_commands_over_version_5(context: SinkContext, mosquitto: Callable[..., Any]) -> None:
    broker = mosquitto()
    sink = build(context, f"mqtt://127.0.0.1:{broker.port}")
    await sink.connect()
    with person(broker.port, "nothing") as operator:
        await asyncio.to_thread(operator.publish, "genba/command/gw-1/acknowledge", b'{"id": "x", "by": "Sato"}')
        command = await asyncio.wait_for(anext(sink.commands()), 5)
    assert (command.name, command.arguments) == ("acknowledge", {"id": "x", "by": "Sato"})
    await sink.aclose()


async def test_tls(context: SinkContext, mosquitto: Callable[..., Any]) -> None:
    broker = mosquitto(tls=True)
    endpoint = f"mqtts://localhost:{broker.tls_port}"
    good = build(context, endpoint, ca=str(broker.ca))
    await good.connect()
    await send(good, context, rows=500)
    await good.aclose()
    for stranger in (build(context, endpoint), build(context, endpoint, ca=str(broker.certificate))):
        with pytest.raises(NotConnected, match="certificate is not trusted"):
            await stranger.connect()
        await stranger.aclose()
    careless = build(context, endpoint, insecure=True)
    await careless.connect()
    await careless.aclose()
    plain = build(context, f"mqtt://localhost:{broker.tls_port}", timeout="1s")
    with pytest.raises(NotConnected):
        await plain.connect()
    await plain.aclose()
    reverse = build(context, f"mqtts://localhost:{broker.port}", ca=str(broker.ca), timeout="1s")
    with pytest.raises(NotConnected, match="TLS"):
        await reverse.connect()
    await reverse.aclose()


async def test_mutual_tls(context: SinkContext, mosquitto: Callable[..., Any]) -> None:
    broker = mosquitto(tls=True)
    reconfigure(broker, "require_certificate true")
    endpoint = f"mqtts://localhost:{broker.tls_port}"
    sink = build(context, endpoint, ca=str(broker.ca), certificate=str(broker.certificate), key=str(broker.key))
    await sink.connect()
    await send(sink, context)
    await sink.aclose()
    nobody = build(context, endpoint, ca=str(broker.ca), timeout="2s")
    with pytest.raises(NotConnected, match=r"certificate|TLS|closed"):
        await nobody.connect()
    await nobody.aclose()


@pytest.mark.parametrize("protocol", ["auto", "3.1.1"])
async def test_wrong_credentials(context: SinkContext, mosquitto: Callable[..., Any], protocol: str) -> None:
    broker = mosquitto()
    reconfigure(broker, "allow_anonymous false", without="allow_anonymous true")
    sink = build(context, f"mqtt://127.0.0.1:{broker.port}", protocol=protocol, username="genba", password="wrong")
    with pytest.raises(ConfigError, match="correct username and password"):
        await sink.connect()
    await sink.aclose()


async def test_an_access_list_that_forbids_a_topic_is_named(context: SinkContext, mosquitto: Callable[..., Any]) -> None:
    broker = mosquitto()
    (broker.folder / "acl").write_text("topic readwrite genba/status/#\n")
    (broker.folder / "acl").chmod(0o600)
    reconfigure(broker, f"acl_file {broker.folder / 'acl'}")
    sink = build(context, f"mqtt://127.0.0.1:{broker.port}")
    await sink.connect()
    with pytest.raises(
        ConfigError, match=r"does not let this gateway publish on genba/alert/acme/osaka/press-07/high .*access list"
    ):
        await send(sink, context)
    await sink.aclose()
