"""The collecting half of the gateway under load: Modbus TCP on loopback to durable rows in the spool. No model, no sink.

One process is measured: the whole gateway as `genba run` starts it, with a Modbus server of its own process on the other side. Adapter, normalising,
live values and the spool with its compression and fsync are in the figure. CPU is user and system time of the gateway over the steady part of a run,
per value that became durable. Memory is the resident set of the gateway after that; its slope over the number of tags is what a tag costs.
With one request in flight most of it is the kernel's: on an idle machine each of 162 answers a poll wakes the process anew.
Runs take turns; medians are shown, and beside them the spread over the runs and how much of the machine others used meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from end_to_end import HERE, NoPandas, cpu_s, disk_bytes, process
from report import Figure, parser, publish

IDLE = 1
LOAD = 10_000  # tags of the run at 10 Hz: 100,000 values a second
WINDOWS = (1, 8)  # requests in flight: what every device takes, and what an integrator may ask for
SIZES = (IDLE, 10_000, 30_000)  # tags of the runs at 1 Hz


def write_plant(directory: Path, *, tags: int, hz: float, port: int, window: int) -> Path:
    """A plant of `tags` float32 tags in one scan class that goes nowhere but into the spool."""
    per_unit = 30_000  # a unit has 65,536 registers
    assert tags <= per_unit
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
    window: {window}
    tags: {{file: tags.csv}}
status: {{listen: null}}
""",
        encoding="utf-8",
    )
    return plant


async def child(plant: Path, warm_s: float, measure_s: float) -> None:
    """Run the gateway and print what it cost as JSON."""
    import structlog

    from gateway import config, logs, service

    logs.configure(level="error", as_json=True)
    configuration = config.load(plant)
    async with service.running(configuration, log=structlog.get_logger()) as (pipeline, _stop):
        del configuration
        await asyncio.sleep(warm_s)
        before, machine, rows, written = cpu_s(), machine_s(), pipeline.spool.durable("telemetry"), disk_bytes()
        began = time.monotonic()
        await asyncio.sleep(measure_s)
        took = time.monotonic() - began
        cpu, rows = cpu_s() - before, pipeline.spool.durable("telemetry") - rows
        told = {
            "rows": rows,
            "seconds": took,
            "cpu_s": cpu,
            "others_s": machine_s() - machine - cpu,
            "disk_bytes": disk_bytes() - written,
            "rss_mb": resident_mb(),
        }
    print(json.dumps(told), flush=True)


def machine_s() -> float:
    """Seconds that all cores together have worked since the machine started."""
    busy = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq = (int(ticks) for ticks in busy[:7])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def resident_mb() -> float:
    """Resident memory of this process, MB."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def run(*, tags: int, hz: float, warm_s: float, measure_s: float, window: int = 1) -> dict[str, float]:
    """One gateway run, in a process of its own; `window` requests are in flight at once."""
    source = (sys.executable, str(HERE / "modbus_source.py"), "--tags", str(tags))
    with tempfile.TemporaryDirectory(prefix="genba-bench-") as scratch, process(*source) as line:
        plant = write_plant(Path(scratch), tags=tags, hz=hz, port=int(line.split()[1]), window=window)
        out = subprocess.run(
            [sys.executable, __file__, "--child", str(plant), "--warm", str(warm_s), "--measure", str(measure_s)],
            check=True, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
    told: dict[str, float] = json.loads(out.stdout.splitlines()[-1])
    return told


def slope(points: list[tuple[int, float]]) -> float:
    """What 10,000 tags more cost, by least squares."""
    mean_x, mean_y = (statistics.fmean(values) for values in zip(*points, strict=True))
    return 10_000 * sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


def figures_of_load(window: int, runs: list[dict[str, float]]) -> list[Figure]:
    """What 100,000 values a second cost."""
    cpu = [one["cpu_s"] / one["rows"] * 1e6 for one in runs]
    name = f"{LOAD:,} tags at 10 Hz, Modbus to the spool, window {window}"

    def median(key: str, per: str) -> float:
        return statistics.median(one[key] / one[per] for one in runs)

    return [
        Figure(f"{name}: rate", median("rows", "seconds"), "values/s", "higher", LOAD * 10 * 0.99),
        Figure(f"{name}: CPU", statistics.median(cpu), "us/value", "lower", 1.0),
        Figure(f"{name}: CPU, best and worst of {len(cpu)} runs", min(cpu), f"… {max(cpu):.4g} us", "lower"),
        Figure(f"{name}: flash written", median("disk_bytes", "rows"), "bytes/value", "lower"),
        Figure(f"{name}: cores taken by others, the Modbus server among them", median("others_s", "seconds"), "cores", "lower"),
    ]


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options.add_argument("--warm", type=float, default=4.0, help=argparse.SUPPRESS)
    options.add_argument("--measure", type=float, default=10.0, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.child:
        sys.meta_path.insert(0, NoPandas())
        asyncio.run(child(given.child, given.warm, given.measure))
        return
    rounds, measure_s = (1, 5.0) if given.quick else (5, 10.0)
    load: dict[int, list[dict[str, float]]] = {window: [] for window in WINDOWS}
    resident: dict[int, list[float]] = {tags: [] for tags in SIZES}
    for _ in range(rounds):
        for window, runs in load.items():
            runs.append(run(tags=LOAD, hz=10.0, warm_s=3.0, measure_s=measure_s, window=window))
        for tags in SIZES:
            resident[tags].append(run(tags=tags, hz=1.0, warm_s=4.0, measure_s=3.0)["rss_mb"])
    middle = {tags: statistics.median(seen) for tags, seen in resident.items()}
    figures = [figure for window, runs in load.items() for figure in figures_of_load(window, runs)]
    figures.append(Figure("RSS for each 10,000 tags", slope(list(middle.items())), "MB", "lower", 40.0, "the idle gateway"))
    figures += [Figure(f"RSS of a gateway with {tags:,} tags", seen, "MB", "lower") for tags, seen in middle.items()]
    publish(figures, given)


if __name__ == "__main__":
    main()
