"""Scores rows of a lake in bulk: the model set of the gateway, fresh for every log and group of tags, fed in `seq` order.

Which rows a score can depend on decides how the work may be cut: a model that looks at each tag by itself runs on any group of
tags, one with `active_when` on whole assets, and one that says nothing about itself on all rows of its gateway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa

from schemas.kinds import TIME, make_batch
from schemas.plugin import Plugin
from schemas.replay import SCORES, SLICE
from schemas.tags import Tag

from .base import EdgeModel, ModelConfig, ModelContext, Scope
from .gate import parse
from .runtime import ModelSet, Outputs, watched

_WIDER: Final[Sequence[Scope]] = ("tag", "asset", "gateway")


@dataclass(frozen=True)
class Replay:
    """One model over the tags of a lake: `tags[i].id == i`, `groups[i]` is the group of tag i, -1 where its rows are not needed."""

    name: str
    config: ModelConfig
    plugin: Plugin[Any, EdgeModel]
    tags: Sequence[Tag]
    groups: Sequence[int]

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """READINGS or WAVEFORMS, sorted by (log, group, seq), cut anyhow -> SCORES. Memory is that of one group's model and one batch."""
        for log, out in self.outputs(batches):
            for scores in out.scores:
                yield _plain(scores, log)

    def outputs(self, batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, Outputs]]:
        """The same rows -> number of the log, and scores and alerts of a piece of it, as they come."""
        models: ModelSet | None = None
        current: tuple[int, int] | None = None
        for batch in batches:
            if batch.num_rows == 0:
                continue
            log, group = batch.column(0).to_numpy(), batch.column(1).to_numpy()
            starts = np.flatnonzero(np.r_[True, (log[1:] != log[:-1]) | (group[1:] != group[:-1])])
            for first, last in zip(starts.tolist(), [*starts[1:].tolist(), len(log)], strict=True):
                key = int(log[first]), int(group[first])
                if models is None or key != current:
                    models, current = self._models(key[1]), key
                yield key[0], models.update(_telemetry(batch.slice(first, last - first)), 0)

    def check(self) -> None:
        """Build the model once over all tags. Raises ConfigError for a condition that cannot be followed."""
        ModelSet.build({self.name: self.config}, self.tags, lambda _: self.plugin)

    def _models(self, group: int) -> ModelSet:
        tags = [tag for tag, number in zip(self.tags, self.groups, strict=True) if number == group]
        return ModelSet.build({self.name: self.config}, tags, lambda _: self.plugin, whole=False)


def scope_of(config: ModelConfig, plugin: Plugin[Any, EdgeModel], name: str) -> Scope:
    """How far the scores of this model look: the widest of what the model says of itself and what its condition needs."""
    told: Scope = getattr(plugin.build(config, ModelContext(name, ())), "scope", "gateway")
    return told if config.active_when is None else max(told, "asset", key=_WIDER.index)


def needed(config: ModelConfig, scope: Scope, tags: Sequence[Tag]) -> list[Tag]:
    """The tags whose rows the model must see to give the scores of the tags that it watches."""
    mine = watched(config, tags)
    if scope == "gateway":
        return list(tags) if mine else []
    if config.active_when is None:
        return mine
    names = set(parse(config.active_when).names)
    ids, assets = {tag.id for tag in mine}, {tag.asset for tag in mine}
    return [tag for tag in tags if tag.id in ids or (tag.asset in assets and tag.name in names)]


def grouped(tags: Sequence[Tag], scope: Scope, rows: Callable[[Tag], int], at_most: int) -> dict[int, int]:
    """Tag id -> number of its group, groups of neighbours in path order with about `at_most` rows, assets whole where `scope` says so."""
    if scope == "gateway":
        return {tag.id: 0 for tag in tags}
    found: dict[int, int] = {}
    number, held, before = 0, 0, None
    units: dict[str, list[Tag]] = {}
    for tag in sorted(tags, key=lambda tag: (tag.asset, tag.path) if scope == "asset" else ("", tag.path)):
        units.setdefault(tag.asset if scope == "asset" else tag.path, []).append(tag)
    for unit in units.values():
        size = sum(rows(tag) for tag in unit)
        if before is not None and held + size > at_most:
            number, held = number + 1, 0
        for tag in unit:
            found[tag.id] = number
        held, before = held + size, unit
    return found


def without_limits(tags: Iterable[Tag]) -> list[Tag]:
    """Tags whose limits nobody watches, so that a model set holds the one model that was asked for."""
    return [tag if tag.limits is None else replace(tag, limits=None) for tag in tags]


def _telemetry(rows: pa.RecordBatch) -> pa.RecordBatch:
    """READINGS or WAVEFORMS -> TELEMETRY with `seq`, as the gateway's models take it."""
    column = {name: rows.column(at) for at, name in enumerate(rows.schema.names)}
    time = column["time"].view(TIME)
    made = make_batch(
        "telemetry", rows.num_rows, time=time, lag=column["lag"], tag=column["tag"], value=column["value"],
        value_int=column["value_int"], text=column["text"], quality=column["quality"], origin=column["origin"],
        samples=column.get("samples"),
    )  # fmt: skip
    return made.append_column("seq", column["seq"])


def _plain(scores: pa.RecordBatch, log: int) -> pa.RecordBatch:
    """SCORE -> SCORES."""
    n = scores.num_rows
    made = []
    for field in SCORES:
        if field.name == "log":
            made.append(pa.array(np.full(n, log, dtype=np.int32)))
        elif field.name == "slice":
            made.append(pa.array(scores.column("seq").to_numpy() // SLICE))
        else:
            column = scores.column(field.name)
            made.append(column.view(pa.int64()) if pa.types.is_timestamp(column.type) else column)
    return pa.RecordBatch.from_arrays(made, schema=SCORES)
