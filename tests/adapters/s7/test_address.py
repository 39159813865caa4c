"""Addresses: every usual spelling, one canonical one, and refusals that say how to write it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from adapters.s7.address import MAX_BYTE, Address, parse
from adapters.s7.config import S7Tag
from adapters.s7.spellings import suggestion

bytes_ = st.integers(0, MAX_BYTE)
addresses = st.builds(
    lambda area, db, byte, width, bit: Address(area, db if area == "DB" else 0, byte, width, bit if width == "X" else None),
    st.sampled_from(["DB", "M", "I", "Q"]),
    st.integers(1, 65535),
    bytes_,
    st.sampled_from(["X", "B", "W", "D", "L"]),
    st.integers(0, 7),
)
elements = st.builds(lambda area, number: Address(area, 0, number, "W"), st.sampled_from(["T", "C"]), st.integers(0, 65535))


@given(addresses | elements)
def test_the_canonical_spelling_reads_back_as_the_same_address(address: Address) -> None:
    assert parse(str(address)) == address


@given(addresses | elements)
def test_tia_lower_case_and_blanks_mean_the_same(address: Address) -> None:
    assert parse(f" %{str(address).lower()} ".replace(".", ". ")) == address


@pytest.mark.parametrize(
    ("spelling", "canonical"),
    [
        ("DB10.DBD4", "DB10.DBD4"),
        ("%DB10.DBX0.3", "DB10.DBX0.3"),
        ("db10.dbx 0.3", "DB10.DBX0.3"),
        ("E0.0", "I0.0"),
        ("EB4", "IB4"),
        ("%AW6", "QW6"),
        ("A1.7", "Q1.7"),
        ("M10.3", "M10.3"),
        ("MX10.3", "M10.3"),
        ("MD4", "MD4"),
        ("T 5", "T5"),
        ("%T5", "T5"),
        ("c12", "C12"),
        ("Z12", "C12"),
    ],
)
def test_spellings_of_step_7_tia_and_german_mnemonics(spelling: str, canonical: str) -> None:
    assert str(parse(spelling)) == canonical


@pytest.mark.parametrize(("letter", "area"), [("I", "I"), ("E", "I"), ("Q", "Q"), ("A", "Q"), ("M", "M")])
@pytest.mark.parametrize("width", ["", "X", "B", "W", "D", "L"])
def test_inputs_outputs_and_flags_in_every_width(letter: str, area: str, width: str) -> None:
    bit = ".5" if width in ("", "X") else ""
    canonical = f"{area}{'' if width == 'X' else width}12{bit}"
    for spelling in (f"{letter}{width}12{bit}", f"%{letter}{width}12{bit}", f"{letter}{width} 12{bit}".lower()):
        assert str(parse(spelling)) == canonical


def test_timers_and_counters_begin_at_every_second_byte_of_their_area() -> None:
    assert [parse(spelling).start for spelling in ("T0", "T5", "C12", "MW10")] == [0, 10, 24, 10]


@pytest.mark.parametrize(
    ("spelling", "says"),
    [
        ("DB10.4", "DB10.DBX4.0"),
        ("DB0.DBW0", "1 to 65535"),
        ("DB70000.DBW0", "1 to 65535"),
        ("DB1.DBX4", "DB1.DBX4.0"),
        ("M4", "M4.0"),
        ("MW4.1", "M4.1"),
        ("DB1.DBX0.8", "0 to 7"),
        ("DB1.DBB9999999", "end at byte"),
        ("T65536", "0 to 65535"),
        ("T5.1", "write it like"),
        ("TW4", "write it like"),
        ("PIW256", "peripheral"),
        ("VW100", "DB1.DBW0"),
        ('"Furnace".temp', "kind: s7plus"),
        ("hr:100", "write it like DB10.DBD4"),
        ("", "write it like DB10.DBD4"),
        ("DB1.DBD-4", "write it like"),
    ],
)
def test_a_refusal_names_the_way_out(spelling: str, says: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse(spelling)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("spelling", "address", "kind"),
    [
        ("DB10,REAL4", "DB10.DBD4", "real"),  # KEPServerEX, Ignition, Node-RED
        ("DB10,X0.3", "DB10.DBX0.3", "bool"),
        ("DB10,BOOL0.3", "DB10.DBX0.3", "bool"),
        ("DB10,STRING20.32", "DB10.DBB20", "string[32]"),
        ("DB10,INT0[10]", "DB10.DBB0", "array[10] of int"),
        ("DB10,LREAL8", "DB10.DBB8", "lreal"),
        ("MREAL4", "MD4", "real"),
        ("MI10", "MW10", "int"),
        ("ER4", "ID4", "real"),
        ("DB10.R4", "DB10.DBD4", "real"),  # Telegraf
        ("DB10.W8", "DB10.DBW8", "word"),
        ("DB10.S20.32", "DB10.DBB20", "string[32]"),
        ("DB1.C20.10", "DB1.DBB20", "array[10] of char"),
        ("%DB10.DBD4:REAL", "DB10.DBD4", "real"),  # PLC4X, python-snap7
        ("%DB10:4.3:BOOL", "DB10.DBX4.3", "bool"),
        ("%DB10.DBB20:STRING(32)", "DB10.DBB20", "string[32]"),
        ("%MW10:INT", "MW10", "int"),
        ("10.DBD4", "DB10.DBD4", "dword"),
    ],
)
def test_spellings_of_other_tools_are_refused_with_ours_which_can_be_read(spelling: str, address: str, kind: str) -> None:
    with pytest.raises(ValueError, match="did you mean") as caught:
        parse(spelling)
    assert f"address: {address} with type: {kind}?" in str(caught.value)
    made = S7Tag.model_validate({"address": address, "type": kind})
    assert (made.address, made.type) == (address, kind)


@given(st.text("DBX,.0123456789REALMW[]:%S", max_size=20))
def test_what_is_suggested_can_be_read(text: str) -> None:
    found = suggestion(text)
    if found is not None:
        try:
            S7Tag.model_validate({"address": found[0], "type": found[1]})
        except ValidationError as error:  # only a number may be wrong, and what is wrong with it is said then
            assert re.search(r"numbered|ends? at|characters|elements|longest", str(error)), error  # noqa: PT017


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        address = parse(text)
    except ValueError:
        return
    assert parse(str(address)) == address
