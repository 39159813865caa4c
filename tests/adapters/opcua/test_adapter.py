"""The adapter against asyncua's server: values and times, restarts, bad nodes, servers that lie, are silent or speak nonsense."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
import structlog
from asyncua import Server, ua

from adapters.opcua import adapter as adapter_module
from adapters.opcua import connection, cyclic, subscriptions
from adapters.opcua.simulator import stop
from adapters.simulation import SignalConfig
from schemas import quality as q
from schemas.errors import ConfigError, NotConnected
from tests.adapters.opcua.rig import Recorder, configure, make_adapter, make_simulator, read_some

pytestmark = pytest.mark.asyncio(loop_scope="module")

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Plant:
    """An asyncua server whose variables a test writes itself."""

    def __init__(self, server: Server) -> None:
        self.server = server
        assert server.bserver is not None
        self.endpoint = f"opc.tcp://127.0.0.1:{server.bserver.port}/plant"

    async def add(self, name: str, value: object, kind: ua.VariantType) -> ua.NodeId:
        node = ua.NodeId(name, 2)
        await self.server.nodes.objects.add_variable(node, ua.QualifiedName(name, 2), value, kind)
        return node

    async def write(self, node: ua.NodeId, value: ua.DataValue) -> None:
        await self.server.write_attribute_value(node, value)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plant() -> AsyncIterator[Plant]:
    """One server for all tests of this file (it takes a second to start); each test adds its own variables."""
    server = Server()
    await server.init()
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    server.set_endpoint("opc.tcp://127.0.0.1:0/plant")
    await server.register_namespace("http://acme.example/plant")
    await server.start()
    yield Plant(server)
    await stop(server)


async def test_values_of_every_type_come_from_the_simulator(tmp_path: Path) -> None:
    tags = {
        "d": {"address": "ns=2;s=D"},
        "f": {"address": "nsu=http://acme.example/x;i=5", "type": "float32", "scale": 0.5, "offset": 10},
        "path": {"address": "/Objects/2:Plant/3:Robot/2:Temp", "type": "int16"},
        "flag": {"address": "ns=4;s=Flag", "type": "bool"},
        "big": {"address": "ns=2;i=9", "type": "int64", "scan": "100ms"},
        "word": {"address": "ns=2;s=Word", "type": "string"},
        "mode": {"address": "ns=2;s=Mode", "enum": {3: "run"}},
        "when": {"address": "ns=2;s=When", "type": "datetime"},
        "time": {"address": "i=2258"},
    }
    config = configure(tags)
    constants: dict[str, float | str | bool] = {
        "d": 1.25,
        "f": 12.5,
        "path": -7,
        "flag": 1,
        "big": 2**40,
        "word": "läuft",
        "mode": 3,
    }
    simulator = make_simulator(config, {f"**/{name}": SignalConfig(constant=value) for name, value in constants.items()})
    try:
        endpoint = await simulator.start()
        seen = await read_some(configure(tags, endpoint), tmp_path)
    finally:
        await simulator.aclose()
    first = {name: rows[0] for name, rows in seen.rows.items()}
    assert {name: first[name]["value"] for name in ("d", "f", "path", "flag", "mode")} == {
        "d": 1.25,
        "f": 12.5,
        "path": -7.0,
        "flag": 1.0,
        "mode": 3.0,
    }
    assert (first["big"]["value_int"], first["big"]["value"]) == (2**40, None)
    assert (first["word"]["text"], first["mode"]["text"]) == ("läuft", "run")
    for name in ("when", "time"):
        assert abs(datetime.fromisoformat(first[name]["text"]) - datetime.now(UTC)) < timedelta(seconds=30)
    assert {row["quality"] for row in first.values()} == {q.GOOD}


async def test_source_time_status_and_lag_arrive_as_sent(plant: Plant, tmp_path: Path) -> None:
    node = await plant.add("Stamped", 0.0, ua.VariantType.Double)
    source = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    status = ua.StatusCode(q.UNCERTAIN_ENGINEERING_UNITS_EXCEEDED)
    await plant.write(node, ua.DataValue(ua.Variant(7.5, ua.VariantType.Double), status, source, datetime.now(UTC)))
    before = time.time()
    seen = await read_some(configure({"t": "ns=2;s=Stamped"}, plant.endpoint), tmp_path)
    row = seen.rows["t"][0]
    time_us = (source - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert (row["time"], row["value"], row["quality"]) == (time_us, 7.5, q.UNCERTAIN_ENGINEERING_UNITS_EXCEEDED)
    assert before - 0.1 <= (row["time"] + row["lag"] * 1000) / 1e6 <= time.time() + 0.1 or row["lag"] == 2**31 - 1


async def test_every_change_comes_once_and_in_order(plant: Plant, tmp_path: Path) -> None:
    node = await plant.add("Ordered", -1.0, ua.VariantType.Double)
    config = configure({"t": "ns=2;s=Ordered"}, plant.endpoint, queue_size=1000)
    adapter = make_adapter(config, tmp_path)
    await adapter.connect()
    seen = Recorder(config)
    async with aclosing(adapter.batches()) as stream:
        await seen.until(stream, Recorder.everything)
        for i in range(500):
            await plant.write(node, ua.DataValue(ua.Variant(float(i), ua.VariantType.Double)))
            if i % 100 == 0:
                await asyncio.sleep(0.06)
        await seen.until(stream, lambda r: len(r.rows["t"]) >= 501)
    assert [row["value"] for row in seen.rows["t"]] == [-1.0, *map(float, range(500))]
    assert len(seen.batches) < 60
    await adapter.aclose()


async def test_one_bad_node_takes_no_other_along_and_is_taken_when_it_appears(
    plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "RETRY_S", 0.2)
    await plant.add("Good", 1.0, ua.VariantType.Double)
    await plant.add("Text", "n/a", ua.VariantType.String)
    tags = {
        "good": "ns=2;s=Good",
        "missing": "ns=2;s=Missing",
        "space": "nsu=http://nobody.example;s=Good",
        "path": "/Objects/2:Nowhere",
        "text": {"address": "ns=2;s=Text", "type": "float64"},
    }
    config = configure(tags, plant.endpoint)
    with structlog.testing.capture_logs() as logs:
        adapter = make_adapter(config, tmp_path)
        await adapter.connect()
        seen = Recorder(config)
        async with aclosing(adapter.batches()) as stream:
            await seen.until(stream, Recorder.everything)
            await plant.add("Missing", 2.0, ua.VariantType.Double)
            await seen.until(stream, lambda r: len(r.rows["missing"]) > 1)
        await adapter.aclose()
    assert {name: rows[0]["quality"] for name, rows in seen.rows.items()} == {
        "good": q.GOOD,
        "missing": q.BAD_NODE_ID_UNKNOWN,
        "space": q.BAD_NODE_ID_UNKNOWN,
        "path": ua.StatusCodes.BadNoMatch,
        "text": q.BAD_TYPE_MISMATCH,
    }
    assert [row["value"] for row in seen.rows["missing"]] == [None, 2.0]
    assert [len(seen.rows[name]) for name in ("space", "path")] == [1, 1]
    refused = [entry for entry in logs if entry["event"] == "tags cannot be read"]
    assert [entry["count"] for entry in refused] == [3]
    assert "acme/osaka/robot/missing (ns=2;s=Missing): BadNodeIdUnknown" in refused[0]["tags"]
    assert [entry["tags"] for entry in logs if entry["event"] == "tags can be read again"] == [
        ["acme/osaka/robot/missing (ns=2;s=Missing)"]
    ]


async def test_a_restarted_server_is_read_again_by_the_same_adapter(tmp_path: Path) -> None:
    tags = {"t": "ns=2;s=T", "slow": {"address": "ns=2;s=S", "scan": "10s"}}
    simulator = make_simulator(configure(tags))
    endpoint = await simulator.start()
    config = configure(tags, endpoint)
    adapter = make_adapter(config, tmp_path)
    await adapter.connect()
    seen = Recorder(config)
    async with aclosing(adapter.batches()) as stream:
        await seen.until(stream, Recorder.everything)
        await simulator.aclose()
        with pytest.raises(NotConnected):
            await seen.until(stream, lambda _: False, timeout_s=5)
    for _ in range(3):
        with pytest.raises(NotConnected):
            await adapter.connect()
    again = make_simulator(configure(tags))
    assert await again.start(port=int(endpoint.rpartition(":")[2].partition("/")[0])) == endpoint
    await adapter.connect()
    after = Recorder(config)
    async with aclosing(adapter.batches()) as stream:
        await after.until(stream, Recorder.everything, timeout_s=5)
    await adapter.aclose()
    await again.aclose()


async def test_a_subscription_that_the_server_drops_is_a_lost_connection(plant: Plant, tmp_path: Path) -> None:
    await plant.add("Dropped", 1.0, ua.VariantType.Double)
    config = configure({"t": "ns=2;s=Dropped"}, plant.endpoint)
    adapter = make_adapter(config, tmp_path)
    await adapter.connect()
    seen = Recorder(config)
    async with aclosing(adapter.batches()) as stream:
        await seen.until(stream, Recorder.everything)
        service = plant.server.iserver.subscription_service
        await service.delete_subscriptions(list(service.subscriptions))
        with pytest.raises(NotConnected):
            await seen.until(stream, lambda _: False, timeout_s=6)
    await adapter.aclose()


async def test_a_server_without_subscriptions_is_read_cyclically(
    plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unsupported(*_: object, **__: object) -> None:
        raise ua.UaStatusCodeError(ua.StatusCodes.BadServiceUnsupported)

    monkeypatch.setattr(connection._Session, "create_subscription", unsupported)
    monkeypatch.setattr(cyclic, "RETRY_S", 0.3)
    await plant.add("Cyclic", 1.0, ua.VariantType.Double)
    await plant.add("N", 2**50, ua.VariantType.Int64)
    tags = {
        "t": "ns=2;s=Cyclic",
        "n": {"address": "/Objects/2:N", "scan": "20ms"},
        "x": "ns=2;s=Absent",
        "y": "/Objects/2:Late",
        "z": "/Objects/2:Never",
    }
    config = configure(tags, plant.endpoint)
    with structlog.testing.capture_logs() as logs:
        adapter = make_adapter(config, tmp_path)
        await adapter.connect()
        seen = Recorder(config)
        async with aclosing(adapter.batches()) as stream:
            await seen.until(stream, lambda r: r.everything() and len(r.rows["t"]) >= 3 and len(r.rows["n"]) >= 5)
            assert len(seen.rows["y"]) == 1
            await plant.add("Late", 2.0, ua.VariantType.Double)
            await seen.until(stream, lambda r: len(r.rows["y"]) >= 3)
        await adapter.aclose()
    assert {row["value"] for row in seen.rows["t"]} == {1.0}
    assert {row["value_int"] for row in seen.rows["n"]} == {2**50}
    assert {row["quality"] for row in seen.rows["x"]} == {q.BAD_NODE_ID_UNKNOWN}
    assert [row["value"] for row in seen.rows["y"]][:3] == [None, 2.0, 2.0]
    assert len(seen.rows["z"]) == 1
    told = [(entry["event"], name) for entry in logs for name in entry.get("tags", [])]
    assert told == [  # each once, however many polls there were
        ("tags cannot be read", "acme/osaka/robot/y (/Objects/2:Late): BadNoMatch"),
        ("tags cannot be read", "acme/osaka/robot/z (/Objects/2:Never): BadNoMatch"),
        ("tags cannot be read", "acme/osaka/robot/x (ns=2;s=Absent): BadNodeIdUnknown"),
        ("tags can be read again", "acme/osaka/robot/y (/Objects/2:Late)"),
    ]


async def test_the_secure_channel_is_renewed_in_time(plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_CHANNEL_LIFETIME_MS", 800)
    monkeypatch.setattr(adapter_module, "_QUIET_S", 0.1)
    renewals: list[float] = []
    plain = connection._Client.open_secure_channel

    async def counting(self: connection._Client, renew: bool = False) -> None:
        renewals.extend([time.monotonic()] if renew else [])
        await plain(self, renew)

    monkeypatch.setattr(connection._Client, "open_secure_channel", counting)
    node = await plant.add("Renewed", 0.0, ua.VariantType.Double)
    config = configure({"t": "ns=2;s=Renewed"}, plant.endpoint)
    adapter = make_adapter(config, tmp_path)
    await adapter.connect()
    seen = Recorder(config)
    async with aclosing(adapter.batches()) as stream:
        for i in range(12):
            await plant.write(node, ua.DataValue(ua.Variant(i + 1.0, ua.VariantType.Double)))
            await seen.until(stream, lambda r, wanted=i + 1.0: r.rows["t"] and r.rows["t"][-1]["value"] == wanted)
            await asyncio.sleep(0.15)
    await adapter.aclose()
    assert 2 <= len(renewals) <= 4


async def test_no_tags_is_a_connection_all_the_same(plant: Plant, tmp_path: Path) -> None:
    adapter = make_adapter(configure({}, plant.endpoint), tmp_path)
    await adapter.connect()
    async with aclosing(adapter.batches()) as stream:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await anext(stream)
    await adapter.aclose()


async def test_closing_is_idempotent_and_legal_at_any_time(plant: Plant, tmp_path: Path) -> None:
    adapter = make_adapter(configure({"t": "i=2258"}, plant.endpoint), tmp_path)
    await adapter.aclose()
    with pytest.raises(NotConnected):
        await anext(adapter.batches())
    await adapter.connect()
    await adapter.connect()
    await adapter.aclose()
    await adapter.aclose()
    assert plant.server.iserver.subscription_service.subscriptions == {}


async def test_security_that_the_server_does_not_offer_is_never_left_out(plant: Plant, tmp_path: Path) -> None:
    config = configure({}, plant.endpoint, security={"policy": "Aes256Sha256RsaPss"})
    with pytest.raises(ConfigError, match="no endpoint with Aes256Sha256RsaPss") as error:
        await make_adapter(config, tmp_path).connect()
    assert "None" in error.value.hint


async def test_nobody_listens(tmp_path: Path) -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    adapter = make_adapter(configure({}, f"opc.tcp://127.0.0.1:{port}"), tmp_path)
    for _ in range(3):
        with pytest.raises(NotConnected):
            await adapter.connect()
    await adapter.aclose()


@asynccontextmanager
async def impostor(handler: Handler) -> AsyncIterator[str]:
    """A TCP server that is no OPC UA server."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
            await reader.read()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"opc.tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0.05)


async def test_a_peer_that_never_answers(tmp_path: Path) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with impostor(silent) as endpoint:
        adapter = make_adapter(configure({}, endpoint, timeout="200ms"), tmp_path)
        began = time.monotonic()
        with pytest.raises(NotConnected) as error:
            await adapter.connect()
        assert error.value.quality == q.BAD_TIMEOUT
        assert time.monotonic() - began < 2
        await adapter.aclose()


ACKNOWLEDGE = b"ACKF" + (28).to_bytes(4, "little") + b"\0\0\0\0" + b"\xff\xff\0\0" * 2 + b"\0\0\0\0" * 2


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x00" * 64,
        b"ACKF" + (8).to_bytes(4, "little"),
        b"ERRF" + (16).to_bytes(4, "little") + (0x80010000).to_bytes(4, "little") + b"\xff\xff\xff\xff",
        ACKNOWLEDGE + b"OPNF" + (40).to_bytes(4, "little") + b"\xff" * 32,
        ACKNOWLEDGE + b"MSGF" + (24).to_bytes(4, "little") + b"\x00" * 16,
    ],
)
async def test_a_peer_that_speaks_nonsense(answer: bytes, tmp_path: Path) -> None:
    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(answer)

    async with impostor(nonsense) as endpoint:
        adapter = make_adapter(configure({}, endpoint, timeout="300ms"), tmp_path)
        with pytest.raises(NotConnected):
            await adapter.connect()
        await adapter.aclose()


async def test_an_endless_chunk_is_not_collected(tmp_path: Path) -> None:
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.read(8)
        writer.write(ACKNOWLEDGE + b"MSGF" + (2**31).to_bytes(4, "little"))
        while True:
            writer.write(b"\0" * 65536)
            sent += 65536
            await writer.drain()

    async with impostor(flood) as endpoint:
        adapter = make_adapter(configure({}, endpoint, timeout="5s"), tmp_path)
        with pytest.raises(NotConnected):
            await adapter.connect()
        await adapter.aclose()
    assert sent < 64 * 2**20
