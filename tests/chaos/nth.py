"""Fail the n-th call, for every n: one life of spool, delivery and lake, replayed with each call of the disk failing in each way it can.

`python -m tests.chaos.nth --quick --seed 7 --json part.json`
"""

from __future__ import annotations

import asyncio
import errno
import random
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import structlog

from cloud_sinks.parquet.config import ParquetConfig, Roll
from cloud_sinks.parquet.sink import ParquetSink
from cloud_sinks.thread import OneThread
from gateway.delivery import Delivery
from gateway.router import Router
from gateway.spool import Spool
from gateway.spool.ledger_file import LEDGER_BYTES
from gateway.spool.losses import Loss
from gateway.spool.segment import scan
from gateway.spool.worker import InlineWorker
from schemas.errors import Busy
from schemas.kinds import Kind, make_batch, telemetry
from schemas.lake import LakeFile
from schemas.values import Duration
from tests.chaos.failing import ERRORS, LOOKS, Calls, FailingLake, FailingStorage, Fault, Lasting
from tests.conformance.sink import Tags, context_of
from tests.conftest import ManualClock
from tests.gateway.spool.conftest import crash
from tests.proof import Proof, command
from tests.simulation.loop import in_virtual_time

KINDS: Final[tuple[Kind, ...]] = ("telemetry", "alert")
SEGMENT: Final = 8 << 10
BUDGET: Final = LEDGER_BYTES + 6 * SEGMENT
TAGS: Final = ("acme/osaka/press-07/temp", "acme/osaka/press-07/vibration", "acme/osaka/fan-1/speed")
START_US: Final = 1_767_225_600_000_000
PATIENCE_S: Final = 120.0
"""Virtual seconds after which a step that does not end shows that it waits for a restart."""
A_WHILE_S: Final = 20.0
RESUMED_S: Final = 10.0
"""Within which rows have to be durable again once the disk works again."""


@dataclass(frozen=True)
class _Rule:
    data: Kind
    to: Sequence[str] = ("lake",)
    tags: Sequence[str] = ()


class Restarted(Exception):
    """The step was cut short by a restart of the gateway."""


class _Inline(OneThread):
    """No thread: the clock of the test stands still while the sink writes."""

    async def run(self, work: Callable[[], Any]) -> Any:
        return work()

    async def aclose(self, last: Callable[[], object]) -> None:
        last()


class Life:
    """One gateway from its first start to a power cut, on a disk whose calls are numbered; then what is left is compared."""

    def __init__(self, base: Path, fault: Fault | None, seed: int, *, believes: str = "") -> None:
        self.calls = Calls(fault, random.Random(seed))
        self.storage = FailingStorage(self.calls, believes)
        self.lake = FailingLake(base, self.calls, believes_fsync=believes == "lake fsync")
        self.base, self.fault, self.rng = base, fault, np.random.default_rng(seed)
        self.clock = ManualClock(START_US)
        self.rows: dict[Kind, list[object]] = {kind: [] for kind in KINDS}
        self.acknowledged = dict.fromkeys(KINDS, 0)
        self.losses: dict[tuple[object, ...], Loss] = {}
        self.spoilt: set[int] = set()
        self.wrong: list[str] = []
        self.lost = self.duplicated = 0
        self.restarts = self.crashes = self.cut_at = 0
        self.slowest_s = 0.0
        self._healed_s: float | None = None
        self._delivering: asyncio.Task[None] | None = None
        self._paused = False
        self.delivery: Delivery | None = None
        self.calls.on_strike = self._struck

    async def run(self) -> None:
        """Live it, and look."""
        with self.lake.installed():
            await self.open()
            for step in (
                self.fill_a_little, self.deliver, self.outage, self.deliver, self.fill_a_little, self.die_damaged, self.deliver,
                self.fill_a_little, self.restart, self.deliver,
            ):  # fmt: skip
                with suppress(Restarted):
                    await self._patiently(step)
            await self._end()
            self.calls.on = False
            self.storage.cut_power(self.calls.rng)
            self.lake.cut_power()
            await self.open()
            await self.deliver()
            self.compare()
            await self._stop_delivering()
            await self.spool.close()
        if self.storage.opened():
            self.wrong.append(f"left open: {self.storage.opened()}")
        self.wrong += [*self.storage.wrong, *self.lake.wrong]

    # What a supervisor does

    def _struck(self) -> None:
        if self.fault is not None and self.fault.lasting == "for a while":
            asyncio.get_running_loop().call_later(A_WHILE_S, self._heal)

    def _heal(self) -> None:
        self.calls.heal()
        self._healed_s = asyncio.get_running_loop().time()

    async def _patiently(self, step: Callable[[], Awaitable[None]]) -> None:
        """The step; one that waits for a restart gets it, if the fault lasts so long. Raises Restarted."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                await step()
        except TimeoutError:
            if not self.calls.lasts:
                self.wrong.append(f"{step.__name__} does not end although the disk works")
            await self._end()
            self.calls.heal()
            await self.open()
            raise Restarted from None

    async def open(self) -> None:
        """Start; a start that fails on the disk is tried again, as systemd does."""
        for _ in range(40):
            try:
                self.spool = await Spool.open(
                    Path("spool"), gateway="gw-1", clock=self.clock, log=structlog.get_logger(), storage=self.storage,
                    commit_every_s=0.25, segment_bytes=SEGMENT, retention_grace_s=1.0, writer=InlineWorker(), reader=InlineWorker(),
                    thinner=InlineWorker(), when_full={"telemetry": "downsample"},
                )  # fmt: skip
                break
            except OSError:
                self.restarts += 1
                if self.fault is not None and self.fault.lasting == "until a restart":
                    self.calls.heal()
                await asyncio.sleep(1.0)
        else:
            raise AssertionError("it does not start")
        # A ledger that was put aside takes a quarter of a megabyte, which is nothing beside a real budget.
        aside = sum(
            len(data) for path, data in self.storage.files.items() if path.parent.name == "quarantine" and "ledger" in path.name
        )
        self.spool.retention._max_bytes = BUDGET + aside
        for kind in KINDS:
            end = self.spool.end(kind)
            if end < self.acknowledged[kind]:
                self.wrong.append(f"{kind}: {self.acknowledged[kind]} rows were acknowledged, the log ends at {end}")
            self.rows[kind] = self.rows[kind][:end]
        self._take_losses()
        self._delivering = asyncio.create_task(self._supervised())

    async def _supervised(self) -> None:
        for kind in KINDS:
            await self.spool.ledger.register(kind, "lake", "oldest")
        while True:
            context = context_of(self.base, self.clock, Tags(*TAGS), name="lake")
            roll = Roll(max_rows=700, max_age=Duration("2s"))
            sink = ParquetSink(ParquetConfig(location="lake", roll=roll), context)
            sink._thread = _Inline("lake")
            self.delivery = Delivery(
                "lake", sink, KINDS, spool=self.spool, router=Router(map(_Rule, KINDS), {"lake": "parquet"}, context.tags),
                clock=self.clock, rng=self.calls.rng, dead_letters=self.base / "dead-letters", report=_unsaid, log=structlog.get_logger(),
            )  # fmt: skip
            await self.delivery.pause(self._paused)
            try:
                await self.delivery.run()
            except OSError:
                self.crashes += 1
                await asyncio.sleep(1.0)

    async def _pause(self, paused: bool) -> None:
        self._paused = paused
        if self.delivery is not None:
            await self.delivery.pause(paused)

    async def _stop_delivering(self) -> None:
        task, self._delivering = self._delivering, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _end(self) -> None:
        """The process is killed."""
        await self._stop_delivering()
        self._take_losses()
        crash(self.spool)
        await asyncio.gather(*self.spool._tasks, return_exceptions=True)
        for fd in [fd for fd, path in self.storage._open.items()]:  # what a process had open goes with it
            self.storage.close(fd)

    def _take_losses(self) -> None:
        for loss in self.spool.take_losses():
            self.losses[loss.kind, loss.first, loss.last, loss.cause] = loss

    # What happens

    async def fill_a_little(self) -> None:
        """A few group commits of two kinds."""
        for n in range(3):
            await self._put("telemetry", self._noise(150 + 10 * n))
            await self._put("alert", make_batch("alert", n + 1, time=START_US, alarm="hot"))
            await self._flush()

    async def outage(self) -> None:
        """The lake takes nothing for a while, more comes than there is room for: windows first, then rows are given up."""
        await self._pause(True)
        for _ in range(6):
            await self._put("telemetry", self._noise(500))
            await self._flush()
        for _ in range(6):
            await self._put("telemetry", self._words(300))
            await self._flush()
        self._take_losses()

    async def deliver(self) -> None:
        """Everything that is there reaches the lake, and what was delivered is deleted."""
        await self._pause(False)
        while any(self.spool.ledger.cursor(kind, "lake").acked < self.spool.durable(kind) for kind in KINDS):
            self._check_alive()
            await asyncio.sleep(0.5)
        await self.spool.ledger.save()
        await asyncio.sleep(1.0)
        self._check_alive()
        self._check_accounts()

    async def die_damaged(self) -> None:
        """The power goes; one record of a closed segment rots meanwhile, and the last write was torn. Then it starts again."""
        await self._pause(True)
        for n in range(4):
            await self._put("telemetry", self._noise(200 + n))
            await self._flush()
        await self.spool._writer.run(self.spool._logs["telemetry"].roll)
        await self._put("telemetry", self._noise(40))
        await self._flush()
        await self._end()
        self.cut_at = len(self.calls.names)
        self.storage.cut_power(self.calls.rng)
        self.lake.cut_power()
        self._damage()
        await self.open()

    async def restart(self) -> None:
        """A clean stop and a start."""
        await self._stop_delivering()
        self._take_losses()
        await self.spool.close()
        if self.storage.opened():
            self.wrong.append(f"a closed spool has open: {self.storage.opened()}")
        await self.open()

    def _damage(self) -> None:
        paths = sorted(path for path in self.storage.files if path.suffix == ".seg" and path.parent.name == "telemetry")
        if len(paths) < 2:
            return
        for path, at in ((paths[-2], 0), (paths[-1], None)):
            data, inode = self.storage.files[path], self.storage._inodes[path]
            entries = scan(bytes(data), 0).entries
            if not entries:
                continue
            if at is not None:
                where = entries[at].offset + entries[at].size // 2
                if entries[at].first >= self.spool.ledger.cursor("telemetry", "lake").acked:
                    self.spoilt |= set(range(entries[at].first, entries[at].next))
                data[where] ^= 16
            else:
                end = entries[-1].offset + entries[-1].size + 7 & ~7
                data[end : end + 50] = b"\x5a" * 50
            inode.durable, inode.pending = bytes(data), []

    def _noise(self, rows: int) -> pa.RecordBatch:
        number = np.arange(len(self.rows["telemetry"]), len(self.rows["telemetry"]) + rows)
        return telemetry(
            time_us=START_US + number // 3 * 1_000_000, tag=(number % 3).astype(np.int32), value=self.rng.normal(50, 20, rows)
        )

    def _words(self, rows: int) -> pa.RecordBatch:
        text = [self.rng.bytes(12).hex() for _ in range(rows)]
        return telemetry(time_us=START_US + 10_000_000_000, tag=np.zeros(rows, np.int32), text=text)

    async def _put(self, kind: Kind, batch: pa.RecordBatch) -> None:
        first = await self.spool.put(kind, batch)
        if first != len(self.rows[kind]):
            self.wrong.append(f"{kind}: row {first} follows row {len(self.rows[kind]) - 1}")
        self.rows[kind] += _contents(kind, batch)

    async def _flush(self) -> None:
        """Everything put is durable, sooner or later."""
        while True:
            try:
                await self.spool.flush()
                break
            except Busy as busy:
                await asyncio.sleep(busy.wait_s)
        self.acknowledged = {kind: self.spool.durable(kind) for kind in KINDS}
        if self._healed_s is not None:
            self.slowest_s = max(self.slowest_s, asyncio.get_running_loop().time() - self._healed_s)
            if self.slowest_s > RESUMED_S:
                self.wrong.append(f"rows are durable {self.slowest_s:.1f} s after the disk works again")
            self._healed_s = None
        await asyncio.sleep(0.3)  # the loops behind get their turn
        self._check_accounts()

    # What must hold

    def _check_alive(self) -> None:
        self.spool._check_alive()
        if self._delivering is not None and self._delivering.done():
            self._delivering.result()

    def _check_accounts(self) -> None:
        for kind in KINDS:
            if "lake" in self.spool.ledger.sinks_of(kind):
                a = self.spool.account(kind, "lake")
                if a.read != a.filtered + a.delivered + a.spooled + a.dropped + a.dead_lettered or min(a.spooled, a.dropped) < 0:
                    self.wrong.append(f"{kind}: the account does not hold: {a}")

    def compare(self) -> None:
        """The lake with what was put, acknowledged and given up."""
        self._take_losses()
        for kind in KINDS:
            found = self._in_the_lake(kind)
            end, known = self.spool.durable(kind), self.rows[kind]
            spans: dict[str, set[int]] = {"dropped": set(), "downsampled": set(), "quarantined": set(), "requested": set()}
            for loss in self.losses.values():
                if loss.kind == kind:
                    spans[loss.cause] |= set(range(loss.first, loss.last + 1))
            given_up = spans["dropped"] | spans["downsampled"] | self.spoilt
            missing = set(range(end)) - found.keys()
            self.lost += len([row for row in missing - given_up if row < self.acknowledged[kind]])
            if missing - given_up:
                self.wrong.append(f"{kind}: rows {_short(missing - given_up)} of {end} are not in the lake")
            if kind == "telemetry" and (rest := spans["quarantined"] - self.spoilt - spans["dropped"]):
                self.wrong.append(f"{kind}: rows {_short(rest)} are said to be damaged")
            other = [row for row in found.keys() - spans["downsampled"] if row >= end or found[row][0] != known[row]]
            if other:
                self.wrong.append(f"{kind}: rows {_short(other)} in the lake are not what was put")
            windows = spans["downsampled"] - spans["dropped"] - spans["quarantined"]
            represented = sum(found[row][1] for row in found.keys() & windows)
            if not spans["dropped"] & spans["downsampled"] and represented != len(windows):
                self.wrong.append(f"{kind}: windows of {represented} readings stand for {len(windows)}")
            account = self.spool.account(kind, "lake")
            if (account.delivered, account.dropped, account.spooled) != (len(found), len(missing), 0) or account.read != end:
                self.wrong.append(f"{kind}: {len(found)} rows in the lake, {len(missing)} missing, and {account}")
            if sum(self.spool.ledger.lost(kind, "lake").values()) != account.dropped:
                self.wrong.append(f"{kind}: {self.spool.ledger.lost(kind, 'lake')} do not make {account.dropped} dropped rows")
        self._check_accounts()

    def _in_the_lake(self, kind: Kind) -> dict[int, tuple[object, int]]:
        """Row number -> content and how many readings it stands for."""
        found: dict[int, tuple[object, int]] = {}
        for path in sorted((self.base / "lake" / kind).rglob("*.parquet")):
            LakeFile.parse(path.relative_to(self.base / "lake").as_posix())
            try:
                table = pq.read_table(path, partitioning=None)
            except (pa.ArrowException, OSError) as error:
                self.wrong.append(f"{path.name} cannot be read: {error}")
                continue
            contents = _contents(kind, table)
            counts = table.column("count").to_pylist() if kind == "telemetry" else [None] * table.num_rows
            for seq, content, count in zip(table.column("seq").to_pylist(), contents, counts, strict=True):
                self.duplicated += seq in found
                found[seq] = (content, 1 if count is None else count)
        order = [name for name in self.lake.published if f"-{kind}-" in name]
        if order != sorted(order):
            self.wrong.append(f"{kind}: published out of order: {order}")
        return found


def _contents(kind: Kind, batch: pa.RecordBatch | pa.Table) -> list[object]:
    if kind != "telemetry":
        return batch.column("alarm").to_pylist()  # type: ignore[no-any-return]
    pairs = zip(batch.column("value").to_pylist(), batch.column("text").to_pylist(), strict=True)
    return [text if value is None else value for value, text in pairs]


def _short(rows: Sequence[int] | set[int]) -> str:
    found = sorted(rows)
    return f"{found[0]}…{found[-1]} ({len(found)})"


async def _unsaid(event: str, severity: str, message: str) -> None:
    del event, severity, message


_CAUSES: Final = frozenset({"downsampled", "dropped", "quarantined"})


def live(fault: Fault | None, seed: int, *, believes: str = "") -> Life:
    """One life; what must not be is in its `wrong`."""
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as base, structlog.testing.capture_logs():
        life = Life(Path(base), fault, seed, believes=believes)

        async def run() -> None:
            try:
                await life.run()
            except Exception as error:  # noqa: BLE001 - whatever ends a life early is what is looked for
                life.wrong.append(f"{type(error).__name__}: {error}")

        in_virtual_time(run)
    return life


def faults(names: Sequence[str], stride: int = 1, start: int = 0) -> Iterator[Fault]:
    """Every `stride`-th call of a life that made these calls, failing in each way it can."""
    for number in range(start, len(names), stride):
        name = names[number]
        for error in ERRORS[name]:
            yield Fault(number, error)
        if name not in LOOKS:
            lasting: Lasting
            for lasting in ("for a while", "until a restart"):
                yield Fault(number, ERRORS[name][number % len(ERRORS[name])], lasting)


def _causes(life: Life) -> set[str]:
    return {loss.cause for loss in life.losses.values()}


def _eventful(seed: int) -> tuple[int, Life]:
    """The first life from this seed on in which everything happens that is to happen, and its seed: in some the record that rots has been delivered."""
    for own in range(seed, seed + 20):
        life = live(None, own)
        if life.wrong or _causes(life) >= _CAUSES:
            break
    return own, life


def run(seed: int, quick: bool, stride: int | None = None) -> Proof:
    """All faults, or those of every `stride`-th call, and the controls."""
    proof = Proof("n-th call", seed, dict.fromkeys(("faults", "rows_acknowledged", "lost", "duplicated"), 0))
    seed, calm = _eventful(seed)
    proof.wrong += [f"without any fault: {sentence}" for sentence in calm.wrong]
    proof.wrong += [f"nothing was {cause} in this life" for cause in _CAUSES - _causes(calm)]
    names = calm.calls.names
    proof.measured["calls"] = len(names)
    step = stride or (29 if quick else 1)
    slowest, crashes = 0.0, 0
    for fault in faults(names, step, seed % step):
        life = live(fault, seed)
        proof.figures["faults"] += 1
        proof.figures["rows_acknowledged"] += sum(life.acknowledged.values())
        proof.figures["lost"] += life.lost
        proof.figures["duplicated"] += life.duplicated
        proof.wrong += [f"call {fault.number} ({names[fault.number]}), {_said(fault)}: {sentence}" for sentence in life.wrong[:3]]
        slowest, crashes = max(slowest, life.slowest_s), crashes + life.crashes
        if len(proof.wrong) > 30:
            break
    proof.measured["slowest_s_after_the_disk_works_again"] = round(slowest, 1)
    proof.measured["deliveries_restarted"] = crashes
    before = names[: calm.cut_at]
    proof.controls["a failing fsync is ignored"] = _found(before, seed, "fdatasync", "fsync", errno.EIO)
    proof.controls["a short write is ignored"] = _found(before, seed, "write", "short", "short")
    proof.controls["a failing fsync of the lake is ignored"] = _found(names, seed, "lake fsync", "lake fsync", errno.EIO)
    return proof


def _said(fault: Fault) -> str:
    what = fault.error if isinstance(fault.error, str) else errno.errorcode[fault.error]
    return f"{what} {fault.lasting}"


def _found(names: Sequence[str], seed: int, call: str, believes: str, error: int | str) -> str:
    """What a broken spool or lake is caught by; the last calls before the power goes are tried first."""
    for number in reversed([number for number, name in enumerate(names) if name == call]):
        if (life := live(Fault(number, error), seed, believes=believes)).wrong:
            return f"call {number}: {life.wrong[0]}"
    return ""


if __name__ == "__main__":
    sys.exit(command("n-th call", run, __doc__))
