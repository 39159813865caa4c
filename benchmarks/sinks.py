"""The cloud sinks against the bare client libraries: what our share of the work costs beside the service's own protocol.

IoT Core speaks to mosquitto with mutual TLS. Kinesis and S3 speak to stubs that read a request and say yes, in a process of their own:
what is measured is the client. Each sink and its baseline are measured in turn in the same run: for IoT Core the SDK's own publish of
payloads that are ready, with the same window of unacknowledged messages; for Kinesis boto3's put_records of records that are ready; for S3
boto3's put_object of the same file.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import structlog
from report import Figure, interleaved, parser, publish

sys.path.insert(0, str(Path(__file__).parent.parent))

from cloud_sinks import iot_core, kinesis
from cloud_sinks.aws import Account, AwsConfig
from cloud_sinks.base import Sink, SinkContext
from cloud_sinks.parquet.s3 import S3Store
from gateway.clock import WallClock
from schemas.kinds import telemetry, with_seq
from schemas.span import SpoolSpan
from tests.authority import Authority
from tests.conformance.sink import Tags, context_of

WINDOW = 100
T0 = 1_767_225_600_000_000
ASSETS, TAGS_OF_ONE = 50, 20


class Yes(socketserver.StreamRequestHandler):
    """Reads requests and says yes to each: to PutRecords with one answer per record, to the second put of a probe with 412."""

    rbufsize = 1 << 20
    probes: ClassVar[set[bytes]] = set()

    def handle(self) -> None:
        """One connection."""
        while line := self.rfile.readline():
            length, waits, action = 0, False, b""
            while (header := self.rfile.readline()) not in (b"\r\n", b""):
                name, _, value = header.partition(b":")
                match name.lower():
                    case b"content-length":
                        length = int(value)
                    case b"expect":
                        waits = True
                    case b"x-amz-target":
                        action = value.strip().rpartition(b".")[2]
            if waits:
                self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = self.rfile.read(length)
            status, answer = b"200 OK", b""
            if action == b"PutRecords":
                one = b'{"SequenceNumber":"1","ShardId":"shardId-0"}'
                answer = b'{"FailedRecordCount":0,"Records":[%b]}' % b",".join([one] * body.count(b'"PartitionKey"'))
            elif action:
                answer = b'{"StreamDescriptionSummary":{"StreamStatus":"ACTIVE"}}'
            elif b".genba-probe" in line and line in self.probes:
                status = b"412 Precondition Failed"
            elif b".genba-probe" in line:
                self.probes.add(line)
            self.wfile.write(b'HTTP/1.1 %b\r\nContent-Length: %d\r\nETag: "0"\r\n\r\n%b' % (status, len(answer), answer))


def serve() -> None:
    """The stub's process: prints its port."""

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Yes) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()


@contextmanager
def stub() -> Iterator[str]:
    """The endpoint of a stub of its own process."""
    child = subprocess.Popen([sys.executable, os.path.abspath(__file__), "--serve"], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        yield f"http://127.0.0.1:{child.stdout.readline().strip()}"
    finally:
        child.terminate()
        child.wait(10)


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def broker(folder: Path) -> Iterator[int]:
    """mosquitto that asks for a client certificate; its port. Certificates lie in `folder`."""
    authority = Authority(folder, "ca")
    authority.issue("server", ["localhost"])
    authority.issue("gw", [])
    port = free_port()
    config = folder / "mosquitto.conf"
    config.write_text(
        f"user root\nlistener {port} 127.0.0.1\nallow_anonymous true\nrequire_certificate true\ncafile {folder}/ca.pem\n"
        f"certfile {folder}/server.pem\nkeyfile {folder}/server.key\nmax_inflight_messages 1000\n"
    )
    child = subprocess.Popen([shutil.which("mosquitto") or "/usr/sbin/mosquitto", "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        for _ in range(500):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.02)
        yield port
    finally:
        child.terminate()
        child.wait(10)


def readings(first: int, rows: int, tags: Tags) -> pa.RecordBatch:
    """Numbered readings over all tags in turn, as a poll of a plant gives them: temperatures to a hundredth, a millisecond apart."""
    seq = np.arange(first, first + rows)
    rng = np.random.default_rng(first)
    values = np.round(60 + rng.normal(0, 5, rows).cumsum() / 100, 2)
    return with_seq(
        telemetry(time_us=T0 + seq * 1000, tag=(seq % len(tags)).astype(np.int32), value=values, lag_ms=3),
        first,
    )


def plant(folder: Path) -> SinkContext:
    """A gateway with 1,000 tags on 50 assets."""
    paths = [f"acme/osaka/line-{n % 5}/press-{n:02d}/tag_{k:02d}" for n in range(ASSETS) for k in range(TAGS_OF_ONE)]
    return context_of(folder, WallClock(), Tags(*paths))


class Timer:
    """Wall and processor seconds of one piece of work."""

    def __enter__(self) -> Timer:
        self._began, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall_s, self.cpu_s = time.perf_counter() - self._began, time.process_time() - self._cpu


# IoT Core


def iot_sink(folder: Path, port: int, **options: Any) -> Sink:
    """A sink that sends a message per row."""
    given = {
        "endpoint": "localhost", "port": port, "thing": "gw-1", "certificate": str(folder / "gw.pem"), "key": str(folder / "gw.key"),
        "ca": str(folder / "ca.pem"), "batch": False, "max_in_flight": WINDOW,
    }  # fmt: skip
    return iot_core.PLUGIN.build(iot_core.config.IotCoreConfig.model_validate({**given, **options}), plant(folder))


async def iot_rate(sink: Sink, rows: int, *, before: int = 0) -> tuple[float, float]:
    """Messages a second, and µs of this process's CPU per message. `before` messages go ahead unmeasured."""
    context = plant(Path())
    assert isinstance(context.tags, Tags)
    await sink.connect()
    try:
        if before:
            await sink.write([readings(0, before, context.tags)], SpoolSpan("gw-1", 1, "telemetry", 0, before - 1))
        step = min(sink.policy("telemetry").max_rows, rows)
        batches = [readings(first, step, context.tags) for first in range(before, before + rows, step)]
        with Timer() as timer:
            for batch in batches:
                first = batch.column("seq")[0].as_py()
                await sink.write([batch], SpoolSpan("gw-1", 1, "telemetry", first, first + batch.num_rows - 1))
    finally:
        await sink.aclose()
    return rows / timer.wall_s, timer.cpu_s / rows * 1e6


def bare_iot_rate(folder: Path, port: int, payloads: list[bytes]) -> tuple[float, float]:
    """The same by the SDK alone, from one plain thread, payloads ready."""
    from awscrt import mqtt5
    from awsiot import mqtt5_client_builder

    up, stopped, room = threading.Event(), threading.Event(), threading.Semaphore(WINDOW)
    client = mqtt5_client_builder.mtls_from_path(
        str(folder / "gw.pem"), str(folder / "gw.key"), endpoint="localhost", port=port, ca_filepath=str(folder / "ca.pem"),
        client_id="bare", extended_validation_and_flow_control_options=mqtt5.ExtendedValidationAndFlowControlOptions.NONE,
        on_lifecycle_connection_success=lambda _: up.set(), on_lifecycle_stopped=lambda _: stopped.set(),
    )  # fmt: skip
    client.start()
    assert up.wait(10), "the broker does not answer"
    with Timer() as timer:
        for payload in payloads:
            room.acquire()
            packet = mqtt5.PublishPacket(topic="genba/gw-1/telemetry", payload=payload, qos=mqtt5.QoS.AT_LEAST_ONCE)
            client.publish(packet).add_done_callback(lambda _: room.release())
        for _ in range(WINDOW):
            room.acquire()
    client.stop()
    stopped.wait(5)
    return len(payloads) / timer.wall_s, timer.cpu_s / len(payloads) * 1e6


def iot_payloads(folder: Path, rows: int) -> list[bytes]:
    """What the sink sends, made beforehand."""
    from zoneinfo import ZoneInfo

    from cloud_sinks.messages import Messages, payload
    from cloud_sinks.messages import rows as plain

    context = plant(folder)
    assert isinstance(context.tags, Tags)
    messages = Messages(context.tags, enterprise="acme", site="osaka", zone=ZoneInfo("UTC"))
    span = SpoolSpan("gw-1", 1, "telemetry", 0, rows - 1)
    return [payload(messages.of(row, span)) for row in plain([readings(0, rows, context.tags)])]


def iot(folder: Path, *, quick: bool) -> list[Figure]:
    """Against the quota, and with it lifted."""
    made: list[Figure] = []
    with broker(folder) as port:
        rate, _ = asyncio.run(iot_rate(iot_sink(folder, port), 400 if quick else 2000, before=100))
        made.append(Figure("iot_core_at_quota", rate, "msg/s", "higher", 95, "quota of 100 msg/s"))
        rows = 20_000
        lifted = {"max_messages": 10_000_000, "max_bytes": "10 GB"}
        payloads = iot_payloads(folder, rows)
        cpu: dict[str, list[float]] = {"sink": [], "bare": []}

        def of(name: str, measure: Callable[[], tuple[float, float]]) -> Callable[[], float]:
            def once() -> float:
                rate, cost = measure()
                cpu[name].append(cost)
                return rate

            return once

        seen = interleaved(
            {
                "sink": of("sink", lambda: asyncio.run(iot_rate(iot_sink(folder, port, **lifted), rows))),
                "bare": of("bare", lambda: bare_iot_rate(folder, port, payloads)),
            },
            3 if quick else 7,
        )
    ours, bare = (sorted(cpu[name])[len(cpu[name]) // 2] for name in ("sink", "bare"))
    made += [
        Figure("iot_core_lifted", seen["sink"], "msg/s", "higher", 10_000, f"the SDK alone, {seen['bare']:,.0f} msg/s"),
        Figure("iot_core_of_bare", seen["sink"] / seen["bare"], "ratio", "higher", None, "the SDK alone, payloads ready"),
        Figure("iot_core_cpu", ours, "µs/msg", "lower", None, f"the SDK alone, {bare:.1f} µs/msg"),
    ]
    return made


# Kinesis


def kinesis_sink(folder: Path, endpoint: str, **options: Any) -> Sink:
    """A sink for a stream of the stub."""
    given = {"stream": "osaka", "region": "ap-northeast-1", "aws": {"endpoint": endpoint}}
    return kinesis.PLUGIN.build(kinesis.config.KinesisConfig.model_validate({**given, **options}), plant(folder))


def kinesis_rate(sink: Any, rows: int) -> tuple[float, float, float]:
    """MB of records a second, rows a second, µs of this process's CPU per row; spans as delivery cuts them."""
    context = plant(Path())
    assert isinstance(context.tags, Tags)
    step = sink.policy("telemetry").max_rows
    batches = [readings(first, step, context.tags) for first in range(0, rows, step)]
    sent = 0
    once = sink._once

    def counted(numbers: Any, records: Any) -> Any:
        nonlocal sent
        sent += sum(len(records[number].data) for number in numbers)
        return once(numbers, records)

    sink._once = counted

    async def send() -> Timer:
        await sink.connect()
        with Timer() as timer:
            for number, batch in enumerate(batches):
                await sink.write([batch], SpoolSpan("gw-1", 1, "telemetry", number * step, (number + 1) * step - 1))
        await sink.aclose()
        return timer

    timer = asyncio.run(send())
    rows = len(batches) * step
    return sent / timer.wall_s / 1e6, rows / timer.wall_s, timer.cpu_s / rows * 1e6


def bare_kinesis_rate(folder: Path, endpoint: str, requests: list[list[dict[str, Any]]]) -> float:
    """MB of records a second by boto3 alone."""
    account = Account(AwsConfig.model_validate({"endpoint": endpoint, "region": "ap-northeast-1"}), folder, "bench")
    client: Any = account.client("kinesis")
    client.describe_stream_summary(StreamName="osaka")
    with Timer() as timer:
        for entries in requests:
            client.put_records(Records=entries, StreamName="osaka")
    account.close()
    return sum(len(one["Data"]) for entries in requests for one in entries) / timer.wall_s / 1e6


def kinesis_requests(folder: Path, rows: int, **options: Any) -> list[list[dict[str, Any]]]:
    """What the sink sends, made beforehand."""
    sink: Any = kinesis_sink(folder, "http://127.0.0.1:9", **options)
    context = plant(folder)
    assert isinstance(context.tags, Tags)
    step, found = sink.policy("telemetry").max_rows, []
    encode = sink._encoding()
    for first in range(0, rows, step):
        records = list(
            encode([readings(first, step, context.tags)], SpoolSpan("gw-1", 1, "telemetry", first, first + step - 1), 1_000_000)
        )
        sink._done = set()
        for numbers in sink._requests(records):
            found.append([{"Data": records[number].data, "PartitionKey": records[number].key} for number in numbers])
    return found


def kinesis_figures(folder: Path, *, quick: bool) -> list[Figure]:
    """Both formats."""
    made: list[Figure] = []
    with stub() as endpoint:
        for format_, rows in (("json", 200_000), ("arrow", 1_600_000)):
            if quick:
                rows //= 2
            requests = kinesis_requests(folder, rows, format=format_)
            about: list[tuple[float, float, float]] = []

            def sink(format_: str = format_, rows: int = rows, about: Any = about) -> float:
                about.append(kinesis_rate(kinesis_sink(folder, endpoint, format=format_), rows))
                return float(about[-1][0])

            seen = interleaved(
                {"sink": sink, "bare": lambda requests=requests: bare_kinesis_rate(folder, endpoint, requests)}, 3 if quick else 7
            )
            rate = sorted(one[1] for one in about)[len(about) // 2]
            cost = sorted(one[2] for one in about)[len(about) // 2]
            # Compressed Arrow is so few bytes that what it takes a row says more.
            made += [
                Figure(
                    f"kinesis_{format_}",
                    seen["sink"],
                    "MB/s",
                    "higher",
                    100 if format_ == "json" else None,
                    f"boto3 alone, {seen['bare']:,.0f} MB/s",
                ),
                Figure(
                    f"kinesis_{format_}_of_bare",
                    seen["sink"] / seen["bare"],
                    "ratio",
                    "higher",
                    None,
                    "boto3 alone, records ready",
                ),
                Figure(f"kinesis_{format_}_rows", rate, "rows/s", "higher"),
                Figure(f"kinesis_{format_}_cpu", cost, "µs/row", "lower"),
            ]
    return made


# S3


def s3_figures(folder: Path, *, quick: bool) -> list[Figure]:
    """A finished file of 30 MB, as the lake publishes it."""
    body = np.random.default_rng(1).bytes(30 << 20)
    file = folder / "finished.parquet"
    with stub() as endpoint:
        aws = AwsConfig.model_validate({"endpoint": endpoint, "region": "ap-northeast-1"})
        log = structlog.stdlib.get_logger()
        store = S3Store(Account(aws, folder, "bench"), "s3://lake/genba", owner="gw-1", directory=folder, kms_key=None, log=log)
        store.open()
        bare: Any = Account(aws, folder, "bench").client("s3")

        def ours() -> float:
            file.write_bytes(body)
            with Timer() as timer:
                assert store.publish(file, "telemetry/x.parquet")
            return timer.wall_s

        def theirs() -> float:
            file.write_bytes(body)
            with Timer() as timer, file.open("rb") as data:
                bare.put_object(Bucket="lake", Key="genba/telemetry/x.parquet", Body=data, IfNoneMatch="*")
            return timer.wall_s

        seen = interleaved({"sink": ours, "bare": theirs}, 5 if quick else 15)
        store.close()
    return [
        Figure(
            "s3_put",
            len(body) / seen["sink"] / 1e6,
            "MB/s",
            "higher",
            None,
            f"boto3 alone, {len(body) / seen['bare'] / 1e6:,.0f} MB/s",
        ),
        Figure("s3_put_of_bare", seen["sink"] / seen["bare"], "ratio", "lower", None, "boto3's put_object of the same file"),
    ]


def main() -> None:
    """Run all."""
    if "--serve" in sys.argv:
        with contextlib.suppress(KeyboardInterrupt):
            serve()
        return
    options = parser(__doc__ or "").parse_args()
    for name in [name for name in os.environ if re.match(r"AWS_", name)]:
        del os.environ[name]
    os.environ |= {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_EC2_METADATA_DISABLED": "true"}
    with tempfile.TemporaryDirectory(prefix="genba-bench-") as scratch:
        folder = Path(scratch)
        figures = [
            *iot(folder, quick=options.quick),
            *kinesis_figures(folder, quick=options.quick),
            *s3_figures(folder, quick=options.quick),
        ]
    publish(figures, options)


if __name__ == "__main__":
    main()
