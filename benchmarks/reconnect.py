"""Alerts when the line is back: how long until they are at the broker, with a month of readings waiting for the same line.

A spool with 30 days of readings every 10 s (100 tags; 10 with --quick), one MQTT sink that is to have them and the alerts, `max_rate` set or not,
and a line of 2 Mbit/s, cut and mended again and again. Alerts are raised while it is cut (measured from the moment it is back) and after it is
back (from when they were raised). The broker is mosquitto; the readings never get delivered meanwhile, so every round has the whole backlog.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import numpy as np
import structlog
from report import Figure, parser, publish

sys.path.insert(0, str(Path(__file__).parent.parent))

from cloud_sinks import mqtt
from cloud_sinks.mqtt.config import MqttConfig
from gateway.clock import WallClock
from gateway.delivery import Delivery
from gateway.router import Router
from gateway.spool import Spool
from schemas.kinds import Kind, telemetry
from tests.chaos import proxy as tcp
from tests.chaos.day.stands import Listener
from tests.conformance.sink import Tags, batch_of, context_of
from tests.interop.conftest import Started, mosquitto_in

LINE_BYTES_PER_S: Final = 250_000
READINGS: Final = 30 * 86_400 // 10
ROWS: Final = 50_000
T0: Final = 1_767_225_600_000_000
KINDS: Final[tuple[Kind, ...]] = ("alert", "telemetry")


class Rule:
    """A kind to the sink."""

    tags = ()

    def __init__(self, data: Kind) -> None:
        self.data, self.to = data, ["broker"]


async def month(spool: Spool, tags: int) -> int:
    """Fill the spool; the rows."""
    rows = READINGS * tags
    rng = np.random.default_rng(1)
    for first in range(0, rows, ROWS):
        seq = np.arange(first, min(rows, first + ROWS))
        values = np.round(60 + rng.normal(0, 5, len(seq)).cumsum() / 100, 2)
        await spool.put(
            "telemetry", telemetry(time_us=T0 + seq // tags * 10_000_000, tag=(seq % tags).astype(np.int32), value=values)
        )
    await spool.flush()
    return rows


def whole(buffer: bytearray) -> list[bytes]:
    """Bytes as they come."""
    found = [bytes(buffer)] if buffer else []
    buffer.clear()
    return found


async def rounds(
    spool: Spool, tags: Tags, folder: Path, max_rows_per_s: float | None, count: int, cut_s: float
) -> dict[str, list[float]]:
    """Seconds of each alert, for those raised during an outage and those raised after it."""
    rng, log, waited = random.Random(7), structlog.get_logger(), {"during": list[float](), "after": list[float]()}
    started = Started(folder)
    broker = await asyncio.to_thread(lambda: mosquitto_in(started)())
    listener = Listener(broker.port)
    await asyncio.to_thread(listener.connected.wait, 10)
    came: dict[int, float] = {}

    def take(_client: object, _data: object, message: object) -> None:
        if "/alert/" in message.topic or message.topic.endswith("/alert"):  # type: ignore[attr-defined]
            came.setdefault(json.loads(message.payload)["row"], time.monotonic())  # type: ignore[attr-defined]

    listener._client.on_message = take

    async def alert() -> int:
        first = spool.end("alert")
        batch = batch_of("alert", first, 1, tags)
        await spool.put("alert", batch.select(batch.schema.names[:-1]))
        await spool.flush()
        return first

    async def arrived(row: int) -> float:
        async with asyncio.timeout(120):
            while row not in came:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        return came[row]

    async with tcp.before(f"mqtt://127.0.0.1:{broker.port}", whole) as line:
        line.up.bytes_per_s = LINE_BYTES_PER_S
        sink = mqtt.PLUGIN.build(MqttConfig(endpoint=f"mqtt://127.0.0.1:{line.port}"), context_of(folder, WallClock(), tags))
        for kind in KINDS:
            await spool.ledger.register(kind, "broker", "oldest")

        async def unheard(event: str, severity: str, message: str) -> None:
            """Nobody asks."""

        delivery = Delivery(
            "broker", sink, KINDS, spool=spool, router=Router([Rule(kind) for kind in KINDS], {"broker": "mqtt"}, tags),
            clock=WallClock(), rng=random.Random(1), dead_letters=folder / "dead", report=unheard, log=log,
            max_rows_per_s=max_rows_per_s,
        )  # fmt: skip
        task = asyncio.create_task(delivery.run())
        for _ in range(count):
            line.refuse = True
            line.cut_off()
            during = []
            for _ in range(3):
                await asyncio.sleep(rng.uniform(0.1, cut_s / 3))
                during.append(await alert())
            await asyncio.sleep(rng.uniform(0.1, 5))
            line.refuse, back = False, time.monotonic()
            waited["during"] += [await arrived(row) - back for row in during]
            for _ in range(6):
                await asyncio.sleep(rng.uniform(0.05, 0.8))
                raised = time.monotonic()
                waited["after"].append(await arrived(await alert()) - raised)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    listener.close()
    started.close()
    return waited


async def measured(quick: bool) -> list[Figure]:
    """All figures."""
    count, cut_s = (4, 12.0) if quick else (25, 15.0)
    tags = Tags(*(f"acme/osaka/press-{n:03d}/x" for n in range(10 if quick else 100)))
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        spool = await Spool.open(
            Path(folder) / "spool", gateway="gw-1", clock=WallClock(), log=structlog.get_logger(), commit_every_s=0.05
        )
        await spool.ledger.register("telemetry", "broker", "oldest")
        rows = await month(spool, len(tags))
        figures.append(Figure("backlog", rows, "rows", "higher"))
        figures.append(Figure("backlog on disk", spool.bytes_used() / 1e6, "MB", "lower"))
        for name, rate in (("max_rate 500/s", 500.0), ("no max_rate", None)):
            (mine := Path(folder) / name.replace("/", " ")).mkdir()
            waited = await rounds(spool, tags, mine, rate, count, cut_s)
            for when, from_ in (
                ("during", "raised while the line was cut, from its return"),
                ("after", "raised after its return"),
            ):
                p50, p99 = np.percentile(waited[when], [50, 99])
                figures.append(Figure(f"{name}: alerts {from_}, p50 of {len(waited[when])}", float(p50), "s", "lower"))
                figures.append(Figure(f"{name}: alerts {from_}, p99", float(p99), "s", "lower", 10.0))
        left = spool.account("telemetry", "broker").spooled
        figures.append(Figure("backlog left at the end", left, "rows", "higher", rows / 2))
        await spool.close()
    return figures


def main() -> None:
    """Measure and publish."""
    options = parser(__doc__ or "").parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    publish(asyncio.run(measured(options.quick)), options)


if __name__ == "__main__":
    main()
