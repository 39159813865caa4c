"""30 days: a gateway polled every 10 s in virtual time, with outages, reboots, bursts and steps of the clock; each seed is another month.

`python -m tests.simulation.month --quick --seed 7 --json part.json`
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
import random
import resource
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import numpy as np
import structlog

from cloud_sinks.base import BatchPolicy
from gateway.backoff import Backoff
from gateway.delivery import Delivery
from gateway.spool.retention import Retention
from gateway.troubles import Troubles
from schemas.data import KINDS
from schemas.errors import NotConnected
from schemas.tags import Tag
from tests.proof import Proof, command

from .life import Life, Rule
from .loop import VirtualLoop
from .stands import Device, Stand, SteppedClock, Truth
from .weather import DAY_S, TIMEOUT_S, draw

SEEDS: Final = Path(__file__).with_name("seeds.txt")
LOOK_S: Final = 1800.0
PERIODS_S: Final = {"press": 10.0, "oven": 60.0}
LEFT_BEHIND_S: Final = 1800.0
"""A sink that could be reached for so long has everything that was durable then."""

ROUNDED_S: Final = 0.001
"""Rows have whole µs, the loop has not, and 30 days are many of them: times that are equal may differ by this."""

MOST_WRONG: Final = 20
TOO_SMALL: Final = 800_000
"""Bytes of a budget that does not last for an outage of a day."""

MOST_GROWN_MB: Final = 10.0
ALERT_S: Final = 10.0
"""An alert is delivered so soon after it was raised, or after the sink is back."""


@dataclass
class Month:
    """What became of one seed."""

    seed: int
    wrong: list[str] = field(default_factory=list)
    polls: int = 0
    rows: int = 0
    delivered: int = 0
    lost: int = 0
    dropped: int = 0
    faults: int = 0
    restarts: dict[str, int] = field(default_factory=dict)
    attempts: int = 0
    peak_share: float = 0.0
    digest: int = 0
    seconds: float = 0.0
    alert_waits: list[float] = field(default_factory=list)

    def complain(self, sentence: str) -> None:
        """Something is not as it must be."""
        if len(self.wrong) < MOST_WRONG and sentence not in self.wrong:
            self.wrong.append(sentence)


class InlineLoop(VirtualLoop):
    """What would run in a thread runs at once, so that a seed is always the same month."""

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        """As the loop's."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 (it is the caller's)
            future.set_exception(error)
        return future


class Run:
    """One seed."""

    def __init__(self, seed: int, days: float, directory: Path, delivery: type[Delivery], each: int, budget: int | None) -> None:
        loop = asyncio.get_running_loop()
        rng = random.Random(seed)
        self.month = Month(seed)
        self.clock = SteppedClock(loop)
        self.truth = Truth()
        tags = [
            Tag(f"acme/north/{line}/{name}", f"acme/north/{line}", name, line, line, name, period_us=round(1e6 * PERIODS_S[line]),
                deadband=2.5 if name == "slow" else 0.0)
            for line, names in (("press", ("force", "travel", "speed")), ("oven", ("heat", "slow")))
            for name in names
        ]  # fmt: skip
        self.weather = w = draw(rng, list(PERIODS_S), ("lake", "stream", "alarms"), loop.time() + 60, days)
        if budget is not None:
            self.weather = w = replace(w, budget=budget)
        ids = {"press": (0, 1, 2), "oven": (3, 4)}
        self.devices = {
            name: Device(ids[name], period_s, w.links[name], w.bursts, self.clock, number * (1 << 32), each)
            for number, (name, period_s) in enumerate(PERIODS_S.items())
        }
        policies: dict[str, dict[str, BatchPolicy]] = {
            "lake": {"telemetry": BatchPolicy(50_000, 16 << 20, 600.0), "event": BatchPolicy(1_000, 1 << 20, 600.0),
                     "gap": BatchPolicy(1_000, 1 << 20, 600.0)},
            "stream": {"alert": BatchPolicy(100), "telemetry": BatchPolicy(5_000, 1 << 20, 300.0)},
            "alarms": {"alert": BatchPolicy(100), "event": BatchPolicy(100)},
        }  # fmt: skip
        write_s = {"lake": 0.5, "stream": 3.0, "alarms": 0.1}
        self.stands = {
            name: Stand(
                name, w.links[name], kinds, self.truth, self.month.complain, random.Random(rng.random()),  # type: ignore[arg-type]
                write_s=write_s[name], faults=w.faults, tags=frozenset(ids["press"]) if name == "stream" else None,
                once=name == "lake", holds=name != "lake",
            )
            for name, kinds in policies.items()
        }  # fmt: skip
        rules = [
            Rule("telemetry", ["lake"]), Rule("telemetry", ["stream"], ["acme/north/press/**"]), Rule("event", ["lake", "alarms"]),
            Rule("gap", ["lake"]), Rule("alert", ["stream", "alarms"]),
        ]  # fmt: skip
        self.life = Life(
            w, tags, self.devices, self.stands, rules, clock=self.clock, rng=random.Random(rng.random()), directory=directory,
            delivery=delivery, tap=self.truth.tap,
        )  # fmt: skip
        for stand in self.stands.values():
            stand.durable = lambda kind: self.life.spool.durable(kind)
            stand.up_since = lambda: self.life.up_since
        self.alerts_put: dict[int, float] = {}
        for stand in self.stands.values():
            stand.alerts_put = self.alerts_put
        self._history: deque[tuple[float, dict[str, int]]] = deque()
        self._dropped: dict[tuple[str, str], int] = {}

    async def live(self) -> Month:
        """The month, and the day after it, on which everything drains."""
        w, loop, life = self.weather, asyncio.get_running_loop(), self.life
        await self._start()
        agenda: list[tuple[float, int, Any]] = [(at, 0, seconds) for at, seconds in w.steps]
        agenda += [(at, 1, (for_s, manner)) for at, for_s, manner in w.reboots]
        agenda.sort(key=lambda one: one[:2])
        next_look = loop.time() + LOOK_S
        for at, what, how in agenda:
            while next_look < at:
                await _until(next_look)
                await self._look()
                next_look = loop.time() + LOOK_S
            await _until(at)
            if what == 0:
                self.clock.step(how)
            else:
                for_s, manner = how
                await self._look(troubles=False)
                await life.end(manner)
                await asyncio.sleep(for_s)
                await self._start()
        while next_look < w.end:
            await _until(next_look)
            await self._look()
            next_look = loop.time() + LOOK_S
        await _until(w.end)
        await self._drain()
        self._judge()
        await life.end("stop")
        return self.month

    async def _start(self) -> None:
        await self.life.start()
        now = asyncio.get_running_loop().time
        self.life.spool.tap(
            "alert", lambda first, batch: self.alerts_put.update((first + n, now()) for n in range(batch.num_rows))
        )
        self._history.clear()

    async def _drain(self) -> None:
        """No more weather and no more readings: within a day every sink has everything."""
        loop, spool = asyncio.get_running_loop(), self.life.spool
        await asyncio.sleep(2 * LOOK_S)
        await self._look()
        await self.life.let_go_of_devices()
        end = loop.time() + DAY_S
        while loop.time() < end:
            await asyncio.sleep(60)
            await self.life.troubles.look()
            await spool.flush()
            left = [
                f"{name}: {spool.durable(kind) - acked} rows of {kind} are left"
                for name, stand in self.stands.items()
                for kind in stand.kinds
                if (acked := spool.ledger.cursor(kind, name).acked) < spool.end(kind)
            ]
            if not left:
                return
        for sentence in left:
            self.month.complain(sentence)

    async def _look(self, *, troubles: bool = True) -> None:
        """What must hold at every moment."""
        life, month, now = self.life, self.month, asyncio.get_running_loop().time()
        spool = life.spool
        for sentence in life.crashed() + life.untidy:
            month.complain(sentence)
        if troubles:
            await life.troubles.look()
        peak = max(life.disk.peak, life.disk.used())
        month.peak_share = max(month.peak_share, peak / self.weather.budget)
        if peak > self.weather.budget:
            month.complain(f"{peak} bytes on the disk, {self.weather.budget} are allowed")
        for name, stand in self.stands.items():
            for kind in stand.kinds:
                a, cursor = spool.account(kind, name), spool.ledger.cursor(kind, name)
                if (
                    a.read != a.filtered + a.delivered + a.spooled + a.dropped + a.dead_lettered
                    or min(a.filtered, a.delivered, a.spooled, a.dropped, a.dead_lettered) < 0
                ):
                    month.complain(f"{name}: the account of {kind} does not hold: {a}")
                got = int(np.count_nonzero(stand.got[kind].room(cursor.acked)[: cursor.acked]))
                if got != a.delivered:
                    month.complain(f"{name}: {a.delivered} rows of {kind} count as delivered, {got} are there")
                before = self._dropped.get((kind, name), 0)
                if a.dropped > before and peak < 0.7 * self.weather.budget:
                    month.complain(f"{name}: {a.dropped - before} rows of {kind} were given up while there was room")
                self._dropped[kind, name] = max(before, a.dropped)
        life.disk.peak = 0
        self._keeping_up(now)
        if spool.buffered_bytes() > 16 << 20:
            month.complain(f"{spool.buffered_bytes()} bytes wait in memory")
        if len(asyncio.all_tasks()) > 40:
            month.complain(f"{len(asyncio.all_tasks())} tasks")

    def _keeping_up(self, now: float) -> None:
        """Who could be reached for a while has what there was then; devices are polled."""
        life, spool = self.life, self.life.spool
        for name, stand in self.stands.items():
            link = self.weather.links[name]
            for then, durable in self._history:
                if link.away(now) is not None or now - max(link.up_since, life.up_since) < now - then:
                    break
                if now - then < LEFT_BEHIND_S:
                    break
                for kind in stand.kinds:
                    acked = spool.ledger.cursor(kind, name).acked  # type: ignore[arg-type]
                    if acked < durable[kind]:
                        self.month.complain(
                            f"{name} could be reached for {now - then:.0f} s and {durable[kind] - acked} rows of {kind} are left"
                        )
        self._history.append((now, {kind: spool.durable(kind) for kind in KINDS}))
        while len(self._history) > 6:
            self._history.popleft()
        for name, device in self.devices.items():
            link = self.weather.links[name]
            if (
                link.away(now) is None
                and now - max(link.up_since, life.up_since) > 60 + TIMEOUT_S + device.each * device.period_s
            ) and now - device.last_poll > (1 + device.each) * device.period_s:
                self.month.complain(f"{name} was not polled for {now - device.last_poll:.0f} s")

    def _judge(self) -> None:
        """The month is over: every row is where it belongs, or is named."""
        month, spool = self.month, self.life.spool
        for name, stand in self.stands.items():
            for kind in stand.kinds:
                end, account = spool.durable(kind), spool.account(kind, name)
                got = stand.got[kind].room(end)[:end]
                refused = stand.refused[kind].room(end)[:end]
                filtered = np.zeros(end, bool)
                if kind == "telemetry":
                    filtered = self.truth.thinned.values[:end].copy()
                    if stand.tags is not None:
                        filtered |= ~np.isin(self.truth.tag.values[:end], stand.tags)
                gone = account.dropped
                if spool.ledger.lost(kind, name).get("downsampled"):  # windows have numbers of other rows, and marks of their own
                    filtered[:] = False
                    gone += account.filtered
                beyond = int(np.count_nonzero((got == 0) & ~refused & ~filtered)) - gone
                if beyond > 0:
                    month.lost += beyond
                    month.complain(f"{name}: {beyond} rows of {kind} are missing and nobody says so ({account})")
                if kind == "telemetry":
                    month.delivered += int(np.count_nonzero(got))
                told = sum(spool.ledger.lost(kind, name).values())
                if told != account.dropped:
                    month.complain(f"{name}: {account.dropped} rows of {kind} were dropped, {told} have a cause")
                month.dropped += account.dropped
                source = "spool" if kind == "telemetry" else f"spool.{kind}"
                gaps = [gap for gap in self.stands["lake"].gaps if gap["sink"] == name and gap["source"] == source]
                if sum(gap["rows"] for gap in gaps) < told:
                    month.complain(f"{name}: {told} rows of {kind} were dropped, gap rows name {sum(g['rows'] for g in gaps)}")
        self._gaps()
        self._attempts()
        waits = [wait for stand in self.stands.values() for wait in stand.alert_waits]
        month.alert_waits = waits
        month.polls = sum(device.polls.size for device in self.devices.values())
        month.rows = spool.durable("telemetry")
        month.restarts = dict(self.life.restarts)
        month.digest = sum(stand.digest for stand in self.stands.values())
        month.faults = (
            sum(len(link.outages) for link in self.weather.links.values()) + len(self.weather.reboots) + len(self.weather.steps)
            + len(self.weather.bursts.outages)
        )  # fmt: skip

    def _gaps(self) -> None:
        """Where a device was not read for more than two periods, a gap row of each of its tags says so."""
        w, spool = self.weather, self.life.spool
        put = self.truth.value.values[: spool.durable("telemetry")]
        told = self.stands["lake"].gaps
        for name, device in self.devices.items():
            upper = device.next
            mine = put[(put >= device.first) & (put < upper)].astype(np.int64)
            polls = np.unique(np.searchsorted(device.begins.values, mine, side="right") - 1)
            times = device.polls.values[polls]
            gaps = [(gap["time"].timestamp(), gap["end"].timestamp()) for gap in told if gap["source"] == name]
            for before, after in itertools.pairwise(times):
                if after - before <= 2.5 * device.period_s:
                    continue
                late = (1 + device.each) * device.period_s
                if any(before <= at <= after + late for at, _ in w.steps):  # it ends where readings go on, by either clock
                    ends = self._wall(after), self._wall(after + late)
                    if not any(begin < end and min(abs(end - one) for one in ends) < late + ROUNDED_S for begin, end in gaps):
                        self.month.complain(
                            f"{name} was not read for {after - before:.0f} s when the clock was set, and no gap row says so"
                        )
                    continue
                wall = self._wall(before), self._wall(after)
                if not any(
                    begin <= wall[0] + (2 + device.each) * device.period_s and wall[1] - device.period_s <= end
                    for begin, end in gaps
                ):
                    self.month.complain(
                        f"{name} was not read for {after - before:.0f} s from {before:.0f} on, and no gap row says so"
                    )

    def _wall(self, loop_s: float) -> float:
        """What the clock showed."""
        offset_s = self.clock.now_us() / 1e6 - asyncio.get_running_loop().time()
        return loop_s + offset_s - sum(seconds for at, seconds in self.weather.steps if at > loop_s)

    def _attempts(self) -> None:
        """Retries are bounded: full jitter up to `most_s`, and what an attempt itself takes."""
        for name, link in self.weather.links.items():
            most_s = 3.0 if name in self.devices else 5.0
            for outage in link.outages:
                each = 0.55 * most_s + (TIMEOUT_S if outage.manner == "silent" else 0.0)
                length = outage.end - outage.begin
                restarts = sum(outage.begin <= at + for_s <= outage.end for at, for_s, _ in self.weather.reboots)
                expected = length / each
                allowed = expected + 6 * math.sqrt(expected) * 0.26 * most_s / each + 10 * (1 + restarts)
                self.month.attempts += outage.attempts
                if outage.attempts > allowed:
                    self.month.complain(f"{name} was tried {outage.attempts} times in {length:.0f} s, {allowed:.0f} are allowed")


async def _until(at: float) -> None:
    await asyncio.sleep(max(0.0, at - asyncio.get_running_loop().time()))


def play(
    seed: int, days: float = 30.0, *, each: int = 6, delivery: type[Delivery] = Delivery, budget: int | None = None
) -> Month:
    """One seed."""
    began = time.process_time()
    with tempfile.TemporaryDirectory(prefix="genba-month-") as directory, structlog.testing.capture_logs():

        async def main() -> Month:
            return await Run(seed, days, Path(directory), delivery, each, budget).live()

        with asyncio.Runner(loop_factory=InlineLoop) as runner:
            month = runner.run(main())
    month.seconds = time.process_time() - began
    return month


def stored() -> list[tuple[int, float, int]]:
    """Seeds that found something once: seed, days, polls that a device hands over at once."""
    lines = [line.split("#")[0].split() for line in SEEDS.read_text().splitlines()]
    return [(int(line[0]), float(line[1]), int(line[2])) for line in lines if line]


class Skipping(Delivery):
    """Takes an error for a success: the rows of that span never arrive."""

    async def _write(self, batches: Any, span: Any) -> int:
        try:
            return await super()._write(batches, span)
        except NotConnected:
            return 0


class Impatient(Backoff):
    """Tries again as soon as it may."""

    def next_s(self) -> float:
        """Always as after the first failure."""
        self.failures = 0
        return super().next_s()


async def _nothing(_: Troubles) -> None:
    """Does nothing."""


def controls(seed: int, days: float) -> dict[str, str]:
    """What is broken on purpose -> what was found of it, in the first of a few months that shows it."""

    def found(**options: Any) -> str:
        months = (play(seed + n, days, budget=TOO_SMALL, **options) for n in range(12))
        return next((month.wrong[0] for month in months if month.wrong), "")

    out = {"a delivery that skips a span after an error": found(delivery=Skipping)}
    with patch.object(Retention, "allows", lambda self, size: True):
        out["a budget that is not enforced"] = found()
    with patch("gateway.delivery.Backoff", Impatient):
        out["a back-off that does not grow"] = found()
    with patch.object(Troubles, "_tell_losses", _nothing):
        out["rows given up and not told"] = found()
    return out


def _played(jobs: Sequence[tuple[int, float, int]]) -> Iterator[tuple[Month, float]]:
    """The months in order, two at a time, and what their process held after each."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_play, jobs)


def _play(job: tuple[int, float, int]) -> tuple[Month, float]:
    seed, days, each = job
    month = play(seed, days, each=each)
    gc.collect()
    return month, _resident_mb()


def run(seed: int, quick: bool) -> Proof:
    """The months, and the controls."""
    days = 3.0 if quick else 30.0
    proof = Proof("30 days", seed, {"simulated_days": 0, "faults": 0, "kills": 0, "rows_acknowledged": 0, "lost": 0})
    resident, attempts, polls, waits, share = [], 0, 0, [], 0.0
    months = 8 if quick else 100
    jobs = [(seed * 1000 + number, days, 1 if number % 20 == 19 else 6) for number in range(months)]
    jobs += [] if quick else stored()
    for (_, length, each), (month, held_mb) in zip(jobs, _played(jobs), strict=True):
        proof.wrong += [f"seed {month.seed}, {length:.0f} days, {each} at once: {sentence}" for sentence in month.wrong]
        proof.figures["simulated_days"] += round(length)
        proof.figures["faults"] += month.faults
        proof.figures["kills"] += month.restarts["kill"] + month.restarts["power"]
        proof.figures["rows_acknowledged"] += month.rows
        proof.figures["lost"] += month.lost
        attempts, polls, share = attempts + month.attempts, polls + month.polls, max(share, month.peak_share)
        waits += month.alert_waits
        resident.append(held_mb)
    quarter = max(1, months // 4)
    resident = resident[:months]
    grown = float(np.median(resident[-quarter:]) - np.median(resident[quarter : 2 * quarter]))
    late = float(np.percentile(waits, 99)) if waits else 0.0
    proof.measured |= {
        "polls": polls, "attempts_in_outages": attempts, "most_of_the_budget_used_percent": round(100 * share, 1),
        "alert_p99_s": round(late, 1), "rss_mb": round(resident[-1]), "rss_grown_mb": round(grown, 1),
    }  # fmt: skip
    if grown > MOST_GROWN_MB:
        proof.wrong.append(f"memory grew by {grown:.1f} MB over the last three quarters of the months")
    if late > ALERT_S:
        proof.wrong.append(f"one alert in a hundred took longer than {late:.1f} s")
    proof.controls |= controls(seed, 2.0)
    return proof


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


if __name__ == "__main__":
    sys.exit(command("30 days", run, __doc__))
