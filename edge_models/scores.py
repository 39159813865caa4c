"""Makes SCORE batches from a model's arrays. Columns that never change are made once per batch length and shared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pyarrow as pa

from schemas.kinds import SCORE, TELEMETRY, TIME

from .slots import NEVER, Floats, Index, Readings, Times

_KEPT: Final = 8
_CONTRIBUTIONS: Final = SCORE.get_field_index("contributions")
_PASSED: Final = tuple([*TELEMETRY.names, "seq"].index(name) for name in ("time", "seq", "tag", "value"))  # through unchanged


class ScoreRows:
    """Builds the SCORE batches of one model and alarm."""

    def __init__(self, model: str, alarm: str, limit: float) -> None:
        self.model, self.alarm, self.limit = model, alarm, limit
        self._constant: dict[int, dict[str, pa.Array]] = {}

    def of(
        self, readings: Readings, rows: Index | None, score: Floats, low: Floats, high: Floats, *, complete: bool = False
    ) -> pa.RecordBatch:
        """One SCORE row per reading of `rows` (None: all); NaN is null. `complete` promises that there is no NaN, in `value` neither."""
        batch = readings.batch
        if rows is None:
            time, seq, tag, value = (batch.column(at) for at in _PASSED)
            if not complete or value.null_count:
                value = _nullable(readings.value)
        else:
            time, seq, tag = _times(readings.time[rows]), pa.array(readings.seq[rows]), pa.array(readings.tag[rows])
            value = _nullable(readings.value[rows])
        return self._batch(time, seq, tag, value, score, low, high, None, complete)

    def quiet(self, readings: Readings, score: Floats | None = None) -> pa.RecordBatch:
        """One SCORE row without a band per row of a batch; without `score` it is 0, NaN is null."""
        time, seq, tag, value = (readings.batch.column(at) for at in _PASSED)
        if value.null_count or readings.usable is not None:
            value = _nullable(readings.value)
        constant = self._constants(len(readings))
        nothing = constant["nothing"]
        shown = constant["zero"] if score is None else _nullable(score)
        return pa.RecordBatch.from_arrays(
            [
                time, seq, tag, constant["asset"], value, shown, constant["limit"], nothing, nothing, constant["model"],
                constant["alarm"], constant["since"], constant["contributions"],
            ],
            schema=SCORE,
        )  # fmt: skip

    def at(
        self,
        time: Times,
        seq: Times,
        tag: Index,
        value: Floats,
        score: Floats,
        low: Floats,
        high: Floats,
        since: Times | None = None,
        contributions: Sequence[str | None] | None = None,
    ) -> pa.RecordBatch:
        """SCORE rows from arrays of the same length; NaN is null, and so is NEVER in `since`. `contributions` are JSON."""
        made = self._batch(
            _times(time),
            pa.array(seq),
            pa.array(tag.astype(np.int32)),
            _nullable(value),
            score,
            low,
            high,
            since,
            False,
        )
        if contributions is None:
            return made
        return made.set_column(_CONTRIBUTIONS, SCORE.field(_CONTRIBUTIONS), pa.array(contributions, pa.string()))

    def of_assets(
        self, time: Times, seq: Times, asset: pa.Array, score: Floats, contributions: Mapping[int, str], *,
        value: Floats | None = None, low: Floats | None = None, high: Floats | None = None,
    ) -> pa.RecordBatch:  # fmt: skip
        """SCORE rows about assets (strings) from arrays of the same length; NaN is null. `contributions` are JSON, by row."""
        n = len(score)
        constant = self._constants(n)
        nothing = constant["nothing"]
        told = constant["contributions"]
        if contributions:
            told = pa.array([contributions.get(row) for row in range(n)], pa.string())
        value, low, high = (nothing if one is None else _nullable(one) for one in (value, low, high))
        return pa.RecordBatch.from_arrays(
            [
                _times(time), pa.array(seq), constant["tag"], asset, value,
                _nullable(score), constant["limit"], low, high, constant["model"], constant["alarm"],
                constant["since"], told,
            ],
            schema=SCORE,
        )  # fmt: skip

    def _batch(
        self, time: pa.Array, seq: pa.Array, tag: pa.Array, value: pa.Array, score: Floats, low: Floats, high: Floats,
        since: Times | None, complete: bool,
    ) -> pa.RecordBatch:  # fmt: skip
        column = pa.array if complete else _nullable
        constant = self._constants(len(score))
        return pa.RecordBatch.from_arrays(
            [
                time,
                seq,
                tag,
                constant["asset"],
                value,
                column(score),
                constant["limit"],
                column(low),
                column(high),
                constant["model"],
                constant["alarm"],
                constant["since"] if since is None else pa.array(since, mask=since == NEVER).view(TIME),
                constant["contributions"],
            ],
            schema=SCORE,
        )

    def _constants(self, n: int) -> dict[str, pa.Array]:
        known = self._constant.get(n)
        if known is None:
            known = {
                "tag": pa.nulls(n, pa.int32()),
                "asset": pa.nulls(n, pa.string()),
                "limit": pa.array(np.full(n, self.limit)),
                "model": pa.repeat(self.model, n),
                "alarm": pa.repeat(self.alarm, n),
                "since": pa.nulls(n, TIME),
                "contributions": pa.nulls(n, pa.string()),
                "zero": pa.array(np.zeros(n)),
                "nothing": pa.nulls(n, pa.float64()),
            }
            if len(self._constant) >= _KEPT:
                self._constant.pop(next(iter(self._constant)))
            self._constant[n] = known
        return known


def _times(time: Times) -> pa.Array:
    return pa.array(time).view(TIME)


def _nullable(values: Floats) -> pa.Array:
    """NaN is null. A look for any is cheaper than a bitmap of none, and this bitmap than pyarrow's."""
    if not np.isnan(values.max(initial=-np.inf)):
        return pa.array(values)
    valid = np.packbits(values == values, bitorder="little")
    return pa.Array.from_buffers(pa.float64(), len(values), [pa.py_buffer(valid), pa.array(values).buffers()[1]])
