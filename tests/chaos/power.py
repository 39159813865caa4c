"""Power loss: on-disk states that a cut may leave at any storage call of a real spool, each opened again and compared with what was acknowledged.

Some of the starts lose power too, at every call that they make, and the next start has to make do with what that leaves.

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

from gateway.spool import Spool, recovery
from gateway.spool import format as f
from gateway.spool.worker import InlineWorker
from tests.conftest import ManualClock
from tests.gateway.spool.conftest import MemoryStorage, alerts, crash, everything, numbers, readings, values
from tests.gateway.spool.power import Disk, PowerStorage
from tests.proof import Proof, command

KINDS = ("telemetry", "alert")
_SECOND = 10
"""Of so many moments one gets a start that loses power as well, which makes some thirty states."""


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

    @classmethod
    def after(cls, moment: Moment, files: dict[Path, bytearray]) -> WatchedStorage:
        """A disk on which this was left, and what had been promised before."""
        storage = cls()
        storage.durable, storage.acknowledged = moment.durable, moment.acknowledged
        storage.restore(files)
        return storage


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


async def recover(moment: Moment, files: dict[Path, bytearray], rng: random.Random, proof: Proof) -> None:
    """Start on one state, and lose power at each call of that start: what is left then is opened and compared too."""
    storage = WatchedStorage.after(moment, files)
    try:
        await _left(await _opened(storage, 3600))
    except Exception as error:  # noqa: BLE001 - the same
        proof.wrong.append(f"it does not open: {error!r}")
        return
    for again in storage.moments:
        await check(again, again.disk.drawn(rng), proof)
        proof.figures["states"] += 1
        proof.measured["states_of_a_second_cut"] = int(proof.measured.get("states_of_a_second_cut", 0)) + 1


async def _play(seed: int, states: int, **broken: bool) -> Proof:
    rng = random.Random(seed)
    proof = Proof("power loss", seed, dict.fromkeys(("states", "rows_acknowledged", "lost", "duplicated"), 0))
    while proof.figures["states"] < states:
        storage = WatchedStorage(**broken)
        await workload(storage, rng, 12)
        proof.figures["rows_acknowledged"] += sum(storage.durable.values())
        each = max(1, min(10, states // max(1, len(storage.moments))))
        for number, moment in enumerate(storage.moments):
            for _ in range(each):
                await check(moment, moment.disk.drawn(rng), proof)
                proof.figures["states"] += 1
            if number % _SECOND == 0 and not broken:
                await recover(moment, moment.disk.drawn(rng), rng, proof)
        if len(proof.wrong) > 20:
            break
    return proof


async def _names_that_lie(rng: random.Random) -> list[str]:
    """A segment in the middle whose name is missing, or one that comes back beside itself: what is said of it must be what can be read."""
    storage = MemoryStorage()
    spool = await _opened(storage, 3600)
    await spool.ledger.register("telemetry", "lake", "oldest")
    for _ in range(12):
        await spool.put("telemetry", readings(rng.randrange(20, 80), spool.end("telemetry")))
        await spool.flush()
    await _left(spool)
    found, whole = [], {path: bytes(data) for path, data in storage.files.items()}
    for path in sorted(path for path in whole if path.parent.name == "telemetry")[1:-1]:
        for stale in (False, True):
            storage = MemoryStorage()
            storage.files = {name: bytearray(data) for name, data in whole.items() if stale or name != path}
            if stale:
                storage.files[path.with_name(f"{path.stem}.1.seg")] = bytearray(whole[path])
            spool = await _opened(storage, 3600)
            read = await everything(spool)
            rows = numbers(read)
            told = {row for loss in spool.take_losses() for row in range(loss.first, loss.last + 1)}
            if len(rows) != len(set(rows)):
                found.append(f"{path.name} came back: {len(rows) - len(set(rows))} rows are there twice")
            if vanished := set(range(spool.durable("telemetry"))) - set(rows) - told:
                found.append(f"{path.name} is missing: {len(vanished)} rows are gone without a word")
            if spool.account("telemetry", "lake").spooled != len(rows):
                found.append(
                    f"{path.name}: {spool.account('telemetry', 'lake').spooled} rows are said to be held, {len(rows)} are"
                )
            await _left(spool)
    return found


def names_that_lie(seed: int) -> list[str]:
    """What is wrong about spools whose directory has lost a name, or brought one back."""
    with structlog.testing.capture_logs():
        return asyncio.run(_names_that_lie(random.Random(seed)))


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
    proof.wrong += names_that_lie(seed)
    with (
        patch.object(recovery, "pairwise", lambda _: ()),
        patch.object(recovery, "_without_overlap", lambda _, found, __: list(found)),
    ):
        proof.controls["no look at the row numbers"] = next(iter(names_that_lie(seed)), "")
    return proof


if __name__ == "__main__":
    sys.exit(command("power loss", run, __doc__))
