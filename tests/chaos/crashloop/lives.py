"""Lives and deaths of one gateway: started, killed at a moment drawn by the seed or at a named point, and looked at."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.chaos.day.run import download
from tests.e2e import plant as e2e

from . import check, witness
from .births import Order
from .points import POINTS
from .world import Births, Counting, World

_PATIENCE_S: Final = 8.0
"""So long a gateway may live on its way to a named point."""
SURE_S: Final = 60.0
"""So long where it must come to pass, however slow the machine."""
_ODD: Final = (
    "task crashed and is restarted",
    "rows were rejected for good",
    "a person must act",
    "models cannot take these rows",
)


@dataclass
class Tally:
    """What is counted over all gateways."""

    kills: int = 0
    starts: int = 0
    before_ready: int = 0
    at: Counter[str] = field(default_factory=Counter)
    sent_to: Counter[str] = field(default_factory=Counter)  # whether they came to their point or not
    repeated: int = 0  # rows that IoT Core got more than once


class Plan:
    """Which life comes next for one gateway. Half of the lives end at a named point; every point has its turn before one has another."""

    def __init__(self, rng: random.Random, tally: Tally, *, longest_nth: int) -> None:
        self._rng, self._tally, self._longest = rng, tally, longest_nth
        self._first = [name for name, point in POINTS.items() if point.birth]  # each leaves more behind than the one before
        self._later = [name for name, point in POINTS.items() if not point.birth]

    def next(self, kills_left: int) -> tuple[str, int]:
        """Point and count; an empty name for a kill at a random moment."""
        if self._first:
            return self._first.pop(0), 1
        never = self.missing()
        if len(never) < kills_left and self._rng.random() < 0.5:
            return "", 1
        fewest = min(self._tally.sent_to[name] for name in self._later)
        name = self._rng.choice([name for name in self._later if self._tally.sent_to[name] == fewest])
        most = min(POINTS[name].most or self._longest, self._longest)
        return name, 1 if name in never and self._tally.sent_to[name] else self._rng.randint(1, most)

    def missing(self) -> list[str]:
        """The points at which no gateway has died yet."""
        return [name for name in self._later if not self._tally.at[name]]

    def moment(self) -> tuple[int, float]:
        """When a life ends at a random moment: so many seconds after its witness has written so many bytes. One in three says nothing before."""
        kind = self._rng.random()
        if kind < 0.35:
            return 0, self._rng.uniform(0.0, 0.3)
        return 1, self._rng.uniform(0.0, 0.7) if kind < 0.9 else self._rng.uniform(0.7, 2.5)


class Gateway:
    """One plant with its gateway, from the first start on an empty directory to the last look at its lakes."""

    def __init__(self, folder: Path, name: str, around: World, tally: Tally, fault: str = "") -> None:
        self.folder, self.name = folder, name
        self.said = witness.Testimony()
        self.wrong: list[str] = []
        self.starts = 0
        self._world, self._tally, self._fault = around, tally, fault
        self._simulator: Any = None
        self.file = folder / "plant.yaml"

    async def open(self) -> None:
        """The device, and the plant's file."""
        self.folder.mkdir()
        e2e.write(self.folder, self._world.plant(self.name, "tcp://127.0.0.1:1"))
        self._simulator = e2e.simulator_of(await e2e.load(self.file), "press", signals=Counting())
        e2e.write(self.folder, self._world.plant(self.name, await self._simulator.start()))

    async def close(self) -> None:
        """The device goes."""
        await self._simulator.aclose()

    async def life(
        self,
        maker: Births,
        point: str = "",
        nth: int = 1,
        *,
        moment: tuple[int, float] = (0, 0.0),
        patience_s: float = _PATIENCE_S,
    ) -> None:
        """One life and its end by SIGKILL, the `nth` time that it comes to the point, or without one at a `moment`, see `Plan`."""
        order = self._order(point, nth)
        self._tally.sent_to[point] += 1
        pid = await maker.born(order)
        ending = asyncio.ensure_future(maker.ended())
        spoken, length_s = moment
        if not point:
            said = Path(order.witness)
            await e2e.until(lambda: ending.done() or _size(said) >= spoken, "rows are acknowledged", SURE_S)
        done, _ = await asyncio.wait({ending}, timeout=patience_s if point else length_s)
        if not done:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        status = await ending
        self._tally.kills += 1
        await asyncio.to_thread(self._look, order, status)

    def _look(self, order: Order, status: int) -> None:
        """At what a gateway that has just been killed left behind."""
        said = witness.read(Path(order.witness))
        self.said.add(said)
        if said.died_at:
            self._tally.at[said.died_at] += 1
        lines = _lines(Path(order.log))
        if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            self.wrong.append(f"{self.name} ended by itself ({status}): {lines[-3:]}")
        self._tally.before_ready += not any(line.get("event") == "gateway is ready" for line in lines)
        self._complain_of(lines)
        if (self.folder / "spool" / "spool.json").exists():
            self.wrong += [f"{self.name}, start {self.starts}: {sentence}" for sentence in check.spool(self._spool, self.said)[0]]

    def _complain_of(self, lines: list[dict[str, Any]]) -> None:
        self.wrong += [json.dumps(line, ensure_ascii=False)[:2000] for line in lines if str(line.get("event")).startswith(_ODD)]

    @property
    def _spool(self) -> Path:
        return self.folder / "spool"

    def _order(self, point: str = "", nth: int = 1) -> Order:
        self.starts += 1
        self._tally.starts += 1
        log, said = (str(self.folder / f"{what}-{self.starts:04d}") for what in ("log", "witness"))
        return Order(str(self.file), log, said, point, nth, self._fault)

    async def drain(self, maker: Births) -> None:
        """Start it and stop it in good order, until nothing is left in the spool."""
        left: list[str] = []
        for _ in range(3):
            await self._stopped(maker)
            left = await asyncio.to_thread(check.delivered, self._spool)
            if not left:
                break
        self.wrong += left

    async def _stopped(self, maker: Births) -> None:
        """One life that ends with SIGTERM."""
        order = self._order()
        log = Path(order.log)
        pid = await maker.born(order)
        ending = asyncio.ensure_future(maker.ended())
        await e2e.until(lambda: ending.done() or b"gateway is ready" in _bytes(log), "the gateway is ready", SURE_S)
        await asyncio.sleep(0.3)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        status = await asyncio.wait_for(ending, SURE_S)
        self.said.add(await asyncio.to_thread(witness.read, Path(order.witness)))
        lines = _lines(log)
        self._complain_of(lines)
        if status:
            self.wrong.append(f"{self.name}: a stop in good order ended with {status}: {lines[-3:]}")

    async def check(self) -> check.Findings:
        """Everything that this gateway should have delivered, and what was."""
        return await asyncio.to_thread(self._check)

    def _check(self) -> check.Findings:
        found = check.Findings(list(self.wrong))
        wrong, ends = check.spool(self._spool, self.said)
        found.wrong += wrong
        local, bucket = self.folder / "lake", self.folder / "bucket"
        download(self._world.s3, bucket, f"{self.name}/")
        for name, where in (("local", local), ("s3", bucket)):
            one = check.whole_lake(name, where, self.said, ends, self.starts)
            found.wrong += one.wrong + check.alarms(name, where)
            found.lost += one.lost
            found.duplicated += one.duplicated
        found.wrong += self._heard(local, ends) + check.accounts_say_what_is_there(self._spool, local)
        return found

    def _heard(self, local: Path, ends: Mapping[str, int]) -> list[str]:
        """What is wrong with what the broker gave on; what it has taken may be on its way to the subscriber for a while."""
        deadline = time.monotonic() + SURE_S
        while True:
            got = [(kind, row) for kind in check.KINDS for row in self._world.rows(self.name, kind)]
            wrong = check.iot_core(got, local, ends)
            if not wrong or self._fault or time.monotonic() > deadline:
                self._tally.repeated += len(got) - len({(kind, row["row"]) for kind, row in got})
                return wrong
            time.sleep(0.2)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _lines(path: Path) -> list[dict[str, Any]]:
    """A log; the last line may be torn."""
    found = []
    for line in _bytes(path).splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            found.append({"event": line.decode(errors="replace")})
    return found


@asynccontextmanager
async def standing(folder: Path, name: str, around: World, tally: Tally, fault: str = "") -> AsyncIterator[Gateway]:
    """A gateway that may be killed, with its device, until the block ends."""
    gateway = Gateway(folder / name, name, around, tally, fault)
    await gateway.open()
    try:
        yield gateway
    finally:
        await gateway.close()
