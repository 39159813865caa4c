"""Every part of the proof, two at a time, and one table: `make prove`, or `python -m tests.prove --quick --seed 7`. See docs/reliability.md.

Each part is a process of its own (`python -m tests.chaos.power --seed 7 --json …`); what it prints is in build/prove. A part that
ends badly, hangs, says nothing, or has no control that was found is not proven, and then neither is the whole.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import click

from tests import prove_table
from tests.proof import Proof

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = ROOT / "docs" / "reliability.md"
LANES: Final = 2
_MARK: Final = "GENBA_PROVE"
"""In the environment of everything that a part starts, whatever session or group it makes for itself."""
_LET_GO_S: Final = 20.0
_YIELDS: Final = 5
"""Niceness of the parts that work: the one that waits, and judges what it sees in time, gets its share at once."""


@dataclass(frozen=True)
class Part:
    """One part. `minutes` is about what the release tier takes: the longest begin first. `idle`: it waits more than it works."""

    name: str
    module: str
    minutes: float
    idle: bool = False
    quick_s: float = 60.0

    def deadline_s(self, quick: bool) -> float:
        """After that it hangs: several times what it takes on two cores that others use too."""
        return 120 + 3 * self.quick_s if quick else 600 + 60 * self.minutes * (1.5 if self.idle else 3)

    def seed(self, master: int) -> int:
        """Its own, whatever other parts there are."""
        return random.Random(f"{master} {self.module}").randrange(10**6)


PARTS: Final = (
    Part("30 days", "tests.simulation.month", 50),
    Part("crash loop", "tests.chaos.crashloop", 30),
    Part("a day", "tests.chaos.day", 15),
    Part("power loss", "tests.chaos.power", 10),
    Part("n-th call", "tests.chaos.nth", 8),
    Part("sink faults", "tests.chaos.sinks", 5),
    Part("state machine", "tests.chaos.machine", 3),
    Part("damage", "tests.chaos.damage", 1),
    Part("soak", "tests.chaos.soak", 66, idle=True, quick_s=100),
)


@dataclass
class Outcome:
    """What became of one part. `wrong` is empty when it is proven."""

    part: str
    module: str
    seed: int
    seconds: float = 0.0  # 0.0 while it runs
    proof: Proof | None = None
    wrong: list[str] = field(default_factory=list)


class Proving:
    """One run of all of `parts`; `outcomes` in the order of the list."""

    def __init__(self, parts: Sequence[Part], *, master: int, quick: bool, folder: Path, lanes: int = LANES) -> None:
        """`folder` gets a log and a JSON file by part."""
        self._quick, self._folder = quick, folder
        self._lanes = asyncio.Semaphore(lanes)
        self._parts = parts
        self._running: list[str] = []
        self._began = time.monotonic()
        self.outcomes = [Outcome(part.name, part.module, part.seed(master)) for part in parts]

    async def run(self) -> None:
        """All of them. Whatever they started is ended when this is cancelled."""
        longest_first = sorted(zip(self._parts, self.outcomes, strict=True), key=lambda one: -one[0].minutes)
        async with asyncio.TaskGroup() as group:
            for part, outcome in longest_first:
                group.create_task(self._one(part, outcome))

    async def _one(self, part: Part, outcome: Outcome) -> None:
        if part.idle:
            await self._play(part, outcome)
        else:
            async with self._lanes:
                await self._play(part, outcome)

    async def _play(self, part: Part, outcome: Outcome) -> None:
        self._running.append(part.name)
        began = time.monotonic()
        log, told = (self._folder / f"{part.module}.{ending}" for ending in ("log", "json"))
        deadline_s = part.deadline_s(self._quick)
        command = [*(["--quick"] if self._quick else []), "--seed", str(outcome.seed), "--json", str(told)]
        mark = mark_of(part)
        with log.open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", part.module, *command, cwd=ROOT, stdin=asyncio.subprocess.DEVNULL, stdout=file, stderr=file,
                start_new_session=True, env={**os.environ, _MARK: mark, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
            if not part.idle:
                _yield(process.pid)
            try:
                status = await asyncio.wait_for(process.wait(), deadline_s)
                if status:
                    outcome.wrong.append(f"it ended with {status}")
            except TimeoutError:
                outcome.wrong.append(f"it hangs: no end within {deadline_s:,.0f} s")
            finally:
                await _end(process, mark)
        outcome.seconds = max(0.1, round(time.monotonic() - began, 1))
        _judge(outcome, told)
        self._running.remove(part.name)
        self._say(part, outcome, log)

    def _say(self, part: Part, outcome: Outcome, log: Path) -> None:
        done = sum(one.seconds > 0 for one in self.outcomes)
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        figures = {} if outcome.proof is None else outcome.proof.figures
        told = ", ".join(f"{figure:,} {name.replace('_', ' ')}" for name, figure in figures.items())
        verdict = "NOT proven" if outcome.wrong else "proven"
        beside = f"; beside it: {', '.join(self._running)}" if self._running else ""
        click.echo(
            f"[{done}/{len(self._parts)}] {minutes:3}:{seconds:02} {part.name}: {verdict} in {outcome.seconds:,.0f} s ({told}){beside}"
        )
        if outcome.wrong:
            for sentence in outcome.wrong[:10]:
                click.echo(f"        {sentence[:500]}")
            for line in log.read_text(errors="replace").splitlines()[-15:]:
                click.echo(f"        | {line[:300]}")
            tier = " --quick" if self._quick else ""
            click.echo(f"        again, alone: {shlex.quote(sys.executable)} -m {part.module}{tier} --seed {outcome.seed}")


def _judge(outcome: Outcome, told: Path) -> None:
    """By what the part wrote."""
    try:
        outcome.proof = Proof(**json.loads(told.read_text()))
    except (OSError, ValueError, TypeError) as error:
        outcome.wrong.append(f"it told no result: {error}")
        return
    outcome.wrong += outcome.proof.complaints()
    if not outcome.proof.controls:
        outcome.wrong.append("it has no control: a test that cannot fail proves nothing")


async def _end(process: asyncio.subprocess.Process, mark: str) -> None:
    """End the part and everything that it left: first as by Ctrl-C, so that it can tidy up, then for certain."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _LET_GO_S)
    deadline = time.monotonic() + _LET_GO_S
    while (left := marked(mark)) and time.monotonic() < deadline:
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0.05)
    await process.wait()


def _yield(pid: int) -> None:
    """Let a part and all that it will start come behind others. Linux may weigh sessions first, and processes only within one."""
    with suppress(OSError):  # it has ended already, or the system forbids it: then it is as before
        os.setpriority(os.PRIO_PROCESS, pid, max(_YIELDS, os.getpriority(os.PRIO_PROCESS, pid)))
    with suppress(OSError):  # the kernel has no groups of sessions
        Path(f"/proc/{pid}/autogroup").write_text(str(_YIELDS), encoding="ascii")


def mark_of(part: Part) -> str:
    """The mark of what this process starts for a part."""
    return f"{os.getpid()}-{part.module}"


def marked(mark: str) -> list[int]:
    """The processes with this mark in their environment; zombies have none any more."""
    wanted, found = f"{_MARK}={mark}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def machine() -> dict[str, str | int]:
    """What it ran on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": len(os.sched_getaffinity(0)), "memory_gib": round(memory / 2**30), "kernel": platform.release(),
        "architecture": platform.machine(), "python": platform.python_version(),
    }  # fmt: skip


def described(outcomes: Sequence[Outcome], *, master: int, quick: bool, began: datetime, seconds: float) -> prove_table.Result:
    """For JSON."""
    return {
        "format": 1,
        "genba": version("genba"),
        "commit": _git("rev-parse", "HEAD"),
        "changed": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "machine": machine(),
        "tier": "quick" if quick else "release",
        "seed": master,
        "began": began.isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "proven": not any(outcome.wrong for outcome in outcomes),
        "parts": [asdict(outcome) for outcome in outcomes],
    }


async def _run(proving: Proving) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await proving.run()


def main() -> int:
    """0 when all is proven, 1 when not, 2 for a wrong call, 130 when it was interrupted."""
    parser = argparse.ArgumentParser(prog="python -m tests.prove", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under 5 minutes instead of the release tier's hour")
    parser.add_argument("--seed", type=int, help="by default another one each time; a part's seed follows from it")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "prove" / "prove.json", help="default: %(default)s")
    parser.add_argument("--only", metavar="PART", action="append", help="only this part; may be given again")
    parser.add_argument("--lanes", type=int, default=LANES, help="parts side by side; the soak is one more")
    parser.add_argument("--docs", action="store_true", help="also put the table into docs/reliability.md, when all is proven")
    parser.add_argument("--check", action="store_true", help="run nothing: is the table in docs/reliability.md as it should be?")
    given = parser.parse_args()
    if given.check:
        wrong = prove_table.check(PAGE.read_text(encoding="utf-8"), [part.name for part in PARTS])
        for sentence in wrong:
            click.echo(f"docs/reliability.md: {sentence}", err=True)
        return 1 if wrong else 0
    parts = [part for part in PARTS if given.only is None or part.name in given.only]
    unknown = set(given.only or ()) - {part.name for part in PARTS}
    if unknown:
        parser.error(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(part.name for part in PARTS)}")
    if given.docs and len(parts) < len(PARTS):
        parser.error("the docs show all parts: --docs does not go with --only")
    master = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    folder = ROOT / "build" / "prove"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tier = "quick" if given.quick else "release"
    click.echo(f"{len(parts)} parts, {given.lanes} at a time, {tier} tier, seed {master}; logs in {folder.relative_to(ROOT)}")
    proving = Proving(parts, master=master, quick=given.quick, folder=folder, lanes=given.lanes)
    began, from_s = datetime.now(UTC), time.monotonic()
    try:
        asyncio.run(_run(proving))
    except (KeyboardInterrupt, asyncio.CancelledError):
        click.echo("interrupted; everything that was started is ended", err=True)
        return 130
    result = described(proving.outcomes, master=master, quick=given.quick, began=began, seconds=time.monotonic() - from_s)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    table = prove_table.table(result)
    click.echo(f"\n{table}\n")
    if given.docs and result["proven"]:
        PAGE.write_text(prove_table.inserted(PAGE.read_text(encoding="utf-8"), table), encoding="utf-8")
    click.echo(f"{'all is proven' if result['proven'] else 'NOT proven'} ({given.json})")
    return 0 if result["proven"] else 1


if __name__ == "__main__":
    sys.exit(main())
