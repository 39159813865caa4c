"""`genba lake features` as a person calls it."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from tests.gateway.cli.conftest import Genba
from tests.gateway.jobs.plant import Plant


@pytest.fixture
def root(tmp_path: Path) -> Path:
    Plant("osaka", "gw-1", polls=700).write(tmp_path / "lake")
    return tmp_path / "lake"


def test_features_lie_beside_the_data_and_are_made_once(root: Path, genba: Genba) -> None:
    done = genba("lake", "features", root, "--every", "1h")
    assert (done.status, done.out) == (0, "30 windows of 1h in 2 files, 2 made now\n")
    assert genba("lake", "features", root, "--every", "1h").out == "30 windows of 1h in 2 files, 0 made now\n"
    found = pl.read_parquet(root / "features/every=1h/**/*.parquet", hive_partitioning=True)
    assert found.height == 30
    assert {str(day) for day in found["date"].unique()} == {"2026-02-28", "2026-03-01"}


def test_elsewhere_and_only_some_dates(root: Path, tmp_path: Path, genba: Genba) -> None:
    done = genba("lake", "features", root, "--out", tmp_path / "out", "--start", "2026-03-01T00:00:00Z")
    assert done.status == 0, done.err
    assert [path.parent.name for path in (tmp_path / "out").rglob("*.parquet")] == ["date=2026-03-01"]
    assert not (root / "features").exists()
    assert genba("lake", "features", root, "--every", "7m").status == 2
    assert "divides a day" in genba("lake", "features", root, "--every", "7m").err
    assert "needs its unit" in genba("lake", "features", root, "--every", "7").err
