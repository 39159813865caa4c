"""A configuration in a few lines for people, in a few keys for programs, and diagnostics as one text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final, TypedDict

from gateway import autonomy
from gateway.destinations import destinations
from schemas.units import display
from schemas.values import Duration

from .diagnose import Diagnostic
from .loading import Configuration

MOST_SHOWN: Final = 50
"""Diagnostics that are printed; the rest is counted."""


class TagSummary(TypedDict):
    """One tag of the JSON summary."""

    path: str
    adapter: str
    address: str
    type: str
    unit: str
    period_us: int


class SpoolSummary(TypedDict):
    """The budget of the spool, and how long it takes everything in while no sink can be reached; null where nothing is read."""

    max_size: int
    hours: float | None


class Summary(TypedDict, total=False):
    """What `genba check --format json` says of a configuration that is fine. The names are a contract."""

    plant: str
    gateway: str
    time_zone: str
    adapters: dict[str, dict[str, str | int]]
    models: dict[str, dict[str, str | int]]
    sinks: dict[str, str]
    routes: dict[str, list[str]]
    spool: SpoolSummary
    tags: int
    tag_list: list[TagSummary]


def counted(number: int, word: str) -> str:
    """`1 tag`, `1,200 tags`."""
    return f"{number:,} {word}" + ("" if number == 1 else "s")


def findings(diagnostics: Sequence[Diagnostic]) -> str:
    """Diagnostics as text, errors before warnings where there are too many to show all."""
    if len(diagnostics) <= MOST_SHOWN:
        return "\n".join(diagnostic.render() for diagnostic in diagnostics)
    shown = sorted(diagnostics, key=lambda diagnostic: diagnostic.level)[:MOST_SHOWN]
    left = Counter(diagnostic.code for diagnostic in diagnostics) - Counter(diagnostic.code for diagnostic in shown)
    more = ", ".join(f"{number:,} × {code}" for code, number in left.most_common())
    return "\n".join(diagnostic.render() for diagnostic in shown) + f"\n… and {sum(left.values()):,} more: {more}"


def summary(configuration: Configuration, *, with_tags: bool = False) -> Summary:
    """The parts of a plant by name, with their kinds and numbers of tags."""
    plant, hours = configuration.plant, _autonomy(configuration)
    made = Summary(
        plant=f"{plant.enterprise}/{plant.site}",
        gateway=plant.gateway,
        time_zone=plant.time_zone,
        adapters={
            name: {
                "kind": config.kind,
                "devices": len(getattr(config, "devices", None) or [0]),
                "tags": len(configuration.bound[name]),
            }
            for name, config in plant.adapters.items()
        },
        models={name: {"kind": config.kind, "patterns": len(config.tags)} for name, config in plant.models.items()},
        sinks={name: config.kind for name, config in plant.sinks.items()},
        routes={kind: list(names) for kind, names in _routes(configuration).items()},
        spool=SpoolSummary(max_size=int(plant.spool.max_size), hours=None if hours is None else round(hours, 1)),
        tags=len(configuration.tags),
    )
    if with_tags:
        made["tag_list"] = [
            TagSummary(path=t.path, adapter=t.adapter, address=t.address, type=t.value_type, unit=t.unit, period_us=t.period_us)
            for t in configuration.tags
        ]
    return made


def overview(configuration: Configuration) -> str:
    """The same for people."""
    plant = configuration.plant
    adapters = []
    for name, config in plant.adapters.items():
        devices = getattr(config, "devices", None) or ()
        parts = [
            config.kind,
            *([counted(len(devices), "device")] if devices else []),
            counted(len(configuration.bound[name]), "tag"),
        ]
        adapters.append(f"{name} ({', '.join(parts)})")
    models = []
    for name, model in plant.models.items():
        unsigned = ["unsigned file"] if isinstance(getattr(model, "file", None), str) else []
        models.append(f"{name} ({', '.join([model.kind, *unsigned, counted(_watched(configuration, name), 'tag')])})")
    limited = sum(tag.limits is not None for tag in configuration.tags)
    if limited:
        models.append(f"limits of {counted(limited, 'tag')}")
    lines = [
        ("plant", [f"{plant.enterprise}/{plant.site}, gateway {plant.gateway}, {plant.time_zone}"]),
        ("adapters", adapters),
        ("models", models),
        ("sinks", [f"{name} ({config.kind})" for name, config in plant.sinks.items()]),
        ("routes", [f"{kind} → {', '.join(names) or 'nowhere'}" for kind, names in _routes(configuration).items()]),
        ("spool", [_spool_in_words(configuration)]),
    ]
    return "\n".join(f"  {title:<9} {('; ' if title == 'routes' else ', ').join(texts) or 'none'}" for title, texts in lines)


def tag_table(configuration: Configuration) -> str:
    """Every tag on a line: path, address, type, unit, scan class."""
    rows = [
        (tag.path, tag.adapter, tag.address, tag.value_type, display(tag.unit), str(Duration(tag.period_us)))
        for tag in configuration.tags
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)] if rows else []
    return "\n".join(
        "  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _routes(configuration: Configuration) -> dict[str, tuple[str, ...]]:
    plant = configuration.plant
    ends = destinations(plant.routes, {name: config.kind for name, config in plant.sinks.items()})
    return {kind: names for kind, names in ends.items() if plant.sinks}


def _autonomy(configuration: Configuration) -> float | None:
    spool = configuration.plant.spool
    return autonomy.hours(
        configuration.tags,
        max_bytes=int(spool.max_size),
        segment_bytes=int(spool.segment_size),
        commit_every_us=spool.commit_every.us,
    )


def _spool_in_words(configuration: Configuration) -> str:
    spool, hours = configuration.plant.spool, _autonomy(configuration)
    if hours is None:
        return str(spool.max_size)
    then = {"downsample": "then the oldest telemetry becomes windows", "drop_oldest": "then the oldest telemetry goes"}
    more = then.get(spool.when_full["telemetry"], "then reading waits")
    return f"{spool.max_size} hold at least {autonomy.in_words(hours)} of readings while no sink can be reached; {more}"


def _watched(configuration: Configuration, model: str) -> int:
    from schemas.asset import matches_any

    patterns = configuration.plant.models[model].tags
    return sum(matches_any(tag.path, patterns) for tag in configuration.tags)
