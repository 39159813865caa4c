"""An asyncua server whose variables a test writes itself, and whose subscriptions it can make forget what they are for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
from asyncua import Server, ua

from adapters.opcua.adapter import OpcuaAdapter
from adapters.opcua.config import OpcuaConfig
from adapters.opcua.connection import quiet_library
from adapters.opcua.simulator import stop
from schemas.errors import NotConnected
from schemas.kinds import kind_of
from tests.adapters.opcua.rig import Recorder, make_adapter

URI = "http://acme.example/plant"


class Plant:
    """Nodes of namespace 2, below Objects. `start` is `prepare` and `listen` on any free port."""

    def __init__(self) -> None:
        self.server = Server()
        self.endpoint = ""
        self.port = 0

    async def start(self, namespaces: tuple[str, ...] = (URI,)) -> Plant:
        await self.prepare(namespaces)
        return await self.listen()

    async def prepare(self, namespaces: tuple[str, ...]) -> None:
        quiet_library()
        await self.server.init()
        self.server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        for uri in namespaces:
            await self.server.register_namespace(uri)

    async def listen(self, port: int = 0) -> Plant:
        self.server.set_endpoint(f"opc.tcp://127.0.0.1:{port}/plant")
        await self.server.start()
        assert self.server.bserver is not None
        self.port = self.server.bserver.port
        self.endpoint = f"opc.tcp://127.0.0.1:{self.port}/plant"
        return self

    async def stop(self) -> None:
        await stop(self.server)

    async def add(self, name: str, value: object, kind: ua.VariantType = ua.VariantType.Double, space: int = 2) -> ua.NodeId:
        node = ua.NodeId(name, space)
        await self.server.nodes.objects.add_variable(node, ua.QualifiedName(name, space), value, kind)
        return node

    async def write(
        self, node: ua.NodeId, value: object, kind: ua.VariantType = ua.VariantType.Double, at: datetime | None = None
    ) -> None:
        """A new value with the source time `at`, now by default."""
        now = datetime.now(UTC)
        stamped = ua.DataValue(ua.Variant(value, kind), SourceTimestamp=at or now, ServerTimestamp=now)
        await self.server.write_attribute_value(node, stamped)

    def mute(self, node: ua.NodeId) -> None:
        """From now on nobody who has subscribed is told of changes, as if the server had forgotten them."""
        self.server.iserver.aspace._nodes[node].attributes[ua.AttributeIds.Value].datachange_callbacks.clear()

    def remove(self, node: ua.NodeId) -> None:
        """The node is gone, and nobody who has subscribed is told."""
        self.mute(node)
        del self.server.iserver.aspace._nodes[node]


class Live:
    """An adapter at work, read in the background, and what it logged."""

    def __init__(self, config: OpcuaConfig, logs: list[Any]) -> None:
        self.seen, self.logs = Recorder(config), logs
        self.lost: list[str] = []  # how connections and attempts to connect ended

    async def until(self, enough: Callable[[Recorder], object], timeout_s: float = 30) -> None:
        async with asyncio.timeout(timeout_s):
            while not enough(self.seen):  # noqa: ASYNC110 - the recorder has no event
                await asyncio.sleep(0.01)

    def told(self, *sentences: str) -> list[str]:
        return [entry["event"] for entry in self.logs if entry["event"] in sentences]

    def values(self, name: str) -> list[float | None]:
        return [row["value"] for row in self.seen.rows[name]]

    def events(self) -> list[dict[str, Any]]:
        return [row for batch in self.seen.batches if kind_of(batch) == "event" for row in batch.to_pylist()]

    def gaps(self) -> list[dict[str, Any]]:
        return [row for batch in self.seen.batches if kind_of(batch) == "gap" for row in batch.to_pylist()]


@asynccontextmanager
async def live(config: OpcuaConfig, directory: Path, adapter: OpcuaAdapter | None = None) -> AsyncIterator[Live]:
    """An adapter (a new one) that is driven as the gateway drives it: connected again whenever its connection is lost."""
    with structlog.testing.capture_logs() as logs:
        adapter = adapter or make_adapter(config, directory)
        found = Live(config, logs)
        await adapter.connect()

        async def collect() -> None:
            connected = True
            while True:
                try:
                    if not connected:
                        await adapter.connect()
                    connected = True
                    async with aclosing(adapter.batches()) as stream:
                        async for batch in stream:
                            found.seen.add(batch)
                except NotConnected as error:
                    found.lost.append(str(error))
                    connected = False
                    await asyncio.sleep(0.1)

        task = asyncio.create_task(collect())
        try:
            await found.until(Recorder.everything)
            yield found
            if task.done():
                task.result()
        finally:
            task.cancel()
            await asyncio.wait([task])
            await adapter.aclose()


class Network:
    """Passes bytes on in both directions until `swallow` is set; then they vanish and connections stay open."""

    def __init__(self, port: int) -> None:
        self._port, self.swallow = port, False

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            try:
                while data := await source.read(65536):
                    if not self.swallow:
                        target.write(data)
                        await target.drain()
            except ConnectionError:
                pass
            finally:
                target.close()

        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))
