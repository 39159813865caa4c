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
    """One measured number. `baseline` names what it is held against, in words; `target` is in the same unit, or None.

    `spread` is the standard deviation of `value` over repetitions, where there are any.
    """

    name: str
    value: float
    unit: str
    better: Literal["lower", "higher"]
    target: float | None = None
    baseline: str = ""
    spread: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None:
            return None
        return self.value <= self.target if self.better == "lower" else self.value >= self.target


@dataclass(frozen=True)
class Table:
    """Figures that share a protocol, under a name."""

    name: str
    protocol: str
    figures: Sequence[Figure]


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
    _write_json([asdict(figure) for figure in figures], options)


def publish_tables(tables: Sequence[Table], options: argparse.Namespace) -> None:
    """Write the JSON file: a list of tables with their figures and protocols."""
    _write_json([asdict(table) for table in tables], options)


def _write_json(told: object, options: argparse.Namespace) -> None:
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(told, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def markdown(table: Table) -> str:
    """A table as Markdown: heading, protocol, one row a figure."""
    lines = [f"### {table.name}", "", table.protocol, "", "| what | measured | target | |", "|---|--:|--:|---|"]
    for figure in table.figures:
        spread = "" if figure.spread is None else f" ± {figure.spread:.2g}"
        unit = f" {figure.unit}" if figure.unit else ""
        sign = "≤" if figure.better == "lower" else "≥"
        target = "" if figure.target is None else f"{sign} {figure.target:g}"
        verdict = "" if figure.target is None else "met" if figure.met else "missed"
        remark = "; ".join(part for part in (verdict, f"against {figure.baseline}" if figure.baseline else "") if part)
        lines.append(f"| {figure.name} | {_short(figure.value)}{spread}{unit} | {target} | {remark} |")
    return "\n".join(lines) + "\n"


def _short(value: float) -> str:
    """Four significant digits, never in exponents where a person would not write them."""
    return f"{value:.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.4g}"


def into_page(tables: Sequence[Table], page: Path) -> None:
    """Write each table between its markers `<!-- benchmark NAME -->` and `<!-- end NAME -->`. Raises ValueError without them."""
    text = page.read_text(encoding="utf-8")
    for table in tables:
        begin, end = f"<!-- benchmark {table.name} -->\n", f"<!-- end {table.name} -->\n"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"{page} has no place for the table: add the lines {begin.strip()} and {end.strip()}")
        text = before + begin + markdown(table) + end + after
    page.write_text(text, encoding="utf-8")


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
