"""`python -m tests.chaos.day --kills 100 --seed 7`: the long run, with a table at its end, and JSON where asked for."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
from pathlib import Path

import click

from .run import Result, described, run


def main() -> int:
    """0 when all is well."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.day", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, help="by default another one each time")
    parser.add_argument("--hours", type=float, default=24.0, help="of the plant")
    parser.add_argument("--days", type=int, default=1, help="how often, with seeds that follow each other")
    parser.add_argument("--json", type=Path, help="write the results there")
    parser.add_argument("--keep", type=Path, help="folder for the files of a day that failed")
    given = parser.parse_args()
    first = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    results = [_one(first + number, given) for number in range(given.days)]
    if given.json is not None:
        given.json.write_text(json.dumps([described(result) for result in results], indent=1, ensure_ascii=False) + "\n")
    return 1 if any(result.wrong for result in results) else 0


def _one(seed: int, given: argparse.Namespace) -> Result:
    click.echo(f"seed {seed}, {given.kills} kills")
    with tempfile.TemporaryDirectory(prefix="genba-day-") if given.keep is None else _kept(given.keep, seed) as folder:
        result = asyncio.run(run(Path(folder), seed=seed, kills=given.kills, hours=given.hours))
    for name in ("rows", "troubles", "sent_twice", "verified"):
        click.echo(f"  {name.replace('_', ' ')}: " + ", ".join(f"{key} {value}" for key, value in getattr(result, name).items()))
    click.echo(
        f"  {result.starts} starts, {result.looks} looks at /metrics, {result.objects} objects in the bucket, {result.seconds} s"
    )
    for sentence in result.wrong[:20]:
        click.echo(f"  WRONG: {sentence}")
    click.echo("  all is well" if not result.wrong else f"  {len(result.wrong)} complaints")
    return result


class _kept:
    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder / f"seed-{seed}"

    def __enter__(self) -> str:
        self._folder.mkdir(parents=True)
        return str(self._folder)

    def __exit__(self, *_: object) -> None:
        """Stays."""


if __name__ == "__main__":
    sys.exit(main())
