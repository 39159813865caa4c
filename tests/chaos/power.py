"""Power loss: on-disk states that a cut may leave at any storage call of a real spool, each opened again and compared with what was acknowledged.

`python -m tests.chaos.power --quick --seed 7 --json part.json`
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import structlog

from gateway.spool import Spool
from gateway.spool import format as f
from gateway.spool.worker import InlineWorker
from tests.conftest import ManualClock
from tests.gateway.spool.conftest import MemoryStorage, alerts, crash, everything, numbers, readings, values
from tests.proof import Proof, command

SECTOR = 512
KINDS = ("telemetry", "alert")


@dataclass
class Inode:
    """A file: what is durable of it, and what was done since: (offset, data), or (size, None) for a new size."""

    durable: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)


Name = tuple[tuple[Path, Inode | None], ...]
"""One change of a directory, done whole or not at all: names and what they stand for (None: gone)."""


@dataclass
class Moment:
    """What may be on the disk at one call, and what had been promised by then."""

    names: dict[Path, Inode]
    changes: list[Name]
    durable: dict[str, int]
    acknowledged: dict[str, int]

    def state(self, rng: random.Random) -> dict[Path, bytearray]:
        """One legal state."""
        names = dict(self.names)
        for change in self.changes:
            if rng.random() < 0.5:
                for path, inode in change:
                    if inode is None:
                        names.pop(path, None)
                    else:
                        names[path] = inode
        return {path: _content(inode, rng) for path, inode in names.items()}


def _content(inode: Inode, rng: random.Random) -> bytearray:
    data = bytearray(inode.durable)
    for at, written in inode.pending:
        if written is None:
            if rng.random() < 0.5:
                del data[at:]
                data.extend(bytes(at - len(data)))
            continue
        whole, start = rng.random() < 0.25, 0
        while start < len(written):
            end = min(len(written), start + SECTOR - (at + start) % SECTOR)
            if whole or rng.random() < 0.5:
                data.extend(bytes(max(0, at + start - len(data))))
                data[at + start : at + end] = written[start:end]
            start = end
    return data


class JournalStorage(MemoryStorage):
    """A disk in memory that knows what of it is durable; `look` is called before every call that changes or flushes something."""

    def __init__(self, *, flushes: bool = True, flushes_names: bool = True) -> None:
        super().__init__()
        self.inodes: dict[Path, Inode] = {}
        self.names: dict[Path, Inode] = {}
        self.changes: list[Name] = []
        self.moments: list[Moment] = []
        self.durable = dict.fromkeys(KINDS, 0)
        self.acknowledged = dict.fromkeys(KINDS, 0)
        self.flushes, self.flushes_names = flushes, flushes_names

    def look(self) -> None:
        copies: dict[int, Inode] = {}

        def copy(inode: Inode) -> Inode:
            return copies.setdefault(id(inode), Inode(inode.durable, list(inode.pending)))

        names = {path: copy(inode) for path, inode in self.names.items()}
        changes = [tuple((p, None if i is None else copy(i)) for p, i in change) for change in self.changes]
        self.moments.append(Moment(names, changes, dict(self.durable), dict(self.acknowledged)))

    def create(self, path: Path, size: int) -> int:
        self.look()
        fd = super().create(path, size)
        self.inodes[path] = Inode(b"", [(size, None)])
        self.changes.append(((path, self.inodes[path]),))
        return fd

    def write(self, fd: int, buffers: Sequence[Any], offset: int) -> int:
        self.look()
        self.inodes[self._open[fd]].pending.append((offset, b"".join(buffers)))
        return super().write(fd, buffers, offset)

    def truncate(self, fd: int, size: int) -> None:
        self.look()
        self.inodes[self._open[fd]].pending.append((size, None))
        super().truncate(fd, size)

    def fdatasync(self, fd: int) -> None:
        self.look()
        if self.flushes:
            inode = self.inodes[self._open[fd]]
            inode.durable, inode.pending = bytes(self.files[self._open[fd]]), []

    def fsync_directory(self, path: Path) -> None:
        self.look()
        if not self.flushes_names:
            return
        for change in [one for one in self.changes if one[0][0].parent == path]:
            self.changes.remove(change)
            for name, inode in change:
                if inode is None:
                    self.names.pop(name, None)
                else:
                    self.names[name] = inode

    def rename(self, old: Path, new: Path) -> None:
        self.look()
        super().rename(old, new)
        self.inodes[new] = self.inodes.pop(old)
        self.changes.append(((old, None), (new, self.inodes[new])))

    def unlink(self, path: Path) -> None:
        self.look()
        super().unlink(path)
        self.inodes.pop(path, None)
        self.changes.append(((path, None),))


async def _opened(storage: MemoryStorage, grace_s: float) -> Spool:
    return await Spool.open(
        Path("spool"), gateway="gw", clock=ManualClock(), log=structlog.get_logger(), storage=storage, commit_every_s=0,
        segment_bytes=1 << 10, retention_grace_s=grace_s, writer=InlineWorker(), reader=InlineWorker(), thinner=InlineWorker(),
    )  # fmt: skip


async def _left(spool: Spool) -> None:
    crash(spool)
    await asyncio.gather(*spool._tasks, return_exceptions=True)


async def workload(storage: JournalStorage, rng: random.Random, steps: int) -> None:
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
        storage = JournalStorage(**broken)
        await workload(storage, rng, 12)
        proof.figures["rows_acknowledged"] += sum(storage.durable.values())
        each = max(1, min(10, states // max(1, len(storage.moments))))
        for moment in storage.moments:
            for _ in range(each):
                await check(moment, moment.state(rng), proof)
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
