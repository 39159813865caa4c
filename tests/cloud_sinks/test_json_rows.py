"""The fast way to the JSON of readings says what the slow one says, to the type of each number; what is rare goes the slow way."""

from __future__ import annotations

import json
from dataclasses import replace
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from cloud_sinks.json_rows import JsonRows
from cloud_sinks.messages import Messages, payload, rows
from schemas import quality as q
from schemas.kinds import KINDS, Kind, telemetry, with_seq
from tests.conformance.sink import ODD_NAMES, T0, Tags, batch_of, span_of

PLANT = {"enterprise": 'ac"me', "site": "大阪"}
TAGS = Tags(*(f"acme/osaka/{name}/{name}" for name in ODD_NAMES))
TAGS._tags[0] = replace(TAGS[0], unit="1")
MESSAGES = Messages(TAGS, zone=ZoneInfo("UTC"), **PLANT)
MADE = JsonRows(MESSAGES, TAGS, **PLANT)
ROW = st.tuples(
    st.integers(0, len(TAGS) - 1),
    st.one_of(st.integers(0, 4 * T0), st.integers(-(2**62), 2**62)),
    st.one_of(st.none(), st.floats(), st.integers(-(2**60), 2**60).map(float)),
    st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
    st.one_of(st.none(), st.text(max_size=5)),
    st.sampled_from([0, q.BAD_NO_COMMUNICATION, 0x480, 0x80AB0000, 2**32 - 1]),
    st.integers(0, 3),
    st.one_of(st.none(), st.integers(-(2**31), 2**31 - 1)),
)


def batch(given: list[tuple[object, ...]], first: int = 7) -> pa.RecordBatch:
    tag, time, value, value_int, text, quality, origin, lag = (list(column) for column in zip(*given, strict=True))
    made = telemetry(
        time_us=np.array(time, np.int64), tag=np.array(tag, np.int32), quality=np.array(quality, np.uint32),
        value=value, value_int=value_int, text=text,
    )  # fmt: skip
    for name, column, kind in (("origin", origin, pa.uint8()), ("lag", lag, pa.int32())):
        made = made.set_column(made.schema.get_field_index(name), name, pa.array(column, kind))
    return with_seq(made, first)


def plain(made: pa.RecordBatch, kind: Kind = "telemetry") -> list[dict[str, object]]:
    span = span_of(kind, 7, made.num_rows)
    return [json.loads(payload(MESSAGES.of(row, span))) for row in rows([made])]


@given(st.lists(ROW, min_size=1, max_size=20))
@example(
    [
        (0, T0, -0.0, None, None, 0, 0, None),
        (1, T0, 1e10, None, None, 0, 0, 1),
        (1, T0, -9999999999.0, None, "\x00\ud7ff", 0, 0, 1),
    ]
)
def test_both_ways_say_the_same(given: list[tuple[object, ...]]) -> None:
    made = batch(given)
    found = [json.loads(line) for line in MADE.of(made, span_of("telemetry", 7, len(given))).to_pylist()]
    expected = plain(made)
    assert found == expected
    assert [list(row) for row in found] == [list(row) for row in expected], "and in the same order"
    assert [type(row.get("value")) for row in found] == [type(row.get("value")) for row in expected]


def test_usual_readings_go_the_fast_way_and_rare_ones_do_not() -> None:
    usual = batch([(n % len(TAGS), T0 + n, n * 0.5, None, None, 0, 0, 3) for n in range(50)])
    span = span_of("telemetry", 7, 50)
    assert MADE.readings(usual, span) is not None
    assert MADE.readings(usual.slice(0, 0), span) is not None
    for name, value in (("samples", [1.0, 2.0]), ("value_min", 1.0), ("count", 3)):
        kind = usual.schema.field(name).type
        rare = usual.set_column(usual.schema.get_field_index(name), name, pa.array([None] * 49 + [value], kind))
        assert MADE.readings(rare, span) is None
        assert [json.loads(line) for line in MADE.of(rare, span).to_pylist()] == plain(rare)
    assert MADE.readings(batch([(0, -1, 1.0, None, None, 0, 0, 0)]), span) is None


def test_a_slice_of_a_batch_is_its_own_rows() -> None:
    whole = batch([(n % 3, T0 + n, float(n), None, None, 0, 0, 3) for n in range(50)])
    found = MADE.of(whole.slice(20, 5), span_of("telemetry", 7, 50), end="\n").to_pylist()
    assert [json.loads(line)["row"] for line in found] == [27, 28, 29, 30, 31]
    assert all(line.endswith(b"}\n") for line in found)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind(kind: Kind) -> None:
    made = batch_of(kind, 7, 6, TAGS)
    assert [json.loads(line) for line in MADE.of(made, span_of(kind, 7, 6)).to_pylist()] == plain(made, kind)


def test_a_row_that_no_message_can_say_is_refused() -> None:
    made = batch([(0, T0, 1.0, None, None, 0, 0, 0)])
    made = made.set_column(made.schema.get_field_index("tag"), "tag", pa.array([None], pa.int32()))
    with pytest.raises(ValidationError):
        MADE.of(made, span_of("telemetry", 7, 1))


def test_a_tag_that_is_described_anew_is_said_anew() -> None:
    tags = Tags("acme/osaka/a/x")
    made = JsonRows(Messages(tags, zone=ZoneInfo("UTC"), **PLANT), tags, **PLANT)
    row, span = batch([(0, T0, 1.0, None, None, 0, 0, 0)]), span_of("telemetry", 7, 1)
    assert json.loads(made.of(row, span)[0].as_py())["unit"] == "Cel"
    tags._tags[0] = replace(tags[0], unit="K")
    assert json.loads(made.of(row, span)[0].as_py())["unit"] == "K"
