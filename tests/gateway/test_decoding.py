"""A capture decodes to what was read while it was made, for every protocol; what cannot be decoded is named and takes nothing along."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import structlog
from click.testing import CliRunner

from adapters.base import AdapterConfig, AdapterContext, SimulatorContext
from adapters.playback import read_capture
from adapters.simulation import Scenario, SignalConfig, Signals
from gateway import catalogue
from gateway.building import build_adapter
from gateway.cli.decode import command
from gateway.clock import WallClock
from gateway.decoding import decode
from schemas import quality as q
from schemas.errors import ConfigError
from schemas.kinds import kind_of
from tests.conformance.adapter import bind

ODD: Mapping[str, Any] = {
    "temperature": math.nan,
    "pump": True,
    "count": -32768,
    "mode": 2,
    "recipe": "ÄÖ µ°",
    "energy": 2**52 + 1,
    "level": 1e-40,
}
MODBUS = {
    "kind": "modbus", "endpoint": "tcp://127.0.0.1:1", "scan": "50ms", "timeout": "500ms", "unit_id": 3,
    "tags": {
        "temperature": {"address": "hr:100", "type": "float32"},
        "pump": {"address": "hr:9.13", "type": "bool", "scan": "80ms"},
        "count": {"address": "ir:102", "type": "int16"},
        "mode": {"address": "hr:7", "type": "uint16", "enum": {0: "idle", 2: "fault"}},
        "recipe": {"address": "hr:110", "type": "string[10]"},
        "energy": {"address": "hr:200", "type": "int64", "order": "CDAB"},
        "level": {"address": "hr:206", "type": "float64", "scale": 10},
    },
}  # fmt: skip
S7 = {
    "kind": "s7", "endpoint": "s7://127.0.0.1:1", "scan": "50ms", "timeout": "500ms",
    "tags": {
        "temperature": {"address": "DB10.DBD4", "type": "real"},
        "pump": {"address": "DB10.DBX0.3", "type": "bool", "scan": "80ms"},
        "count": {"address": "DB10.DBW8", "type": "int"},
        "mode": {"address": "MW10", "type": "uint", "enum": {0: "idle", 2: "fault"}},
        "recipe": {"address": "DB10.DBB20", "type": "string[32]"},
        "energy": {"address": "DB11.DBB8", "type": "lint"},
        "level": {"address": "DB11.DBB16", "type": "lreal", "scale": 10},
    },
}  # fmt: skip
OPCUA = {
    "kind": "opcua", "endpoint": "opc.tcp://127.0.0.1:1/plant", "scan": "50ms", "timeout": "2s",
    "auth": {"username": "joe", "password": "s3cret"},
    "tags": {
        "temperature": {"address": "ns=2;s=Temperature", "type": "float32"},
        "pump": {"address": "ns=2;s=Pump", "type": "bool", "scan": "80ms"},
        "count": {"address": "ns=2;i=17", "type": "int16"},
        "mode": {"address": "nsu=http://acme.example/plant;s=Mode", "type": "uint16", "enum": {0: "idle", 2: "fault"}},
        "recipe": {"address": "/Objects/3:Plant/3:Recipe", "type": "string"},
        "energy": {"address": "ns=2;g=09087e75-8e5e-499b-954f-f2a9603db28a", "type": "int64"},
        "level": {"address": "ns=2;s=Level", "type": "float64", "scale": 10},
    },
}  # fmt: skip
MISSING = {
    "modbus": {"address": "hr:300", "type": "int16"},
    "s7": {"address": "DB77.DBW0", "type": "int"},
    "opcua": {"address": "ns=2;s=Absent", "type": "int16"},
}


@asynccontextmanager
async def device(entry: Mapping[str, Any]):
    """A simulator that shows the odd values, as the same entry at its endpoint."""
    plugin = catalogue.plugin("adapters", entry["kind"])
    config = plugin.config.model_validate({key: value for key, value in entry.items() if key != "auth"})
    signals = Signals(
        Scenario(
            signals={f"**/{name}": SignalConfig(constant=value) for name, value in ODD.items()} | {"**/moving": SignalConfig()}
        ),
        asyncio.get_running_loop().time,
    )
    simulator = plugin.simulate(config, SimulatorContext("device", bind("device", config), signals))
    try:
        yield await simulator.start("127.0.0.1", 0)
    finally:
        await simulator.aclose()


def adapter_of(entry: Mapping[str, Any], endpoint: str, directory: Path, **options: Any):
    """The adapter with a capture, its bound tags and its log."""
    config: AdapterConfig = catalogue.plugin("adapters", entry["kind"]).config.model_validate(
        {**entry, "endpoint": endpoint, "capture": "it.capture", **options}
    )
    bound = bind("device", config)
    capture = structlog.testing.LogCapture()
    log = structlog.wrap_logger(None, processors=[capture], wrapper_class=structlog.stdlib.BoundLogger)
    context = AdapterContext("device", bound, WallClock(), directory / "state", log, base=directory)
    return build_adapter(config, context), bound, capture.entries


async def collected(adapter, bound, enough: int, sessions: int = 1) -> list[dict[str, Any]]:
    """Rows as they came from the device, over several connections."""
    tags = {one.tag.id: one.tag.path for one in bound}
    rows: list[dict[str, Any]] = []
    for _ in range(sessions):
        await adapter.connect()
        seen = 0
        async with asyncio.timeout(20), aclosing(adapter.batches()) as stream:
            async for batch in stream:
                if kind_of(batch) != "telemetry":
                    continue
                for row in batch.drop_columns(["time"]).to_pylist():
                    plain = {"tag": tags[row["tag"]]}
                    plain |= {name: row[name] for name in ("value", "value_int", "text", "samples") if row[name] is not None}
                    rows.append(plain | {"quality": q.name(row["quality"])})
                seen += batch.num_rows
                if seen >= enough:
                    break
        await adapter.aclose()
    await asyncio.sleep(0.2)  # what is written last is written by a thread
    return rows


async def decoded_of(file: Path):
    return await asyncio.to_thread(lambda: decode(read_capture(file)))


def bare(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in ("time_us", "lag_ms")} for row in rows]


@pytest.mark.parametrize("entry", [MODBUS, {**MODBUS, "window": 8}, S7], ids=["modbus", "modbus, several at a time", "s7"])
async def test_a_polled_device_decodes_to_what_was_read(entry, tmp_path):
    entry = {**entry, "tags": {**entry["tags"], "absent": MISSING[entry["kind"]]}}
    served = {**entry, "tags": {name: tag for name, tag in entry["tags"].items() if name != "absent"}}
    async with device(served) as endpoint:
        adapter, bound, log = adapter_of(entry, endpoint, tmp_path)
        live = await collected(adapter, bound, 40, sessions=2)
    decoded = await decoded_of(tmp_path / "it.capture")
    assert bare(decoded.rows())[: len(live) // 2] == live[: len(live) // 2]
    missing = len(decoded.rows()) - len(live)
    assert 0 <= missing <= 2 * len(bound), "a poll whose batch nobody took may be in the capture"
    assert {row["quality"] for row in decoded.rows() if row["tag"].endswith("/count")} == {"Good"}
    assert {row["quality"] for row in decoded.rows() if row["tag"].endswith("/absent")} == {"BadNodeIdUnknown"}
    assert {row["quality"] for row in decoded.rows() if row["tag"].endswith("/temperature")} == {"BadSensorFailure"}
    assert {row.get("text") for row in decoded.rows() if row["tag"].endswith("/recipe")} == {ODD["recipe"]}
    assert {row.get("value_int") for row in decoded.rows() if row["tag"].endswith("/energy")} == {ODD["energy"]}
    assert decoded.troubles == []
    named = [one["event"] for one in log if "cannot be read" in one["event"]]
    assert [one["event"] for one in decoded.log if "cannot be read" in one["event"]] == named, "found out in the same way"
    assert len((await asyncio.to_thread(read_capture, tmp_path / "it.capture")).sessions) == 2


@pytest.mark.parametrize("reads", ["subscription", "cyclic"])
async def test_an_opcua_server_decodes_to_what_came(tmp_path, reads, monkeypatch):
    if reads == "cyclic":
        from adapters.opcua import adapter as module
        from adapters.opcua.subscriptions import NoSubscriptions

        async def none(self):
            raise NoSubscriptions

        monkeypatch.setattr(module.Subscriber, "run", none)
    async with device(OPCUA) as endpoint:
        entry = {key: value for key, value in OPCUA.items() if key != "auth"}
        adapter, bound, _ = adapter_of(entry, endpoint, tmp_path)
        live = await collected(adapter, bound, 7)
    decoded = await decoded_of(tmp_path / "it.capture")
    assert bare(decoded.rows())[: len(live)] == live
    by_tag = {row["tag"].rsplit("/", 1)[1]: row for row in decoded.rows()}
    assert by_tag["recipe"]["text"] == ODD["recipe"]
    assert by_tag["energy"]["value_int"] == ODD["energy"]
    assert by_tag["mode"]["text"] == "fault"
    assert by_tag["temperature"]["quality"] == "BadSensorFailure"
    assert decoded.troubles == []


async def test_fields_of_a_structure_are_decoded_by_the_layout_that_its_server_told(tmp_path):
    """Two of them share a monitored item only because the connection says for one what the other says itself."""
    axes = "ns=2;s=Axes"
    entry = {
        "kind": "opcua", "endpoint": "opc.tcp://127.0.0.1:1/plant", "scan": "50ms", "queue_size": 7,
        "tags": {
            "current": {"address": axes, "field": "motor.current", "type": "float64", "queue_size": 7},
            "speed": {"address": axes, "field": "motor.speed", "type": "float32"},
            "zone": {"address": "ns=2;s=Zones", "elements": 3, "type": "float64"},
        },
    }  # fmt: skip
    async with device(entry) as endpoint:
        adapter, bound, _ = adapter_of(entry, endpoint, tmp_path)
        live = await collected(adapter, bound, 10, sessions=2)
    decoded = await decoded_of(tmp_path / "it.capture")
    assert bare(decoded.rows())[:10] == live[:10]
    assert len({row["tag"] for row in live}) == 5
    assert {row["quality"] for row in (*live, *decoded.rows())} == {"Good"}
    assert decoded.troubles == []


async def test_no_secret_is_in_the_file(tmp_path):
    async with device(OPCUA) as endpoint:
        adapter, bound, _ = adapter_of(OPCUA, endpoint, tmp_path)
        await collected(adapter, bound, 7)
    data = (tmp_path / "it.capture").read_bytes()
    assert b"s3cret" not in data
    assert b"Temperature" in data, "the control: what is no secret is there in the clear"


async def test_a_torn_end_costs_the_torn_record_only(tmp_path):
    async with device(MODBUS) as endpoint:
        adapter, bound, _ = adapter_of(MODBUS, endpoint, tmp_path)
        await collected(adapter, bound, 70)
    file = tmp_path / "it.capture"
    whole = file.read_bytes()
    everything = len((await decoded_of(file)).rows())
    for cut in (len(whole) - 3, len(whole) - 40, len(whole) // 2):
        file.write_bytes(whole[:cut])
        capture = await asyncio.to_thread(read_capture, file)
        assert capture.torn
        assert 0 < len((await asyncio.to_thread(decode, capture)).rows()) <= everything
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    file.write_bytes(damaged)
    assert "no record" in (await asyncio.to_thread(read_capture, file)).torn
    for nonsense in (b"", b"not a capture", whole[:20], whole[30:]):
        file.write_bytes(nonsense)
        with pytest.raises(ConfigError, match="is not a capture"):
            await asyncio.to_thread(read_capture, file)


async def test_full_it_ends_and_says_so_once_and_reading_goes_on(tmp_path):
    async with device(MODBUS) as endpoint:
        adapter, bound, log = adapter_of(MODBUS, endpoint, tmp_path, capture={"file": "it.capture", "max_size": "10 kB"})
        await collected(adapter, bound, 200)
    assert (tmp_path / "it.capture").stat().st_size <= 10_000
    assert [one["event"] for one in log if "capture" in one["event"]] == ["the capture is full and has ended"]
    decoded = await decoded_of(tmp_path / "it.capture")
    assert 0 < len(decoded.rows()) < 200
    assert decoded.troubles == []


@pytest.mark.parametrize("there", ["a directory", "a configuration", "a capture in the way"])
async def test_a_file_that_cannot_be_written_costs_the_capture_only(tmp_path, there):
    file = tmp_path / "it.capture"
    match there:
        case "a directory":
            file.mkdir()
        case "a configuration":
            file.write_text("enterprise: acme\n")
        case _:
            file.touch()
            (tmp_path / "it.capture.1").mkdir()
            (tmp_path / "it.capture.1" / "x").touch()
    async with device(MODBUS) as endpoint:
        adapter, bound, log = adapter_of(MODBUS, endpoint, tmp_path)
        assert len(await collected(adapter, bound, 40)) >= 40
    assert [one["event"] for one in log if "capture" in one["event"]] == ["the capture has ended: it cannot be written"]
    assert file.is_dir() == (there == "a directory"), "what is no capture of ours stays where it is"
    assert there != "a configuration" or file.read_text() == "enterprise: acme\n"


async def test_a_second_process_does_not_take_the_capture_of_a_running_gateway_away(tmp_path):
    async with device(MODBUS) as endpoint:
        running, bound, first = adapter_of(MODBUS, endpoint, tmp_path)
        live = await collected(running, bound, 40)
        other, also, second = adapter_of(MODBUS, endpoint, tmp_path)  # `genba test` while the gateway runs
        assert len(await collected(other, also, 40)) >= 40
    assert [one for one in first if "capture" in one["event"]] == []
    (said,) = [one for one in second if "capture" in one["event"]]
    assert "another genba writes it" in said["error"]
    decoded = await decoded_of(tmp_path / "it.capture")
    assert bare(decoded.rows())[: len(live)] == live
    assert not (tmp_path / "it.capture.1").exists()


async def test_the_former_capture_is_kept(tmp_path):
    for _ in range(2):
        async with device(MODBUS) as endpoint:
            adapter, bound, _ = adapter_of(MODBUS, endpoint, tmp_path)
            await collected(adapter, bound, 7)
    assert len((await decoded_of(tmp_path / "it.capture.1")).rows()) >= 7


async def test_an_isolated_adapter_captures_too(tmp_path):
    async with device(MODBUS) as endpoint:
        adapter, bound, _ = adapter_of(MODBUS, endpoint, tmp_path, isolation="process")
        live = await collected(adapter, bound, 40)
    decoded = await decoded_of(tmp_path / "it.capture")
    assert bare(decoded.rows())[: len(live)] == live


async def test_what_went_wrong_is_told_with_its_reason(tmp_path):
    async def lies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        count = 0
        while request := await reader.read(12):
            count += 1
            unit = request[6] if count % 3 else request[6] + 1  # every third answer is of another unit
            size = 2 * int.from_bytes(request[10:12], "big")
            pdu = bytes((unit, request[7], size)) + bytes(size)
            writer.write(request[:4] + len(pdu).to_bytes(2, "big") + pdu)
        writer.close()

    server = await asyncio.start_server(lies, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    entry = {**MODBUS, "tags": {"count": {"address": "hr:0", "type": "int16"}}}
    adapter, bound, _ = adapter_of(entry, f"tcp://127.0.0.1:{port}", tmp_path)
    live = await collected(adapter, bound, 9)
    server.close()
    decoded = await decoded_of(tmp_path / "it.capture")
    assert bare(decoded.rows())[:9] == live[:9]
    assert {trouble.why for trouble in decoded.troubles} == {"unit 3 was asked and unit 4 answered"}
    assert len(decoded.troubles) >= 3


def run(*arguments: str, status: int = 0):
    """The command, in a thread without a loop."""
    result = CliRunner().invoke(command, list(arguments))
    assert result.exit_code == status, result.output
    return result


async def test_the_command_prints_and_writes(tmp_path):
    async with device(MODBUS) as endpoint:
        adapter, bound, _ = adapter_of(MODBUS, endpoint, tmp_path)
        await collected(adapter, bound, 40)
    file = str(tmp_path / "it.capture")
    shown = await asyncio.to_thread(run, file, "--last", "1", "--out", str(tmp_path / "rows.parquet"))
    assert "fault (2.0)" in shown.output
    assert "BadSensorFailure" in shown.output
    assert "acme/osaka/device/recipe" in shown.output
    rows = json.loads((await asyncio.to_thread(run, file, "--json")).output)["readings"]
    table = pq.read_table(tmp_path / "rows.parquet")
    assert table.num_rows == len(rows)
    assert table.column("tag")[0].as_py() == rows[0]["tag"]
    csv = (await asyncio.to_thread(run, file, "--csv", "--out", str(tmp_path / "rows.csv"))).output
    assert csv.splitlines()[0] == "time,tag,value,text,quality"
    assert len(csv.splitlines()) == len(rows) + 1
    assert (tmp_path / "rows.csv").read_text().count("\n") == len(rows) + 1
    await asyncio.to_thread(run, file, "--golden", str(tmp_path / "golden"))
    expected = json.loads((tmp_path / "golden" / "expected.json").read_text())
    assert expected["readings"] == rows
    (tmp_path / "a file").touch()
    for option, place in (("--out", "nowhere/rows.csv"), ("--out", "nowhere/rows.parquet"), ("--golden", "a file/golden")):
        refused = await asyncio.to_thread(run, file, option, str(tmp_path / place), status=1)
        assert isinstance(refused.exception, ConfigError)
        assert f"{place}: cannot be written: " in str(refused.exception)
        assert "\n" not in str(refused.exception)


async def test_a_capture_of_a_kind_that_is_not_installed_is_a_clear_error(tmp_path):
    async with device(MODBUS) as endpoint:
        adapter, bound, _ = adapter_of(MODBUS, endpoint, tmp_path)
        await collected(adapter, bound, 7)
    capture = await asyncio.to_thread(read_capture, tmp_path / "it.capture")
    entry = {**capture.head["entry"], "kind": "profinet"}
    with pytest.raises(ConfigError, match="unknown kind of adapter 'profinet'"):
        await asyncio.to_thread(decode, replace(capture, head={**capture.head, "entry": entry}))
    apart = {"kind": "s7plus", "endpoint": "tls://127.0.0.1"}
    unable = {**entry, "kind": "s7plus", "config": apart, "tags": [], "keys": []}
    with pytest.raises(ConfigError, match="'s7plus' cannot decode a capture"):
        await asyncio.to_thread(decode, replace(capture, head={**capture.head, "entry": unable}))
    with pytest.raises(ConfigError, match="its configuration cannot be read"):
        await asyncio.to_thread(decode, replace(capture, head={}))


def test_an_adapter_that_keeps_no_capture_says_so():
    config = catalogue.plugin("adapters", "s7plus").config
    entry = {"kind": "s7plus", "endpoint": "tls://10.0.0.20", "tags": {}}
    config.model_validate(entry)
    with pytest.raises(ValueError, match="keep no capture yet"):
        config.model_validate(entry | {"capture": "it.capture"})
