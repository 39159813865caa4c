"""What happens to every reading between an adapter and the spool: deadband and heartbeat become the `thinned` mark.

A thinned row is stored and seen by models, and passed over for every sink. The mark is decided once, before the row is
durable, so that a retried delivery selects the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.kinds import Origin
from schemas.tags import Tag


class Normaliser:
    """The thinning of one adapter's tags. State: the last reported value, quality class and time of each tag.

    A row is reported when its value differs from the last reported one by the deadband or more, when its quality class
    changed, when `report_at_least` has passed, or when it has no number. Times are the rows' own.
    """

    def __init__(self, tags: Sequence[Tag]) -> None:
        size = max((tag.id for tag in tags), default=-1) + 1
        self._deadband = np.zeros(size)
        self._beat_us = np.zeros(size, dtype=np.int64)
        for tag in tags:
            self._deadband[tag.id] = tag.deadband
            self._beat_us[tag.id] = tag.report_at_least_us
        self._any = bool((self._deadband > 0).any())
        self._value = np.full(size, np.nan)
        self._class = np.full(size, -1, dtype=np.int8)
        self._time = np.zeros(size, dtype=np.int64)

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """READING(n) -> READING(n), `thinned` set where a live row changes nothing worth reporting."""
        if not self._any:
            return batch
        ids = batch.column("tag").to_numpy()
        live = batch.column("origin").fill_null(Origin.LIVE).to_numpy(zero_copy_only=False) == Origin.LIVE
        watched = np.flatnonzero((self._deadband[ids] > 0) & live)
        if not len(watched):
            return batch
        thinned = np.zeros(len(ids), dtype=bool)
        value = pc.fill_null(batch.column("value"), float("nan")).to_numpy()
        quality = (batch.column("quality").to_numpy() >> np.uint32(30)).astype(np.int8)
        time = batch.column("time").cast(pa.int64()).to_numpy()
        for rows in _rounds(ids, watched):
            thinned[rows] = self._round(ids[rows], value[rows], quality[rows], time[rows])
        if not thinned.any():
            return batch
        return batch.set_column(batch.schema.get_field_index("thinned"), batch.schema.field("thinned"), pa.array(thinned))

    def _round(
        self,
        ids: npt.NDArray[np.int32],
        value: npt.NDArray[np.float64],
        quality: npt.NDArray[np.int8],
        time: npt.NDArray[np.int64],
    ) -> npt.NDArray[np.bool_]:
        """One row per tag: which of them to thin."""
        moved = ~(np.abs(value - self._value[ids]) < self._deadband[ids])  # NaN (no number, or first sight) counts as moved
        changed = quality != self._class[ids]
        beat = self._beat_us[ids]
        due = (beat > 0) & (np.abs(time - self._time[ids]) >= beat)
        report = moved | changed | due
        at = ids[report]
        self._value[at], self._class[at], self._time[at] = value[report], quality[report], time[report]
        thinned: npt.NDArray[np.bool_] = ~report
        return thinned


def _rounds(ids: npt.NDArray[np.int32], rows: npt.NDArray[np.intp]) -> list[npt.NDArray[np.intp]]:
    """`rows` cut into rounds in which each tag appears once, in order. Polls have one round, bursts several."""
    mine = ids[rows]
    if len(np.unique(mine)) == len(mine):
        return [rows]
    order = np.argsort(mine, kind="stable")
    sorted_ids = mine[order]
    starts = np.r_[True, sorted_ids[1:] != sorted_ids[:-1]]
    group = np.cumsum(starts) - 1
    nth = np.arange(len(mine)) - np.flatnonzero(starts)[group]
    return [rows[np.sort(order[nth == k])] for k in range(int(nth.max()) + 1)]
