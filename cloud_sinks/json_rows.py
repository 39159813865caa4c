"""The JSON of many rows at once. A reading's is put together in Arrow, column by column: no Python object per row, a fiftieth of the time.

`messages` says what a message is; a test holds the two against each other. What is rare (a waveform, a downsampled window, a clock
outside the years 1970 to 9000) and every other kind goes through `messages` row by row.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic_core import to_json

from cloud_sinks.messages import ORIGINS, VERSION, Messages, payload, rows
from schemas import quality
from schemas.span import SpoolSpan
from schemas.tags import Tag, TagDirectory

_RARE: Final = ("samples", "value_min", "value_max", "count")
_END_US: Final = 221_845_392_000_000_000  # the year 9000; from 1970 to there Arrow writes times as ISO 8601 does
_EXPONENT_FROM: Final = 1e10  # below it Arrow writes whole floats without a point


class JsonRows:
    """Makes the messages of one gateway as JSON."""

    def __init__(self, messages: Messages, tags: TagDirectory, *, enterprise: str, site: str) -> None:
        self._messages, self._tags = messages, tags
        self._plant = f'"enterprise":{_json(enterprise)},"site":{_json(site)}'
        self._known: dict[int, tuple[Tag, str, str]] = {}

    def of(self, batch: pa.RecordBatch, span: SpoolSpan, *, end: str = "") -> pa.BinaryArray:
        """The message of each row, with `end` behind it. Raises pydantic.ValidationError for a row that no message can say."""
        readings = self.readings(batch, span, end=end)
        if readings is not None:
            return readings
        tail = end.encode()
        return pa.array([payload(self._messages.of(row, span)) + tail for row in rows([batch])], pa.binary())

    def readings(self, batch: pa.RecordBatch, span: SpoolSpan, *, end: str = "") -> pa.BinaryArray | None:
        """The same for readings, or None where a row is not one of the usual."""
        if span.kind != "telemetry" or not _usual(batch):
            return None
        time = batch.column("time").cast(pa.timestamp("us")).cast(pa.string())
        tags = batch.column("tag").dictionary_encode()
        known = [self._tag(tag_id) for tag_id in tags.dictionary.to_pylist()]
        parts: list[Any] = [
            f'{{"version":{VERSION},"time":"',
            pc.replace_substring(time, " ", "T", max_replacements=1),
            f'Z",{self._plant},"gateway":{_json(span.gateway)},"epoch":{span.epoch},"kind":"telemetry","row":',
            batch.column("seq").cast(pa.string()),
            pa.array([path for path, _ in known], pa.string()).take(tags.indices),
            *_values(batch),
            *_texts(batch),
            pa.array([unit for _, unit in known], pa.string()).take(tags.indices),
            _coded(batch.column("quality"), lambda code: f',"quality":{code},"quality_name":{_json(quality.name(code))}'),
            _coded(batch.column("origin"), lambda code: f',"origin":{_json(ORIGINS[code])}'),
            *_optional("lag_ms", batch.column("lag")),
            f"}}{end}",
        ]
        return pc.binary_join_element_wise(*parts, "").cast(pa.binary())

    def _tag(self, tag_id: int) -> tuple[str, str]:
        """What a message says of a tag: its path, and its unit where it has one."""
        tag = self._tags[tag_id]
        found = self._known.get(tag_id)
        if found is None or found[0] is not tag:
            unit = "" if tag.unit == "1" else f',"unit":{_json(tag.unit)}'
            found = self._known[tag_id] = (tag, f',"tag":{_json(tag.path)}', unit)
        return found[1], found[2]


def _usual(batch: pa.RecordBatch) -> bool:
    names = batch.schema.names
    if any(batch.column(name).null_count < batch.num_rows for name in _RARE if name in names):
        return False
    if any(batch.column(name).null_count for name in ("time", "tag", "seq")):
        return False
    span = pc.min_max(batch.column("time").cast(pa.int64()))
    return not batch.num_rows or (span["min"].as_py() >= 0 and span["max"].as_py() < _END_US)


def _values(batch: pa.RecordBatch) -> list[Any]:
    """The number of each row, where it has one that JSON can say; whole ones of a float keep their point."""
    floats, integers = batch.column("value"), batch.column("value_int")
    if integers.null_count == batch.num_rows and floats.null_count == batch.num_rows:
        return []
    finite = pc.fill_null(pc.is_finite(floats), False)
    plain = floats.fill_null(0.0).to_numpy(zero_copy_only=False)
    with np.errstate(invalid="ignore"):
        whole = (plain == np.rint(plain)) & (np.abs(plain) < _EXPONENT_FROM)
    numbers = pc.if_else(finite, floats.cast(pa.string()), None)
    if whole.any():
        numbers = pc.binary_join_element_wise(numbers, pc.if_else(pa.array(whole), ".0", ""), "")
    if integers.null_count < batch.num_rows:
        numbers = pc.coalesce(integers.cast(pa.string()), numbers)
    return _named("value", numbers)


def _texts(batch: pa.RecordBatch) -> list[Any]:
    texts = batch.column("text")
    if texts.null_count == batch.num_rows:
        return []
    encoded = texts.dictionary_encode()
    return _named("text", pa.array([_json(text) for text in encoded.dictionary.to_pylist()], pa.string()).take(encoded.indices))


def _optional(name: str, column: pa.Array) -> list[Any]:
    return [] if column.null_count == len(column) else _named(name, column.cast(pa.string()))


def _named(name: str, said: pa.StringArray) -> list[Any]:
    """`,"name":said`, and nothing where it is null."""
    if not said.null_count:
        return [f',"{name}":', said]
    return [pc.if_else(said.is_valid(), f',"{name}":', ""), said.fill_null("")]


def _coded(column: pa.Array, say: Any) -> pa.StringArray:
    """What is said of each code; null counts as 0."""
    encoded = column.fill_null(0).dictionary_encode()
    return pa.array([say(code) for code in encoded.dictionary.to_pylist()], pa.string()).take(encoded.indices)


def _json(text: str) -> str:
    return to_json(text).decode()
