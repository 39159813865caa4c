"""Features of a lake: per tag, unit and window what its readings were like, one Parquet file per window length, site and date.

The file of a date is a function of the rows in the lake alone: rows are put into one order (tag, unit, time, gateway, epoch, seq)
and every sum runs over a window's rows in that order, so that the same rows give the same bytes, in whatever files they lie and
whichever machine works. Runs on Spark's executors too: needs polars, numpy and pyarrow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.kinds import TIME
from schemas.lake import FEATURES_COLUMNS, LakeFile, features_path
from schemas.values import Duration

from . import lake as reading
from .jobs import Lake
from .parquet.columns import schema_of
from .parquet.file import ROW_GROUP, read_metadata

if TYPE_CHECKING:
    import polars as pl

Floats = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

VERSION: Final = 1
"""Of the definitions below: files of another version are made anew."""
ROWS: Final = 2_000_000
"""Readings that are held in memory at a time; a tag that has more on one date is held whole."""
DONE: Final = pa.schema([("path", pa.string()), ("rows", pa.int64()), ("made", pa.int64())])
GAPS: Final = pa.schema([("tag", pa.string()), ("time", TIME), ("end", TIME)])
_DAY_US: Final = 86_400_000_000
_HUGE: Final = 1e100
"""As for the models: a number beyond this is no measurement."""
_BAD: Final = 0x8000_0000
_UNCERTAIN: Final = 0x4000_0000


@dataclass(frozen=True)
class Day:
    """One piece of work: a site's date. `files` are the telemetry files that were there, `gaps` (GAPS) what is missing in it."""

    site: str
    date: date
    files: Sequence[LakeFile]
    gaps: pa.Table

    def signature(self, every: Duration) -> str:
        """Changes when anything changes that the features of this date are made from."""
        digest = hashlib.sha256(f"{VERSION} {every} {self.site} {self.date}\n".encode())
        for file in self.files:
            digest.update(f"{file.path()}\n".encode())
        for row in self.gaps.to_pylist():
            digest.update(f"{row}\n".encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class Features:
    """Makes the features of a day. `every` divides a day, so that no window crosses a date."""

    lake: Lake
    every: Duration
    result: Lake
    rows: int = ROWS

    def __call__(self, day: Day) -> Iterator[pa.RecordBatch]:
        """Write the file of the day, unless it is there already and made from the same -> one row DONE; `made` is 0 when it was there."""
        path, signature = features_path(str(self.every), day.site, day.date), day.signature(self.every)
        with self.result.store() as store:
            try:
                with store.reader(path) as file:
                    there = read_metadata(file)
                    if there.get("genba.made_from") == signature:
                        yield _done(path, int(there["genba.rows"]), 0)
                        return
            except (FileNotFoundError, pa.ArrowException):  # none yet, or of a broken disk: it is made again
                pass
            scratch = store.scratch("features")
            rows = 0
            metadata = {
                "genba.features": str(VERSION), "genba.every": str(self.every), "genba.site": day.site, "genba.made_from": signature,
            }  # fmt: skip
            with pq.ParquetWriter(
                scratch, schema_of(FEATURES_COLUMNS), compression="zstd", compression_level=3, use_dictionary=["tag", "unit"],
                write_page_index=True, write_page_checksum=True, store_schema=False,
            ) as writer:  # fmt: skip
                for readings in self._readings(day):
                    table = features(readings, self.every.us, day.gaps)
                    rows += table.num_rows
                    writer.write_table(table, row_group_size=ROW_GROUP)
                writer.add_key_value_metadata({**metadata, "genba.rows": str(rows)})
            store.replace(scratch, path)
        yield _done(path, rows, 1)

    def _readings(self, day: Day) -> Iterator[pl.DataFrame]:
        """The day's rows in the order of the features, whole tags at a time. A row whose time is of another date has an impossible clock."""
        import polars as pl

        begin = datetime(day.date.year, day.date.month, day.date.day, tzinfo=UTC)
        frame = reading.scan(
            self.lake.location, sites=day.site, start=begin, end=begin + timedelta(days=1), **self.lake.access
        ).filter(pl.col("date") == day.date)
        columns = ("tag", "unit", "time", "gateway", "epoch", "seq")
        numbers = ("value", "value_int", "quality", "origin", "value_min", "value_max", "count")
        counts = frame.group_by("tag").len().sort("tag").collect()
        before = counts["len"].cum_sum() - counts["len"]
        for chunk in counts.with_columns(chunk=before // self.rows).partition_by("chunk", maintain_order=True):
            tags = chunk["tag"].to_list()
            mine = pl.col("tag").is_in(tags) & pl.col("tag").is_between(pl.lit(tags[0]), pl.lit(tags[-1]))
            rows = frame.filter(mine).select(*columns, *numbers).with_columns(pl.col("unit").fill_null("1"))
            yield rows.sort(columns).collect()


def features(readings: pl.DataFrame, every_us: int, gaps: pa.Table) -> pa.Table:
    """Readings of one date in order of (tag, unit, time, gateway, epoch, seq) -> one row per (tag, unit, window) that has readings."""
    import polars as pl

    names = readings.get_column("tag").rle_id().to_numpy(), readings.get_column("unit").rle_id().to_numpy()
    time = readings.get_column("time").dt.epoch("us").to_numpy()
    window = time // every_us
    changed = _changed(*names, window)
    first, of = np.flatnonzero(changed), np.cumsum(changed) - 1  # row at which each window begins, window of each row
    n, begin = len(first), window[first] * every_us
    tags = readings.get_column("tag").gather(first)

    quality = readings.get_column("quality").fill_null(0).to_numpy()
    value = (
        readings.select(pl.coalesce(pl.col("value"), pl.col("value_int").cast(pl.Float64)).fill_null(float("nan")))
        .to_series()
        .to_numpy()
    )
    bad = quality >= _BAD
    uncertain = ~bad & (quality >= _UNCERTAIN)
    with np.errstate(invalid="ignore"):
        numeric = ~bad & (np.abs(value) <= _HUGE)
    columns: dict[str, Any] = {
        "time": pa.array(begin).view(TIME),
        "tag": tags.to_arrow(),
        "unit": readings.get_column("unit").gather(first).to_arrow(),
        "good": np.bincount(of[~bad & ~uncertain], minlength=n),
        "uncertain": np.bincount(of[uncertain], minlength=n),
        "bad": np.bincount(of[bad], minlength=n),
        "silence": _silence(time, bad, of, begin, every_us),
        "gap": _gap(gaps, tags.to_list(), begin, every_us),
    }
    columns |= _numbers(readings, value, time, numeric, of, begin, n)
    schema = schema_of(FEATURES_COLUMNS)
    arrays = []
    for field in schema:
        given = columns[field.name]
        made = pa.array(given, from_pandas=True) if isinstance(given, np.ndarray) else given
        arrays.append(made if made.type == field.type else made.cast(field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def _numbers(
    readings: pl.DataFrame, value: Floats, time: npt.NDArray[np.int64], numeric: npt.NDArray[np.bool_], of: Index, begin: npt.NDArray[np.int64], n: int
) -> dict[str, npt.NDArray[Any]]:  # fmt: skip
    """What the numbers of each window were like; NaN where it has none, or too few."""
    import polars as pl

    rows = np.flatnonzero(numeric)
    found: dict[str, npt.NDArray[Any]] = {
        name: np.full(n, np.nan) for name in ("min", "max", "mean", "std", "rms", "first", "last", "slope")
    }
    found["count"], found["changes"] = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    if len(rows) == 0:
        return found
    v, w = value[rows], of[rows]
    starts = np.flatnonzero(_changed(w))
    at = w[starts]  # the windows that have numbers
    downsampled = readings.select(down=(pl.col("origin") == "downsampled").fill_null(False)).to_series().to_numpy()[rows]
    low, high, weight = v, v, np.ones(len(v))
    if downsampled.any():  # a row stands for the readings of a window of its own: its mean, least and greatest
        given = {
            name: readings.get_column(name).cast(pl.Float64).to_numpy()[rows] for name in ("value_min", "value_max", "count")
        }
        low = np.where(downsampled & np.isfinite(given["value_min"]), given["value_min"], v)
        high = np.where(downsampled & np.isfinite(given["value_max"]), given["value_max"], v)
        weight = np.where(downsampled & (given["count"] >= 1), given["count"], 1.0)

    def total(x: Floats) -> Floats:
        made: Floats = np.add.reduceat(x, starts)
        return made

    count = total(weight)
    inside = np.cumsum(_changed(w)) - 1
    mean = total(weight * v) / count
    least, greatest = np.minimum.reduceat(low, starts), np.maximum.reduceat(high, starts)
    mean = np.clip(mean, least, greatest)  # rounding must not carry the mean of equal numbers away from them
    deviation = v - mean[inside]
    ends = np.append(starts[1:], len(v)) - 1
    seconds = (time[rows] - begin[w]) / 1e6
    middle = total(weight * seconds) / count
    offset = seconds - middle[inside]
    spread = total(weight * offset * offset)
    several = time[rows][ends] > time[rows][starts]
    with np.errstate(invalid="ignore", divide="ignore"):
        found["std"][at] = np.where(count > 1, np.sqrt(total(weight * deviation * deviation) / (count - 1)), np.nan)
        found["slope"][at] = np.where(several, total(weight * offset * deviation) / spread, np.nan)
    found["min"][at], found["max"][at], found["mean"][at] = least, greatest, mean
    found["rms"][at] = np.sqrt(total(weight * v * v) / count)
    found["first"][at], found["last"][at] = v[starts], v[ends]
    found["count"][at] = count.astype(np.int64)
    moved = np.zeros(len(v), dtype=bool)
    moved[1:] = (v[1:] != v[:-1]) & (w[1:] == w[:-1])
    found["changes"][at] = np.add.reduceat(moved.astype(np.int64), starts)
    return found


def _silence(
    time: npt.NDArray[np.int64], bad: npt.NDArray[np.bool_], of: Index, begin: npt.NDArray[np.int64], every_us: int
) -> Floats:
    """The longest time in each window without a reading that is not bad, s; its ends count as readings do."""
    rows = np.flatnonzero(~bad)
    found = np.full(len(begin), every_us, dtype=np.int64)
    if len(rows) == 0:
        return found / 1e6
    t, w = time[rows], of[rows]
    starts = np.flatnonzero(_changed(w))
    at = w[starts]
    step = np.diff(t, prepend=t[0])
    step[starts] = t[starts] - begin[at]
    ends = np.append(starts[1:], len(t)) - 1
    found[at] = np.maximum(np.maximum.reduceat(step, starts), begin[at] + every_us - t[ends])
    return found / 1e6


def _gap(gaps: pa.Table, tags: Sequence[str], begin: npt.NDArray[np.int64], every_us: int) -> Floats:
    """How much of each window lies in gaps of its tag, s. Gaps may overlap; what is in two of them counts once."""
    found = np.zeros(len(begin))
    if gaps.num_rows == 0:
        return found
    by_tag: dict[str, list[tuple[int, int]]] = {}
    columns = gaps.column("tag").to_pylist(), *(gaps.column(name).cast(pa.int64()).to_pylist() for name in ("time", "end"))
    for tag, start, end in zip(*columns, strict=True):
        by_tag.setdefault(tag, []).append((start, end))
    names = np.array(tags, dtype=object)
    starts = np.flatnonzero(_changed(names))
    for first, last in zip(starts.tolist(), [*starts[1:].tolist(), len(names)], strict=True):
        merged: list[list[int]] = []
        for start, end in sorted(by_tag.get(names[first], ())):
            if merged and start <= merged[-1][1]:
                merged[-1][1] = max(merged[-1][1], end)
            elif end > start:
                merged.append([start, end])
        for start, end in merged:
            mine = begin[first:last]
            found[first:last] += np.maximum(np.minimum(end, mine + every_us) - np.maximum(start, mine), 0)
    return found / 1e6


def _changed(*columns: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """True for each row that differs from the one before, and for the first."""
    found = np.zeros(len(columns[0]), dtype=bool)
    found[:1] = True
    for column in columns:
        found[1:] |= column[1:] != column[:-1]
    return found


def _done(path: str, rows: int, made: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([path]), pa.array([rows]), pa.array([made])], schema=DONE)
