"""Power loss: on-disk states that a cut may leave at any storage call of a real spool, each opened again and compared with what was acknowledged.

`python -m tests.chaos.power --quick --seed 7 --json part.json`
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import structlog

from gateway.spool import Spool
from gateway.spool import format as f
from gateway.spool.worker import InlineWorker
from tests.conftest import ManualClock
from tests.gateway.spool.conftest import MemoryStorage, alerts, crash, everything, numbers, readings, values
from tests.gateway.spool.power import Disk, PowerStorage
from tests.proof import Proof, command

KINDS = ("telemetry", "alert")


@dataclass
class Moment:
    """What may be on the disk at one call, and what had been promised by then."""

    disk: Disk
    durable: dict[str, int]
    acknowledged: dict[str, int]


class WatchedStorage(PowerStorage):
    """Keeps every moment at which the power may go."""

    def __init__(self, **broken: bool) -> None:
        super().__init__(**broken)
        self.moments: list[Moment] = []
        self.durable = dict.fromkeys(KINDS, 0)
        self.acknowledged = dict.fromkeys(KINDS, 0)

    def look(self) -> None:
        self.moments.append(Moment(self.disk.copy(), dict(self.durable), dict(self.acknowledged)))


async def _opened(storage: MemoryStorage, grace_s: float) -> Spool:
    return await Spool.open(
        Path("spool"), gateway="gw", clock=ManualClock(), log=structlog.get_logger(), storage=storage, commit_every_s=0,
        segment_bytes=1 << 10, retention_grace_s=grace_s, writer=InlineWorker(), reader=InlineWorker(), thinner=InlineWorker(),
    )  # fmt: skip


async def _left(spool: Spool) -> None:
    crash(spool)
    await asyncio.gather(*spool._tasks, return_exceptions=True)


async def workload(storage: WatchedStorage, rng: random.Random, steps: int) -> None:
    """Puts of two kinds, flushes, acknowledgements; what every sink had is deleted."""
    spool = await _opened(storage, 0)
    for kind in KINDS:
        await spool.ledger.register(kind, "lake", "oldest")
    for _ in range(steps):
        for kind in KINDS:
            for _ in range(rng.randrange(1, 4)):
                rows = rng.randrange(1, 80)
                await spool.put(kind, readings(rows, spool.end(kind)) if kind == "telemetry" else alerts(rows))
        await spool.flush()
        storage.durable = {kind: spool.durable(kind) for kind in KINDS}
        for kind in KINDS:
            acked = spool.ledger.cursor(kind, "lake").acked
            if rng.random() < 0.5 and acked < storage.durable[kind]:
                last = rng.randrange(acked, storage.durable[kind])
                storage.acknowledged[kind] = last + 1
                await spool.ledger.begin_cut(kind, "lake", acked, last)
                await spool.ledger.acknowledge(kind, "lake", last, delivered=last + 1 - acked, filtered=0)
        await asyncio.sleep(0)
    await _left(spool)


async def check(moment: Moment, files: dict[Path, bytearray], proof: Proof) -> None:
    """Open the spool on one state; what must not be goes into `proof`."""
    storage = MemoryStorage()
    storage.files = files
    try:
        spool = await _opened(storage, 3600)
    except Exception as error:  # noqa: BLE001 - whatever keeps it from opening is what is looked for
        proof.wrong.append(f"it does not open: {error!r}")
        return
    try:
        for kind in KINDS:
            durable, end = moment.durable[kind], spool.end(kind)
            known = "lake" in spool.ledger.sinks_of(kind)
            acked = spool.ledger.cursor(kind, "lake").acked if known else 0
            read = await everything(spool, kind, acked)
            rows = numbers(read)
            missing = set(range(acked, max(durable, end))) - set(rows)
            proof.figures["lost"] += len([row for row in missing if row < durable])
            proof.figures["duplicated"] += len(rows) - len(set(rows))
            if missing or rows != sorted(rows):
                proof.wrong.append(f"{kind}: {len(missing)} of rows {acked} to {max(durable, end)} are missing, or out of order")
            if kind == "telemetry" and values(read) != [float(row) for row in rows]:
                proof.wrong.append("telemetry: other values than were put")
            if acked > min(moment.acknowledged[kind], end):
                proof.wrong.append(f"{kind}: the cursor is ahead: {acked}")
            if known:
                a = spool.account(kind, "lake")
                if a.read != a.filtered + a.delivered + a.spooled + a.dropped + a.dead_lettered or a.dropped:
                    proof.wrong.append(f"{kind}: the account does not hold: {a}")
                if a.spooled != len(rows):
                    proof.wrong.append(f"{kind}: {a.spooled} rows are said to be held, {len(rows)} are")
    except Exception as error:  # noqa: BLE001 - the same
        proof.wrong.append(f"it cannot be read: {error!r}")
    finally:
        await _left(spool)


async def _play(seed: int, states: int, **broken: bool) -> Proof:
    rng = random.Random(seed)
    proof = Proof("power loss", seed, dict.fromkeys(("states", "rows_acknowledged", "lost", "duplicated"), 0))
    while proof.figures["states"] < states:
        storage = WatchedStorage(**broken)
        await workload(storage, rng, 12)
        proof.figures["rows_acknowledged"] += sum(storage.durable.values())
        each = max(1, min(10, states // max(1, len(storage.moments))))
        for moment in storage.moments:
            for _ in range(each):
                await check(moment, moment.disk.drawn(rng), proof)
                proof.figures["states"] += 1
        if len(proof.wrong) > 20:
            break
    return proof


def play(seed: int, states: int, **broken: bool) -> Proof:
    """About so many states, at every call of as many runs as that takes."""
    with structlog.testing.capture_logs():
        return asyncio.run(_play(seed, states, **broken))


def run(seed: int, quick: bool, states: int | None = None, control_states: int = 600) -> Proof:
    """The states, and the controls."""
    began = time.monotonic()
    proof = play(seed, states or (3_000 if quick else 100_000))
    proof.measured["states_per_s"] = round(proof.figures["states"] / (time.monotonic() - began))

    def found(**broken: bool) -> str:
        return next(iter(play(seed, control_states, **broken).wrong), "")

    proof.controls["acknowledge before fsync"] = found(flushes=False)
    proof.controls["no directory fsync"] = found(flushes_names=False)
    with patch.object(f, "checksum", lambda data, before=0: 7):
        proof.controls["no CRC"] = found()
    return proof


if __name__ == "__main__":
    sys.exit(command("power loss", run, __doc__))
