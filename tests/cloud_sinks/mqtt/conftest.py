"""Brokers for the MQTT sink: a real one in this process (amqtt, 3.1.1 only) and a scripted one that speaks 5 and misbehaves on cue."""

from __future__ import annotations

import asyncio
import json
import logging
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from amqtt.broker import Broker

from cloud_sinks.mqtt.connection import Connection, Options, Version


class Subscriber:
    """Listens on topics and keeps what comes, in order: (topic, payload, retained)."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes, bool]] = []
        self._connection: Connection | None = None
        self._arrived = asyncio.Event()

    async def open(self, port: int, *topics: str, version: Version = "3.1.1", name: str = "subscriber") -> Subscriber:
        options = Options("127.0.0.1", port, None, name, None, None, ("tests/will", b""), 30, 5, 20)
        self._connection = Connection(options, version, self._take)
        await self._connection.open(5)
        for topic in topics or ("#",):
            assert await self._connection.subscribe(topic) < 128
        return self

    def _take(self, topic: str, payload: bytes, retained: bool) -> None:
        self.messages.append((topic, payload, retained))
        self._arrived.set()

    async def wait(
        self, enough: Callable[[list[tuple[str, bytes, bool]]], bool], timeout_s: float = 10
    ) -> list[tuple[str, bytes, bool]]:
        async with asyncio.timeout(timeout_s):
            while not enough(self.messages):
                self._arrived.clear()
                await self._arrived.wait()
        return self.messages

    def json(self, prefix: str) -> list[dict[str, Any]]:
        return [json.loads(payload) for topic, payload, _ in self.messages if topic.startswith(prefix)]

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        assert self._connection is not None
        assert await self._connection.publish(topic, payload, retain=retain) == 0

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()


class RealBroker:
    """amqtt on a free loopback port, which it keeps over `stop` and `start`."""

    def __init__(self) -> None:
        self.port = 0
        self._broker: Broker | None = None

    @property
    def endpoint(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._broker = Broker(
            {
                "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{self.port}", "max_connections": 50}},
                "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
            }
        )
        await self._broker.start()
        self.port = self._broker._servers["default"].instance.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        broker, self._broker = self._broker, None
        if broker is not None:
            await broker.shutdown()


@pytest.fixture
async def broker() -> AsyncIterator[RealBroker]:
    logging.getLogger("amqtt").setLevel(logging.CRITICAL)
    logging.getLogger("transitions").setLevel(logging.CRITICAL)
    real = RealBroker()
    await real.start()
    yield real
    await real.stop()


@dataclass
class ScriptedBroker:
    """Answers as told and remembers what came. Speaks the version that the client asks for.

    `connack`: reason code by version (5 and 4); `None` closes without an answer, `"silent"` never answers.
    `puback(n, topic)`: reason code of the n-th PUBLISH (from 0) that is not a status; `None` closes, `"silent"` never answers.
    """

    connack: dict[int, int | str | None] = field(default_factory=lambda: {5: 0, 4: 0})
    puback: Callable[[int, str], int | str | None] = lambda n, topic: 0
    suback: int = 1
    properties: bytes = b""  # of the CONNACK of version 5
    versions: list[int] = field(default_factory=list)
    published: list[tuple[str, bytes, bool]] = field(default_factory=list)
    connects: list[bytes] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0
    delay_s: float = 0.0
    port: int = 0
    came: asyncio.Event = field(default_factory=asyncio.Event)  # a CONNECT was read
    _server: asyncio.Server | None = None
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()
        await self._server.wait_closed()
        await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        version = 0
        try:
            while True:
                kind, body = await _packet(reader)
                if kind >> 4 == 1:
                    version = body[6]
                    self.versions.append(version)
                    self.connects.append(body)
                    self.came.set()
                    code = self.connack[version]
                    if code == "silent":
                        continue
                    if code is None:
                        return
                    assert isinstance(code, int)
                    tail = bytes([len(self.properties)]) + self.properties if version == 5 else b""
                    writer.write(_framed(0x20, bytes([0, code]) + tail))
                elif kind >> 4 == 3 and not await self._take(kind, body, version, writer):
                    return
                elif kind >> 4 == 8:
                    writer.write(_framed(0x90, body[:2] + (b"\0" if version == 5 else b"") + bytes([self.suback])))
                elif kind >> 4 == 12:
                    writer.write(b"\xd0\x00")
                elif kind >> 4 == 14:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    async def _take(self, kind: int, body: bytes, version: int, writer: asyncio.StreamWriter) -> bool:
        (length,) = struct.unpack_from(">H", body)
        topic = body[2 : 2 + length].decode()
        mid = body[2 + length : 4 + length]
        payload = body[4 + length + (1 if version == 5 else 0) :]
        status = topic.startswith("genba/status")
        count = sum(not seen.startswith("genba/status") for seen, _, _ in self.published)
        self.published.append((topic, payload, bool(kind & 1)))
        code = 0 if status else self.puback(count, topic)
        if code is None:
            return False
        if isinstance(code, int):
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
            answer = _framed(0x40, mid + bytes([code]) if version == 5 and code else mid)
            asyncio.get_running_loop().call_later(self.delay_s, self._answer, writer, answer)
        return True

    def _answer(self, writer: asyncio.StreamWriter, answer: bytes) -> None:
        self.under_way -= 1
        if not writer.is_closing():
            writer.write(answer)


async def _packet(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    (kind,) = await reader.readexactly(1)
    length = shift = 0
    while True:
        (byte,) = await reader.readexactly(1)
        length |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return kind, await reader.readexactly(length)


def _framed(kind: int, body: bytes) -> bytes:
    assert len(body) < 128
    return bytes([kind, len(body)]) + body


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedBroker]:
    made = ScriptedBroker()
    await made.start()
    yield made
    await made.stop()


def topics_of(messages: Sequence[tuple[str, bytes, bool]]) -> list[str]:
    return [topic for topic, _, _ in messages]
