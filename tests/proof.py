"""What a part of the proof says of itself, and how each is called: `python -m tests.<part> --quick --seed 7 --json part.json`."""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import click

FIGURES: Final = ("kills", "states", "simulated_days", "faults", "rows_acknowledged", "lost", "duplicated")
"""Columns of the table of `make prove`; a part gives those that it counts."""


@dataclass
class Proof:
    """The result of one part. `wrong` has a sentence for each thing that must not be; `lost` and `duplicated` must be zero."""

    part: str
    seed: int
    figures: dict[str, int] = field(default_factory=dict)
    measured: dict[str, float | int | str] = field(default_factory=dict)
    """Whatever else was counted or measured, with its unit in the name (`rss_slope_mb_per_h`)."""
    controls: dict[str, str] = field(default_factory=dict)
    """Broken on purpose -> what the part found. An empty text says that it found nothing, which is wrong."""
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def complaints(self) -> list[str]:
        """Everything that keeps this part from being a proof."""
        found = [f"the control {name!r} went unnoticed" for name, what in self.controls.items() if not what]
        found += [f"{self.figures[name]} rows {name}" for name in ("lost", "duplicated") if self.figures.get(name)]
        found += [f"{name!r} is no figure of the table" for name in self.figures if name not in FIGURES]
        return [*self.wrong, *found]


def command(
    part: str, run: Callable[[int, bool], Proof], description: str | None, own: argparse.ArgumentParser | None = None
) -> int:
    """The command line of a part; `run(seed, quick)`. 0 when it is a proof. `own` has the options that only this part has."""
    parser = argparse.ArgumentParser(description=description, parents=[] if own is None else [own])
    parser.add_argument("--quick", action="store_true", help="a minute or two instead of the release tier")
    parser.add_argument("--seed", type=int, help="by default another one each time; it is printed")
    parser.add_argument("--json", type=Path, help="write the result there")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    click.echo(f"{part}: seed {seed}")
    began = time.monotonic()
    proof = run(seed, given.quick)
    proof.seconds = round(time.monotonic() - began, 1)
    for name, figure in {**proof.figures, **proof.measured}.items():
        click.echo(f"  {name.replace('_', ' ')}: {figure:,}" if not isinstance(figure, str) else f"  {name}: {figure}")
    for name, what in proof.controls.items():
        click.echo(f"  control {name}: {what or 'UNNOTICED'}")
    for sentence in proof.complaints():
        click.echo(f"  WRONG: {sentence}", err=True)
    if given.json is not None:
        given.json.write_text(json.dumps(asdict(proof), indent=1, ensure_ascii=False) + "\n")
    click.echo(f"{part}: {'NOT proven' if proof.complaints() else 'proven'} in {proof.seconds:,} s")
    return 1 if proof.complaints() else 0
