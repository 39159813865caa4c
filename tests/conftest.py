"""Fixtures for every test: a settable wall clock."""

from __future__ import annotations

import pytest


class ManualClock:
    """A wall clock that tests set and step. Starts at 2026-01-01 00:00 UTC."""

    def __init__(self, now_us: int = 1_767_225_600_000_000) -> None:
        self.us = now_us

    def now_us(self) -> int:
        return self.us

    def step(self, seconds: float) -> None:
        self.us += round(seconds * 1e6)


@pytest.fixture
def manual_clock() -> ManualClock:
    return ManualClock()
