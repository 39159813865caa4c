"""The shadow against ministack's IoT Core over mutual TLS, and a whole gateway that is told there what to do."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from cloud_sinks.iot_core import PLUGIN
from cloud_sinks.iot_core.config import IotCoreConfig
from cloud_sinks.iot_core.sink import IotCoreSink
from gateway import config
from gateway.deploy.agent import ShadowAgent
from gateway.pipeline import Pipeline
from gateway.service import running
from gateway.simulation import simulated_plant
from schemas.errors import ConfigError, NotConnected
from schemas.span import Command
from tests.cloud_sinks.ministack import Ministack
from tests.conformance.sink import context_of
from tests.conftest import ManualClock

pytestmark = pytest.mark.interop
LOG = structlog.get_logger()
POLICY = Path(__file__).parents[2] / "deploy/iam/iot.json"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ministack]:
    server = Ministack(tmp_path_factory.mktemp("ministack"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def thing(cloud: Ministack, tmp_path: Path) -> str:
    name = f"gw-{time.monotonic_ns()}"
    cloud.thing(name, tmp_path)
    return name


class Shadow:
    """The cloud's side of one thing's shadow."""

    def __init__(self, cloud: Ministack, thing: str) -> None:
        self._data, self._thing = cloud.client("iot-data"), thing

    @property
    def document(self) -> dict[str, Any]:
        found = self._data.get_thing_shadow(thingName=self._thing, shadowName="genba")
        return dict(json.loads(found["payload"].read()))

    @property
    def reported(self) -> dict[str, Any]:
        try:
            return dict(self.document["state"].get("reported", {}))
        except self._data.exceptions.ResourceNotFoundException:
            return {}

    @property
    def delta(self) -> dict[str, Any]:
        return dict(self.document["state"].get("delta", {}))

    def desire(self, desired: dict[str, Any] | None) -> None:
        payload = json.dumps({"state": {"desired": desired}})
        self._data.update_thing_shadow(thingName=self._thing, shadowName="genba", payload=payload)

    def delete(self) -> None:
        self._data.delete_thing_shadow(thingName=self._thing, shadowName="genba")


def build(cloud: Ministack, thing: str, folder: Path, clock: ManualClock, **options: Any) -> IotCoreSink:
    given = {
        "endpoint": "localhost", "port": cloud.mqtt_port, "thing": thing, "certificate": f"{thing}.pem", "key": f"{thing}.key",
        "ca": "ca.pem", "timeout": "20s", "shadow": True,
    }  # fmt: skip
    made = PLUGIN.build(IotCoreConfig.model_validate({**given, **options}), context_of(folder, clock))
    assert isinstance(made, IotCoreSink)
    return made


@pytest.fixture
async def sink(cloud: Ministack, thing: str, tmp_path: Path, manual_clock: ManualClock) -> AsyncIterator[IotCoreSink]:
    made = build(cloud, thing, tmp_path, manual_clock)
    yield made
    await made.aclose()


async def told(commands: AsyncIterator[Command]) -> tuple[dict[str, Any], int]:
    command = await asyncio.wait_for(anext(commands), 30)
    assert command.name == "desired"
    return json.loads(str(command.arguments["document"])), int(command.arguments["version"])


async def until(happened: Callable[[], Any], within_s: float = 40.0) -> None:
    end = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < end, "it does not happen"
        await asyncio.sleep(0.05)


def test_it_listens_on_loopback_only(cloud: Ministack) -> None:
    listening = {
        line.split()[1]
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/{cloud.pid}/net/{name}").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and int(line.split()[1].rpartition(":")[2], 16) in (cloud.port, cloud.mqtt_port)
    }
    assert {address.partition(":")[0] for address in listening} == {"0100007F"}
    assert len(listening) == 2


async def test_no_document_yet_is_nothing_desired_and_the_first_report_makes_it(
    sink: IotCoreSink, cloud: Ministack, thing: str
) -> None:
    await sink.connect()
    commands = sink.commands()
    await sink.report({"version": "1", "adapters": {"a": {"state": "up"}, "b": {"state": "down"}}})
    assert await told(commands) == ({}, 0)
    shadow = Shadow(cloud, thing)
    assert shadow.reported == {"version": "1", "adapters": {"a": {"state": "up"}, "b": {"state": "down"}}}
    version = shadow.document["version"]
    await sink.report({"version": "1", "adapters": {"a": {"state": "up"}, "b": {"state": "down"}}})
    assert shadow.document["version"] == version  # what is there already is not sent
    await sink.report({"version": "1", "adapters": {"a": {"state": "down"}}})
    assert shadow.reported == {"version": "1", "adapters": {"a": {"state": "down"}}}  # what is gone is gone there too


async def test_a_wish_comes_at_once_and_so_does_its_end(sink: IotCoreSink, cloud: Ministack, thing: str) -> None:
    shadow = Shadow(cloud, thing)
    shadow.desire({"log_level": "debug"})
    await sink.connect()
    commands = sink.commands()
    await sink.report({"version": "1"})
    assert (await told(commands))[0] == {"log_level": "debug"}  # it was there before the connection
    shadow.desire({"sinks": {"lake": {"paused": True}}})
    wish, first = await told(commands)
    assert wish == {"log_level": "debug", "sinks": {"lake": {"paused": True}}}
    shadow.desire({"log_level": None})
    wish, second = await told(commands)
    assert wish == {"sinks": {"lake": {"paused": True}}}  # no delta ever says this
    assert second > first
    await sink.report({"version": "1", "sinks": {"lake": {"paused": True}}})
    assert shadow.delta == {}
    shadow.desire(None)
    assert (await told(commands))[0] == {}


async def test_a_report_while_the_broker_dies_is_made_up_for_by_the_next_connection(
    thing: str, tmp_path: Path, manual_clock: ManualClock, tmp_path_factory: pytest.TempPathFactory
) -> None:
    server = Ministack(tmp_path_factory.mktemp("dies"))
    server.start()
    try:
        server.thing("dies", tmp_path)
        sink = build(server, "dies", tmp_path, manual_clock, timeout="2s")
        await sink.connect()
        commands = sink.commands()
        await sink.report({"version": "1"})
        assert await told(commands) == ({}, 0)
        os.kill(server.pid, signal.SIGSTOP)
        began = time.monotonic()
        reporting = asyncio.create_task(sink.report({"version": "2"}))
        await asyncio.sleep(0.2)
        server.kill()
        with pytest.raises(NotConnected):
            await reporting
        assert time.monotonic() - began < 10
        with pytest.raises(NotConnected):
            await sink.report({"version": "3"})
        server.start()
        server.thing("dies", tmp_path)  # a new authority, and a document that knows nothing
        Shadow(server, "dies").desire({"log_level": "debug"})
        await sink.connect()
        await sink.report({"version": "4"})
        assert Shadow(server, "dies").reported == {"version": "4"}
        assert (await told(commands))[0] == {"log_level": "debug"}
        await sink.aclose()
        assert [command async for command in commands] == []
    finally:
        server.kill()


async def test_a_shadow_that_was_deleted_is_found_out_and_made_again(
    sink: IotCoreSink, cloud: Ministack, thing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadow = Shadow(cloud, thing)
    await sink.connect()
    shadow.desire({"log_level": "debug"})
    commands = sink.commands()
    await sink.report({"version": "1"})
    assert (await told(commands))[0] == {"log_level": "debug"}
    shadow.delete()
    monkeypatch.setattr("cloud_sinks.iot_core.shadow._REFRESH_S", 0.0)
    await sink.report({"version": "1"})
    assert shadow.reported == {"version": "1"}
    assert (await told(commands))[0] == {}


async def test_a_document_larger_than_the_service_keeps_is_not_sent(sink: IotCoreSink, cloud: Ministack, thing: str) -> None:
    await sink.connect()
    with pytest.raises(ConfigError, match=r"9,0\d\d bytes and IoT Core keeps 8,192"):
        await sink.report({"text": "x" * 9000})
    await sink.report({"text": "short"})
    assert Shadow(cloud, thing).reported == {"text": "short"}


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ministack]:
    """One that holds devices to the policies of their certificates."""
    server = Ministack(tmp_path_factory.mktemp("strict"), environment={"AUTH": "true"})
    server.start()
    yield server
    server.kill()


def policy(thing: str, keep: Callable[[dict[str, Any]], bool] = lambda statement: True) -> str:
    text = POLICY.read_text().replace("REGION", "ap-northeast-1").replace("ACCOUNT", "000000000000")
    document = json.loads(text.replace("THING", thing).replace("GATEWAY", "gw-1").replace("RULE", "lake"))
    document["Statement"] = [statement for statement in document["Statement"] if keep(statement)]
    return json.dumps(document)


async def test_the_policy_that_is_shipped_is_enough(strict: Ministack, tmp_path: Path, manual_clock: ManualClock) -> None:
    strict.thing("allowed", tmp_path, policy("allowed"))
    sink = build(strict, "allowed", tmp_path, manual_clock, commands=True)
    await sink.connect()
    commands = sink.commands()
    await sink.report({"version": "1"})
    assert await told(commands) == ({}, 0)
    Shadow(strict, "allowed").desire({"log_level": "debug"})
    assert (await told(commands))[0] == {"log_level": "debug"}
    await sink.aclose()


async def test_without_the_statements_of_the_shadow_it_is_set_aside_and_alerts_go_on(
    strict: Ministack, tmp_path: Path, manual_clock: ManualClock
) -> None:
    """The control: the same policy without these statements. IoT Core hangs up on who subscribes to what it may not."""
    strict.thing("narrow", tmp_path, policy("narrow", lambda statement: "shadow" not in json.dumps(statement)))
    sink = build(strict, "narrow", tmp_path, manual_clock, timeout="10s")
    for _ in range(10):
        await sink.connect()
        try:
            await sink.report({"version": "1"})
        except (NotConnected, ConfigError) as error:
            said = error
        else:
            pytest.fail("it was allowed")
        if isinstance(said, ConfigError):
            break
    assert isinstance(said, ConfigError)
    assert "deploy/iam/iot.json" in said.hint
    await sink.connect()
    with pytest.raises(ConfigError):
        await sink.report({"version": "1"})  # at once, and without asking
    assert sink._connection is not None
    assert not sink._connection.lost.done()
    await sink.aclose()


PLANT = """
enterprise: acme
site: osaka
gateway: gw-1
status: {listen: null}
spool: {commit_every: 20ms}
adapters:
  press: {kind: modbus, endpoint: "tcp://127.0.0.1:1", scan: 100ms, tags: {temp: {address: "hr:0", type: float32}}}
sinks:
  lake: {kind: parquet, location: ./lake}
  core:
    kind: iot_core
    endpoint: localhost
    port: PORT
    thing: THING
    certificate: THING.pem
    key: THING.key
    ca: ca.pem
    shadow: true
    timeout: 5s
"""


@pytest.mark.e2e
async def test_a_gateway_is_told_in_its_shadow_what_to_do(
    cloud: Ministack, thing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ShadowAgent.__init__.__kwdefaults__, "pace_s", 0.2)
    (tmp_path / "plant.yaml").write_text(PLANT.replace("PORT", str(cloud.mqtt_port)).replace("THING", thing))
    configuration = await asyncio.to_thread(config.load, tmp_path / "plant.yaml")
    shadow = Shadow(cloud, thing)

    def paused(pipeline: Pipeline) -> list[str]:
        return [delivery.name for delivery in pipeline.deliveries if delivery.paused]

    def read() -> int:
        return pipeline.collectors[0].rows

    simulated = simulated_plant(configuration)
    async with simulated as servers, running(configuration, log=LOG, endpoints=servers, grace_s=5.0) as (pipeline, _):
        await until(lambda: shadow.reported.get("sinks", {}).get("core", {}).get("state") == "up")
        await until(lambda: shadow.reported["adapters"]["press"]["state"] == "up" and read() > 3)
        ids = [tag.id for tag in pipeline.tags]
        assert shadow.reported["adapters"]["press"]["scan_classes"] == ["100ms"]
        shadow.desire({"sinks": {"lake": {"paused": True}}, "adapters": {"press": {"scan": "500ms"}}})
        await until(lambda: shadow.delta == {})
        assert paused(pipeline) == ["lake"]
        assert [tag.period_us for tag in pipeline.tags] == [500_000]
        assert [tag.id for tag in pipeline.tags] == ids
        before = read()
        await until(lambda: read() > before + 1)
        assert pipeline.collectors[0].state == "up"
        await until(lambda: shadow.reported["adapters"]["press"]["scan_classes"] == ["500ms"])
        shadow.desire({"adapters": {"press": {"scan": "5 furlongs"}}})
        await until(lambda: bool(shadow.reported["errors"]))
        (error,) = shadow.reported["errors"]
        assert (error["code"], error["key"]) == ("E016", "adapters.press.scan")
        assert shadow.delta == {"adapters": {"press": {"scan": "5 furlongs"}}}
        assert [tag.period_us for tag in pipeline.tags] == [500_000]
        shadow.desire({"adapters": None})
        await until(lambda: shadow.delta == {} and shadow.reported["errors"] == [])
        assert [tag.period_us for tag in pipeline.tags] == [100_000]
        shadow.desire({"sinks": {"core": {"paused": True}}})
        await until(lambda: set(paused(pipeline)) == {"lake", "core"})
    async with running(configuration, log=LOG, grace_s=5.0) as (pipeline, _):
        assert set(paused(pipeline)) == {"lake", "core"}  # before anybody was asked
        shadow.desire({"sinks": None})
        await until(lambda: paused(pipeline) == [])  # the sink that is paused itself still hears it
