"""What a run over a lake scores: the request, the tags as the lake describes them, the logs and how far, and the record of it all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cloud_sinks import lake as reading
from cloud_sinks.jobs import Lake, Wanted
from edge_models.gate import parse
from edge_models.replay import Replay, needed, scope_of, without_limits
from edge_models.runtime import watched
from gateway import catalogue
from gateway.suggest import listed
from schemas.errors import ConfigError
from schemas.lake import LakeFile, tags_path
from schemas.replay import Log
from schemas.tags import Limits, Tag

if TYPE_CHECKING:
    from cloud_sinks.parquet.store import Store
    from edge_models.base import ModelConfig, Scope

RECORD: Final = "score.json"
"""Says, in the location of the results, what they are the results of."""


@dataclass(frozen=True)
class Request:
    """What is to be scored. Times are aware; `start` is where the model begins to see anything."""

    lake: Lake
    config: ModelConfig
    sites: Sequence[str] = ()
    start: datetime | None = None
    end: datetime | None = None


@dataclass(frozen=True)
class Plan:
    """A request over what the lake holds: `replay` knows the tags, `until` the last row of each log that is scored."""

    request: Request
    replay: Replay
    scope: Scope
    logs: Sequence[Log]
    until: Mapping[Log, int]
    files: Sequence[LakeFile]

    def needed(self) -> list[Tag]:
        """The tags whose rows the model must see."""
        return needed(self.request.config, self.scope, self.replay.tags)

    @property
    def waveforms(self) -> bool:
        """Whether the model watches a tag that bears waveforms."""
        return any(tag.value_type == "samples" for tag in watched(self.request.config, self.replay.tags))

    def wanted(self, groups: Sequence[int]) -> Wanted:
        """What executors read, when tag i is of group `groups[i]`."""
        request = self.request
        return Wanted(
            request.lake,
            [tag.path for tag in self.replay.tags],
            groups,
            {log: (number, self.until[log]) for number, log in enumerate(self.logs)},
            _us(request.start),
            _us(request.end),
            request.config.active_when is not None,
        )


def tags_of(lake: Lake, sites: Sequence[str] = ()) -> list[Tag]:
    """The tags of a lake as they were last described, by path; `id` is the position. What is not in the dictionary is left out."""
    frame = reading.tags(lake.location, sites=list(sites) or None, **lake.access)
    newest = frame.sort("tag", "valid_from", nulls_last=False).group_by("tag", maintain_order=True).last()
    found: list[Tag] = []
    for row in newest.iter_rows(named=True):
        levels = {name: row[name] for name in ("low_low", "low", "high", "high_high")}
        found.append(
            Tag(
                path=row["tag"],
                asset=row["asset"] or "",
                name=row["name"] or "",
                adapter=row["adapter"] or "",
                device=row["device"] or "",
                address=row["address"] or "",
                value_type=row["value_type"] or "number",
                unit=row["unit"] or "1",
                label=row["label"] or "",
                description=row["description"] or "",
                period_us=round((row["period"] or 1.0) * 1e6),
                limits=Limits(**levels) if any(one is not None for one in levels.values()) else None,
                id=len(found),
            )
        )
    return found


def plan_of(request: Request) -> Plan:
    """What there is to do. Raises ConfigError where the lake does not hold what was asked for."""
    config, lake = request.config, request.lake
    tags = tags_of(lake, request.sites)
    files = lake.files("telemetry", request.sites or None, request.start, request.end)
    if not files:
        raise ConfigError(f"{lake.location} holds no telemetry of that time", hint="look at `genba lake tags`")
    described = set(lake.described())
    for file in files:
        if (file.site, file.span.gateway) not in described:
            raise ConfigError(
                f"{lake.location} has no data dictionary of {file.span.gateway} ({tags_path(file.site, file.span.gateway)})",
                hint="the gateway writes it; it must be copied along with the data",
            )
    if config.kind != "limits":
        tags = without_limits(tags)
    plugin = catalogue.plugin("models", config.kind)
    if not watched(config, tags):
        raise ConfigError(
            f"no tag of the lake fits {' '.join(config.tags)}", hint=f"it has {listed([tag.path for tag in tags], 8)}"
        )
    if config.active_when is not None:
        tags = _with_enums(tags, config, lake)
    until: dict[Log, int] = {}
    for file in files:
        log = Log(file.site, file.span.gateway, file.span.epoch)
        until[log] = max(until.get(log, -1), file.span.last)
    replay = Replay(config.kind, config, plugin, tags, [0] * len(tags))
    replay.check()
    return Plan(request, replay, scope_of(config, plugin, config.kind), sorted(until), until, files)


def _with_enums(tags: Sequence[Tag], config: ModelConfig, lake: Lake) -> list[Tag]:
    """A condition may name the value of an enum; the lake holds number and name side by side in the rows."""
    import polars as pl

    condition = parse(config.active_when or "")
    named = {one.tag for one in condition.comparisons if isinstance(one.literal, str)}
    paths = [tag.path for tag in tags if tag.name in named and tag.value_type != "text"]
    if not paths:
        return list(tags)
    pairs = (
        reading.scan(lake.location, **lake.access)
        .filter(pl.col("tag").is_in(paths) & pl.col("text").is_not_null() & pl.col("value").is_not_null())
        .select("tag", "value", "text")
        .unique()
        .collect()
    )
    enums: dict[str, dict[int, str]] = {}
    for path, value, text in pairs.sort("tag", "value", "text").iter_rows():
        enums.setdefault(path, {})[int(value)] = text
    return [replace(tag, enum=enums[tag.path]) if tag.path in enums else tag for tag in tags]


def recorded(plan: Plan, result: Lake) -> Plan:
    """Write down what is scored, up to which row of each gateway; or take it over from the run that is repeated."""
    request = plan.request
    mine: dict[str, Any] = {
        "model": plan.replay.name,
        "parameters": json.loads(request.config.model_dump_json()),
        "lake": request.lake.location,
        "sites": sorted(request.sites),
        "start": request.start.isoformat() if request.start else None,
        "end": request.end.isoformat() if request.end else None,
    }
    until: list[tuple[str, str, int, int]] = [(*astuple(log), last) for log, last in sorted(plan.until.items())]
    with result.store() as store:
        scratch = store.scratch(RECORD)
        scratch.write_text(json.dumps({**mine, "until": until}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        if not store.publish(scratch, RECORD):
            with store.reader(RECORD) as file:
                there = json.loads(file.read())
            until = there.pop("until")
            other = [key for key in mine if mine[key] != there.get(key)]
            if other:
                raise ConfigError(
                    f"{result.location} holds the scores of another run: {other[0]} was {there.get(other[0])!r}",
                    hint="name another --output",
                )
        for site, gateway in sorted({(log.site, log.gateway) for log in plan.logs}):
            _copy_dictionary(request.lake, store, tags_path(site, gateway))
    covered = {Log(site, gateway, epoch): last for site, gateway, epoch, last in until}
    files = [
        file for file in plan.files if file.span.first <= covered.get(Log(file.site, file.span.gateway, file.span.epoch), -1)
    ]
    return replace(plan, until=covered, logs=sorted(covered), files=files)


def _copy_dictionary(lake: Lake, store: Store, path: str) -> None:
    """The data dictionary lies beside the results too, so that they are a lake of their own."""
    scratch = store.scratch("tags")
    try:
        with lake.opened(path) as source:
            scratch.write_bytes(Path(source).read_bytes() if isinstance(source, str) else source.read())
    except FileNotFoundError:
        return
    store.replace(scratch, path)


def _us(moment: datetime | None) -> int | None:
    return None if moment is None else (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
