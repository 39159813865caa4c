"""What rules say, as a plant would see it: alarms that come, stay away, and explain themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from edge_models.base import ModelContext
from edge_models.rules import PLUGIN
from edge_models.runtime import ModelSet
from schemas import quality as q
from schemas.errors import ConfigError
from tests.conformance.model import T0, by_tag, cut, make_tag, readings

S = 1_000_000
TEMP, MODE, FORCE, RECIPE = range(4)


class Press:
    """A press with a temperature, a mode, a force and a recipe; alerts are kept."""

    def __init__(self, rules: Mapping[str, Mapping[str, Any]], **options: Any) -> None:
        config = PLUGIN.config.model_validate({"kind": "rules", "tags": ["**"], "rules": rules, **options})
        plain = {"limits": None, "period_us": S}
        self.tags = [
            make_tag(TEMP, name="motor_temp", label="Motor temperature", **{**plain, "unit": "Cel"}),
            make_tag(MODE, name="mode", enum={0: "idle", 1: "run"}, **{**plain, "unit": "1"}),
            make_tag(FORCE, name="force", **{**plain, "unit": "kN"}),
            make_tag(RECIPE, name="recipe", value_type="text", **{**plain, "unit": "1"}),
        ]
        self.models = ModelSet.build({"press": config}, self.tags, lambda _: PLUGIN)
        self.now, self._seq = T0, 0
        self.alerts: list[dict[str, Any]] = []
        self.contributions: list[str] = []

    def poll(self, *, wait_s: float = 1, quality: int = 0, **values: float | str | None) -> list[tuple[str, str]]:
        """The transitions that one poll brings."""
        self.now += int(wait_s * S)
        names = [tag.name for tag in self.tags]
        numbers = [value if not isinstance(value, str) else None for value in values.values()]
        texts = [value if isinstance(value, str) else None for value in values.values()]
        batch = readings(
            [names.index(name) for name in values], numbers, self.now, text=texts, first_seq=self._seq, quality=quality
        )
        self._seq += len(values)
        return self._keep(self.models.update(batch, self.now))

    def wait(self, seconds: int) -> list[tuple[str, str]]:
        """Nothing arrives."""
        told = []
        for _ in range(seconds):
            self.now += S
            told += self._keep(self.models.tick(self.now))
        return told

    def _keep(self, out: Any) -> list[tuple[str, str]]:
        rows = [row for batch in out.alerts for row in batch.to_pylist()]
        self.alerts += rows
        return [(row["alarm"], row["transition"]) for row in rows]


def test_a_threshold_with_hysteresis_and_delay() -> None:
    press = Press(
        {"hot": {"tag": "motor_temp", "above": 85, "hysteresis": 5, "on_delay": "2s", "severity": "critical", "action": "Stop"}}
    )
    assert press.poll(motor_temp=86) == press.poll(motor_temp=84) == []
    assert press.poll(motor_temp=79) == []  # too short
    assert [press.poll(motor_temp=90) for _ in range(3)] == [[], [], [("motor_temp.hot", "raised")]]
    assert press.poll(motor_temp=81) == press.poll(motor_temp=None, quality=q.BAD_SENSOR_FAILURE) == []
    assert press.poll(motor_temp=80) == [("motor_temp.hot", "cleared")]
    raised = press.alerts[0]
    assert raised["problem"] == "Motor temperature is 90 °C, above 85 °C"
    assert (raised["severity"], raised["action"], raised["value"], raised["high"]) == ("critical", "Stop", 90, 85)


def test_a_delay_ends_though_a_tag_that_reports_by_exception_stays_silent() -> None:
    press = Press({"hot": {"tag": "motor_temp", "above": 85, "on_delay": "10s"}})
    press.poll(motor_temp=90)
    assert press.wait(9) == []
    assert press.wait(1) == [("motor_temp.hot", "raised")]


def test_a_rate_of_change() -> None:
    press = Press({"heats": {"tag": "motor_temp", "rate_above": 0.5, "over": "4s"}})
    slow = [press.poll(motor_temp=20 + 0.4 * k) for k in range(20)]
    assert not any(slow)
    assert press.poll(motor_temp=28.0) == []
    told = [press.poll(motor_temp=28 + 0.7 * k) for k in range(1, 9)]
    assert [one for each in told for one in each] == [("motor_temp.heats", "raised")]
    assert "rises by more than 0.5 °C per second" in press.alerts[0]["problem"]


def test_a_timeout_is_noticed_by_the_rows_of_others_and_by_ticks_and_counts_good_readings_only() -> None:
    press = Press({"silent": {"tag": "force", "timeout": "5s"}})
    press.poll(force=1.0, motor_temp=20)
    told = [one for _ in range(7) for one in press.poll(motor_temp=20, force=None, quality=q.BAD_SENSOR_FAILURE)]
    assert told == [("force.silent", "raised")]
    assert press.alerts[0]["problem"] == "press force has sent no good reading for 5 s"
    assert press.poll(force=1.0) == [("force.silent", "cleared")]
    assert press.wait(4) == []
    assert press.wait(3) == [("force.silent", "raised")]


def test_a_pause_of_everything_is_nobodys_timeout() -> None:
    press = Press({"silent": {"tag": "force", "timeout": "5s"}})
    press.poll(force=1.0, motor_temp=20)
    assert press.poll(wait_s=3600, motor_temp=20) == press.poll(motor_temp=20) == press.poll(force=1.0, motor_temp=20) == []


def test_a_heartbeat_must_change() -> None:
    press = Press({"plc-dead": {"tag": "force", "heartbeat": "5s", "message": "PLC stopped"}})
    assert not any(press.poll(force=float(k)) for k in range(10))
    assert [one for _ in range(8) for one in press.poll(force=9.0)] == [("force.plc-dead", "raised")]
    assert press.alerts[0]["problem"] == "PLC stopped: press force has not changed for 5 s"
    assert press.poll(force=10.0) == [("force.plc-dead", "cleared")]


def test_a_timeout_counts_only_while_its_condition_holds() -> None:
    press = Press({"no-strokes": {"tag": "force", "heartbeat": "5s", "when": "mode == run"}})
    for _ in range(10):
        assert press.poll(force=1.0, mode=0) == []
    told = [press.poll(force=1.0, mode=1) for _ in range(8)]
    assert [one for each in told for one in each] == [("force.no-strokes", "raised")]
    assert press.poll(force=1.0, mode=0) == [("force.no-strokes", "cleared")]


def test_several_conditions_over_tags_of_one_asset() -> None:
    press = Press({"jam": {"when": 'force > 100 and (mode == run or recipe == "heavy duty")', "until": "force < 50"}})
    press.poll(force=120, mode=0, recipe="light", motor_temp=20)
    assert press.poll(force=120, mode=0, recipe="heavy duty", motor_temp=20) == [("force.jam", "raised")]
    assert press.poll(force=60, mode=0, recipe="light", motor_temp=20) == []  # lasts until it says otherwise
    assert press.poll(force=40, mode=1, recipe="light", motor_temp=20) == [("force.jam", "cleared")]
    alert = press.alerts[0]
    assert alert["problem"].startswith("press force is 120 kN, and force > 100 and (")
    assert alert["contributions"] == (
        '{"acme/osaka/press/force": 0.3333, "acme/osaka/press/mode": 0.3333, "acme/osaka/press/recipe": 0.3333}'
    )


@pytest.mark.parametrize("order", [(MODE, FORCE), (FORCE, MODE)])
def test_a_poll_is_never_seen_half(order: Sequence[int]) -> None:
    """Mode and force change together; with each new value beside an old one of the other the rule would hold."""
    press = Press({"idle-force": {"when": "mode == idle and force > 100"}})
    names = {MODE: "mode", FORCE: "force"}
    for mode, force in [(0, 5.0), (1, 150.0)] * 10:
        values = {MODE: mode, FORCE: force}
        assert press.poll(**{names[at]: values[at] for at in order}) == []
    assert press.poll(mode=0, force=150.0) == [("force.idle-force", "raised")] or press.poll(mode=0) == []
    assert press.alerts


def test_a_tag_of_a_slower_scan_class_counts_as_it_was_and_unknown_is_not_false() -> None:
    press = Press({"jam": {"when": "force > 100 or mode == run"}})
    assert press.poll(force=50) == press.poll(force=50) == []
    press.poll(force=150)
    assert press.poll(force=150) == [("force.jam", "raised")]  # judged as the next moment begins: mode may have been under way
    press.poll(force=50)
    assert press.poll(force=50) == []  # mode has never been seen: nobody knows that it is over
    press.poll(force=50, mode=0)
    assert press.alerts[-1]["transition"] == "cleared"


def test_rules_over_several_tags_do_not_depend_on_batches_and_go_on_after_a_restart() -> None:
    rng = np.random.default_rng(4)
    n = 2000
    tags = rng.integers(0, 3, n).astype(np.int32)
    value = np.where(tags == MODE, rng.integers(0, 2, n), rng.normal(100, 40, n))
    time = T0 + np.cumsum(rng.integers(0, 3, n) * rng.integers(0, 2, n)) * S
    stream = readings(tags, value, time, quality=np.where(rng.random(n) < 0.05, q.BAD_TIMEOUT, 0).astype(np.uint32))
    rules = {
        "jam": {"when": "force > 100 and mode == run", "until": "force < 80 or motor_temp < 60", "on_delay": "2s"},
        "hot": {"tag": "motor_temp", "above": 120, "when": "not mode == idle"},
        "quiet": {"tag": "force", "timeout": "3s", "when": "mode == run"},
    }

    def build() -> Any:
        press = Press(rules)
        return PLUGIN.build(PLUGIN.config(kind="rules", rules=rules), ModelContext("press", press.tags))

    whole = build()
    expected = by_tag(whole.update(stream, T0))
    assert {key[1] for key in expected} == set(rules)
    assert all({row[4] for row in rows} >= {float(0).hex(), float(1).hex()} for rows in expected.values())
    for seed, most in ((1, 40), (2, 3), (3, 2)):
        model, found = build(), []
        for part in cut(stream, seed, most):
            found += model.update(part, T0)
            again = build()
            again.restore(model.snapshot())
            model = again
        assert by_tag(found) == expected


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"tag": "force"}, "what is wrong with the tag is missing"),
        ({"above": 3}, "above/below needs `tag`"),
        ({"tag": "force", "above": 3, "timeout": "5s"}, "above/below and timeout in one rule"),
        ({}, "a rule needs `tag` with a check, or `when`"),
        ({"when": "force >"}, "position 8"),
        ({"tag": "force", "above": 1, "until": "force < 1"}, "a threshold takes `hysteresis`"),
        ({"tag": "force", "timeout": "5s", "on_delay": "1s"}, "leave `on_delay` away"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_with_the_way_out(rule: Mapping[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said.replace("/", "/")):
        Press({"r": rule})


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"when": "pressure > 3"}, "acme/osaka/press has no tag 'pressure'; of the model's tags it has force, mode"),
        ({"tag": "zone*", "above": 3}, "has no tag 'zone\\*'"),
        ({"when": "mode == jog"}, "is never 'jog'"),
        ({"tag": "force", "timeout": "1s"}, "write 2s or more"),
    ],
)
def test_a_rule_that_fits_no_asset_names_what_is_there(rule: Mapping[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        Press({"r": rule})
    assert caught.value.where.startswith("models.press.rules.r")


def test_a_changed_rule_starts_anew_and_the_others_go_on() -> None:
    press = Press({"hot": {"tag": "motor_temp", "above": 85}, "hard": {"tag": "force", "above": 100}})
    press.poll(motor_temp=90, force=120)
    old = PLUGIN.build(
        PLUGIN.config(
            kind="rules",
            rules={"hot": {"tag": "motor_temp", "above": 85}, "hard": {"tag": "force", "above": 100, "hysteresis": 50}},
        ),
        ModelContext("m", press.tags),
    )
    old.update(readings([TEMP, FORCE], [90.0, 120.0], T0), T0)
    new = PLUGIN.build(
        PLUGIN.config(
            kind="rules",
            rules={
                "hot": {"tag": "motor_temp", "above": 80, "hysteresis": 50},
                "hard": {"tag": "force", "above": 100, "hysteresis": 50},
            },
        ),
        ModelContext("m", press.tags),
    )
    new.restore(old.snapshot())
    found = new.update(readings([TEMP, FORCE], [70.0, 70.0], T0 + S, first_seq=2), T0)
    assert {row["alarm"]: row["score"] for batch in found for row in batch.to_pylist()} == {"hot": 0.0, "hard": 1.0}
