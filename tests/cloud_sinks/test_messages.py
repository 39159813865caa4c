"""Messages: every row of every kind fits its published schema, says its times twice, and never holds what JSON cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cloud_sinks.messages import MESSAGES, Messages, payload, rows, schema_text, utc
from schemas.kinds import KINDS, Kind, make_batch, with_seq
from tests.cloud_sinks.json_schema import problems
from tests.conformance.sink import T0, Tags, batch_of, span_of

ROOT = Path(__file__).parents[2]
TAGS = Tags("acme/osaka/press/temp", "acme/osaka/press/主モータ", label="Main motor")
MADE = Messages(TAGS, enterprise="acme", site="osaka", zone=ZoneInfo("Asia/Tokyo"))


def message(kind: Kind, **columns: object) -> dict[str, Any]:
    (row,) = rows([with_seq(make_batch(kind, 1, **{"time": T0, **columns}), 7)])
    found: dict[str, Any] = json.loads(payload(MADE.of(row, span_of(kind, 7, 1))))
    assert problems(found, json.loads(schema_text(kind))) == []
    return found


ALERT: dict[str, object] = {
    "id": "x", "alarm": "high", "state": "unacknowledged", "transition": "raised", "severity": "critical", "problem": "too hot",
    "asset": "acme/osaka/press", "since": T0 - 1_500_000,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_published_schema_is_fresh(kind: Kind) -> None:
    published = (ROOT / "docs" / "schemas" / f"{kind}.schema.json").read_text(encoding="utf-8")
    assert published == schema_text(kind), "run: python -m cloud_sinks.messages docs/schemas"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_fits_its_schema(kind: Kind) -> None:
    schema = json.loads(schema_text(kind))
    for row in rows([batch_of(kind, 0, 10, TAGS)]):
        made = json.loads(payload(MADE.of(row, span_of(kind, 0, 10))))
        assert problems(made, schema) == []
        assert made.keys() <= schema["properties"].keys()
        assert {"version", "time", "enterprise", "site", "gateway", "epoch", "kind", "row"} <= made.keys()
        assert None not in made.values()


def test_the_schema_checker_finds_what_is_wrong() -> None:
    """The control of the tests above."""
    schema = json.loads(schema_text("alert"))
    good = message("alert", **ALERT)
    wrong: list[dict[str, object]] = [
        {"severity": "urgent"}, {"time": "2026-01-01T00:00:00"}, {"row": "7"}, {"row": True}, {"version": 2}, {"expected": {"low": "0"}},
        {"context": [[1, 2.0, 3]]}, {"contributions": {"a": "b"}},
    ]  # fmt: skip
    for change in wrong:
        assert problems({**good, **change}, schema), change
    assert problems({name: value for name, value in good.items() if name != "problem"}, schema)


def test_every_field_is_described() -> None:
    for kind in KINDS:
        for name, field in MESSAGES[kind].model_fields.items():
            assert field.description, (kind, name)


def test_times_are_said_in_utc_and_on_the_plants_clock() -> None:
    made = message("alert", **ALERT)
    assert made["time"] == "2026-01-01T00:00:00.000000Z"
    assert made["local_time"] == "2026-01-01T09:00:00.000000+09:00"
    assert made["local_since"] == "2026-01-01T08:59:58.500000+09:00"


def test_local_time_is_unambiguous_when_clocks_go_back() -> None:
    new_york = Messages(TAGS, enterprise="acme", site="osaka", zone=ZoneInfo("America/New_York"))
    said = []
    for time_us in (1_793_511_000_000_000, 1_793_514_600_000_000):  # 2026-11-01 05:30 and 06:30 UTC
        (row,) = rows([with_seq(make_batch("alert", 1, **{**ALERT, "time": time_us}), 0)])
        said.append(json.loads(payload(new_york.of(row, span_of("alert", 0, 1))))["local_time"])
    assert said == ["2026-11-01T01:30:00.000000-04:00", "2026-11-01T01:30:00.000000-05:00"]


def test_an_alert_has_its_tag_in_words_and_its_unit_both_ways() -> None:
    made = message("alert", **ALERT, tag=1, unit="Cel", low=None, high=90.0, value=95.5)
    assert made["tag"] == "acme/osaka/press/主モータ"
    assert made["label"] == "Main motor"
    assert (made["unit"], made["unit_code"]) == ("°C", "Cel")
    assert made["expected"] == {"high": 90.0}
    assert "主モータ".encode() in payload(
        MADE.of(next(rows([with_seq(make_batch("alert", 1, **ALERT, time=T0, tag=1), 7)])), span_of("alert", 7, 1))
    )


def test_an_alert_about_no_tag_leaves_out_what_does_not_apply() -> None:
    made = message("alert", **{**ALERT, "since": None, "asset": None}, unit="1")
    assert not made.keys() & {"tag", "label", "unit", "unit_code", "expected", "since", "local_since", "asset", "value", "score"}


def test_context_and_contributions_are_json_inside_json() -> None:
    made = message("alert", **ALERT, context="[[1, 2.5], [2, null]]", contributions='{"acme/osaka/press/temp": 0.8}')
    assert made["context"] == [[1, 2.5], [2, None]]
    assert made["contributions"] == {"acme/osaka/press/temp": 0.8}
    with pytest.raises(ValueError, match=r"Expecting|JSON"):
        message("alert", **ALERT, context="[[1,")


def test_a_row_that_no_message_can_say_is_refused() -> None:
    with pytest.raises(ValidationError):
        message("alert", **{**ALERT, "state": "unheard of"})


def test_readings() -> None:
    made = message(
        "telemetry", tag=0, value_int=2**63 - 1, quality=0x808A0000, lag=-5, origin=3, value_min=1.0, value_max=2.0, count=9
    )
    assert made["value"] == 2**63 - 1
    assert (made["quality"], made["quality_name"]) == (0x808A0000, "BadNotConnected")
    assert (made["origin"], made["lag_ms"], made["min"], made["max"], made["count"]) == ("downsampled", -5, 1.0, 2.0, 9)
    assert made["unit"] == "Cel"
    assert message("telemetry", tag=0, text="run", value=1.0, quality=0)["text"] == "run"
    assert message("telemetry", tag=0, samples=[[1.0, float("nan")]], quality=0)["samples"] == [1.0, None]
    assert message("telemetry", tag=0, thinned=False, quality=0).keys() & {"thinned", "value"} == set()


@given(st.floats(), st.floats(), st.integers(-(2**63), 2**63 - 1))
def test_no_value_and_no_clock_makes_a_message_that_is_not_json(value: float, low: float, time_us: int) -> None:
    made = message("alert", **{**ALERT, "time": time_us, "since": time_us}, value=value, low=low, score=value)

    def no_constant(name: str) -> None:
        raise AssertionError(name)

    json.loads(json.dumps(made), parse_constant=no_constant)


def test_scores_and_health_keep_the_readings_row_apart_from_their_own() -> None:
    for kind in ("score", "health"):
        (row,) = rows([batch_of(kind, 3, 1, TAGS)])
        made = json.loads(payload(MADE.of(row, span_of(kind, 3, 1))))
        assert (made["row"], made["reading_row"]) == (3, 1003)


def test_utc_keeps_every_microsecond() -> None:
    assert utc(1_700_000_000_123_457) == "2023-11-14T22:13:20.123457Z"
    assert utc(-1) == "1969-12-31T23:59:59.999999Z"
