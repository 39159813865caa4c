"""From spooled batches to the records of a stream. Pure and deterministic: the same rows give the same records, also after a crash.

Each record holds rows of one partition key in row order, and says which gateway, epoch, kind and rows they are: every line of `json`
does, an Arrow stream in its schema metadata and its last column. So a reader can drop what it has seen and put in order what came late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cloud_sinks.messages import Messages, payload
from cloud_sinks.messages import rows as plain_rows
from schemas.errors import ConfigError
from schemas.kinds import Kind
from schemas.span import SpoolSpan
from schemas.tags import TagDirectory

from .config import PartitionKey

_KEY_CHARACTERS: Final = 256
_ROWS_AT_FIRST: Final = 20_000
_AGGREGATION_BYTES: Final = 64
"""What KPL adds to a user record at most, beside its key: protobuf tags, lengths and index."""


class Record(NamedTuple):
    """One entry of PutRecords. `rows` are the row numbers that it holds."""

    key: str
    data: bytes
    rows: tuple[int, ...]


class TooLarge(NamedTuple):
    """A row that is larger than a record may be."""

    row: int
    size: int


Encode = Callable[[Sequence[pa.RecordBatch], SpoolSpan, int], Iterator[Record | TooLarge]]
"""(batches, span, most bytes of key and data) -> records by key, rows in order."""


def number_of(kind: Kind) -> str:
    """The column with the row number."""
    return "row" if kind in ("score", "health") else "seq"


class Keys:
    """The partition key of each row: a name that stays the same for ever."""

    def __init__(self, tags: TagDirectory, by: PartitionKey, gateway: str) -> None:
        self._tags, self._by, self._gateway = tags, by, gateway
        self._known: dict[int, str] = {}

    def of(self, batch: pa.RecordBatch) -> list[str]:
        """One key per row. A row about no tag goes with its asset, else with the gateway."""
        if self._by == "gateway":
            return [_short(self._gateway)] * batch.num_rows
        ids = batch.column("tag").to_pylist()
        assets = batch.column("asset").to_pylist() if "asset" in batch.schema.names else [None] * len(ids)
        return [
            self._of_tag(tag) if tag is not None else _short(asset or self._gateway)
            for tag, asset in zip(ids, assets, strict=True)
        ]

    def _of_tag(self, tag_id: int) -> str:
        if tag_id not in self._known:
            tag = self._tags[tag_id]
            self._known[tag_id] = _short(tag.asset if self._by == "asset" else tag.path)
        return self._known[tag_id]


class JsonLines:
    """A line of JSON per row."""

    def __init__(self, keys: Keys, messages: Messages) -> None:
        self._keys, self._messages = keys, messages

    def __call__(self, batches: Sequence[pa.RecordBatch], span: SpoolSpan, most: int) -> Iterator[Record | TooLarge]:
        """See `Encode`. Raises pydantic's ValidationError for a row that no message can say."""
        waiting: dict[str, list[tuple[int, bytes]]] = {}
        sizes: dict[str, int] = {}
        for key, number, line in lines(self._keys, self._messages, batches, span):
            room = most - len(key.encode())
            if len(line) > room:
                yield TooLarge(number, len(line))
                continue
            if sizes.get(key, 0) + len(line) > room:
                yield _joined(key, waiting.pop(key))
                sizes[key] = 0
            waiting.setdefault(key, []).append((number, line))
            sizes[key] = sizes.get(key, 0) + len(line)
        for key in waiting:
            yield _joined(key, waiting[key])


class Aggregated:
    """User records of the KPL, one per row, those of one key together. Needs the package aws-kinesis-agg."""

    def __init__(self, keys: Keys, messages: Messages) -> None:
        """Raises ConfigError when the package is not installed."""
        try:
            from aws_kinesis_agg.aggregator import RecordAggregator
        except ImportError as error:
            raise ConfigError(
                "format kpl needs the package aws-kinesis-agg", hint="install it: pip install 'genba[kpl]', or take format: json"
            ) from error
        self._aggregator = RecordAggregator
        self._keys, self._messages = keys, messages

    def __call__(self, batches: Sequence[pa.RecordBatch], span: SpoolSpan, most: int) -> Iterator[Record | TooLarge]:
        """See `Encode`."""
        by_key: dict[str, list[tuple[int, bytes]]] = {}
        for key, number, line in lines(self._keys, self._messages, batches, span):
            by_key.setdefault(key, []).append((number, line))
        for key, those in by_key.items():
            room = min(most - 2 * len(key.encode()), 1 << 20)
            made = self._aggregator(max_size=room)
            held: list[int] = []
            for number, line in those:
                if len(line) + len(key.encode()) + _AGGREGATION_BYTES > room:
                    yield TooLarge(number, len(line))
                    continue
                full = made.add_user_record(key, line)
                if full is not None:
                    yield Record(key, full.get_contents()[2], tuple(held))
                    held = []
                held.append(number)
            rest = made.clear_and_get()
            if held and rest is not None:
                yield Record(key, rest.get_contents()[2], tuple(held))


class ArrowStreams:
    """An Arrow IPC stream of the rows of one key: the spool's columns, `tag` as its path, gateway, epoch and kind as metadata."""

    def __init__(self, keys: Keys, tags: TagDirectory) -> None:
        self._keys, self._tags = keys, tags

    def __call__(self, batches: Sequence[pa.RecordBatch], span: SpoolSpan, most: int) -> Iterator[Record | TooLarge]:
        """See `Encode`. A key's rows are halved until they fit."""
        whole = pa.Table.from_batches(batches).combine_chunks()
        if not whole.num_rows:
            return
        keys = [key for batch in batches for key in self._keys.of(batch)]
        codes, names = _encoded(keys)
        numbers = whole.column(number_of(span.kind)).to_numpy()
        plain = self._named(whole, span)
        order = np.argsort(codes, kind="stable")
        bounds = np.r_[np.flatnonzero(np.r_[True, np.diff(codes[order]) != 0]), len(order)]
        for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            rows = order[start:end]
            yield from self._fitting(plain, rows, numbers, names[codes[rows[0]]], most)

    def _fitting(
        self, plain: pa.Table, rows: npt.NDArray[np.intp], numbers: npt.NDArray[np.int64], key: str, most: int
    ) -> Iterator[Record | TooLarge]:
        todo = [rows[at : at + _ROWS_AT_FIRST] for at in range(0, len(rows), _ROWS_AT_FIRST)]
        while todo:
            part = todo.pop(0)
            data = _stream(plain.take(pa.array(part)))
            if len(data) + len(key.encode()) <= most:
                yield Record(key, data, tuple(numbers[part].tolist()))
            elif len(part) == 1:
                yield TooLarge(int(numbers[part[0]]), len(data))
            else:
                todo[:0] = [part[: len(part) // 2], part[len(part) // 2 :]]

    def _named(self, table: pa.Table, span: SpoolSpan) -> pa.Table:
        ids = table.column("tag").combine_chunks()
        known = pc.unique(ids).drop_null()
        paths = pa.array([self._tags[tag_id].path for tag_id in known.to_pylist()], pa.string())
        named = pa.DictionaryArray.from_arrays(pc.index_in(ids, known), paths) if len(known) else pa.nulls(len(ids), pa.string())
        about = {"gateway": span.gateway, "epoch": str(span.epoch), "kind": span.kind, "version": "1"}
        table = table.set_column(table.schema.get_field_index("tag"), "tag", named)
        return table.replace_schema_metadata({f"genba.{name}": text for name, text in about.items()})


def lines(keys: Keys, messages: Messages, batches: Sequence[pa.RecordBatch], span: SpoolSpan) -> Iterator[tuple[str, int, bytes]]:
    """(key, row number, line with its end) of every row, in order."""
    number = number_of(span.kind)
    for batch in batches:
        for key, row in zip(keys.of(batch), plain_rows([batch]), strict=True):
            yield key, row[number], payload(messages.of(row, span)) + b"\n"


def _joined(key: str, those: Sequence[tuple[int, bytes]]) -> Record:
    return Record(key, b"".join(line for _, line in those), tuple(number for number, _ in those))


def _stream(table: pa.Table) -> bytes:
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(
        out, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd", unify_dictionaries=True)
    ) as writer:
        writer.write_table(table)
    data: bytes = out.getvalue().to_pybytes()
    return data


def _encoded(keys: Sequence[str]) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Codes in order of first appearance, and the names."""
    seen: dict[str, int] = {}
    codes = np.array([seen.setdefault(key, len(seen)) for key in keys], dtype=np.int64)
    return codes, list(seen)


def _short(key: str) -> str:
    """At most 256 characters, which is what a partition key may have; the end of a path tells more than its beginning."""
    return key[-_KEY_CHARACTERS:]
