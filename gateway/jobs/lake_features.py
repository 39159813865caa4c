"""Makes the features of a lake, date by date: here, or past one machine with Spark. Only what has changed is made anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from cloud_sinks import lake as reading
from cloud_sinks.features import DONE, GAPS, Day, Features
from cloud_sinks.jobs import Lake
from schemas.errors import ConfigError
from schemas.lake import LakeFile
from schemas.values import Duration

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_DAY = timedelta(days=1)
_DAY_US = 86_400_000_000


@dataclass
class Summary:
    """What came of it: files that are there, how many of them were made now, and the rows in all of them."""

    files: int = 0
    made: int = 0
    rows: int = 0


def make(
    lake: Lake,
    every: Duration,
    *,
    result: Lake | None = None,
    sites: Sequence[str] = (),
    start: datetime | None = None,
    end: datetime | None = None,
    sink: str | None = None,
    spark: SparkSession | None = None,
) -> Summary:
    """Features of every site and date of the lake from the date of `start` to that of `end` (whole dates, UTC), into `result` or the lake itself.

    `sink` is the name of the sink that writes the lake, by default what the lake says of itself: gaps of other sinks are not its own. Done again it leaves alone what is
    made from the same rows. Raises ConfigError for windows that do not divide a day, and what the lake's places raise.
    """
    if every.us < 1_000_000 or _DAY_US % every.us:
        raise ConfigError(f"--every {every}: a window divides a day and is a second or longer", hint="1m, 5m, 15m, 1h, 1d")
    work = Features(lake, every, result or lake)
    days = list(_days(lake, sites, start, end, sink))
    summary = Summary()
    for done in _run(work, days, spark):
        summary.files += 1
        summary.rows += done["rows"]
        summary.made += done["made"]
    return summary


def _days(lake: Lake, sites: Sequence[str], start: datetime | None, end: datetime | None, sink: str | None) -> Iterator[Day]:
    """The work, in order of site and date."""
    found: dict[tuple[str, date], list[LakeFile]] = {}
    for file in lake.files("telemetry", sites or None, start, end):
        found.setdefault((file.site, file.date), []).append(file)
    for site in sorted({site for site, _ in found}):
        dates = sorted(day for where, day in found if where == site)
        gaps = reading.gaps(
            lake.location, sites=site, start=_midnight(dates[0]), end=_midnight(dates[-1]) + _DAY, sink=sink, **lake.access
        )
        for day in dates:
            begin = _midnight(day)
            mine = gaps.filter((gaps["time"] < begin + _DAY) & (gaps["end"] > begin))
            yield Day(site, day, found[site, day], mine.select(GAPS.names).unique().sort(GAPS.names).to_arrow().cast(GAPS))


def _run(work: Features, days: list[Day], spark: SparkSession | None) -> Iterator[dict[str, Any]]:
    if spark is not None and days:
        from . import spark as sparks

        with sparks.explained():
            yield from sparks.each(spark, work, days, DONE).toArrow().to_pylist()
        return
    for day in days:
        yield from pa.Table.from_batches(work(day)).to_pylist()


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
