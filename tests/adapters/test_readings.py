"""One vector of raw values becomes a telemetry batch: the right column, scaled, named, and null where it is bad."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import BoundTag, TagConfig
from adapters.readings import Readings
from schemas import quality as q
from schemas.kinds import TELEMETRY, Origin
from schemas.tags import Tag, ValueType

T0 = 1_767_225_600_000_000


def tag(number: int, value_type: ValueType = "number", **config: Any) -> BoundTag[TagConfig]:
    options = TagConfig.model_validate({"address": "a", "type": "t"} | config)
    name = f"t{number}"
    resolved = Tag(
        path=f"acme/osaka/{name}", asset="acme/osaka", name=name, adapter="plc", device="plc", address="a", value_type=value_type,
        enum=options.enum or {}, id=100 + number,
    )  # fmt: skip
    return BoundTag(resolved, options, "plc")


def batch(readings: Readings, values: list[float], quality: list[int] | None = None, **more: Any) -> pa.RecordBatch:
    codes = np.array(quality if quality is not None else [q.GOOD] * len(values), dtype=np.uint32)
    made = readings.batch(values=np.array(values, dtype=np.float64), quality=codes, time_us=T0, **more)
    made.validate(full=True)
    assert made.schema.equals(TELEMETRY, check_metadata=True)
    return made


def column(batch: pa.RecordBatch, name: str) -> list[Any]:
    return list(batch.column(name).to_pylist())


def test_numbers_are_scaled_and_carry_time_tag_and_origin() -> None:
    made = batch(Readings([tag(0), tag(1, scale=0.1, offset=-40)]), [21.5, 523], lag_ms=7, origin=Origin.REPLAY)
    assert column(made, "value") == pytest.approx([21.5, 12.3])
    assert column(made, "tag") == [100, 101]
    assert made.column("time").cast(pa.int64()).to_pylist() == [T0, T0]
    assert (column(made, "lag"), column(made, "origin"), column(made, "quality")) == ([7, 7], [Origin.REPLAY] * 2, [q.GOOD] * 2)
    assert column(made, "text") == column(made, "value_int") == column(made, "samples") == [None, None]


def test_each_value_type_has_its_column() -> None:
    readings = Readings([tag(0), tag(1, "integer"), tag(2, "text"), tag(3, "samples")])
    made = batch(
        readings,
        [1.5, 0, 0, 0],
        integers=np.array([0, 2**53 + 1, 0, 0], dtype=np.int64),
        texts={2: "läuft"},
        samples={3: np.array([1, 2.5], dtype=np.float32)},
    )
    assert column(made, "value") == [1.5, None, None, None]
    assert column(made, "value_int") == [None, 2**53 + 1, None, None]
    assert column(made, "text") == [None, None, "läuft", None]
    assert column(made, "samples") == [None, None, None, [1.0, 2.5]]


def test_a_bad_row_has_no_value_in_any_column_and_an_uncertain_one_has() -> None:
    readings = Readings([tag(0), tag(1, "integer"), tag(2, "text"), tag(3, enum={1: "run"}), tag(4)])
    made = batch(
        readings,
        [1, 1, 1, 1, 1],
        [q.BAD_TIMEOUT] * 4 + [q.UNCERTAIN],
        integers=np.ones(5, dtype=np.int64),
        texts={2: "x"},
    )
    assert column(made, "value") == [None] * 4 + [1.0]
    assert column(made, "value_int") == column(made, "text") == [None] * 5
    assert column(made, "quality") == [q.BAD_TIMEOUT] * 4 + [q.UNCERTAIN]


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf, 1e308])
def test_what_is_no_finite_number_is_a_failed_sensor(broken: float) -> None:
    made = batch(Readings([tag(0, scale=10.0), tag(1, "text"), tag(2)]), [broken, broken, 3], texts={1: ""})
    assert column(made, "value") == [None, None, 3.0]
    assert column(made, "quality") == [q.BAD_SENSOR_FAILURE, q.GOOD, q.GOOD], "the number beside a text means nothing"
    assert column(made, "text") == [None, "", None], "an empty text is a text"


def test_enum_names_stand_beside_their_numbers() -> None:
    states, other = {0: "idle", 2: "run", -1: "fault"}, {0: "closed", 1: "open"}
    readings = Readings(
        [tag(0, enum=states), tag(1), tag(2, enum=other), tag(3, enum=states), tag(4, enum=states), tag(5, enum=states)]
    )
    made = batch(readings, [2, 0, 1, -1, 7, 0.5])
    assert column(made, "value") == [2, 0, 1, -1, 7, 0.5]
    assert column(made, "text") == ["run", None, "open", "fault", None, None]
    assert column(batch(readings, [math.nan] * 6), "text") == [None] * 6


def test_some_rows_of_a_subscription_in_any_order_and_twice() -> None:
    readings = Readings([tag(0, scale=2.0), tag(1, "text"), tag(2, enum={1: "run"}), tag(3, "integer")])
    rows = np.array([2, 0, 3, 1, 2], dtype=np.intp)
    made = batch(readings, [1, 1, 0, 0, 0], rows=rows, texts={3: "x"}, integers=np.array([0, 0, 9, 0, 0], dtype=np.int64))
    assert column(made, "tag") == [102, 100, 103, 101, 102]
    assert column(made, "value") == [1, 2, None, None, 0]
    assert column(made, "value_int") == [None, None, 9, None, None]
    assert column(made, "text") == ["run", None, None, "x", None]


def test_the_device_may_say_what_a_value_is() -> None:
    made = batch(
        Readings([tag(0), tag(1)]),
        [1.5, 0],
        numeric=np.array([True, False]),
        integral=np.array([False, True]),
        integers=np.array([0, 5], dtype=np.int64),
    )
    assert (column(made, "value"), column(made, "value_int")) == ([1.5, None], [None, 5])


@given(
    st.lists(
        st.tuples(st.floats(), st.sampled_from([q.GOOD, q.UNCERTAIN, q.BAD_TIMEOUT]), st.booleans()), min_size=1, max_size=30
    )
)
def test_a_row_has_a_value_exactly_when_it_is_not_bad(rows: list[tuple[float, int, bool]]) -> None:
    readings = Readings([tag(n, enum={0: "off", 1: "on"} if enum else None) for n, (_, _, enum) in enumerate(rows)])
    made = batch(readings, [value for value, _, _ in rows], [code for _, code, _ in rows])
    texts = column(made, "text")
    for value, code, text, (raw, before, enum) in zip(column(made, "value"), column(made, "quality"), texts, rows, strict=True):
        assert (value is None) == (code >= q.BAD)
        assert code == before or (code == q.BAD_SENSOR_FAILURE and not math.isfinite(raw))
        assert value is None or value == raw
        assert text == ({0: "off", 1: "on"}.get(raw) if enum and value is not None else None)


def test_a_batch_of_ten_thousand_named_tags_takes_a_few_milliseconds() -> None:
    readings = Readings([tag(n, enum={0: "idle", 1: "run"}, scale=1.0) for n in range(10_000)])
    values, quality = np.ones(10_000), np.zeros(10_000, dtype=np.uint32)
    took = []
    for _ in range(5):
        began = time.perf_counter()
        made = readings.batch(values=values, quality=quality, time_us=T0)
        took.append(time.perf_counter() - began)
    assert made.column("text").to_pylist() == ["run"] * 10_000
    assert min(took) < 5e-3
