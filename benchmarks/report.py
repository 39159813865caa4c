"""What every benchmark shares: figures with a baseline and a target, a printed table, `--json FILE`, `--quick`."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Figure:
    """One measured number. `baseline` names what it is held against, in words; `target` is in the same unit, or None."""

    name: str
    value: float
    unit: str
    better: Literal["lower", "higher"]
    target: float | None = None
    baseline: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None:
            return None
        return self.value <= self.target if self.better == "lower" else self.value >= self.target


def parser(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark takes."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    made.add_argument("--quick", action="store_true", help="under 60 s, less certain")
    made.add_argument("--data", type=Path, metavar="DIR", help="directory of recorded data sets")
    return made


def publish(figures: Sequence[Figure], options: argparse.Namespace) -> None:
    """Print the table and write the JSON file."""
    width = max(len(figure.name) for figure in figures)
    for figure in figures:
        sign = "<=" if figure.better == "lower" else ">="
        target = "" if figure.target is None else f"  target {sign} {figure.target:g}  {'met' if figure.met else 'MISSED'}"
        against = f"  against {figure.baseline}" if figure.baseline else ""
        print(f"{figure.name:<{width}}  {figure.value:>12.4g} {figure.unit:<14}{target}{against}")
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(
            json.dumps([asdict(figure) for figure in figures], ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
        )


def interleaved(contestants: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The median result of each contestant, all measured in turn so that a drifting machine hurts them alike.

    Each round begins with another one: what one leaves behind for the disk to do hurts all that follow it alike, too.
    """
    seen: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for turn in range(rounds):
        at = turn % len(names)
        for name in (*names[at:], *names[:at]):
            seen[name].append(contestants[name]())
    return {name: statistics.median(results) for name, results in seen.items()}
