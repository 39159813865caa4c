from __future__ import annotations

import pytest

from schemas.unece import NAMESPACE, UNITS, code_of, unit_of
from schemas.units import display, normalise


@pytest.mark.parametrize("code", UNITS)
def test_every_code_is_a_unit_that_people_can_write(code: str) -> None:
    assert normalise(display(UNITS[code])) == UNITS[code]
    assert 2 <= len(code) <= 3
    assert code_of(int.from_bytes(code.encode())) == code


def test_the_code_counts_before_the_name_and_the_name_where_there_is_no_code() -> None:
    assert unit_of(NAMESPACE, 4408652, "degree") == "°C"  # the unit id of OPC 10000-8 for CEL
    assert unit_of(NAMESPACE, 0, "Nm") == "Nm"
    assert unit_of("urn:vendor", 4408652, "bar") == "bar"  # a number of somebody else's list
    assert unit_of(NAMESPACE, -1, "furlongs", "mm/s") == "mm/s"
    assert unit_of(NAMESPACE, 0x5A5A5A, "furlongs") is None
    assert unit_of("", 1 << 40) is None
