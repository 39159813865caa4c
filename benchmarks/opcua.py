"""OPC UA: 10,000 value changes a second and reads of 1,000 nodes, against asyncua's own ways and node-opcua's client.

The server is node-opcua in a process of its own on loopback, without security. Changes come from 1,000 items at 10 Hz, then from 10,000
items at 1 Hz. Ours is the adapter as the gateway runs it, from the socket to Arrow batches; the others are asyncua's client with a
subscription handler that counts, and node-opcua's client with a listener that counts. Each client is a process of its own; measured is
user and system time of that process over some seconds after all items have reported, divided by the values that came in that time. The
three take turns with a connection each, medians are compared. A read is one request for 1,000 nodes: ours decoded to a batch,
asyncua's `read_attributes` decoded to its objects, in turn in one process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from asyncua import Client, ua
from report import Figure, interleaved, parser, publish

from adapters.base import AdapterContext, BoundTag, TagConfig
from adapters.opcua.adapter import OpcuaAdapter
from adapters.opcua.config import OpcuaConfig
from adapters.opcua.connection import Connection, open_connection
from adapters.opcua.decode import decode_read
from adapters.opcua.plan import compile_plan
from adapters.opcua.prepared import PreparedRead
from adapters.opcua.rows import Rows
from schemas.tags import Tag

HERE = Path(__file__).resolve().parent
PACKAGES = HERE.parent / "tests" / "interop" / "node_modules"
LOADS = {"1,000 items at 10 Hz": ("fast", 1000, 100), "10,000 items at 1 Hz": ("slow", 10_000, 1000)}
READ = 1000
READS_PER_TURN = 5


class SystemClock:
    """Wall time."""

    def now_us(self) -> int:
        return time.time_ns() // 1000


def bound_tags(endpoint: str, prefix: str, count: int, period_ms: int) -> tuple[OpcuaConfig, list[BoundTag[TagConfig]]]:
    """One tag per item of the server."""
    tags = {f"t{k}": {"address": f"ns=1;s={prefix}.{k}"} for k in range(count)}
    config = OpcuaConfig.model_validate({"kind": "opcua", "endpoint": endpoint, "scan": f"{period_ms}ms", "tags": tags})
    return config, [
        BoundTag(
            Tag(
                path=f"acme/osaka/robot/{name}", asset="acme/osaka/robot", name=name, adapter="robot", device="robot",
                address=tag.wire_address(), value_type=tag.value_type(), period_us=period_ms * 1000, id=number,
            ),
            tag,
            "robot",
        )
        for number, (name, tag) in enumerate(config.tags.items())
    ]  # fmt: skip


class Count:
    """How many values came, and what they have cost."""

    def __init__(self) -> None:
        self.values = 0

    def datachange_notification(self, node: object, value: object, data: object) -> None:
        self.values += 1

    async def measured(self, items: int, warm_up_s: float, seconds: float) -> dict[str, float]:
        """Values and CPU seconds of `seconds`, beginning `warm_up_s` after every item has reported once."""
        async with asyncio.timeout(30):
            while self.values < items:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await asyncio.sleep(warm_up_s)
        first, before = self.values, time.process_time()
        await asyncio.sleep(seconds)
        return {"values": self.values - first, "cpu_s": time.process_time() - before}


async def ours(endpoint: str, prefix: str, items: int, period_ms: int, warm_up_s: float, seconds: float) -> dict[str, float]:
    """The adapter, whose batches are counted."""
    config, tags = bound_tags(endpoint, prefix, items, period_ms)
    log = structlog.get_logger()
    count = Count()
    with tempfile.TemporaryDirectory() as directory:
        adapter = OpcuaAdapter(config, AdapterContext("robot", tags, SystemClock(), Path(directory), log))
        await adapter.connect()

        async def consume() -> None:
            async with aclosing(adapter.batches()) as batches:
                async for batch in batches:
                    count.values += batch.num_rows

        task = asyncio.create_task(consume())
        try:
            return await count.measured(items, warm_up_s, seconds)
        finally:
            task.cancel()
            await asyncio.wait([task])
            await adapter.aclose()


async def handler(endpoint: str, prefix: str, items: int, period_ms: int, warm_up_s: float, seconds: float) -> dict[str, float]:
    """asyncua's client as its documentation uses it, with its log switched off as ours is."""
    logging.getLogger("asyncua").setLevel(logging.CRITICAL + 1)
    count = Count()
    async with Client(endpoint, timeout=30) as client:
        asked = ua.CreateSubscriptionParameters(
            RequestedPublishingInterval=period_ms,
            RequestedLifetimeCount=600,
            RequestedMaxKeepAliveCount=10,
            MaxNotificationsPerPublish=10_000,
        )
        subscription = await client.create_subscription(asked, count)
        nodes = [client.get_node(f"ns=1;s={prefix}.{k}") for k in range(items)]
        for start in range(0, items, 1000):
            await subscription.subscribe_data_change(nodes[start : start + 1000], queuesize=10, sampling_interval=period_ms)
        found = await count.measured(items, warm_up_s, seconds)
        await subscription.delete()
        return found


CLIENTS = {"ours": ours, "asyncua's handler": handler}


def client(name: str) -> None:
    """A client process: a line is one measurement, as of opcua_source.js."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    print("READY", flush=True)
    for line in sys.stdin:
        endpoint, prefix, *numbers = line.split()
        items, period_ms, warm_up_s, seconds = (float(number) for number in numbers)
        found = asyncio.run(CLIENTS[name](endpoint, prefix, int(items), int(period_ms), warm_up_s, seconds))
        print(json.dumps(found), flush=True)


@contextmanager
def talking(*command: str) -> Iterator[Callable[[str], Any]]:
    """A child that answers a line with a line of JSON; ended by pid. Yields the asking."""
    environment = os.environ | {"NODE_PATH": str(PACKAGES)}
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert child.stdin is not None
    assert child.stdout is not None
    stdin, stdout = child.stdin, child.stdout

    def ask(line: str) -> Any:
        stdin.write(line + "\n")
        stdin.flush()
        for answer in stdout:
            if answer.startswith("{"):  # node-opcua warns on standard output
                return json.loads(answer)
        sys.exit(f"{command} ended")

    try:
        while stdout.readline().strip() not in ("READY", ""):
            pass
        yield ask
    finally:
        child.terminate()
        child.wait(10)


@contextmanager
def source(node: str) -> Iterator[str]:
    """The server's endpoint."""
    environment = os.environ | {"NODE_PATH": str(PACKAGES)}
    command = [node, str(HERE / "opcua_source.js"), "serve"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert child.stdout is not None
        line = next((line for line in child.stdout if line.startswith("PORT ")), None)  # warnings may stand before it
        if line is None:
            sys.exit("the node-opcua server does not start")
        yield f"opc.tcp://127.0.0.1:{int(line.split()[1])}"
    finally:
        child.terminate()
        child.wait(10)


def cost_of(ask: Callable[[str], Any], line: str, seconds: float, rates: list[float]) -> float:
    """CPU µs per value of one measurement; its values a second are appended to `rates`."""
    found = ask(line)
    rates.append(found["values"] / seconds)
    return float(found["cpu_s"] / found["values"] * 1e6)


def changes(node: str, endpoint: str, options: argparse.Namespace) -> list[Figure]:
    """CPU per value of the three clients under both loads, each in turn."""
    rounds, warm_up_s, seconds = (2, 1, 3) if options.quick else (7, 2, 6)
    commands = {name: [sys.executable, __file__, "--client", name] for name in CLIENTS}
    commands["node-opcua's client"] = [node, str(HERE / "opcua_source.js"), "client"]
    figures: list[Figure] = []
    for load, (prefix, items, period_ms) in LOADS.items():
        line = f"{endpoint} {prefix} {items} {period_ms} {warm_up_s} {seconds}"
        rates: list[float] = []
        children = {name: talking(*command) for name, command in commands.items()}
        asks = {name: child.__enter__() for name, child in children.items()}

        try:
            cost = interleaved({name: partial(cost_of, ask, line, seconds, rates) for name, ask in asks.items()}, rounds)
        finally:
            for child in children.values():
                child.__exit__(None, None, None)
        name = f"OPC UA changes, {load}"
        figures += [
            Figure(
                f"{name}: CPU, to asyncua", cost["ours"] / cost["asyncua's handler"], "ratio", "lower", 0.1, "asyncua's handler"
            ),
            Figure(
                f"{name}: CPU, to node-opcua",
                cost["ours"] / cost["node-opcua's client"],
                "ratio",
                "lower",
                0.7,
                "node-opcua's client",
            ),
            *(Figure(f"{name}: {who}, CPU", value, "us/value", "lower") for who, value in cost.items()),
            Figure(f"{name}: values that came", statistics.median(rates), "1/s", "higher"),
        ]
    return figures


async def reads(endpoint: str, rounds: int) -> list[Figure]:
    """CPU of one read of 1,000 nodes."""
    config, tags = bound_tags(endpoint, "slow", READ, 1000)
    nodes = [ua.NodeId(f"slow.{k}", 1) for k in range(READ)]
    rows = Rows(tags, compile_plan(tags, config))
    request = PreparedRead(nodes)
    logging.getLogger("asyncua").setLevel(logging.CRITICAL + 1)

    async def read(connection: Connection) -> None:
        result, found = decode_read(await connection.request(request))
        batch = rows.batch(found, time.time_ns() // 1000)
        if result or batch is None or batch.num_rows != READ or batch.column("value").null_count:
            sys.exit("what was read is not what the server holds")

    cpu: dict[str, list[float]] = {"ours": [], "read_attributes": []}
    with tempfile.TemporaryDirectory() as directory:
        connection = await open_connection(config, "robot", Path(directory), Path(directory))
        async with Client(endpoint, timeout=10) as client:
            for number in range(5 + rounds):
                for name in cpu:
                    before = time.process_time()
                    for _ in range(READS_PER_TURN):
                        if name == "ours":
                            await read(connection)
                        else:
                            await client.uaclient.session.read_attributes(nodes, ua.AttributeIds.Value)
                    if number >= 5:
                        cpu[name].append((time.process_time() - before) / READS_PER_TURN)
        await connection.aclose()
    cost = {name: statistics.median(found) for name, found in cpu.items()}
    name, baseline = "OPC UA read of 1,000 nodes", "asyncua's read_attributes"
    return [
        Figure(f"{name}: CPU", cost["ours"] / cost["read_attributes"], "ratio", "lower", 0.4, baseline),
        *(Figure(f"{name}: {who}, CPU", value * 1e3, "ms", "lower") for who, value in cost.items()),
    ]


def main() -> None:
    options_of = parser(__doc__ or "")
    options_of.add_argument("--client", choices=list(CLIENTS), help=argparse.SUPPRESS)
    options = options_of.parse_args()
    if options.client:
        client(options.client)
        return
    node = shutil.which("node")
    missing = [name for name in ("node-opcua-server", "node-opcua-client") if not (PACKAGES / name / "package.json").exists()]
    if node is None or missing:
        what = "node" if node is None else " and ".join(missing)
        print(f"skipped: {what} is missing; install it with: npm ci --prefix tests/interop (needs node)")
        return
    with source(node) as endpoint:
        figures = asyncio.run(reads(endpoint, 20 if options.quick else 100))
        figures += changes(node, endpoint, options)
    publish(figures, options)


if __name__ == "__main__":
    main()
