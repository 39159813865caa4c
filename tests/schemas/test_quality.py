"""Quality codes are the OPC Foundation's, by number and by name."""

from __future__ import annotations

import numpy as np
import pytest
from asyncua import ua
from hypothesis import given
from hypothesis import strategies as st

from schemas import quality

CODES = {
    name: value
    for name, value in vars(quality).items()
    if name.isupper() and isinstance(value, int) and name not in ("OVERFLOW",)
}


@pytest.mark.parametrize("constant", CODES)
def test_number_and_name_are_the_standards(constant: str) -> None:
    name = quality.name(CODES[constant])
    assert name.upper() == constant.replace("_", "")
    assert getattr(ua.StatusCodes, name) == CODES[constant]


def test_names_are_a_bijection() -> None:
    assert len({quality.name(code) for code in CODES.values()}) == len(set(CODES.values())) == len(CODES)


@given(st.integers(0, 2**32 - 1))
def test_every_code_has_a_name_and_one_severity(code: int) -> None:
    severity = ("Good", "Uncertain", "Bad", "Bad")[code >> 30]
    assert quality.name(code).startswith(severity)
    codes = np.array([code], np.uint32)
    assert quality.is_good(codes)[0] == (severity == "Good")
    assert quality.is_bad(codes)[0] == (severity == "Bad")


def test_overflow_is_said_and_stays_good() -> None:
    assert quality.name(quality.GOOD | quality.OVERFLOW) == "Good (overflow)"
    assert quality.is_good(np.array([quality.OVERFLOW], np.uint32))[0]
    assert quality.name(0x80AB_0000) == "Bad 0x80ab0000"
