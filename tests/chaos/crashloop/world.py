"""What stands around the gateways of the crash loop: a Modbus device whose values count, a broker with mutual TLS, a bucket, and the births."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from adapters.simulation import Scenario, Signals
from schemas.tags import Tag
from tests.chaos.day.stands import BUCKET, CREDENTIALS, Listener, broker_in, client_of
from tests.cloud_sinks import aws_rig
from tests.interop.conftest import Broker, Started

from .births import Order, line_of

COUNTERS: Final = ("beat", "one", "two", "three", "four", "five")
WAVE: Final = 40
"""Reads in one swing of the tag `wave`, 0 … 100 … 0: it goes beyond its limit once in a swing."""
LIMIT: Final = 90.0
_ROOT: Final = Path(__file__).parents[3]

PLANT: Final = """
enterprise: acme
site: osaka
gateway: {gateway}
status: {{listen: "127.0.0.1:0"}}
spool: {{commit_every: 20ms, max_size: 1 GB}}
adapters:
  press:
    kind: modbus
    endpoint: {machine}
    timeout: 10s
    scan: 20ms
    tags:
      beat: {{address: "hr:0", type: float64}}
      one: {{address: "hr:4", type: float64}}
      two: {{address: "hr:8", type: float64}}
      three: {{address: "hr:12", type: float64}}
      four: {{address: "hr:16", type: float64}}
      five: {{address: "hr:20", type: float64}}
      wave: {{address: "hr:24", type: float64, limits: {{high: 90, hysteresis: 1}}}}
      mode: {{address: "hr:28", type: uint16, enum: {{0: idle, 1: run}}}}
sinks:
  local: {{kind: parquet, location: ./lake, roll: {{max_age: 150ms}}}}
  s3: {{kind: parquet, location: "s3://{bucket}/{gateway}", roll: {{max_age: 250ms}}, aws: {{endpoint: "{aws}", timeout: 10s}}}}
  iot:
    kind: iot_core
    endpoint: localhost
    port: {broker}
    thing: {gateway}
    certificate: {certificate}
    key: {key}
    ca: {ca}
    max_age: 100ms
    max_messages: 100000
    max_bytes: 1 GB
routes:
  - {{data: telemetry, to: [s3, local]}}
  - {{data: telemetry, tags: ["**/beat"], to: [iot]}}
  - {{data: event, to: [s3, local, iot]}}
  - {{data: alert, to: [s3, local, iot]}}
  - {{data: gap, to: [s3, local]}}
"""


class Counting(Signals):
    """Every read of a tag gives its next number, so that a value says which reading it is; `wave` swings, `mode` alternates."""

    def __init__(self) -> None:
        super().__init__(Scenario(), time.monotonic)
        self._reads: Counter[str] = Counter()

    def value(self, tag: Tag, *, step: bool = True, boolean: bool = False) -> float | str:
        """See `Signals.value`."""
        self._reads[tag.name] += 1
        read = self._reads[tag.name]
        if tag.name == "wave":
            at = read % WAVE * 2 / WAVE
            return 100.0 * min(at, 2.0 - at)
        return float(read % 2 if tag.name == "mode" else read)


class Births:
    """The process that makes gateways; see `births`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def born(self, order: Order) -> int:
        """Begin a life; its process id."""
        assert self._process.stdin is not None
        self._process.stdin.write(line_of(order))
        return await self._number()

    async def ended(self) -> int:
        """The wait status of the life that was begun last, once it has ended. A wait that is cancelled may be repeated."""
        return await self._number()

    async def _number(self) -> int:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        assert line, "the process that makes gateways has ended"
        return int(line)

    async def close(self) -> None:
        """After the last life."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()


@dataclass
class World:
    """All of it, for any number of gateways one after the other."""

    broker: Broker
    listener: Listener
    aws: str
    s3: Any

    def plant(self, gateway: str, machine: str) -> str:
        """The file of a gateway that reads `machine`."""
        return PLANT.format(
            gateway=gateway, machine=machine, bucket=BUCKET, aws=self.aws, broker=self.broker.tls_port,
            certificate=self.broker.certificate, key=self.broker.key, ca=self.broker.ca,
        )  # fmt: skip

    def rows(self, gateway: str, kind: str) -> list[Any]:
        """The rows of a kind of one gateway, as the broker gave them on."""
        messages = [json.loads(data) for topic, data in list(self.listener.got) if topic == f"genba/{gateway}/{kind}"]
        return [row for message in messages for row in message.get("rows", [message])]


@asynccontextmanager
async def maker_of(plant: Path, log: Path) -> AsyncIterator[Births]:
    """A process that makes gateways, warmed up with the file of one."""
    with log.open("wb") as stream:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-W", "ignore", "-m", "tests.chaos.crashloop.births", str(plant), cwd=_ROOT, stderr=stream,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            env={**os.environ, **CREDENTIALS, "OPENBLAS_NUM_THREADS": "1", "PYDANTIC_DISABLE_PLUGINS": "__all__"},
        )  # fmt: skip
    made = Births(process)
    try:
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    """Broker, subscriber and bucket, until the block ends."""
    with ExitStack() as stack:
        started = Started(folder)
        stack.callback(started.close)
        broker = await asyncio.to_thread(broker_in, started)
        listener = Listener(broker.port)
        stack.callback(listener.close)
        assert await asyncio.to_thread(listener.connected.wait, 10)
        aws = await asyncio.to_thread(stack.enter_context, aws_rig.moto())
        s3 = client_of(aws, "s3")
        location = {"LocationConstraint": CREDENTIALS["AWS_DEFAULT_REGION"]}
        await asyncio.to_thread(s3.create_bucket, Bucket=BUCKET, CreateBucketConfiguration=location)
        yield World(broker, listener, aws, s3)
