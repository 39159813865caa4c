"""Planning and decoding: every tag covered exactly, no PDU exceeded, every type back as it was."""

from __future__ import annotations

import math
import random
import struct
import time
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.s7.datatypes import parse_type
from adapters.s7.encode import encode, encode_array
from adapters.s7.plan import Layout, Place, cut, pack
from adapters.s7.wire import OK, Answer, Span, frame, read_request
from schemas import quality as q

TOKYO = ZoneInfo("Asia/Tokyo")
MEMORY = 4096
FIRST, LAST = datetime.fromisoformat("1990-01-01"), datetime.fromisoformat("2089-12-31")
pdus = st.sampled_from([128, 240, 480, 960])
spans = st.builds(
    lambda block, start, size: Span(*block, start, size),
    st.sampled_from([(0x84, 1), (0x84, 2), (0x83, 0), (0x81, 0)]),
    st.integers(0, 3000),
    st.sampled_from([1, 2, 4, 8, 12, 34, 256, 514]),
)


def answer_all(layout: Layout, memory: dict[tuple[int, int], bytes]) -> None:
    for number, item in enumerate(layout.items):
        layout.store(number, Answer(OK, memory[item[:2]][item.start : item.start + item.size]))


def decode_one(
    kind: str, raw: bytes, *, start: int = 5, bit: int = 0, whole: bool = False, encoding: str = "latin-1"
) -> tuple[Any, int]:
    """What one place of this type decodes to, and its quality."""
    described = parse_type(kind)
    layout = Layout([Place(Span(0x84, 1, start, described.size), described, bit, encoding, whole)], 240, zone=TOKYO)
    answer_all(layout, {(0x84, 1): bytes(start) + raw + bytes(16)})
    values = layout.decode()
    text, integer = values.texts.get(0), None if values.integers is None else int(values.integers[0])
    return (text if text is not None else integer if whole else float(values.numbers[0])), int(values.quality[0])


@given(st.lists(spans, max_size=120), pdus, st.sets(st.sampled_from([(0x84, 1), (0x83, 0)])))
def test_items_cover_every_span_once_and_requests_and_answers_fit_the_pdu(
    wanted: list[Span], pdu: int, apart: set[tuple[int, int]]
) -> None:
    items = cut(wanted, pdu, apart)
    covered: dict[tuple[int, int, int], int] = {}
    for number, item in enumerate(items):
        for byte in range(item.start, item.start + item.size):
            key = (item.area, item.db, byte)
            assert key not in covered
            covered[key] = number
    for span in wanted:
        assert all((span.area, span.db, byte) in covered for byte in range(span.start, span.start + span.size))
    requests = pack(items, pdu)
    assert sorted(number for request in requests for number in request) == list(range(len(items)))
    for request in requests:
        head, tail = read_request([items[number] for number in request])
        assert len(head) + 2 + len(tail) - len(frame(b"")) <= pdu
        sizes = [items[number].size for number in request]
        assert 14 + sum(4 + size + (size & 1) for size in sizes) - (sizes[-1] & 1) <= pdu
        assert len(request) <= 20


@given(st.lists(spans, min_size=1, max_size=60), pdus, st.integers(0, 2**32))
def test_decoding_a_layout_equals_decoding_each_tag_by_hand(wanted: list[Span], pdu: int, seed: int) -> None:
    kinds = {1: "usint", 2: "int", 4: "dint", 8: "lint", 12: "dtl", 34: "string[32]", 256: "string[254]", 514: "wstring[255]"}
    places = [Place(span, parse_type(kinds[span.size]), whole=span.size == 8) for span in wanted]
    drawn = random.Random(seed)
    memory = {block: bytearray(drawn.randbytes(MEMORY)) for block in {span[:2] for span in wanted}}
    layout = Layout(places, pdu, zone=UTC)
    answer_all(layout, {block: bytes(content) for block, content in memory.items()})
    values = layout.decode()
    for position, place in enumerate(places):
        raw = bytes(memory[place.span[:2]][place.span.start : place.span.start + place.span.size])
        expected, quality = decode_one(str(place.kind), raw, whole=place.whole)
        assert values.quality[position] == quality
        if quality == 0:
            assert values.integers is not None or not place.whole
            got: Any = values.texts.get(position)
            if got is None:
                got = int(values.integers[position]) if place.whole and values.integers is not None else values.numbers[position]
            assert got == expected


def test_ten_thousand_reals_in_one_block_are_as_few_requests_as_the_pdu_allows() -> None:
    places = [Place(Span(0x84, 1, 4 * n, 4), parse_type("real")) for n in range(10_000)]
    assert len(Layout(places, 960, zone=UTC).requests) == math.ceil(40_000 / 942)
    began = time.perf_counter()
    layout = Layout(places, 240, zone=UTC)
    assert time.perf_counter() - began < 10  # a planner that is quadratic takes minutes
    assert len(layout.requests) == math.ceil(40_000 / 220)  # no value is torn
    content = np.arange(10_000, dtype=">f4").tobytes()
    answer_all(layout, {(0x84, 1): content})
    assert layout.decode().numbers.tolist() == list(range(10_000))


def test_scattered_values_share_requests_instead_of_dragging_gaps_along() -> None:
    sparse = [Span(0x84, block, 2000 * n, 4) for block in range(1, 11) for n in range(10)]
    assert len(pack(cut(sparse, 960), 960)) == 100 / 20
    near = [Span(0x84, 1, 40 * n, 4) for n in range(20)]
    assert cut(near, 960) == [Span(0x84, 1, 0, 764)]


def test_a_value_longer_than_the_pdu_comes_in_pieces_and_one_missing_piece_is_a_bad_value() -> None:
    kind = parse_type("wstring[254]")
    raw = encode(kind, "炉の温度" * 60, encoding="latin-1", zone=UTC)
    assert raw is not None
    layout = Layout([Place(Span(0x84, 1, 0, kind.size), kind), Place(Span(0x84, 1, 600, 2), parse_type("int"))], 240, zone=UTC)
    answer_all(layout, {(0x84, 1): raw + bytes(200)})
    assert layout.decode().texts[0] == "炉の温度" * 60
    layout.store(1, Answer(0x05, b""))
    values = layout.decode()
    assert values.quality.tolist() == [q.BAD_NODE_ID_UNKNOWN, q.GOOD]
    assert 0 not in values.texts


def test_places_left_out_are_not_asked_for_and_keep_their_quality() -> None:
    kind = parse_type("real")
    places = [Place(Span(0x84, 1, 0, 4), kind), Place(Span(0x84, 9, 0, 4), kind), Place(Span(0x84, 1, 4, 4), kind)]
    layout = Layout(places, 240, zone=UTC, without={1: q.BAD_NOT_READABLE})
    assert layout.items == [Span(0x84, 1, 0, 8)]
    answer_all(layout, {(0x84, 1): struct.pack(">ff", 1.5, 2.5)})
    values = layout.decode()
    assert values.quality.tolist() == [0, q.BAD_NOT_READABLE, 0]
    assert values.numbers[[0, 2]].tolist() == [1.5, 2.5]
    assert layout.positions_of(0) == [0, 2]
    nothing = Layout(places, 240, zone=UTC, without=dict.fromkeys(range(3), q.BAD))
    assert (nothing.requests, nothing.decode().quality.tolist()) == ([], [q.BAD] * 3)


RANGES = {
    "byte": (0, 255), "usint": (0, 255), "sint": (-128, 127), "word": (0, 65535), "uint": (0, 65535), "int": (-32768, 32767),
    "dword": (0, 2**32 - 1), "udint": (0, 2**32 - 1), "dint": (-(2**31), 2**31 - 1), "time": (-(2**31), 2**31 - 1),
    "tod": (0, 2**32 - 1), "lint": (-(2**63), 2**63 - 1), "ulint": (0, 2**63 - 1), "lword": (0, 2**63 - 1),
}  # fmt: skip


@given(st.data(), st.sampled_from(sorted(RANGES)))
def test_whole_numbers_round_trip_to_the_last_bit(data: st.DataObject, kind: str) -> None:
    value = data.draw(st.integers(*RANGES[kind]))
    raw = encode(parse_type(kind), value, encoding="latin-1", zone=UTC)
    assert raw is not None
    assert decode_one(kind, raw, whole=kind in ("lint", "ulint", "lword")) == (value, q.GOOD)


@given(st.floats(width=32, allow_nan=False), st.floats(allow_nan=False))
def test_floats_round_trip(single: float, double: float) -> None:
    for kind, value in (("real", single), ("lreal", double)):
        raw = encode(parse_type(kind), value, encoding="latin-1", zone=UTC)
        assert raw is not None
        assert decode_one(kind, raw) == (value, q.GOOD)


@given(st.integers(0, 7), st.integers(0, 255))
def test_a_bool_is_its_bit(bit: int, byte: int) -> None:
    assert decode_one("bool", bytes((byte,)), bit=bit) == (byte >> bit & 1, q.GOOD)


@given(st.integers(0, 9_990_000))
def test_s5time_round_trips_within_its_base(ms: int) -> None:
    raw = encode(parse_type("s5time"), ms, encoding="latin-1", zone=UTC)
    assert raw is not None
    value, quality = decode_one("s5time", raw)
    step = 10 * 10 ** (raw[0] >> 4)
    assert quality == q.GOOD
    assert abs(value - ms) <= step / 2
    assert decode_one("s5time", struct.pack(">H", 0x0FAB))[1] == q.BAD_DECODING_ERROR


@given(st.integers(0, 999))
def test_counters_round_trip_and_what_is_no_digit_is_a_bad_value(count: int) -> None:
    raw = encode(parse_type("counter"), count, encoding="latin-1", zone=UTC)
    assert raw is not None
    assert decode_one("counter", raw) == (count, q.GOOD)
    assert decode_one("counter", bytes((raw[0] | 0xC0, raw[1]))) == (count, q.GOOD)  # flags of a counter in STEP 5 style
    assert decode_one("counter", b"\x00\x0a")[1] == q.BAD_DECODING_ERROR


@pytest.mark.parametrize(
    ("kind", "nanoseconds", "ms"),
    [("ltime", 1_500_000, 1.5), ("ltime", -1, -1e-6), ("ltod", 86_399_999_999_999, 86_399_999.999999), ("ltime", 0, 0)],
)
def test_long_times_are_milliseconds(kind: str, nanoseconds: int, ms: float) -> None:
    raw = nanoseconds.to_bytes(8, signed=True)
    assert decode_one(kind, raw) == (pytest.approx(ms, rel=1e-15), q.GOOD)
    assert encode(parse_type(kind), ms, encoding="latin-1", zone=UTC) == raw


def test_ldt_counts_nanoseconds_on_the_clock_of_the_plant() -> None:
    local = datetime(2026, 7, 1, 9, 0, 0, 123456, tzinfo=TOKYO)
    raw = encode(parse_type("ldt"), local.isoformat(), encoding="latin-1", zone=TOKYO)
    assert raw == (int(local.replace(tzinfo=UTC).timestamp()) * 10**9 + 123_456_000).to_bytes(8)
    assert decode_one("ldt", raw) == ("2026-07-01T00:00:00.123456Z", q.GOOD)
    assert decode_one("ldt", bytes(8)) == ("1969-12-31T15:00:00Z", q.GOOD)  # 1970-01-01 in Osaka


ARRAYS = {"real": ">f4", "lreal": ">f8", "int": ">i2", "udint": ">u4", "sint": ">i1", "byte": ">u1"}


@given(st.sampled_from(sorted(ARRAYS)), st.integers(1, 600), pdus, st.integers(0, 2**32))
def test_an_array_is_one_waveform_however_many_answers_it_comes_in(element: str, length: int, pdu: int, seed: int) -> None:
    kind = parse_type(f"Array[1..{length}] of {element}")
    raw = random.Random(seed).randbytes(kind.size)
    layout = Layout([Place(Span(0x84, 1, 6, kind.size), kind), Place(Span(0x84, 1, 0, 2), parse_type("int"))], pdu, zone=UTC)
    answer_all(layout, {(0x84, 1): b"\x01\x00" + bytes(4) + raw})
    values = layout.decode()
    assert values.numbers[1] == 256
    with np.errstate(invalid="ignore"):  # a signalling NaN
        expected = np.frombuffer(raw, ARRAYS[element]).astype(np.float64)
    assert np.array_equal(values.samples[0], expected, equal_nan=True)
    layout.store(layout.items.index(max(layout.items)), Answer(0x05, b""))
    assert 0 not in layout.decode().samples


@given(st.lists(st.booleans(), min_size=1, max_size=70), pdus)
def test_an_array_of_bits_is_a_waveform_of_zeros_and_ones_and_only_as_long_as_it_is(bits: list[bool], pdu: int) -> None:
    kind = parse_type(f"array[{len(bits)}] of bool")
    raw = encode_array(kind, bits, encoding="latin-1", zone=UTC)
    assert len(raw) == kind.size == (len(bits) + 7) // 8
    layout = Layout([Place(Span(0x84, 1, 2, kind.size), kind), Place(Span(0x84, 1, 2, 1), parse_type("bool"), 0)], pdu, zone=UTC)
    answer_all(layout, {(0x84, 1): b"\xff\xff" + raw + b"\xff" * 8})
    values = layout.decode()
    assert values.samples[0].tolist() == [float(bit) for bit in bits]
    assert values.numbers[1] == bits[0]


def test_an_array_of_characters_is_a_text_that_ends_with_blanks_or_zeros() -> None:
    assert decode_one("array[8] of char", b"GENBA  \0") == ("GENBA", q.GOOD)
    assert decode_one("array[8] of char", "炉1号".encode("cp932").ljust(8, b"\0"), encoding="cp932") == ("炉1号", q.GOOD)
    assert decode_one("array[4] of wchar", "炉 1 ".encode("utf-16-be")) == ("炉 1", q.GOOD)
    assert decode_one("array[2] of char", b"\xff\xfe", encoding="utf-8")[1] == q.BAD_DECODING_ERROR
    for kind, text in (("array[8] of char", "too long a text"), ("array[6] of wchar", "炉")):
        raw = encode(parse_type(kind), text, encoding="latin-1", zone=UTC)
        assert raw is not None
        assert len(raw) == parse_type(kind).size
        assert decode_one(kind, raw) == (text[:8], q.GOOD)


def test_an_array_of_anything_else_is_a_json_list_whose_elements_are_as_they_are_alone() -> None:
    strings = parse_type("Array[0..2] of String[5]")
    assert strings.size == 24  # a string begins at an even byte
    raw = bytes.fromhex("0502616200000000 0500000000000000 0505 7a7a7a7a7a 00")
    assert decode_one("Array[0..2] of String[5]", raw) == ('["ab", "", "zzzzz"]', q.GOOD)
    assert decode_one("Array[0..2] of String[5]", raw[:16] + b"\x05\x06zzzzz\0")[1] == q.BAD_DECODING_ERROR
    assert decode_one("array[2] of lint", struct.pack(">qq", -1, 2**63 - 1)) == ("[-1, 9223372036854775807]", q.GOOD)
    assert decode_one("array[1] of ulint", b"\xff" * 8) == ("[18446744073709551615]", q.GOOD)
    assert decode_one("array[1] of ltime", struct.pack(">q", 1_500_000)) == ("[1.5]", q.GOOD)
    assert decode_one("array[2] of date", struct.pack(">HH", 0, 1)) == ('["1990-01-01", "1990-01-02"]', q.GOOD)
    encoded = encode_array(strings, ["ab", "", "zzzzz"], encoding="latin-1", zone=UTC)
    assert decode_one("Array[0..2] of String[5]", encoded) == ('["ab", "", "zzzzz"]', q.GOOD)


def test_an_array_of_s5time_is_milliseconds_and_what_is_no_digit_is_not_a_number() -> None:
    kind = parse_type("array[3] of s5time")
    layout = Layout([Place(Span(0x84, 1, 0, 6), kind)], 240, zone=UTC)
    answer_all(layout, {(0x84, 1): bytes.fromhex("1123 0001 0f00")})
    assert np.array_equal(layout.decode().samples[0], [12_300, 10, np.nan], equal_nan=True)


@given(st.sets(st.integers(0, 511), min_size=1, max_size=60), pdus)
def test_timers_and_counters_are_never_cut_in_half(numbers: set[int], pdu: int) -> None:
    items = cut((Span(area, 0, 2 * number, 2) for number in numbers for area in (0x1C, 0x1D)), pdu - 1)
    assert all(item.start % 2 == 0 and item.size % 2 == 0 for item in items)


@given(st.text(st.characters(max_codepoint=255), max_size=32), st.text(st.characters(exclude_categories=["Cs"]), max_size=16))
def test_texts_round_trip(narrow: str, wide: str) -> None:
    for kind, text in (("string[32]", narrow), ("wstring[32]", wide)):
        raw = encode(parse_type(kind), text, encoding="latin-1", zone=UTC)
        assert raw is not None
        assert len(raw) == parse_type(kind).size
        assert decode_one(kind, raw) == (text, q.GOOD)


def test_texts_in_shift_jis_and_texts_that_are_too_long() -> None:
    raw = encode(parse_type("string[8]"), "炉1号機テスト", encoding="cp932", zone=UTC)
    assert raw is not None
    assert decode_one("string[8]", raw, encoding="cp932") == ("炉1号機", q.GOOD)
    assert decode_one("char", b"A") == ("A", q.GOOD)
    assert decode_one("wchar", "炉".encode("utf-16-be")) == ("炉", q.GOOD)
    assert decode_one("string[4]", b"\x04\x05abcd")[1] == q.BAD_DECODING_ERROR
    assert decode_one("string[4]", b"\0\0\0\0\0\0") == ("", q.GOOD)
    assert decode_one("string[4]", b"\x04\x02\xff\xfeab", encoding="utf-8")[1] == q.BAD_DECODING_ERROR


@given(st.datetimes(FIRST, LAST))
def test_clocks_round_trip_in_plant_time_and_come_out_in_utc(local: datetime) -> None:
    local = local.replace(tzinfo=TOKYO)
    for kind, kept in (("dtl", local), ("dt", local.replace(microsecond=local.microsecond // 1000 * 1000))):
        raw = encode(parse_type(kind), local.isoformat(), encoding="latin-1", zone=TOKYO)
        assert raw is not None
        text, quality = decode_one(kind, raw)
        assert quality == q.GOOD
        assert text.endswith("Z")
        assert datetime.fromisoformat(text) == kept


def test_clocks_and_dates_against_bytes_from_the_manuals() -> None:
    assert decode_one("dt", bytes.fromhex("2601020304056786")) == ("2026-01-01T18:04:05.678000Z", q.GOOD)
    assert decode_one("date", struct.pack(">H", 0)) == ("1990-01-01", q.GOOD)
    assert decode_one("date", encode(parse_type("date"), "2026-01-02", encoding="", zone=UTC) or b"") == ("2026-01-02", q.GOOD)
    for never_written in ("dt", "dtl"):
        assert decode_one(never_written, bytes(parse_type(never_written).size))[1] == q.BAD_DECODING_ERROR
    assert decode_one("dt", b"\xff" * 8)[1] == q.BAD_DECODING_ERROR


def test_not_a_number_is_passed_on_and_more_than_an_int64_is_a_bad_value_of_an_integer_only() -> None:
    assert math.isnan(decode_one("real", bytes.fromhex("7fa00000"))[0])  # a signalling one
    assert decode_one("ulint", b"\xff" * 8, whole=True)[1] == q.BAD_OUT_OF_RANGE
    assert decode_one("ulint", b"\xff" * 8) == (2.0**64, q.GOOD)


@pytest.mark.parametrize(("kind", "value", "raw"), [
    ("int", 1e9, "7fff"), ("usint", -5, "00"), ("real", 1e300, "7f800000"), ("int", math.inf, "7fff"), ("s5time", 1e9, "3999"),
])  # fmt: skip
def test_the_simulator_shows_the_nearest_value_that_a_type_holds(kind: str, value: float, raw: str) -> None:
    assert encode(parse_type(kind), value, encoding="latin-1", zone=UTC) == bytes.fromhex(raw)
    assert encode(parse_type("int"), math.nan, encoding="latin-1", zone=UTC) is None
