"""`genba plan plant.yaml`: the requests that go to the devices and the time they take on a serial line, without opening anything."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from schemas.plugin import PlannedRequest


@click.command("plan")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--explain", is_flag=True, help="Show each request: what is on the wire, its tags, what is read in vain, its time.")
@click.option("--json", "as_json", is_flag=True, help="Print the requests as JSON.")
def command(file: Path, explain: bool, as_json: bool) -> None:
    """Show how FILE is read: requests, tags and time on the line of one poll, by adapter and scan class. Opens no connection."""
    import json

    from gateway import catalogue, config

    configuration = config.load(file, strict_env=False)
    planned: dict[str, Sequence[PlannedRequest] | None] = {}
    for name, entry in configuration.plant.adapters.items():
        hook = catalogue.plugin("adapters", entry.kind).plan
        planned[name] = None if hook is None else hook(entry, configuration.bound[name])
    if as_json:
        told = {name: None if requests is None else _as_json(requests) for name, requests in planned.items()}
        click.echo(json.dumps(told, ensure_ascii=False, indent=1))
        return
    for name, requests in planned.items():
        entry = configuration.plant.adapters[name]
        click.echo(f"{name}: {entry.kind} {entry.endpoint}")
        if requests is None:
            click.echo(f"  the adapter {entry.kind} does not plan requests ahead")
            continue
        load = 0.0
        for period_us, those in _by_class(requests).items():
            click.echo("  " + _class_line(period_us, those))
            load += sum(request.time_s or 0 for request in those) / (period_us / 1e6)
            if explain:
                for request in those:
                    click.echo("    " + _request_line(request))
        if any(request.time_s is not None for request in requests):
            click.echo(f"  the line is taken {load:.0%} of the time")


def _by_class(requests: Sequence[PlannedRequest]) -> Mapping[int, list[PlannedRequest]]:
    found: dict[int, list[PlannedRequest]] = defaultdict(list)
    for request in requests:
        found[request.period_us].append(request)
    return found


def _class_line(period_us: int, requests: Sequence[PlannedRequest]) -> str:
    from gateway.config.summary import counted
    from schemas.values import Duration

    tags, wasted = sum(request.tags for request in requests), sum(request.wasted for request in requests)
    text = f"every {Duration(period_us)}: {counted(tags, 'tag')} in {counted(len(requests), 'request')}, {wasted} read in vain"
    times = [request.time_s for request in requests if request.time_s is not None]
    return f"{text}, {_ms(sum(times))} on the line" if times else text


def _request_line(request: PlannedRequest) -> str:
    from gateway.config.summary import counted

    wire = " ".join(f"{name} {value}" for name, value in request.fields.items())
    time = "" if request.time_s is None else f", {_ms(request.time_s)}"
    return f"{wire}: {counted(request.tags, 'tag')}, {request.wasted} in vain{time}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"


def _as_json(requests: Sequence[PlannedRequest]) -> list[dict[str, object]]:
    return [
        {
            "scan_us": request.period_us,
            "request": dict(request.fields),
            "tags": request.tags,
            "wasted": request.wasted,
            "time_s": request.time_s,
        }
        for request in requests
    ]
