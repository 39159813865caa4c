"""Merges sorted files of the lake into one that is sorted alike, a row group at a time: memory does not grow with the data.

Every row that is read goes into its source's checksum, and the finished file is read back: the sum must be the sum of what the
sources say of themselves. A file that is not what it says is never merged.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.kinds import Kind
from schemas.lake import SCHEMA_VERSION, LakeFile
from schemas.manifest import Source, sources_text

from .checksum import checksum
from .columns import lake_schema
from .file import ROW_GROUP, group_rows, parquet_writer, write_group
from .order import Key, Keys, Ordered

DICTIONARIES: Final = ("tag", "unit", "origin", "gateway")
"""Columns that are read as dictionaries: each has few values, many times."""
_HELD: Final = 1 << 18
"""Rows of all sources together that are decoded at a time, about."""
_LEAST, _MOST = 1_024, 65_536
_SAMPLED: Final = 8


class Damaged(Exception):
    """A file that is not what it says of itself, or cannot be read; `path` names it. A person looks at it; it stays as it is."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path, self.why = path, why


@dataclass(frozen=True, slots=True)
class Input:
    """A file to merge: what it is, where it lies on this machine, and what its footer says."""

    file: LakeFile
    local: Path
    about: Mapping[str, str]
    sources: tuple[Source, ...]

    @property
    def rows(self) -> int:
        """As its metadata says."""
        return int(self.about["genba.rows"])


@dataclass(frozen=True, slots=True)
class Made:
    """The merged file: what it holds, and its size."""

    sources: tuple[Source, ...]
    rows: int
    checksum: str
    bytes: int


def merge(inputs: Sequence[Input], target: LakeFile, scratch: Path) -> Made:
    """Write the rows of all inputs, of one log and folder, to `scratch` as the file `target`, and read it back. Blocking.

    Raises Damaged for an input that is not what it says, or when what was written is not the sum of the inputs; OSError of the disk.
    """
    kind = target.span.kind
    row = lake_schema(kind).names[-1]
    expected = sum(int(one.about["genba.checksum"], 16) for one in inputs) % 2**64
    rows = sum(one.rows for one in inputs)
    sources = tuple(sorted(source for one in inputs for source in one.sources))
    batch = max(_LEAST, min(_MOST, _HELD // len(inputs)))
    about = _about(inputs, target, rows, expected, sources)
    readers = [_Reader(one, kind, batch) for one in inputs]
    try:
        sample = _sample(inputs, kind)
        writer: pq.ParquetWriter | None = None
        try:
            for group in _groups(_merged(readers), row, group_rows(sample)):
                if writer is None:
                    writer = parquet_writer(scratch, sample, in_order=group)
                write_group(writer, group.cast(sample.schema) if group.schema != sample.schema else group)
            if writer is None:
                writer = parquet_writer(scratch, sample)
            writer.add_key_value_metadata(about)
        finally:
            if writer is not None:
                writer.close()
    finally:
        for reader in readers:
            reader.close()
    _read_back(scratch, target, rows, expected)
    return Made(sources, rows, f"{expected:016x}", scratch.stat().st_size)


def tables(parquet: pq.ParquetFile, kind: Kind, rows: int) -> Iterator[pa.Table]:
    """The rows of a lake file in order, as tables of up to about `rows` rows in today's columns: what an older version did not write is null."""
    schema = lake_schema(kind)
    there = set(parquet.schema_arrow.names)
    for batch in parquet.iter_batches(batch_size=rows, columns=[name for name in schema.names if name in there]):
        arrays = [batch.column(f.name) if f.name in there else pa.nulls(batch.num_rows, f.type) for f in schema]
        fitted = [_fitted(a, f) for a, f in zip(arrays, schema, strict=True)]
        yield pa.Table.from_arrays(fitted, names=schema.names)


def whose(table: pa.Table, gateway: str, epoch: int) -> int:
    """How many rows of a lake table are of this gateway and epoch."""
    mine = pc.and_(pc.equal(table.column("gateway").cast(pa.string()), gateway), pc.equal(table.column("epoch"), epoch))
    return int(pc.sum(mine).as_py() or 0)


class _Reader:
    """One input, a table at a time, checked on its way."""

    def __init__(self, given: Input, kind: Kind, batch: int) -> None:
        self._given, self._kind = given, kind
        self._row = lake_schema(kind).names[-1]
        self._parquet = _opened(given.file, given.local)
        self._tables = tables(self._parquet, kind, batch)
        self._ordered = Ordered(self._row)
        self._sum = self._rows = self._taken = 0
        self._table: pa.Table | None = None
        self._keys: Keys | None = None
        self._more()

    @property
    def done(self) -> bool:
        """True when every row was taken."""
        return self._keys is None

    @property
    def last(self) -> Key:
        """The key of the last row at hand."""
        assert self._keys is not None
        return self._keys.at(len(self._keys) - 1)

    def take(self, bound: Key) -> pa.Table | None:
        """The rows at hand up to `bound`; None for none."""
        assert self._keys is not None
        assert self._table is not None
        end = self._keys.upto(bound)
        if end <= self._taken:
            return None
        found = self._table.slice(self._taken, end - self._taken)
        self._taken = end
        if end == len(self._keys):
            self._more()
        return found

    def close(self) -> None:
        """Close the file."""
        self._parquet.close()

    def _more(self) -> None:
        path, span = self._given.file.path(), self._given.file.span
        try:
            table = next((table for table in self._tables if table.num_rows), None)
        except (OSError, pa.ArrowException) as error:
            raise Damaged(path, f"cannot be read: {error}") from error
        self._taken = 0
        if table is None:
            self._table = self._keys = None
            if (self._rows, f"{self._sum % 2**64:016x}") != (self._given.rows, self._given.about["genba.checksum"]):
                raise Damaged(path, "its rows are not those it was written with: number or checksum differ")
            return
        self._rows += table.num_rows
        self._sum += int(checksum(self._kind, table), 16)
        if whose(table, span.gateway, span.epoch) != table.num_rows:
            raise Damaged(path, "holds rows of another gateway or epoch")
        if not self._ordered.next(table):
            raise Damaged(path, "its rows are not in order of tag, time and row number")
        self._table, self._keys = table, Keys.of(table, self._row)


def _opened(file: LakeFile, local: Path) -> pq.ParquetFile:
    """A file with columns of few values as dictionaries, read a page at a time. Raises Damaged."""
    names = [name for name in lake_schema(file.span.kind).names if name in DICTIONARIES]
    try:
        return pq.ParquetFile(
            local, read_dictionary=names, pre_buffer=False, buffer_size=1 << 16, page_checksum_verification=True
        )
    except KeyError as error:
        raise Damaged(file.path(), f"has no column {error}") from error
    except (OSError, pa.ArrowException) as error:
        raise Damaged(file.path(), f"cannot be read: {error}") from error


def _merged(readers: Sequence[_Reader]) -> Iterator[list[pa.Table]]:
    """Pieces that go together: all rows of one come before all rows of the next; within one they are still to be sorted."""
    live = [reader for reader in readers if not reader.done]
    while live:
        bound = min(reader.last for reader in live)
        found = [piece for reader in live if (piece := reader.take(bound)) is not None]
        yield found
        live = [reader for reader in live if not reader.done]


def _groups(pieces: Iterable[list[pa.Table]], row: str, rows: int) -> Iterator[pa.Table]:
    """Sorted tables of exactly `rows` rows, the last one of what is left."""
    held: list[pa.Table] = []
    count = 0
    for some in pieces:
        held += some
        count += sum(piece.num_rows for piece in some)
        if count >= rows:
            table = _sorted(held, row)
            for start in range(0, count - rows + 1, rows):
                yield table.slice(start, rows)
            held = [table.slice(count - count % rows)]
            count %= rows
    if count:
        yield _sorted(held, row)


def _sorted(pieces: Sequence[pa.Table], row: str) -> pa.Table:
    whole = pa.concat_tables(pieces).unify_dictionaries().combine_chunks()
    keys = Keys.of(whole, row)
    return whole if keys.is_sorted() else whole.take(pa.array(keys.sorting()))


def _sample(inputs: Sequence[Input], kind: Kind) -> pa.Table:
    """Rows from the middle of some inputs, by which encodings are chosen."""
    step = max(1, len(inputs) // _SAMPLED)
    found: list[pa.Table] = []
    for one in inputs[::step][:_SAMPLED]:
        try:
            with _opened(one.file, one.local) as parquet:
                groups = parquet.metadata.num_row_groups
                if not groups:
                    continue
                table = parquet.read_row_group(groups // 2)
        except (OSError, pa.ArrowException) as error:
            raise Damaged(one.file.path(), f"cannot be read: {error}") from error
        schema = lake_schema(kind)
        arrays = [table.column(f.name) if f.name in table.column_names else pa.nulls(len(table), f.type) for f in schema]
        wanted = [_fitted(a, f) for a, f in zip(arrays, schema, strict=True)]
        found.append(pa.Table.from_arrays(wanted, names=schema.names).slice(0, ROW_GROUP // 2))
    if not found:
        schema = lake_schema(kind)
        return schema.empty_table()
    return pa.concat_tables(found).unify_dictionaries().combine_chunks()


def _fitted(array: pa.Array | pa.ChunkedArray, field: pa.Field) -> pa.Array | pa.ChunkedArray:
    if field.name not in DICTIONARIES:
        return array.cast(field.type)
    return array if pa.types.is_dictionary(array.type) else array.cast(field.type).dictionary_encode()


def _about(inputs: Sequence[Input], target: LakeFile, rows: int, expected: int, sources: tuple[Source, ...]) -> dict[str, str]:
    """What the merged file says of itself: as a file of the sink, and its sources."""
    span = target.span
    about = {
        "schema_version": str(SCHEMA_VERSION),
        "kind": span.kind,
        "enterprise": inputs[0].about.get("genba.enterprise", ""),
        "site": target.site,
        "gateway": span.gateway,
        "epoch": str(span.epoch),
        "first": str(span.first),
        "last": str(span.last),
        "rows": str(rows),
        "checksum": f"{expected:016x}",
        "sources": sources_text(sources),
    }
    if "unit" in lake_schema(span.kind).names:
        units = {unit for one in inputs for unit in json.loads(one.about.get("genba.units", "[]"))}
        about["units"] = json.dumps(sorted(units), ensure_ascii=False)
    return {f"genba.{key}": value for key, value in about.items()}


def _read_back(scratch: Path, target: LakeFile, rows: int, expected: int) -> None:
    """The disk, the writer or the memory may have changed something: then nothing of it comes to count."""
    kind, total, count = target.span.kind, 0, 0
    ordered = Ordered(lake_schema(kind).names[-1])
    try:
        with _opened(target, scratch) as parquet:
            for table in tables(parquet, kind, _MOST):
                total += int(checksum(kind, table), 16)
                count += table.num_rows
                if not ordered.next(table):
                    raise Damaged(target.path(), "what was written is not in order")
    except pa.ArrowException as error:
        raise Damaged(target.path(), f"what was written cannot be read back: {error}") from error
    if (count, total % 2**64) != (rows, expected):
        raise Damaged(target.path(), "what was written is not the sum of its sources")


def input_of(file: LakeFile, local: Path, about: Mapping[str, str], sources: Callable[[], tuple[Source, ...]]) -> Input:
    """An input by its footer. Raises Damaged where that is not of this file."""
    span = file.span
    expected = {
        "kind": span.kind, "site": file.site, "gateway": span.gateway, "epoch": str(span.epoch), "first": str(span.first), "last": str(span.last),
    }  # fmt: skip
    if any(about.get(f"genba.{key}") != value for key, value in expected.items()) or not {"genba.rows", "genba.checksum"} <= set(
        about
    ):
        raise Damaged(file.path(), "what the file says of itself is not what its name says")
    return Input(file, local, about, sources())
