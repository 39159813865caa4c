"""The whole gateway under load: Modbus TCP on loopback to alerts (PUBACK) and a local lake, detector on every tag, fsync on.

One process is measured: the gateway. The Modbus server and the broker are processes of their own. CPU is user + system time of
the gateway over the steady part of the run; latencies are from the time stamped on the poll.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from report import Figure, parser, publish

HERE = Path(__file__).resolve().parent


@contextmanager
def process(*command: str) -> Iterator[str]:
    """A child that prints one line when it is ready; ended by pid."""
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        yield child.stdout.readline().strip()
    finally:
        child.terminate()
        child.wait(10)


@contextmanager
def broker(directory: Path) -> Iterator[str]:
    """mosquitto where it is installed, the embedded broker otherwise; both in a process of their own."""
    if shutil.which("mosquitto") or Path("/usr/sbin/mosquitto").exists():
        import socket

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        config = directory / "mosquitto.conf"
        config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
        child = subprocess.Popen(
            [shutil.which("mosquitto") or "/usr/sbin/mosquitto", "-c", str(config)], stderr=subprocess.DEVNULL
        )
        try:
            time.sleep(0.5)
            yield f"mqtt://127.0.0.1:{port}"
        finally:
            child.terminate()
            child.wait(10)
    else:
        with process(sys.executable, __file__, "--broker") as line:
            yield line


def write_plant(directory: Path, *, tags: int, hz: float, port: int, mqtt: str) -> Path:
    """A plant of `tags` float32 tags in one scan class."""
    rows = "name,address,type,unit\n" + "".join(f"t{k:05d},hr:{2 * k},float32,°C\n" for k in range(tags))
    (directory / "tags.csv").write_text(rows, encoding="utf-8")
    plant = directory / "plant.yaml"
    plant.write_text(
        f"""
enterprise: acme
site: osaka
gateway: bench-gw
adapters:
  press:
    kind: modbus
    endpoint: tcp://127.0.0.1:{port}
    scan: {round(1000 / hz)}ms
    tags: {{file: tags.csv}}
models:
  early-warning:
    kind: forecast_residual
    tags: ["**"]
    warm_up: 4s
sinks:
  alerts: {{kind: mqtt, endpoint: "{mqtt}"}}
  lake: {{kind: parquet, location: lake}}
status: {{listen: null}}
""",
        encoding="utf-8",
    )
    return plant


class NoPandas:
    """Hides pandas, which the test environment has and a plant has not: pyarrow would load 40 MB of it for nothing."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name=name)


async def child(plant: Path, warm_s: float, measure_s: float) -> None:
    """Run the gateway and print what it cost as JSON."""
    import structlog

    from gateway import config, logs, service

    logs.configure(level="error", as_json=True)
    started = time.perf_counter()
    configuration = config.load(plant)
    durable: list[float] = []
    async with service.running(configuration, log=structlog.get_logger()) as (pipeline, _stop):
        ready_s = time.perf_counter() - started
        waiting: list[tuple[int, float]] = []

        async def watch_durable() -> None:
            """From the time stamped on a poll to the moment its rows are durable."""
            while True:
                seen = pipeline.spool.progress
                now = time.time()
                done = pipeline.spool.durable("telemetry")
                while waiting and waiting[0][0] <= done:
                    durable.append(now - waiting.pop(0)[1])
                await pipeline.spool.wait(seen)

        put = pipeline.put

        async def timed_put(kind, batch):  # type: ignore[no-untyped-def]
            first = await put(kind, batch)
            if kind == "telemetry" and batch.num_rows:
                waiting.append((first + batch.num_rows, batch.column("time")[0].value / 1e6))
            return first

        for collector in pipeline.collectors:
            collector._put = timed_put
        watcher = asyncio.create_task(watch_durable())
        await asyncio.sleep(warm_s)
        durable.clear()
        before, rows0, written0, io0 = cpu_s(), pipeline.latest.count, pipeline.spool.bytes_written, disk_bytes()
        began = time.monotonic()
        await asyncio.sleep(measure_s)
        took = time.monotonic() - began
        rows = pipeline.latest.count - rows0
        told = {
            "rows": rows,
            "seconds": took,
            "cpu_s": cpu_s() - before,
            "spool_bytes": pipeline.spool.bytes_written - written0,
            "disk_bytes": disk_bytes() - io0,
            "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "durable_s": durable,
            "ready_s": ready_s,
            "behind": pipeline.runner.behind_rows if pipeline.runner else 0,
        }
        watcher.cancel()
    print(json.dumps(told), flush=True)


def cpu_s() -> float:
    """User and system time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def disk_bytes() -> int:
    """Bytes this process caused to be written to storage, as the kernel counts them (pages, not payload)."""
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("write_bytes"):
            return int(line.split()[1])
    return 0


def run(*, tags: int, hz: float, warm_s: float, measure_s: float, jump_every_s: float) -> tuple[dict[str, object], list[float]]:
    """One gateway run: what it cost, and the latencies from poll to alert in seconds."""
    import paho.mqtt.client as mqtt

    latencies: list[float] = []
    with tempfile.TemporaryDirectory(prefix="genba-bench-") as scratch:
        directory = Path(scratch)
        source = (
            sys.executable,
            str(HERE / "modbus_source.py"),
            "--tags",
            str(tags),
            "--jump-every",
            str(jump_every_s),
            "--quiet",
            str(warm_s),
        )
        with broker(directory) as endpoint, process(*source) as line:
            plant = write_plant(directory, tags=tags, hz=hz, port=int(line.split()[1]), mqtt=endpoint)
            client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)

            def received(_client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
                now = time.time()
                body = json.loads(message.payload) if message.payload else {}
                if (
                    body.get("transition") == "raised"
                    and not message.retain
                    and str(body.get("alarm", "")).endswith("early-warning")
                ):
                    latencies.append(now - time_of(body["time"]))

            client.on_message = received
            client.on_connect = lambda c, *_: c.subscribe("genba/alert/#", qos=1)
            client.connect("127.0.0.1", int(endpoint.rsplit(":", 1)[1]))
            client.loop_start()
            out = subprocess.run(
                [sys.executable, __file__, "--child", str(plant), "--warm", str(warm_s), "--measure", str(measure_s)],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            client.disconnect()
            client.loop_stop()
    return json.loads(out.stdout.splitlines()[-1]), latencies


def time_of(text: str) -> float:
    """Unix seconds of an ISO 8601 time."""
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


def quantile(values: list[float], q: float) -> float:
    """The q-quantile, NaN for nothing."""
    return sorted(values)[min(len(values) - 1, int(q * len(values)))] if values else float("nan")


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options.add_argument("--warm", type=float, default=8.0, help=argparse.SUPPRESS)
    options.add_argument("--measure", type=float, default=10.0, help=argparse.SUPPRESS)
    options.add_argument("--broker", action="store_true", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.child:
        sys.meta_path.insert(0, NoPandas())
        asyncio.run(child(given.child, given.warm, given.measure))
        return
    if given.broker:
        asyncio.run(embedded_broker())
        return
    measure_s = 8.0 if given.quick else 30.0
    repeats = 1 if given.quick else 3
    figures: list[Figure] = []
    for hz, tags in ((1.0, 10_000), (10.0, 10_000), (1.0, 50)):
        if given.quick and tags == 10_000 and hz == 1.0:
            continue
        runs = [run(tags=tags, hz=hz, warm_s=8.0, measure_s=measure_s, jump_every_s=0.25) for _ in range(repeats)]
        figures += figures_of(f"{tags:,} tags at {hz:g} Hz", tags, hz, runs)
    publish(figures, given)


def figures_of(name: str, tags: int, hz: float, runs: list[tuple[dict[str, object], list[float]]]) -> list[Figure]:
    """Medians over the runs; latencies are pooled."""
    told = [one for one, _ in runs]
    alerts = [latency for _, latencies in runs for latency in latencies]
    durable = [value for one in told for value in one["durable_s"]]  # type: ignore[attr-defined]
    large = tags >= 10_000

    def median(key: str, per: str | None = None) -> float:
        return statistics.median(float(one[key]) / (float(one[per]) if per else 1.0) for one in told)  # type: ignore[arg-type]

    figures = [
        Figure(f"{name}: rate", median("rows", "seconds"), "values/s", "higher", tags * hz * 0.99),
        Figure(f"{name}: CPU", median("cpu_s", "rows") * 1e6, "us/value", "lower", 4.0 if large else None),
        Figure(f"{name}: CPU of one core", median("cpu_s", "seconds") * 100, "%", "lower", 100.0),
        Figure(f"{name}: poll to durable p50", quantile(durable, 0.5) * 1e3, "ms", "lower"),
        Figure(f"{name}: poll to durable p99", quantile(durable, 0.99) * 1e3, "ms", "lower"),
        Figure(f"{name}: RSS", median("rss_mb"), "MB", "lower", 300.0),
        Figure(f"{name}: spool payload", median("spool_bytes", "rows"), "bytes/value", "lower"),
        Figure(f"{name}: flash written", median("disk_bytes", "rows"), "bytes/value", "lower"),
        Figure(f"{name}: ready after", median("ready_s"), "s", "lower", 3.0),
    ]
    if alerts:
        figures += [
            Figure(f"{name}: poll to alert p50 ({len(alerts)} alerts)", quantile(alerts, 0.5) * 1e3, "ms", "lower"),
            Figure(f"{name}: poll to alert p99", quantile(alerts, 0.99) * 1e3, "ms", "lower", 250.0),
        ]
    return figures


async def embedded_broker() -> None:
    """The demo's broker as a process of its own."""
    from gateway.demo import broker as embedded

    async with embedded() as endpoint:
        print(endpoint, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    main()
