"""What jobs over a lake do in whatever process they run: open it, read a file's rows for a model, write results once.

Runs on Spark's executors as well: needs numpy, pyarrow and pydantic, for a bucket boto3; nothing of the gateway. Credentials are
never sent along, each machine finds its own.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.kinds import TIME, make_batch
from schemas.lake import LakeFile
from schemas.replay import READINGS, Log
from schemas.span import SpoolSpan
from schemas.tags import Tag

from .aws import AwsConfig
from .lake import _described, _files
from .parquet.publish import publish
from .parquet.remote import Unheard
from .parquet.rows import Names, parts
from .parquet.shelf import Shelf, shelf_of
from .places import Access, Place, place_of

if TYPE_CHECKING:
    from schemas.kinds import Kind

TALLY: Final = pa.schema(
    [(name, pa.int32() if name == "log" else pa.int64()) for name in ("log", "slice", "rows", "scored", "abnormal")]
)
_BATCH: Final = 65_536
_ORIGINS: Final = pa.array(["live", "backfill", "replay", "downsampled"])


@dataclass(frozen=True, slots=True)
class Lake:
    """A lake as it was named, to be opened where it is needed. Raises ValueError and genba's errors as `place_of` and the stores do."""

    location: str
    region: str | None = None
    endpoint: str | None = None
    profile: str | None = None

    @property
    def access(self) -> Access:
        """The keyword arguments of `cloud_sinks.lake`."""
        return Access(region=self.region, endpoint=self.endpoint, profile=self.profile)

    def place(self) -> Place:
        """For listing and reading."""
        return place_of(self.location, region=self.region, endpoint=self.endpoint, profile=self.profile)

    @contextmanager
    def store(self) -> Iterator[Shelf]:
        """For publishing files; a directory that is not there is made. What a crash left in it is cleared away by the next that opens it."""
        if not self.location.startswith("s3://"):
            Path(self.location).mkdir(parents=True, exist_ok=True)
        shelf = self._shelf()
        try:
            shelf.open()
            yield shelf
        finally:
            shelf.close()

    def _shelf(self) -> Shelf:
        aws = AwsConfig(region=self.region, endpoint=self.endpoint, profile=self.profile)
        return shelf_of(self.location, aws, log=Unheard())  # type: ignore[arg-type]

    def files(
        self, kind: Kind, sites: Iterable[str] | None = None, start: datetime | None = None, end: datetime | None = None
    ) -> list[LakeFile]:
        """The files that count, in order of path."""
        return sorted(_files(self.place(), kind, None if sites is None else set(sites), start, end), key=LakeFile.path)

    def described(self) -> list[tuple[str, str]]:
        """(site, gateway) of every table of the data dictionary."""
        return _described(self.place())

    @contextmanager
    def opened(self, path: str) -> Iterator[str | BinaryIO]:
        """A file as pyarrow opens it."""
        if not self.location.startswith("s3://"):
            yield str(Path(self.location) / path)
            return
        with closing(self._shelf()) as shelf, shelf.reader(path) as file:
            yield file


@dataclass(frozen=True)
class Wanted:
    """Which telemetry rows a job reads. `paths` is sorted and all the lake's tags; `groups[i]` of path i, -1 for none."""

    lake: Lake
    paths: Sequence[str]
    groups: Sequence[int]
    logs: Mapping[Log, tuple[int, int]]
    """Number of each log, and the last `seq` that is read of it."""
    start_us: int | None
    end_us: int | None
    text: bool
    """Whether `text` is needed, for a condition."""

    def read(self, file: LakeFile) -> Iterator[pa.RecordBatch]:
        """READINGS of one file in its own order. Row groups that can hold nothing wanted are passed over.

        Raises ValueError for a tag that the data dictionary lacks, and for what is no Parquet file.
        """
        try:
            yield from self._rows(file)
        except pa.ArrowException as error:
            raise ValueError(f"{file.path()} cannot be read: {error}") from error

    def _rows(self, file: LakeFile) -> Iterator[pa.RecordBatch]:
        number, until = self.logs[Log(file.site, file.span.gateway, file.span.epoch)]
        groups = np.array([*self.groups, -1], dtype=np.int32)
        names = [path for path, group in zip(self.paths, self.groups, strict=True) if group >= 0]
        known = pa.array(self.paths, pa.string())
        columns = ["tag", "seq", "time", "lag", "value", "value_int", "quality", "origin", *(["text"] if self.text else [])]
        with self.lake.opened(file.path()) as source:
            opened = pq.ParquetFile(source, read_dictionary=["tag", "origin"])
            wanted = [at for at in range(opened.num_row_groups) if self._may_hold(opened, at, names)]
            for batch in opened.iter_batches(_BATCH, row_groups=wanted, columns=columns):
                tag = _codes(batch.column("tag"), known)
                if (tag == -1).any():
                    at = int(np.flatnonzero(tag == -1)[0])
                    raise ValueError(f"{batch.column('tag')[at].as_py()!r} of {file.path()} is not in the lake's data dictionary")
                group = groups[tag]
                time, seq = batch.column("time").cast(TIME).view(pa.int64()).to_numpy(), batch.column("seq").to_numpy()
                keep = (group >= 0) & (seq <= until)
                if self.start_us is not None:
                    keep &= time >= self.start_us
                if self.end_us is not None:
                    keep &= time < self.end_us
                rows = np.flatnonzero(keep)
                if len(rows) == 0:
                    continue
                origin = _codes(batch.column("origin"), _ORIGINS)
                if len(rows) < batch.num_rows:
                    batch = batch.take(pa.array(rows))
                    tag, group, time, seq, origin = tag[rows], group[rows], time[rows], seq[rows], origin[rows]
                n = batch.num_rows
                made = {
                    "log": np.full(n, number, dtype=np.int32), "group": group, "seq": seq, "time": time, "tag": tag,
                    "origin": np.maximum(origin, 0),
                    "text": batch.column("text") if self.text else pa.nulls(n, pa.string()),
                }  # fmt: skip
                yield pa.RecordBatch.from_arrays(
                    [
                        _array(made.get(field.name, batch.schema.get_field_index(field.name)), batch, field.type)
                        for field in READINGS
                    ],
                    schema=READINGS,
                )

    def _may_hold(self, file: pq.ParquetFile, at: int, names: Sequence[str]) -> bool:
        """False when the statistics of a row group say that it holds no wanted tag or time."""
        group = file.metadata.row_group(at)
        for index in range(group.num_columns):
            column = group.column(index)
            if column.path_in_schema not in ("tag", "time") or column.statistics is None or not column.statistics.has_min_max:
                continue
            least, greatest = column.statistics.min, column.statistics.max
            if column.path_in_schema == "tag":
                first = bisect.bisect_left(names, least)
                if first == len(names) or names[first] > greatest:
                    return False
            else:
                low, high = (pa.scalar(one, TIME).value for one in (least, greatest))
                if (self.start_us is not None and high < self.start_us) or (self.end_us is not None and low >= self.end_us):
                    return False
        return True


def _codes(column: pa.Array, known: pa.Array) -> npt.NDArray[np.int32]:
    """Position of each value in `known`, -1 for one that is not there."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    places = pc.index_in(column.dictionary.cast(pa.string()), value_set=known).fill_null(-1).to_numpy().astype(np.int32)
    found: npt.NDArray[np.int32] = np.append(places, np.int32(-1))[column.indices.fill_null(len(places)).to_numpy()]
    return found


def _array(given: Any, batch: pa.RecordBatch, wanted: pa.DataType) -> pa.Array:
    found = batch.column(given) if isinstance(given, int) else given
    if isinstance(found, pa.Array):
        return found if found.type == wanted else found.cast(wanted)
    return pa.array(found, wanted)


@dataclass(frozen=True)
class ScoreFiles:
    """Writes score rows as files of a lake: one slice of one log after the other, numbered from `offsets[log, slice]`."""

    lake: Lake
    logs: Sequence[Log]
    tags: Sequence[Tag]
    offsets: Mapping[tuple[int, int], int]

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """SCORES sorted by (log, slice, ORDER), every slice whole -> one row (path, rows) per file that is now there."""
        for (log, slice_), scores in slices(batches):
            paths, rows = [], []
            with self.lake.store() as store:
                names = Names(self.tags)
                first = self.offsets[log, slice_]
                key = self.logs[log]
                span = SpoolSpan(key.gateway, key.epoch, "score", first, first + scores.num_rows - 1)
                enterprise = self.tags[0].path.partition("/")[0]
                for part in parts(numbered(scores, first), span, names):
                    paths.append(publish(store, part, span, enterprise=enterprise, site=key.site).path)
                    rows.append(part.table.num_rows)
            yield pa.RecordBatch.from_arrays([pa.array(paths, pa.string()), pa.array(rows, pa.int64())], names=["path", "rows"])


def tallied(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """SCORES in any order -> TALLY: how many of each (log, slice) there are in each batch."""
    for batch in batches:
        table = pa.Table.from_batches([batch.select(["log", "slice", "score"])])
        abnormal = pc.greater_equal(batch.column("score"), batch.column("limit")).fill_null(False).cast(pa.int64())
        table = table.append_column("abnormal", abnormal)
        found = table.group_by(["log", "slice"]).aggregate([([], "count_all"), ("score", "count"), ("abnormal", "sum")])
        yield from found.rename_columns(TALLY.names).combine_chunks().cast(TALLY).to_batches()


def slices(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[tuple[int, int], pa.Table]]:
    """SCORES sorted by (log, slice) -> each (log, slice) with its rows."""
    held: list[pa.RecordBatch] = []
    key: tuple[int, int] | None = None
    for batch in batches:
        if batch.num_rows == 0:
            continue
        log, slice_ = batch.column("log").to_numpy(), batch.column("slice").to_numpy()
        starts = np.flatnonzero(np.r_[True, (log[1:] != log[:-1]) | (slice_[1:] != slice_[:-1])]).tolist()
        for first, last in zip(starts, [*starts[1:], len(log)], strict=True):
            found = int(log[first]), int(slice_[first])
            if key is not None and found != key:
                yield key, pa.Table.from_batches(held)
                held = []
            key = found
            held.append(batch.slice(first, last - first))
    if key is not None:
        yield key, pa.Table.from_batches(held)


def numbered(scores: pa.Table, first: int) -> list[pa.RecordBatch]:
    """SCORES -> SCORE with its row number, counted from `first`."""
    found = []
    for batch in scores.to_batches():
        named = {name: batch.column(name) for name in batch.schema.names if name not in ("log", "slice")}
        for name in ("time", "since"):
            named[name] = named[name].cast(pa.int64()).view(TIME)
        made = make_batch("score", batch.num_rows, **named)
        found.append(made.append_column("row", pa.array(np.arange(first, first + batch.num_rows, dtype=np.int64))))
        first += batch.num_rows
    return found
