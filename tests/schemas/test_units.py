"""Units: everyday spellings -> UCUM -> people, and nothing lost on the way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import units
from schemas.unit_table import AMBIGUOUS, ATOMS, METRIC_ATOMS, OVERRIDES, PREFIXES, TABLE
from schemas.units import display, is_code, normalise

SPELLINGS = [(spelling, code) for code, spellings in TABLE.items() for spelling in spellings]


@pytest.mark.parametrize(
    ("text", "code", "shown"),
    [
        ("°C", "Cel", "°C"),
        ("℃", "Cel", "°C"),
        ("ºC", "Cel", "°C"),  # the ordinal sign that many keyboards offer
        ("kN", "kN", "kN"),
        ("m³", "m3", "m³"),
        ("㎥/h", "m3/h", "m³/h"),
        ("Nm³/h", "m3{normal}/h", "Nm³/h"),
        ("mg/Nm³", "mg/m3{normal}", "mg/Nm³"),
        ("RPM", "{rev}/min", "rpm"),
        ("min⁻¹", "min-1", "min⁻¹"),
        ("kWh/t", "kW.h/t", "kWh/t"),
        ("l/kWh", "l/(kW.h)", "l/(kW·h)"),
        ("µS/cm", "uS/cm", "µS/cm"),
        ("kΩ", "kOhm", "kΩ"),
        ("kN m", "kN.m", "kNm"),
        ("N·m", "N.m", "Nm"),
        ("m/s^2", "m/s2", "m/s²"),
        ("ft³", "[ft_i]3", "ft³"),
        ("pcs/min", "{pcs}/min", "pcs/min"),
        ("W/(m²·K)", "W/(m2.K)", "W/(m²·K)"),
        ("10*3/uL", "10*3/uL", "10*3/µL"),
        ("pH", "[pH]", "pH"),
        ("％", "%", "%"),
        ("1", "1", "1"),
    ],
)
def test_what_plants_write(text: str, code: str, shown: str) -> None:
    assert normalise(text) == code
    assert display(code) == shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("degr C", "unknown unit 'degr C', did you mean '°C'?"),
        ("kWhh", "unknown unit 'kWhh', did you mean 'kWh'?"),
        ("MHZ", "unknown unit 'MHZ', did you mean 'MHz'?"),  # M or m: not guessed
        ("qqqq", "unknown unit 'qqqq'; units are UCUM codes such as mm/s, kPa or Cel, and 1 for a number without a unit"),
        ("C", "ambiguous unit 'C': write '°C' for degrees Celsius, 'A.s' for coulombs"),
        ("2.5 kW", "a unit holds no decimal number: '2.5 kW'; scale the value instead"),
        ("  ", "the unit is empty; write 1 for a number without a unit"),
    ],
)
def test_errors_say_the_way_out(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the whole text is compared)
        normalise(text)
    assert str(caught.value) == message


@pytest.mark.parametrize("text", ["m//s", "(m", "m)", "m.", "/", "mmm", "m3{no}{no}", "m{é}", "{open", "m2m", "0", "kmin"])
def test_what_is_no_code(text: str) -> None:
    assert not is_code(text)


@pytest.mark.parametrize(("spelling", "code"), SPELLINGS)
def test_every_spelling_of_the_table_leads_to_its_code(spelling: str, code: str) -> None:
    assert is_code(code)
    assert normalise(spelling) == code
    assert normalise(code) == code


def test_display_is_a_bijection_of_the_table() -> None:
    shown = {code: display(code) for code in TABLE}
    assert len(set(shown.values())) == len(shown)
    assert {normalise(text): text for text in shown.values()} == shown


def test_only_the_listed_spellings_win_over_a_ucum_code() -> None:
    plain = {units._plain(spelling): code for spelling, code in SPELLINGS}
    assert {text for text, code in plain.items() if is_code(text) and text != code} == OVERRIDES


def _codes() -> st.SearchStrategy[str]:
    metric = st.tuples(st.sampled_from(["", *PREFIXES]), st.sampled_from(sorted(METRIC_ATOMS))).map("".join)
    atom = st.one_of(metric, st.sampled_from(sorted(ATOMS - {"10*", "10^"})))
    exponent = st.sampled_from(["", "", "2", "3", "-1", "+2"])
    note = st.sampled_from(["", "", "{gauge}", "{a/b.c}"])
    part = st.tuples(atom, exponent, note).map("".join)
    leaf = st.one_of(part, st.sampled_from(["{pcs}", "10*3", "{rev}"]))
    return st.recursive(
        leaf,
        lambda inner: st.one_of(st.tuples(inner, st.sampled_from("/."), inner).map("".join), inner.map("({})".format)),
        max_leaves=5,
    )


@given(_codes())
def test_codes_pass_and_come_back_from_people(code: str) -> None:
    assert is_code(code)
    if code in AMBIGUOUS:
        return
    stored = normalise(code)
    assert is_code(stored)
    assert normalise(stored) == stored
    assert normalise(display(stored)) == stored


@given(st.one_of(st.text(max_size=12), st.text("°CFmskKNhPaW/.()2³ -{}[]1µΩ%*^rp", max_size=10)))
def test_any_text_is_a_code_afterwards_or_a_named_error(text: str) -> None:
    try:
        code = normalise(text)
    except ValueError:
        return
    assert is_code(code)
    assert normalise(code) == code
    assert normalise(display(code)) == code
