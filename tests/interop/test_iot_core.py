"""The IoT Core sink against mosquitto with mutual TLS: the suite every sink passes, certificates, quotas, losses, commands."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pyarrow as pa
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from cloud_sinks.base import Sink, SinkContext
from cloud_sinks.iot_core import PLUGIN
from cloud_sinks.iot_core.config import IotCoreConfig
from schemas.errors import ConfigError, NotConnected, Rejected
from schemas.kinds import Kind, telemetry, with_seq
from tests.authority import Authority
from tests.conformance.sink import T0, SinkConformance, Tags, batch_of, context_of, span_of
from tests.conftest import ManualClock

pytestmark = pytest.mark.interop
KINDS: tuple[Kind, ...] = ("telemetry", "alert", "event")


class Listener:
    """Keeps every message that the broker gives to a subscriber in the plant, over its plain listener."""

    def __init__(self, port: int, *topics: str) -> None:
        self.got: list[tuple[str, bytes]] = []
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.on_message = lambda _client, _data, message: self.got.append((message.topic, message.payload))
        self._client.on_connect = lambda client, *_: [client.subscribe(topic, qos=1) for topic in topics]
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        time.sleep(0.1)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self._client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(5)

    def rows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for _, data in list(self.got):
            message = json.loads(data)
            found += message.get("rows", [message])
        return found

    def wait(self, rows: int) -> list[dict[str, Any]]:
        """Until so many different rows are there: what was sent again counts once."""
        deadline = time.monotonic() + 20
        while len({row["row"] for row in self.rows()}) < rows and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.rows()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@contextmanager
def listening(port: int, *topics: str) -> Iterator[Listener]:
    listener = Listener(port, *topics)
    try:
        yield listener
    finally:
        listener.close()


def start_broker(mosquitto: Callable[..., Any]) -> Any:
    """mosquitto that asks for a client certificate, as IoT Core does."""
    broker = mosquitto(tls=True)
    file = broker.folder / "mosquitto.conf"
    lines = ["require_certificate true", "max_inflight_messages 1000", "max_queued_messages 100000"]
    file.write_text(file.read_text() + "\n".join(lines) + "\n")
    broker.restart()
    return broker


def build(context: SinkContext, broker: Any, **options: Any) -> Sink:
    given = {
        "endpoint": "localhost", "port": broker.tls_port, "thing": "gw-1", "certificate": str(broker.certificate), "key": str(broker.key),
        "ca": str(broker.ca), "timeout": "3s", "max_messages": 100_000, "max_bytes": "1 GB",
    }  # fmt: skip
    return PLUGIN.build(IotCoreConfig.model_validate({**given, **options}), context)


class IotHarness:
    exactly_once = False
    kinds = KINDS

    def __init__(self, broker: Any) -> None:
        self._broker = broker
        self._listener = Listener(broker.port, "genba/gw-1/#")

    def build(self, context: SinkContext) -> Sink:
        return build(context, self._broker)

    async def down(self) -> None:
        await asyncio.to_thread(self._broker.kill)

    async def up(self) -> None:
        await asyncio.to_thread(self._broker.start)
        await asyncio.sleep(1.3)  # the listener is back

    async def rows(self, kind: Kind, context: SinkContext, expected: int) -> list[tuple[int, str]]:
        def mine() -> list[dict[str, Any]]:
            return [
                row for topic, data in list(self._listener.got) if topic == f"genba/gw-1/{kind}"
                for row in json.loads(data).get("rows", [json.loads(data)])
            ]  # fmt: skip

        for _ in range(100):
            if len(mine()) >= expected:
                break
            await asyncio.sleep(0.02)
        return [(row["row"], row["tag"]) for row in mine()]

    def close(self) -> None:
        self._listener.close()


class TestConformance(SinkConformance):
    @pytest.fixture
    async def harness(self, mosquitto: Callable[..., Any]) -> AsyncIterator[IotHarness]:
        harness = IotHarness(await asyncio.to_thread(start_broker, mosquitto))
        yield harness
        harness.close()


@pytest.fixture
def broker(mosquitto: Callable[..., Any]) -> Any:
    return start_broker(mosquitto)


@pytest.fixture
def context(tmp_path: Path, manual_clock: ManualClock) -> SinkContext:
    return context_of(tmp_path, manual_clock)


async def send(sink: Sink, context: SinkContext, rows: int = 3, *, kind: Kind = "telemetry") -> None:
    assert isinstance(context.tags, Tags)
    await sink.connect()
    try:
        await sink.write([batch_of(kind, 0, rows, context.tags)], span_of(kind, 0, rows))
    finally:
        await sink.aclose()


async def until(happened: Callable[[], bool]) -> None:
    for _ in range(5000):
        if happened():
            return
        await asyncio.sleep(0.001)
    pytest.fail("it does not happen")


async def test_readings_go_together_and_stay_below_the_limit(broker: Any, context: SinkContext) -> None:
    with listening(broker.port, "genba/#") as listener:
        await send(build(context, broker, max_payload="10 kB"), context, 500)
        rows = await asyncio.to_thread(listener.wait, 500)
    assert [row["row"] for row in rows] == list(range(500))
    assert 5 < len(listener.got) < 100
    assert max(len(data) for _, data in listener.got) <= 10_000


async def test_compressed_messages_are_a_fraction(broker: Any, context: SinkContext) -> None:
    with listening(broker.port, "genba/#") as listener:
        await send(build(context, broker, compression="zstd"), context, 300)
        await until(lambda: bool(listener.got))
    (data,) = [data for _, data in listener.got]
    plain = pa.CompressedInputStream(pa.BufferReader(data), "zstd").read()
    assert len(json.loads(plain)["rows"]) == 300
    assert len(data) < len(plain) / 5


async def test_basic_ingest_goes_to_the_rule(broker: Any, context: SinkContext) -> None:
    """mosquitto delivers no `$aws`, and acknowledges with 16, nobody is subscribed: a success."""
    await send(build(context, broker, rule="genba_lake"), context)


async def test_an_asset_too_deep_for_a_topic_is_given_back(broker: Any, tmp_path: Path, manual_clock: ManualClock) -> None:
    context = context_of(
        tmp_path, manual_clock, Tags("acme/osaka/a/temp", "acme/osaka/a/b/c/d/e/f/g/temp", f"acme/osaka/{'x' * 250}/temp")
    )
    sink = build(context, broker, topic="genba/{data}/{asset}", batch=False)
    await sink.connect()
    batch = with_seq(telemetry(time_us=[T0] * 3, tag=[0, 1, 2], quality=0, value=[1.0] * 3), 0)
    with pytest.raises(Rejected, match="slashes") as caught:
        await sink.write([batch], span_of("telemetry", 0, 3))
    await sink.aclose()
    assert caught.value.rows == (1, 2)


async def test_a_message_too_large_is_given_back(broker: Any, context: SinkContext) -> None:
    sink = build(context, broker, max_payload="2 kB", batch=False)
    await sink.connect()
    batch = with_seq(telemetry(time_us=[T0] * 2, tag=[0, 0], quality=0, text=["x" * 3000, "y"]), 0)
    with pytest.raises(Rejected, match=r"3,[0-9]+ bytes and 2,000 are allowed") as caught:
        await sink.write([batch], span_of("telemetry", 0, 2))
    await sink.aclose()
    assert caught.value.rows == (0,)


async def test_a_broker_that_hangs_up_in_the_middle_is_noticed_and_everything_arrives(broker: Any, context: SinkContext) -> None:
    assert isinstance(context.tags, Tags)
    rows, span = [batch_of("alert", 0, 900, context.tags)], span_of("alert", 0, 900)
    with listening(broker.port, "genba/#") as listener:
        sink = build(context, broker)
        await sink.connect()
        writing = asyncio.create_task(sink.write(rows, span))
        await until(lambda: len(listener.got) >= 20 or writing.done())
        os.kill(broker.pid, signal.SIGSTOP)
        await asyncio.sleep(0.1)
        await asyncio.to_thread(broker.kill)
        with pytest.raises(NotConnected):
            await writing
        await asyncio.wait_for(sink.lost(), 5)
        await asyncio.to_thread(broker.start)
        await asyncio.sleep(1.3)
        await sink.connect()
        await sink.write(rows, span)
        await sink.aclose()
        await asyncio.to_thread(listener.wait, 900)
        assert {row["row"] for row in listener.rows()} == set(range(900))


async def test_a_frozen_broker_is_noticed_within_the_timeout(broker: Any, context: SinkContext) -> None:
    assert isinstance(context.tags, Tags)
    sink = build(context, broker, timeout="2s")
    await sink.connect()
    os.kill(broker.pid, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(NotConnected, match=r"no acknowledgement within 2 s|OPERATION|TIMEOUT"):
        await sink.write([batch_of("alert", 0, 1, context.tags)], span_of("alert", 0, 1))
    assert time.monotonic() - began < 5
    os.kill(broker.pid, signal.SIGCONT)
    await sink.aclose()


async def test_it_keeps_to_the_quota(broker: Any, context: SinkContext) -> None:
    """200 messages at 100 a second: a second's worth at once, the rest in a second."""
    loop = asyncio.get_running_loop()
    sink = build(context, broker, max_messages=100)
    assert isinstance(context.tags, Tags)
    await sink.connect()
    began = loop.time()
    await sink.write([batch_of("alert", 0, 200, context.tags)], span_of("alert", 0, 200))
    assert loop.time() - began > 0.95
    await sink.aclose()


async def test_commands_are_taken_where_asked_for(broker: Any, context: SinkContext) -> None:
    sink = build(context, broker, commands=True)
    await sink.connect()
    with listening(broker.port) as person:
        await asyncio.to_thread(person.publish, "genba/command/gw-1/acknowledge", b'{"id": "a1"}')
        await asyncio.to_thread(person.publish, "genba/command/gw-1/format_disk", b"{}")
    commands = sink.commands()
    found = await asyncio.wait_for(anext(commands), 5)
    assert (found.name, found.arguments, found.source) == ("acknowledge", {"id": "a1"}, "iot_core sink out")
    await sink.aclose()
    assert [command async for command in commands] == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ours, foreign = tmp_path / "ours", tmp_path / "foreign"
    for one in (ours, foreign):
        one.mkdir()
        authority = Authority(one, "ca")
        authority.issue("gw-1", [])
        authority.issue("old", [], days=(-3, -1))
        authority.issue("young", [], days=(1, 3))
        authority.issue("gw-2", [])
    return tmp_path


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"ca": "ours/ca.pem"}, ConfigError, "not believed.*`ca`"),
        ({"ca": None}, ConfigError, "not believed.*`ca`"),
        ({"ca": "ours/none.pem"}, ConfigError, "none.pem cannot be used"),
        ({"certificate": "ours/gw-1.pem", "key": "ours/gw-1.key"}, ConfigError, "does not take this gateway's certificate"),
        ({"certificate": "ours/gw-1.pem", "key": "ours/gw-2.key"}, ConfigError, "belong together"),
        ({"certificate": "ours/none.pem"}, ConfigError, "none.pem is not there"),
        ({"certificate": "ours/old.pem", "key": "ours/old.key"}, ConfigError, r"old.pem has expired on 20.*new certificate"),
        ({"certificate": "ours/young.pem", "key": "ours/young.key"}, NotConnected, r"young.pem is valid from 20.*is it right"),
    ],
    ids=[
        "authority",
        "no authority",
        "no such file",
        "unknown certificate",
        "another key",
        "no certificate",
        "expired",
        "not yet",
    ],
)
async def test_tls_is_explained_in_under_three_seconds(
    broker: Any, folder: Path, manual_clock: ManualClock, options: dict[str, Any], error: type[Exception], says: str
) -> None:
    sink = build(context_of(folder, manual_clock), broker, **options)
    began = time.monotonic()
    with pytest.raises(error, match=says):
        await sink.connect()
    assert time.monotonic() - began < 3
    await sink.aclose()


async def test_nobody_there(broker: Any, context: SinkContext) -> None:
    await asyncio.to_thread(broker.kill)
    sink = build(context, broker)
    with pytest.raises(NotConnected, match=r"[Rr]efused"):
        await sink.connect()
    await sink.aclose()


def policed(mosquitto: Callable[..., Any], *lines: str) -> Any:
    """A broker that lets in, or publish, only whom it is told to."""
    broker = start_broker(mosquitto)
    file = broker.folder / "mosquitto.conf"
    given = [line.format(folder=broker.folder) for line in lines]
    file.write_text(
        "per_listener_settings false\n" + file.read_text().replace("allow_anonymous true\n", "") + "\n".join(given) + "\n"
    )
    broker.restart()
    return broker


async def test_a_certificate_of_another_thing_is_for_a_person(mosquitto: Callable[..., Any], context: SinkContext) -> None:
    """CONNACK not authorized: what IoT Core says when the policy does not allow the client id."""
    broker = await asyncio.to_thread(policed, mosquitto, "allow_anonymous false")
    sink = build(context, broker, thing="gw-2")
    with pytest.raises(ConfigError, match=r"policy does not allow iot:Connect with this client id.*correct the policy") as caught:
        await sink.connect()
    assert caught.value.where == "sinks.out"
    await sink.aclose()


async def test_a_topic_that_the_policy_does_not_allow_is_for_a_person(
    mosquitto: Callable[..., Any], context: SinkContext
) -> None:
    """PUBACK not authorized. Nothing is dead-lettered for it: with the policy corrected the rows go."""
    (acl := context.base / "acl").write_text("pattern write elsewhere/#\n", encoding="utf-8")
    broker = await asyncio.to_thread(policed, mosquitto, "allow_anonymous true", f"acl_file {acl}")
    sink = build(context, broker)
    with pytest.raises(ConfigError, match=r"does not let this gateway publish on genba/gw-1/alert.*allow iot:Publish"):
        await send(sink, context, kind="alert")
    acl.write_text("pattern write genba/#\n", encoding="utf-8")
    await asyncio.to_thread(broker.restart)
    await send(build(context, broker), context, kind="alert")


async def test_one_that_accepts_and_says_nothing_is_given_up_and_leaves_nothing(broker: Any, context: SinkContext) -> None:
    """The first connection of each try, the sink's own handshake, reaches the broker; the second, the SDK's, is held for ever."""
    held: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        if len(held) % 2 == 0:
            await reader.read()
            return
        onward_reader, onward = await asyncio.open_connection("127.0.0.1", broker.tls_port)
        await asyncio.gather(_pass_on(reader, onward), _pass_on(onward_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    counts = []
    for _ in range(3):
        sink = build(context, broker, port=server.sockets[0].getsockname()[1], timeout="2s")
        with pytest.raises(NotConnected, match=r"localhost:[0-9]+ does not answer"):
            await asyncio.wait_for(sink.connect(), 10)
        await sink.aclose()
        counts.append(_threads())
    assert len(held) == 6
    await until(lambda: _threads() <= counts[0])
    for writer in held:
        writer.close()
    server.close()
    await asyncio.sleep(0.1)


def _threads() -> int:
    return sum(not thread.name.startswith("asyncio_") for thread in threading.enumerate())


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def test_a_hundred_thousand_tags_in_a_span(broker: Any, tmp_path: Path, manual_clock: ManualClock) -> None:
    tags = Tags(*(f"acme/osaka/line-{n % 500}/t{n}" for n in range(100_000)))
    with listening(broker.port, "genba/#") as listener:
        sink = build(context_of(tmp_path, manual_clock, tags), broker)
        await sink.connect()
        await sink.write([batch_of("telemetry", 0, 100_000, tags)], span_of("telemetry", 0, 100_000))
        await sink.aclose()

        def held() -> int:
            return sum(len(json.loads(data)["rows"]) for _, data in list(listener.got))

        for _ in range(100):
            if await asyncio.to_thread(held) >= 100_000:
                break
            await asyncio.sleep(0.1)
        rows = [row for _, data in listener.got for row in json.loads(data)["rows"]]
    assert [row["row"] for row in rows] == list(range(100_000))
    assert all(row["tag"] == tags[row["row"]].path for row in rows)
