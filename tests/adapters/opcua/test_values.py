"""Arrays and structures: what asyncua encodes comes out of our decoder, by element, by field, as samples and as JSON."""

from __future__ import annotations

import json
import math
import struct
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from asyncua import ua
from asyncua.ua.ua_binary import pack_uatype, variant_to_binary
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.opcua.decode import Changes, decode_publish
from adapters.opcua.plan import compile_plan
from adapters.opcua.rows import Rows
from adapters.opcua.values import Field, Structure, Types, as_json, decode, iso, numbers, pick
from adapters.opcua.wire import MalformedMessage
from schemas import quality as q
from tests.adapters.opcua.rig import bind, configure
from tests.adapters.opcua.test_decode import INTEGERS, encode_item, items, publish

V = ua.VariantType
NOW = 1_767_225_600_000_000
KINDS: dict[V, st.SearchStrategy[Any]] = {kind: st.integers(*span) for kind, span in INTEGERS.items()}
KINDS |= {V.Boolean: st.booleans(), V.Float: st.floats(width=32, allow_nan=False), V.Double: st.floats(allow_nan=False)}
KINDS |= {V.String: st.text(max_size=5), V.ByteString: st.binary(max_size=5)}
arrays = st.one_of(*(st.builds(lambda v, k=kind: ua.Variant(v, k, is_array=True), st.lists(one)) for kind, one in KINDS.items()))

POINT, AXIS = (2, 3001), (2, 3002)


def types() -> Types:
    """An axis: `name`, `speed`, an optional `load`, its `position`, the last `points`, its `limits` and a matrix."""
    point = Structure("Point", (Field("x", 11), Field("y", 10)))
    axis = Structure(
        "Axis",
        (
            Field("name", 12),
            Field("speed", 6),
            Field("load", 11, optional=True),
            Field("position", 22, POINT),
            Field("points", 22, POINT, rank=1),
            Field("limits", 9, rank=1),
            Field("labels", 12, rank=1),
            Field("matrix", 4, rank=2),
            Field("note", 21, optional=True),
        ),
        optional=True,
    )
    either = Structure("Either", (Field("number", 11), Field("word", 12)), union=True)
    structures = {POINT: point, AXIS: axis, (2, 3003): either, (2, 3004): Structure("Loop", (Field("inner", 22, (2, 3004)),))}
    return Types(structures, {(2, number): (2, number - 2000) for number in range(5001, 5005)})


def text(value: str) -> bytes:
    return struct.pack("<i", len(value.encode())) + value.encode()


def extension(encoding: int, body: bytes) -> bytes:
    return b"\x01\x02" + struct.pack("<HBi", encoding, 1, len(body)) + body


def axis(speed: int, *, load: float | None = None) -> bytes:
    point = struct.pack("<df", 1.5, 2.5)
    body = struct.pack("<I", 0 if load is None else 1) + text("X") + struct.pack("<i", speed)
    body += b"" if load is None else struct.pack("<d", load)
    body += point + struct.pack("<i", 2) + point + struct.pack("<df", 3.0, 4.0)
    body += struct.pack("<i2Q", 2, 7, 2**64 - 1) + struct.pack("<i", 2) + text("a") + text("b")
    body += struct.pack("<i2i", 2, 2, 2) + struct.pack("<4h", 1, 2, 3, -4)
    return extension(5002, body)


def rows_of(tags: dict[str, dict[str, Any]], *variants: bytes, status: int = 0) -> dict[str, dict[str, Any]]:
    """The last row of each tag, after one message with these values for the first handle."""
    config = configure({name: {"address": "i=1"} | tag for name, tag in tags.items()})
    bound = bind(config)
    made = Rows(bound, compile_plan(bound, config))
    made.types = types()
    body = struct.pack("<i", len(variants))
    for variant in variants:
        body += struct.pack("<IB", 0, 3) + variant + struct.pack("<I", status)
    batch = made.batch(changes(body + struct.pack("<i", 0)), NOW)
    assert batch is not None
    names = {b.tag.id: b.tag.name for b in bound}
    return {names[row["tag"]]: row for row in batch.to_pylist()}


def changes(body: bytes) -> Changes:
    found = decode_publish(publish(body)).changes
    assert found is not None
    return found


@settings(max_examples=200, deadline=None)
@given(arrays)
def test_arrays_of_asyncua_by_element_and_as_json(variant: ua.Variant) -> None:
    raw = variant_to_binary(variant)
    value = decode(raw, Types())
    plain = [v.hex() if isinstance(v, bytes) else v for v in variant.Value]
    if variant.VariantType in (V.String, V.ByteString):
        assert [pick(value, (k,)).content for k in range(len(plain))] == plain
    else:
        assert numbers(raw).tolist() == plain
        assert [pick(value, (k,)).content for k in range(len(plain))] == plain
    finite = [None if isinstance(v, float) and not math.isfinite(v) else v for v in plain]
    assert json.loads(as_json(value)) == finite
    assert pick(value, (len(plain),)).wrong == q.BAD_INDEX_RANGE_NO_DATA


@settings(max_examples=100, deadline=None)
@given(arrays)
def test_arrays_become_samples_or_a_list_and_every_element_a_tag(variant: ua.Variant) -> None:
    raw = variant_to_binary(variant)
    (row,) = rows_of({"t": {}}, raw).values()
    n = len(variant.Value)
    if variant.VariantType in (V.String, V.ByteString, V.Int64, V.UInt64):
        assert len(json.loads(row["text"])) == n
    else:
        with np.errstate(over="ignore"):
            assert row["samples"] == np.array(variant.Value, np.float64).astype(np.float32).tolist()
    assert row["quality"] == 0
    apart = rows_of({f"t{k}": {"index": k} for k in range(n + 1)}, raw)
    assert apart[f"t{n}"]["quality"] == q.BAD_INDEX_RANGE_NO_DATA
    for k, wanted in enumerate(variant.Value):
        row = apart[f"t{k}"]
        column = {V.String: "text", V.ByteString: "text", V.Int64: "value_int", V.UInt64: "value_int"}
        shown = row[column.get(variant.VariantType, "value")]
        if variant.VariantType is V.UInt64 and wanted >= 2**63:
            assert (shown, row["quality"]) == (None, q.BAD_OUT_OF_RANGE)
        elif isinstance(wanted, float) and not math.isfinite(wanted):
            assert (shown, row["quality"]) == (None, q.BAD_SENSOR_FAILURE)
        else:
            assert (shown, row["quality"]) == (wanted.hex() if isinstance(wanted, bytes) else wanted, 0)


def test_a_matrix_is_its_elements_row_by_row_and_waveforms_are_scaled() -> None:
    matrix = variant_to_binary(ua.Variant([[1, 2], [3, 4]], V.Int16))
    assert rows_of({"t": {"type": "array of int16", "scale": 0.5, "offset": 1}}, matrix)["t"]["samples"] == [1.5, 2.0, 2.5, 3.0]
    assert rows_of({"a": {"index": 0}, "d": {"index": 3, "scale": 10}}, matrix)["d"]["value"] == 40.0


def test_lists_of_times_names_and_anything() -> None:
    when = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
    raw = variant_to_binary(ua.Variant([when, datetime(1601, 1, 1, tzinfo=UTC)], V.DateTime))
    assert json.loads(rows_of({"t": {}}, raw)["t"]["text"]) == ["2026-03-04T05:06:07Z", ""]
    assert rows_of({"t": {"index": 0, "type": "datetime"}}, raw)["t"]["text"] == "2026-03-04T05:06:07Z"
    mixed = ua.Variant([ua.Variant(1, V.Int32), ua.Variant("x", V.String), ua.Variant(), ua.Variant([1.5], V.Double)], V.Variant)
    raw = variant_to_binary(mixed)
    assert json.loads(rows_of({"t": {"type": "array of string"}}, raw)["t"]["text"]) == [1, "x", None, [1.5]]
    apart = rows_of({"a": {"index": 0}, "b": {"index": 1}, "c": {"index": 2}}, raw)
    assert (apart["a"]["value"], apart["b"]["text"], apart["c"]["quality"]) == (1.0, "x", q.BAD_NO_DATA)


def test_a_wrong_type_is_bad_for_that_element_alone() -> None:
    raw = variant_to_binary(ua.Variant([ua.Variant(1, V.Int32), ua.Variant("x", V.String)], V.Variant))
    found = rows_of({"a": {"index": 0, "type": "int32"}, "b": {"index": 1, "type": "int32"}}, raw)
    assert [found[name]["quality"] for name in "ab"] == [0, q.BAD_TYPE_MISMATCH]


def test_what_is_no_array_has_no_elements() -> None:
    for value in (ua.Variant(1.0, V.Double), ua.Variant("x", V.String)):
        assert rows_of({"t": {"index": 0}}, variant_to_binary(value))["t"]["quality"] == q.BAD_TYPE_MISMATCH
    assert rows_of({"t": {"index": 0}}, b"\x00")["t"]["quality"] == q.BAD_NO_DATA
    bad = rows_of({"t": {"index": 0}, "u": {"index": 1}}, variant_to_binary(ua.Variant([1.0, 2.0])), status=q.BAD_NOT_CONNECTED)
    assert {(row["quality"], row["value"]) for row in bad.values()} == {(q.BAD_NOT_CONNECTED, None)}


def test_every_change_of_an_array_is_a_row_per_element_in_order() -> None:
    config = configure({f"t{k}": {"address": "i=1", "index": k} for k in range(3)} | {"plain": "i=2"})
    bound = bind(config)
    plan = compile_plan(bound, config)
    assert ([c.positions for c in plan.classes], dict(plan.parts)) == ([(0, 3)], {0: (0, 1, 2)})
    body = struct.pack("<i", 3)
    for handle, value in ((0, ua.Variant([1.0, 2.0, 3.0])), (3, ua.Variant(9.0)), (0, ua.Variant([4.0, 5.0]))):
        body += struct.pack("<I", handle) + encode_item(value)
    batch = Rows(bound, plan).batch(changes(body + struct.pack("<i", 0)), NOW)
    assert batch is not None
    assert list(zip(batch.column("tag").to_pylist(), batch.column("value").to_pylist(), strict=True)) == [
        (103, 9.0), (100, 1.0), (101, 2.0), (102, 3.0), (100, 4.0), (101, 5.0), (102, None),
    ]  # fmt: skip


def test_an_overflow_and_a_refusal_of_a_variable_concern_all_its_parts() -> None:
    config = configure({f"t{k}": {"address": "i=1", "index": k} for k in range(2)})
    made = Rows(bind(config), compile_plan(bind(config), config))
    found = changes(items(encode_item(ua.Variant([1.0, 2.0]), status=q.OVERFLOW)))
    gap = made.overflows(found, NOW, "robot")
    assert gap is not None
    assert gap.column("tag").to_pylist() == [100, 101]
    assert made.bad([0], [q.BAD_NODE_ID_UNKNOWN], NOW).column("tag").to_pylist() == [100, 101]


def test_fields_of_a_structure() -> None:
    tags = {
        "name": {"field": "name"},
        "speed": {"field": "speed", "scale": 0.1},
        "load": {"field": "load"},
        "x": {"field": "position.x"},
        "y1": {"field": "points[1].y"},
        "high": {"field": "limits[1]", "type": "uint64"},
        "low": {"field": "limits[0]"},
        "limits": {"field": "limits", "type": "array of uint64"},
        "labels": {"field": "labels", "type": "array of string"},
        "matrix": {"field": "matrix"},
        "note": {"field": "note"},
        "typo": {"field": "sped"},
        "deep": {"field": "speed.x"},
        "position": {"field": "position"},
    }
    found = rows_of(tags, b"\x16" + axis(700, load=55.5))
    shown = {
        name: next((r[c] for c in ("value", "value_int", "text", "samples") if r[c] is not None), None)
        for name, r in found.items()
    }
    assert shown == {
        "name": "X", "speed": 70.0, "load": 55.5, "x": 1.5, "y1": 4.0, "high": None, "low": 7,
        "limits": "[7,18446744073709551615]", "labels": '["a","b"]', "matrix": [1.0, 2.0, 3.0, -4.0],
        "note": None, "typo": None, "deep": None, "position": None,
    }  # fmt: skip
    assert {name: row["quality"] for name, row in found.items() if row["quality"]} == {
        "high": q.BAD_OUT_OF_RANGE,
        "note": q.BAD_NO_MATCH,
        "typo": q.BAD_NO_MATCH,
        "deep": q.BAD_TYPE_MISMATCH,
        "position": q.BAD_TYPE_MISMATCH,
    }
    assert rows_of({"load": {"field": "load"}}, b"\x16" + axis(1))["load"]["quality"] == q.BAD_NO_MATCH


SCALARS = list(KINDS.items())
SCALARS.append((V.DateTime, st.integers(0, 10**15).map(lambda us: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us))))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(*(st.tuples(st.just(kind), one) for kind, one in SCALARS)), min_size=1, max_size=12), st.booleans())
def test_a_structure_of_any_fields_as_asyncua_encodes_them(given_fields: list[tuple[V, Any]], inner: bool) -> None:
    body = b"".join(pack_uatype(kind, value) for kind, value in given_fields)
    fields = tuple(Field(f"f{k}", kind.value) for k, (kind, _) in enumerate(given_fields))
    described = Types({(2, 1): Structure("S", fields), (2, 2): Structure("Outer", (Field("s", 22, (2, 1)),))})
    described.encodings[2, 9] = (2, 2) if inner else (2, 1)
    whole = decode(variant_to_binary(ua.Variant(ua.ExtensionObject(ua.NodeId(9, 2), body), V.ExtensionObject)), described)
    for k, (kind, value) in enumerate(given_fields):
        found = pick(whole, ("s", f"f{k}") if inner else (f"f{k}",))
        assert (found.kind, found.wrong) == (kind.value, 0)
        if kind is V.DateTime:
            assert isinstance(found.content, int)
            assert iso(found.content) == value.isoformat().replace("+00:00", "Z")
        else:
            assert found.content == (value.hex() if isinstance(value, bytes) else value)


def test_an_array_of_structures_and_a_union() -> None:
    raw = b"\x96" + struct.pack("<i", 2) + axis(1) + axis(2)
    found = rows_of({"a": {"index": 0, "field": "speed"}, "b": {"index": 1, "field": "speed"}}, raw)
    assert (found["a"]["value"], found["b"]["value"]) == (1.0, 2.0)
    union = b"\x16" + extension(5003, struct.pack("<I", 2) + text("word"))
    found = rows_of({"n": {"field": "number"}, "w": {"field": "word"}}, union)
    assert (found["n"]["quality"], found["w"]["text"]) == (q.BAD_NO_MATCH, "word")


@pytest.mark.parametrize(
    ("raw", "quality"),
    [
        (b"\x16" + extension(5999, b"abc"), q.BAD_DATA_TYPE_ID_UNKNOWN),
        (b"\x16" + extension(5002, b"abc"), q.BAD_DECODING_ERROR),
        (b"\x16" + extension(5003, struct.pack("<I", 9)), q.BAD_DECODING_ERROR),
        (b"\x16" + extension(5004, b"abc"), q.BAD_DECODING_ERROR),  # contains itself
        (b"\x16\x00\x00\x00", q.BAD_NO_DATA),
    ],
)
def test_structures_that_cannot_be_read_are_bad_and_take_no_other_along(raw: bytes, quality: int) -> None:
    assert rows_of({"t": {"field": "speed"}}, raw)["t"]["quality"] == quality
    both = b"\x96" + struct.pack("<i", 2) + raw[1:] + axis(2)
    assert rows_of({"a": {"index": 0, "field": "speed"}, "b": {"index": 1, "field": "speed"}}, both)["b"]["value"] == 2.0


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(axis(1, load=2.0)) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_structure_is_bad_or_another_value_and_raises_only_the_typed_error(damage: list[tuple[int, int]]) -> None:
    data = bytearray(axis(1, load=2.0))
    for at, byte in damage:
        data[at] = byte
    try:
        value = decode(b"\x16" + bytes(data), types())
    except MalformedMessage:
        return
    pick(value, ("points", 1, "y"))
    as_json(value)


def test_a_matrix_of_lying_sizes_is_refused() -> None:
    body = struct.pack("<I", 0) + text("") + struct.pack("<i", 0) + struct.pack("<df", 0, 0) + struct.pack("<iii", 0, 0, 0)
    for sizes in ((2**31 - 1, 2**31 - 1), (-5, 1)):
        lying = extension(5002, body + struct.pack("<iii", 2, *sizes))
        assert pick(decode(b"\x16" + lying, types()), ("name",)).wrong == q.BAD_DECODING_ERROR
