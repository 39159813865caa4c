"""From raw values of one scan class to a telemetry batch: scale, offset, enum names, NaN, the right value column.

Compiled once per scan class; a poll is then a handful of vector operations, whatever the protocol.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas import quality as q
from schemas.kinds import Origin, telemetry

from .base import BoundTag, TagConfig


class Readings:
    """The tags of one scan class (or of one subscription) in a fixed order; position i is `tags[i]`.

    A tag's `value_type` says where its value goes: number -> `value` (raw * scale + offset), integer -> `value_int`,
    text -> `text`, samples -> `samples`. An enum tag has its number in `value` and its name in `text`.
    """

    def __init__(self, tags: Sequence[BoundTag[TagConfig]]) -> None:
        self.size = len(tags)
        self.ids = np.array([bound.tag.id for bound in tags], dtype=np.int32)
        kinds = [bound.tag.value_type for bound in tags]
        self._is_number = np.array([kind == "number" for kind in kinds], dtype=bool)
        self._is_integer = np.array([kind == "integer" for kind in kinds], dtype=bool)
        self._scale = np.array([bound.config.scale for bound in tags])
        self._offset = np.array([bound.config.offset for bound in tags])
        self._scaled = bool((self._scale != 1).any() or (self._offset != 0).any())
        self._enums, self._enum_of = _enums(tags)

    def batch(
        self,
        *,
        values: npt.NDArray[np.float64],
        quality: npt.NDArray[np.uint32],
        time_us: int | npt.NDArray[np.int64],
        lag_ms: int | npt.NDArray[np.int32] = 0,
        integers: npt.NDArray[np.int64] | None = None,
        texts: Mapping[int, str] | None = None,
        samples: Mapping[int, npt.NDArray[np.float32]] | None = None,
        rows: npt.NDArray[np.intp] | None = None,
        numeric: npt.NDArray[np.bool_] | None = None,
        integral: npt.NDArray[np.bool_] | None = None,
        origin: int = Origin.LIVE,
    ) -> pa.RecordBatch:
        """READING(m) for the positions `rows` (default: all, in order).

        `values` float64[m] raw numbers, `quality` uint32[m], `integers` int64[m], `texts` and `samples` by index into m. A bad
        row carries no value. A number that is NaN or infinite becomes a null with quality BadSensorFailure. Where the device
        and not the configuration says what a value is, `numeric` and `integral` bool[m] name the rows of `value` and `value_int`.
        """
        at = slice(None) if rows is None else rows
        m = len(quality)
        number = self._is_number[at] if numeric is None else numeric
        integer = self._is_integer[at] if integral is None else integral
        good = ~q.is_bad(quality)
        if self._scaled:
            with np.errstate(over="ignore", invalid="ignore"):  # an overflow becomes infinite, and that a bad row
                values = values * self._scale[at] + self._offset[at]
        sane = np.isfinite(values)
        broken = number & good & ~sane
        if broken.any():
            quality = np.where(broken, np.uint32(q.BAD_SENSOR_FAILURE), quality)
            good = good & ~broken
        columns: dict[str, object] = {"value": pa.array(values, mask=~(number & good))}
        if integers is not None:
            columns["value_int"] = pa.array(integers, mask=~(integer & good))
        if texts or self._enums:
            columns["text"] = self._texts(values, number & good, good, texts or {}, at)
        if samples:
            columns["samples"] = pa.array([samples.get(k) if good[k] else None for k in range(m)], pa.list_(pa.float32()))
        return telemetry(time_us=time_us, tag=self.ids[at], quality=quality, lag_ms=lag_ms, origin=origin, **columns)

    def _texts(
        self,
        values: npt.NDArray[np.float64],
        numeric: npt.NDArray[np.bool_],
        good: npt.NDArray[np.bool_],
        texts: Mapping[int, str],
        at: slice | npt.NDArray[np.intp],
    ) -> pa.Array:
        """The column of strings and enum names."""
        column = np.full(len(good), None, dtype=object)
        if texts:
            where = np.fromiter(texts, dtype=np.intp, count=len(texts))
            column[where] = list(texts.values())
            column[~good] = None
        if self._enums:
            enum_of = self._enum_of[at]
            for number, (codes, names) in enumerate(self._enums):
                rows = np.flatnonzero((enum_of == number) & numeric)
                found = np.minimum(np.searchsorted(codes, values[rows]), len(codes) - 1)
                known = codes[found] == values[rows]  # 1.5 has no name
                column[rows[known]] = names[found[known]]
        return pa.array(column, pa.string())


Names = tuple[npt.NDArray[np.float64], npt.NDArray[np.object_]]


def _enums(tags: Sequence[BoundTag[TagConfig]]) -> tuple[list[Names], npt.NDArray[np.intp]]:
    """The distinct enums, each as sorted codes and their names, and by position the number of its enum (-1: it has none)."""
    distinct: dict[tuple[tuple[int, str], ...], int] = {}
    of = np.full(len(tags), -1, dtype=np.intp)
    for position, bound in enumerate(tags):
        if bound.tag.enum:
            of[position] = distinct.setdefault(tuple(sorted(bound.tag.enum.items())), len(distinct))
    enums = [
        (np.array([code for code, _ in items], dtype=np.float64), np.array([name for _, name in items], dtype=object))
        for items in distinct
    ]
    return enums, of
