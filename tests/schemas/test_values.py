"""Durations, sizes, rates and slugs: text <-> value, errors that say how to write it, and a JSON Schema that agrees."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from schemas.values import _DURATION, _SIZE, Duration, Rate, Size, Slug, Strict

DURATION, SIZE, RATE, SLUG = (TypeAdapter[Any](kind) for kind in (Duration, Size, Rate, Slug))


@given(st.integers(0, 10**18))
def test_duration_text_and_back(us: int) -> None:
    assert Duration(str(Duration(us))) == us
    assert DURATION.validate_python(str(Duration(us))) == us


@given(st.integers(0, 10**18))
def test_size_text_and_back(count: int) -> None:
    assert Size(str(Size(count))) == count
    assert SIZE.validate_python(str(Size(count))) == count


@pytest.mark.parametrize("kind", [DURATION, SIZE])
def test_what_no_row_can_hold_is_refused(kind: TypeAdapter[Any]) -> None:
    """Found by fuzzing: an operator's "shelve for 99999999999999999999d" made a time that no snapshot could store."""
    unit = "d" if kind is DURATION else "TB"
    with pytest.raises(ValidationError, match="this large is not kept"):
        kind.validate_python(f"{'9' * 20}{unit}")


@given(st.one_of(st.floats(0, 1e9), st.integers(0, 10**9).map(float)))
def test_rate_text_and_back(per_day: float) -> None:
    assert Rate(str(Rate(per_day))) == per_day


@given(st.integers(0, 10**6), st.sampled_from(sorted(_DURATION)))
def test_every_unit_of_a_duration(number: int, unit: str) -> None:
    assert Duration(f"{number}{unit}") == Duration(f" {number} {unit} ") == number * _DURATION[unit]


@given(st.integers(0, 10**6), st.sampled_from(sorted(_SIZE)))
def test_every_unit_of_a_size(number: int, unit: str) -> None:
    assert Size(f"{number} {unit}") == number * _SIZE[unit]


@given(st.decimals(min_value=1, max_value=10**6, places=3))
def test_decimals_are_exact(number: object) -> None:
    assert Duration(f"{number}s") == Fraction(str(number)) * 10**6


def test_what_people_write() -> None:
    assert Duration("1.5h").s == 5400.0
    assert Duration("100ms").us == 100_000
    assert str(Duration("120s")) == "2m"
    assert str(Size("20 GB")) == "20 GB"
    assert Size("16 MiB") == 16 * 2**20
    assert Size("9007199254740993 B") == 9007199254740993
    assert Rate("4/day") == 4
    assert Rate("1 / h") == 24
    assert str(Rate("1/h")) == "24/day"


@pytest.mark.parametrize(
    ("adapter", "value", "message"),
    [
        (DURATION, "soon", "not a duration; write it like 500ms, 2s, 15m"),
        (DURATION, 5, "a duration needs its unit; write it like 500ms, 2s, 15m"),
        (DURATION, "-5s", "not a duration; write it like 500ms, 2s, 15m"),
        (DURATION, True, "not a duration; write it like 500ms, 2s, 15m"),
        (DURATION, None, "not a duration; write it like 500ms, 2s, 15m"),
        (DURATION, "5 weeks", "unknown unit 'weeks' of a duration; known are us, µs, ms, s, m, min, h, d"),
        (DURATION, "0.5us", "a duration this small is not kept; the smallest is 1us"),
        (SIZE, "20 gb", "unknown unit 'gb' of a size; known are B, kB, KB, MB, GB, TB, KiB, MiB, GiB, TiB"),
        (SIZE, "20", "a size needs its unit; write it like 20 GB, 16 MiB"),
        (RATE, "4", "not a rate; write it like 4/day or 1/h"),
        (RATE, 4, "not a rate; write it like 4/day or 1/h"),
        (RATE, "4/fortnight", "not a rate; write it like 4/day or 1/h"),
        (SLUG, "Press 07", "not a slug; lower-case letters, digits and inner hyphens, such as press-07"),
    ],
)
def test_errors_say_how_to_write_it(adapter: TypeAdapter[Any], value: object, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        adapter.validate_python(value)
    assert [error["msg"] for error in caught.value.errors()] == [message]


@pytest.mark.parametrize(
    ("adapter", "good", "bad"),
    [
        (DURATION, ["500ms", "2 s", "1.5h", "0", 0], ["2", "2 weeks", "-2s", "s", 2]),
        (SIZE, ["20 GB", "1.5MiB", "0 B", 0], ["20", "20 gb", "kB", 20]),
        (RATE, ["4/day", "1 / h"], ["4", "/day", "4/week"]),
        (SLUG, ["press-07", "a"], ["Press", "a-", ""]),
    ],
)
def test_the_json_schema_agrees_with_the_parser(adapter: TypeAdapter[Any], good: list[object], bad: list[object]) -> None:
    schema = adapter.json_schema()
    for value in good:
        adapter.validate_python(value)
        assert _fits(schema, value), value
    for value in bad:
        with pytest.raises(ValidationError):
            adapter.validate_python(value)
        assert not _fits(schema, value), value


def _fits(schema: dict[str, Any], value: object) -> bool:
    if "anyOf" in schema:
        return any(_fits(one, value) for one in schema["anyOf"])
    if "enum" in schema:
        return value in schema["enum"]
    return isinstance(value, str) and re.search(schema["pattern"], value) is not None


def test_configuration_classes_are_strict_frozen_and_write_themselves() -> None:
    class Example(Strict):
        timeout: Duration = Duration("2s")
        limit: Size = Size("1 MB")

    assert Example.model_validate({"timeout": "250ms"}).timeout == 250_000
    assert Example().model_dump(mode="json") == {"timeout": "2s", "limit": "1 MB"}
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Example.model_validate({"timeouts": "1s"})
    with pytest.raises(ValidationError, match="frozen"):
        Example().timeout = Duration("3s")
