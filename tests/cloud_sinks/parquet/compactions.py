"""A lake of spans, and merging its files at a time that a test sets."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from cloud_sinks import lake
from cloud_sinks.parquet.audit import audit
from cloud_sinks.parquet.compaction import Compactor
from cloud_sinks.parquet.compaction_records import Options, Report
from cloud_sinks.parquet.file import data_metadata, write_file
from cloud_sinks.parquet.rows import Names, parts
from cloud_sinks.parquet.shelf import LocalShelf
from schemas.kinds import Kind
from schemas.lake import LakeFile
from schemas.span import SpoolSpan
from tests.cloud_sinks.test_lake import PATHS
from tests.cloud_sinks.test_lake import put as put_described
from tests.conformance.sink import Tags, batch_of

POINTS = ("merged", "published", "changing", "committed", "waited", "removed one", "removed", "retired")
HOURS = 3_600_000_000
DAY = "date=2026-01-01"


def put(root: Path, first: int, count: int, **options: Any) -> list[Path]:
    """One span, without the data dictionary."""
    return put_described(root, first, count, described=False, **options)


class Clock:
    """The real time plus what was slept and what is added."""

    def __init__(self, later_us: int = 0) -> None:
        self.added_us = later_us

    def now_us(self) -> int:
        return time.time_ns() // 1000 + self.added_us

    def sleep(self, seconds: float) -> None:
        self.added_us += int(seconds * 1e6)


def compact(root: Path, *, at: Callable[[str], None] = lambda point: None, later_us: int = 0, **options: object) -> Report:
    shelf, clock = LocalShelf(root), Clock(later_us)
    shelf.open()
    try:
        return Compactor(shelf, Options(**options), now_us=clock.now_us, sleep=clock.sleep, at=at).run()  # type: ignore[arg-type]
    finally:
        shelf.close()


def written(root: Path, first: int, count: int, kind: Kind) -> Path:
    """A span of readings a second apart, as one sink writes it at a stretch."""
    tags, span = Tags(*PATHS), SpoolSpan("gw-1", 1, kind, first, first + count - 1)
    (part,) = parts([batch_of(kind, first, count, tags)], span, Names(tags))
    path = root / LakeFile("osaka", part.date, span).path()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, part.table, data_metadata(part.table, span, enterprise="acme", site="osaka"))
    return path


def rows(root: Path, kind: Kind = "telemetry") -> pl.DataFrame:
    number = "row" if kind in ("score", "health") else "seq"
    return lake.scan(root, kind=kind).collect().sort("gateway", "epoch", number)


def data(root: Path, kind: str = "telemetry") -> list[str]:
    return sorted(path.name for path in (root / kind).rglob("*.parquet"))


def well(root: Path) -> None:
    """Every file is what it says, nothing lies about."""
    assert audit(LocalShelf(root), deep=True, now_us=time.time_ns() // 1000).findings == []
    assert list(root.glob(".tmp-compact*")) == []
