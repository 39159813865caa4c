"""Arrow schemas of everything that flows. The kind travels in the schema metadata under `genba.kind`.

Times are `timestamp[us, UTC]`. Tags are int32 ids of the gateway's registry; strings appear only at the sinks. Rows carry no
sequence number while they are on their way in: the spool numbers them, and `with_seq` shows the number to readers.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .data import KINDS as KINDS
from .data import PRIORITY as PRIORITY
from .data import Kind as Kind

TIME = pa.timestamp("us", tz="UTC")


class Origin(IntEnum):
    """Where a reading comes from."""

    LIVE = 0
    BACKFILL = 1
    REPLAY = 2
    DOWNSAMPLED = 3


def _schema(kind: str, *fields: tuple[str, pa.DataType]) -> pa.Schema:
    return pa.schema([pa.field(name, kind_) for name, kind_ in fields], metadata={"genba.kind": kind})


TELEMETRY = _schema(
    "telemetry",
    ("time", TIME),  # the source's time where it has one, else the gateway's
    ("lag", pa.int32()),  # gateway time minus source time, ms
    ("tag", pa.int32()),
    ("value", pa.float64()),  # numbers, booleans as 0/1; null when bad
    ("value_int", pa.int64()),  # 64-bit integers, never squeezed through a float
    ("text", pa.string()),  # strings and enum labels
    ("samples", pa.list_(pa.float32())),  # waveforms
    ("quality", pa.uint32()),  # OPC UA StatusCode
    ("origin", pa.uint8()),  # Origin
    ("thinned", pa.bool_()),  # true: inside its deadband, seen by models and not reported; null = false
    ("value_min", pa.float64()),  # the three columns of a downsampled window; `value` is its mean
    ("value_max", pa.float64()),
    ("count", pa.int32()),
)
"""One row per reading. A row holds its value in exactly one of value / value_int / text / samples (an enum: value and text)."""

EVENT = _schema(
    "event",
    ("time", TIME),
    ("tag", pa.int32()),  # null: not about one tag
    ("asset", pa.string()),
    ("source", pa.string()),  # adapter, sink, model or `gateway`
    ("event", pa.string()),  # a constant name: `adapter_up`, `configuration_loaded`
    ("severity", pa.string()),  # info | warning | critical
    ("message", pa.string()),
    ("attributes", pa.string()),  # JSON object
)
SCORE = _schema(
    "score",
    ("time", TIME),
    ("seq", pa.int64()),  # row number of the reading that was scored
    ("tag", pa.int32()),  # null: about an asset
    ("asset", pa.string()),  # of a score over several tags; null where `tag` says it
    ("value", pa.float64()),
    ("score", pa.float64()),  # 0..1, 1 is worst, null until warm or while the reading is bad
    ("limit", pa.float64()),  # score >= limit is abnormal
    ("low", pa.float64()),  # expected band
    ("high", pa.float64()),
    ("model", pa.string()),
    ("alarm", pa.string()),  # the name that an alarm raised from this score bears
    ("since", TIME),  # since when it has been so, where the model knows: flat since, silent since
    ("contributions", pa.string()),  # JSON {tag or feature: share}, of models over several
)
ALERT = _schema(
    "alert",
    ("time", TIME),  # of this transition
    ("id", pa.string()),  # hash of model, subject and onset row: the same over all transitions of one alarm occurrence
    ("alarm", pa.string()),
    ("model", pa.string()),  # `gateway` for the gateway's own troubles
    ("tag", pa.int32()),  # null: about an asset, an adapter or a sink
    ("asset", pa.string()),  # full asset path
    ("subject", pa.string()),  # what it is about, for people: label of the tag, name of the adapter
    ("state", pa.string()),  # ISA-18.2: unacknowledged | acknowledged | returned | normal | shelved | suppressed | out_of_service
    (
        "transition",
        pa.string(),
    ),  # raised | cleared | acknowledged | shelved | unshelved | suppressed | changed | out_of_service | in_service
    ("severity", pa.string()),  # info | warning | critical
    ("problem", pa.string()),  # one sentence
    ("action", pa.string()),
    ("since", TIME),  # time of the onset row
    ("onset_seq", pa.int64()),
    ("value", pa.float64()),
    ("text", pa.string()),
    ("unit", pa.string()),
    ("low", pa.float64()),
    ("high", pa.float64()),
    ("score", pa.float64()),
    ("limit", pa.float64()),
    ("contributions", pa.string()),  # JSON {tag path: share}
    ("context", pa.string()),  # JSON [[time_us, value], ...] of the last 60 s
)
HEALTH = _schema(
    "health",
    ("time", TIME),
    ("seq", pa.int64()),
    ("tag", pa.int32()),
    ("asset", pa.string()),
    ("model", pa.string()),
    ("measure", pa.string()),  # health_index | remaining_useful_life | time_to_limit | forecast | a feature: rms, BPFO 2x
    ("value", pa.float64()),
    ("low", pa.float64()),
    ("high", pa.float64()),
    ("unit", pa.string()),
)
IMAGE = _schema(
    "image",
    ("time", TIME),
    ("tag", pa.int32()),
    ("file", pa.string()),  # relative to the spool's blob directory
    ("sha256", pa.string()),
    ("bytes", pa.int64()),
    ("media_type", pa.string()),
    ("quality", pa.uint32()),
)
GAP = _schema(
    "gap",
    ("time", TIME),  # start of the interval
    ("end", TIME),
    ("tag", pa.int32()),
    ("source", pa.string()),  # adapter, or `spool` for readings given up in it, `spool.<kind>` for rows of another kind
    ("sink", pa.string()),  # null: the data never arrived; a name: dropped before that sink had it
    # not_connected | gateway_stopped | replanned | overflow | dropped | downsampled | requested | quarantined | overrun | lost
    ("cause", pa.string()),
    ("rows", pa.int64()),  # rows given up, where known
)

SCHEMAS: Final[dict[Kind, pa.Schema]] = {
    "telemetry": TELEMETRY,
    "event": EVENT,
    "score": SCORE,
    "alert": ALERT,
    "health": HEALTH,
    "image": IMAGE,
    "gap": GAP,
}
_COLUMNS: Final = {kind: tuple((field.name, field.type) for field in schema) for kind, schema in SCHEMAS.items()}
_NAMES: Final = {kind: frozenset(schema.names) for kind, schema in SCHEMAS.items()}


def kind_of(batch: pa.RecordBatch) -> Kind:
    """The kind that a batch names in its schema metadata. Raises ValueError for a batch that names none or an unknown one."""
    found = (batch.schema.metadata or {}).get(b"genba.kind", b"").decode()
    if found not in SCHEMAS:
        raise ValueError(f"batch names no known kind: {found!r}")
    return cast(Kind, found)


def make_batch(kind: Kind, rows: int, /, **columns: object) -> pa.RecordBatch:
    """A batch of `kind` with `rows` rows from the given columns; columns not given are null.

    A column is an Arrow array, a numpy array, a list, or a scalar (repeated); times are µs as integers, or datetime64. Raises
    ValueError for an unknown column or one of another length, and pa.ArrowInvalid where a value does not fit its type.
    """
    unknown = columns.keys() - _NAMES[kind]
    if unknown:
        raise ValueError(f"{kind} has no column {sorted(unknown)}")
    arrays = []
    for name, wanted in _COLUMNS[kind]:
        given = columns.get(name)
        if given is None:
            arrays.append(pa.nulls(rows, wanted))
            continue
        if isinstance(given, pa.Array):
            array = given if given.type == wanted else given.cast(wanted)
        elif isinstance(given, np.ndarray) and given.ndim:
            array = _from_numpy(given, wanted)
        elif isinstance(given, (list, tuple)):
            array = pa.array(given, wanted)
        else:
            array = pa.repeat(pa.scalar(given, wanted), rows)
        if len(array) != rows:
            raise ValueError(f"{kind}: column {name!r} has {len(array)} rows, the batch {rows}")
        arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMAS[kind])


def _from_numpy(given: npt.NDArray[np.generic], wanted: pa.DataType) -> pa.Array:
    if pa.types.is_timestamp(wanted):
        if given.dtype.kind not in "iuM":
            raise ValueError(f"times are µs as integers, or datetime64, not {given.dtype}")
        exact = given.astype("datetime64[us]") if given.dtype.kind == "M" else given
        return pa.array(exact.astype("int64", copy=False)).view(wanted)
    made = pa.array(given)
    return made if made.type == wanted else made.cast(wanted)


def telemetry(
    *,
    time_us: npt.NDArray[np.int64] | int,
    tag: npt.NDArray[np.int32],
    quality: npt.NDArray[np.uint32] | int = 0,
    lag_ms: npt.NDArray[np.int32] | int = 0,
    origin: int = Origin.LIVE,
    **columns: object,
) -> pa.RecordBatch:
    """READING(n): the batch that an adapter yields, `tag` int32 array of n ids, times in µs since 1970 UTC."""
    return make_batch("telemetry", len(tag), time=time_us, tag=tag, quality=quality, lag=lag_ms, origin=int(origin), **columns)


def with_seq(batch: pa.RecordBatch, first: int) -> pa.RecordBatch:
    """The same rows with their row number `seq` (int64, first, first+1, …) appended as the last column.

    SCORE and HEALTH already have a `seq` (of the reading they are about); their own row number is called `row`.
    """
    name = "row" if "seq" in batch.schema.names else "seq"
    return batch.append_column(name, pa.array(np.arange(first, first + batch.num_rows, dtype=np.int64)))
