"""Devices whose values tell where and when they were read, adapters that read them through a proxy, and what was seen.

Everything runs on a loop in virtual time over real sockets, so that a minute of bad weather takes a second and every duration is exact.
"""

from __future__ import annotations

import asyncio
import random
import struct
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import structlog
from asyncua import Server, ua
from asyncua.crypto.cert_gen import setup_self_signed_certificate
from cryptography.x509.oid import ExtendedKeyUsageOID

from adapters.base import Adapter, AdapterContext, SimulatorContext
from adapters.modbus import PLUGIN as MODBUS
from adapters.opcua import PLUGIN as OPCUA
from adapters.opcua.simulator import stop
from adapters.s7 import PLUGIN as S7
from adapters.simulation import Signals
from gateway.collector import Collector
from schemas import quality as q
from schemas.errors import NotConnected
from schemas.plugin import Plugin
from schemas.tags import Tag
from tests.adapters.modbus.devices import Request
from tests.adapters.modbus.lines import Line, on_tcp, rtu
from tests.conformance.adapter import bind
from tests.simulation.loop import VirtualClock

PLUGINS: Mapping[str, Plugin[Any, Adapter]] = {"modbus": MODBUS, "rtu": MODBUS, "opcua": OPCUA, "s7": S7}
TAGS: Mapping[str, Mapping[str, Any]] = {
    "modbus": {f"w{n}": {"address": f"hr:{300 * (n % 3) + 4 * n}", "type": "float64"} for n in range(24)},  # three blocks
    "rtu": {f"w{n}": {"address": f"hr:{n}", "type": "uint16"} for n in range(24)},
    "s7": {f"w{n}": {"address": f"DB{n % 3 + 1}.DBB{8 * n}", "type": "lreal"} for n in range(24)},
    "opcua": {f"w{n}": {"address": f"ns=2;s=W{n}", "type": "float64"} for n in range(24)},
}
SCAN_S, TIMEOUT_S = 0.1, 0.5
TICKS_PER_S, ROUND = 20, 200
"""A value is its tag's number * ROUND + the tick at which the device showed it; the round of ticks takes ten seconds."""


def tick() -> int:
    return int(asyncio.get_running_loop().time() * TICKS_PER_S) % ROUND


class Stamped:
    """Signals of which each shows its own number and the time."""

    def value(self, tag: Tag, *, step: bool = False, boolean: bool = False) -> float:
        return float(int(tag.name[1:]) * ROUND + tick())

    def upcoming(self, tag: Tag) -> None:
        return None


def _registers(request: Request) -> bytes:
    values = [(request.start + n) * ROUND + tick() for n in range(request.count)]
    return rtu(request, bytes((request.function, 2 * len(values))) + struct.pack(f">{len(values)}H", *values))


@asynccontextmanager
async def device(kind: str) -> AsyncIterator[str]:
    """A device on loopback, as its endpoint."""
    if kind == "rtu":
        async with on_tcp(Line(answer=_registers)) as line:
            yield line.endpoint
        return
    schemes = {"modbus": "tcp://127.0.0.1:502", "s7": "s7://127.0.0.1", "opcua": "opc.tcp://127.0.0.1:4840/plant"}
    config = PLUGINS[kind].config.model_validate(_entry(kind, schemes[kind]))
    simulate = PLUGINS[kind].simulate
    assert simulate is not None
    simulator = simulate(config, SimulatorContext("device", bind("device", config), cast(Signals, Stamped())))
    try:
        yield await simulator.start("127.0.0.1", 0)
    finally:
        await simulator.aclose()


@asynccontextmanager
async def secured(directory: Path) -> AsyncIterator[str]:
    """An OPC UA server that signs and encrypts, with the same nodes; its certificate is below `directory`/trust/trusted."""
    trusted = directory / "trust" / "trusted"
    trusted.mkdir(parents=True)
    key, certificate, uri = directory / "server.pem", trusted / "server.der", "urn:genba:test:server"
    names = {"countryName": "JP", "organizationName": "acme"}
    await setup_self_signed_certificate(key, certificate, uri, "localhost", [ExtendedKeyUsageOID.SERVER_AUTH], names)
    server = Server()
    await server.init()
    await server.set_application_uri(uri)
    server.set_endpoint("opc.tcp://127.0.0.1:0/plant")
    server.set_security_policy([ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt])
    await server.load_certificate(str(certificate))
    await server.load_private_key(str(key))
    await server.register_namespace("urn:genba:test:two")
    nodes = [
        await server.nodes.objects.add_variable(ua.NodeId(name.upper(), 2), name, float(n * ROUND), ua.VariantType.Double)
        for n, name in enumerate(TAGS["opcua"])
    ]

    async def show() -> None:
        while True:
            for number, node in enumerate(nodes):
                await server.write_attribute_value(
                    node.nodeid, ua.DataValue(ua.Variant(float(number * ROUND + tick()), ua.VariantType.Double))
                )
            await asyncio.sleep(SCAN_S)

    await server.start()
    assert server.bserver is not None
    showing = asyncio.create_task(show())
    try:
        yield f"opc.tcp://127.0.0.1:{server.bserver.port}/plant"
    finally:
        showing.cancel()
        await asyncio.wait([showing])
        await stop(server)


def _entry(kind: str, endpoint: str, **options: Any) -> dict[str, Any]:
    kind_of = "modbus" if kind == "rtu" else kind
    more = {"serial": {"baud": 115_200}} if kind == "rtu" else {}
    return (
        {"kind": kind_of, "endpoint": endpoint, "scan": f"{SCAN_S}s", "timeout": f"{TIMEOUT_S}s", "tags": TAGS[kind]}
        | more
        | options
    )


@dataclass
class Reading:
    """One connection at work, and everything that was strange about what it gave."""

    kind: str
    name: str
    adapter: Adapter
    collector: Collector = field(init=False)
    rows: Counter[str] = field(default_factory=Counter)  # good, bad, gap
    events: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    batches: list[float] = field(default_factory=list)  # the loop's time
    longest_connect_s: float = 0.0
    longest_wait_s: float = 0.0  # for a batch, or for word that there will be none
    oldest_s: float = 0.0  # of a good value when it came

    def note(self, kind: str, batch: pa.RecordBatch) -> None:
        """Rows as they come out of the collector."""
        if kind == "event":
            self.events.update(batch.column("event").to_pylist())
        elif kind == "gap":
            self.rows["gap"] += batch.num_rows
        elif kind == "telemetry":
            self.batches.append(asyncio.get_running_loop().time())
            good = batch.column("quality").to_numpy() < q.BAD
            self.rows["good"] += int(good.sum())
            self.rows["bad"] += int((~good).sum())
            tags = batch.column("tag").to_numpy()[good] - 100
            values = batch.column("value").to_numpy(zero_copy_only=False)[good]
            numbers, ticks = np.divmod(values, ROUND)
            for tag, value in zip(tags[numbers != tags], values[numbers != tags], strict=True):
                self.wrong.append(f"w{tag} is {value}")
            if len(ticks):
                age = (tick() - ticks) % ROUND
                self.oldest_s = max(self.oldest_s, float(age.max()) / TICKS_PER_S)

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            await self.adapter.connect()
        finally:
            self.longest_connect_s = max(self.longest_connect_s, loop.time() - began)

    async def stream(self) -> AsyncGenerator[pa.RecordBatch, None]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with aclosing(cast("AsyncGenerator[pa.RecordBatch, None]", self.adapter.batches())) as batches:
                async for batch in batches:
                    self.longest_wait_s = max(self.longest_wait_s, loop.time() - began)
                    yield batch
                    began = loop.time()
        except NotConnected:
            self.longest_wait_s = max(self.longest_wait_s, loop.time() - began)
            raise


class _Timed:
    """The adapter as the collector sees it."""

    def __init__(self, reading: Reading) -> None:
        self.connect, self.batches, self.aclose = reading.connect, reading.stream, reading.adapter.aclose


@asynccontextmanager
async def reading(kind: str, endpoint: str, directory: Path, *, name: str = "sick", **options: Any) -> AsyncIterator[Reading]:
    """The collector and adapter of a connection, running. What they raise is raised at the end."""

    def drop(_: object, __: str, entry: Any) -> Any:
        raise structlog.DropEvent

    log: structlog.stdlib.BoundLogger = structlog.wrap_logger(None, processors=[drop], wrapper_class=structlog.stdlib.BoundLogger)
    clock = VirtualClock(asyncio.get_running_loop())
    config = PLUGINS[kind].config.model_validate(_entry(kind, endpoint, **options))
    bound = bind(name, config)
    made = Reading(
        kind, name, PLUGINS[kind].build(config, AdapterContext(name, bound, clock, directory / name, log, base=directory))
    )

    async def put(kind: str, batch: pa.RecordBatch) -> int:
        made.note(kind, batch)
        return 0

    made.collector = Collector(
        name, cast(Adapter, _Timed(made)), [b.tag for b in bound], put=put, clock=clock, rng=random.Random(3), log=log
    )
    running = asyncio.create_task(made.collector.run())
    try:
        yield made
    finally:
        if running.done():
            running.result()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
