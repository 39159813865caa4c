"""Batches: every kind can be made, names itself, keeps what went in, and survives Arrow IPC."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from schemas.kinds import KINDS, PRIORITY, SCHEMAS, Kind, Origin, kind_of, make_batch, telemetry, with_seq

VALUES = {
    "timestamp[us, tz=UTC]": st.integers(-(2**62), 2**62),
    "int32": st.integers(-(2**31), 2**31 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "uint32": st.integers(0, 2**32 - 1),
    "uint8": st.integers(0, 255),
    "double": st.floats(allow_nan=False),
    "bool": st.booleans(),
    "string": st.text(max_size=10),
    "list<item: float>": st.lists(st.floats(width=32, allow_nan=False), max_size=3),
}


@given(st.data(), st.sampled_from(KINDS), st.integers(0, 5))
def test_what_goes_into_a_batch_comes_out(data: st.DataObject, kind: Kind, rows: int) -> None:
    columns = {
        field.name: data.draw(st.lists(st.none() | VALUES[str(field.type)], min_size=rows, max_size=rows), label=field.name)
        for field in SCHEMAS[kind]
    }
    batch = make_batch(kind, rows, **columns)
    assert kind_of(batch) == kind
    assert batch.schema.equals(SCHEMAS[kind], check_metadata=True)
    for field in SCHEMAS[kind]:
        column = batch.column(field.name)
        column = column.view(pa.int64()) if pa.types.is_timestamp(field.type) else column
        assert column.to_pylist() == columns[field.name]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    back = pa.ipc.open_stream(sink.getvalue()).read_next_batch() if rows else batch
    assert back.equals(batch)
    assert kind_of(back) == kind


@given(st_numpy.arrays(np.int64, st.integers(0, 20), elements=st.integers(-(2**62), 2**62)))
def test_times_are_microseconds_and_stay_exact(time_us: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
    tag = np.arange(len(time_us), dtype=np.int32)
    batch = telemetry(time_us=time_us, tag=tag, value=tag.astype(np.float64))
    assert batch.column("time").view(pa.int64()).to_pylist() == time_us.tolist()
    assert batch.column("tag").to_pylist() == tag.tolist()
    assert set(batch.column("quality").to_pylist()) <= {0}
    assert set(batch.column("origin").to_pylist()) <= {Origin.LIVE}
    assert batch.column("text").null_count == len(time_us)
    again = telemetry(time_us=time_us.astype("datetime64[us]"), tag=tag, value=tag.astype(np.float64))
    assert again.equals(batch)


@given(st.sampled_from(KINDS), st.integers(0, 5), st.integers(0, 2**62))
def test_with_seq_numbers_rows_and_changes_nothing_else(kind: Kind, rows: int, first: int) -> None:
    batch = make_batch(kind, rows)
    numbered = with_seq(batch, first)
    name = numbered.schema.names[-1]
    assert name == ("row" if "seq" in batch.schema.names else "seq")
    assert numbered.column(name).to_pylist() == list(range(first, first + rows))
    assert numbered.drop_columns([name]).equals(batch)
    assert kind_of(numbered) == kind


def test_scalars_are_repeated_and_other_columns_are_null() -> None:
    batch = make_batch("event", 3, time=1, event="adapter_up", severity="info")
    assert batch.column("event").to_pylist() == ["adapter_up"] * 3
    assert batch.column("tag").null_count == 3


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"tags": [1, 2]}, r"telemetry has no column \['tags'\]"),
        ({"tag": [1]}, "column 'tag' has 1 rows, the batch 2"),
        ({"tag": np.array([2**40, 0])}, "2147483647|out of bounds|not in range"),
        ({"time": np.array([1.5, 2.5])}, "times are µs as integers, or datetime64, not float64"),
        ({"quality": np.array([-1, 0])}, "out of bounds|not in range"),
    ],
)
def test_what_does_not_fit_is_refused(columns: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_batch("telemetry", 2, **columns)


def test_nanoseconds_are_not_taken_for_microseconds() -> None:
    batch = make_batch("telemetry", 1, time=np.array(["2026-01-01T00:00:00"], "datetime64[ns]"))
    assert batch.column("time").view(pa.int64()).to_pylist() == [1_767_225_600_000_000]


def test_a_batch_without_a_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="names no known kind: ''"):
        kind_of(pa.record_batch({"a": [1]}))
    with pytest.raises(ValueError, match="'weather'"):
        kind_of(pa.record_batch({"a": [1]}).replace_schema_metadata({"genba.kind": "weather"}))


def test_every_kind_has_a_schema_a_time_and_a_priority() -> None:
    assert set(KINDS) == set(SCHEMAS) == set(PRIORITY)
    assert len(PRIORITY) == len(KINDS)
    assert PRIORITY[0] == "alert"
    assert {schema.names[0] for schema in SCHEMAS.values()} == {"time"}
