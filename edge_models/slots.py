"""From a telemetry batch to state arrays: decoding, tag id -> slot, and rounds for batches with several rows of one tag.

A model holds one array per quantity with a slot per tag. A batch is cut into rounds in which every slot occurs at most once,
in row order, so that one vector update per round equals row-by-row processing, however rows are cut into batches or
interleaved. A poll of all tags is one round over a contiguous range of slots: views, no copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas import quality as q
from schemas.kinds import TELEMETRY

Floats = npt.NDArray[np.float64]
Times = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Index = npt.NDArray[np.intp]
At = slice | Index

NEVER: Final = np.iinfo(np.int64).min
"""Time of what has not happened yet."""
HUGE: Final = 1e30
"""A number beyond this is no measurement; it is treated like NaN, so that it fits into single precision."""
_ALL: Final = slice(None)
# The place of a column never changes, and finding it by name in every batch costs more than reading it.
_TIME, _LAG, _TAG, _VALUE, _VALUE_INT, _QUALITY, _ORIGIN = (
    TELEMETRY.get_field_index(name) for name in ("time", "lag", "tag", "value", "value_int", "quality", "origin")
)
_SEQ: Final = len(TELEMETRY)


@dataclass(frozen=True, slots=True)
class Readings:
    """A telemetry batch as arrays of n rows; `value` is NaN where a row has no number or is bad. Views where Arrow allows."""

    batch: pa.RecordBatch
    seq: Times
    time: Times  # µs, the source's
    tag: npt.NDArray[np.int32]
    value: Floats
    quality: npt.NDArray[np.uint32]
    active: Bools | None  # None: no row is gated
    usable: Bools | None
    """True where a model may score and learn: not bad, a finite number, active. None when all rows are."""
    oldest: int  # least and greatest of `time`
    newest: int

    def __len__(self) -> int:
        return len(self.tag)

    def gateway_time(self) -> Times:
        """When the gateway saw the row, µs: source time plus lag. `time` itself where no row has a lag."""
        lag = self.batch.column(_LAG)
        if lag.null_count == len(lag):
            return self.time
        late = (lag.fill_null(0) if lag.null_count else lag).to_numpy()
        if len(late) == 0 or (late.max() == 0 and late.min() == 0):
            return self.time
        seen: Times = self.time + late * np.int64(1000)
        return seen

    def backfilled(self) -> Bools:
        """True where the row is not live: backfilled, replayed or downsampled."""
        origin = self.batch.column(_ORIGIN)
        live: Bools = (origin.fill_null(0) if origin.null_count else origin).to_numpy() != 0
        return live

    def gated(self, active: Bools) -> Readings:
        """The same rows under a gate."""
        usable = active if self.usable is None else self.usable & active
        return replace(self, active=active, usable=None if usable.all() else usable)


@runtime_checkable
class TakesReadings(Protocol):
    """A model that takes a batch that has been decoded already, so that it is decoded once for all models."""

    def take(self, readings: Readings) -> list[pa.RecordBatch]:
        """`EdgeModel.update` of a batch that is not empty."""
        ...


class TagColumns:
    """Gives equal tag columns as one array, so that the plans of all models are found by a look at which array it is."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, int], npt.NDArray[np.int32]] = {}

    def __call__(self, tag: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """The array that was seen before with these tags; else this one, copied."""
        if len(tag) == 0:
            return tag
        key = (len(tag), int(tag[0]), int(tag[-1]))
        known = self._known.get(key)
        if known is not None and bool((known == tag).all()):
            return known
        if len(self._known) >= 16:
            self._known.pop(next(iter(self._known)))
        self._known[key] = tag = tag.copy()
        return tag


def decode(batch: pa.RecordBatch, columns: TagColumns | None = None) -> Readings:
    """TELEMETRY(n) with `seq` behind it, and behind that perhaps `active`, as arrays. Raises ValueError for other columns."""
    if batch.num_columns <= _SEQ or batch.schema.field(_SEQ).name != "seq":
        raise ValueError("models take telemetry with its row number `seq`")
    value = batch.column(_VALUE)
    numbers: Floats = value.to_numpy(zero_copy_only=False)
    whole = batch.column(_VALUE_INT)
    if whole.null_count < len(whole):
        valid = whole.is_valid().to_numpy(zero_copy_only=False)
        numbers = np.where(valid, whole.fill_null(0).to_numpy().astype(np.float64), numbers)
    quality = batch.column(_QUALITY).to_numpy()
    if len(quality) and quality.max() >= q.BAD:
        numbers = np.where(q.is_bad(quality), np.nan, numbers)  # whatever a bad row shows is no measurement
    sane = not len(numbers) or bool(numbers.max() <= HUGE and numbers.min() >= -HUGE)  # a NaN makes this false
    time = _int64(batch.column(_TIME))
    readings = Readings(
        batch=batch,
        seq=batch.column(_SEQ).to_numpy(),
        time=time,
        tag=batch.column(_TAG).to_numpy() if columns is None else columns(batch.column(_TAG).to_numpy()),
        value=numbers,
        quality=quality,
        active=None,
        usable=None if sane else np.abs(numbers) <= HUGE,
        oldest=int(time.min()) if len(time) else NEVER,
        newest=int(time.max()) if len(time) else NEVER,
    )
    if batch.num_columns > _SEQ + 1:
        return readings.gated(batch.column(_SEQ + 1).to_numpy(zero_copy_only=False))
    return readings


def _int64(column: pa.Array) -> Times:
    plain = column.view(pa.int64())
    found: Times = (plain.fill_null(0) if plain.null_count else plain).to_numpy()
    return found


@dataclass(frozen=True, slots=True)
class Round:
    """Rows of which no two are of the same tag. `rows` index the batch, `out` the model's own rows, `at` the slots."""

    rows: At
    out: At
    at: At
    slots: Index  # the slots once more as an index, for rounds of which only some rows are usable


@dataclass(frozen=True, slots=True)
class Plan:
    """How the rows of one batch meet the slots. `rows` are the model's own rows in row order; None when all are."""

    count: int
    rows: Index | None
    rounds: Sequence[Round]


class Slots:
    """The tags of one model, by id, in a fixed order. Plans of recently seen tag columns are kept: polls repeat themselves."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = np.array(ids, dtype=np.int64)
        if len(np.unique(self.ids)) != len(self.ids) or (len(self.ids) and self.ids.min() < 0):
            raise ValueError("a model needs each tag once, with an id from the registry")
        self._lookup = np.full(int(self.ids.max(initial=-1)) + 2, -1, dtype=np.intp)
        self._lookup[self.ids] = np.arange(len(self.ids))
        self._plans: dict[tuple[int, int, int], tuple[npt.NDArray[np.int32], Plan]] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def of(self, tag: npt.NDArray[np.int32]) -> Index:
        """Slot of each tag id, -1 for a tag that is not the model's. int32[n] -> intp[n]."""
        found: Index = self._lookup[np.clip(tag, -1, len(self._lookup) - 1)]
        return found

    def plan(self, tag: npt.NDArray[np.int32]) -> Plan:
        """The plan for a batch with this tag column."""
        n = len(tag)
        if n == 0:
            return Plan(0, None, ())
        key = (n, int(tag[0]), int(tag[-1]))
        known = self._plans.get(key)
        if known is not None and (known[0] is tag or bool((known[0] == tag).all())):
            return known[1]
        made = self._make(tag)
        if len(made.rounds) == 1:
            if len(self._plans) >= 16:
                self._plans.pop(next(iter(self._plans)))
            self._plans[key] = (tag if tag.base is None else tag.copy(), made)
        return made

    def _make(self, tag: npt.NDArray[np.int32]) -> Plan:
        slots = self.of(tag)
        rows = np.flatnonzero(slots >= 0)
        own = None if len(rows) == len(tag) else rows
        if own is not None:
            slots = slots[rows]
        if len(slots) == 0:
            return Plan(0, own, ())
        order = np.argsort(slots, kind="stable")
        sorted_slots = slots[order]
        starts = np.flatnonzero(np.diff(sorted_slots, prepend=-1))
        lengths = np.diff(starts, append=len(slots))
        if lengths.max() == 1:
            return Plan(len(slots), own, (self._round(own, None, slots),))
        nth = np.empty(len(slots), dtype=np.intp)  # how often the tag has occurred before in this batch
        nth[order] = np.arange(len(slots)) - np.repeat(starts, lengths)
        by_round = np.argsort(nth, kind="stable")
        cuts = np.cumsum(np.bincount(nth))[:-1]
        return Plan(len(slots), own, [self._round(own, out, slots[out]) for out in np.split(by_round, cuts)])

    @staticmethod
    def _round(own: Index | None, out: Index | None, slots: Index) -> Round:
        if out is None:
            rows: At = _ALL if own is None else own
        else:
            rows = out if own is None else own[out]
        contiguous = len(slots) == 1 or bool((np.diff(slots) == 1).all())
        at: At = slice(int(slots[0]), int(slots[-1]) + 1) if contiguous else slots
        return Round(rows, _ALL if out is None else out, at, slots)
