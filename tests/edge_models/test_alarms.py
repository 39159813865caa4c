"""The alarm layer: delays, states, one message a transition, budgets, commands, restarts."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from edge_models.alarms import AlarmLayer
from edge_models.base import AlarmConfig
from schemas.errors import StateMismatch
from schemas.kinds import ALERT, make_batch
from schemas.span import Command
from tests.conformance.model import T0, make_tag

TAGS = [make_tag(0, label="Main bearing"), make_tag(1), make_tag(2, asset="acme/osaka/drill")]
S = 1_000_000


def layer(**options: Any) -> AlarmLayer:
    made = AlarmLayer(TAGS)
    made.add(
        "wear", AlarmConfig.model_validate({"severity": "warning", "action": "Call maintenance", "peak_first": "0s", **options})
    )
    return made


def scores(*rows: tuple[int, float, float | None], model: str = "wear", first_seq: int = 0, **columns: Any) -> pa.RecordBatch:
    """SCORE rows of (tag, seconds, score); seq counts from `first_seq`."""
    tag, second, score = zip(*rows, strict=True)
    fields = {
        "value": np.arange(len(rows)) + 7.0, "limit": 0.9, "low": 1.8, "high": 2.4, "model": model, "alarm": "wear", **columns
    }  # fmt: skip
    return make_batch(
        "score", len(rows), time=np.array([T0 + round(s * S) for s in second]), seq=np.arange(first_seq, first_seq + len(rows)),
        tag=np.array(tag, dtype=np.int32), score=list(score), **fields,
    )  # fmt: skip


def told(*batches: pa.RecordBatch | None) -> list[tuple[str, str, str]]:
    """(alarm, transition, state) of every row."""
    rows = [row for batch in batches if batch is not None for row in batch.to_pylist()]
    return [(row["alarm"], row["transition"], row["state"]) for row in rows]


def run(made: AlarmLayer, *rows: tuple[int, float, float | None], **options: Any) -> list[tuple[str, str, str]]:
    return told(made.update(scores(*rows, **options), T0))


def test_an_alarm_says_everything_a_person_needs() -> None:
    found = layer().update(scores((0, 0, 0.1), (0, 1, 0.95)), T0)
    assert found is not None
    assert found.schema.equals(ALERT, check_metadata=True)
    (row,) = found.to_pylist()
    assert {name: row[name] for name in ("alarm", "model", "tag", "asset", "subject", "state", "transition", "severity", "action")} == {
        "alarm": "t0.wear", "model": "wear", "tag": 0, "asset": "acme/osaka/press", "subject": "Main bearing",
        "state": "unacknowledged", "transition": "raised", "severity": "warning", "action": "Call maintenance",
    }  # fmt: skip
    assert row["problem"] == "Main bearing at 8 mm/s is unusual, its score is 0.95 of 1"
    assert (row["value"], row["unit"], row["low"], row["high"], row["score"], row["limit"]) == (8.0, "mm/s", 1.8, 2.4, 0.95, 0.9)
    assert row["time"] == row["since"]
    assert row["onset_seq"] == 1
    assert len(row["id"]) >= 16
    assert int(row["id"], 16)


def test_one_message_a_transition() -> None:
    rows = [(0, t, 0.95 if 2 <= t < 5 or t >= 8 else 0.1) for t in range(12)]
    assert run(layer(), *rows) == [
        ("t0.wear", "raised", "unacknowledged"),
        ("t0.wear", "cleared", "returned"),
        ("t0.wear", "raised", "unacknowledged"),
    ]


def test_on_delay_counts_from_the_onset_and_starts_anew_after_a_normal_score() -> None:
    made = layer(on_delay="3s")
    assert run(made, (0, 0, 0.95), (0, 2, 0.95), (0, 2.5, 0.1), (0, 3, 0.95), (0, 5.9, 0.95)) == []
    found = made.update(scores((0, 6, 0.95), first_seq=5), T0)
    assert told(found) == [("t0.wear", "raised", "unacknowledged")]
    assert found is not None
    assert found.column("onset_seq").to_pylist() == [3]
    assert found.column("since")[0].value == T0 + 3 * S
    assert found.column("time")[0].value == T0 + 6 * S


def test_off_delay_and_hysteresis() -> None:
    made = layer(off_delay="3s", hysteresis=0.2)
    assert told(made.update(scores((0, 0, 0.95)), T0)) == [("t0.wear", "raised", "unacknowledged")]
    assert run(made, (0, 1, 0.75), (0, 9, 0.71)) == []  # below the limit, within the hysteresis
    assert run(made, (0, 10, 0.6), (0, 12, 0.6), (0, 12.5, 0.75), (0, 13, 0.6), (0, 15.9, 0.6)) == []
    assert run(made, (0, 16, 0.6)) == [("t0.wear", "cleared", "returned")]


def test_null_scores_neither_raise_nor_clear() -> None:
    made = layer(on_delay="2s", off_delay="2s")
    assert run(made, (0, 0, 0.95), (0, 1, None), (0, 2, 0.95)) == [("t0.wear", "raised", "unacknowledged")]
    assert run(made, (0, 3, None), (0, 30, None)) == []
    assert run(made, (0, 31, 0.1), (0, 32, None), (0, 33, 0.1)) == [("t0.wear", "cleared", "returned")]


def test_a_shut_gate_clears_at_once_and_forgets_what_was_pending() -> None:
    made = layer(on_delay="2s", off_delay="60s")
    run(made, (0, 0, 0.95), (0, 2, 0.95), (1, 2, 0.95))
    shut = made.update(scores((0, 3, None), (1, 3, None)), T0, inactive=np.array([True, True]))
    assert told(shut) == [("t0.wear", "cleared", "returned")]
    assert run(made, (1, 5, 0.95)) == []


def test_a_clock_set_back_begins_the_wait_anew() -> None:
    made = layer(on_delay="3s")
    assert run(made, (0, 3600, 0.95), (0, 0, 0.95), (0, 2, 0.95)) == []
    assert run(made, (0, 3, 0.95)) == [("t0.wear", "raised", "unacknowledged")]


@pytest.mark.parametrize("seed", range(4))
def test_cuts_and_restarts_change_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 600
    level = np.where(rng.random(n) < 0.03, 1, 0).cumsum() % 2
    rows = [
        (
            int(rng.integers(0, 3)),
            t * 0.3,
            None if rng.random() < 0.05 else float(np.clip(level[t] * 0.9 + rng.normal(0, 0.1), 0, 1)),
        )
        for t in range(n)
    ]
    whole = scores(*rows)
    options = {"on_delay": "1s", "off_delay": "2s", "hysteresis": 0.1, "budget_per_asset": "3/day"}
    expected = layer(**options).update(whole, T0)
    assert expected is not None
    made, found = layer(**options), []
    for at in range(0, n, 17):
        fresh = layer(**options)
        fresh.restore(made.snapshot())
        made = fresh
        part = made.update(whole.slice(at, 17), T0)
        found += [] if part is None else part.to_pylist()
    key = [(row["tag"], row["time"], row["transition"], row["id"], row["problem"]) for row in found]
    assert sorted(key) == sorted((r["tag"], r["time"], r["transition"], r["id"], r["problem"]) for r in expected.to_pylist())
    assert {row["transition"] for row in found} == {"raised", "cleared", "suppressed"}


def test_the_budget_holds_back_and_says_so_once_but_never_critical() -> None:
    rows = [(0, t, 0.95 if t % 2 else 0.1) for t in range(12)]
    found = run(layer(budget_per_asset="2/day"), *rows)
    assert [transition for _, transition, _ in found] == ["raised", "cleared"] * 2 + ["suppressed"] * 4
    assert found[-1] == ("t0.wear", "suppressed", "suppressed")
    assert [t for _, t, _ in run(layer(budget_per_asset="2/day", severity="critical"), *rows)].count("raised") == 6
    other = layer(budget_per_asset="2/day")
    run(other, *rows, (0, 12, 0.1))
    assert run(other, (2, 1, 0.95)) == [("t2.wear", "raised", "unacknowledged")]  # another asset has its own
    assert run(other, (0, 13 * 3600, 0.1), (0, 13 * 3600 + 1, 0.95)) == [("t0.wear", "raised", "unacknowledged")]


def test_limits_know_no_budget() -> None:
    made = AlarmLayer(TAGS)
    made.add("wear", AlarmConfig.model_validate({"budget_per_asset": "1/day"}), limits=True)
    rows = [(0, t, 0.95 if t % 2 else 0.1) for t in range(12)]
    assert [t for _, t, _ in told(made.update(scores(*rows), T0))].count("raised") == 6


def test_one_batch_may_hold_several_models_and_alarms() -> None:
    made = layer()
    made.add("other", AlarmConfig(severity="critical"))
    both = pa.Table.from_batches([scores((0, 0, 0.95)), scores((0, 0, 0.95), model="other", alarm="x"), scores((1, 1, 0.95))])
    found = made.update(both.combine_chunks().to_batches()[0], T0)
    assert sorted(alarm for alarm, _, _ in told(found)) == ["t0.wear", "t0.x", "t1.wear"]
    assert [entry.alarm for entry in made.active()] == ["t0.x", "t1.wear", "t0.wear"]  # critical first, then the newest


def test_scores_about_an_asset_raise_alarms_about_it() -> None:
    made = layer()
    batch = make_batch(
        "score", 2, time=np.array([T0, T0 + S]), seq=[4, 5], asset="acme/osaka/press", score=[0.1, 0.95], limit=0.9, model="wear",
        alarm="wear", contributions='{"t0": 1}',
    )  # fmt: skip
    found = made.update(batch, T0)
    assert found is not None
    (row,) = found.to_pylist()
    assert (row["tag"], row["asset"], row["subject"], row["alarm"]) == (None, "acme/osaka/press", "press", "wear")
    assert row["contributions"] == '{"t0": 1}'
    fresh = layer()
    fresh.restore(made.snapshot())
    assert told(fresh.update(batch.slice(0, 1), T0)) == [("wear", "cleared", "returned")]


def test_acknowledging() -> None:
    made = layer()
    run(made, (0, 0, 0.95), (1, 0, 0.95))
    first, second = (entry.id for entry in made.active())
    assert told(made.command(Command("acknowledge", "mqtt", {"id": first}), T0 + S).alerts) == [
        ("t0.wear", "acknowledged", "acknowledged")
    ]
    assert made.command(Command("acknowledge", "mqtt", {"id": first}), T0 + S) == (None, None)
    assert run(made, (0, 2, 0.1), (1, 2, 0.1)) == [("t0.wear", "cleared", "normal"), ("t1.wear", "cleared", "returned")]
    assert [entry.id for entry in made.active()] == [second]
    assert told(made.command(Command("acknowledge", "mqtt", {"id": second}), T0).alerts) == [
        ("t1.wear", "acknowledged", "normal")
    ]
    assert made.active() == []
    with pytest.raises(KeyError, match="no open alarm"):
        made.command(Command("acknowledge", "mqtt", {"id": second}), T0)
    with pytest.raises(ValueError, match="no command"):
        made.command(Command("reboot", "mqtt"), T0)


def test_shelving_ends_by_itself_and_holds_back_what_comes_meanwhile() -> None:
    made = layer()
    run(made, (0, 0, 0.95))
    (entry,) = made.active()
    with pytest.raises(ValueError, match="needs its unit"):
        made.command(Command("shelve", "mqtt", {"id": entry.id, "for": "8"}), T0)
    assert told(made.command(Command("shelve", "mqtt", {"id": entry.id, "for": "10s"}), T0).alerts) == [
        ("t0.wear", "shelved", "shelved")
    ]
    assert run(made, (0, 2, 0.1)) == [("t0.wear", "cleared", "normal")]
    assert run(made, (0, 4, 0.95)) == [("t0.wear", "suppressed", "shelved")]
    late = scores((1, 11, 0.1))
    assert told(made.update(late, T0 + 11 * S)) == [("t0.wear", "unshelved", "unacknowledged")]
    assert made.update(late, T0 + 12 * S) is None
    again = made.active()[0].id
    made.command(Command("shelve", "mqtt", {"id": again}), T0 + 12 * S)
    assert told(made.command(Command("unshelve", "mqtt", {"id": again}), T0 + 13 * S).alerts) == [
        ("t0.wear", "unshelved", "unacknowledged")
    ]


def trouble(made: AlarmLayer, active: bool, now: int, severity: Any = "critical") -> list[tuple[str, str, str]]:
    return told(
        made.condition(
            "device_unreachable.press-07", subject="press-07", asset="acme/osaka/gw", active=active, now=now, severity=severity,
            problem="press-07 cannot be read", action="Check the cable",
        )
    )  # fmt: skip


def test_the_gateways_own_troubles_have_the_same_states() -> None:
    made = AlarmLayer([])
    name = "device_unreachable.press-07"
    assert trouble(made, False, T0) == []
    assert trouble(made, True, T0) == [(name, "raised", "unacknowledged")]
    assert trouble(made, True, T0 + S) == []
    assert trouble(made, True, T0 + S, "warning") == [(name, "changed", "unacknowledged")]
    assert trouble(made, False, T0 + 2 * S) == [(name, "cleared", "returned")]
    assert trouble(made, False, T0 + 3 * S) == []
    assert trouble(made, True, T0 + 4 * S) == [(name, "raised", "unacknowledged")]


def rows_of(*batches: pa.RecordBatch | None) -> list[pa.RecordBatch]:
    return [batch for batch in batches if batch is not None]


def test_rows_scored_again_after_a_crash_tell_nothing_twice() -> None:
    made = layer()
    run(made, (0, 0, 0.95))
    state = made.snapshot()
    lost = scores((0, 1, 0.1), (1, 2, 0.95), (1, 3, 0.1), (2, 4, 0.95), first_seq=1)
    durable = made.update(lost.slice(0, 3), T0)  # the row of the last alarm never became durable
    acknowledged = made.command(Command("acknowledge", "mqtt", {"id": made.active()[0].id}), T0).alerts
    again = layer()
    again.restore(state)
    again.replay(rows_of(durable, acknowledged))
    assert told(again.update(lost, T0)) == [("t2.wear", "raised", "unacknowledged")]
    # The control: without the replay everything is told once more.
    control = layer()
    control.restore(state)
    assert len(told(control.update(lost, T0))) == 4


def test_without_a_state_the_durable_rows_say_what_is_open() -> None:
    made = layer(off_delay="1s")
    raised = made.update(scores((0, 0, 0.95), (1, 0, 0.95), (2, 0, 0.95)), T0)
    cleared = made.update(scores((1, 1, 0.1), (1, 2, 0.1), first_seq=3), T0)
    device = made.condition("d", subject="press-07", asset="g", active=True, now=T0, severity="critical", problem="p", action="a")
    cold = layer(off_delay="1s")
    cold.replay(rows_of(raised, cleared, device))
    assert {entry.alarm: entry.state for entry in cold.active()} == {
        "d": "unacknowledged", "t0.wear": "unacknowledged", "t1.wear": "returned", "t2.wear": "unacknowledged"
    }  # fmt: skip
    assert run(cold, (0, 10, 0.95), first_seq=9) == []
    found = cold.update(scores((0, 11, 0.1), (0, 12, 0.1), first_seq=10), T0)
    assert told(found) == [("t0.wear", "cleared", "returned")]
    assert found is not None
    assert raised is not None
    assert found.column("id").to_pylist() == raised.column("id").to_pylist()[:1]
    gone = cold.condition(
        "d", subject="press-07", asset="g", active=False, now=T0 + S, severity="critical", problem="p", action="a"
    )
    assert gone is not None
    assert device is not None
    assert gone.column("id") == device.column("id")


def test_a_model_that_lost_its_state_keeps_its_open_alarms() -> None:
    made = layer()
    state = made.snapshot()
    raised = made.update(scores((0, 0, 0.95)), T0)
    again = layer()
    again.restore(state)
    again.replay(rows_of(raised), fresh={"wear"})
    assert run(again, (0, 1, 0.95)) == []
    assert run(again, (0, 2, 0.1)) == [("t0.wear", "cleared", "returned")]


def test_a_damaged_state_changes_nothing() -> None:
    made = layer()
    run(made, (0, 0, 0.95))
    state = made.snapshot()
    for bad in (b"", state[:-5], state.replace(b"alarms", b"alarmz")):
        with pytest.raises(StateMismatch):
            made.restore(bad)
    assert made.snapshot() == state


def test_what_was_about_tags_that_are_gone_is_dropped() -> None:
    made = layer()
    run(made, (0, 0, 0.95), (2, 0, 0.95))
    fewer = AlarmLayer(TAGS[:2])
    fewer.add("wear", AlarmConfig())
    fewer.restore(made.snapshot())
    assert [entry.alarm for entry in fewer.active()] == ["t0.wear"]
    with pytest.raises(ValueError, match="was not given"):
        fewer.update(scores((2, 0, 0.95)), T0)


def test_ids_do_not_depend_on_when_or_where_it_ran() -> None:
    found = layer().update(scores((0, 0, 0.95), first_seq=123), T0)
    other = layer(severity="critical").update(scores((1, 0, 0.1), (0, 9, 0.95), first_seq=122), T0 + 5)
    assert found is not None
    assert other is not None
    assert found.column("id") == other.column("id")


def test_the_snapshot_is_small_while_all_is_well() -> None:
    made = layer()
    for t in range(100):
        made.update(scores((0, t, 0.1), (1, t, 0.2)), T0)
    assert len(made.snapshot()) < 400
    assert json.loads(made.snapshot()[8 : 8 + int.from_bytes(made.snapshot()[4:8], "little")])["kind"] == "alarms"
