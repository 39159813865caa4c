"""The newest reading of every tag, for the live table and the status page. Arrays by tag id; no history."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.kinds import Origin


class Latest:
    """Last value, text, quality, time and lag by tag id; `count` is readings seen."""

    def __init__(self, size: int) -> None:
        self.value = np.full(size, np.nan)
        self.quality = np.full(size, 0x8032_0000, dtype=np.uint32)  # BadWaitingForInitialData
        self.time_us = np.zeros(size, dtype=np.int64)
        self.lag_ms = np.zeros(size, dtype=np.int32)
        self.text: dict[int, str] = {}
        self.count = 0

    def update(self, batch: pa.RecordBatch) -> None:
        """Take over READING(n); the last row of a tag wins. Rows that are not live are older than what is here."""
        origin = _filled(batch.column("origin"), Origin.LIVE)
        if origin.any():
            self.count += int(np.count_nonzero(origin))
            batch = batch.filter(pa.array(origin == Origin.LIVE))
        ids: npt.NDArray[np.int32] = batch.column("tag").to_numpy()
        value = _filled(batch.column("value"), float("nan"))
        integer = batch.column("value_int")
        if integer.null_count < len(integer):
            rows = np.flatnonzero(integer.is_valid().to_numpy(zero_copy_only=False))
            value = value.copy()
            value[rows] = integer.take(pa.array(rows)).to_numpy()
        self.value[ids] = value
        self.quality[ids] = batch.column("quality").to_numpy()
        self.time_us[ids] = batch.column("time").view(pa.int64()).to_numpy()
        self.lag_ms[ids] = _filled(batch.column("lag"), 0)
        text = batch.column("text")
        if self.text:
            for tag_id in self.text.keys() & set(ids.tolist()):
                del self.text[tag_id]  # a reading without text must not show the label of the one before
        if text.null_count < len(text):
            last = dict(zip(ids.tolist(), range(len(ids)), strict=True))  # the newest row of each tag
            for row in np.flatnonzero(text.is_valid().to_numpy(zero_copy_only=False)).tolist():
                if last[int(ids[row])] == row:
                    self.text[int(ids[row])] = text[row].as_py()
        self.count += len(ids)


def _filled(column: pa.Array, otherwise: float) -> npt.NDArray[Any]:
    """Its numbers, `otherwise` where there are none."""
    found = column.fill_null(otherwise) if column.null_count else column
    return np.asarray(found.to_numpy(zero_copy_only=False))
