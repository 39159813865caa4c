"""HEALTH rows of models that score each tag by itself: what a kernel found, put beside the rows of the batch it came from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from schemas.kinds import make_batch

from .slots import Floats, Index, Readings, Slots, Times

News = tuple[Index, Times, Floats, Floats, Floats]
"""Slots, times, and value, low and high (NaN is null)."""


def health_rows(
    slots: Slots, readings: Readings, news: Sequence[News], *, model: str, measure: str, unit: str | Sequence[str]
) -> pa.RecordBatch | None:
    """HEALTH of one measure in the order of the batch's rows; None when there is nothing. `unit` is one, or one for each slot."""
    if not news:
        return None
    own, usable = slots.of(readings.tag), readings.usable
    rows: dict[tuple[int, int], int] = {}
    for number, key in enumerate(zip(own.tolist(), readings.time.tolist(), strict=True)):
        if usable is None or usable[number]:
            rows.setdefault(key, number)
    slot = np.concatenate([one[0] for one in news])
    time, value, low, high = (np.concatenate([one[k] for one in news]) for k in range(1, 5))
    # What was taken along for speed and put back again (bad rows within a poll) has no usable row.
    found = np.array([rows.get(key, -1) for key in zip(slot.tolist(), time.tolist(), strict=True)], dtype=np.intp)
    order: Index = np.argsort(found, kind="stable")
    order = order[found[order] >= 0]
    if len(order) == 0:
        return None
    row = found[order]
    return make_batch(
        "health", len(row), time=readings.time[row], seq=readings.seq[row], tag=readings.tag[row], model=model, measure=measure,
        value=pa.array(value[order], from_pandas=True), low=pa.array(low[order], from_pandas=True),
        high=pa.array(high[order], from_pandas=True),
        unit=unit if isinstance(unit, str) else [unit[k] for k in slot[order].tolist()],
    )  # fmt: skip
