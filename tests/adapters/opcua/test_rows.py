from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from adapters.opcua.decode import Changes
from adapters.opcua.rows import EPOCH_DIFFERENCE, Rows
from schemas import quality as q
from schemas.kinds import kind_of
from tests.adapters.opcua.rig import bind, configure

NOW = 1_767_225_600_000_000
BOOLEAN, BYTE, INT32, INT64, UINT64, FLOAT, DOUBLE, STRING, DATETIME, BYTES, ODD = 1, 3, 6, 8, 9, 10, 11, 12, 13, 15, 255


def filetime(time_us: int) -> int:
    return EPOCH_DIFFERENCE + time_us * 10


def changes(*items: dict[str, Any]) -> Changes:
    def column(name: str, dtype: Any) -> Any:
        return np.array([item.get(name, 0) for item in items], dtype)

    return Changes(
        handle=column("handle", np.uint32),
        kind=column("kind", np.uint8),
        value=column("value", np.float64),
        integer=column("integer", np.int64),
        status=column("status", np.uint32),
        source=column("source", np.int64),
        server=column("server", np.int64),
        texts={k: item["text"] for k, item in enumerate(items) if "text" in item},
    )


def rows_of(tags: dict[str, Any], *items: dict[str, Any]) -> list[dict[str, Any]]:
    batch = Rows(bind(configure({name: {"address": "i=1"} | tag for name, tag in tags.items()}))).batch(changes(*items), NOW)
    assert batch is not None
    assert kind_of(batch) == "telemetry"
    times = batch.column("time").cast(pa.int64()).to_pylist()
    return [row | {"time": t} for row, t in zip(batch.to_pylist(), times, strict=True)]


def one(tag: dict[str, Any], **item: Any) -> dict[str, Any]:
    (row,) = rows_of({"t": tag}, item)
    return row


@pytest.mark.parametrize(
    ("stamps", "time_us", "lag_ms"),
    [
        ({"source": filetime(NOW - 5_000_000)}, NOW - 5_000_000, 5000),
        ({"source": filetime(NOW - 1_000_000) + 4}, NOW - 1_000_000, 1000),
        ({"source": filetime(NOW - 1_000_000) + 5}, NOW - 999_999, 999),
        ({"source": 0, "server": filetime(NOW - 2000)}, NOW - 2000, 2),
        ({"source": -5, "server": 0}, NOW, 0),
        ({"source": 2**63 - 1}, NOW, 0),
        ({"source": filetime(NOW + 3_000_000)}, NOW + 3_000_000, -3000),
        ({"source": 1}, (1 - EPOCH_DIFFERENCE + 5) // 10, 2**31 - 1),
    ],
)
def test_time_and_lag(stamps: dict[str, int], time_us: int, lag_ms: int) -> None:
    row = one({}, kind=DOUBLE, value=1.0, **stamps)
    assert (row["time"], row["lag"]) == (time_us, lag_ms)


@pytest.mark.parametrize(
    ("tag", "item", "wanted"),
    [
        ({}, {"kind": DOUBLE, "value": 1.5}, {"value": 1.5}),
        ({}, {"kind": BOOLEAN, "value": 1.0}, {"value": 1.0}),
        ({}, {"kind": INT64, "value": 9.0, "integer": 2**60 + 1}, {"value_int": 2**60 + 1}),
        ({}, {"kind": UINT64, "integer": 7, "value": 7.0}, {"value_int": 7}),
        ({"scale": 0.5, "offset": 1}, {"kind": INT64, "value": 4.0, "integer": 4}, {"value": 3.0}),
        ({}, {"kind": STRING, "text": "run"}, {"text": "run"}),
        ({}, {"kind": DATETIME, "integer": filetime(NOW)}, {"text": "2026-01-01T00:00:00Z"}),
        ({}, {"kind": DATETIME, "integer": 0}, {"text": ""}),
        ({"type": "int16"}, {"kind": FLOAT, "value": 2.5}, {"value": 2.5}),
        ({"type": "int16", "scale": 0.1, "offset": -40}, {"kind": INT32, "value": 500.0}, {"value": 10.0}),
        ({"type": "int64"}, {"kind": INT32, "value": 5.0, "integer": 5}, {"value_int": 5}),
        ({"type": "string"}, {"kind": STRING, "text": ""}, {"text": ""}),
        ({"enum": {1: "run"}}, {"kind": INT32, "value": 1.0}, {"value": 1.0, "text": "run"}),
        ({"enum": {1: "run"}}, {"kind": INT32, "value": 2.0}, {"value": 2.0}),
        ({"enum": {0: "idle"}}, {"kind": STRING, "text": "busy"}, {"text": "busy"}),
    ],
)
def test_which_column(tag: dict[str, Any], item: dict[str, Any], wanted: dict[str, Any]) -> None:
    row = one(tag, **item)
    assert row["quality"] == q.GOOD
    assert {name: row[name] for name in ("value", "value_int", "text") if row[name] is not None} == wanted


@pytest.mark.parametrize(
    ("tag", "item", "quality"),
    [
        ({"type": "float64"}, {"kind": STRING, "text": "n/a"}, q.BAD_TYPE_MISMATCH),
        ({"type": "string"}, {"kind": DOUBLE, "value": 1.0}, q.BAD_TYPE_MISMATCH),
        ({"type": "bool"}, {"kind": BYTE, "value": 1.0}, q.BAD_TYPE_MISMATCH),
        ({"type": "int64"}, {"kind": DOUBLE, "value": 1.0}, q.BAD_TYPE_MISMATCH),
        ({"type": "float64"}, {"kind": BYTES, "text": "00ff"}, q.BAD_TYPE_MISMATCH),
        ({}, {"kind": 22}, q.BAD_TYPE_MISMATCH),
        ({}, {"kind": 254}, q.BAD_ENCODING_LIMITS_EXCEEDED),
        ({"type": "array of float32"}, {"kind": DOUBLE, "value": 1.0}, q.BAD_TYPE_MISMATCH),
        ({"type": "array of string"}, {"kind": STRING, "text": "x"}, q.BAD_TYPE_MISMATCH),
        ({}, {"kind": ODD}, q.BAD_TYPE_MISMATCH),
        ({}, {"kind": 0}, q.BAD_NO_DATA),
        ({}, {"kind": 0, "status": q.BAD_NOT_CONNECTED}, q.BAD_NOT_CONNECTED),
        ({}, {"kind": STRING, "text": "x", "status": 0x80AB0123}, 0x80AB0123),
        ({}, {"kind": DOUBLE, "value": float("nan")}, q.BAD_SENSOR_FAILURE),
        ({}, {"kind": FLOAT, "value": float("-inf")}, q.BAD_SENSOR_FAILURE),
        ({"type": "uint64"}, {"kind": UINT64, "value": 2.0**63, "integer": -(2**63)}, q.BAD_OUT_OF_RANGE),
    ],
)
def test_bad_rows_carry_no_value(tag: dict[str, Any], item: dict[str, Any], quality: int) -> None:
    row = one(tag, **item)
    assert row["quality"] == quality
    assert row["value"] is row["value_int"] is row["text"] is None


def test_other_qualities_are_kept_bit_by_bit_beside_the_value() -> None:
    for status in (q.UNCERTAIN_LAST_USABLE_VALUE, q.OVERFLOW, 0x0000_0400, 0x40A4_0480):
        row = one({}, kind=DOUBLE, value=1.0, status=status)
        assert (row["quality"], row["value"]) == (status, 1.0)


def test_one_odd_value_takes_no_other_along() -> None:
    tags: dict[str, Any] = {"a": {"type": "float64"}, "b": {"type": "float64"}, "c": {}}
    found = rows_of(
        tags,
        {"handle": 2, "kind": STRING, "text": "x"},
        {"handle": 0, "kind": STRING, "text": "y"},
        {"handle": 1, "kind": DOUBLE, "value": 4.0},
        {"handle": 2, "kind": DOUBLE, "value": 5.0},
    )
    assert [row["tag"] for row in found] == [102, 100, 101, 102]
    assert [row["value"] for row in found] == [None, None, 4.0, 5.0]
    assert [row["text"] for row in found] == ["x", None, None, None]
    assert [row["quality"] for row in found] == [0, q.BAD_TYPE_MISMATCH, 0, 0]


def test_handles_nobody_asked_for_are_left_out() -> None:
    found = rows_of({"a": {}}, {"handle": 9, "kind": STRING, "text": "?"}, {"handle": 0, "kind": STRING, "text": "ok"})
    assert [(row["tag"], row["text"]) for row in found] == [(100, "ok")]
    assert Rows(bind(configure({"a": "i=1"}))).batch(changes({"handle": 2**32 - 1, "kind": DOUBLE}), NOW) is None


def test_an_overflow_is_a_gap_since_the_value_before() -> None:
    rows = Rows(bind(configure({"a": "i=1", "b": "i=2"})))
    quiet = changes({"handle": 1, "kind": DOUBLE, "source": filetime(NOW - 9_000_000)})
    assert rows.overflows(quiet, NOW, "robot") is None
    rows.batch(quiet, NOW)
    lossy = changes(
        {"handle": 0, "kind": DOUBLE, "source": filetime(NOW)},
        {"handle": 1, "kind": DOUBLE, "source": filetime(NOW), "status": q.OVERFLOW},
    )
    gap = rows.overflows(lossy, NOW, "robot")
    assert gap is not None
    assert kind_of(gap) == "gap"
    (row,) = gap.to_pylist()
    assert (row["tag"], row["cause"], row["source"]) == (101, "overflow", "robot")
    assert (row["end"] - row["time"]).total_seconds() == 9


def test_a_queue_that_dropped_its_newest_values_has_its_gap_before_the_last_one() -> None:
    rows = Rows(bind(configure({"a": "i=1"})))
    times = (NOW, NOW + 1_000_000, NOW + 9_000_000)
    lossy = changes(
        *({"handle": 0, "kind": DOUBLE, "source": filetime(t), "status": q.OVERFLOW * (t == times[2])} for t in times)
    )
    gap = rows.overflows(lossy, NOW, "robot")
    assert gap is not None
    (row,) = gap.to_pylist()
    assert (row["end"] - row["time"]).total_seconds() == 8


def test_bad_rows_for_refused_nodes() -> None:
    batch = Rows(bind(configure({"a": "i=1", "b": "i=2"}))).bad([1], [q.BAD_NODE_ID_UNKNOWN], NOW)
    (row,) = batch.to_pylist()
    assert (row["tag"], row["quality"], row["value"], row["lag"]) == (101, q.BAD_NODE_ID_UNKNOWN, None, 0)
