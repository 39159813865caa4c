"""Errors say who must act and where; spans are ordered and never empty."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import Busy, ConfigError, EndOfStream, GenbaError, NotConnected, Rejected, StateMismatch
from schemas.span import SpoolSpan


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConfigError("unknown key"), "unknown key"),
        (ConfigError("unknown key", where="plant.yaml:8:9"), "plant.yaml:8:9: unknown key"),
        (
            ConfigError("unknown key 'adress'", where="plant.yaml:8:9", hint="did you mean 'address'?"),
            "plant.yaml:8:9: unknown key 'adress' (did you mean 'address'?)",
        ),
        (NotConnected("no route to 10.0.0.7:502"), "no route to 10.0.0.7:502"),
        (Busy(2.5), "busy"),
        (Rejected("too large", [3, 4]), "too large"),
        (EndOfStream("file is read"), "file is read"),
        (StateMismatch("snapshot of version 1"), "snapshot of version 1"),
    ],
)
def test_texts(error: GenbaError, text: str) -> None:
    assert str(error) == text
    assert isinstance(error, GenbaError)


def test_what_the_one_who_acts_needs_is_on_the_error() -> None:
    assert Busy(2.5).wait_s == 2.5
    assert Rejected("too large", [3, 4]).rows == (3, 4)
    assert Rejected("all of it").rows == ()
    assert NotConnected("gone", quality=0x800A_0000).quality == 0x800A_0000


@given(st.integers(0, 2**62), st.integers(0, 10**6))
def test_a_span_counts_its_rows(first: int, more: int) -> None:
    span = SpoolSpan("gw", 1, "telemetry", first, first + more)
    assert len(span) == more + 1
    assert SpoolSpan("gw", 1, "telemetry", first + more + 1, first + more + 1) > span


@pytest.mark.parametrize(("first", "last"), [(-1, 0), (1, 0)])
def test_an_empty_or_negative_span_is_refused(first: int, last: int) -> None:
    with pytest.raises(ValueError, match="not a span"):
        SpoolSpan("gw", 1, "telemetry", first, last)
