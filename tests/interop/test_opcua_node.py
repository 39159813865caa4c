"""The OPC UA adapter against node-opcua: values of every type, states, a bad node, encryption, and a server that is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import pytest
import structlog

from adapters.opcua.config import OpcuaConfig
from adapters.opcua.plan import SamplingClass
from adapters.opcua.store import Store
from schemas import quality as q
from schemas.errors import ConfigError, NotConnected
from schemas.kinds import kind_of
from tests.adapters.opcua.rig import Recorder, Row, configure, make_adapter, read_some

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
    "profile": {"address": "ns=1;s=profile", "type": "float64"},
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


KINDS: dict[str, dict[str, Any]] = {
    "profile": {"address": "ns=1;s=profile"},
    "profile_of": {"address": "ns=1;s=profile", "elements": 4},
    "waveform": {"address": "ns=1;s=profile", "type": "array of float64", "scale": 10},
    "names": {"address": "ns=1;s=names"},
    "second": {"address": "ns=1;s=names", "index": 1},
    "totals": {"address": "ns=1;s=totals", "type": "array of uint64"},
    "total": {"address": "ns=1;s=totals", "index": 0, "type": "uint64"},
    "matrix": {"address": "ns=1;s=matrix"},
    "corner": {"address": "ns=1;s=matrix", "index": 5, "type": "int16"},
    "blob": {"address": "ns=1;s=blob"},
    "label": {"address": "ns=1;s=label"},
    "node": {"address": "ns=1;s=node"},
    "code": {"address": "ns=1;s=code"},
    "state": {"address": "ns=1;s=serverState", "enum": {3: "suspended"}},
    "status": {"address": "i=2256", "field": "State", "enum": {0: "running"}},
    "product": {"address": "i=2256", "field": "BuildInfo.ProductName"},
    "axis": {"address": "ns=1;s=axes", "index": 1, "field": "ProductName"},
    "nothing": {"address": "ns=1;s=axes", "index": 2, "field": "ProductName"},
    "typo": {"address": "i=2256", "field": "BuildInfo.Produkt"},
}
COLUMNS = ("value", "value_int", "text", "samples")


async def test_arrays_structures_and_other_types_over_an_encrypted_connection(server: Started, tmp_path: Path) -> None:
    await trust(configure(KINDS, endpoint(server), **encrypted()), tmp_path)
    for read in ("subscribe", "poll"):
        seen = await read_some(configure(KINDS, endpoint(server), read=read, **encrypted()), tmp_path)
        check_kinds({name: rows[0] for name, rows in seen.rows.items()})


def check_kinds(first: dict[str, Row]) -> None:
    assert {name: next((row[c] for c in COLUMNS if row[c] is not None), None) for name, row in first.items()} == {
        "profile": [1.0, 2.0, 3.0],
        "profile_of_0": 1.0,
        "profile_of_1": 2.0,
        "profile_of_2": 3.0,
        "profile_of_3": None,
        "waveform": [10.0, 20.0, 30.0],
        "names": '["a","b"]',
        "second": "b",
        "totals": "[7,9223372036854775808]",
        "total": 7,
        "matrix": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        "corner": 6.0,
        "blob": "00ff",
        "label": "läuft",
        "node": "ns=1;s=ramp",
        "code": "BadNodeIdUnknown",
        "state": 3.0,
        "status": 0.0,
        "product": "NodeOPCUA-Server",
        "axis": "y",
        "nothing": None,
        "typo": None,
    }
    assert (first["state"]["text"], first["status"]["text"]) == ("suspended", "running")
    assert {name: row["quality"] for name, row in first.items() if row["quality"]} == {
        "profile_of_3": q.BAD_INDEX_RANGE_NO_DATA,
        "nothing": q.BAD_INDEX_RANGE_NO_DATA,
        "typo": q.BAD_NO_MATCH,
    }


async def test_deadbands_and_triggers_over_an_encrypted_connection(server: Started, tmp_path: Path) -> None:
    tags = {
        "all": {"address": "ns=1;s=ramp"},
        "absolute": {"address": "ns=1;s=ramp", "server_deadband": 5},
        "percent": {"address": "ns=1;s=ramp", "server_deadband": "2 %"},
        "no_range": {"address": "ns=1;s=plain", "server_deadband": "2 %"},
        "flat": {"address": "ns=1;s=flat"},
        "flat_status": {"address": "ns=1;s=flat", "trigger": "status"},
        "flat_time": {"address": "ns=1;s=flat", "trigger": "timestamp"},
        "ramp_status": {"address": "ns=1;s=ramp", "trigger": "status"},
    }
    config = configure(tags, endpoint(server), **encrypted())
    await trust(config, tmp_path)
    with structlog.testing.capture_logs() as logs:
        seen = await read_some(config, tmp_path, lambda r: r.everything() and len(r.rows["absolute"]) >= 4)
    steps = {name: [b["value"] - a["value"] for a, b in pairwise(rows)] for name, rows in seen.rows.items()}
    assert set(steps["all"]) == {1.0}
    assert min(steps["absolute"]) > 5
    assert min(steps["percent"]) > 4  # 2 % of 200
    assert len(steps["percent"]) >= len(steps["absolute"])
    assert set(steps["no_range"]) == {1.0}  # monitored without the filter that the server refuses
    assert [len(seen.rows[name]) for name in ("flat", "flat_status", "ramp_status")] == [1, 1, 1]
    assert len(seen.rows["flat_time"]) > 5
    (said,) = [entry for entry in logs if entry["event"].startswith("the server does not filter")]
    assert (said["count"], len(said["tags"])) == (1, 1)
    assert said["tags"][0].startswith("acme/osaka/robot/no_range: Bad")


async def test_a_full_queue_drops_what_discard_says_and_leaves_a_gap(server: Started, tmp_path: Path) -> None:
    """Sampled every 100 ms and published every second: five of ten fit."""
    tags = {
        "oldest": {"address": "ns=1;s=ramp", "queue_size": 5},
        "newest": {"address": "ns=1;s=ramp", "queue_size": 5, "discard": "newest"},
    }
    config = configure(tags, endpoint(server), scan="100ms")
    adapter = make_adapter(config, tmp_path)
    adapter._plan = replace(adapter._plan, classes=(_Slow(100_000, (0, 1)),))
    await adapter.connect()
    seen = Recorder(config)
    async with aclosing(adapter.batches()) as stream:
        await seen.until(stream, lambda r: all(len(rows) >= 16 for rows in r.rows.values()))
    await adapter.aclose()
    gaps = [row for batch in seen.batches if kind_of(batch) == "gap" for row in batch.to_pylist()]
    assert {row["tag"] for row in gaps} == {100, 101}
    assert {row["cause"] for row in gaps} == {"overflow"}
    for name in tags:
        overflowed = [row for row in seen.rows[name] if row["quality"] & q.OVERFLOW == q.OVERFLOW]
        assert overflowed
        assert all(row["value"] is not None for row in overflowed)


class _Slow(SamplingClass):
    """Published less often than sampled."""

    @property
    def publishing_ms(self) -> float:
        return 1000


def encrypted() -> dict[str, Any]:
    return {
        "security": {"policy": "Aes256Sha256RsaPss", "mode": "sign_and_encrypt", "trust": "trust"},
        "auth": {"username": "genba", "password": "secret"},
    }


async def trust(config: OpcuaConfig, folder: Path) -> None:
    """Be refused once, then move the server's certificate to the trusted ones."""
    with pytest.raises(ConfigError):
        await make_adapter(config, folder).connect()
    (refused,) = await asyncio.to_thread(Store(folder / "trust").entries)
    await asyncio.to_thread(Store(folder / "trust").accept, refused.sha1)
