"""Rows of a lake on their way to a model and back, when a recording is scored in bulk: few columns, plain types.

Both engines of `genba model score --lake` carry them, and Spark sends them between machines: so times are µs as int64, tags are
numbers of the job's own, and a log (one gateway in one epoch) is a number too. The lists behind the numbers are in the job.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pyarrow as pa

READINGS: Final = pa.schema(
    [
        ("log", pa.int32()),
        ("group", pa.int32()),  # rows of one log and group are for one model
        ("seq", pa.int64()),
        ("time", pa.int64()),  # µs
        ("lag", pa.int32()),
        ("tag", pa.int32()),
        ("value", pa.float64()),
        ("value_int", pa.int64()),
        ("text", pa.string()),
        ("quality", pa.int64()),
        ("origin", pa.int32()),
    ]
)
"""Telemetry. A model sees the rows of a (log, group) in order of `seq`."""

WAVEFORMS: Final = READINGS.append(pa.field("samples", pa.list_(pa.float32())))
"""The same for a model that watches waveforms."""

SCORES: Final = pa.schema(
    [
        ("log", pa.int32()),
        ("slice", pa.int64()),  # seq // SLICE
        ("seq", pa.int64()),
        ("time", pa.int64()),  # µs
        ("tag", pa.int32()),
        ("asset", pa.string()),
        ("value", pa.float64()),
        ("score", pa.float64()),
        ("limit", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("model", pa.string()),
        ("alarm", pa.string()),
        ("since", pa.int64()),  # µs
        ("contributions", pa.string()),
    ]
)
"""What came out."""

ORDER: Final = ("seq", "alarm", "time", "tag", "asset")
"""How the score rows of a log are numbered, whichever engine made them."""
SLICE: Final = 1 << 20
"""Readings whose scores go into one file."""


@dataclass(frozen=True, slots=True, order=True)
class Log:
    """The telemetry of one gateway in one epoch: what `seq` counts."""

    site: str
    gateway: str
    epoch: int

    def __str__(self) -> str:
        return f"{self.site}/{self.gateway} epoch {self.epoch}"
