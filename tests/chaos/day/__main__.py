"""A day of a plant through outages and kills of the gateway, with its real sinks; then everything is compared. See docs/reliability.md.

`python -m tests.chaos.day --kills 100 --seed 7 --json day.json`; `--days 5` plays days with seeds that follow each other.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from pathlib import Path

import click

from tests.chaos import early
from tests.proof import Proof, command

from .run import Result, run

RELEASE, QUICK = (60, 24.0), (10, 3.0)
"""Kills, and hours of the plant."""


def main() -> int:
    """0 when all is well, and the control was found."""
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--kills", type=int, help="instead of 60, or 10 with --quick")
    own.add_argument("--hours", type=float, help="of the plant, instead of 24, or 3 with --quick")
    own.add_argument("--days", type=int, default=1, help="how often, with seeds that follow each other")
    own.add_argument("--keep", type=Path, help="folder for the files of every day")
    given, _ = own.parse_known_args()

    def days(seed: int, quick: bool) -> Proof:
        kills, hours = QUICK if quick else RELEASE
        kills, hours = kills if given.kills is None else given.kills, given.hours or hours
        results = [_one(seed + number, kills, hours, given.keep) for number in range(given.days)]
        return _proof(seed, hours, results)

    return command("a day", days, __doc__, own)


def _proof(seed: int, hours: float, results: list[Result]) -> Proof:
    """Of all days together, with the control."""
    rows, twice, troubles = Counter[str](), Counter[str](), Counter[str]()
    for result in results:
        rows.update(result.rows)
        twice.update(result.sent_twice)
        troubles.update(result.troubles)
    figures = {
        "kills": sum(result.kills for result in results), "faults": troubles.total(), "rows_acknowledged": rows.total(),
        "lost": sum(result.lost for result in results), "duplicated": sum(result.duplicated for result in results),
    }  # fmt: skip
    measured: dict[str, float | int | str] = {
        "hours_of_the_plant": hours * len(results), "starts": sum(result.starts for result in results),
        "looks_at_metrics": sum(result.looks for result in results), "objects": sum(result.objects for result in results),
        **{f"sent_twice_to_{name}": count for name, count in twice.items()},
        **{f"rows_of_{kind}": count for kind, count in rows.items()},
        **{f"trouble_{name.replace(' ', '_')}": count for name, count in sorted(troubles.items())},
        "verified": "; ".join(f"{name}: {told}" for name, told in results[-1].verified.items()),
    }  # fmt: skip
    wrong = [f"seed {result.seed}: {sentence}" for result in results for sentence in result.wrong[:20]]
    return Proof("a day", seed, figures, measured, {"a lake that acknowledges before it has written": _control()}, wrong)


def _control() -> str:
    """What is found of an hour of a gateway whose lakes say yes too early."""
    with tempfile.TemporaryDirectory(prefix="genba-day-") as folder:
        result = asyncio.run(run(Path(folder), seed=20260301, kills=2, hours=1.0, program=(early.__file__,)))
    return next((sentence for sentence in result.wrong if "rows are missing" in sentence), "")


def _one(seed: int, kills: int, hours: float, keep: Path | None) -> Result:
    click.echo(f"a day: seed {seed}, {kills} kills, {hours:g} hours of the plant")
    if keep is not None:
        folder = keep / f"seed-{seed}"
        folder.mkdir(parents=True)
        return asyncio.run(run(folder, seed=seed, kills=kills, hours=hours))
    with tempfile.TemporaryDirectory(prefix="genba-day-") as scratch:
        return asyncio.run(run(Path(scratch), seed=seed, kills=kills, hours=hours))


if __name__ == "__main__":
    sys.exit(main())
