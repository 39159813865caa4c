"""Batches to record bodies and back, bit by bit."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.spool.codec import Decoder, Encoder, Undecodable
from schemas.kinds import KINDS, SCHEMAS, Kind, make_batch

from .conftest import readings


def of_type(type_: pa.DataType) -> st.SearchStrategy[object]:
    if pa.types.is_boolean(type_):
        return st.booleans()
    if pa.types.is_string(type_):
        return st.text(max_size=5)
    if pa.types.is_list(type_):
        return st.lists(st.floats(width=32), max_size=4)
    if pa.types.is_floating(type_):
        return st.one_of(st.floats(), st.just(-0.0), st.just(0.0))
    if pa.types.is_timestamp(type_):
        return st.integers(-(2**62), 2**62)
    bits = type_.bit_width
    return (
        st.integers(0, 2**bits - 1)
        if pa.types.is_unsigned_integer(type_)
        else st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    )


@st.composite
def batches_of(draw: st.DrawFn) -> tuple[Kind, list[pa.RecordBatch]]:
    """A kind and some batches of it; some are slices, some columns are all null or all zero."""
    kind = draw(st.sampled_from(KINDS))
    schema = SCHEMAS[kind]
    manner = {field.name: draw(st.sampled_from(["null", "zero", "some", "all"])) for field in schema}
    out = []
    for _ in range(draw(st.integers(1, 3))):
        rows = draw(st.integers(1, 6))
        columns = {}
        for field in schema:
            value = of_type(field.type)
            if manner[field.name] == "zero" and pa.types.is_primitive(field.type):
                value = st.just(False if pa.types.is_boolean(field.type) else 0)
            elif manner[field.name] == "some":
                value = st.one_of(st.none(), value)
            if manner[field.name] != "null":
                columns[field.name] = pa.array(draw(st.lists(value, min_size=rows, max_size=rows)), field.type)
        batch = make_batch(kind, rows, **columns)
        skip = draw(st.integers(0, rows - 1))
        out.append(batch.slice(skip))
    return kind, out


def bits(batch: pa.RecordBatch) -> list[list[object]]:
    """Values such that -0.0 is not 0.0 and a NaN is itself."""
    return [[repr(value) for value in column.cast(pa.int64()).to_pylist()] if pa.types.is_timestamp(column.type) else list(map(repr, column.to_pylist())) for column in batch.columns]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(batches_of())
def test_any_batches_come_back_exactly(given_):
    kind, batches = given_
    decoder = Decoder()
    record, body, batch = Encoder(decoder).encode(kind, batches, 7, 99)
    put = pa.Table.from_batches(batches).combine_chunks().to_batches()[0]
    for back in (batch, Decoder().decode(kind, record, memoryview(bytes(body)))):
        back.validate(full=True)
        assert back.schema.equals(SCHEMAS[kind], check_metadata=True)
        assert bits(back) == bits(put)
    assert (record.first, record.rows, record.span, record.commit_us) == (7, put.num_rows, put.num_rows, 99)
    times = [int(time.value) for time in put.column(0) if time.is_valid]
    assert (record.min_us, record.max_us) == ((min(times), max(times)) if times else (99, 99))


def test_a_plain_poll_stores_time_tag_and_value_only():
    record, body, _ = Encoder(Decoder()).encode("telemetry", [readings(1000)], 0, 0)
    names = [name for number, name in enumerate(SCHEMAS["telemetry"].names) if record.present >> number & 1]
    assert names == ["time", "tag", "value"] or names == ["time", "value"]
    zero = {name for number, name in enumerate(SCHEMAS["telemetry"].names) if record.zero >> number & 1}
    assert zero == {"lag", "quality", "origin", "tag"}
    assert len(body) < 6_000


def test_a_record_of_an_unknown_column_is_undecodable_and_not_guessed():
    decoder = Decoder()
    record, body, _ = Encoder(decoder).encode("gap", [make_batch("gap", 2, time=1)], 0, 0)
    for strange in (
        record._replace(present=1 << 40),
        record._replace(zero=1 << 40),
        record._replace(schema=2),
        record._replace(rows=3, span=3),
    ):
        with pytest.raises(Undecodable):
            decoder.decode("gap", strange, body)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_forged_bodies_are_undecodable(data):
    record, _, _ = Encoder(Decoder()).encode("telemetry", [readings(5)], 0, 0)
    for codec in (0, 1):
        with pytest.raises(Undecodable):
            Decoder().decode("telemetry", record._replace(length=len(data), codec=codec), memoryview(data))
