"""The live table and the words of an alert, for a terminal. Reads a running pipeline, changes nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from schemas import quality as q
from schemas.tags import Tag
from schemas.units import display

if TYPE_CHECKING:
    from .latest import Latest
    from .pipeline import Pipeline

_SEVERITY_STYLE = {"critical": "bold red", "warning": "yellow", "info": "cyan"}


def number(value: float, unit: str) -> str:
    """A value with its unit as people write it: `96.2 °C`."""
    text = f"{value:.0f}" if abs(value) < 1e9 and value == int(value) else f"{value:.4g}"
    shown = display(unit)
    return text if unit == "1" else f"{text} {shown}"


def tag_table(tags: Sequence[Tag], latest: Latest, now_us: int, *, limit: int = 40) -> Table:
    """Tags with their newest value, quality and age; at most `limit` rows, the rest is counted in the caption."""
    table = Table(expand=True, pad_edge=False, box=None, header_style="bold")
    for name, align in (("tag", "left"), ("value", "right"), ("quality", "left"), ("age", "right"), ("lag", "right")):
        table.add_column(name, justify="right" if align == "right" else "left", no_wrap=True)
    for tag in tags[:limit]:
        quality = int(latest.quality[tag.id])
        value = float(latest.value[tag.id])
        bad = quality >= q.BAD
        text = latest.text.get(tag.id)
        if bad or (math.isnan(value) and text is None):
            shown = "-"
        elif text is not None:
            shown = text if math.isnan(value) else f"{text} ({value:g})"
        else:
            shown = number(value, tag.unit)
        seen = int(latest.time_us[tag.id])
        age = f"{max(0.0, (now_us - seen) / 1e6):.1f} s" if seen else "-"
        style = "red" if bad else "yellow" if quality >= q.UNCERTAIN else ""
        path = tag.path.split("/", 2)[-1]
        # As Text: a bracket in a name or in what a device sent is no markup.
        table.add_row(
            Text(path), Text(shown), Text(q.name(quality), style=style), age, f"{int(latest.lag_ms[tag.id])} ms" if seen else "-"
        )
    if len(tags) > limit:
        table.caption = f"and {len(tags) - limit} more tags"
    return table


def sink_table(pipeline: Pipeline) -> Table:
    """What each sink has, waits for and lost, by kind."""
    table = Table(expand=True, pad_edge=False, box=None, header_style="bold")
    for name in ("sink", "data", "delivered", "in spool", "filtered", "dropped", "state"):
        table.add_column(name, justify="left" if name in ("sink", "data", "state") else "right", no_wrap=True)
    for delivery in pipeline.deliveries:
        for kind in delivery.kinds:
            account = pipeline.spool.account(kind, delivery.name)
            if account.read == 0:
                continue
            lost = account.dropped + account.dead_lettered
            probed = ", circuit half-open" if delivery.circuit == "half_open" else ""
            state = Text(f"{delivery.state}{probed}", style="" if delivery.state == "up" else "red")
            if delivery.paused:
                state = Text("paused", style="yellow")
            table.add_row(
                delivery.name, kind, f"{account.delivered:,}", f"{account.spooled:,}", f"{account.filtered:,}",
                Text(f"{lost:,}", style="red" if lost else ""), state,
            )  # fmt: skip
    return table


def dashboard(pipeline: Pipeline, alerts: Sequence[str], *, title: str) -> RenderableType:
    """The whole live view: tags, sinks, the newest alerts."""
    now = pipeline.clock.now_us()
    behind = pipeline.runner.behind_rows if pipeline.runner else 0
    head = Text(title, style="bold")
    oldest = max((pipeline.oldest_age_s(delivery) for delivery in pipeline.deliveries), default=0.0)
    foot = Text(
        f"oldest undelivered row {oldest:.0f} s · {pipeline.latest.count:,} readings · {pipeline.spool.bytes_used() / 1e6:.1f} MB in the spool · models {behind:,} rows behind",
        style="dim",
    )
    parts: list[RenderableType] = [head, tag_table(pipeline.tags, pipeline.latest, now), Text(""), sink_table(pipeline), foot]
    if alerts:
        parts.append(Text("\nalerts", style="bold"))
        parts.extend(Text(line, style=_style(line)) for line in alerts[-8:])
    return Group(*parts)


def _style(line: str) -> str:
    return next((style for severity, style in _SEVERITY_STYLE.items() if severity in line.lower()), "")
