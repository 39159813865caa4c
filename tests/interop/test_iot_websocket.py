"""IoT Core by WebSocket: mosquitto behind a TLS proxy that keeps the handshake, whose signature botocore computes again."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from cloud_sinks.iot_core import PLUGIN
from cloud_sinks.iot_core.config import IotCoreConfig
from cloud_sinks.iot_core.sink import _region_of
from schemas.errors import ConfigError, NotConnected
from tests.authority import Authority
from tests.cloud_sinks.aws_rig import free_port
from tests.conformance.sink import Tags, batch_of, context_of, span_of
from tests.conftest import ManualClock
from tests.interop.test_iot_core import listening

pytestmark = pytest.mark.interop
KEY, SECRET, TOKEN = "AKIDEXAMPLE0001", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "session/token+1=="


@dataclass
class Wss:
    """TLS in front of mosquitto's WebSocket listener; `requests` are the first lines and headers of each connection."""

    port: int
    plain_port: int
    requests: list[str] = field(default_factory=list)


@pytest.fixture
async def wss(mosquitto: Callable[..., Any], tmp_path: Path) -> AsyncIterator[Wss]:
    broker = await asyncio.to_thread(mosquitto)
    behind = free_port()
    file = broker.folder / "mosquitto.conf"
    file.write_text(file.read_text() + f"listener {behind} 127.0.0.1\nprotocol websockets\nallow_anonymous true\n")
    await asyncio.to_thread(broker.restart)
    authority = Authority(tmp_path, "ca")
    authority.issue("server", ["localhost"])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    made = Wss(0, broker.port)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except (OSError, ssl.SSLError):
            return
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, OSError):  # the handshake that goes before
            writer.close()
            return
        made.requests.append(head.decode())
        above, below = await asyncio.open_connection("127.0.0.1", behind)
        below.write(head)
        async with asyncio.TaskGroup() as group:
            group.create_task(pump(reader, below))
            group.create_task(pump(above, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": TOKEN, "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "none"), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.delenv("AWS_REGION", raising=False)


def config(port: int, **options: Any) -> IotCoreConfig:
    given = {"endpoint": "wss://localhost", "port": port, "thing": "gw-1", "ca": "ca.pem", "timeout": "20s"}
    return IotCoreConfig.model_validate({**given, "aws": {"region": "ap-northeast-1"}, **options})


async def test_rows_arrive_and_the_handshake_is_signed(wss: Wss, tmp_path: Path, manual_clock: ManualClock) -> None:
    context = context_of(tmp_path, manual_clock)
    assert isinstance(context.tags, Tags)
    sink = PLUGIN.build(config(wss.port), context)
    with listening(wss.plain_port, "genba/#") as listener:
        await sink.connect()
        await sink.write([batch_of("alert", 0, 3, context.tags)], span_of("alert", 0, 3))
        assert {row["row"] for row in await asyncio.to_thread(listener.wait, 3)} == {0, 1, 2}
    await sink.aclose()
    (head,) = wss.requests
    first, *lines = head.split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines if ": " in line)
    assert headers["Sec-WebSocket-Protocol"] == "mqtt"
    _, target, _ = first.split()
    query = dict(parse_qsl(urlsplit(target).query))
    assert query["X-Amz-Credential"].startswith(f"{KEY}/")
    assert query["X-Amz-Credential"].endswith("/ap-northeast-1/iotdevicegateway/aws4_request")
    assert query["X-Amz-Security-Token"] == TOKEN
    assert SECRET not in head
    assert query["X-Amz-Signature"] == signature({name.lower(): value for name, value in headers.items()}, query)


def signature(headers: dict[str, str], query: dict[str, str]) -> str:
    """The same computed by botocore: the token goes along and is not signed. Of the headers botocore would leave out some."""
    signer = SigV4QueryAuth(Credentials(KEY, SECRET), "iotdevicegateway", "ap-northeast-1")
    given = {name: value for name, value in query.items() if name not in ("X-Amz-Signature", "X-Amz-Security-Token")}
    request = AWSRequest("GET", f"https://{headers['host']}/mqtt", params=given)
    request.context["timestamp"] = query["X-Amz-Date"]
    names = query["X-Amz-SignedHeaders"].split(";")
    assert "host" in names
    canonical = "\n".join(
        [
            "GET", "/mqtt", signer.canonical_query_string(request), *(f"{name}:{headers[name]}" for name in names), "",
            query["X-Amz-SignedHeaders"], hashlib.sha256(b"").hexdigest(),
        ]
    )  # fmt: skip
    return str(signer.signature(signer.string_to_sign(request, canonical), request))


async def test_no_credentials_are_for_a_person(
    wss: Wss, tmp_path: Path, manual_clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    sink = PLUGIN.build(config(wss.port), context_of(tmp_path, manual_clock))
    with pytest.raises(ConfigError, match="no AWS credentials") as caught:
        await sink.connect()
    assert "role_alias" in caught.value.hint
    await sink.aclose()


async def test_no_region_is_for_a_person_and_that_of_the_host_is_taken(
    wss: Wss, tmp_path: Path, manual_clock: ManualClock
) -> None:
    sink = PLUGIN.build(config(wss.port, aws={}), context_of(tmp_path, manual_clock))
    with pytest.raises(ConfigError, match="no region"):
        await sink.connect()
    await sink.aclose()
    assert _region_of("a1-ats.iot.eu-central-1.amazonaws.com") == "eu-central-1"
    assert _region_of("a1-ats.iot.cn-north-1.amazonaws.com.cn") == "cn-north-1"
    assert _region_of("broker.plant.example") is None


async def test_a_server_that_nobody_believes(wss: Wss, tmp_path: Path, manual_clock: ManualClock) -> None:
    sink = PLUGIN.build(config(wss.port, ca=None), context_of(tmp_path, manual_clock))
    with pytest.raises(ConfigError, match="not believed"):
        await sink.connect()
    await sink.aclose()
    assert wss.requests == []  # no signature went to it


async def test_a_refused_handshake_is_not_connected(tmp_path: Path, manual_clock: ManualClock) -> None:
    """IoT Core answers 403 where the signature or the policy is wrong."""
    Authority(tmp_path, "ca").issue("server", ["localhost"])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0, ssl=context)
    sink = PLUGIN.build(config(server.sockets[0].getsockname()[1]), context_of(tmp_path, manual_clock))
    with pytest.raises(NotConnected, match=r"UPGRADE_FAILURE.*the policy of these credentials"):
        await sink.connect()
    await sink.aclose()
    server.close()
