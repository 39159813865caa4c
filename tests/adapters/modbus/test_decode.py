"""Encoding and decoding of every type in every order, against byte layouts that are written out here."""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.modbus.datatypes import ORDERS, TYPES, Order, encode, parse_type
from adapters.modbus.decode import Layout, Values, bcd
from adapters.modbus.plan import Point, blocks_of
from schemas import quality as q
from tests.adapters.modbus.points import one_block, point

ON_THE_WIRE: dict[Order, tuple[str, str, str]] = {
    "ABCD": ("AB", "ABCD", "ABCDEFGH"),
    "CDAB": ("AB", "CDAB", "GHEFCDAB"),
    "BADC": ("BA", "BADC", "BADCFEHG"),
    "DCBA": ("BA", "DCBA", "HGFEDCBA"),
}
SAMPLES: dict[str, tuple[float, bytes]] = {
    "int16": (-1234, struct.pack(">h", -1234)),
    "uint16": (54321, struct.pack(">H", 54321)),
    "int32": (-100_000, struct.pack(">i", -100_000)),
    "uint32": (3_000_000_000, struct.pack(">I", 3_000_000_000)),
    "int64": (-(2**53) - 1, struct.pack(">q", -(2**53) - 1)),
    "uint64": (2**53 + 1, struct.pack(">Q", 2**53 + 1)),
    "float16": (1.5, struct.pack(">e", 1.5)),
    "float32": (-7.25, struct.pack(">f", -7.25)),
    "float64": (math.pi, struct.pack(">d", math.pi)),
    "bcd16": (1987, bytes.fromhex("1987")),
    "bcd32": (12345678, bytes.fromhex("12345678")),
}


def decode(points: Sequence[Point], image: bytes) -> Values:
    """What the points show when the registers from 0 on hold `image`."""
    layout = Layout(points, blocks_of(points))
    for number, block in enumerate(layout.blocks):
        layout.store(number, image[block.span.start * 2 : block.span.end * 2])
    return layout.decode()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", SAMPLES)
def test_every_order_is_the_one_written_out(name: str, order: Order) -> None:
    value, big_endian = SAMPLES[name]
    letters = ON_THE_WIRE[order][{2: 0, 4: 1, 8: 2}[len(big_endian)]]
    wire = bytes(big_endian["ABCDEFGH".index(letter)] for letter in letters)
    assert encode(parse_type(name), order, value) == wire
    decoded = decode([point(0, name, order=order)], wire)
    whole = parse_type(name).whole_64_bits
    assert (decoded.integers[0] if whole and decoded.integers is not None else decoded.numbers[0]) == value
    assert decoded.quality.tolist() == [q.GOOD]


raws: dict[str, st.SearchStrategy[float | str]] = {
    "bool": st.sampled_from([0.0, 1.0]),
    "float16": st.floats(width=16),
    "float32": st.floats(width=32),
    "float64": st.floats(),
    "bcd16": st.integers(0, 9999),
    "bcd32": st.integers(0, 99_999_999),
    **{f"int{n}": st.integers(-(2 ** (n - 1)), 2 ** (n - 1) - 1) for n in (8, 16, 32, 64)},
    **{f"uint{n}": st.integers(0, 2**n - 1) for n in (8, 16, 32)},
    "uint64": st.integers(0, 2**63 - 1),
    "string[5]": st.text(st.characters(min_codepoint=33, max_codepoint=255), max_size=5),
    "string[12]": st.text(st.characters(min_codepoint=33, max_codepoint=255), max_size=12),
}
assert {*TYPES} <= {*raws}
cells = st.sampled_from(sorted(raws)).flatmap(lambda name: st.tuples(st.just(name), raws[name], st.sampled_from(ORDERS)))


@given(st.lists(cells, min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_what_is_encoded_is_decoded_whatever_lies_beside_it(cells: list[tuple[str, float | str, Order]], random: object) -> None:
    image, points = bytearray(), []
    for name, raw, order in cells:
        points.append(point(len(image) // 2, name, order=order))
        image += encode(parse_type(name), order, raw)
    shuffled = list(range(len(points)))
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    values = decode([points[n] for n in shuffled], bytes(image))
    assert values.quality.tolist() == [q.GOOD] * len(points)
    for position, number in enumerate(shuffled):
        name, raw, _ = cells[number]
        if isinstance(raw, str):
            assert values.texts[position] == raw
        elif parse_type(name).whole_64_bits:
            assert values.integers is not None
            assert values.integers[position] == raw
        else:
            assert values.numbers[position] == raw or (math.isnan(raw) and math.isnan(values.numbers[position]))


@given(st.sampled_from(sorted(TYPES)), st.sampled_from(ORDERS), st.floats() | st.integers())
def test_a_value_that_does_not_fit_becomes_the_nearest_that_does(name: str, order: Order, value: float) -> None:
    kind = parse_type(name)
    raw = encode(kind, order, value)
    assert len(raw) == kind.registers * 2
    values = decode([point(0, name, order=order)], raw)
    assert values.quality[0] in (q.GOOD, q.BAD_OUT_OF_RANGE)  # the latter: uint64 above what int64 holds


@given(
    st.binary(min_size=200, max_size=200),
    st.lists(st.tuples(st.sampled_from(sorted(raws)), st.sampled_from(ORDERS)), max_size=30),
)
def test_whatever_bytes_come_decoding_gives_a_value_or_a_quality(image: bytes, wanted: list[tuple[str, Order]]) -> None:
    points = [point((7 * n) % 90, name, order=order, encoding="utf-8") for n, (name, order) in enumerate(wanted)]
    values = decode(points, image)
    assert len(values.numbers) == len(values.quality) == len(points)
    assert set(values.quality.tolist()) <= {q.GOOD, q.BAD_DECODING_ERROR, q.BAD_OUT_OF_RANGE}


def test_bits_of_registers_and_of_bit_tables() -> None:
    registers = [point(0, "bool", bit=n) for n in range(16)] + [
        point(0, "bool", bit=0, order="DCBA"),
        point(1, "bool"),
        point(2, "bool"),
    ]
    assert decode(registers, bytes.fromhex("8105 0000 0100")).numbers.tolist() == [
        1, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1,
        1, 0, 1,
    ]  # fmt: skip
    coils = [point(n, "bool", function=1) for n in (19, 20, 27, 28, 36)]
    layout = Layout(coils, [one_block(coils)])
    layout.store(0, bytes([0b00000010, 0b00000011, 0b00000010]))  # coils 20, 27, 28 and 36
    assert layout.decode().numbers.tolist() == [0, 1, 1, 1, 1]


def test_eight_bits_are_the_low_byte_of_the_register() -> None:
    points = [point(0, "uint8"), point(0, "int8"), point(0, "uint8", order="BADC")]
    assert decode(points, b"\x01\xff").numbers.tolist() == [255, -1, 1]


def test_digits_that_are_none_are_bad() -> None:
    values = decode([point(0, "bcd16"), point(1, "bcd32"), point(3, "bcd16")], bytes.fromhex("0012 1234567a 9999"))
    assert values.quality.tolist() == [q.GOOD, q.BAD_DECODING_ERROR, q.GOOD]
    assert values.numbers[[0, 2]].tolist() == [12, 9999]
    assert bcd(np.array([0x99999999], dtype=np.uint32))[0].tolist() == [99_999_999]


def test_an_unsigned_number_beyond_int64_is_out_of_range_unless_it_is_scaled() -> None:
    image = b"\xff" * 8
    assert decode([point(0, "uint64")], image).quality.tolist() == [q.BAD_OUT_OF_RANGE]
    scaled = decode([point(0, "uint64", integer=False)], image)
    assert (scaled.quality.tolist(), scaled.numbers.tolist()) == ([q.GOOD], [2.0**64])


def test_text_ends_at_its_first_nul_and_bad_text_is_bad_until_it_changes() -> None:
    points = [point(0, "string[6]", encoding="utf-8"), point(3, "string[4]")]
    layout = Layout(points, [one_block(points)])

    def read(first: bytes, second: bytes) -> tuple[dict[int, str], list[int]]:
        layout.store(0, first + second)
        values = layout.decode()
        return values.texts, values.quality.tolist()

    assert read(b"AB\0CDE", b"X   ") == ({0: "AB", 1: "X"}, [q.GOOD, q.GOOD])
    assert read(b"\xff\xfe\0\0\0\0", b"X   ") == ({1: "X"}, [q.BAD_DECODING_ERROR, q.GOOD])
    assert read(b"\xff\xfe\0\0\0\0", b"Y\0\0\0") == ({1: "Y"}, [q.BAD_DECODING_ERROR, q.GOOD])
    assert read("主軸".encode(), b"\0\0\0\0") == ({0: "主軸", 1: ""}, [q.GOOD, q.GOOD])
    layout.fail(0, q.BAD_TIMEOUT)
    assert layout.decode().quality.tolist() == [q.BAD_TIMEOUT] * 2


def test_quality_is_per_block_and_what_is_left_out_keeps_its_own() -> None:
    points = [point(0), point(1), point(300), point(301)]
    layout = Layout(points, blocks_of(points, without={1}), {1: q.BAD_NODE_ID_UNKNOWN})
    assert layout.decode().quality.tolist() == [
        q.BAD_WAITING_FOR_INITIAL_DATA,
        q.BAD_NODE_ID_UNKNOWN,
        q.BAD_WAITING_FOR_INITIAL_DATA,
        q.BAD_WAITING_FOR_INITIAL_DATA,
    ]
    layout.store(0, b"\0\7")
    layout.fail(1, q.BAD_TIMEOUT)
    values = layout.decode()
    assert values.quality.tolist() == [q.GOOD, q.BAD_NODE_ID_UNKNOWN, q.BAD_TIMEOUT, q.BAD_TIMEOUT]
    assert values.numbers[0] == 7
    layout.store(1, b"\0\1\0\2")
    later = layout.decode()
    assert later.numbers[2:].tolist() == [1, 2]
    assert values.quality[2] == q.BAD_TIMEOUT, "an earlier poll's arrays are its own"


@pytest.mark.parametrize("order", ORDERS)
def test_ten_thousand_floats_decode_in_well_under_a_millisecond(order: Order) -> None:
    points = [point(3 * n, "float32", order=order) for n in range(10_000)]
    layout = Layout(points, blocks_of(points))
    wire = encode(parse_type("float32"), order, 21.5) + b"\0\0"
    answers = [(wire * 42)[: block.span.answer_bytes] for block in layout.blocks]
    took = []
    for _ in range(20):
        began = time.perf_counter()
        for number, answer in enumerate(answers):
            layout.store(number, answer)
        values = layout.decode()
        took.append(time.perf_counter() - began)
    assert (values.numbers == 21.5).all()
    assert min(took) < 1e-3
