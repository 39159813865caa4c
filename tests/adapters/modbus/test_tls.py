"""Modbus over TLS: who is not who it should be is not read, and each failure says what to do."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from adapters.modbus.config import ModbusConfig
from adapters.modbus.connection import open_connection
from adapters.modbus.plan import Span
from adapters.modbus.tls import tls_context
from schemas.errors import ConfigError, NotConnected
from tests.adapters.modbus.devices import Device, running
from tests.authority import Authority

LOCAL = ["localhost", "127.0.0.1"]
DAY = datetime.timedelta(days=1)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "plant-ca")


def server(
    authority: Authority, *, names: Sequence[str] = LOCAL, days: tuple[int, int] = (-2, 2), client: bool = False
) -> ssl.SSLContext:
    """What the device shows; with `client` it wants to see a certificate of the same authority."""
    authority.issue("device", names, days=days)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(authority.folder / "device.pem", authority.folder / "device.key")
    if client:
        made.verify_mode = ssl.CERT_REQUIRED
        made.load_verify_locations(authority.folder / "plant-ca.pem")
    return made


async def read(folder: Path, tls: ssl.SSLContext, **options: object) -> list[int]:
    """Three registers, which hold their own address."""
    async with running(Device(), tls=tls) as device:
        given = {"kind": "modbus", "endpoint": f"tls://127.0.0.1:{device.port}", "timeout": "5s"} | options
        connection = await open_connection(ModbusConfig.model_validate(given), folder)
        try:
            values: list[int] = np.frombuffer(await connection.read(Span(1, 3, 7, 3)), dtype=">u2").tolist()
            return values
        finally:
            await connection.aclose()
            await asyncio.sleep(0.05)


async def test_a_trusted_device_is_read(authority: Authority) -> None:
    assert await read(authority.folder, server(authority), ca="plant-ca.pem") == [7, 8, 9]


async def test_a_device_that_wants_a_certificate_gets_it(authority: Authority) -> None:
    authority.issue("gateway", [])
    mine = {"certificate": "gateway.pem", "key": "gateway.key"}
    assert await read(authority.folder, server(authority, client=True), ca="plant-ca.pem", **mine) == [7, 8, 9]


async def test_without_the_certificate_it_says_so(authority: Authority) -> None:
    tls = server(authority, client=True)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def once() -> None:
            """asyncio's own server hangs up without the alert that a device sends."""
            peer, _ = listening.accept()
            with tls.wrap_socket(peer, server_side=True, do_handshake_on_connect=False) as session:
                with suppress(ssl.SSLError):
                    session.do_handshake()
                time.sleep(0.3)

        serving = asyncio.create_task(asyncio.to_thread(once))
        endpoint = f"tls://127.0.0.1:{listening.getsockname()[1]}"
        config = ModbusConfig.model_validate({"kind": "modbus", "endpoint": endpoint, "timeout": "5s", "ca": "plant-ca.pem"})
        connection = await open_connection(config, authority.folder)
        with pytest.raises(NotConnected, match="does not accept this gateway's certificate"):
            await connection.read(Span(1, 3, 7, 3))
        await connection.aclose()
        await serving


async def test_an_unknown_authority_is_for_a_person(authority: Authority) -> None:
    with pytest.raises(ConfigError, match=r"not trusted.*`ca`"):
        await read(authority.folder, server(authority))
    Authority(authority.folder, "other-ca")
    with pytest.raises(ConfigError, match="not trusted"):
        await read(authority.folder, server(authority), ca="other-ca.pem")


async def test_another_name_is_for_a_person_who_can_name_it(authority: Authority) -> None:
    tls = server(authority, names=["plc-7.plant"])
    with pytest.raises(ConfigError, match=r"not for 127\.0\.0\.1.*`server_name`"):
        await read(authority.folder, tls, ca="plant-ca.pem")
    assert await read(authority.folder, tls, ca="plant-ca.pem", server_name="plc-7.plant") == [7, 8, 9]


@pytest.mark.parametrize(("days", "state"), [((-9, -1), "has expired"), ((1, 9), "is not valid yet")])
async def test_a_certificate_of_another_time_is_tried_again(authority: Authority, days: tuple[int, int], state: str) -> None:
    with pytest.raises(NotConnected, match=state):
        await read(authority.folder, server(authority, days=days), ca="plant-ca.pem")


async def test_insecure_believes_anybody(authority: Authority) -> None:
    assert await read(authority.folder, server(authority, names=["elsewhere"]), insecure=True) == [7, 8, 9]


@pytest.mark.parametrize("option", ["ca", "certificate"])
async def test_a_file_that_is_none_is_named(authority: Authority, option: str) -> None:
    for content in (None, "no certificate"):
        if content is not None:
            (authority.folder / "x.pem").write_text(content)
        with pytest.raises(ConfigError, match=f"{option} x.pem cannot be used"):
            await read(authority.folder, server(authority), **{option: "x.pem"})


async def test_a_device_without_tls_says_so() -> None:
    async with running(Device(lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n")) as device:
        config = ModbusConfig.model_validate({"kind": "modbus", "endpoint": f"tls://127.0.0.1:{device.port}", "timeout": "1s"})
        with pytest.raises(NotConnected, match=r"does not speak TLS|does not answer"):
            await open_connection(config)


def a_context(folder: Path, **options: object) -> ssl.SSLContext:
    return tls_context(ModbusConfig.model_validate({"kind": "modbus", "endpoint": "tls://h", **options}), folder)


def test_files_are_read_again_when_they_have_changed_and_not_at_each_attempt(authority: Authority) -> None:
    before = a_context(authority.folder, ca="plant-ca.pem")
    assert a_context(authority.folder, ca="plant-ca.pem") is before
    assert a_context(authority.folder, ca="plant-ca.pem", insecure=True) is not before
    Authority(authority.folder, "plant-ca")  # the authority was renewed under the same name
    renewed = a_context(authority.folder, ca="plant-ca.pem")
    assert renewed.get_ca_certs(binary_form=True) != before.get_ca_certs(binary_form=True)
    (authority.folder / "plant-ca.pem").unlink()
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"plant-ca\.pem cannot be used"):
            a_context(authority.folder, ca="plant-ca.pem")


def test_an_authority_that_is_named_is_believed_instead_of_the_systems(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    Authority(authority.folder, "system-ca")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.folder / "system-ca.pem"))
    assert len(a_context(authority.folder).get_ca_certs()) == 1
    assert [dict(*one["subject"])["commonName"] for one in a_context(authority.folder, ca="plant-ca.pem").get_ca_certs()] == [
        "plant-ca"
    ]
