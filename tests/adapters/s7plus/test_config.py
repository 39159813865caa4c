"""Symbols, options, and what is refused with the way out."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from adapters.s7plus import S7PlusConfig
from adapters.s7plus.address import parse
from adapters.s7plus.config import S7PlusTag, check


@pytest.mark.parametrize(
    ("spelling", "canonical"),
    [
        ('"Data".motor.speed', "Data.motor.speed"),
        ("Data.motor.speed", "Data.motor.speed"),
        ('"Data block 1"."my var"', "Data block 1.my var"),
        ('"Data".zone[3].temp', "Data.zone[3].temp"),
        ('"Data".matrix[1,-2]', "Data.matrix[1,-2]"),
        ("炉.温度", "炉.温度"),
        ("8a0e0001.f.1", "8A0E0001.F.1"),
        ("DB_10.DBD_speed", "DB_10.DBD_speed"),
    ],
)
def test_symbols_and_access_strings(spelling: str, canonical: str) -> None:
    assert str(parse(spelling)) == canonical
    assert parse(canonical) == parse(spelling)


@pytest.mark.parametrize(
    ("spelling", "says"),
    [
        ("DB10.DBD4", "`kind: s7`"),
        ("%MW10", "`kind: s7`"),
        ("speed", "begins with its data block"),
        ('"Data".', "ends with a dot"),
        ('".".speed', "begins with a dot"),
        ("Data..speed", "not a symbol"),
        ("[3].x", "follows a name"),
        ('"Data"speed', "a dot is missing"),
        ("Data.zone[x]", "not a symbol"),
        ("", "begins with its data block"),
    ],
)
def test_a_refusal_names_the_way_out(spelling: str, says: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse(spelling)
    assert says in str(caught.value)


@settings(deadline=None)  # the machine that runs the tests may be busy
@given(st.text(max_size=30))
def test_any_text_is_a_symbol_or_a_value_error(text: str) -> None:
    try:
        address = parse(text)
    except ValueError:
        return
    assert address.name or address.access


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("array[10] of real", "Data.zone[0], Data.zone[1]"),
        ("array[10] of char", "element by element"),
        ("timer", "Data.delay.ET as time"),
        ("DTL", "Data.made.YEAR as uint"),
        ("quaternion", "types are bool"),
    ],
)
def test_types_that_are_several_values_are_refused_with_the_way_out(kind: str, says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        S7PlusTag.model_validate({"address": "Data.x", "type": kind})
    assert says in str(caught.value)


def configure(**options: Any) -> S7PlusConfig:
    return S7PlusConfig.model_validate({"kind": "s7plus", "endpoint": "tls://10.0.0.20"} | options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"endpoint": "s7plus://10.0.0.20"}, "tls://10.0.0.20"),
        ({"fingerprint": "abc"}, "64 hex digits"),
        ({"endpoint": "s7://10.0.0.20", "fingerprint": "00" * 32}, "write tls://"),
        ({"endpoint": "s7://10.0.0.20", "password": "x"}, "encrypted connection only"),
        ({"ca": "a.pem", "fingerprint": "00" * 32}, "keep one"),
        ({"check_program": "0s"}, "longer than 0s"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        configure(**options)
    assert says in str(caught.value)


def test_a_connection_that_anybody_may_answer_is_a_warning() -> None:
    assert configure(fingerprint=":".join(["AB"] * 32)).fingerprint == "ab" * 32
    said = {name: [finding.loc for finding in check(configure(**options)) if finding.loc != ("kind",)] for name, options in {
        "clear": {"endpoint": "s7://10.0.0.20"}, "unchecked": {}, "pinned": {"fingerprint": "ab" * 32}, "simulated": {"endpoint": "s7://127.0.0.1"},
    }.items()}  # fmt: skip
    assert said == {"clear": [("endpoint",)], "unchecked": [("endpoint",)], "pinned": [], "simulated": []}


def test_reading_a_configuration_imports_no_protocol_library() -> None:
    code = "import sys, adapters.s7plus; print([name for name in sys.modules if name.split('.')[0] in ('s7commplus', 's7', 'snap7')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
