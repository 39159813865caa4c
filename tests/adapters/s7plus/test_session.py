"""Encryption, certificates, browse and doctor, against the emulator of the library."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import TypeVar

import pytest

pytest.importorskip("s7commplus", reason="the extra s7plus is not installed")

from s7commplus import AsyncClient
from s7commplus.protocol import ProtocolVersion
from s7commplus.server import S7CommPlusServer

from adapters.s7plus import PLUGIN, S7PlusAccess, S7PlusExamination
from schemas.errors import ConfigError, NotConnected
from schemas.plugin import Check, Point
from tests.adapters.s7plus import rig

T = TypeVar("T")
TAGS = {"speed": ("Data.motor.speed", "real"), "name": ("Data.name", "string[20]"), "third": ("Data.zone[3]", "int")}


async def everything(stream: AsyncGenerator[T, None]) -> list[T]:
    async with aclosing(stream) as told:
        return [one async for one in told]


async def test_the_emulator_of_the_library_serves_no_symbols_by_itself() -> None:
    """Why the simulator adds them. When this fails the emulator has learnt it, and ours should use that."""
    server = S7CommPlusServer()
    server.register_db(1, {"temperature": ("Real", 0)})
    with rig.free_port() as port:
        server.start("127.0.0.1", port)
    client = AsyncClient()
    try:
        await client.connect("127.0.0.1", port)
        assert [block["name"] for block in await client.list_datablocks()] == ["DB1"]
        assert await client.browse() == []
        assert await client.read_symbolic_multi([(0x8A0E0001, [9], 0)]) == [None]
    finally:
        await client.disconnect()
        server.stop()


@pytest.mark.allow_blocking(reason="the library keeps the key log of a handshake in a file, in the thread that is its own")
async def test_an_encrypted_session_with_the_right_certificate_and_none_with_another(tmp_path: Path) -> None:
    certificate = rig.make_certificate(tmp_path / "plc")
    other = rig.make_certificate(tmp_path / "other")
    config = rig.configure(TAGS, "tls://127.0.0.1")
    emulator = await rig.make_simulator(config, {"speed": 21.5, "name": "炉", "third": 3.0}).emulator(
        protocol_version=ProtocolVersion.V2
    )
    async with rig.encrypted(emulator, certificate) as endpoint:
        for trust in ({}, {"fingerprint": certificate.fingerprint}, {"ca": certificate.certificate}):
            trusting = config.model_copy(update=trust)
            async with rig.connected(trusting, endpoint, tmp_path) as adapter:
                (batch,) = await rig.take(adapter, 1)
            assert batch.column("value").to_pylist() == [21.5, None, 3.0], trust
        for trust in ({"fingerprint": other.fingerprint}, {"ca": other.certificate}):
            adapter = rig.make_adapter(config.model_copy(update=trust), endpoint, tmp_path)
            with pytest.raises(ConfigError, match="certificate") as caught:
                await adapter.connect()
            assert "fingerprint" in caught.value.hint
        with pytest.raises(NotConnected):  # never in the clear by itself, and never encrypted where that was not asked for
            await rig.make_adapter(config, endpoint.replace("tls://", "s7://"), tmp_path).connect()


async def test_a_simulated_plc_is_read_in_the_clear_whatever_the_entry_says_of_the_real_one(tmp_path: Path) -> None:
    config = rig.configure(TAGS, "tls://10.0.0.20", fingerprint="00" * 32, password="secret")
    device = rig.make_simulator(config, {"speed": 21.5})
    async with rig.connected(config, await device.start(), tmp_path) as adapter:
        (batch,) = await rig.take(adapter, 1)
    await device.aclose()
    assert batch.column("value")[0].as_py() == 21.5


async def test_browse_yields_what_can_be_written_into_a_file_and_read_again(tmp_path: Path) -> None:
    config = rig.configure(TAGS)
    device = rig.make_simulator(config, {"speed": 21.5, "name": "GENBA", "third": 3.0})
    endpoint = await device.start()
    assert PLUGIN.browse is not None
    found = await everything(PLUGIN.browse.walk(S7PlusAccess.model_validate({"endpoint": endpoint})))
    points = {one.name: one.options for one in found if isinstance(one, Point)}
    assert points == {
        "data_motor_speed": {"address": "Data.motor.speed", "type": "real"},
        "data_name": {"address": "Data.name", "type": "string[20]"},
        "data_zone_3": {"address": "Data.zone[3]", "type": "int"},
    }
    checks = [one for one in found if isinstance(one, Check)]
    assert [(check.name, check.result) for check in checks] == [("encryption", "warning"), ("variables", "ok")]
    again = rig.configure({f"t{n}": (options["address"], options["type"]) for n, options in enumerate(points.values())})
    async with rig.connected(again, endpoint, tmp_path) as adapter:
        (batch,) = await rig.take(adapter, 1)
    await device.aclose()
    assert (batch.column("value").to_pylist(), batch.column("text").to_pylist()) == ([21.5, None, 3.0], [None, "GENBA", None])


async def examined(endpoint: str, **options: object) -> dict[str, Check]:
    assert PLUGIN.doctor is not None
    given = S7PlusExamination.model_validate({"endpoint": endpoint, "timeout": "500ms", **options})
    return {check.name: check for check in await everything(PLUGIN.doctor.examine(given))}


@pytest.mark.allow_blocking(reason="the library keeps the key log of a handshake in a file, in the thread that is its own")
async def test_the_doctor_shows_the_certificate_the_variables_and_which_names_can_be_read(tmp_path: Path) -> None:
    certificate = rig.make_certificate(tmp_path / "plc")
    emulator = await rig.make_simulator(rig.configure(TAGS)).emulator(protocol_version=ProtocolVersion.V2)
    async with rig.encrypted(emulator, certificate) as endpoint:
        found = await examined(endpoint, address=["Data.motor.speed", "data.NAME", "Data.gone"])
        assert [check.result for check in found.values()] == ["ok", "warning", "ok", "ok", "ok", "failure", "failure"]
        assert f"fingerprint: {certificate.fingerprint}" in found["encryption"].way_out
        assert found["variables"].found == "3 can be read"
        assert found["Data.motor.speed"].found == "can be read, real"
        assert found["data.NAME"].way_out == "did you mean Data.name?"
        trusted = await examined(endpoint, fingerprint=certificate.fingerprint)
        assert trusted["encryption"].result == "ok"
        wrong = await examined(endpoint, fingerprint="00" * 32)
        assert (wrong["session"].result, "certificate" in wrong["session"].found) == ("failure", True)
        clear = await examined(endpoint.replace("tls://", "s7://"))
        assert (clear["session"].result, "V4.3" in clear["session"].way_out) == ("failure", True)


async def test_what_hangs_up_is_told_in_words_that_are_not_the_library_s() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        found = await examined(f"s7://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert (found["session"].result, found["session"].found) == ("failure", "the other side closed the connection")


def test_a_password_file_that_is_not_there_is_what_a_person_must_edit(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret\nsecond line\n")
    found = S7PlusAccess.model_validate({"endpoint": "10.0.0.20", "password_file": tmp_path / "password"}).config()
    assert (found.endpoint, found.password and found.password.get_secret_value()) == ("tls://10.0.0.20", "secret")
    with pytest.raises(ConfigError, match="No such file"):
        S7PlusAccess.model_validate({"endpoint": "10.0.0.20", "password_file": tmp_path / "absent"}).config()


async def test_the_doctor_of_a_plc_that_is_not_there_or_is_something_else() -> None:
    with rig.free_port() as port:
        pass
    assert list(await examined(f"s7://127.0.0.1:{port}")) == ["network"]
    device = rig.make_simulator(rig.configure({}))
    endpoint = await device.start()
    found = await examined(endpoint)
    await device.aclose()
    assert (found["variables"].result, found["variables"].found) == ("failure", "the PLC shows no variable")
