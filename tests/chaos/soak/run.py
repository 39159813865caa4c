"""The soak: one life of the gateway at ten times the load, with showers of troubles, looked at all the time; then all rows are counted."""

from __future__ import annotations

import asyncio
import json
import math
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import structlog
import yaml

from cloud_sinks import lake
from gateway.clock import WallClock
from gateway.spool import Account, Spool
from schemas.kinds import KINDS
from tests.chaos.day import check
from tests.chaos.day.run import credentials, download
from tests.chaos.day.stands import LIVE, Stands, standing
from tests.chaos.day.weather import Weather
from tests.e2e import plant as e2e
from tests.proof import Proof

from . import judge, leaky, plant

_CALM_S: Final = 120.0  # without any row fewer that waits, after the last shower


@dataclass(frozen=True)
class Course:
    """How long, how often it is looked at, and how long it is dry between two troubles, in seconds."""

    seconds: float
    warm_up_s: float
    every_s: float
    dry_s: tuple[float, float]
    roll: str
    slope: bool
    more: int = judge.MORE
    times: int = plant.TIMES


RELEASE: Final = Course(3600, 900, 10, (20, 40), "1m", slope=True)
QUICK: Final = Course(60, 20, 1, (2, 5), "3s", slope=False, more=6)  # pools of threads are still filling
SHORT: Final = Course(8, 2, 0.5, (0.5, 1), "1s", slope=False, more=50, times=1)
"""Of the suite: long enough for rows and troubles, too short to say what grows."""
CONTROL: Final = Course(36, 6, 1, (1e9, 1e9), "3s", slope=True, more=6, times=1)


@asynccontextmanager
async def _simulated(path: Path, folder: Path) -> AsyncIterator[dict[str, str]]:
    """The devices of the plant, in a process of their own; endpoints by adapter."""
    scenario, told = folder / "scenario.yaml", folder / "simulated.json"
    scenario.write_text(yaml.safe_dump(plant.SCENARIO), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "simulate", str(path), "--scenario", str(scenario), "--write", str(told),
        stdout=asyncio.subprocess.DEVNULL, stdin=asyncio.subprocess.DEVNULL, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    try:
        await e2e.until(lambda: told.exists() or process.returncode is not None, "the simulated plant", 90)
        assert process.returncode is None, f"the simulated plant ended with {process.returncode}"
        yield json.loads(told.read_text())["endpoints"]
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


class _Life:
    """One life of the gateway, and what was seen of it."""

    def __init__(self, folder: Path, stands: Stands, rng: random.Random, course: Course) -> None:
        self._folder, self._stands, self._rng, self._course = folder, stands, rng, course
        self.samples: list[judge.Sample] = []
        self.troubles: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.load: dict[str, float] = {}
        self.ends: dict[str, int] = {}
        self.accounts: dict[tuple[str, str], Account] = {}
        self.waiting = -1
        self._durable: dict[str, int] = {}
        self._text = ""

    async def live(self, program: tuple[str, ...] = ("-m", "gateway")) -> None:
        """From the start to a stop in good order."""
        made = await asyncio.to_thread(plant.write, self._folder, self._course.times)
        made |= plant.sinks(self._stands, self._folder / "lake", self._course.roll)
        path = e2e.write(self._folder, yaml.safe_dump(made, allow_unicode=True))
        async with _simulated(path, self._folder) as endpoints:
            gateway = e2e.GatewayProcess(path, endpoints, program=program)
            await gateway.start()
            try:
                await self._watched(gateway)
                await self._quiet(gateway)
                await self._stopped(gateway)
                if await self.left():  # what came while it was stopping is delivered by its next life
                    await gateway.start()
                    await asyncio.sleep(1)
                    await self._stopped(gateway)
                    await self.left()
            finally:
                if gateway.process.returncode is None:
                    await gateway.kill()

    async def _stopped(self, gateway: e2e.GatewayProcess) -> None:
        status = await gateway.stop()
        if status:
            self.wrong.append(f"the gateway ended with {status}")
        for line in gateway.lines:
            if line["event"] in ("task crashed and is restarted", "rows were rejected for good", "a person must act"):
                self.wrong.append(json.dumps(line, ensure_ascii=False)[:1000])

    async def left(self) -> int:
        """Rows that still wait; `ends` and `accounts` are those of the spool as it is."""
        spool = await Spool.open(self._folder / "spool", gateway="gw-1", clock=WallClock(), log=structlog.get_logger())
        try:
            self.ends = {kind: spool.durable(kind) for kind in KINDS}
            self.accounts = {(kind, sink): spool.account(kind, sink) for kind, to in plant.ROUTES.items() for sink in to}
            self.accounts["telemetry", "stream"] = spool.account("telemetry", "stream")
        finally:
            await spool.close()
        return sum(account.spooled for account in self.accounts.values())

    async def _watched(self, gateway: e2e.GatewayProcess) -> None:
        showers = asyncio.create_task(self._showers())
        memory = judge.Memory(gateway.process.pid)
        watching = asyncio.create_task(memory.watch())
        began = time.monotonic()
        try:
            while (now := time.monotonic() - began) < self._course.seconds:
                await self._look(gateway, now)
                self.samples[-1] = memory.since_the_last_time(self.samples[-1])
                await asyncio.sleep(max(0.0, self._course.every_s - (time.monotonic() - began - now)))
        finally:
            showers.cancel()
            watching.cancel()
            await asyncio.gather(showers, watching, return_exceptions=True)
            self._stands.calm()
        first, last = self.samples[0], self.samples[-1]
        took = last.at_s - first.at_s
        self.load = {
            "rows_per_s": round(self._durable["telemetry"] / took, 1),
            "cpu_percent": (last.cpu_s - first.cpu_s) / took * 100,
        }

    async def _look(self, gateway: e2e.GatewayProcess, at_s: float) -> None:
        served = gateway.said("metrics are served")
        assert served is not None
        sample, self._text = await judge.look(gateway.process.pid, str(served["listen"]), at_s)
        self.samples.append(sample)
        wrong, self._durable, self.waiting = check.scrape_adds_up(self._text, self._durable)
        self.wrong += wrong

    async def _showers(self) -> None:
        """One trouble of a sink after the other, each a few seconds, with dry times between."""
        weather = Weather(self._stands, self._rng)
        troubles = (
            weather.broker_away, weather.broker_frozen, weather.broker_swallows, weather.broker_killed, weather.stream_faults,
            weather.stream_away, weather.bucket_faults, weather.bucket_away, weather.aws_frozen,
        )  # fmt: skip
        while True:
            await asyncio.sleep(self._rng.uniform(*self._course.dry_s))
            trouble = self._rng.choice(troubles)
            self.troubles[trouble.__name__.replace("_", " ")] += 1
            await trouble()

    async def _quiet(self, gateway: e2e.GatewayProcess) -> None:
        """Until what waits is only what was read just now, or does not become less."""
        samples, least, since = list(self.samples), math.inf, time.monotonic()
        while not 0 <= self.waiting < 100 * self.load["rows_per_s"]:
            if self.waiting < least:
                least, since = self.waiting, time.monotonic()
            if time.monotonic() - since > _CALM_S:
                self.wrong.append(f"{self.waiting} rows wait and do not become less; {gateway.lines[-8:]}"[:2000])
                break
            await asyncio.sleep(0.5)
            await self._look(gateway, 0.0)
        self.samples = samples

    def read(self) -> int:
        """Rows that adapters had handed over at the last look."""
        return sum(int(float(line.split()[-1])) for line in self._text.splitlines() if line.startswith("genba_read_rows_total{"))

    @property
    def steady(self) -> list[judge.Sample]:
        """The samples after the warm-up."""
        return [one for one in self.samples if one.at_s >= self._course.warm_up_s]


def _counted(folder: Path, stands: Stands, life: _Life) -> tuple[int, int, list[str]]:
    """Rows that are not where they belong, rows that are twice in a lake, and what is wrong, in words."""
    wrong = check.accounts_hold(life.accounts)
    if life.read() > life.ends["telemetry"] + life.ends["event"]:
        wrong.append(f"{life.read()} rows were read, {life.ends} are in the spool")
    download(stands.client("s3"), folder / "bucket")
    lost = twice = 0
    for name, where in (("s3", folder / "bucket"), ("local", folder / "lake")):
        wrong += check.rows_once_each(name, where, life.ends, [])
        for kind, sinks in plant.ROUTES.items():
            if name in sinks:
                missing, more = check.lost_and_twice(check.numbers(where, kind), life.ends[kind])
                lost, twice = lost + missing, twice + more
    wrong += check.lakes_agree(folder / "bucket", folder / "lake")
    streamed = lake.scan(folder / "lake", tags=plant.STREAMED).select("seq").collect()["seq"].to_list()
    lines = stands.stub.rows("telemetry")
    got = {line["row"] for line in lines if line["kind"] == "telemetry"}
    if got != set(streamed):
        lost += len(set(streamed) - got)
        wrong.append(f"stream: {len(set(streamed) - got)} rows are missing, {len(got - set(streamed))} do not belong there")
    for kind in ("event", "alert"):
        told = {
            "stream": {line["row"] for line in lines if line["kind"] == kind},
            "iot": {row["row"] for row in stands.listener.rows(kind)},
        }
        for name, rows in told.items():
            missing = len(set(range(life.ends[kind])) - rows)
            lost += missing
            wrong += [f"{name}: {missing} rows of {kind} are missing"] if missing else []
    return lost, twice, wrong


async def _control(folder: Path, stands: Stands) -> list[judge.Sample]:
    """The samples of a gateway that leaks."""
    life = _Life(folder, stands, random.Random(1), CONTROL)
    await life.live((leaky.__file__,))
    return life.steady


def _by_leak(samples: list[judge.Sample]) -> dict[str, str]:
    """What the judgement says of each leak."""
    found = judge.judged(samples, more=CONTROL.more)
    kinds = {
        "every batch is kept": "memory",
        "a file each second": "descriptors",
        "a thread each second": "threads",
        "a task each second": "tasks",
    }
    return {name: next((sentence for sentence in found if sentence.startswith(word)), "") for name, word in kinds.items()}


async def soak(folder: Path, seed: int, course: Course, samples: Path | None = None, *, control: bool = True) -> Proof:
    """The control first, then the gateway itself."""
    proof = Proof("soak", seed)
    live = folder / "machine"
    live.mkdir()
    machine = await e2e.load(e2e.write(live, LIVE))
    with credentials():
        if control:
            (folder / "leaky").mkdir()
            async with standing(folder / "leaky", lambda: e2e.simulator_of(machine, "live")) as stands:
                proof.controls |= _by_leak(await _control(folder / "leaky", stands))
        (folder / "soak").mkdir()
        async with standing(folder / "soak", lambda: e2e.simulator_of(machine, "live")) as stands:
            life = _Life(folder / "soak", stands, random.Random(seed), course)
            try:
                await life.live()
            finally:
                if samples is not None:
                    told = json.dumps([asdict(one) for one in life.samples])
                    await asyncio.to_thread(samples.write_text, told + "\n", encoding="utf-8")
            lost, twice, wrong = await asyncio.to_thread(_counted, folder / "soak", stands, life)
    proof.figures = {
        "faults": life.troubles.total(), "rows_acknowledged": sum(life.ends.values()), "lost": lost, "duplicated": twice,
    }  # fmt: skip
    steady = life.steady
    proof.wrong = [*life.wrong, *wrong, *judge.judged(steady, slope=course.slope, more=course.more)]
    last = steady[-1]
    proof.measured = {
        "tags": 28 * course.times,
        **{name: round(value, 1) for name, value in life.load.items()},
        "warm_up_s": course.warm_up_s, "samples": len(steady), "rss_slope_mb_per_h": round(judge.rss_slope(steady), 3),
        "anonymous_slope_mb_per_h": round(judge.anonymous_slope(steady), 3),
        "rss_mb": last.rss_mb, "rss_highest_mb": max(one.rss_highest_mb for one in life.samples), "descriptors": last.descriptors,
        "threads": last.threads, "tasks": last.tasks,
    }  # fmt: skip
    if course.slope:
        found = judge.judged(judge.leaking(steady, 2.0))
        proof.controls["2 MB/h lost in the same noise"] = next((one for one in found if one.startswith("memory")), "")
    return proof


def run(seed: int, course: Course, samples: Path | None = None) -> Proof:
    """The whole part, in a folder of its own. `samples` gets the series as JSON."""
    with tempfile.TemporaryDirectory(prefix="genba-soak-") as folder:
        return asyncio.run(soak(Path(folder), seed, course, samples))
