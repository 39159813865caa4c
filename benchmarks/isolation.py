"""What `isolation: process` and `capture:` cost: Modbus TCP on loopback at 100,000 values a second (10,000 float32 at 10 Hz).

The same adapter, drained by the same consumer: in this process, in one of its own, and with a capture. CPU is user and system time of
everything the adapter needs (this process and, isolated, its child) over the steady part of a run; the runs are interleaved.
"""

from __future__ import annotations

import asyncio
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from report import Figure, parser, publish

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
TAGS, HZ = 10_000, 10
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Run:
    """CPU per value in µs of this process and of the child; the child's memory in MB."""

    ours_us: float
    child_us: float
    child_mb: float

    @property
    def both_us(self) -> float:
        """What the machine pays."""
        return self.ours_us + self.child_us


@contextmanager
def source() -> Iterator[int]:
    """The Modbus server, in a process of its own; its port."""
    child = subprocess.Popen(
        [sys.executable, str(HERE / "modbus_source.py"), "--tags", str(TAGS)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        yield int(child.stdout.readline().split()[1])
    finally:
        child.terminate()
        child.wait(10)


def child_cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


async def measure(port: int, options: dict[str, object], warm_s: float, seconds: float, directory: Path) -> Run:
    """One run."""
    import structlog

    from adapters.base import AdapterContext
    from adapters.modbus import PLUGIN
    from gateway.building import build_adapter
    from gateway.clock import WallClock
    from gateway.isolation.adapter import IsolatedAdapter
    from tests.conformance.adapter import bind

    tags = {f"t{k:05d}": {"address": f"hr:{2 * k}", "type": "float32"} for k in range(TAGS)}
    entry = {"kind": "modbus", "endpoint": f"tcp://127.0.0.1:{port}", "scan": f"{1000 // HZ}ms", "tags": tags}
    config = PLUGIN.config.model_validate(entry | options)
    log = structlog.wrap_logger(None, processors=[structlog.testing.LogCapture()], wrapper_class=structlog.stdlib.BoundLogger)
    context = AdapterContext("device", bind("device", config), WallClock(), directory, log, base=directory)
    adapter = build_adapter(config, context)
    isolated = adapter if isinstance(adapter, IsolatedAdapter) else None
    await adapter.connect()
    pid = isolated.pid if isolated is not None else 0
    values, begun = 0, 0.0
    ours = childs = 0.0
    async with aclosing(adapter.batches()) as stream:  # type: ignore[type-var]
        async for batch in stream:
            now = time.perf_counter()
            if not begun:
                begun = now
            if not values and now - begun < warm_s:
                continue
            if not values:
                ours, childs, begun = time.process_time(), child_cpu_s(pid) if pid else 0.0, now
            elif now - begun >= seconds:
                break
            values += batch.num_rows
    ours = time.process_time() - ours
    childs = child_cpu_s(pid) - childs if pid else 0.0
    resident = isolated.resident / 1e6 if isolated is not None else 0.0
    await adapter.aclose()
    return Run(ours / values * 1e6, childs / values * 1e6, resident)


IDLE = {
    "modbus": {"endpoint": "tcp://127.0.0.1:1", "tags": {"t": {"address": "hr:0", "type": "int16"}}},
    "s7": {"endpoint": "s7://127.0.0.1:1", "tags": {"t": {"address": "DB1.DBW0", "type": "int"}}},
    "opcua": {"endpoint": "opc.tcp://127.0.0.1:1", "tags": {"t": {"address": "i=2258", "type": "auto"}}},
}


async def idle_mb(kind: str, directory: Path) -> float:
    """Memory of a child with one tag whose device is not there."""
    import structlog

    from adapters.base import AdapterContext
    from gateway import catalogue
    from gateway.clock import WallClock
    from gateway.isolation.adapter import IsolatedAdapter
    from schemas.errors import NotConnected
    from tests.conformance.adapter import bind

    config = catalogue.plugin("adapters", kind).config.model_validate({"kind": kind, "isolation": "process", **IDLE[kind]})
    adapter = IsolatedAdapter(
        config, AdapterContext("device", bind("device", config), WallClock(), directory, structlog.get_logger())
    )
    with suppress(NotConnected):
        await adapter.connect()
    await asyncio.sleep(1.2)  # until it has told of itself
    found = adapter.resident / 1e6
    await adapter.aclose()
    return found


def start_cpu_s() -> float:
    """CPU of starting a child and importing what it needs, without a device."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", "import gateway.isolation.child, adapters.modbus.adapter"], check=True, cwd=HERE.parent)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and publish."""
    options = parser(__doc__ or "").parse_args()
    rounds, seconds = (3, 3.0) if options.quick else (9, 8.0)
    contestants: dict[str, dict[str, object]] = {
        "in process": {},
        "isolated": {"isolation": "process"},
        "captured": {"capture": {"file": "it.capture", "max_size": "1 GB"}},
    }
    hidden = tempfile.TemporaryDirectory(
        prefix="genba-bench-"
    )  # pandas, which a plant has not: pyarrow loads 40 MB of it for nothing
    (Path(hidden.name) / "pandas.py").write_text("raise ModuleNotFoundError('pandas')\n", encoding="ascii")
    sys.path.insert(0, hidden.name)
    os.environ["PYTHONPATH"] = hidden.name
    runs: dict[str, list[Run]] = {name: [] for name in contestants}
    with source() as port:
        for _ in range(rounds):
            for name, chosen in contestants.items():
                with tempfile.TemporaryDirectory(prefix="genba-bench-") as directory:
                    runs[name].append(asyncio.run(measure(port, chosen, 1.0, seconds, Path(directory))))
    base = statistics.median(run.both_us for run in runs["in process"])
    ratio = {
        name: statistics.median(one.both_us / other.both_us for one, other in zip(runs[name], runs["in process"], strict=True))
        for name in contestants
    }
    isolated = runs["isolated"]
    held = f"in process, {base:.3f} µs per value"
    figures = [
        Figure("isolated: CPU of both processes", ratio["isolated"], "x", "lower", 1.8, held),
        Figure(
            "isolated: CPU of the gateway's side", statistics.median(run.ours_us for run in isolated), "µs per value", "lower"
        ),
        Figure("isolated: CPU of the child", statistics.median(run.child_us for run in isolated), "µs per value", "lower"),
        Figure(
            f"isolated: memory of the child, {TAGS:,} tags",
            statistics.median(run.child_mb for run in isolated),
            "MB",
            "lower",
            160,
        ),
        *(
            Figure(
                f"isolated: memory of an idle child, {kind}", asyncio.run(idle_mb(kind, Path(hidden.name))), "MB", "lower", 120
            )
            for kind in IDLE
        ),
        Figure("isolated: CPU to start a child", statistics.median(start_cpu_s() for _ in range(5)), "s", "lower"),
        Figure("captured: CPU", ratio["captured"], "x", "lower", 1.5, held),
    ]
    publish(figures, options)


if __name__ == "__main__":
    main()
