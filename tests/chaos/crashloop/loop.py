"""The crash loop: gateways side by side until so many were killed and nobody is missing at any point, then the controls."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.chaos.day.run import credentials
from tests.proof import Proof

from . import check
from .lives import SURE_S, Gateway, Plan, Tally, standing
from .points import POINTS
from .world import Births, World, maker_of, world

_TRIES: Final = 3
"""Further lives for a point that none came to."""
_SPOKEN: Final = 5_000
"""Bytes that a witness writes of two hundred rows."""
CONTROLS: Final = (
    ("a spool that acknowledges before it has written", ""),
    ("lakes whose file names do not come from the rows", "object uploaded, cursor behind"),
)
"""Faults of `faults`, and at which point gateways with them are killed; an empty one: at random moments."""


async def _play(seed: int, kills: int, gateways: int, longest_nth: int, control_kills: int) -> Proof:
    tally = Tally()
    proof = Proof("crash loop", seed, dict.fromkeys(("kills", "rows_acknowledged", "lost", "duplicated"), 0))
    folder = Path(tempfile.mkdtemp(prefix="genba-crashes-"))
    with credentials():
        async with world(folder) as around, standing(folder, "warm", around, Tally()) as warm:
            numbers = iter(range(gateways))

            async def lane(maker: Births) -> None:
                for number in numbers:
                    share = kills // gateways + (number < kills % gateways)
                    plan = Plan(random.Random(f"{seed} {number}"), tally, longest_nth=longest_nth)
                    async with standing(folder, f"gw-{number}", around, tally) as gateway:
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
    if proof.wrong:
        proof.wrong.append(f"logs, spools, lakes and what was witnessed are left in {folder}")
    else:
        await asyncio.to_thread(shutil.rmtree, folder)
    return proof


async def _killed(gateway: Gateway, maker: Births, plan: Plan, kills: int, *, last: bool) -> None:
    """All lives of one gateway, the last one to a stop in good order. The last gateway goes to the points that nobody has come to."""
    for number in range(kills):
        point, nth = plan.next(kills - number)
        await gateway.life(maker, point, nth, moment=plan.moment())
    for _ in range(_TRIES):
        for point in plan.missing() if last else ():
            await gateway.life(maker, point, patience_s=SURE_S)
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


async def _control(
    proof: Proof, folder: Path, around: World, maker: Births, seed: int, kills: int, fault: str, point: str
) -> None:
    """A gateway that is broken on purpose, killed a few times: rows must be lost, or be there twice."""
    rng = random.Random(f"{seed} {fault}")
    async with standing(folder, f"bad-{'early' if not point else 'names'}", around, Tally(), fault) as gateway:
        for _ in range(kills):
            await gateway.life(maker, point, 2, moment=(_SPOKEN, rng.uniform(0.0, 0.5)), patience_s=SURE_S)
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
