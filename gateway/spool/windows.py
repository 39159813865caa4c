"""Telemetry in windows: many readings of one tag become one row with their mean, least, greatest and number. Pure.

TELEMETRY(n) -> TELEMETRY(m), m <= n, in the order of the first reading of each row. What a mean would falsify is not averaged:

- numbers (also those of uncertain quality): one row a tag and window, at the time of its first reading, with the worst quality;
- 64-bit integers: the last reading of the window, exactly, with least and greatest as floating point numbers and the count;
- texts and enumerations, bad readings and numbers that are not finite: only where they differ from the reading of the tag before;
- waveforms: the first of each window, unchanged.

A window with a single reading stays that reading. Rows that were windows before count for as many readings as they say.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas import quality as q
from schemas.kinds import SCHEMAS, Origin, make_batch

WIDTHS_US: Final = tuple(seconds * 1_000_000 for seconds in (60, 600, 3_600, 6 * 3_600, 86_400))
"""The widths a spool goes through as its room becomes scarcer; windows begin at multiples of their width in UTC."""

_NUMBER, _INTEGER, _WAVE, _OTHER = range(4)
Index = npt.NDArray[np.intp]
"""Positions of rows in a batch."""


class _Groups(NamedTuple):
    """Rows in the order of their groups, and where each group starts in it."""

    order: Index
    starts: Index

    @property
    def first(self) -> Index:
        """The first row of each group."""
        return np.asarray(self.order[self.starts])

    @property
    def last(self) -> Index:
        """The last row of each group."""
        return np.asarray(self.order[np.append(self.starts[1:], len(self.order)) - 1])


def thin(batch: pa.RecordBatch, width_us: int) -> pa.RecordBatch:
    """The batch in windows of `width_us`. At least one row of each tag is left."""
    rows = batch.num_rows
    if rows < 2:
        return batch
    tag = _numbers(batch, "tag", -1)
    window = _numbers(batch, "time", 0) // width_us
    classes = _classes(batch)
    averaged = _groups(np.flatnonzero(classes == _NUMBER), tag, window)
    counted = _groups(np.flatnonzero(classes == _INTEGER), tag, window)
    waves = _groups(np.flatnonzero(classes == _WAVE), tag, window)
    changes = _changes(batch, tag, classes)
    means, integers = _means(batch, averaged), _integers(batch, counted)
    kept = np.concatenate([_single(averaged), _single(counted), waves.first, changes])
    places = np.concatenate([kept, means[0], integers[0]])
    whole = pa.concat_batches([batch.take(pa.array(kept)), means[1], integers[1]])
    return whole.take(pa.array(np.argsort(places, kind="stable")))


def _classes(batch: pa.RecordBatch) -> npt.NDArray[np.int8]:
    good = _numbers(batch, "quality", 0) < q.BAD
    plain = good & ~_given(batch, "text")
    wave = good & _given(batch, "samples")
    value = _numbers(batch, "value", 0.0)
    number = plain & ~wave & _given(batch, "value") & np.isfinite(value)
    integer = plain & ~wave & ~number & _given(batch, "value_int")
    out = np.full(batch.num_rows, _OTHER, np.int8)
    out[number], out[integer], out[wave] = _NUMBER, _INTEGER, _WAVE
    return out


def _groups(rows: Index, tag: npt.NDArray[np.int32], window: npt.NDArray[np.int64]) -> _Groups:
    """`rows` by tag and window, in their order within each."""
    order = rows[np.lexsort((window[rows], tag[rows]))]
    if not len(order):
        return _Groups(order, np.zeros(0, np.intp))
    differs = (np.diff(tag[order]) != 0) | (np.diff(window[order]) != 0)
    return _Groups(order, np.append(np.intp(0), np.flatnonzero(differs) + 1))


def _sizes(groups: _Groups) -> Index:
    return np.diff(np.append(groups.starts, len(groups.order)))


def _single(groups: _Groups) -> Index:
    return np.asarray(groups.first[_sizes(groups) == 1])


def _several(groups: _Groups) -> _Groups:
    """The groups of more than one row."""
    sizes = _sizes(groups)
    keep = sizes > 1
    sizes = sizes[keep]
    order = groups.order[np.repeat(keep, _sizes(groups))]
    return _Groups(order, np.append(np.intp(0), np.cumsum(sizes)[:-1]) if len(sizes) else np.zeros(0, np.intp))


def _changes(batch: pa.RecordBatch, tag: npt.NDArray[np.int32], classes: npt.NDArray[np.int8]) -> Index:
    """Rows that are not averaged and say something other than the row of their tag before."""
    if not (classes == _OTHER).any():
        return np.zeros(0, np.intp)
    order = np.argsort(tag, kind="stable")
    text = batch.column("text").dictionary_encode().indices.fill_null(-1).to_numpy()
    quality, value = _numbers(batch, "quality", 0), _numbers(batch, "value", 0.0)
    value = np.where(np.isnan(value), 0.0, value)
    same = np.zeros(len(order), bool)
    before, after = order[:-1], order[1:]
    same[1:] = tag[before] == tag[after]
    for column in (classes, quality, text, value):
        same[1:] &= column[before] == column[after]
    return np.sort(order[~same & (classes[order] == _OTHER)])


def _means(batch: pa.RecordBatch, groups: _Groups) -> tuple[Index, pa.RecordBatch]:
    """One row a group of numbers: (the place of each in the batch, the rows)."""
    groups = _several(groups)
    order, starts = groups
    if not len(order):
        return order, make_batch("telemetry", 0)
    value, count = _numbers(batch, "value", 0.0)[order], _numbers(batch, "count", 1)[order].astype(np.int64)
    least = np.minimum.reduceat(_or(batch, "value_min", order, value), starts)
    greatest = np.maximum.reduceat(_or(batch, "value_max", order, value), starts)
    total = np.add.reduceat(count, starts)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = np.add.reduceat(value * count, starts) / total
    if not np.isfinite(mean).all():  # the sum of great numbers overflowed: weights first
        mean = np.add.reduceat(value * (count / np.repeat(total, _sizes(groups))), starts)
    mean = np.clip(mean, least, greatest)
    return groups.first, _window_rows(batch, groups, groups.first, least, greatest, total, value=mean)


def _integers(batch: pa.RecordBatch, groups: _Groups) -> tuple[Index, pa.RecordBatch]:
    """One row a group of whole numbers: the last of them, exactly."""
    groups = _several(groups)
    order, starts = groups
    if not len(order):
        return order, make_batch("telemetry", 0)
    value = _numbers(batch, "value_int", 0)[order]
    as_float = value.astype(np.float64)
    least = np.minimum.reduceat(_or(batch, "value_min", order, as_float), starts)
    greatest = np.maximum.reduceat(_or(batch, "value_max", order, as_float), starts)
    total = np.add.reduceat(_numbers(batch, "count", 1)[order].astype(np.int64), starts)
    last = _numbers(batch, "value_int", 0)[groups.last]
    return groups.first, _window_rows(batch, groups, groups.last, least, greatest, total, value_int=last)


def _window_rows(
    batch: pa.RecordBatch,
    groups: _Groups,
    at: Index,
    least: npt.NDArray[np.float64],
    greatest: npt.NDArray[np.float64],
    count: npt.NDArray[np.int64],
    **value: npt.NDArray[np.generic],
) -> pa.RecordBatch:
    """Rows of windows; time, lag and tag are those of the rows `at`, the quality is the worst of each group."""
    taken = batch.take(pa.array(at))
    thinned = batch.column("thinned").fill_null(False).to_numpy(zero_copy_only=False)[groups.order]
    return make_batch(
        "telemetry",
        len(at),
        time=taken.column("time"),
        lag=taken.column("lag"),
        tag=taken.column("tag"),
        quality=np.maximum.reduceat(_numbers(batch, "quality", 0)[groups.order], groups.starts),
        origin=int(Origin.DOWNSAMPLED),
        thinned=pa.array(np.ones(len(at), bool), mask=~np.logical_and.reduceat(thinned, groups.starts)),
        value_min=least,
        value_max=greatest,
        count=np.minimum(count, np.iinfo(np.int32).max).astype(np.int32),
        **value,
    )


def _given(batch: pa.RecordBatch, column: str) -> npt.NDArray[np.bool_]:
    found = batch.column(column)
    if not found.null_count:
        return np.ones(len(found), bool)
    return np.asarray(found.is_valid().to_numpy(zero_copy_only=False), bool)


def _numbers(batch: pa.RecordBatch, column: str, otherwise: float) -> npt.NDArray[Any]:
    """A column as numbers, with `otherwise` in place of nulls."""
    found = batch.column(column)
    if pa.types.is_timestamp(SCHEMAS["telemetry"].field(column).type):
        found = found.view(pa.int64())
    if found.null_count:
        found = found.fill_null(pa.scalar(otherwise, found.type))
    return np.asarray(found.to_numpy(zero_copy_only=False))


def _or(batch: pa.RecordBatch, column: str, order: Index, otherwise: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A column at `order`, with `otherwise` where it is null."""
    return np.where(_given(batch, column)[order], _numbers(batch, column, 0.0)[order], otherwise)
