"""Lives and deaths of gateways: each is started, killed at a moment drawn by the seed or at a named point, and looked at."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.chaos.day.run import credentials, download
from tests.e2e import plant as e2e
from tests.proof import Proof

from . import check, witness
from .births import Order
from .points import POINTS
from .world import Births, World, device, maker_of, world

_PATIENCE_S: Final = 8.0
"""So long a gateway may live on its way to a named point."""
_SURE_S: Final = 60.0
"""So long where it must come to pass, however slow the machine."""
_SPOKEN: Final = 5_000
"""Bytes that a witness writes of two hundred rows."""
_TRIES: Final = 3
"""Further lives for a point that none came to."""
_STOP_S: Final = 40.0
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
        self._simulator = device(await e2e.load(self.file))
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
    ) -> bool:
        """One life and its end by SIGKILL; whether it ended at the point. Without a point it ends at a `moment`, see `Plan`."""
        order = self._order(point, nth)
        self._tally.sent_to[point] += 1
        pid = await maker.born(order)
        ending = asyncio.ensure_future(maker.ended())
        spoken, length_s = moment
        if not point:
            said = Path(order.witness)
            await e2e.until(lambda: ending.done() or _size(said) >= spoken, "rows are acknowledged", _SURE_S)
        done, _ = await asyncio.wait({ending}, timeout=patience_s if point else length_s)
        if not done:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        status = await ending
        self._tally.kills += 1
        return await asyncio.to_thread(self._look, order, status)

    def _look(self, order: Order, status: int) -> bool:
        """At what a gateway that has just been killed left behind; whether it died at its point."""
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
        return bool(said.died_at)

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
        for _ in range(3):
            order = self._order()
            pid = await maker.born(order)
            ending = asyncio.ensure_future(maker.ended())
            await e2e.until(
                lambda log=Path(order.log): ending.done() or b"gateway is ready" in _bytes(log),
                "the gateway is ready",
                _STOP_S,  # type: ignore[misc]
            )
            await asyncio.sleep(0.3)
            os.kill(pid, signal.SIGTERM)
            status = await asyncio.wait_for(ending, _STOP_S)
            self.said.add(await asyncio.to_thread(witness.read, Path(order.witness)))
            lines = _lines(Path(order.log))
            self._complain_of(lines)
            if status:
                self.wrong.append(f"{self.name}: a stop in good order ended with {status}: {lines[-3:]}")
            left = check.delivered(self._spool)
            if not left:
                return
        self.wrong += left

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
        got = [(kind, row) for kind in check.KINDS for row in self._world.rows(self.name, kind)]
        self._tally.repeated += len(got) - len({(kind, row["row"]) for kind, row in got})
        found.wrong += check.iot_core(got, local, ends) + check.accounts_say_what_is_there(self._spool, local)
        return found


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
async def _gateway(folder: Path, name: str, around: World, tally: Tally, fault: str = "") -> AsyncIterator[Gateway]:
    gateway = Gateway(folder / name, name, around, tally, fault)
    await gateway.open()
    try:
        yield gateway
    finally:
        await gateway.close()


async def _play(seed: int, kills: int, gateways: int, longest_nth: int, control_kills: int) -> Proof:
    tally = Tally()
    proof = Proof("crash loop", seed, dict.fromkeys(("kills", "rows_acknowledged", "lost", "duplicated"), 0))
    with tempfile.TemporaryDirectory(prefix="genba-crashes-") as name, credentials():
        folder = Path(name)
        async with world(folder) as around, _gateway(folder, "warm", around, Tally()) as warm:
            numbers = iter(range(gateways))

            async def lane(maker: Births) -> None:
                for number in numbers:
                    share = kills // gateways + (number < kills % gateways)
                    plan = Plan(random.Random(f"{seed} {number}"), tally, longest_nth=longest_nth)
                    async with _gateway(folder, f"gw-{number}", around, tally) as gateway:
                        await _killed(gateway, maker, plan, share, last=number == gateways - 1)
                        _into(proof, await gateway.check(), gateway)

            async with maker_of(warm.file, folder / "births") as one, maker_of(warm.file, folder / "births too") as other:
                async with asyncio.TaskGroup() as group:
                    group.create_task(lane(one))
                    group.create_task(lane(other))
                _told(proof, tally)
                async with asyncio.TaskGroup() as group:
                    for maker, fault, how in ((one, *CONTROLS[0]), (other, *CONTROLS[1])):
                        group.create_task(_control(proof, folder, around, maker, seed, control_kills, fault, how))
    return proof


async def _killed(gateway: Gateway, maker: Births, plan: Plan, kills: int, *, last: bool) -> None:
    """All lives of one gateway, the last one to a stop in good order. The last gateway goes to the points that nobody has come to."""
    for number in range(kills):
        point, nth = plan.next(kills - number)
        await gateway.life(maker, point, nth, moment=plan.moment())
    for _ in range(_TRIES):
        for point in plan.missing() if last else ():
            await gateway.life(maker, point, patience_s=_SURE_S)
    await gateway.drain(maker)


def _into(proof: Proof, found: check.Findings, gateway: Gateway) -> None:
    proof.wrong += found.wrong
    proof.figures["rows_acknowledged"] += sum(len(gateway.said.of(kind)) for kind in check.KINDS)
    proof.figures["lost"] += found.lost
    proof.figures["duplicated"] += found.duplicated


def _told(proof: Proof, tally: Tally) -> None:
    at_points = sum(tally.at.values())
    proof.figures["kills"] = tally.kills
    proof.measured |= {
        "starts": tally.starts, "kills_at_random_moments": tally.kills - at_points, "kills_at_named_points": at_points,
        "kills_before_ready": tally.before_ready, "rows_sent_to_iot_core_again": tally.repeated,
    }  # fmt: skip
    for name in POINTS:
        proof.measured[f"kills, {name}"] = tally.at[name]
        if not tally.at[name]:
            proof.wrong.append(f"no gateway was killed at the point {name!r}; {tally.sent_to[name]} were sent to it")


CONTROLS: Final = (
    ("a spool that acknowledges before it has written", ""),
    ("lakes whose file names do not come from the rows", "object uploaded, cursor behind"),
)
"""Faults of `faults`, and at which point gateways with them are killed; an empty one: at random moments."""


async def _control(
    proof: Proof, folder: Path, around: World, maker: Births, seed: int, kills: int, fault: str, point: str
) -> None:
    """A gateway that is broken on purpose, killed a few times: rows must be lost, or be there twice."""
    rng = random.Random(f"{seed} {fault}")
    async with _gateway(folder, f"bad-{'early' if not point else 'names'}", around, Tally(), fault) as gateway:
        for _ in range(kills):
            await gateway.life(maker, point, 2, moment=(_SPOKEN, rng.uniform(0.0, 0.5)), patience_s=_SURE_S)
        await gateway.drain(maker)
        found = await gateway.check()
    rows, what = (found.duplicated, "are there twice") if point else (found.lost, "are lost")
    proof.controls[fault] = f"{rows} rows {what}" if rows else ""


def play(seed: int, *, kills: int, gateways: int, longest_nth: int, control_kills: int) -> Proof:
    """`kills` kills over some gateways, and the controls."""
    began = time.monotonic()
    proof = asyncio.run(_play(seed, kills, gateways, longest_nth, control_kills))
    proof.measured["kills_per_s"] = round(kills / (time.monotonic() - began), 2)
    return proof


def run(seed: int, quick: bool) -> Proof:
    """The release tier, or the quick one."""
    if quick:
        return play(seed, kills=60, gateways=2, longest_nth=2, control_kills=3)
    return play(seed, kills=1_000, gateways=8, longest_nth=8, control_kills=6)
