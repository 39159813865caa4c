"""A lake to merge."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cloud_sinks.parquet.compactions import put


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Eight spans of one day with a hole at 400, two of the next day, two of another gateway."""
    made = tmp_path / "lake"
    for first in (0, 100, 200, 300, 500, 600, 700, 800):
        put(made, first, 100)
    put(made, 900, 100, day=1)
    put(made, 1000, 100, day=1)
    put(made, 0, 50, gateway="gw-2")
    put(made, 50, 50, gateway="gw-2")
    return made
