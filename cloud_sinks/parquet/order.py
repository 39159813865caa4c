"""The order of rows in a lake file: tag by code point with rows about no tag last, then time, then row number."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Key = tuple[bool, str, int, int]
"""(is about no tag, tag, time in µs, row number): keys compare as rows are ordered."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of a table's rows: `tags` sorted, `code` indexes it (len(tags): no tag), `time_us`, `row`; each int64 (n)."""

    tags: list[str]
    code: npt.NDArray[np.int64]
    time_us: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]

    @classmethod
    def of(cls, table: pa.Table, row: str) -> Keys:
        """Of a lake table; `row` names the column with the row number."""
        tag = table.column("tag")
        if not pa.types.is_dictionary(tag.type):
            tag = tag.dictionary_encode()
        tag = tag.unify_dictionaries().combine_chunks()
        if isinstance(tag, pa.ChunkedArray):  # no rows, or a dictionary array that came out in one chunk
            tag = tag.chunk(0) if tag.num_chunks else pa.array([], pa.string()).dictionary_encode()
        names = tag.dictionary.to_pylist()
        order = sorted(range(len(names)), key=names.__getitem__)
        rank = np.empty(len(names) + 1, np.int64)
        rank[order] = np.arange(len(names))
        rank[len(names)] = len(names)
        index = tag.indices.fill_null(len(names)).to_numpy(zero_copy_only=False).astype(np.int64)
        return cls([names[i] for i in order], rank[index], _int64(table.column("time")), _int64(table.column(row)))

    def __len__(self) -> int:
        return len(self.code)

    def at(self, position: int) -> Key:
        """The key of one row."""
        code = int(self.code[position])
        none = code == len(self.tags)
        return none, "" if none else self.tags[code], int(self.time_us[position]), int(self.row[position])

    def is_sorted(self) -> bool:
        """True when each row's key is greater than the one before."""
        code, time_us, row = np.diff(self.code), np.diff(self.time_us), np.diff(self.row)
        return bool(((code > 0) | ((code == 0) & ((time_us > 0) | ((time_us == 0) & (row > 0))))).all())

    def upto(self, key: Key) -> int:
        """How many rows, from the first, have a key not greater than `key`; the rows are sorted."""
        none, tag, time_us, row = key
        code = len(self.tags) if none else bisect_left(self.tags, tag)
        left = int(np.searchsorted(self.code, code, "left"))
        if not none and (code == len(self.tags) or self.tags[code] != tag):
            return left
        right = int(np.searchsorted(self.code, code, "right"))
        low = left + int(np.searchsorted(self.time_us[left:right], time_us, "left"))
        high = left + int(np.searchsorted(self.time_us[left:right], time_us, "right"))
        return low + int(np.searchsorted(self.row[low:high], row, "right"))

    def sorting(self) -> npt.NDArray[np.intp]:
        """Positions that bring the rows into order."""
        return np.lexsort((self.row, self.time_us, self.code))


class Ordered:
    """Watches whether tables that come one after the other are in order, each in itself and behind the one before."""

    def __init__(self, row: str) -> None:
        self._row = row
        self._last: Key | None = None

    def next(self, table: pa.Table) -> bool:
        """False when this table breaks the order."""
        if not table.num_rows:
            return True
        keys = Keys.of(table, self._row)
        fine = keys.is_sorted() and (self._last is None or self._last < keys.at(0))
        self._last = keys.at(len(keys) - 1)
        return fine


def _int64(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    found: npt.NDArray[np.int64] = column.cast(pa.int64()).to_numpy()
    return found
