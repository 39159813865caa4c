"""Layout of the lake: paths, file names and columns, for the sink that writes and the reader that scans.

`{kind}/site={site}/date={YYYY-MM-DD}/{gateway}-{epoch}-{kind}-{first}-{last}.parquet`. The name carries the row span, so a
retry after a crash writes the same name; no data file starts with `_` or `.`, and temporary files start with `.tmp-`. A file that
compaction made has `-m` and twelve hexadecimal digits before `.parquet`; which of those count, `manifest` says.
The columns of a kind are fixed for ever: a later version may append columns, it never renames, retypes or drops one.
Imports nothing heavy, so that notebooks read a lake without the gateway's libraries.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, ClassVar, Final, Literal, cast

from .span import SpoolSpan

if TYPE_CHECKING:
    from .kinds import Kind

SCHEMA_VERSION: Final = 1
SINK: Final = "genba.sink"
"""Key in the metadata of a gateway's data dictionary: the name of the sink that writes the lake, to which gaps refer."""
TEMPORARY: Final = ".tmp-"
"""How the name of a file begins that is not finished; readers' globs pass over it."""

ColumnType = Literal["time", "text", "float64", "int64", "int32", "float32 list"]
"""`time` is µs UTC. Unsigned and small integers are left out on purpose: not every engine reads them."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: its meaning is what docs, DDL and readers show."""

    name: str
    type: ColumnType
    meaning: str


def _columns(*rows: tuple[str, ColumnType, str]) -> tuple[Column, ...]:
    return tuple(Column(*row) for row in rows)


_IDENTITY: Final = _columns(
    ("gateway", "text", "the gateway that wrote the row"),
    ("epoch", "int64", "rises when another gateway takes over"),
)
_SEQ: Final = _columns(("seq", "int64", "row number; (gateway, epoch, seq) names a row of this table for ever"))
_ROW: Final = _columns(
    ("row", "int64", "row number; (gateway, epoch, row) names a row of this table for ever (seq is the reading's)")
)

COLUMNS: Final[Mapping[Kind, tuple[Column, ...]]] = {
    "telemetry": _columns(
        ("time", "time", "the source's time where it has one, else the gateway's"),
        ("tag", "text", "enterprise/site/asset/name"),
        ("value", "float64", "number, or boolean as 0/1, or mean of a downsampled window; null when bad"),
        ("value_int", "int64", "64-bit integer, never squeezed through a float"),
        ("text", "text", "string, or name of an enumerated value"),
        ("samples", "float32 list", "waveform"),
        ("unit", "text", "UCUM code of value, `1` for none"),
        ("quality", "int64", "OPC UA StatusCode, 0 is good"),
        ("origin", "text", "live, backfill, replay or downsampled"),
        ("lag", "int32", "gateway's time minus time, ms"),
        ("value_min", "float64", "least value of a downsampled window"),
        ("value_max", "float64", "greatest value of a downsampled window"),
        ("count", "int32", "readings in a downsampled window"),
    )
    + _IDENTITY
    + _SEQ,
    "event": _columns(
        ("time", "time", "when it happened"),
        ("tag", "text", "the tag it is about, null for none"),
        ("asset", "text", "the asset it is about"),
        ("source", "text", "adapter, sink, model or `gateway`"),
        ("event", "text", "constant name: adapter_up, configuration_loaded"),
        ("severity", "text", "info, warning or critical"),
        ("message", "text", "one sentence for people"),
        ("attributes", "text", "JSON object"),
    )
    + _IDENTITY
    + _SEQ,
    "score": _columns(
        ("time", "time", "of the reading"),
        ("seq", "int64", "row number of the reading that was scored"),
        ("tag", "text", "enterprise/site/asset/name, null for a score of an asset"),
        ("asset", "text", "the asset of a score over several tags"),
        ("value", "float64", "the reading"),
        ("score", "float64", "0..1, 1 is worst; null until warm or while the reading is bad"),
        ("limit", "float64", "a score at or above it is abnormal"),
        ("low", "float64", "lower end of the expected band"),
        ("high", "float64", "upper end of the expected band"),
        ("model", "text", "key below `models:`"),
        ("alarm", "text", "name of the alarm that this score can raise"),
        ("since", "time", "since when it has been so, where the model knows"),
        ("contributions", "text", "JSON {tag: share}"),
    )
    + _IDENTITY
    + _ROW,
    "alert": _columns(
        ("time", "time", "of this transition"),
        ("id", "text", "the same over all transitions of one occurrence"),
        ("alarm", "text", "name of the alarm"),
        ("model", "text", "who raised it; `gateway` for its own troubles"),
        ("tag", "text", "the tag it is about, null for none"),
        ("asset", "text", "the asset it is about"),
        ("subject", "text", "what it is about, for people"),
        ("state", "text", "ISA-18.2: unacknowledged, acknowledged, returned, normal, shelved, suppressed, out_of_service"),
        (
            "transition",
            "text",
            "raised, cleared, acknowledged, shelved, unshelved, suppressed, changed, out_of_service, in_service",
        ),
        ("severity", "text", "info, warning or critical"),
        ("problem", "text", "one sentence"),
        ("action", "text", "what a person does"),
        ("since", "time", "of the onset"),
        ("onset_seq", "int64", "telemetry row of the onset"),
        ("value", "float64", "the value at the transition"),
        ("text", "text", "the value where it is text"),
        ("unit", "text", "UCUM code"),
        ("low", "float64", "lower end of the expected band"),
        ("high", "float64", "upper end of the expected band"),
        ("score", "float64", "0..1"),
        ("limit", "float64", "of the score, or the limit that was crossed"),
        ("contributions", "text", "JSON {tag: share}"),
        ("context", "text", "JSON [[time_us, value], ...] before the transition"),
    )
    + _IDENTITY
    + _SEQ,
    "health": _columns(
        ("time", "time", "of the estimate"),
        ("seq", "int64", "row number of the newest reading behind it"),
        ("tag", "text", "the tag it is about, null for none"),
        ("asset", "text", "the asset it is about"),
        ("model", "text", "key below `models:`"),
        (
            "measure",
            "text",
            "health_index, remaining_useful_life, time_to_limit, forecast, or a feature of a waveform: rms, BPFO 2x",
        ),
        ("value", "float64", "the estimate"),
        ("low", "float64", "lower end of its interval"),
        ("high", "float64", "upper end of its interval"),
        ("unit", "text", "UCUM code"),
    )
    + _IDENTITY
    + _ROW,
    "image": _columns(
        ("time", "time", "of the frame"),
        ("tag", "text", "enterprise/site/asset/name"),
        ("file", "text", "where the object lies"),
        ("sha256", "text", "of its bytes, hexadecimal"),
        ("bytes", "int64", "its size"),
        ("media_type", "text", "image/jpeg"),
        ("quality", "int64", "OPC UA StatusCode, 0 is good"),
    )
    + _IDENTITY
    + _SEQ,
    "gap": _columns(
        ("time", "time", "start of the interval in which data may be missing"),
        ("end", "time", "its end"),
        ("tag", "text", "the tag, null for all of the source"),
        (
            "source",
            "text",
            "adapter; `spool`: readings that were given up in it; `spool.alert` and so on: rows of another kind",
        ),
        ("sink", "text", "null: the data never arrived; a name: dropped before that sink had it"),
        (
            "cause",
            "text",
            "not_connected, gateway_stopped, replanned, overflow, dropped, downsampled, requested, quarantined, overrun or lost",
        ),
        ("rows", "int64", "rows given up, where known"),
    )
    + _IDENTITY
    + _SEQ,
}

TAGS_COLUMNS: Final = _columns(
    ("tag", "text", "enterprise/site/asset/name"),
    ("valid_from", "time", "this description holds from here"),
    ("valid_to", "time", "to here, not included; null: still so"),
    ("asset", "text", "enterprise/site/asset"),
    ("name", "text", "last part of the path"),
    ("label", "text", "what people call it"),
    ("description", "text", "from the configuration or the device"),
    ("unit", "text", "UCUM code, `1` for none"),
    ("value_type", "text", "number, integer, text or samples: the column that holds the value"),
    ("adapter", "text", "key below `adapters:`"),
    ("device", "text", "key below `devices:`"),
    ("address", "text", "address on the wire"),
    ("period", "float64", "seconds between two readings as configured"),
    ("low_low", "float64", "alarm limit"),
    ("low", "float64", "alarm limit"),
    ("high", "float64", "alarm limit"),
    ("high_high", "float64", "alarm limit"),
    ("first_seen", "time", "oldest reading in the lake, renewed about every hour"),
    ("last_seen", "time", "newest reading in the lake, renewed about every hour"),
    ("gateway", "text", "the gateway that reads the tag"),
)
"""The data dictionary beside the data: one row per tag and description."""

_NAME: Final = re.compile(
    r"(?P<gateway>[a-z0-9-]+)-(?P<epoch>\d{4,})-(?P<kind>[a-z]+)-(?P<first>\d{14,})-(?P<last>\d{14,})(-m(?P<merged>[0-9a-f]{12}))?\.parquet"
)


@dataclass(frozen=True, slots=True)
class LakeFile:
    """One data file: its partition and the rows it answers for.

    `merged` is empty for a file of the sink, which holds what the route let through of the rows first … last; for one that
    compaction made it is what sets its name apart, and it answers for exactly the sources that it names (see `manifest`).
    """

    NAME: ClassVar[re.Pattern[str]] = _NAME

    site: str
    date: date
    span: SpoolSpan
    merged: str = ""

    def path(self) -> str:
        """The path relative to the lake's location, with `/`."""
        s = self.span
        name = f"{s.gateway}-{s.epoch:04d}-{s.kind}-{s.first:014d}-{s.last:014d}{self.merged and f'-m{self.merged}'}.parquet"
        return f"{s.kind}/site={self.site}/date={self.date.isoformat()}/{name}"

    @classmethod
    def parse(cls, path: str) -> LakeFile:
        """The inverse of `path`. Raises ValueError for anything else."""
        parts = path.split("/")
        match = _NAME.fullmatch(parts[-1])
        if len(parts) != 4 or not match or not parts[1].startswith("site=") or not parts[2].startswith("date="):
            raise ValueError(f"not a file of the lake: {path!r}")
        if match["kind"] != parts[0] or parts[0] not in COLUMNS:
            raise ValueError(f"not a file of the lake: {path!r}")
        span = SpoolSpan(
            match["gateway"], int(match["epoch"]), cast("Kind", match["kind"]), int(match["first"]), int(match["last"])
        )
        found = cls(parts[1][5:], date.fromisoformat(parts[2][5:]), span, match["merged"] or "")
        if found.path() != path:
            raise ValueError(f"not a file of the lake: {path!r}")
        return found


FEATURES_COLUMNS: Final = _columns(
    ("time", "time", "begin of the window, UTC"),
    ("tag", "text", "enterprise/site/asset/name"),
    ("unit", "text", "UCUM code; readings in different units are never mixed"),
    ("good", "int64", "readings of good quality"),
    ("uncertain", "int64", "readings of uncertain quality"),
    ("bad", "int64", "readings of bad quality"),
    ("count", "int64", "numbers behind the columns below: all but bad ones; a downsampled row counts as the readings in it"),
    ("min", "float64", "least number"),
    ("max", "float64", "greatest number"),
    ("mean", "float64", "arithmetic mean"),
    ("std", "float64", "standard deviation, n - 1; null for one number. Of downsampled rows that of their means"),
    ("rms", "float64", "root of the mean square"),
    ("first", "float64", "oldest number"),
    ("last", "float64", "newest number"),
    ("slope", "float64", "least squares, per second; null where all are of one time"),
    ("changes", "int64", "how often a number differs from the one before it in the window"),
    ("silence", "float64", "longest time without a reading that is not bad, s; begin and end of the window count as readings"),
    ("gap", "float64", "how much of the window lies in recorded gaps of the tag, s"),
)
"""What `genba lake features` writes: one row per tag, unit and window that has readings."""


def features_path(every: str, site: str, day: date) -> str:
    """Where the features of a site's date lie, relative to the lake's location."""
    return f"features/every={every}/site={site}/date={day.isoformat()}/features.parquet"


def tags_path(site: str, gateway: str) -> str:
    """Where a gateway keeps its part of the data dictionary, relative to the lake's location."""
    return f"tags/site={site}/{gateway}.parquet"


def date_of(time_us: int) -> date:
    """The UTC date of a row's time (µs)."""
    return datetime.fromtimestamp(time_us // 1_000_000, UTC).date()
