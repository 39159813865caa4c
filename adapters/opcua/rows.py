"""From decoded data values to telemetry batches: whose they are, whether they fit, when they were measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from adapters.base import BoundTag, TagConfig
from adapters.readings import Readings
from schemas import quality as q
from schemas.kinds import Origin, make_batch, telemetry

from .config import LISTS, OpcuaTag
from .decode import ARRAY, BOOLEAN, DATETIME, INT64, NOTHING, TEXT_KINDS, TOO_LARGE, UINT64, Changes, decode_read
from .parts import Parts
from .plan import Plan, compile_plan
from .values import LAST_FILETIME, Types, Value, as_json, decode, iso, numbers
from .wire import MalformedMessage

EPOCH_DIFFERENCE: Final = 116_444_736_000_000_000
"""1601-01-01 to 1970-01-01 in 100 ns."""
_INT32: Final = np.iinfo(np.int32)
_VARIANT: Final = 24

_REFUSE, _NUMBER, _INTEGER, _TEXT, _SAMPLES, _LIST = range(6)
_AUTO, _AUTO_SCALED, _ANY_NUMBER, _BOOLEAN, _ANY_INTEGER, _ANY_TEXT, _WAVEFORM, _ANY_LIST = range(8)


def _table() -> npt.NDArray[np.uint8]:
    """[what the tag wants, built-in type that came] -> the column it goes to, or _REFUSE."""
    wanted = np.zeros((8, 256), np.uint8)
    short = np.array([*range(1, INT64), 10, 11])  # what a 32-bit float of a waveform can stand for
    for row in (_AUTO, _AUTO_SCALED, _ANY_NUMBER):
        wanted[row, 1:12] = _NUMBER
    wanted[_AUTO, [INT64, UINT64]] = _INTEGER
    wanted[_BOOLEAN, BOOLEAN] = _NUMBER
    wanted[_ANY_INTEGER, 2:10] = _INTEGER
    for row in (_AUTO, _AUTO_SCALED, _ANY_TEXT):
        wanted[row, [*TEXT_KINDS, DATETIME]] = _TEXT
    for row in (_AUTO, _AUTO_SCALED):
        wanted[row, short | ARRAY] = _SAMPLES
        wanted[row, [kind | ARRAY for kind in (INT64, UINT64, DATETIME, *TEXT_KINDS)]] = _LIST
    wanted[_WAVEFORM, [*(short | ARRAY), INT64 | ARRAY, UINT64 | ARRAY]] = _SAMPLES
    wanted[_ANY_LIST, [kind | ARRAY for kind in (*range(1, 22), _VARIANT)]] = _LIST
    return wanted


_COLUMN: Final = _table()


def _wants(tag: OpcuaTag) -> int:
    if tag.type == "auto":
        return _AUTO if tag.scale == 1 and tag.offset == 0 and not tag.enum else _AUTO_SCALED
    if tag.type == "bool":
        return _BOOLEAN
    if tag.type in LISTS:
        return _ANY_LIST
    return {"number": _ANY_NUMBER, "integer": _ANY_INTEGER, "text": _ANY_TEXT, "samples": _WAVEFORM}[tag.value_type()]


class Rows:
    """Makes batches for the tags of one connection; position i (= client handle i) is `tags[i]`.

    A variable whose parts are tags has the handle of the first of them and becomes a row for each. `types` are the structures of
    the session, to be set anew for each.
    """

    def __init__(self, tags: Sequence[BoundTag[TagConfig]], plan: Plan | None = None) -> None:
        self.size = len(tags)
        self.types = Types()
        self._plan = plan or compile_plan(tags)
        self._parts = Parts(self._plan) if self._plan.parts else None
        self._scale = [(bound.config.scale, bound.config.offset) for bound in tags]
        self._readings = Readings(tags)
        self.ids = self._readings.ids
        """Tag id by position."""
        self._wants = np.array([_wants(cast(OpcuaTag, bound.config)) for bound in tags], np.intp)
        self.last_us = np.zeros(self.size, np.int64)
        """Time of the newest live row by position; 0: there was none."""

    def batch(self, changes: Changes, now_us: int, origin: Origin = Origin.LIVE) -> pa.RecordBatch | None:
        """READING(n) of `changes`, in their order; None when nothing is left of them. Unknown handles are left out.

        A `text` is also the JSON of a list of texts or 64-bit integers; a matrix is its elements row by row.
        time: source time rounded to µs, else server time, else `now_us`. quality: the status code as it was sent, or
        BadTypeMismatch (another kind of value than configured), BadNoData (good, and no value), BadOutOfRange (a UInt64
        above the range of the column), BadEncodingLimitsExceeded (larger than a row may be), or what `Parts` says.
        """
        where = changes.handle.astype(np.intp)
        if (where >= self.size).any():
            changes = changes.only(np.flatnonzero(where < self.size))
        self.prepare(changes)
        where = changes.handle.astype(np.intp)
        if self._parts is not None:
            changes, where = self._parts.take_apart(changes, where)
        if not len(changes):
            return None
        column = _COLUMN[self._wants[where], changes.kind]
        quality = self._quality(changes, column)
        time_us = row_times(changes, now_us)
        lag_ms = np.clip((now_us - time_us) // 1000, _INT32.min, _INT32.max).astype(np.int32)
        if origin is Origin.LIVE:
            self.last_us[where] = time_us
        texts: dict[int, str] = {}
        samples: dict[int, npt.NDArray[np.float32]] = {}
        if (column > _INTEGER).any():
            texts = _texts(changes, column)
            samples = self._samples(changes, column, where)
            quality = self._lists(changes, column, quality, texts)
        return self._readings.batch(
            values=changes.value,
            integers=changes.integer if (column == _INTEGER).any() else None,
            texts=texts,
            samples=samples,
            quality=quality,
            time_us=time_us,
            lag_ms=lag_ms,
            rows=where,
            numeric=column == _NUMBER,
            integral=column == _INTEGER,
            origin=origin,
        )

    def read(self, positions: npt.NDArray[np.uint32], answer: bytes) -> tuple[int, Changes]:
        """(service result, the values, prepared) of the answer to a read of these positions. Raises MalformedMessage."""
        result, changes = decode_read(answer)
        if result & 0x8000_0000:
            return result, changes
        if len(changes) != len(positions):
            raise MalformedMessage(f"{len(changes)} values for {len(positions)} nodes")
        changes.handle = positions
        self.prepare(changes)
        return result, changes

    def prepare(self, changes: Changes) -> None:
        """Decode the structures and lists among `changes`. A large message has this done in a thread: nothing else is touched here."""
        for k, variant in changes.variants.items():
            position, kind = int(changes.handle[k]), int(changes.kind[k])
            if k in changes.prepared or position >= self.size:
                continue
            if self._parts is not None and position in self._plan.parts:
                if self._parts.decodes(position, kind):
                    changes.prepared[k] = self._decoded(variant)
            elif _COLUMN[self._wants[position], kind] == _LIST:
                changes.prepared[k] = self._json(variant)

    def _decoded(self, variant: bytes) -> Value:
        try:
            return decode(variant, self.types)
        except MalformedMessage:
            return Value(variant[0] & 0x3F, wrong=q.BAD_DECODING_ERROR)

    def _json(self, variant: bytes) -> str | None:
        """The list as JSON; None when it cannot be read."""
        value = self._decoded(variant)
        return None if value.wrong else as_json(value)

    def overflows(self, changes: Changes, now_us: int, source: str) -> pa.RecordBatch | None:
        """GAP(m): where the server says that its queue dropped values, the time since the value before. Call before `batch`."""
        lost = (changes.status & np.uint32(q.OVERFLOW) == q.OVERFLOW) & (changes.handle < self.size)
        if not lost.any():
            return None
        order = np.argsort(changes.handle, kind="stable")  # the values of a tag stay in their order
        handles, stamps = changes.handle[order].astype(np.intp), row_times(changes, now_us)[order]
        known = handles < self.size
        before = np.where(known, self.last_us[np.where(known, handles, 0)], 0)
        again = np.flatnonzero(handles[1:] == handles[:-1]) + 1
        before[again] = stamps[again - 1]
        dropped = np.flatnonzero(lost[order])
        start, end = np.minimum(np.where(before > 0, before, stamps), stamps)[dropped], stamps[dropped]
        parts = [self._plan.parts.get(handle, (handle,)) for handle in handles[dropped].tolist()]
        where = np.array([position for some in parts for position in some], np.intp)
        each = np.repeat(np.arange(len(dropped)), [len(some) for some in parts])
        return make_batch(
            "gap", len(where), time=start[each], end=end[each], tag=self.ids[where], source=source, cause="overflow"
        )

    def bad(self, positions: Sequence[int], qualities: Sequence[int], now_us: int) -> pa.RecordBatch:
        """READING(m): one row without a value and with its quality per tag of these variables, timed `now_us`."""
        status = dict(zip(positions, qualities, strict=True))
        concerned = list(self._plan.tags_of(positions))
        where = np.array([position for _, position in concerned], np.intp)
        return telemetry(
            time_us=now_us, tag=self.ids[where], quality=np.array([status[handle] for handle, _ in concerned], np.uint32)
        )

    def _samples(
        self, changes: Changes, column: npt.NDArray[np.uint8], where: npt.NDArray[np.intp]
    ) -> dict[int, npt.NDArray[np.float32]]:
        """The waveforms, scaled, by index."""
        found: dict[int, npt.NDArray[np.float32]] = {}
        for k in np.flatnonzero(column == _SAMPLES).tolist():
            scale, offset = self._scale[where[k]]
            raw = numbers(changes.variants[k])
            with np.errstate(over="ignore", invalid="ignore"):
                found[k] = (raw if scale == 1 and offset == 0 else raw * scale + offset).astype(np.float32)
        return found

    def _lists(
        self, changes: Changes, column: npt.NDArray[np.uint8], quality: npt.NDArray[np.uint32], texts: dict[int, str]
    ) -> npt.NDArray[np.uint32]:
        """Put the lists as JSON into `texts`; returns `quality`, with those that cannot be read as BadDecodingError."""
        wrong: list[int] = []
        for k in np.flatnonzero(column == _LIST).tolist():
            text = changes.texts[k] if k in changes.texts else changes.prepared.get(k)
            if text is None and k not in changes.prepared:  # a list inside of a structure
                text = self._json(changes.variants[k])
            if isinstance(text, str):
                texts[k] = text
            else:
                wrong.append(k)
        if wrong:
            quality = quality.copy()
            quality[wrong] = q.BAD_DECODING_ERROR
        return quality

    @staticmethod
    def _quality(changes: Changes, column: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
        quality = changes.status
        odd = (column == _REFUSE) | (changes.kind == UINT64)
        if not odd.any():
            return quality
        good = ~q.is_bad(quality)
        refused = (column == _REFUSE) & good
        quality = np.where(refused & (changes.kind == NOTHING), np.uint32(q.BAD_NO_DATA), quality)
        quality = np.where(refused & (changes.kind == TOO_LARGE), np.uint32(q.BAD_ENCODING_LIMITS_EXCEEDED), quality)
        refused &= changes.kind != TOO_LARGE
        quality = np.where(refused & (changes.kind != NOTHING), np.uint32(q.BAD_TYPE_MISMATCH), quality)
        above = (changes.kind == UINT64) & (column == _INTEGER) & (changes.integer < 0)
        return np.where(above & good, np.uint32(q.BAD_OUT_OF_RANGE), quality)


def row_times(changes: Changes, now_us: int) -> npt.NDArray[np.int64]:
    """int64[n], µs: source time, else server time, else `now_us`."""
    source = changes.source
    stamp = source
    missing = (source <= 0) | (source >= LAST_FILETIME)
    if missing.any():
        stamp = np.where(missing, changes.server, source)
        missing = (stamp <= 0) | (stamp >= LAST_FILETIME)
    time_us: npt.NDArray[np.int64] = (stamp - EPOCH_DIFFERENCE + 5) // 10
    return np.where(missing, np.int64(now_us), time_us) if missing.any() else time_us


def _texts(changes: Changes, column: npt.NDArray[np.uint8]) -> dict[int, str]:
    wanted = np.flatnonzero(column == _TEXT).tolist()
    return {k: changes.texts[k] if k in changes.texts else iso(int(changes.integer[k])) for k in wanted}
