"""`genba explain CODE`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gateway.config.codes import CODES


@pytest.mark.parametrize("code", CODES)
def test_every_code_is_explained(genba: Callable[..., Any], code: str) -> None:
    done = genba("explain", code)
    assert done.status == 0
    assert done.out.startswith(f"{code} ({'error' if code.startswith('E') else 'warning'}): ")
    assert "What to do: " in done.out


def test_letter_case_does_not_matter(genba: Callable[..., Any]) -> None:
    assert genba("explain", "e012").out == genba("explain", "E012").out


def test_without_a_code_all_are_listed(genba: Callable[..., Any]) -> None:
    assert [line.split()[0] for line in genba("explain").out.splitlines()] == list(CODES)


def test_an_unknown_code_ends_with_2_and_a_suggestion(genba: Callable[..., Any]) -> None:
    done = genba("explain", "E0112")
    assert done.status == 2
    assert "did you mean 'E0" in done.err
    assert "lists all codes" in genba("explain", "what").err
