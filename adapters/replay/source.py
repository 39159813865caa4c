"""The recording on disk: which files it has, and their rows of an interval as batches sorted by time. Blocking."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from adapters.base import BoundTag, TagConfig, replay_mark
from schemas.errors import ConfigError, NotConnected
from schemas.kinds import SCHEMAS, Kind, Origin, make_batch
from schemas.manifest import MANIFEST, Manifest, current, lake_files

_TIME_NAMES: Final = ("time", "timestamp", "datetime", "date", "t")
_UNITS: Final[Mapping[str, tuple[int, int]]] = {"s": (1_000_000, 1), "ms": (1000, 1), "us": (1, 1), "ns": (1, 1000)}
_LONGEST_US: Final = 2**62


class Recording:
    """One recording with the tags that are wanted of it. Made by `open_recording`."""

    def __init__(self, name: str, sets: Mapping[Kind, ds.Dataset], tags: Sequence[BoundTag[TagConfig]], adapter: str) -> None:
        """Raises ConfigError for a recording without times, NotConnected when a file cannot be read."""
        self._name, self._sets, self._tags, self._adapter = name, sets, tags, adapter
        self._time = {kind: _time_of(found.schema, name) for kind, found in sets.items()}
        self.begin_us, self.end_us = self._span()
        self._narrow = "tag" in sets["telemetry"].schema.names if "telemetry" in sets else True
        self.missing: tuple[str, ...] = ()
        """Addresses that the recording does not have."""
        self._ids = self._known()

    def rows(self, kind: Kind, from_us: int, to_us: int) -> pa.RecordBatch:
        """The rows with from <= time < to as a batch of `kind`, sorted by time, then tag, then as recorded."""
        found = self._sets.get(kind)
        if found is None or to_us <= from_us:
            return make_batch(kind, 0)
        column = self._time[kind]
        wanted = _between(found.schema.field(column).type, column, from_us, to_us)
        if kind == "telemetry" and not self._narrow:
            return self._melted(found, column, wanted)
        if kind == "telemetry":
            wanted &= ds.field("tag").isin(pa.array(list(self._ids), pa.string()))
        known = [name for name in {*SCHEMAS[kind].names, "seq"} - {"time"} if name in found.schema.names]
        table = found.to_table(columns=[column, *known], filter=wanted)
        return self._readings(table, column) if kind == "telemetry" else self._events(table, column)

    def _readings(self, table: pa.Table, column: str) -> pa.RecordBatch:
        rows = table.num_rows
        tags = _plain(table.column("tag"), pa.string())
        names = list(self._ids)
        ids = np.array([self._ids[name] for name in names], dtype=np.int32)
        at = pc.index_in(tags, pa.array(names, pa.string())).to_numpy(zero_copy_only=False) if rows else np.zeros(0, np.int64)
        time_us = _micros(table.column(column))
        given: dict[str, Any] = {
            name: _plain(table.column(name), SCHEMAS["telemetry"].field(name).type)
            for name in ("value", "value_int", "text", "samples", "lag", "quality", "value_min", "value_max", "count")
            if name in table.column_names
        }
        batch = self._as_telemetry(time_us, ids[at] if rows else np.zeros(0, np.int32), given)
        return _sorted(batch, time_us, batch.column("tag").to_numpy(), _seq(table))

    def _melted(self, found: ds.Dataset, column: str, wanted: ds.Expression) -> pa.RecordBatch:
        """One column per tag: a row for each cell that holds something."""
        table = found.to_table(columns=[column, *self._ids], filter=wanted)
        time_us = _micros(table.column(column))
        parts = []
        for bound in self._tags:
            if bound.config.wire_address() not in self._ids:
                continue
            cells = table.column(bound.config.wire_address()).combine_chunks()
            there = np.flatnonzero(cells.is_valid().to_numpy(zero_copy_only=False))
            target = {"number": "value", "integer": "value_int", "text": "text", "samples": "samples"}[bound.tag.value_type]
            kind = SCHEMAS["telemetry"].field(target).type
            values = _plain(pa.chunked_array([cells.take(pa.array(there))]), kind)
            ids = np.full(len(there), bound.tag.id, dtype=np.int32)
            parts.append(self._as_telemetry(time_us[there], ids, {target: values}))
        whole = pa.Table.from_batches(parts or [make_batch("telemetry", 0)]).combine_chunks()
        batch = whole.to_batches()[0] if whole.num_rows else make_batch("telemetry", 0)
        return _sorted(batch, batch.column("time").cast(pa.int64()).to_numpy(), batch.column("tag").to_numpy(), None)

    @staticmethod
    def _as_telemetry(time_us: npt.NDArray[np.int64], ids: npt.NDArray[np.int32], given: dict[str, Any]) -> pa.RecordBatch:
        for name in ("lag", "quality"):
            given[name] = pc.fill_null(given[name], 0) if name in given else 0
        return make_batch("telemetry", len(ids), time=time_us, tag=ids, origin=int(Origin.REPLAY), **given)

    def _events(self, table: pa.Table, column: str) -> pa.RecordBatch:
        rows = table.num_rows
        time_us = _micros(table.column(column))
        given: dict[str, Any] = {
            name: _plain(table.column(name), pa.string())
            for name in ("asset", "source", "event", "severity", "message")
            if name in table.column_names
        }
        before = table.column("attributes").to_pylist() if "attributes" in table.column_names else [None] * rows
        given["attributes"] = [_marked(text, self._adapter) for text in before]
        batch = make_batch("event", rows, time=time_us, **given)
        return _sorted(batch, time_us, None, _seq(table))

    def _span(self) -> tuple[int, int]:
        """First and last time of what is played."""
        least, most = _LONGEST_US, -_LONGEST_US
        for kind, found in self._sets.items():
            column = self._time[kind]
            for fragment in found.get_fragments():
                for low, high in _spans(fragment, column, found.schema):
                    least, most = min(least, low), max(most, high)
        return least, most

    def _known(self) -> dict[str, int]:
        """Id by name in the recording."""
        if "telemetry" not in self._sets or not self._tags:
            return {}
        found = self._sets["telemetry"]
        if self._narrow:
            seen: set[str] = set()
            for batch in found.to_batches(columns=["tag"]):
                seen.update(text for text in pc.unique(_plain(batch.column("tag"), pa.string())).to_pylist() if text)
        else:
            seen = set(found.schema.names) - {self._time["telemetry"]}
        ids: dict[str, int] = {}
        missing = []
        for bound in self._tags:
            address = bound.config.wire_address()
            fitting = [address] if address in seen else [name for name in seen if name.endswith(f"/{address}")]
            if len(fitting) > 1:
                raise ConfigError(
                    f"{address} fits {len(fitting)} tags of {self._name}: {', '.join(sorted(fitting)[:3])}",
                    hint="write more of the path",
                )
            if fitting:
                ids[fitting[0]] = bound.tag.id
            else:
                missing.append(address)
        self.missing = tuple(missing)
        return ids


def open_recording(path: Path, kinds: Sequence[Kind], tags: Sequence[BoundTag[TagConfig]], adapter: str) -> Recording:
    """Look at the files. Raises NotConnected when there is nothing at `path` (yet), ConfigError for what is no recording."""
    if not path.exists():
        raise NotConnected(f"there is no recording at {path}")
    try:
        if path.is_dir() and (path / "telemetry").is_dir():
            sets = {kind: found for kind in kinds if (found := _lake(path, kind)) is not None}
        else:
            sets = {"telemetry": _plain_files(path)}
        if not sets:
            raise NotConnected(f"the recording at {path} is empty")
        return Recording(str(path), sets, tags, adapter)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise ConfigError(
            f"{path} is no recording: {error}", hint="a lake, Parquet files, or a CSV file with a header"
        ) from error
    except OSError as error:
        raise NotConnected(f"{path} cannot be read: {error.strerror or error}") from error


def _lake(path: Path, kind: Kind) -> ds.Dataset | None:
    """The files of a kind that count, as the manifests of compaction say."""
    found: list[str] = []
    for folder in sorted(path.glob(f"{kind}/site=*/date=*")):
        below, names = folder.relative_to(path).as_posix(), [file.name for file in folder.iterdir()]
        file = folder / MANIFEST
        if not file.exists() and any(one.merged for one in lake_files(below, names)):
            raise ConfigError(f"{file} is missing", hint="`genba lake compact` makes it again")
        try:
            manifest = Manifest.unpack(file.read_bytes()) if file.exists() else None
            found += [str(path / one.path()) for one in current(below, names, manifest)]
        except ValueError as error:
            raise ConfigError(f"{file} cannot be read: {error}", hint="`genba lake compact` makes it again") from error
    return _dataset(found) if found else None


def _plain_files(path: Path) -> ds.Dataset:
    if path.suffix.lower() == ".csv":
        from pyarrow import csv

        return ds.dataset(csv.read_csv(path))
    names = [str(path)] if path.is_file() else sorted(str(file) for file in path.rglob("*.parquet"))
    if not names:
        raise NotConnected(f"there are no Parquet files in {path}")
    return _dataset(names)


def _dataset(names: Sequence[str]) -> ds.Dataset:
    found = ds.dataset(list(names), format="parquet", partitioning=None)
    # Text is plain text here, whatever dictionaries the files have.
    plain = [pa.field(f.name, f.type.value_type) if pa.types.is_dictionary(f.type) else f for f in found.schema]
    return ds.dataset(list(names), format="parquet", partitioning=None, schema=pa.schema(plain))


def _time_of(schema: pa.Schema, name: str) -> str:
    found: str | None = next((given for wanted in _TIME_NAMES for given in schema.names if given.lower() == wanted), None)
    if found is None or not pa.types.is_timestamp(schema.field(found).type):
        raise ConfigError(f"{name} has no column of times", hint=f"name one of its columns {_TIME_NAMES[0]}, with ISO 8601 times")
    return found


def _spans(fragment: ds.Fragment, column: str, schema: pa.Schema) -> list[tuple[int, int]]:
    """Least and greatest time by row group, from the footer where it says so."""
    if isinstance(fragment, ds.ParquetFileFragment):
        told = [group.statistics.get(column) if group.statistics else None for group in fragment.row_groups]
        if all(one is not None for one in told):
            kind = schema.field(column).type
            return [tuple(_micros(pa.chunked_array([pa.array([one["min"], one["max"]], kind)])).tolist()) for one in told if one]
    table = fragment.to_table(schema=schema, columns=[column])
    if not table.num_rows:
        return []
    times = _micros(table.column(column))
    return [(int(times.min()), int(times.max()))]


def _between(kind: pa.TimestampType, column: str, from_us: int, to_us: int) -> ds.Expression:
    """from <= time < to, in the unit of the column: a coarser one is looked at from the next whole moment on."""
    coarse, fine = _UNITS[kind.unit]
    low, high = (pa.scalar(-(-at * fine // coarse), pa.int64()).cast(kind) for at in (from_us, to_us))
    wanted: ds.Expression = (ds.field(column) >= low) & (ds.field(column) < high)
    return wanted


def _micros(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Times as µs UTC; one without a zone is UTC."""
    kind = column.type
    exact = pc.cast(column, pa.timestamp("us", kind.tz), safe=False)
    found: npt.NDArray[np.int64] = exact.cast(pa.int64()).to_numpy()
    return found


def _plain(column: pa.ChunkedArray | pa.Array, kind: pa.DataType) -> pa.Array:
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(whole.type):
        whole = whole.dictionary_decode()
    if pa.types.is_boolean(whole.type) and not pa.types.is_boolean(kind) and not pa.types.is_string(kind):
        whole = whole.cast(pa.int8())
    return whole if whole.type == kind else whole.cast(kind)


def _seq(table: pa.Table) -> npt.NDArray[np.int64] | None:
    return table.column("seq").to_numpy() if "seq" in table.column_names else None


def _sorted(
    batch: pa.RecordBatch,
    time_us: npt.NDArray[np.int64],
    tag: npt.NDArray[np.int32] | None,
    seq: npt.NDArray[np.int64] | None,
) -> pa.RecordBatch:
    keys = [key for key in (seq, tag, time_us) if key is not None]
    order = np.lexsort(keys)
    return batch.take(pa.array(order))


def _marked(attributes: str | None, adapter: str) -> str:
    """The JSON object with the mark of this adapter; what is no object is kept as text."""
    mark = replay_mark(adapter)
    try:
        known = json.loads(attributes) if attributes else {}
    except ValueError:
        known = {"text": attributes}
    if not isinstance(known, dict):
        known = {"text": attributes}
    known.pop("replayed_by", None)
    text = json.dumps(known, ensure_ascii=False)
    return f"{text[:-1]}{', ' if known else ''}{mark}}}"
