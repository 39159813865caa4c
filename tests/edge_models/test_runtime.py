"""The set of all models: gates, warm-up, alarms, restarts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from edge_models import drift, forecast_residual, limits, stuck
from edge_models.base import ModelConfig, ModelContext
from edge_models.runtime import ModelSet, Outputs
from edge_models.slots import decode
from schemas.errors import ConfigError
from schemas.kinds import make_batch
from schemas.plugin import Plugin
from schemas.tags import Tag
from tests.conformance.model import POLL_US, T0, cut, make_tag, readings, renumbered, wild_stream

PLUGINS: dict[str, Plugin[Any, Any]] = {
    "forecast_residual": forecast_residual.PLUGIN, "drift": drift.PLUGIN, "stuck": stuck.PLUGIN, "limits": limits.PLUGIN
}  # fmt: skip
ENTRIES: Mapping[str, Mapping[str, Any]] = {
    "wear": {"kind": "forecast_residual", "tags": ["**"], "warm_up": "4s", "alarm": {"on_delay": "1s", "off_delay": "3s"}},
    "creep": {"kind": "drift", "warm_up": "4s", "tags": ["**/t2", "acme/osaka/press/t?"], "alarm": {"name": "drifting"}},
    "frozen": {"kind": "stuck", "tags": ["**"], "warm_up": "4s", "at_least": "2s", "min_changes": 5},
}
TAGS = [make_tag(n) for n in range(6)]


def build(entries: Mapping[str, Mapping[str, Any]], tags: Sequence[Tag] = TAGS, **more: Plugin[Any, Any]) -> ModelSet:
    known = {**PLUGINS, **more}
    configs = {name: known[entry["kind"]].config.model_validate(entry) for name, entry in entries.items()}
    return ModelSet.build(configs, tags, known.__getitem__)


def run(made: ModelSet, batches: Sequence[pa.RecordBatch]) -> Outputs:
    out = Outputs()
    for batch in batches:
        found = made.update(batch, T0)
        out.scores.extend(found.scores)
        out.alerts.extend(found.alerts)
        out.health.extend(found.health)
    return out


def exact(batches: Sequence[pa.RecordBatch], *names: str) -> list[tuple[str, ...]]:
    """Rows in an order of their own, floats bit for bit."""
    rows = [row for batch in batches for row in batch.to_pylist()]
    return sorted(tuple(v.hex() if isinstance(v := row[name], float) else str(v) for name in names) for row in rows)


SCORE_COLUMNS = ("model", "alarm", "tag", "seq", "time", "since", "value", "score", "limit", "low", "high")
ALERT_COLUMNS = ("id", "alarm", "model", "tag", "time", "state", "transition", "since", "onset_seq", "problem", "score", "value")


@pytest.mark.parametrize("seed", range(3))
def test_streamed_cut_restarted_or_whole_gives_the_same_scores_and_alerts(seed: int) -> None:
    stream = wild_stream(seed)
    whole = run(build(ENTRIES), [stream])
    made, scores, alerts = build(ENTRIES), [], []
    for piece in cut(stream, seed):
        fresh = build(ENTRIES)
        assert fresh.restore(made.snapshot()) == {}
        made = fresh
        out = made.update(piece, T0)
        scores += out.scores
        alerts += out.alerts
    assert exact(scores, *SCORE_COLUMNS) == exact(whole.scores, *SCORE_COLUMNS)
    assert exact(alerts, *ALERT_COLUMNS) == exact(whole.alerts, *ALERT_COLUMNS)
    assert {row["model"] for batch in alerts for row in batch.to_pylist()} == {"wear", "creep", "frozen", "limits"}


def test_every_row_bears_its_model_and_alarm() -> None:
    out = run(build(ENTRIES), [wild_stream()])
    pairs = {(row["model"], row["alarm"]) for batch in out.scores for row in batch.to_pylist()}
    assert {pair for pair in pairs if pair[0] != "limits"} == {("wear", "wear"), ("creep", "drifting"), ("frozen", "frozen")}
    assert {alarm for model, alarm in pairs if model == "limits"} == {"low_low", "low", "high", "high_high"}
    alarms = {row["alarm"] for batch in out.alerts for row in batch.to_pylist()}
    assert "t2.drifting" in alarms
    assert all(alarm.startswith("t") and "." in alarm for alarm in alarms)


def test_limits_are_watched_without_an_entry_and_once() -> None:
    assert build({}).names == ["limits"]
    assert build({}, [make_tag(0, limits=None)]).names == []
    assert build({"mine": {"kind": "limits"}}).names == ["mine"]
    assert build({"limits": {"kind": "drift", "tags": ["**"]}}).names == ["limits", "limits-of-tags"]


def test_conditions_that_cannot_work_are_told_and_patterns_that_match_nothing_watch_nothing() -> None:
    with pytest.raises(ConfigError, match="position 9") as caught:
        build({"wear": {"kind": "drift", "tags": ["**/t1"], "active_when": "mode == and"}})
    assert caught.value.where == "models.wear.active_when"
    with pytest.raises(ConfigError, match="has no tag 'mode'"):
        build({"wear": {"kind": "drift", "tags": ["**/t1"], "active_when": "mode == 1"}})
    nobody = build({"wear": {"kind": "drift", "tags": ["nowhere"]}, "none": {"kind": "stuck"}})
    assert {row["model"] for batch in run(nobody, [wild_stream()]).scores for row in batch.to_pylist()} == {"limits"}


def gated(k: int, mode: int, value: float, *, mode_first: bool = True) -> pa.RecordBatch:
    rows = [(1, float(mode)), (0, value)] if mode_first else [(0, value), (1, float(mode))]
    return readings([tag for tag, _ in rows], [v for _, v in rows], T0 + k * POLL_US, first_seq=2 * k)


GATE_TAGS = [make_tag(0, name="vibration", limits=None), make_tag(1, name="mode", limits=None, enum={0: "idle", 1: "run"})]
GATE = {"wear": {"kind": "forecast_residual", "tags": ["**/vibration"], "active_when": "mode == run", "warm_up": "4s"}}


def test_an_idle_machine_teaches_nothing_and_raises_nothing() -> None:
    rng = np.random.default_rng(0)
    value = rng.normal(2, 0.1, 300)
    only_run = run(build(GATE, GATE_TAGS), [gated(k, 1, value[k]) for k in (*range(100), *range(200, 300))])
    with_idle = run(
        build(GATE, GATE_TAGS), [gated(k, int(not 100 <= k < 200), value[k] if not 100 <= k < 200 else 0.0) for k in range(300)]
    )
    table = pa.Table.from_batches(with_idle.scores)
    idle = table.filter(pc.and_(pc.greater_equal(table["seq"], 200), pc.less(table["seq"], 400)))
    assert idle.num_rows == 100
    assert idle["score"].null_count == 100
    seen = table.filter(pc.or_(pc.less(table["seq"], 200), pc.greater_equal(table["seq"], 400)))["score"].to_pylist()
    assert seen == pa.Table.from_batches(only_run.scores)["score"].to_pylist()
    assert with_idle.alerts == []


def test_an_alarm_clears_when_the_machine_goes_idle() -> None:
    rng = np.random.default_rng(0)
    made, found = build(GATE, GATE_TAGS), []
    for k in range(130):
        out = made.update(gated(k, int(k < 120), float(rng.normal(2, 0.1) + (5 if k > 100 else 0))), T0)
        found += [(k, row["transition"]) for batch in out.alerts for row in batch.to_pylist()]
    assert found == [(101, "raised"), (120, "cleared")]


def test_the_gate_and_its_rows_survive_a_restart_and_cuts() -> None:
    rng = np.random.default_rng(1)
    mode = (rng.random(400) < 0.05).cumsum() % 2
    rows = [gated(k, int(mode[k]), float(rng.normal(2, 0.1)), mode_first=bool(k % 2)) for k in range(400)]
    stream = pa.Table.from_batches(rows).combine_chunks().to_batches()[0]
    whole = run(build(GATE, GATE_TAGS), [stream])
    made, scores = build(GATE, GATE_TAGS), []
    for piece in cut(stream, 1):
        fresh = build(GATE, GATE_TAGS)
        fresh.restore(made.snapshot())
        made = fresh
        scores += made.update(piece, T0).scores
    assert exact(scores, *SCORE_COLUMNS) == exact(whole.scores, *SCORE_COLUMNS)


def test_models_behind_one_gate_score_as_each_alone_also_with_assets_that_never_ran() -> None:
    tags = [
        make_tag(n, name=f"t{n % 4}" if n % 4 else "mode", asset=f"acme/osaka/press-{n // 4}", limits=None, enum=None if n % 4 else {0: "idle", 1: "run"})
        for n in range(24)
    ]  # fmt: skip
    entry = {"tags": ["**/t?"], "active_when": "mode == run", "warm_up": "4s"}
    entries = {kind: {**entry, "kind": kind} for kind in ("forecast_residual", "drift", "stuck")}
    rng = np.random.default_rng(2)
    running = (rng.random((300, 6)) < 0.03).cumsum(axis=0) % 2
    running[:, 5] = 0
    polls = [
        readings(
            list(range(24)),
            np.where(np.arange(24) % 4, rng.normal(20, 1, 24), np.repeat(running[k], 4)).tolist(),
            T0 + k * POLL_US,
            first_seq=24 * k,
        )
        for k in range(300)
    ]
    together = run(build(entries, tags), polls)
    apart = [run(build({name: one}, tags), polls) for name, one in entries.items()]
    assert exact(together.scores, *SCORE_COLUMNS) == exact([batch for out in apart for batch in out.scores], *SCORE_COLUMNS)
    rows = [row for batch in together.scores for row in batch.to_pylist()]
    assert {row["score"] for row in rows if row["tag"] >= 20} == {None}
    assert sum(row["score"] is not None for row in rows if row["tag"] < 20) > 5_000


def test_another_condition_does_not_inherit_the_gate() -> None:
    made = build(GATE, GATE_TAGS)
    run(made, [gated(k, 1, 2.0 + k % 3) for k in range(50)])
    other = build({"wear": {**GATE["wear"], "active_when": "mode == idle"}}, GATE_TAGS)
    assert other.restore(made.snapshot()) == {}
    out = other.update(readings([0], [2.0], T0 + 100 * POLL_US, first_seq=100), T0)
    assert out.scores[0].column("score").null_count == 1


class Eager:
    """A third party's model: scores everything 1 from the first row on, and leaves model and alarm to the runtime."""

    def update(self, batch: pa.RecordBatch, now: int) -> list[pa.RecordBatch]:
        n = batch.num_rows
        if not n:
            return []
        columns = {name: batch.column(name) for name in ("time", "seq", "tag", "value")}
        health = make_batch("health", 1, time=T0, seq=0, measure="health_index", value=0.5)
        return [make_batch("score", n, score=1.0, limit=0.5, **columns), health]

    def snapshot(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        pass


def _eager(config: ModelConfig, context: ModelContext) -> Eager:
    return Eager()


def test_warm_up_and_gate_hold_for_models_that_know_nothing_of_them() -> None:
    plugin = Plugin(ModelConfig, _eager)
    entry = {"kind": "eager", "tags": ["**/vibration"], "active_when": "mode == run", "warm_up": "5s"}
    made = build({"third": entry}, GATE_TAGS, eager=plugin)
    out = run(made, [gated(k, int(k < 20 or k > 25), 2.0).slice(1) if k else gated(k, 1, 2.0) for k in range(20)])
    scored = [row for batch in out.scores for row in batch.to_pylist() if row["tag"] == 0]
    assert [row["score"] for row in scored] == [None] * 10 + [1.0] * 10
    assert {(row["model"], row["alarm"]) for row in scored} == {("third", "third")}
    (alert,) = [row for batch in out.alerts for row in batch.to_pylist()]
    assert alert["problem"] == "press vibration at 2 mm/s is unusual, its score is 1 of 1"
    assert len(out.health) == 20
    closed = made.update(gated(30, 0, 2.0), T0)
    assert [row["transition"] for batch in closed.alerts for row in batch.to_pylist()] == ["cleared"]


class OverAssets:
    """A model over several tags: one score per usable reading of its asset, and no row of an idle one."""

    def __init__(self, config: ModelConfig, context: ModelContext) -> None:
        self._tags = {tag.id: tag for tag in context.tags}

    def update(self, batch: pa.RecordBatch, now: int) -> list[pa.RecordBatch]:
        if not batch.num_rows:
            return []
        found = decode(batch)
        usable = np.ones(len(found), dtype=bool) if found.usable is None else found.usable
        rows = [row for row in np.flatnonzero(usable).tolist() if int(found.tag[row]) in self._tags]
        if not rows:
            return []
        assets = [self._tags[int(found.tag[row])].asset for row in rows]
        score = (found.value[rows] > 3).astype(float)
        return [make_batch("score", len(rows), time=found.time[rows], seq=found.seq[rows], asset=assets, score=score, limit=0.5)]

    def snapshot(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        pass


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_an_alarm_about_an_asset_clears_when_the_asset_falls_idle(size: int) -> None:
    """Though no score of it comes any more; and comes again with the machine, in any cut."""
    tags = [make_tag(n, name=("vibration", "mode")[n % 2], asset=f"acme/osaka/p{n // 2}", limits=None) for n in range(4)]
    entry = {"kind": "several", "tags": ["**/vibration"], "active_when": "mode == 1", "alarm": {"peak_first": "0s"}}
    rows = []
    for k, mode in enumerate([1, 1, 1, 0, 0, 0, 1, 1]):
        rows += [(1, mode), (0, 9.0 if k > 0 else 1.0), (3, 1), (2, 9.0)]
    whole = readings(
        [tag for tag, _ in rows], [float(v) for _, v in rows], np.array([T0 + n // 4 * POLL_US for n in range(len(rows))])
    )
    plugin = Plugin(ModelConfig, OverAssets)
    made, told = build({"several": entry}, tags, several=plugin), []
    for at in range(0, whole.num_rows, size):
        fresh = build({"several": entry}, tags, several=plugin)
        fresh.restore(made.snapshot())
        made = fresh
        out = made.update(whole.slice(at, size), T0)
        assert all(batch.column("score").null_count == 0 for batch in out.scores)
        told += [
            (row["asset"][-2:], row["transition"], (row["time"].value - T0) // POLL_US) for b in out.alerts for row in _times(b)
        ]
    assert sorted(told) == [("p0", "cleared", 3), ("p0", "raised", 1), ("p0", "raised", 6), ("p1", "raised", 0)]


def _times(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    return [{**row, "time": batch.column("time")[at]} for at, row in enumerate(batch.to_pylist())]


def test_one_member_with_foreign_state_starts_fresh_alone_and_is_named() -> None:
    stream = wild_stream()
    made = build(ENTRIES)
    run(made, [stream])
    changed = build({**ENTRIES, "creep": {**ENTRIES["creep"], "memory": 777}, "new": {"kind": "drift"}})
    fresh = changed.restore(made.snapshot())
    assert list(fresh) == ["creep"]
    assert "parameters" in fresh["creep"]
    later = renumbered(stream, stream.num_rows)
    assert changed.update(later.slice(0, 7), T0).scores


@pytest.mark.parametrize("state", [b"", b"nonsense", b"GBS1" + bytes(40)])
def test_a_damaged_state_makes_everything_fresh_and_says_so(state: bytes) -> None:
    assert set(build(ENTRIES).restore(state)) == {"wear", "creep", "frozen", "limits"}


def test_alerts_that_are_durable_already_are_not_told_again() -> None:
    stream = wild_stream()
    made = build(ENTRIES)
    half = stream.num_rows // 2
    run(made, [stream.slice(0, half)])
    state = made.snapshot()
    lost = run(made, [stream.slice(half)])
    assert lost.alerts
    again = build(ENTRIES)
    again.restore(state)
    again.replay_alerts(lost.alerts)
    assert run(again, [stream.slice(half)]).alerts == []
    control = build(ENTRIES)
    control.restore(state)
    assert exact(run(control, [stream.slice(half)]).alerts, *ALERT_COLUMNS) == exact(lost.alerts, *ALERT_COLUMNS)


def test_nothing_to_watch_is_fine() -> None:
    made = build({}, [])
    assert made.update(wild_stream(), T0) == Outputs()
    assert made.tick(T0) == Outputs()
    assert made.restore(made.snapshot()) == {}
