"""From spooled batches to the tables of a lake: tag ids become paths, rows are sorted by (tag, time), one table a date.

Pure and deterministic: the same rows give the same tables in whatever batches they come. A pass over a million rows is a
handful of vector operations; nothing here is done per row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.kinds import TIME
from schemas.span import SpoolSpan
from schemas.tags import TagDirectory, TagHistory

from .columns import ORIGINS, lake_schema

_DAY_US: Final = 86_400_000_000
_EARLIEST_US: Final = 946_684_800_000_000
"""2000-01-01: an older time is a device clock that was never set, not a measurement."""
_BLOCK: Final = 81_920
_SATURATED_MS: Final = 2**31 - 1
"""A lag this large stands for every larger one."""
_FIRST_DAY: Final = (date(1, 1, 1) - date(1970, 1, 1)).days
_LAST_DAY: Final = (date(9999, 12, 31) - date(1970, 1, 1)).days


class Names:
    """The tags of a directory as arrays by id: alphabetical rank, path and unit. A snapshot; `stale` says when to make a new one."""

    def __init__(self, tags: TagDirectory) -> None:
        self._tags = tags
        known = list(tags)
        self.paths = pa.array([tag.path for tag in known], pa.string())
        self.rank = np.empty(len(known), dtype=np.int64)
        self.rank[np.argsort(np.array([tag.path for tag in known], dtype=object), kind="stable")] = np.arange(len(known))
        versions = [(tag.id, 0, tag.unit) for tag in known]
        if isinstance(tags, TagHistory):
            versions = [(version.tag.id, version.valid_from_row, version.tag.unit) for version in tags.history()]
        units = sorted({unit for _, _, unit in versions})
        code = {unit: i for i, unit in enumerate(units)}
        self.units = pa.array(units, pa.string())
        self._unit_code = np.zeros(len(known), dtype=np.int32)
        self._renamed: dict[int, list[tuple[int, int]]] = {}
        for tag_id, row, unit in versions:  # of one tag in order of time
            if row and self._unit_code[tag_id] != code[unit]:
                self._renamed.setdefault(tag_id, [(0, int(self._unit_code[tag_id]))]).append((row, code[unit]))
            self._unit_code[tag_id] = code[unit]

    def unit_codes(self, codes: npt.NDArray[np.int32], present: npt.NDArray[np.int64], rows: pa.Array) -> npt.NDArray[np.int32]:
        """For each row the index into `units` of the unit it was read in: of codes as `_codes` gives them, in their order.

        A tag whose unit was changed has the old one in the rows before the change, however late they are written.
        """
        found: npt.NDArray[np.int32] = np.append(self._unit_code[present], np.int32(0))[codes]
        for code in np.flatnonzero(np.isin(present, list(self._renamed))).tolist() if self._renamed else ():
            start, end = np.searchsorted(codes, [code, code + 1]).tolist()
            since, unit = zip(*self._renamed[int(present[code])], strict=True)
            numbers = rows[start:end].to_numpy()
            found[start:end] = np.array(unit, dtype=np.int32)[np.searchsorted(np.array(since), numbers, side="right") - 1]
        return found

    def __len__(self) -> int:
        return len(self.rank)

    @property
    def stale(self) -> bool:
        """True when the directory has learnt of new tags."""
        return len(self._tags) != len(self)


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one span that belong to one date, as the lake's table, sorted by (tag, time, row number).

    `ids`, `first_us` and `last_us` give the oldest and newest time of each tag in it, impossible clocks left out.
    """

    date: date
    table: pa.Table
    ids: npt.NDArray[np.int64]
    first_us: npt.NDArray[np.int64]
    last_us: npt.NDArray[np.int64]


def parts(batches: Sequence[pa.RecordBatch], span: SpoolSpan, names: Names) -> Iterator[Part]:
    """One Part per date, in order of date; nothing when there are no rows. Raises ValueError for a tag id that `names` lacks.

    `batches` are of the span's kind, each with its row number as last column.
    """
    batches = [batch for batch in batches if batch.num_rows]
    if not batches:
        return
    columns = _Columns(batches)
    if int(columns.ids.max()) >= len(names):
        raise ValueError(f"tag id {int(columns.ids.max())} is not in the registry")
    one_day = _one_day(columns.time_us, columns.lag_ms)
    if one_day is not None:
        yield _part(one_day, None, columns, span, names)
        return
    days = partition_days(columns.time_us, columns.lag_ms)
    columns.keep = True
    for day in np.unique(days).tolist():
        yield _part(day, np.flatnonzero(days == day), columns, span, names)


def _part(day: int, rows: npt.NDArray[np.intp] | None, columns: _Columns, span: SpoolSpan, names: Names) -> Part:
    ids, time_us = columns.ids, columns.time_us
    codes, present = _codes(ids if rows is None else ids[rows], names)
    order, codes, times = _sorted(codes, time_us if rows is None else time_us[rows])
    if rows is not None:
        order = rows[order]
    taken, n = pa.array(order), len(order)
    made: dict[str, pa.Array | pa.ChunkedArray] = {"time": pa.array(times).view(TIME)}
    schema = lake_schema(span.kind)
    for name in columns.names:
        if name in schema.names and name not in ("tag", "time"):
            made[name] = columns.take(name, taken)
    no_tag = codes == len(present) if codes[-1] == len(present) else None
    made["tag"] = pa.DictionaryArray.from_arrays(pa.array(codes, mask=no_tag), names.paths.take(pa.array(present)))
    if span.kind == "telemetry":
        unit = names.unit_codes(codes, present, made[columns.names[-1]])
        made["unit"] = pa.DictionaryArray.from_arrays(pa.array(unit, mask=no_tag), names.units)
        made["origin"] = _origins(made["origin"])
    made["gateway"] = _repeated(pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), pa.array([span.gateway])), n)
    made["epoch"] = _repeated(pa.array([span.epoch], pa.int64()), n)
    arrays = [_fitted(made[field.name], field.type) for field in schema]
    if rows is not None:  # an impossible clock says nothing about when
        here = times // _DAY_US == day
        codes, times = codes[here], times[here]
    starts = np.flatnonzero(np.r_[len(codes) > 0, codes[1:] != codes[:-1]])
    ends = np.r_[starts[1:], len(codes)][: len(starts)] - 1
    seen = codes[starts]
    real = seen < len(present)
    return Part(
        date(1970, 1, 1) + timedelta(days=day),
        pa.Table.from_arrays(arrays, names=schema.names),
        present[seen[real]],
        times[starts][real],
        times[ends][real],
    )


def _one_day(time_us: npt.NDArray[np.int64], lag_ms: npt.NDArray[np.int32] | None) -> int | None:
    """The usual case without a pass per row: every clock is possible and all rows are of one date."""
    oldest, newest = int(time_us.min()), int(time_us.max())
    day = oldest // _DAY_US
    sane = oldest >= _EARLIEST_US and day <= _LAST_DAY and (lag_ms is None or int(lag_ms.min()) * 1000 >= -_DAY_US)
    return day if sane and newest // _DAY_US == day else None


def partition_days(time_us: npt.NDArray[np.int64], lag_ms: npt.NDArray[np.int32] | None) -> npt.NDArray[np.int64]:
    """The date (days since 1970) in whose folder each row belongs: the UTC date of its time.

    A clock is impossible when it shows a time before 2000, or more than a day after the gateway's clock (time + lag). Such a
    row goes to the date that the gateway's clock showed; where that is not known either (the lag is saturated, or the
    gateway's own clock was never set) to the latest such date in the span, so that one unset clock does not open a folder of
    its own. Only the rows' own numbers count: a retry decides the same.
    """
    day = np.clip(time_us // _DAY_US, _FIRST_DAY, _LAST_DAY)
    impossible = clock_is_impossible(time_us, lag_ms)
    if lag_ms is None:
        arrival, known = day, ~impossible
    else:
        lag_ms = lag_ms.astype(np.int64)
        arrival = np.clip(time_us // _DAY_US + (time_us % _DAY_US + lag_ms * 1000) // _DAY_US, _FIRST_DAY, _LAST_DAY)
        known = (np.abs(lag_ms) < _SATURATED_MS) & (arrival * _DAY_US >= _EARLIEST_US)
    if not impossible.any():
        return day
    latest = int(arrival[known].max()) if known.any() else None
    found = np.where(impossible & known, arrival, day)
    return found if latest is None else np.where(impossible & ~known, latest, found)


def clock_is_impossible(time_us: npt.NDArray[np.int64], lag_ms: npt.NDArray[np.int32] | None) -> npt.NDArray[np.bool_]:
    """Rows whose time is before 2000 or more than a day after the gateway's clock."""
    early = time_us < _EARLIEST_US
    return early if lag_ms is None else early | (lag_ms.astype(np.int64) * 1000 < -_DAY_US)


def _codes(ids: npt.NDArray[np.int32], names: Names) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """(codes, present): `present` are the ids in alphabetical order of their paths, `codes` index it; len(present) is no tag."""
    shifted = ids + 1
    seen = np.flatnonzero(np.bincount(shifted, minlength=1)) - 1
    present = seen[seen >= 0]
    present = present[np.argsort(names.rank[present])]
    code_of = np.full(len(names) + 1, len(present), dtype=np.int32)
    code_of[present + 1] = np.arange(len(present), dtype=np.int32)
    return code_of[shifted], present


def _sorted(
    codes: npt.NDArray[np.int32], time_us: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """(order, codes, times): positions in order of (code, time), ties in the order they came, and both keys in that order."""
    narrow = codes.astype(np.uint16) if int(codes.max()) < 1 << 16 else codes  # numpy sorts 16 bits by radix
    order: npt.NDArray[np.intp] = np.argsort(narrow, kind="stable")
    narrow, times = narrow[order], time_us[order]
    back = np.flatnonzero(times[1:] < times[:-1])  # usual where the next tag begins; elsewhere late, replayed or unset clocks
    if (narrow[back] == narrow[back + 1]).any():
        order = np.lexsort((time_us, codes))
        narrow, times = codes[order], time_us[order]
    return order, narrow.astype(np.int32), times


class _Columns:
    """The batches column by column, so that one is put together, sorted and let go before the next: memory stays small.

    With `keep`, columns stay for the next date.
    """

    def __init__(self, batches: Sequence[pa.RecordBatch]) -> None:
        self._table = pa.Table.from_batches(batches)
        self.names: list[str] = self._table.schema.names
        self.time_us: npt.NDArray[np.int64] = self._table.column("time").cast(pa.int64()).to_numpy()
        self.ids: npt.NDArray[np.int32] = self._numbers("tag", null=-1)
        self.lag_ms: npt.NDArray[np.int32] | None = self._numbers("lag", null=0) if "lag" in self.names else None
        self.keep = False
        self._kept: dict[str, pa.Array] = {}

    def _numbers(self, name: str, *, null: int) -> npt.NDArray[np.int32]:
        column = self._table.column(name)
        found: npt.NDArray[np.int32] = (column.fill_null(null) if column.null_count else column).to_numpy()
        return found

    def take(self, name: str, order: pa.Array) -> pa.Array | pa.ChunkedArray:
        """The column in another order. One that holds the same everywhere is not moved."""
        n = len(order)
        column = self._table.column(name)
        if column.null_count == len(column):
            return _repeated(pa.nulls(1, column.type), n)
        if name in ("quality", "origin", "lag") and _constant(column):
            return _repeated(column.chunk(0)[:1], n)
        if name == self.names[-1] and not column.null_count:
            first, last = column[0].as_py(), column[-1].as_py()
            if last - first + 1 == len(column):  # row numbers without a hole
                return pc.add(order, first)
        if self.keep:
            if name not in self._kept:
                self._kept[name] = pa.concat_arrays(column.chunks)
            return self._kept[name].take(order)
        return pc.take(column, order, boundscheck=False)


def _constant(column: pa.ChunkedArray) -> bool:
    """True when every row holds the same number, as quality does while all is well."""
    found = pc.min_max(column, skip_nulls=False)
    return bool(pc.equal(found["min"], found["max"]).as_py())


def _repeated(one: pa.Array, n: int) -> pa.ChunkedArray:
    """`n` times the one value, in chunks that share their memory."""
    block = one.take(pa.array(np.zeros(min(n, _BLOCK), dtype=np.int64)))
    return pa.chunked_array([block] * (n // len(block)) + ([block[: n % len(block)]] if n % len(block) else []))


def _origins(codes: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    chunks = codes.chunks if isinstance(codes, pa.ChunkedArray) else [codes]
    return pa.chunked_array([pa.DictionaryArray.from_arrays(chunk.cast(pa.int8()), ORIGINS) for chunk in chunks])


def _fitted(array: pa.Array | pa.ChunkedArray, wanted: pa.DataType) -> pa.Array | pa.ChunkedArray:
    return array if pa.types.is_dictionary(array.type) or array.type == wanted else array.cast(wanted)
