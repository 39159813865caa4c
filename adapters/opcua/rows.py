"""From decoded data values to telemetry batches: whose they are, whether they fit, when they were measured."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from adapters.base import BoundTag, TagConfig
from adapters.readings import Readings
from schemas import quality as q
from schemas.kinds import Origin, make_batch, telemetry

from .config import OpcuaTag
from .decode import BOOLEAN, DATETIME, INT64, NOTHING, TEXT_KINDS, UINT64, Changes

EPOCH_DIFFERENCE: Final = 116_444_736_000_000_000
"""1601-01-01 to 1970-01-01 in 100 ns."""
_LAST_FILETIME: Final = 2_650_467_744_000_000_000  # year 10000
_INT32: Final = np.iinfo(np.int32)

_REFUSE, _NUMBER, _INTEGER, _TEXT = range(4)


def _table() -> npt.NDArray[np.uint8]:
    """[what the tag wants, built-in type that came] -> the column it goes to, or _REFUSE."""
    wanted = np.zeros((6, 256), np.uint8)
    auto, auto_scaled, number, boolean, integer, text = wanted
    for row in (auto, auto_scaled, number):
        row[1:12] = _NUMBER
    auto[[INT64, UINT64]] = _INTEGER
    boolean[BOOLEAN] = _NUMBER
    integer[2:10] = _INTEGER
    for row in (auto, auto_scaled, text):
        row[[*TEXT_KINDS, DATETIME]] = _TEXT
    return wanted


_COLUMN: Final = _table()


def _wants(tag: OpcuaTag) -> int:
    if tag.type == "auto":
        return 0 if tag.scale == 1 and tag.offset == 0 and not tag.enum else 1
    if tag.type == "bool":
        return 3
    return {"number": 2, "integer": 4, "text": 5, "samples": 0}[tag.value_type()]


class Rows:
    """Makes batches for the tags of one connection; position i (= client handle i) is `tags[i]`."""

    def __init__(self, tags: Sequence[BoundTag[TagConfig]]) -> None:
        self.size = len(tags)
        self._readings = Readings(tags)
        self.ids = self._readings.ids
        """Tag id by position."""
        self._wants = np.array([_wants(cast(OpcuaTag, bound.config)) for bound in tags], np.intp)
        self.last_us = np.zeros(self.size, np.int64)
        """Time of the newest live row by position; 0: there was none."""

    def batch(self, changes: Changes, now_us: int, origin: Origin = Origin.LIVE) -> pa.RecordBatch | None:
        """READING(n) of `changes`, in their order; None when nothing is left of them. Unknown handles are left out.

        time: source time rounded to µs, else server time, else `now_us`. quality: the status code as it was sent, or
        BadTypeMismatch (another kind of value than configured), BadNoData (good, and no value), BadOutOfRange (a UInt64
        above the range of the column).
        """
        where = changes.handle.astype(np.intp)
        if (where >= self.size).any():
            changes, where = _only(changes, where < self.size)
        if not len(changes):
            return None
        column = _COLUMN[self._wants[where], changes.kind]
        quality = self._quality(changes, column)
        time_us = row_times(changes, now_us)
        lag_ms = np.clip((now_us - time_us) // 1000, _INT32.min, _INT32.max).astype(np.int32)
        if origin is Origin.LIVE:
            self.last_us[where] = time_us
        return self._readings.batch(
            values=changes.value,
            integers=changes.integer if (column == _INTEGER).any() else None,
            texts=_texts(changes, column),
            quality=quality,
            time_us=time_us,
            lag_ms=lag_ms,
            rows=where,
            numeric=column == _NUMBER,
            integral=column == _INTEGER,
            origin=origin,
        )

    def overflows(self, changes: Changes, now_us: int, source: str) -> pa.RecordBatch | None:
        """GAP(m): where the server says that its queue dropped values, the time since the value before. Call before `batch`."""
        lost = (changes.status & np.uint32(q.OVERFLOW) == q.OVERFLOW) & (changes.handle < self.size)
        if not lost.any():
            return None
        end = row_times(changes, now_us)[lost]
        where = changes.handle[lost].astype(np.intp)
        known = self.last_us[where]
        start = np.where(known > 0, np.minimum(known, end), end)
        return make_batch("gap", len(end), time=start, end=end, tag=self.ids[where], source=source, cause="overflow")

    def bad(self, positions: Sequence[int], qualities: Sequence[int], now_us: int) -> pa.RecordBatch:
        """READING(m): one row without a value and with its quality per position, timed `now_us`."""
        where = np.array(positions, np.intp)
        return telemetry(time_us=now_us, tag=self.ids[where], quality=np.array(qualities, np.uint32))

    @staticmethod
    def _quality(changes: Changes, column: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
        quality = changes.status
        odd = (column == _REFUSE) | (changes.kind == UINT64)
        if not odd.any():
            return quality
        good = ~q.is_bad(quality)
        refused = (column == _REFUSE) & good
        quality = np.where(refused & (changes.kind == NOTHING), np.uint32(q.BAD_NO_DATA), quality)
        quality = np.where(refused & (changes.kind != NOTHING), np.uint32(q.BAD_TYPE_MISMATCH), quality)
        above = (changes.kind == UINT64) & (column == _INTEGER) & (changes.integer < 0)
        return np.where(above & good, np.uint32(q.BAD_OUT_OF_RANGE), quality)


def row_times(changes: Changes, now_us: int) -> npt.NDArray[np.int64]:
    """int64[n], µs: source time, else server time, else `now_us`."""
    source = changes.source
    stamp = source
    missing = (source <= 0) | (source >= _LAST_FILETIME)
    if missing.any():
        stamp = np.where(missing, changes.server, source)
        missing = (stamp <= 0) | (stamp >= _LAST_FILETIME)
    time_us: npt.NDArray[np.int64] = (stamp - EPOCH_DIFFERENCE + 5) // 10
    return np.where(missing, np.int64(now_us), time_us) if missing.any() else time_us


def _texts(changes: Changes, column: npt.NDArray[np.uint8]) -> dict[int, str]:
    wanted = np.flatnonzero(column == _TEXT).tolist()
    return {k: changes.texts[k] if k in changes.texts else _iso(int(changes.integer[k])) for k in wanted}


def _iso(filetime: int) -> str:
    """A DateTime as ISO 8601 in UTC with µs; the ends of the range (`never`) as empty text."""
    if not 0 < filetime < _LAST_FILETIME:
        return ""
    return (datetime(1601, 1, 1, tzinfo=UTC) + timedelta(microseconds=filetime // 10)).isoformat().replace("+00:00", "Z")


def _only(changes: Changes, keep: npt.NDArray[np.bool_]) -> tuple[Changes, npt.NDArray[np.intp]]:
    kept = np.flatnonzero(keep)
    where = {int(old): new for new, old in enumerate(kept)}
    left = Changes(
        handle=changes.handle[kept],
        kind=changes.kind[kept],
        value=changes.value[kept],
        integer=changes.integer[kept],
        status=changes.status[kept],
        source=changes.source[kept],
        server=changes.server[kept],
        texts={where[k]: text for k, text in changes.texts.items() if k in where},
    )
    return left, left.handle.astype(np.intp)
