"""S7: 40 kB of one data block (10,000 REAL) against the C++ snap7 server of node-snap7, a process of its own on loopback.

Ours is a whole poll as the adapter does it: requests, answers, decoding, one Arrow batch with 10,000 rows. The baseline is
python-snap7's `Client.read_area` of the same bytes in a one-thread executor: bytes only, nothing decoded. Both ask for a PDU of 960
bytes; the server grants that, then 240 as an S7-1200 does. Wall time from before the call to its result; CPU is user and system time of
this process, threads included. The two take turns, medians are compared.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zoneinfo import ZoneInfo

sys.path.append(sys.path.pop(0))  # the library is called s7 as well, and this folder must not hide it

import structlog
from end_to_end import process
from report import Figure, parser, publish
from s7 import Area, Client

from adapters.base import BoundTag, TagConfig
from adapters.quarantine import Quarantine
from adapters.s7.config import S7Config
from adapters.s7.connection import open_connection
from adapters.s7.scanning import ScanClass
from schemas.tags import Tag

INTEROP = Path(__file__).resolve().parent.parent / "tests" / "interop"
DB = 4
LAST = 999.9000244140625  # of the server's values i / 10 as a REAL
REALS = 10_000
WARM_UP = 5  # rounds that are not counted
PER_TURN = 3  # calls in a row, so that a switch of contestants costs neither much


class SystemClock:
    """Wall time."""

    def now_us(self) -> int:
        return time.time_ns() // 1000


def bound_tags() -> list[BoundTag[TagConfig]]:
    """One REAL tag for every four bytes."""
    tags = {f"t{k:05d}": {"address": f"DB{DB}.DBD{4 * k}", "type": "real"} for k in range(REALS)}
    config = S7Config.model_validate({"kind": "s7", "endpoint": "s7://127.0.0.1", "tags": tags})
    return [
        BoundTag(
            Tag(
                path=f"acme/osaka/plc/{name}", asset="acme/osaka/plc", name=name, adapter="plc", device="plc",
                address=tag.wire_address(), value_type=tag.value_type(), period_us=1_000_000, id=number,
            ),
            tag,
            "plc",
        )
        for number, (name, tag) in enumerate(config.tags.items())
    ]  # fmt: skip


async def measure(port: int, pdu: int, rounds: int) -> dict[str, tuple[float, float]]:
    """Median wall and CPU seconds of one read by contestant."""
    loop = asyncio.get_running_loop()
    connection = await open_connection("127.0.0.1", port, (0x0100, 0x0201), timeout_s=5)
    log = structlog.get_logger()
    scan = ScanClass(
        bound_tags(), clock=SystemClock(), log=log, timeout_s=5, quarantine=Quarantine(Path(os.devnull), "", log=log)
    )
    scan.prepare(connection.pdu, ZoneInfo("UTC"))
    client = Client()
    client.pdu_length = 960
    with ThreadPoolExecutor(1) as executor:
        await loop.run_in_executor(executor, lambda: client.connect("127.0.0.1", 0, 1, port))
        if not connection.pdu == client.pdu_length == pdu:
            sys.exit(f"the PDU should be {pdu}; ours is {connection.pdu}, the library's {client.pdu_length}")

        async def library() -> bytearray:
            return await loop.run_in_executor(executor, client.read_area, Area.DB, DB, 0, 4 * REALS)

        async def ours() -> object:
            return await scan.poll(connection)

        batch = await scan.poll(connection)
        if batch.column("value")[-1].as_py() != LAST or len(await library()) != 4 * REALS:
            sys.exit("what was read is not what the server holds")
        found = await take_turns({"ours": ours, "library": library}, rounds)
        await loop.run_in_executor(executor, client.disconnect)
    await connection.aclose()
    return found


async def take_turns(contestants: dict[str, Callable[[], Awaitable[object]]], rounds: int) -> dict[str, tuple[float, float]]:
    """Median wall and CPU seconds of one call of each, all called in turn."""
    wall: dict[str, list[float]] = {name: [] for name in contestants}
    cpu: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(WARM_UP + rounds):
        for name, call in contestants.items():
            walls = []
            cpu_before = time.process_time()
            for _ in range(PER_TURN):
                before = time.perf_counter()
                await call()
                walls.append(time.perf_counter() - before)
            if number >= WARM_UP:
                wall[name] += walls
                cpu[name].append((time.process_time() - cpu_before) / PER_TURN)
    return {name: (statistics.median(wall[name]), statistics.median(cpu[name])) for name in contestants}


def figures_of(pdu: int, found: dict[str, tuple[float, float]]) -> list[Figure]:
    """Ratios first, then what they are made of."""
    (wall, cpu), (library_wall, library_cpu) = found["ours"], found["library"]
    name, baseline = f"S7 40 kB, PDU {pdu}", "Client.read_area in a one-thread executor"
    return [
        Figure(f"{name}: wall", wall / library_wall, "ratio", "lower", 0.85 if pdu == 960 else None, baseline),
        Figure(f"{name}: CPU", cpu / library_cpu, "ratio", "lower", None, baseline),
        Figure(f"{name}: poll to batch, wall", wall * 1e3, "ms", "lower"),
        Figure(f"{name}: poll to batch, CPU", cpu / REALS * 1e6, "us/value", "lower"),
        Figure(f"{name}: read_area, wall", library_wall * 1e3, "ms", "lower"),
        Figure(f"{name}: read_area, CPU", library_cpu / REALS * 1e6, "us/value", "lower"),
    ]


def main() -> None:
    options = parser(__doc__ or "").parse_args()
    node = shutil.which("node")
    if node is None or not (INTEROP / "node_modules" / "node-snap7" / "package.json").exists():
        print("skipped: node-snap7 is missing; install it with: npm ci --prefix tests/interop (needs node)")
        return
    figures: list[Figure] = []
    for pdu in (960, 240):
        with process(node, str(INTEROP / "servers" / "s7_server.js"), "0", str(pdu)) as line:
            if not line.startswith("PORT "):
                sys.exit("the snap7 server does not start")
            figures += figures_of(pdu, asyncio.run(measure(int(line.split()[1]), pdu, 60 if options.quick else 400)))
    publish(figures, options)


if __name__ == "__main__":
    main()
