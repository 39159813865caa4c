"""Rules are a union, defaults go by kind of sink, and a thinned row goes nowhere."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pytest

from gateway.router import Router, destinations
from schemas.kinds import Kind, make_batch
from tests.gateway.samples import make_tag, rows

SINKS = {"alerts": "mqtt", "lake": "parquet", "hot": "kinesis"}


@dataclass(frozen=True)
class Rule:
    data: Kind
    to: tuple[str, ...]
    tags: tuple[str, ...] = ()


def test_without_rules_each_kind_goes_to_the_sinks_that_fit_it():
    found = destinations(None, SINKS)
    assert found["telemetry"] == ("lake",)
    assert found["alert"] == ("alerts", "lake")
    assert found["score"] == ()


def test_a_kind_named_in_a_rule_loses_its_default_and_others_keep_theirs():
    found = destinations([Rule("telemetry", ("hot",))], SINKS)
    assert found["telemetry"] == ("hot",)
    assert found["gap"] == ("lake",)


def test_an_empty_destination_sends_a_kind_nowhere_on_purpose():
    assert destinations([Rule("alert", ())], SINKS)["alert"] == ()


def test_rules_are_a_union_and_patterns_narrow_only_their_own_sink():
    tags = [make_tag(0, name="vibration"), make_tag(1, name="temp")]
    router = Router([Rule("telemetry", ("lake",)), Rule("telemetry", ("hot",), ("**/vibration",))], SINKS, tags)
    batch = rows([0, 1, 0], [1.0, 2.0, 3.0])
    assert router.destinations["telemetry"] == ("lake", "hot")
    assert router.select("telemetry", "lake", batch) is batch
    assert router.select("telemetry", "hot", batch).column("value").to_pylist() == [1.0, 3.0]


def test_two_rules_with_patterns_for_one_sink_add_up():
    tags = [make_tag(0, name="a"), make_tag(1, name="b"), make_tag(2, name="c")]
    router = Router([Rule("telemetry", ("hot",), ("**/a",)), Rule("telemetry", ("hot",), ("**/c",))], SINKS, tags)
    assert router.select("telemetry", "hot", rows([0, 1, 2], [1.0, 2.0, 3.0])).column("tag").to_pylist() == [0, 2]


def test_thinned_rows_go_to_no_sink():
    batch = rows([0, 0], [1.0, 1.01])
    position = batch.schema.get_field_index("thinned")
    batch = batch.set_column(position, batch.schema.field("thinned"), pa.array([None, True]))
    assert Router(None, SINKS, [make_tag(0)]).select("telemetry", "lake", batch).column("value").to_pylist() == [1.0]


@pytest.mark.parametrize(("patterns", "expected"), [((), 1), (("**/t0",), 0)])
def test_rows_without_a_tag_fit_only_rules_without_patterns(patterns, expected):
    event = make_batch("event", 1, time=0, event="gateway_started", source="gateway")
    router = Router([Rule("event", ("lake",), patterns)], SINKS, [make_tag(0)])
    assert router.select("event", "lake", event).num_rows == expected


def test_a_tag_that_is_newer_than_the_rules_is_passed_over_by_patterns():
    router = Router([Rule("telemetry", ("hot",), ("**/t0",))], SINKS, [make_tag(0)])
    assert router.select("telemetry", "hot", rows([0, 9], [1.0, 2.0])).num_rows == 1
