"""Answers: an item in error leaves the others alone, and anything that is no answer is said to be none."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.s7.wire import Answer, Malformed, Span, parse_read, parse_setup, read_request, refusal, setup_request
from schemas import quality as q

GOOD_ITEM = b"\xff\x04\x00\x10\x12\x34"


def answer(data: bytes, parameters: bytes, error: int = 0) -> bytes:
    return b"\x32\x03\0\0\0\x07" + struct.pack(">HHH", len(parameters), len(data), error) + parameters + data


def test_a_request_is_what_the_standard_says() -> None:
    head, tail = read_request([Span(0x84, 10, 4, 8)])
    assert head + b"\0\1" + tail == bytes.fromhex("0300001f02f080320100000001000e00000401120a10020008000a84000020")
    head, tail = read_request([Span(0x84, 10, 4, 8), Span(0x1D, 0, 10, 2), Span(0x1C, 0, 24, 4)])
    items = "120a10020008000a84000020 120a101d000100001d000005 120a101c000200001c00000c"
    assert head + b"\0\1" + tail == bytes.fromhex("0300003702f080320100000001002600000403" + items)
    head, tail = setup_request(8, 960)
    assert head + b"\0\1" + tail == bytes.fromhex("0300001902f08032010000000100080000f0000008000803c0")


def test_an_item_in_error_between_two_good_ones() -> None:
    data = b"\xff\x04\x00\x08\x01\x00" + b"\x0a\x00\x00\x00" + GOOD_ITEM
    assert parse_read(answer(data, b"\x04\x03"), [1, 4, 2]) == [
        Answer(0xFF, b"\x01"),
        Answer(0x0A, b""),
        Answer(0xFF, b"\x12\x34"),
    ]


def test_an_item_in_error_may_state_a_length_and_have_no_data() -> None:
    assert parse_read(answer(b"\x05\x00\x00\x04", b"\x04\x01"), [4]) == [Answer(0x05, b"")]


def test_an_error_word_is_about_all_items() -> None:
    refused = answer(b"", b"", 0x8104)
    assert parse_read(refused, [1, 2]) == [Answer(0x8104, b"")] * 2
    assert refusal(0x8104).quality == q.BAD_NOT_READABLE
    assert "PUT/GET" in refusal(0x8104).reason
    assert not refusal(0x77).lasting


def test_an_error_word_that_looks_like_the_code_of_a_good_item_is_an_error() -> None:
    """Found by fuzzing: error word 00FF was taken for FF, "OK" of an item, and the values of the poll before were passed on as good."""
    for error in (0x00FF, 0x000A):
        for found in parse_read(answer(b"", b"", error), [4, 2]):
            assert found.code > 0xFF
            assert found.data == b""
            assert refusal(found.code).quality == q.BAD_COMMUNICATION_ERROR
            assert not refusal(found.code).lasting


@pytest.mark.parametrize(
    "pdu",
    [
        b"",
        b"\x32\x03",
        answer(GOOD_ITEM, b"\x05\x01"),  # another function
        answer(GOOD_ITEM, b"\x04\x02"),  # another number of items
        answer(b"\xff\x04\x00\x18\x12\x34\x56", b"\x04\x01"),  # more than asked for
        answer(b"\xff\x04\x00\x10\x12", b"\x04\x01"),  # less than it says
        answer(b"\xff\x04", b"\x04\x01"),
        answer(b"", b"\x04\x01"),
        answer(GOOD_ITEM, b"\x04\x01")[:-1],
        b"\x32\x01" + answer(GOOD_ITEM, b"\x04\x01")[2:],  # a request
    ],
)
def test_what_is_no_answer_to_the_request_is_malformed(pdu: bytes) -> None:
    with pytest.raises(Malformed):
        parse_read(pdu, [2])


@given(st.binary(max_size=200), st.lists(st.integers(1, 300), max_size=20))
def test_garbage_is_malformed_or_answers_of_the_right_sizes(garbage: bytes, sizes: list[int]) -> None:
    for pdu in (garbage, b"\x32\x03" + garbage, answer(garbage, bytes((4, len(sizes))))):
        try:
            answers = parse_read(pdu, sizes)
        except Malformed:
            continue
        assert len(answers) == len(sizes)
        assert all(len(found.data) == size for found, size in zip(answers, sizes, strict=True) if found.code == 0xFF)


@given(st.binary(max_size=40))
def test_the_answer_to_the_set_up_is_checked(garbage: bytes) -> None:
    assert parse_setup(answer(b"", bytes.fromhex("f0000003000301e0"))) == (3, 480)
    for pdu in (garbage, answer(b"", garbage), answer(b"", bytes.fromhex("f000000100010010"))):
        try:
            window, size = parse_setup(pdu)
        except (Malformed, ConnectionError):
            continue
        assert window >= 1
        assert size >= 64
