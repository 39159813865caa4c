"""The stand-ins for the world around the gateway, on loopback: broker, streams, bucket, a small disk, one live machine.

All of them keep what they took. Each can be taken away, frozen or made to fail while the gateway runs.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import paho.mqtt.client as paho
from botocore.config import Config
from paho.mqtt.enums import CallbackAPIVersion

from tests.chaos import proxy as tcp
from tests.cloud_sinks import aws_rig
from tests.cloud_sinks.kinesis.stub import Stub
from tests.interop.conftest import Broker, Server, Started, free_port, mosquitto_in

BUCKET, STREAM = "plant-lake", "plant-arrow"
CREDENTIALS: Mapping[str, str] = {
    "AWS_ACCESS_KEY_ID": aws_rig.KEY,
    "AWS_SECRET_ACCESS_KEY": aws_rig.SECRET,
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
_DISK_MB = 40


class Listener:
    """Everything that the broker gives to a subscriber, in order. `connected` tells whether it listens at present."""

    def __init__(self, port: int) -> None:
        self.got: list[tuple[str, bytes]] = []
        self.connected = threading.Event()
        client = self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="listener", protocol=paho.MQTTv5)
        client.on_message = lambda _client, _data, message: self.got.append((message.topic, message.payload))
        client.on_connect = lambda client, *_: client.subscribe("genba/#", qos=1)
        client.on_subscribe = lambda *_: self.connected.set()
        client.on_disconnect = lambda *_: self.connected.clear()
        client.reconnect_delay_set(1, 1)
        client.connect("127.0.0.1", port)
        client.loop_start()

    def rows(self, kind: str) -> list[dict[str, Any]]:
        """The rows of a kind, as they came."""
        messages = [json.loads(data) for topic, data in list(self.got) if topic.endswith(f"/{kind}")]
        return [row for message in messages for row in message.get("rows", [message])]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def broker_in(started: Started) -> Broker:
    """A broker in the place of IoT Core: with mutual TLS, and queues that hold what a listener has not taken yet."""
    broker = mosquitto_in(started)(tls=True)
    file = broker.folder / "mosquitto.conf"
    limits = ["require_certificate true", "max_inflight_messages 1000", "max_queued_messages 100000"]
    file.write_text(file.read_text() + "\n".join(limits) + "\n")
    broker.restart()
    return broker


def client_of(endpoint: str, service: str) -> Any:
    """A client of moto."""
    return boto3.client(
        service, endpoint_url=endpoint, region_name="eu-central-1", aws_access_key_id=aws_rig.KEY,
        aws_secret_access_key=aws_rig.SECRET, config=Config(s3={"addressing_style": "path"}),
    )  # fmt: skip


def small_disks() -> bool:
    """Whether this machine lets us have one."""
    return not subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode


class SmallDisk:
    """A small file system in a namespace of its own: really full when it is full. `inside` is its path for who enters by `enter`."""

    def __init__(self, folder: Path) -> None:
        self.inside = folder / "disk"
        self.inside.mkdir()
        command = f"mount -t tmpfs -o size={_DISK_MB}m none '{self.inside}' && echo ready && exec sleep 100000"
        self._holder = subprocess.Popen(["unshare", "-rm", "sh", "-c", command], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n", "no small disk here: user namespaces are needed"
        self.enter = ("nsenter", "--preserve-credentials", "-U", "-m", "-t", str(self._holder.pid), "--")
        self.outside = Path(f"/proc/{self._holder.pid}/root{self.inside}")

    def fill(self) -> None:
        """Take the rest of its room."""
        with suppress(OSError), (self.outside / "filler").open("wb", buffering=0) as file:
            while file.write(bytes(1 << 16)):
                pass

    def free(self) -> None:
        """Give it back."""
        (self.outside / "filler").unlink(missing_ok=True)

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()
        assert self._holder.stdout is not None
        self._holder.stdout.close()


@dataclass
class Stands:
    """All of them. `endpoint` texts are what stands in the plant file."""

    broker: Broker
    broker_proxy: tcp.Proxy
    listener: Listener
    stub: Stub
    aws: Server  # moto: bucket and stream
    bucket: aws_rig.Proxy
    stream: aws_rig.Proxy
    disk: SmallDisk
    machine: tcp.Proxy
    machine_endpoint: str
    frozen: set[int] = field(default_factory=set)

    def client(self, service: str) -> Any:
        """A client of moto itself, with nothing between."""
        return client_of(f"http://127.0.0.1:{self.aws.port}", service)

    def freeze(self, server: Server) -> None:
        """SIGSTOP."""
        self.frozen.add(server.pid)
        os.kill(server.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT, for all."""
        for pid in self.frozen:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self.frozen.clear()

    async def restart_broker(self) -> None:
        """kill -9 and a new start. What it had acknowledged has reached the listener before: otherwise the broker would have lost it."""
        self.broker_proxy.refuse = True
        self.broker_proxy.cut_off()
        seen = -1
        while seen != len(self.listener.got):
            seen = len(self.listener.got)
            await asyncio.sleep(0.15)
        self.listener.connected.clear()
        await asyncio.to_thread(self.broker.restart)
        await asyncio.to_thread(self.listener.connected.wait, 20)
        self.broker_proxy.refuse = False

    def calm(self) -> None:
        """Everything works again."""
        self.thaw()
        self.disk.free()
        self.stub.plan.clear()
        self.bucket.plan.clear()
        self.stream.plan.clear()
        self.stub.away = self.bucket.away = self.stream.away = False
        for one in (self.broker_proxy, self.machine):
            one.refuse = False
            if one.up.swallow:
                one.up.clear()
                one.cut_off()


def _whole(buffer: bytearray) -> list[bytes]:
    found = [bytes(buffer)] if buffer else []
    buffer.clear()
    return found


@asynccontextmanager
async def standing(folder: Path, machine: Callable[[], Any]) -> AsyncIterator[Stands]:
    """All of them, until the block ends. `machine` makes the simulator of the live machine."""
    for program in ("unshare", "nsenter"):
        assert shutil.which(program), f"{program} is missing: apt-get install util-linux"
    with ExitStack() as stack:
        started = Started(folder)
        stack.callback(started.close)
        broker = await asyncio.to_thread(broker_in, started)
        listener = Listener(broker.port)
        stack.callback(listener.close)
        await asyncio.to_thread(listener.connected.wait, 10)
        program = "import sys; from moto.server import main; main(sys.argv[1:])"
        aws = Server(
            lambda port: [sys.executable, "-W", "ignore", "-c", program, "-H", "127.0.0.1", "-p", str(port)],
            started.new_folder(), free_port(),
        )  # fmt: skip
        await asyncio.to_thread(started.start, aws)
        stub = Stub()
        stack.callback(stub.close)
        proxies = []
        for matches in (lambda method, path: method in ("PUT", "POST"), lambda method, path: True):
            proxies.append(aws_rig.Proxy(f"http://127.0.0.1:{aws.port}", matches))
            stack.callback(proxies[-1].close)
        disk = SmallDisk(folder)
        stack.callback(disk.close)
        simulator = machine()
        endpoint = await simulator.start()
        async with (
            tcp.before(f"mqtts://127.0.0.1:{broker.tls_port}", _whole) as to_broker,
            tcp.before(endpoint, tcp.modbus_tcp) as to_machine,
        ):
            stands = Stands(
                broker, to_broker, listener, stub, aws, proxies[0], proxies[1], disk, to_machine, tcp.at(to_machine, endpoint)
            )
            try:
                await asyncio.to_thread(_prepare, stands)
                yield stands
            finally:
                stands.calm()
                await simulator.aclose()


def _prepare(stands: Stands) -> None:
    stands.client("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    kinesis = stands.client("kinesis")
    kinesis.create_stream(StreamName=STREAM, ShardCount=2)
    deadline = time.monotonic() + 20
    while kinesis.describe_stream_summary(StreamName=STREAM)["StreamDescriptionSummary"]["StreamStatus"] != "ACTIVE":
        assert time.monotonic() < deadline
        time.sleep(0.05)


PLANT = """
enterprise: acme
site: osaka
gateway: gw-1
time_zone: Asia/Tokyo
status: {{listen: "127.0.0.1:0"}}
spool: {{segment_size: 1 MiB, max_size: 2 GB}}
adapters:
  day:
    kind: replay
    endpoint: {recording}
    speed: {speed}
    data: [telemetry, event]
    devices:
{devices}
  live:
    kind: modbus
    endpoint: {machine}
    timeout: 500ms
    scan: 100ms
    tags:
      level: {{address: "hr:0", type: float64, unit: m}}
      state: {{address: "hr:10", type: uint16, enum: {{0: idle, 1: run}}}}
sinks:
  iot:
    kind: iot_core
    endpoint: localhost
    port: {broker}
    thing: gw-1
    certificate: {certificate}
    key: {key}
    ca: {ca}
    timeout: 3s
    max_messages: 100000
    max_bytes: 1 GB
  stream:
    kind: kinesis
    stream: plant-json
    max_age: 200ms
    max_request: 300 kB
    max_record: 100 kB
    aws: {{endpoint: "{stub}", timeout: 2s}}
  arrow:
    kind: kinesis
    stream: {stream_name}
    format: arrow
    max_age: 500ms
    aws: {{endpoint: "{stream}", timeout: 2s}}
  s3: {{kind: parquet, location: "s3://{bucket_name}/genba", roll: {{max_age: 1500ms, max_rows: 30000}}, aws: {{endpoint: "{bucket}", timeout: 2s}}}}
  local: {{kind: parquet, location: "{lake}", roll: {{max_age: 1s, max_rows: 30000}}}}
routes:
  - {{data: telemetry, to: [s3, local, stream, arrow]}}
  - {{data: event, to: [s3, local, stream, iot]}}
  - {{data: alert, to: [s3, local, stream, iot]}}
  - {{data: gap, to: [s3, local]}}
"""
SINKS: Mapping[str, tuple[str, ...]] = {
    "telemetry": ("s3", "local", "stream", "arrow"),
    "event": ("s3", "local", "stream", "iot"),
    "alert": ("s3", "local", "stream", "iot"),
    "gap": ("s3", "local"),
}
LIVE = """
enterprise: acme
site: osaka
gateway: gw-1
adapters:
  live:
    kind: modbus
    endpoint: tcp://127.0.0.1:1
    tags:
      level: {address: "hr:0", type: float64, unit: m}
      state: {address: "hr:10", type: uint16, enum: {0: idle, 1: run}}
"""
