"""What is held back and comes in its turn: N of M, peak-first, budgets that adapt, floods; in any cut and over restarts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from edge_models.alarms import AlarmLayer
from edge_models.base import AlarmConfig, SiteAlarms, TagAlarm
from tests.conformance.model import T0, make_tag
from tests.edge_models.test_alarms import S, layer, run, scores, told

RAISED, CLEARED, HELD = ("raised", "unacknowledged"), ("cleared", "returned"), ("suppressed", "suppressed")
HOUR = 3600


def many(tags: int, site: Mapping[str, Any] | None = None, /, **options: Any) -> AlarmLayer:
    """A layer over so many tags of as many assets."""
    made = AlarmLayer([make_tag(n, asset=f"acme/osaka/press-{n}") for n in range(tags)], SiteAlarms.model_validate(site or {}))
    made.add("wear", AlarmConfig.model_validate({"peak_first": "0s", **options}))
    return made


def said(found: Sequence[tuple[str, str, str]]) -> list[tuple[str, str]]:
    return [(transition, state) for _, transition, state in found]


def cut(build: Any, whole: pa.RecordBatch, size: int, *, restart: bool) -> list[dict[str, Any]]:
    """The rows of what is told when `whole` comes in pieces."""
    made, rows = build(), []
    for at in range(0, whole.num_rows, size):
        if restart:
            fresh = build()
            fresh.restore(made.snapshot())
            made = fresh
        part = made.update(whole.slice(at, size), T0)
        rows += [] if part is None else part.to_pylist()
    return rows


# N of M


def test_single_outliers_are_forgiven_and_three_of_five_are_not() -> None:
    made = layer(count="3 of 5")
    assert run(made, *[(0, t, 0.95 if t in (0, 5, 6) else 0.1) for t in range(12)]) == []
    found = run(made, *[(0, 20 + t, score) for t, score in enumerate((0.95, 0.1, 0.95, 0.1, 0.95, 0.95))], first_seq=20)
    assert said(found) == [RAISED]
    assert run(made, (0, 26, 0.95), (0, 27, 0.1), (0, 28, 0.1), first_seq=30) == []  # still three of five
    assert said(run(made, (0, 29, 0.1), first_seq=40)) == [CLEARED]


def test_a_null_score_is_no_vote_and_a_shut_gate_forgets_them() -> None:
    made = layer(count="2 of 3")
    assert said(run(made, (0, 0, 0.95), (0, 1, None), (0, 2, None), (0, 3, None), (0, 4, 0.95))) == [RAISED]
    other = layer(count="2 of 3")
    assert run(other, (0, 0, 0.95)) == []
    other.update(scores((0, 1, None)), T0, inactive=np.array([True]))
    assert run(other, (0, 2, 0.95)) == []
    assert said(run(other, (0, 3, 0.95))) == [RAISED]


@pytest.mark.parametrize("count", ["0 of 3", "4 of 3", "3", "65 of 65", "a of b", "-1 of 2"])
def test_a_count_that_cannot_be_is_refused(count: str) -> None:
    with pytest.raises(ValueError, match="write it like 3 of 5"):
        AlarmConfig(count=count)
    with pytest.raises(ValueError, match="write it like 3 of 5"):
        TagAlarm(count=count)


def test_sixty_four_of_sixty_four() -> None:
    made = layer(count="64 of 64")
    assert run(made, *[(0, t, 0.95) for t in range(63)]) == []
    assert said(run(made, (0, 63, 0.95))) == [RAISED]
    assert said(run(made, (0, 64, 0.1))) == [CLEARED]


def test_tags_may_differ_and_the_last_pattern_that_fits_wins() -> None:
    made = layer(
        on_delay="2s",
        tags={
            "**": {"on_delay": "0s"},
            "**/t1": {"count": "2 of 2", "severity": "critical", "action": "Stop"},
            "**/t2": {"on_delay": "9s"},
        },
    )
    found = made.update(scores((0, 0, 0.95), (1, 0, 0.95), (2, 0, 0.95), (1, 1, 0.95), (2, 8, 0.95), (2, 9, 0.95)), T0)
    assert found is not None
    assert [(row["alarm"], row["onset_seq"], row["severity"], row["action"]) for row in found.to_pylist()] == [
        ("t0.wear", 0, "warning", "Call maintenance"), ("t1.wear", 3, "critical", "Stop"), ("t2.wear", 2, "warning", "Call maintenance")
    ]  # fmt: skip


# Peak first


def test_the_first_peak_is_told_and_chatter_is_held_back() -> None:
    made = layer(peak_first="60s")
    rows = [(0, t, 0.95 if t % 2 == 0 else 0.1) for t in range(20)]
    assert said(run(made, *rows)) == [RAISED, CLEARED, *[HELD] * 9]
    assert said(run(made, (0, 62, 0.95))) == [RAISED]  # the rest counts from the one that was told


def test_a_clearly_higher_peak_is_told_at_once_and_an_equal_one_is_not() -> None:
    made = layer(peak_first="60s")
    assert said(run(made, (0, 0, 0.95), (0, 1, 0.96), (0, 2, 0.1))) == [RAISED, CLEARED]
    assert said(run(made, (0, 3, 0.99))) == [HELD]  # 0.996 is ten times less likely than 0.96
    assert said(run(made, (0, 4, 0.9961))) == [RAISED]
    assert said(run(made, (0, 5, 0.1), (0, 6, 0.9997))) == [CLEARED, RAISED]
    assert said(run(made, (0, 7, 0.1), (0, 8, 1.0), (0, 9, 0.1), (0, 10, 1.0))) == [CLEARED, RAISED, CLEARED, HELD]


def test_what_still_holds_at_the_end_of_the_rest_is_told() -> None:
    made = layer(peak_first="60s")
    run(made, (0, 0, 0.95), (0, 1, 0.1))
    assert said(run(made, (0, 10, 0.95), (0, 60.9, 0.95))) == [HELD]
    found = made.update(scores((0, 61, 0.95)), T0)
    assert said(told(found)) == [RAISED]
    assert found is not None
    assert found.column("since")[0].value == T0 + 10 * S
    assert said(run(made, (0, 62, 0.1))) == [CLEARED]


def test_a_clock_set_back_ends_the_rest() -> None:
    made = layer(peak_first="60s")
    run(made, (0, 1000, 0.95), (0, 1001, 0.1))
    assert said(run(made, (0, 5, 0.95))) == [RAISED]


def test_critical_alarms_limits_and_rules_are_told_each_time() -> None:
    class Fact:
        factual = True

    rows = [(0, t, 0.95 if t % 2 == 0 else 0.1) for t in range(6)]
    fact, limit = AlarmLayer([make_tag(0)]), AlarmLayer([make_tag(0)])
    fact.add("wear", AlarmConfig(), Fact())  # type: ignore[arg-type]  # only what the layer asks of it
    limit.add("wear", AlarmConfig(), limits=True)
    for made in (fact, limit, layer(severity="critical", peak_first="60s")):
        assert [transition for transition, _ in said(run(made, *rows))] == ["raised", "cleared"] * 3
    by_tag = layer(peak_first="60s", tags={"**/t0": {"severity": "critical"}})
    assert [transition for transition, _ in said(run(by_tag, *rows))] == ["raised", "cleared"] * 3


# Budgets


def test_the_threshold_rises_as_the_budget_runs_out() -> None:
    """4/day from a limit of 0.9: the first three at the limit, the fourth ten times less likely, and then none."""
    made = layer(budget_per_asset="4/day")
    assert said(run(made, *[(0, t, 0.95 if t % 2 == 0 else 0.1) for t in range(8)])) == [*[RAISED, CLEARED] * 3, HELD]
    assert said(run(made, (0, 10, 0.991), (0, 11, 0.1))) == [RAISED, CLEARED]
    assert said(run(made, (0, 12, 1.0), (0, 13, 0.1))) == [HELD]


def test_one_that_grows_worse_while_it_is_held_back_is_judged_again() -> None:
    made = layer(budget_per_asset="4/day")
    run(made, *[(0, t, 0.95 if t % 2 == 0 else 0.1) for t in range(6)])
    assert said(run(made, (0, 10, 0.95), (0, 11, 0.98))) == [HELD]
    found = made.update(scores((0, 12, 0.995)), T0)
    assert said(told(found)) == [RAISED]
    assert found is not None
    assert found.column("score").to_pylist() == [0.995]


def test_one_that_is_held_back_and_still_holds_is_told_when_its_turn_comes() -> None:
    made = layer(budget_per_asset="1/day")
    run(made, (0, 0, 0.95), (0, 1, 0.1), (0, 2, 0.95))
    assert [entry.state for entry in made.active(suppressed=True)] == ["suppressed"]
    assert made.active() == []
    assert run(made, (1, 24 * HOUR - 1, 0.1)) == []
    found = made.update(scores((1, 25 * HOUR, 0.1)), T0)
    assert said(told(found)) == [RAISED]
    assert found is not None
    assert found.column("time")[0].value == T0 + 24 * HOUR * S
    gone = layer(budget_per_asset="1/day")
    run(gone, (0, 0, 0.95), (0, 1, 0.1), (0, 2, 0.95), (0, 3, 0.1))
    assert run(gone, (1, 25 * HOUR, 0.1)) == []


def test_the_site_has_a_budget_over_all_models_and_assets() -> None:
    made = many(5, {"budget": "2/day", "flood": 0})
    made.add("other", AlarmConfig())
    assert said(run(made, (0, 0, 0.95), (1, 1, 0.95), (2, 2, 0.95))) == [RAISED, RAISED, HELD]
    assert said(run(made, (3, 3, 0.95), model="other")) == [HELD]
    made.add("worst", AlarmConfig(severity="critical"))
    made.add("facts", AlarmConfig(), limits=True)
    assert said(run(made, (4, 4, 0.95), model="worst")) == [RAISED]
    assert said(run(made, (4, 5, 0.95), model="facts")) == [RAISED]


# Floods


def test_a_flood_is_one_message_and_ends_with_the_whole_number() -> None:
    made = many(60, {"flood": 10, "flood_within": "10m"})
    first = made.update(scores(*[(n, n * 0.1, 0.95) for n in range(60)]), T0)
    assert first is not None
    rows = first.to_pylist()
    assert [row["transition"] for row in rows].count("suppressed") == 50
    flood = [row for row in rows if row["alarm"] == "flood"]
    assert [(row["transition"], row["problem"].rpartition(": ")[2]) for row in flood] == [
        ("raised", "1 more suppressed"), ("changed", "10 more suppressed")
    ]  # fmt: skip
    assert flood[0]["asset"] == "acme/osaka"
    # Those that still hold come one a minute, the oldest first.
    later = made.update(scores(*[(n, 200, 0.1) for n in range(30)]), T0)
    assert [row["alarm"] for row in pa.Table.from_batches([later]).to_pylist() if row["transition"] == "raised"] == [
        "t10.wear", "t11.wear", "t12.wear"
    ]  # fmt: skip
    over = made.update(scores(*[(n, 260, 0.1) for n in range(60)], (0, 2 * HOUR, 0.1)), T0)
    (end,) = [row for row in pa.Table.from_batches([over]).to_pylist() if row["alarm"] == "flood"]
    assert (end["transition"], end["problem"]) == ("cleared", "the flood of alarms is over: 50 were suppressed")
    assert said(run(made, (0, 2 * HOUR + 1, 0.95))) == [RAISED]


def test_a_flood_holds_back_neither_critical_alarms_nor_limits() -> None:
    made = many(40, {"flood": 2})
    made.add("worst", AlarmConfig(severity="critical"))
    made.add("facts", AlarmConfig(), limits=True)
    run(made, *[(n, 0, 0.95) for n in range(10)])
    assert {transition for transition, _ in said(run(made, *[(n, 1, 0.95) for n in range(10, 20)], model="worst"))} == {"raised"}
    assert {transition for transition, _ in said(run(made, *[(n, 1, 0.95) for n in range(20, 30)], model="facts"))} == {"raised"}


def test_no_flood_where_it_is_switched_off() -> None:
    made = many(60, {"flood": 0})
    assert set(said(run(made, *[(n, 0, 0.95) for n in range(60)]))) == {RAISED}


def test_a_row_that_is_held_back_says_why() -> None:
    made = many(5, {"flood": 2}, peak_first="60s", budget_per_asset="1/day")
    batch = scores((0, 0, 0.95), (0, 1, 0.1), (0, 2, 0.95), (0, 61.5, 0.95), (1, 70, 0.95), (2, 71, 0.95))
    found = made.update(batch, T0)
    assert found is not None
    assert [row["problem"].partition("; held back: ")[2] for row in found.to_pylist() if row["transition"] == "suppressed"] == [
        "soon after the one before, and not clearly worse", "too many at once"
    ]  # fmt: skip
    assert {entry.alarm: entry.held for entry in made.active(suppressed=True)}["t0.wear"] == "budget"  # its rest is over
    assert all("held back" not in entry.problem for entry in made.active(suppressed=True))


# Any cut, any restart


OPTIONS: Sequence[Mapping[str, Any]] = (
    {"count": "2 of 4", "on_delay": "1s", "off_delay": "2s", "peak_first": "20s", "budget_per_asset": "6/day"},
    {"peak_first": "30s", "hysteresis": 0.05, "tags": {"**/t1": {"count": "3 of 5", "peak_first": "5s"}}},
    {"budget_per_asset": "3/day"},
)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("seed", range(2))
def test_cuts_and_restarts_change_nothing(seed: int, options: Mapping[str, Any]) -> None:
    rng = np.random.default_rng(seed)
    n, tags = 900, 6
    level = (rng.random((n, tags)) < 0.05).cumsum(axis=0) % 2
    rows: list[tuple[int, float, float | None]] = []
    for k in range(n):
        tag = int(rng.integers(0, tags))
        high = 1 - 10 ** -rng.uniform(0.8, 5)
        rows.append((tag, k * 0.7, None if rng.random() < 0.05 else float(high if level[k, tag] else rng.uniform(0, 0.9))))
    whole = scores(*rows)

    def build() -> AlarmLayer:
        return many(tags, {"budget": "400/day", "flood": 2, "flood_within": "60s"}, **options)

    expected = cut(build, whole, n, restart=False)
    assert {row["transition"] for row in expected} >= {"raised", "cleared", "suppressed"}
    assert any(row["alarm"] == "flood" for row in expected)
    for size, restart in ((1, False), (17, True), (250, True)):
        assert cut(build, whole, size, restart=restart) == expected, (size, restart)


def test_rows_scored_again_after_a_crash_tell_nothing_twice_whatever_was_held_back() -> None:
    options: Mapping[str, Any] = {"budget_per_asset": "1/day", "peak_first": "30s"}

    def build() -> AlarmLayer:
        return many(30, {"flood": 4, "flood_within": "60s"}, **options)

    rng = np.random.default_rng(3)
    rows = [(int(rng.integers(0, 30)), t * 0.5, float(rng.choice([0.95, 0.1, 0.999]))) for t in range(400)]
    whole, made = scores(*rows), build()
    made.update(whole.slice(0, 150), T0)
    state = made.snapshot()
    durable = [batch for at in range(150, 400, 50) if (batch := made.update(whole.slice(at, 50), T0)) is not None]
    again = build()
    again.restore(state)
    again.replay(durable)
    assert [row for row in told(again.update(whole.slice(150), T0)) if row[1] != "changed"] == []
    control = build()
    control.restore(state)
    assert told(control.update(whole.slice(150), T0)) == told(*durable)


def test_memory_is_bounded_and_stated() -> None:
    for options, most in (({}, 51), ({"count": "2 of 3"}, 59), ({"severity": "critical"}, 26)):
        made = many(1000, **options)
        run(made, *[(n, 0, 0.95) for n in range(1000)])
        (delays,) = made._delays.values()
        arrays = [array for array in vars(delays).values() if isinstance(array, np.ndarray)]
        assert sum(array.nbytes for array in arrays) == most * 1000
