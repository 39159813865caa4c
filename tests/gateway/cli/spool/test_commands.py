"""`genba spool …` on a directory that no gateway has and on that of one that runs; looking changes not a byte."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal

import numpy as np
import pyarrow.parquet as pq
import pytest
import structlog

from gateway import control
from gateway.clock import WallClock
from gateway.dead_letters import bury
from gateway.registry import TagRegistry
from gateway.spool import Spool
from schemas.errors import Rejected
from schemas.kinds import telemetry, with_seq
from schemas.span import SpoolSpan
from tests.gateway.cli.conftest import Genba
from tests.gateway.cli.process import started
from tests.gateway.samples import make_tag
from tests.gateway.spool.conftest import alerts


def readings(rows: int, first: int = 0):
    number = np.arange(first, first + rows)
    return telemetry(time_us=1_767_225_600_000_000 + number, tag=(number % 3).astype(np.int32), value=number.astype(float))


async def filled(directory, *, keep_s: float = 0.0) -> None:
    """100 readings of which the lake has had 40 and the broker none, and two alerts that the broker has had."""
    log = structlog.get_logger()
    spool = await Spool.open(directory, gateway="gw", clock=WallClock(), log=log, keep_s=keep_s)
    registry = await TagRegistry.open(directory, log=log)
    await registry.resolve([make_tag(number) for number in range(3)], 0)
    for kind, sink in (("telemetry", "lake"), ("telemetry", "broker"), ("alert", "broker")):
        await spool.ledger.register(kind, sink)
    await spool.put("telemetry", readings(100))
    await spool.put("alert", alerts(2))
    await spool.flush()
    await spool.ledger.begin_cut("telemetry", "lake", 0, 39)
    await spool.ledger.acknowledge("telemetry", "lake", 39, delivered=35, filtered=5)
    await spool.ledger.begin_cut("alert", "broker", 0, 1)
    await spool.ledger.acknowledge("alert", "broker", 1, delivered=2, filtered=0)
    await spool.ledger.begin_cut("telemetry", "broker", 0, 9)
    await spool.close()


@pytest.fixture
def spool(tmp_path):
    asyncio.run(filled(tmp_path / "spool"))
    return tmp_path / "spool"


def fingerprint(directory) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*") if path.is_file()
    }  # fmt: skip


def told(genba: Genba, *arguments: object, status: int = 0):
    done = genba("spool", *arguments, "--json")
    assert done.status == status, done.err
    return json.loads(done.out)


def test_stat_says_who_has_had_what_and_the_headline_first(genba, spool):
    before = fingerprint(spool)
    found = told(genba, "stat", spool)
    assert found.keys() == {
        "directory", "gateway", "epoch", "process", "oldest_undelivered_s", "oldest_undelivered_sink", "bytes_used", "ledger", "sinks",
        "kinds", "pins", "resends",
    }  # fmt: skip
    assert (found["gateway"], found["process"], found["ledger"]) == ("gw", None, "whole")
    assert found["oldest_undelivered_sink"] in ("lake", "broker")
    assert 0 <= found["oldest_undelivered_s"] < 600
    lake = next(one for one in found["sinks"] if one["sink"] == "lake")
    assert lake.keys() == {
        "sink", "kind", "read", "filtered", "delivered", "spooled", "dropped", "dead_lettered", "next", "in_flight", "oldest_s", "lost",
        "resent",
    }  # fmt: skip
    assert (lake["read"], lake["filtered"], lake["delivered"], lake["spooled"], lake["next"]) == (100, 5, 35, 60, 40)
    broker = next(one for one in found["sinks"] if one["sink"] == "broker" and one["kind"] == "telemetry")
    assert (broker["in_flight"], broker["spooled"]) == ([0, 9], 100)
    assert found["kinds"]["telemetry"]["rows"] == 100
    text = genba("spool", "stat", spool).out
    assert text.startswith("oldest undelivered row: ")
    assert "no gateway runs on it" in text
    assert fingerprint(spool) == before


def test_ls_and_verify_name_the_segments_and_the_damage(genba, spool):
    found = told(genba, "ls", spool)
    assert [(one["kind"], one["first"], one["last"], one["rows"], one["closed"]) for one in found["segments"]] == [
        ("telemetry", 0, 99, 100, True), ("alert", 0, 1, 2, True),
    ]  # fmt: skip
    whole = told(genba, "verify", spool)
    assert whole["ok"]
    assert (whole["kinds"]["telemetry"]["records"], whole["kinds"]["telemetry"]["rows"]) == (1, 100)
    [segment] = (spool / "telemetry").glob("*.seg")
    data = bytearray(segment.read_bytes())
    data[200] ^= 1
    segment.write_bytes(data)
    before = fingerprint(spool)
    hurt = told(genba, "verify", spool, status=1)
    assert not hurt["ok"]
    assert hurt["kinds"]["telemetry"]["damaged"] == [[0, 100]]
    assert "damaged: telemetry rows 0 to 99" in genba("spool", "verify", spool).out
    assert fingerprint(spool) == before
    segment.unlink()
    gone = told(genba, "verify", spool, status=1)
    assert gone["kinds"]["telemetry"]["missing"] == [[0, 100]]


def test_export_writes_rows_with_their_numbers_and_tags(genba, spool, tmp_path):
    out = tmp_path / "rows.parquet"
    found = told(genba, "export", spool, out, "--kind", "telemetry", "--first-row", 10, "--last-row", 19)
    assert (found["rows"], found["first"], found["last"]) == (10, 10, 19)
    table = pq.read_table(out)
    assert table.column("seq").to_pylist() == list(range(10, 20))
    assert table.column("value").to_pylist() == [float(n) for n in range(10, 20)]
    assert table.column("tag").to_pylist()[:3] == [f"acme/osaka/press/t{n % 3}" for n in range(10, 13)]
    nowhere = genba("spool", "export", spool, tmp_path / "no" / "rows.parquet", "--kind", "telemetry")
    assert nowhere.status == 2
    assert "cannot be written" in nowhere.err


def test_drop_resend_and_forget_on_the_directory_of_a_gateway_that_does_not_run(genba, spool):
    assert told(genba, "drop", spool, "broker", "--kind", "telemetry", "--before-row", 30) == {
        "kind": "telemetry", "sink": "broker", "rows": 30, "next": 30,
    }  # fmt: skip
    found = told(genba, "stat", spool)
    broker = next(one for one in found["sinks"] if one["sink"] == "broker" and one["kind"] == "telemetry")
    assert (broker["dropped"], broker["spooled"], broker["lost"]) == (30, 70, {"requested": 30})
    asked = told(genba, "resend", spool, "lake", "--kind", "telemetry", "--first-row", 5, "--last-row", 500)
    assert (asked["first"], asked["last"]) == (5, 39)
    assert told(genba, "stat", spool)["resends"] == [{"kind": "telemetry", "sink": "lake", "first": 5, "last": 39}]
    assert told(genba, "forget", spool, "broker") == {"sink": "broker", "rows": 70}
    assert {one["sink"] for one in told(genba, "stat", spool)["sinks"]} == {"lake"}
    unknown = genba("spool", "forget", spool, "broker")
    assert (unknown.status, "known are: lake" in unknown.err) == (2, True)
    assert genba("spool", "drop", spool, "lake", "--kind", "telemetry").status == 2  # which rows?


def test_what_was_dropped_is_told_by_a_gap_row_after_the_next_start(genba, spool):
    told(genba, "drop", spool, "broker", "--kind", "telemetry", "--all")

    async def losses():
        again = await Spool.open(spool, gateway="gw", clock=WallClock(), log=structlog.get_logger())
        try:
            return again.take_losses()
        finally:
            await again.close()

    [loss] = asyncio.run(losses())
    assert (loss.cause, loss.first, loss.last, dict(loss.sinks)) == ("requested", 0, 99, {"broker": 100})


def test_dead_letters_are_listed_with_the_reason(genba, spool):
    batch = with_seq(readings(10), 20)
    span = SpoolSpan("gw", 1, "telemetry", 20, 29)
    bury(spool / "dead-letters/broker", [batch], span, Rejected("the topic is too long", rows=[22, 23]))
    [grave] = told(genba, "dead-letters", spool)["dead_letters"]
    assert (grave["sink"], grave["kind"], grave["first"], grave["last"], grave["rows"], grave["reason"]) == (
        "broker", "telemetry", 20, 29, 2, "the topic is too long",
    )  # fmt: skip
    assert "the topic is too long" in genba("spool", "dead-letters", spool, "--sink", "broker").out
    assert "no dead letters" in genba("spool", "dead-letters", spool, "--sink", "lake").out
    assert grave["resend"] is False
    assert told(genba, "dead-letters", spool, "--end", "2026-01-01T00:00:00Z")["dead_letters"] == []
    assert told(genba, "dead-letters", spool, "--sink", "broker", "--resend") == {"sink": "broker", "files": 1, "rows": 2}
    assert told(genba, "dead-letters", spool)["dead_letters"][0]["resend"] is True
    assert "2 dead letters in 1 file are delivered once more" in genba("spool", "dead-letters", spool, "--resend").out


@pytest.mark.parametrize("command", ["stat", "ls", "verify", "dead-letters"])
def test_a_place_without_a_spool_is_refused_with_the_way_out(genba, tmp_path, command):
    done = genba("spool", command, tmp_path)
    assert (done.status, "there is no spool" in done.err) == (2, True)


PLANT = """\
enterprise: acme
site: osaka
gateway: gw
adapters:
  press:
    kind: modbus
    endpoint: tcp://127.0.0.1:9
    tags: {temp: {address: "hr:0", type: uint16, scan: 100ms}}
sinks:
  lake: {kind: parquet, location: lake, roll: {max_age: 1h}}
spool: {keep: 1h}
status: {listen: null}
"""


async def test_a_running_gateway_does_what_is_asked_and_is_not_disturbed_by_who_looks(tmp_path, capsys):
    (tmp_path / "plant.yaml").write_text(PLANT)
    plant = str(tmp_path / "plant.yaml")

    async def spool(*arguments: str, status: int = 0):
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            await asyncio.to_thread(_main, ["spool", *arguments])
        said = capsys.readouterr()
        assert caught.value.code == status, said.err
        return said.out + said.err

    async with started("run", "plant.yaml", cwd=tmp_path) as gateway:
        await gateway.until("gateway is ready", "stderr")

        async def waiting() -> dict:
            found = json.loads(await spool("stat", plant, "--json"))
            assert found["process"] == str(gateway.process.pid)
            return {one["kind"]: one for one in found["sinks"] if one["sink"] == "lake"}

        async with asyncio.timeout(30):
            while (await waiting())["event"]["spooled"] == 0:  # noqa: ASYNC110 (another process's disk)
                await asyncio.sleep(0.1)
        assert json.loads(await spool("verify", plant, "--json"))["ok"]
        answer = json.loads(await spool("drop", plant, "lake", "--kind", "event", "--all", "--json"))
        assert answer["rows"] > 0
        found = (await waiting())["event"]
        assert (found["dropped"], found["lost"]) == (answer["rows"], {"requested": answer["rows"]})
        said = await spool("forget", plant, "lake", status=2)
        assert "lake is a sink of the running gateway" in said
        assert "take it out of the file" in said
        assert await gateway.end(signal.SIGTERM) == 0
    assert not (tmp_path / "spool/control").exists()
    assert "a person changed the spool" in gateway.err


async def test_a_gateway_that_holds_the_spool_and_does_not_listen_is_named(tmp_path, monkeypatch, capsys):
    await filled(tmp_path / "spool")
    running = await Spool.open(tmp_path / "spool", gateway="gw", clock=WallClock(), log=structlog.get_logger())
    try:
        with pytest.raises(SystemExit) as caught:
            await asyncio.to_thread(_main, ["spool", "forget", str(tmp_path / "spool"), "lake"])
        assert caught.value.code == 2
        assert "has the spool and does not listen" in capsys.readouterr().err
    finally:
        await running.close()


def _main(arguments: list[str]) -> None:
    from gateway.cli import main

    main(arguments)


async def test_requests_that_are_none_are_answered_and_harm_nothing(tmp_path):
    place = tmp_path / ("long" * 20) / ("longer" * 10) / "spool"  # no name of a Unix socket is so long
    await filled(place)
    running = await Spool.open(place, gateway="gw", clock=WallClock(), log=structlog.get_logger())
    try:
        async with control.serving(running, configured=["lake"], log=structlog.get_logger()):
            assert (place / "control").stat().st_mode & 0o777 == 0o600
            for line in (
                b"[1]\n",
                b'{"do":"explode"}\n',
                b'{"do":"drop","kind":"telemetry","sink":"no","before":1}\n',
                b"\xff\n",
                b"x" * 200_000,
            ):
                with control._short(place) as path:
                    reader, writer = await asyncio.open_unix_connection(path)
                try:
                    writer.write(line)
                    await writer.drain()
                    answer = await reader.readline()
                except ConnectionError:
                    answer = b""
                finally:
                    writer.close()
                assert not answer or json.loads(answer)["ok"] is False
            answer = await asyncio.to_thread(
                control.ask, place, {"do": "drop", "kind": "telemetry", "sink": "lake", "before": 50}
            )
            assert answer == {"kind": "telemetry", "sink": "lake", "rows": 10, "next": 50}
    finally:
        await running.close()
