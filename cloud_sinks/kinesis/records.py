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

from cloud_sinks.json_rows import JsonRows
from schemas.errors import ConfigError
from schemas.kinds import Kind
from schemas.span import SpoolSpan
from schemas.tags import TagDirectory

from .config import PartitionKey

_KEY_CHARACTERS: Final = 256
_ROWS_AT_FIRST: Final = 20_000
_ARROW: Final = pa.ipc.IpcWriteOptions(compression="zstd", use_threads=False)  # handing buffers round costs more than they do
_AGGREGATION_BYTES: Final = 64
"""What KPL adds to a user record at most, beside its key: protobuf tags, lengths and index."""


class Record(NamedTuple):
    """One entry of PutRecords."""

    key: str
    data: bytes


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

    def of(self, batch: pa.RecordBatch) -> tuple[npt.NDArray[np.int64], list[str]]:
        """A code per row and the key of each code, in order of first appearance. A row about no tag goes with its asset, else with the gateway."""
        if self._by == "gateway":
            return np.zeros(batch.num_rows, np.int64), [_short(self._gateway)]
        ids = batch.column("tag")
        if ids.null_count or "asset" in batch.schema.names:
            assets = batch.column("asset").to_pylist() if "asset" in batch.schema.names else [None] * len(ids)
            names = [
                self._of_tag(tag) if tag is not None else _short(asset or self._gateway)
                for tag, asset in zip(ids.to_pylist(), assets, strict=True)
            ]
            return _encoded(names)
        encoded = ids.dictionary_encode()
        codes, names = _encoded([self._of_tag(tag) for tag in encoded.dictionary.to_pylist()])
        return codes[encoded.indices.to_numpy()], names

    def sorted(self, batches: Sequence[pa.RecordBatch]) -> tuple[pa.RecordBatch, Iterator[tuple[str, int, int]]]:
        """All rows, those of one key together and in row order; and where each key's begin and end. `batches` hold a row at least."""
        batch = pa.Table.from_batches(batches).combine_chunks().to_batches()[0]
        codes, names = self.of(batch)
        order = np.argsort(codes, kind="stable")
        bounds = np.searchsorted(codes[order], np.arange(len(names) + 1)).tolist()
        return batch.take(pa.array(order)), zip(names, bounds[:-1], bounds[1:], strict=True)

    def _of_tag(self, tag_id: int) -> str:
        if tag_id not in self._known:
            tag = self._tags[tag_id]
            self._known[tag_id] = _short(tag.asset if self._by == "asset" else tag.path)
        return self._known[tag_id]


class JsonLines:
    """A line of JSON per row."""

    def __init__(self, keys: Keys, json_rows: JsonRows) -> None:
        self._keys, self._json_rows = keys, json_rows

    def __call__(self, batches: Sequence[pa.RecordBatch], span: SpoolSpan, most: int) -> Iterator[Record | TooLarge]:
        """See `Encode`. Raises pydantic's ValidationError for a row that no message can say."""
        batch, keys = self._keys.sorted(batches)
        lines = self._json_rows.of(batch, span, end="\n")
        data = memoryview(lines.buffers()[2])
        offsets = np.frombuffer(lines.buffers()[1], np.int32, len(lines) + 1, 4 * lines.offset)
        for key, at, last in keys:
            room = most - len(key.encode())
            while at < last:
                end = min(last, int(np.searchsorted(offsets, offsets[at] + room, side="right")) - 1)
                if end == at:
                    yield TooLarge(batch.column(number_of(span.kind))[at].as_py(), int(offsets[at + 1] - offsets[at]))
                    end += 1
                else:
                    yield Record(key, bytes(data[offsets[at] : offsets[end]]))
                at = end


class Aggregated:
    """User records of the KPL, one per row, those of one key together. Needs the package aws-kinesis-agg."""

    def __init__(self, keys: Keys, json_rows: JsonRows) -> None:
        """Raises ConfigError when the package is not installed."""
        try:
            from aws_kinesis_agg.aggregator import RecordAggregator
        except ImportError as error:
            raise ConfigError(
                "format kpl needs the package aws-kinesis-agg", hint="install it: pip install 'genba[kpl]', or take format: json"
            ) from error
        self._aggregator = RecordAggregator
        self._keys, self._json_rows = keys, json_rows

    def __call__(self, batches: Sequence[pa.RecordBatch], span: SpoolSpan, most: int) -> Iterator[Record | TooLarge]:
        """See `Encode`."""
        batch, keys = self._keys.sorted(batches)
        numbers, lines = batch.column(number_of(span.kind)), self._json_rows.of(batch, span, end="\n")
        for key, start, end in keys:
            room = min(most - 2 * len(key.encode()), 1 << 20)
            made = self._aggregator(max_size=room)
            those = (part.slice(start, end - start).to_pylist() for part in (numbers, lines))
            for number, line in zip(*those, strict=True):
                if len(line) + len(key.encode()) + _AGGREGATION_BYTES > room:
                    yield TooLarge(number, len(line))
                    continue
                full = made.add_user_record(key, line)
                if full is not None:
                    yield Record(key, full.get_contents()[2])
            rest = made.clear_and_get()
            if rest is not None:
                yield Record(key, rest.get_contents()[2])


class ArrowStreams:
    """An Arrow IPC stream of the rows of one key: the spool's columns, `tag` as its path, gateway, epoch and kind as metadata."""

    def __init__(self, keys: Keys, tags: TagDirectory) -> None:
        self._keys, self._tags = keys, tags

    def __call__(self, batches: Sequence[pa.RecordBatch], span: SpoolSpan, most: int) -> Iterator[Record | TooLarge]:
        """See `Encode`. A key's rows are halved until they fit."""
        about = {"gateway": span.gateway, "epoch": str(span.epoch), "kind": span.kind, "version": "1"}
        batch, keys = self._keys.sorted(batches)
        batch = batch.replace_schema_metadata({f"genba.{name}": text for name, text in about.items()})
        for key, start, end in keys:
            todo = [(at, min(end, at + _ROWS_AT_FIRST)) for at in range(start, end, _ROWS_AT_FIRST)]
            while todo:
                at, last = todo.pop(0)
                data = _stream(self._named(batch.slice(at, last - at)))
                if len(data) + len(key.encode()) <= most:
                    yield Record(key, data)
                elif last - at == 1:
                    yield TooLarge(batch.column(number_of(span.kind))[at].as_py(), len(data))
                else:
                    middle = (at + last) // 2
                    todo[:0] = [(at, middle), (middle, last)]

    def _named(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        ids = batch.column("tag").dictionary_encode()
        paths = pa.array([self._tags[tag_id].path for tag_id in ids.dictionary.to_pylist()], pa.string())
        named = pa.DictionaryArray.from_arrays(ids.indices, paths)
        return batch.set_column(batch.schema.get_field_index("tag"), "tag", named)


def _stream(batch: pa.RecordBatch) -> bytes:
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, batch.schema, options=_ARROW) as writer:
        writer.write_batch(batch)
    data: bytes = out.getvalue().to_pybytes()
    return data


def _encoded(keys: Sequence[str]) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Codes in order of first appearance, and the names."""
    seen: dict[str, int] = {}
    codes = np.array([seen.setdefault(key, len(seen)) for key in keys], dtype=np.int64)
    return codes, list(seen)


def _short(key: str) -> str:
    """At most 256 characters as Java counts them, which is what a partition key may have; the end of a path tells more than its beginning."""
    if len(key) <= _KEY_CHARACTERS // 2:
        return key
    return key.encode("utf-16-le")[-2 * _KEY_CHARACTERS :].decode("utf-16-le", errors="ignore")
