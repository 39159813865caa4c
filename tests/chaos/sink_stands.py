"""One stand-in for each kind of sink, what can go wrong with it, and how it is read back. For `tests.chaos.sinks`.

A stand's `faults` have at least one of each of `LIKE`: a service that is away, that refuses, that breaks off before or after it has done the
work, and that is slow. A kind of sink without a stand fails the proof.
"""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import polars as pl

from cloud_sinks import iot_core, mqtt
from cloud_sinks import kinesis as stream_sink
from cloud_sinks import parquet as lake_sink
from cloud_sinks.base import Sink, SinkContext
from cloud_sinks.iot_core.config import IotCoreConfig
from cloud_sinks.kinesis.config import KinesisConfig
from cloud_sinks.mqtt.config import MqttConfig
from cloud_sinks.parquet import store
from cloud_sinks.parquet.config import ParquetConfig
from schemas.kinds import Kind
from tests.chaos import proxy as tcp
from tests.chaos.day.stands import Listener, SmallDisk
from tests.cloud_sinks import aws_rig, bucket_rig
from tests.cloud_sinks.kinesis.stub import Fault as StreamFault
from tests.cloud_sinks.kinesis.stub import Stub
from tests.interop.conftest import Broker, Server, Started, free_port, mosquitto_in

LIKE: Final = ("away", "refuses", "breaks off before", "breaks off after", "slow")
Row = tuple[int, str, float | None]
"""Row number, tag path, value."""
Step = Callable[[], Awaitable[None]]
_ROLL: Final = {"max_age": "300ms", "max_rows": 20_000}


@dataclass
class Fault:
    """A trouble from `begin` to `end`. `felt` tells whether the sink has met it; without one, an error of the sink tells."""

    name: str
    like: str
    begin: Step
    end: Step
    felt: Callable[[], bool] | None = None


@dataclass
class Stand:
    """One service. `exactly_once`: each row may be there once only."""

    name: str
    kind: str
    exactly_once: bool
    build: Callable[[SinkContext], Sink]
    rows: Callable[[Kind], list[Row]]
    """Blocking: every row of a kind that it has, in the order in which they came."""
    faults: list[Fault] = field(default_factory=list)


# Brokers


def _listened(listener: Listener, kind: Kind) -> list[Row]:
    """Waits until nothing comes any more."""
    seen = -1
    while seen != len(listener.got):
        seen = len(listener.got)
        time.sleep(0.3)
    found = []
    for topic, data in list(listener.got):
        if f"/{kind}" in topic and (not topic.startswith("genba/status")):
            message = json.loads(data)
            found += [(row["row"], row["tag"], row.get("value")) for row in message.get("rows", [message])]
    return found


def _broker_faults(broker: Broker, proxy: tcp.Proxy, listener: Listener) -> list[Fault]:
    def stop() -> None:
        os.kill(broker.pid, signal.SIGSTOP)

    async def killed() -> None:
        """What the broker has acknowledged is on its way to the listener: it must arrive before the broker is gone."""
        stop()
        seen = -1
        while seen != len(listener.got):
            seen = len(listener.got)
            await asyncio.sleep(0.15)
        listener.connected.clear()
        await asyncio.to_thread(broker.kill)

    async def started() -> None:
        proxy.refuse = True  # nobody may deliver before somebody listens
        await asyncio.to_thread(broker.start)
        assert await asyncio.to_thread(listener.connected.wait, 20), "the listener does not come back"
        proxy.refuse = False

    async def frozen() -> None:
        stop()

    async def thawed() -> None:
        os.kill(broker.pid, signal.SIGCONT)

    async def cut() -> None:
        proxy.refuse = True
        proxy.cut_off()

    async def mended() -> None:
        proxy.refuse = False

    def weather(up: bool, again: bool = True, **changes: Any) -> tuple[Step, Step]:
        async def begin() -> None:
            for name, value in changes.items():
                setattr(proxy.up if up else proxy.down, name, value)

        async def end() -> None:
            proxy.up.clear()
            proxy.down.clear()
            if again:  # bytes are missing in the middle
                proxy.cut_off()

        return begin, end

    passed = 0

    async def slowed() -> None:
        nonlocal passed
        passed = proxy.passed
        proxy.up.latency_s = 0.2

    async def quick() -> None:
        proxy.up.clear()

    return [
        Fault("broker killed", "away", killed, started),
        Fault("line cut", "away", cut, mended),
        Fault("broker frozen", "away", frozen, thawed),
        Fault("connections refused and reset", "refuses", *weather(True, reset=1.0)),
        Fault("messages swallowed", "breaks off before", *weather(True, swallow=True)),
        Fault("acknowledgements swallowed", "breaks off after", *weather(False, swallow=True)),
        Fault("slow line", "slow", slowed, quick, lambda: proxy.passed > passed + 2),
    ]


async def _mqtt(folder: Path, stack: AsyncExitStack) -> Stand:
    broker, proxy, listener = await _broker(folder, stack, tls=False)

    def build(context: SinkContext) -> Sink:
        given = {"endpoint": f"mqtt://127.0.0.1:{proxy.port}", "timeout": "2s", "keep_alive": "5s"}
        return mqtt.PLUGIN.build(MqttConfig.model_validate(given), context)

    return Stand("mqtt", "mqtt", False, build, lambda kind: _listened(listener, kind), _broker_faults(broker, proxy, listener))


async def _iot_core(folder: Path, stack: AsyncExitStack) -> Stand:
    broker, proxy, listener = await _broker(folder, stack, tls=True)

    def build(context: SinkContext) -> Sink:
        given = {
            "endpoint": "localhost", "port": proxy.port, "thing": "gw-1", "certificate": str(broker.certificate), "key": str(broker.key),
            "ca": str(broker.ca), "timeout": "3s", "max_age": "200ms", "max_messages": 100_000, "max_bytes": "1 GB",
        }  # fmt: skip
        return iot_core.PLUGIN.build(IotCoreConfig.model_validate(given), context)

    return Stand(
        "iot_core", "iot_core", False, build, lambda kind: _listened(listener, kind), _broker_faults(broker, proxy, listener)
    )


async def _broker(folder: Path, stack: AsyncExitStack, *, tls: bool) -> tuple[Broker, tcp.Proxy, Listener]:
    """A broker without persistence, behind a proxy, and somebody who listens beside the proxy."""
    started = Started(folder)
    stack.callback(started.close)
    broker = await asyncio.to_thread(lambda: mosquitto_in(started)(tls=tls))
    file = broker.folder / "mosquitto.conf"
    limits = [
        "max_inflight_messages 0",
        "max_queued_messages 0",
        "set_tcp_nodelay true",
        *(["require_certificate true"] if tls else []),
    ]
    file.write_text(file.read_text() + "\n".join(limits) + "\n")
    await asyncio.to_thread(broker.restart)
    listener = Listener(broker.port)
    stack.callback(listener.close)
    assert await asyncio.to_thread(listener.connected.wait, 10)
    port = broker.tls_port if tls else broker.port
    proxy = await stack.enter_async_context(tcp.before(f"mqtt://127.0.0.1:{port}", _whole))
    return broker, proxy, listener


def _whole(buffer: bytearray) -> list[bytes]:
    found = [bytes(buffer)] if buffer else []
    buffer.clear()
    return found


# A stream


async def _kinesis(folder: Path, stack: AsyncExitStack) -> Stand:
    stub = Stub()
    stack.callback(stub.close)

    def build(context: SinkContext) -> Sink:
        given = {
            "stream": "osaka", "max_age": "200ms", "max_record": "10 kB", "partition_key": "tag",
            "aws": {"endpoint": stub.endpoint, "timeout": "2s", "region": "ap-northeast-1"},
        }  # fmt: skip
        return stream_sink.PLUGIN.build(KinesisConfig.model_validate(given), context)

    def rows(kind: Kind) -> list[Row]:
        mine = [row for row in stub.rows(kind) if ("transition" in row) == (kind == "alert")]
        return [(row["row"], row["tag"], row.get("value")) for row in mine]

    def planned(name: str, like: str, *faults: StreamFault) -> Fault:
        async def begin() -> None:
            stub.plan += faults

        async def end() -> None:
            stub.plan.clear()

        return Fault(name, like, begin, end, lambda: not stub.plan)

    async def away() -> None:
        stub.away = True

    async def back() -> None:
        stub.away = False

    requests = 0

    async def slowed() -> None:
        nonlocal requests
        requests, stub.slow_s = len(stub.requests), 0.5

    async def quick() -> None:
        stub.slow_s = 0.0

    some = StreamFault("partial", (0, 2, 3, 5))
    return Stand(
        "kinesis", "kinesis", False, build, rows,
        [
            Fault("stream away", "away", away, back),
            planned("some records refused", "refuses", *[some] * 3, StreamFault("partial", (1,), "InternalFailure")),
            planned("all records refused, until the sink gives way", "refuses", *[StreamFault("partial", tuple(range(500)))] * 7),
            planned("throttled", "refuses", *[StreamFault("throttled")] * 7),
            planned("500", "refuses", *[StreamFault("error", code="InternalFailure")] * 2),
            planned("expired token", "refuses", *[StreamFault("error", code="ExpiredTokenException")] * 3),
            planned("access denied", "refuses", *[StreamFault("error", code="AccessDeniedException")] * 2),
            planned("reset before the write", "breaks off before", *[StreamFault("reset")] * 3),
            planned("no answer", "breaks off before", StreamFault("silence")),
            planned("reset after the write", "breaks off after", *[StreamFault("taken, then reset")] * 3),
            Fault("slow stream", "slow", slowed, quick, lambda: len(stub.requests) > requests + 1),
        ],
    )  # fmt: skip


# Lakes


async def _s3(folder: Path, stack: AsyncExitStack) -> Stand:
    started = Started(folder)
    stack.callback(started.close)
    program = "import sys; from moto.server import main; main(sys.argv[1:])"
    server = Server(
        lambda port: [sys.executable, "-W", "ignore", "-c", program, "-H", "127.0.0.1", "-p", str(port)],
        started.new_folder(), free_port(),
    )  # fmt: skip
    await asyncio.to_thread(started.start, server)
    bucket = await asyncio.to_thread(bucket_rig.BucketHarness, f"http://127.0.0.1:{server.port}")
    proxy = bucket.proxy
    proxy._matches = lambda method, path: method in ("PUT", "POST")
    stack.push_async_callback(asyncio.to_thread, bucket.close)

    def build(context: SinkContext) -> Sink:
        given = {
            "location": bucket_rig.LOCATION, "roll": _ROLL,
            "aws": {"endpoint": proxy.endpoint, "timeout": "2s", "region": "ap-northeast-1"},
        }  # fmt: skip
        return lake_sink.PLUGIN.build(ParquetConfig.model_validate(given), context)

    def rows(kind: Kind) -> list[Row]:
        return _files(kind, [(key, bucket.get(key)) for key, _ in bucket.written(kind)])

    def planned(name: str, like: str, *faults: aws_rig.Fault) -> Fault:
        async def begin() -> None:
            proxy.plan += faults

        async def end() -> None:
            proxy.plan.clear()

        return Fault(name, like, begin, end, lambda: not proxy.plan)

    def refused(name: str, status: int, code: str, times: int = 3) -> Fault:
        return planned(name, "refuses", *[aws_rig.Fault("error", status, code)] * times)

    async def away() -> None:
        proxy.away = True

    async def back() -> None:
        proxy.away = False

    async def frozen() -> None:
        os.kill(server.pid, signal.SIGSTOP)

    async def thawed() -> None:
        os.kill(server.pid, signal.SIGCONT)

    seen = 0

    async def slowed() -> None:
        nonlocal seen
        seen, proxy.slow_s = len(proxy.seen), 0.5

    async def quick() -> None:
        proxy.slow_s = 0.0

    return Stand(
        "parquet on S3", "parquet", True, build, rows,
        [
            Fault("bucket away", "away", away, back),
            Fault("bucket frozen, and done later", "away", frozen, thawed),
            refused("503 SlowDown", 503, "SlowDown"),
            refused("500", 500, "InternalError"),
            refused("412 for a name that is free", 412, "PreconditionFailed", 2),
            refused("409 conflict", 409, "ConditionalRequestConflict", 2),
            refused("expired token", 400, "ExpiredToken"),
            refused("access denied", 403, "AccessDenied", 2),
            planned("reset before the write", "breaks off before", *[aws_rig.Fault("reset")] * 3),
            planned("no answer", "breaks off before", aws_rig.Fault("silence")),
            planned("reset after the write", "breaks off after", *[aws_rig.Fault("reset after")] * 3),
            Fault("slow bucket", "slow", slowed, quick, lambda: len(proxy.seen) > seen + 1),
        ],
    )  # fmt: skip


async def _local(folder: Path, stack: AsyncExitStack) -> Stand:
    disk = await asyncio.to_thread(SmallDisk, folder)
    stack.push_async_callback(asyncio.to_thread, disk.close)
    lake, aside = disk.outside / "lake", disk.outside / "aside"

    def build(context: SinkContext) -> Sink:
        return lake_sink.PLUGIN.build(ParquetConfig.model_validate({"location": str(lake), "roll": _ROLL}), context)

    def rows(kind: Kind) -> list[Row]:
        files = sorted((lake / kind).rglob("*.parquet"))
        return _files(kind, [(str(file), file.read_bytes()) for file in files])

    async def vanished() -> None:
        lake.rename(aside)

    async def came_back() -> None:
        if lake.is_dir():
            assert not list(lake.rglob("*.parquet")), "rows were written into what is only in the place of the lake"
            await asyncio.to_thread(subprocess.run, ["rm", "-r", str(lake)], check=True)
        lake.unlink(missing_ok=True)
        aside.rename(lake)

    async def unmounted() -> None:
        await vanished()
        lake.mkdir()

    async def a_file() -> None:
        await vanished()
        lake.write_text("not a lake")

    async def full() -> None:
        await asyncio.to_thread(disk.fill)

    async def room() -> None:
        disk.free()

    def remount(how: str) -> Step:
        async def step() -> None:
            command = [*disk.enter, "mount", "-o", f"remount,{how}", str(disk.inside)]
            async with asyncio.timeout(20):
                while (await asyncio.to_thread(subprocess.run, command, capture_output=True, check=False)).returncode:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)  # while a file is being written

        return step

    hits = 0

    def replaced(name: str, like: str, function: str, broken: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Fault:
        """A system call of the store that does something else."""
        mocked = patch.object(store, function, broken(getattr(store, function)))
        before = 0

        async def begin() -> None:
            nonlocal before
            before = hits
            mocked.start()

        async def end() -> None:
            mocked.stop()

        return Fault(name, like, begin, end, lambda: hits > before)

    def hit() -> None:
        nonlocal hits
        hits += 1

    def fails(real: Callable[..., Any]) -> Callable[..., Any]:
        def failing(*given: Any) -> Any:
            hit()
            raise OSError(errno.EIO, "Input/output error")

        return failing

    def done_and_fails(real: Callable[..., Any]) -> Callable[..., Any]:
        def failing(*given: Any) -> Any:
            real(*given)
            hit()
            raise OSError(errno.EIO, "Input/output error")

        return failing

    def late(real: Callable[..., Any]) -> Callable[..., Any]:
        def slow(*given: Any) -> Any:
            hit()
            time.sleep(0.3)
            return real(*given)

        return slow

    return Stand(
        "parquet in a directory", "parquet", True, build, rows,
        [
            Fault("directory vanished", "away", vanished, came_back),
            Fault("an empty directory in its place", "away", unmounted, came_back),
            Fault("a file in its place", "refuses", a_file, came_back),
            Fault("read-only", "refuses", remount("ro"), remount("rw")),
            Fault("disk full", "refuses", full, room),
            replaced("flush fails", "breaks off before", "_fsync", fails),
            replaced("fails behind the link", "breaks off after", "_link", done_and_fails),
            replaced("slow disk", "slow", "_fsync", late),
        ],
    )  # fmt: skip


def _files(kind: Kind, files: list[tuple[str, bytes]]) -> list[Row]:
    """Rows of Parquet files, in the order of the row numbers in their names."""
    found: list[Row] = []
    for _, data in files:
        found += pl.read_parquet(io.BytesIO(data), hive_partitioning=False).select("seq", "tag", "value").rows()
    return sorted(found)


STANDS: Final[dict[str, tuple[str, Callable[[Path, AsyncExitStack], Awaitable[Stand]]]]] = {
    "mqtt": ("mqtt", _mqtt),
    "iot_core": ("iot_core", _iot_core),
    "kinesis": ("kinesis", _kinesis),
    "parquet on S3": ("parquet", _s3),
    "parquet in a directory": ("parquet", _local),
}
"""Kind of sink and maker, by the name of the stand."""


@asynccontextmanager
async def standing(folder: Path) -> AsyncIterator[list[Stand]]:
    """All of them, until the block ends."""
    async with AsyncExitStack() as stack:
        made = []
        for name, (_, make) in STANDS.items():
            (mine := folder / name.replace(" ", "-")).mkdir()
            made.append(await make(mine, stack))
        yield made
