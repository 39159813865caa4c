"""Every spelling leads to the address on the wire, and the canonical spelling leads back."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.modbus.address import FUNCTIONS, Address, parse

tables = st.sampled_from(sorted(FUNCTIONS))
offsets = st.integers(0, 65_535)
registers = st.builds(Address, st.sampled_from(["hr", "ir"]), offsets, st.none() | st.integers(0, 15))
bits = st.builds(Address, st.sampled_from(["co", "di"]), offsets)


@given(registers | bits)
def test_the_canonical_spelling_leads_back(address: Address) -> None:
    assert parse(str(address)) == address
    assert str(parse(str(address))) == str(address)


@given(registers)
def test_hexadecimal_capitals_and_blanks_mean_the_same(address: Address) -> None:
    bit = "" if address.bit is None else f".{address.bit}"
    assert parse(f" {address.table.upper()}:0x{address.offset:X}{bit} ") == address


@given(tables, st.integers(0, 9998))
def test_five_digits_count_from_one(table: str, offset: int) -> None:
    leading = {"co": 0, "di": 1, "ir": 3, "hr": 4}[table]
    assert parse(f"{leading}{offset + 1:04}") == Address(table, offset)  # type: ignore[arg-type]


@given(tables, offsets)
def test_six_digits_count_from_one(table: str, offset: int) -> None:
    leading = {"co": 0, "di": 1, "ir": 3, "hr": 4}[table]
    assert parse(f"{leading}{offset + 1:05}") == Address(table, offset)  # type: ignore[arg-type]


@given(st.text(max_size=12) | st.from_regex(r"[a-z]{0,3}:?[0-9x.]{0,7}", fullmatch=True))
def test_anything_else_is_read_or_refused_with_a_sentence(text: str) -> None:
    try:
        address = parse(text)
    except ValueError as error:
        refusal = str(error)
    else:
        refusal = ""
        assert parse(str(address)) == address
    assert not refusal or len(refusal) > len(text) + 10


@pytest.mark.parametrize(
    ("spelled", "address"),
    [
        ("hr:0", Address("hr", 0)),
        ("40001", Address("hr", 0)),
        ("400001", Address("hr", 0)),
        ("465536", Address("hr", 65535)),
        ("30001.7", Address("ir", 0, 7)),
        ("00001", Address("co", 0)),
        ("10100", Address("di", 99)),
        ("hr:0x64", Address("hr", 100)),
        ("hr:0x64.15", Address("hr", 100, 15)),
    ],
)
def test_examples(spelled: str, address: Address) -> None:
    assert parse(spelled) == address


@pytest.mark.parametrize(
    ("spelled", "hint"),
    [
        ("100", "write hr:100"),
        ("20001", "5 or 6 digits"),
        ("40000", "count from 1; the first one is hr:0"),
        ("400000", "count from 1"),
        ("465537", "end at hr:65535"),
        ("hr:65536", "end at hr:65535"),
        ("hr:100.16", "numbered 0 to 15"),
        ("co:3.1", "write co:3"),
        ("00001.1", "write co:0"),
        ("0x64", "write hr:0x64"),
        ("holding:5", "did you mean 'hr'"),
        ("holding registers:5", "did you mean 'hr'"),
        ("coils:5", "did you mean 'co'"),
        ("xx:5", "tables are co, di, ir and hr"),
        ("%MW7", "write hr:7"),
        ("hr100", "write it like"),
        ("", "write it like"),
    ],
)
def test_a_refusal_names_the_way_out(spelled: str, hint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(hint)):
        parse(spelled)
