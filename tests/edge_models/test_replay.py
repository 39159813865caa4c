"""How the work of scoring a lake is cut: by what a model says of itself, never through what belongs together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from edge_models import drift, stuck
from edge_models.replay import Replay, grouped, needed, scope_of, without_limits
from schemas.replay import READINGS, SCORES, SLICE
from tests.conformance.model import make_tag, wild_stream

TAGS = [
    make_tag(number, asset=f"acme/osaka/a{number % 3}", name=name)
    for number, name in enumerate(("temp", "temp", "temp", "mode", "mode", "mode"))
]


def config(plugin: Any, **options: Any) -> Any:
    return plugin.config.model_validate({"kind": "x", "tags": ["**/temp"], "warm_up": "4s", **options})


def test_the_widest_of_model_and_condition_counts() -> None:
    assert scope_of(config(drift.PLUGIN), drift.PLUGIN, "x") == "tag"
    assert scope_of(config(drift.PLUGIN, active_when="mode == 1"), drift.PLUGIN, "x") == "asset"
    assert scope_of(config(stuck.PLUGIN), stuck.PLUGIN, "x") == "gateway"
    assert scope_of(config(stuck.PLUGIN, active_when="mode == 1"), stuck.PLUGIN, "x") == "gateway"


def test_a_model_sees_its_tags_those_of_its_condition_or_all() -> None:
    def ids(found: list[Any]) -> list[int]:
        return [tag.id for tag in found]

    assert ids(needed(config(drift.PLUGIN), "tag", TAGS)) == [0, 1, 2]
    assert ids(needed(config(drift.PLUGIN, tags=["**/a1/temp"], active_when="mode == 1"), "asset", TAGS)) == [1, 4]
    assert ids(needed(config(stuck.PLUGIN), "gateway", TAGS)) == [0, 1, 2, 3, 4, 5]
    assert needed(config(stuck.PLUGIN, tags=["**/none"]), "gateway", TAGS) == []


def test_groups_hold_neighbours_and_whole_assets() -> None:
    assert grouped(TAGS, "gateway", lambda tag: 10, 1) == dict.fromkeys(range(6), 0)
    by_tag = grouped(TAGS, "tag", lambda tag: 10, 20)  # in order of path: a0/mode, a0/temp, a1/mode, …
    assert [by_tag[at] for at in (3, 0, 4, 1, 5, 2)] == [0, 0, 1, 1, 2, 2]
    assert set(grouped(TAGS, "tag", lambda tag: 10, 1).values()) == set(range(6))
    by_asset = grouped(TAGS, "asset", lambda tag: 10, 1)  # an asset is never divided, however large
    assert [by_asset[at] for at in range(6)] == [0, 1, 2, 0, 1, 2]
    assert set(grouped(TAGS, "asset", lambda tag: 10, 1000).values()) == {0}


def rows_of(stream: pa.RecordBatch, log: int, group: np.ndarray[Any, Any]) -> pa.Table:
    """READINGS, a row per row of the stream, group by group."""
    n = stream.num_rows
    given = {"log": np.full(n, log, np.int32), "group": group.astype(np.int32), "text": pa.nulls(n, pa.string())}
    columns = [
        pa.array(given[f.name], f.type)
        if f.name in given
        else stream.column(f.name).cast(pa.int64() if f.name == "time" else f.type)
        for f in READINGS
    ]
    return pa.Table.from_arrays(columns, schema=READINGS).sort_by(
        [("log", "ascending"), ("group", "ascending"), ("seq", "ascending")]
    )


def replayed(plugin: Any, rows: pa.Table, tags: list[Any], groups: list[int], size: int) -> pa.Table:
    run = Replay("x", config(plugin, tags=["**"]), plugin, without_limits(tags), groups)
    return pa.Table.from_batches(run(rows.to_batches(max_chunksize=size)), SCORES)


@pytest.mark.parametrize(("plugin", "independent"), [(drift.PLUGIN, True), (stuck.PLUGIN, False)])
def test_groups_and_logs_are_scored_each_for_itself(plugin: Any, independent: bool) -> None:
    stream = wild_stream()
    stream = stream.filter(pa.array(stream.column("tag").to_numpy() < 6))
    tags = [make_tag(number) for number in range(6)]
    whole = rows_of(stream, 0, np.zeros(stream.num_rows))
    one = replayed(plugin, whole, tags, [0] * 6, 64)
    apart = replayed(plugin, rows_of(stream, 0, stream.column("tag").to_numpy()), tags, [*range(6)], 7)
    order = [(name, "ascending") for name in ("seq", "time", "tag")]
    assert (apart.sort_by(order) == one.sort_by(order)) is independent  # the control: a model that looks at all tags differs
    assert set(one.column("slice").to_pylist()) == {0}
    shifted = replayed(plugin, pa.concat_tables([whole, rows_of(stream, 1, np.zeros(stream.num_rows))]), tags, [0] * 6, 64)
    second = shifted.filter(pa.array(shifted.column("log").to_numpy() == 1))
    assert second.drop_columns(["log"]) == one.drop_columns(["log"])  # nothing is carried over from the log before
    assert SLICE == 1 << 20


def test_limits_are_watched_only_when_they_are_asked_for() -> None:
    assert all(tag.limits is None for tag in without_limits(TAGS))
    assert without_limits(without_limits(TAGS)) == without_limits(TAGS)
