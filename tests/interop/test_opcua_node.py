"""The OPC UA adapter against node-opcua: values of every type, states, a bad node, encryption, and a server that is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Protocol

import pytest

from adapters.opcua.store import Store
from schemas import quality as q
from schemas.errors import ConfigError, NotConnected
from tests.adapters.opcua.rig import Recorder, configure, make_adapter, read_some

pytestmark = pytest.mark.interop

PRESS = {
    "temperature": "ns=1;s=temperature",
    "counter": {"address": "ns=1;s=counter", "type": "uint32"},
    "small": {"address": "nsu=urn:genba:interop;s=small", "type": "int16"},
    "large": "ns=1;s=large",
    "float": "/Objects/1:Press/1:float",
    "running": {"address": "ns=1;s=running", "type": "bool"},
    "name": {"address": "ns=1;s=name", "type": "string"},
    "started": {"address": "ns=1;s=started", "type": "datetime"},
    "broken": "ns=1;s=broken",
    "unsure": "ns=1;s=unsure",
    "profile": "ns=1;s=profile",
    "nowhere": "ns=1;s=nowhere",
    "nameless": "/Objects/1:Press/1:Nameless",
}


class Started(Protocol):
    port: int
    pid: int

    def kill(self) -> None: ...
    def start(self) -> None: ...


@pytest.fixture
async def server(opcua_node_server: Callable[[], Started]) -> Started:
    return await asyncio.to_thread(opcua_node_server)


def endpoint(server: Started) -> str:
    return f"opc.tcp://127.0.0.1:{server.port}"


async def test_types_states_and_bad_nodes(server: Started, tmp_path: Path) -> None:
    config = configure(PRESS, endpoint(server))
    seen = await read_some(config, tmp_path, lambda r: r.everything() and len(r.rows["counter"]) > 3)
    first = {name: rows[0] for name, rows in seen.rows.items()}
    assert {name: first[name]["value"] for name in ("temperature", "small", "float", "unsure")} == {
        "temperature": 21.5,
        "small": -1234.0,
        "float": -7.25,
        "unsure": 1.0,
    }
    assert (first["large"]["value"], first["large"]["value_int"]) == (None, 9007199254740993)
    assert first["name"]["text"] == "GENBA"
    assert first["started"]["text"] == "2026-01-02T03:04:05.678000Z"
    assert first["running"]["value"] in (0.0, 1.0)
    assert {name: first[name]["quality"] for name in ("broken", "unsure", "profile", "nowhere")} == {
        "broken": q.BAD_SENSOR_FAILURE,
        "unsure": q.UNCERTAIN_LAST_USABLE_VALUE,
        "profile": q.BAD_TYPE_MISMATCH,
        "nowhere": q.BAD_NODE_ID_UNKNOWN,
    }
    assert first["nameless"]["quality"] >= q.BAD
    assert all(first[name]["value"] is None for name in ("broken", "profile", "nowhere", "nameless"))
    counts = [row["value"] for row in seen.rows["counter"]]
    assert counts == sorted(set(counts))
    fresh = seen.rows["counter"][-1]
    assert abs(fresh["time"] / 1e6 - time.time()) < 5
    assert 0 <= fresh["lag"] < 2000


async def test_a_thousand_tags_come_in_few_batches(server: Started, tmp_path: Path) -> None:
    config = configure({f"t{i}": f"ns=1;s=many.{i}" for i in range(1000)}, endpoint(server))
    seen = await read_some(config, tmp_path)
    assert [seen.rows[f"t{i}"][0]["value"] for i in range(1000)] == [float(i) for i in range(1000)]
    assert len(seen.batches) <= 20


async def test_values_again_within_5_s_after_a_killed_server_is_back(server: Started, tmp_path: Path) -> None:
    config = configure(PRESS, endpoint(server))
    adapter = make_adapter(config, tmp_path)
    await adapter.connect()
    before = Recorder(config)
    async with aclosing(adapter.batches()) as stream:
        await before.until(stream, Recorder.everything)
        killed = time.monotonic()
        server.kill()
        with pytest.raises(NotConnected):
            await before.until(stream, lambda _: False)
        assert time.monotonic() - killed < 5
    with pytest.raises(NotConnected):
        await adapter.connect()
    await asyncio.to_thread(server.start)
    up = time.monotonic()
    await adapter.connect()
    after = Recorder(config)
    async with aclosing(adapter.batches()) as stream:
        await after.until(stream, Recorder.everything)
    assert time.monotonic() - up < 5
    assert after.rows["temperature"][0]["value"] == 21.5
    await adapter.aclose()


async def test_a_frozen_server_is_noticed_within_5_s(server: Started, tmp_path: Path) -> None:
    config = configure(PRESS, endpoint(server))
    adapter = make_adapter(config, tmp_path)
    await adapter.connect()
    seen = Recorder(config)
    try:
        async with aclosing(adapter.batches()) as stream:
            await seen.until(stream, Recorder.everything)
            os.kill(server.pid, signal.SIGSTOP)
            frozen = time.monotonic()
            with pytest.raises(NotConnected) as error:
                await seen.until(stream, lambda _: False)
            assert time.monotonic() - frozen < 5
            assert error.value.quality in (0, q.BAD_TIMEOUT)
        closing = time.monotonic()
        await adapter.aclose()
        assert time.monotonic() - closing < 2
    finally:
        os.kill(server.pid, signal.SIGCONT)


@pytest.mark.parametrize("policy", ["Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss"])
async def test_encrypted_with_a_user_once_the_server_is_trusted(server: Started, tmp_path: Path, policy: str) -> None:
    pki = tmp_path / "trust"
    secured = {
        "security": {"policy": policy, "mode": "sign_and_encrypt", "trust": "trust"},
        "auth": {"username": "genba", "password": "secret"},
    }
    config = configure(PRESS, endpoint(server), **secured)
    with pytest.raises(ConfigError, match="BadCertificateUntrusted"):
        await make_adapter(config, tmp_path).connect()
    (refused,) = await asyncio.to_thread(Store(pki).entries)
    assert (refused.state, refused.reason[:24]) == ("rejected", "BadCertificateUntrusted:")
    await asyncio.to_thread(Store(pki).accept, refused.sha1[:8])
    seen = await read_some(config, tmp_path)
    assert seen.rows["temperature"][0]["value"] == 21.5


async def test_a_wrong_password_needs_a_person(server: Started, tmp_path: Path) -> None:
    config = configure(PRESS, endpoint(server), auth={"username": "genba", "password": "wrong"})
    with pytest.raises(ConfigError, match="refuses the user") as error:
        await make_adapter(config, tmp_path).connect()
    assert "wrong" not in str(error.value)
