"""Modbus TCP: 10,000 float32 (162 requests) against a server that is a process of its own on loopback.

Ours is a whole poll as the adapter does it: requests, checked answers, decoding, one Arrow batch with 10,000 rows. The baselines read
the same 162 blocks: a bare asyncio.Protocol with np.frombuffer (nothing checked, one Arrow array), and stock pymodbus that converts each
tag by itself. CPU is user and system time of this process, measured on a server that answers at once; wall time is measured on a device
that takes 2 ms to answer. All take turns, medians are compared; the quartiles of each contestant are printed first.
"""

from __future__ import annotations

import asyncio
import statistics
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import structlog
from end_to_end import process
from pymodbus.client import AsyncModbusTcpClient
from report import Figure, parser, publish

from adapters.base import BoundTag, TagConfig
from adapters.modbus.config import ModbusConfig
from adapters.modbus.connection import open_connection
from adapters.modbus.plan import points_of, scan_classes
from adapters.modbus.scanner import Scanner, Silence
from adapters.modbus.window import Window
from schemas.tags import Tag

HERE = Path(__file__).resolve().parent
TAGS = 10_000
PER_BLOCK = 62  # float32 in the 125 registers of one answer
BLOCKS = [(2 * k, 2 * min(PER_BLOCK, TAGS - k)) for k in range(0, TAGS, PER_BLOCK)]
DEVICE_S = 0.002
WARM_UP = 3  # rounds that are not counted

Poll = Callable[[], Awaitable[int]]
"""Read everything once; returns how many values came."""


class Raw(asyncio.Protocol):
    """The least that reads blocks with asyncio: as many requests in flight as are asked for, answers told apart by number."""

    def __init__(self) -> None:
        self._buffer = b""
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._next = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 6:
            size = 6 + int.from_bytes(self._buffer[4:6], "big")
            if len(self._buffer) < size:
                return
            frame, self._buffer = self._buffer[:size], self._buffer[size:]
            self._waiting.pop(int.from_bytes(frame[:2], "big")).set_result(frame[9:])

    def ask(self, start: int, count: int) -> asyncio.Future[bytes]:
        """The data bytes of one block, later."""
        self._next = (self._next + 1) & 0xFFFF
        answer = self._waiting[self._next] = asyncio.get_running_loop().create_future()
        self.transport.write(struct.pack(">HHHBBHH", self._next, 0, 6, 1, 3, start, count))
        return answer

    async def poll(self, window: int) -> int:
        """All blocks, `window` in flight, to one Arrow array."""
        waiting: list[asyncio.Future[bytes]] = []
        parts = []
        for start, count in BLOCKS:
            if len(waiting) == window:
                parts.append(np.frombuffer(await waiting.pop(0), dtype=">f4").astype(np.float64))
            waiting.append(self.ask(start, count))
        parts += [np.frombuffer(await answer, dtype=">f4").astype(np.float64) for answer in waiting]
        return len(pa.array(np.concatenate(parts)))


class SystemClock:
    """Wall time."""

    def now_us(self) -> int:
        return time.time_ns() // 1000


async def raw(port: int, stack: AsyncExitStack, window: int) -> Poll:
    """The bare baseline."""
    transport, protocol = await asyncio.get_running_loop().create_connection(Raw, "127.0.0.1", port)
    stack.callback(transport.close)
    return lambda: protocol.poll(window)


async def ours(port: int, stack: AsyncExitStack, window: int) -> Poll:
    """A poll of the adapter's scan class to one telemetry batch."""
    tags = {f"t{k:05d}": {"address": f"hr:{2 * k}", "type": "float32"} for k in range(TAGS)}
    options = {"kind": "modbus", "endpoint": f"tcp://127.0.0.1:{port}", "timeout": "5s", "tags": tags}
    config = ModbusConfig.model_validate(options | {"window": window})
    bound: list[BoundTag[TagConfig]] = [
        BoundTag(
            Tag(
                path=f"acme/osaka/press/{name}", asset="acme/osaka/press", name=name, adapter="press", device="press",
                address=tag.wire_address(), value_type=tag.value_type(), period_us=1_000_000, id=number,
            ),
            tag,
            "press",
        )
        for number, (name, tag) in enumerate(config.tags.items())
    ]  # fmt: skip
    (scan,) = scan_classes(bound, points_of(config, bound))
    log = structlog.get_logger()
    scanner, silence, clock = Scanner(scan, bound, log, window=Window(window, log)), Silence({1}), SystemClock()
    connection = await open_connection(config)
    stack.push_async_callback(connection.aclose)

    async def poll() -> int:
        values = await scanner.poll(connection, silence)
        batch = scanner.readings.batch(values=values.numbers, quality=values.quality, time_us=clock.now_us())
        return batch.num_rows - batch.column("value").null_count

    return poll


async def stock(port: int, stack: AsyncExitStack) -> Poll:
    """pymodbus as its documentation shows it, one conversion a tag."""
    client = AsyncModbusTcpClient("127.0.0.1", port=port, timeout=5, retries=0)
    await client.connect()
    stack.callback(client.close)

    async def poll() -> int:
        values: list[object] = []
        for start, count in BLOCKS:
            registers = (await client.read_holding_registers(start, count=count)).registers
            values += [client.convert_from_registers(registers[k : k + 2], client.DATATYPE.FLOAT32) for k in range(0, count, 2)]
        return len(pa.array(values))

    return poll


async def measure(port: int, windows: list[int], rounds: int, *, with_stock: bool) -> dict[str, tuple[float, float]]:
    """Median wall and CPU seconds of one poll by contestant."""
    async with AsyncExitStack() as stack:
        polls = {"raw 1": await raw(port, stack, 1)}
        for window in windows:
            polls[f"ours {window}"] = await ours(port, stack, window)
        if with_stock:
            polls["stock"] = await stock(port, stack)
        return await take_turns(polls, rounds)


async def take_turns(contestants: dict[str, Poll], rounds: int) -> dict[str, tuple[float, float]]:
    """Median wall and CPU seconds of one poll of each, all called in turn."""
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for number in range(WARM_UP + rounds):
        for name, poll in contestants.items():
            wall, cpu = time.perf_counter(), time.process_time()
            count = await poll()
            took = time.perf_counter() - wall, time.process_time() - cpu
            if count != TAGS:
                sys.exit(f"{name} read {count} values")
            if number >= WARM_UP:
                seen[name].append(took)
    for name, each in seen.items():  # how noisy the machine was
        wall, cpu = (statistics.quantiles(values, n=4) for values in zip(*each, strict=True))
        print(
            f"  {name}: wall {wall[1] * 1e3:.2f} ms ({wall[0] * 1e3:.2f} to {wall[2] * 1e3:.2f}), "
            f"CPU {cpu[1] * 1e3:.2f} ms ({cpu[0] * 1e3:.2f} to {cpu[2] * 1e3:.2f})"
        )
    return {name: (statistics.median(w for w, _ in each), statistics.median(c for _, c in each)) for name, each in seen.items()}


def run(windows: list[int], rounds: int, *, delay_s: float = 0.0, with_stock: bool = False) -> dict[str, tuple[float, float]]:
    """Measure against a fresh server."""
    source = (sys.executable, str(HERE / "modbus_source.py"), "--tags", str(TAGS), "--delay", str(delay_s))
    with process(*source) as line:
        if not line.startswith("PORT "):
            sys.exit("the server does not start")
        return asyncio.run(measure(int(line.split()[1]), windows, rounds, with_stock=with_stock))


def main() -> None:
    options = parser(__doc__ or "").parse_args()
    windows = [1, 8]
    fast = run(windows, 25 if options.quick else 150, with_stock=True)
    slow = run(windows, 7 if options.quick else 31, delay_s=DEVICE_S)
    name, bare = "Modbus 10,000 float32", "raw asyncio, sequential, np.frombuffer"
    cpu_targets, wall_targets = {1: 2.3, 8: 1.9}, {1: 1.05, 8: 0.30}
    figures = []
    for window in windows:
        contestant = f"ours {window}"
        figures += [
            Figure(f"{name}, window {window}: CPU", fast[contestant][1] / fast["raw 1"][1], "ratio", "lower", cpu_targets[window], bare),
            Figure(
                f"{name}, window {window}, device answering in 2 ms: wall",
                slow[contestant][0] / slow["raw 1"][0], "ratio", "lower", wall_targets[window], bare,
            ),
            Figure(f"{name}, window {window}: poll to batch, CPU", fast[contestant][1] / TAGS * 1e6, "us/value", "lower"),
            Figure(f"{name}, window {window}: poll to batch, wall", fast[contestant][0] * 1e3, "ms", "lower"),
        ]  # fmt: skip
    stock_baseline = "stock pymodbus, one conversion a tag"
    figures += [
        *(
            Figure(
                f"{name}, window {window}: CPU, against stock",
                fast[f"ours {window}"][1] / fast["stock"][1],
                "ratio",
                "lower",
                0.28,
                stock_baseline,
            )
            for window in windows
        ),
        Figure(f"{name}: raw asyncio, CPU", fast["raw 1"][1] / TAGS * 1e6, "us/value", "lower"),
        Figure(f"{name}: stock pymodbus, CPU", fast["stock"][1] / TAGS * 1e6, "us/value", "lower"),
    ]
    publish(figures, options)


if __name__ == "__main__":
    main()
