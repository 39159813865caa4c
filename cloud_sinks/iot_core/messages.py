"""From spooled rows to what is published: topic and payload, each within the service's limits. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import pyarrow as pa

from cloud_sinks.json_rows import JsonRows
from cloud_sinks.messages import BATCH_BYTES, Messages, batch, payload, rows
from cloud_sinks.topics import Topics
from schemas.kinds import Kind
from schemas.span import SpoolSpan

from .config import topic_problem

_ALONE: Final = ("alert", "event", "health", "image")
"""Kinds whose rows people and rules look at one by one."""
_AT_ONCE: Final = 2_000
"""Readings that are put together before any of them is sent: the event loop waits two milliseconds for them."""


class Publication(NamedTuple):
    """One message and the row numbers that it holds."""

    topic: str
    payload: bytes
    rows: tuple[int, ...]


class Refusal(NamedTuple):
    """A row that cannot be published."""

    row: int
    reason: str


class Publications:
    """Makes the messages of a span. `max_payload` bounds what is published, compressed or not."""

    def __init__(
        self,
        topics: Topics,
        messages: Messages,
        json_rows: JsonRows,
        *,
        prefix: str,
        batched: bool,
        compressed: bool,
        max_payload: int,
    ) -> None:
        self._topics, self._messages, self._json_rows, self._prefix = topics, messages, json_rows, prefix
        self._batched, self._most = batched, max_payload
        self._codec = pa.Codec("zstd", compression_level=3) if compressed else None

    def of(self, batches: Sequence[pa.RecordBatch], span: SpoolSpan) -> Iterator[Publication | Refusal]:
        """In row order per topic."""
        waiting: dict[str, list[tuple[int, bytes]]] = {}
        sizes: dict[str, int] = {}
        several = self._several(span.kind)
        for number, topic, message, problem in self._rows(batches, span):
            if problem:
                yield Refusal(number, problem)
                continue
            if not several:
                yield from self._finished(topic, [(number, message)], several=False)
                continue
            size = len(message) + 1
            # Compressed or not, a batch is cut by what it holds: how well it will compress is not known before.
            if sizes.get(topic, 0) + size > self._most - BATCH_BYTES:
                yield from self._finished(topic, waiting.pop(topic, []), several=True)
                sizes[topic] = 0
            waiting.setdefault(topic, []).append((number, message))
            sizes[topic] = sizes.get(topic, 0) + size
        for topic, those in waiting.items():
            yield from self._finished(topic, those, several=True)

    def _rows(self, batches: Sequence[pa.RecordBatch], span: SpoolSpan) -> Iterator[tuple[int, str, bytes, str]]:
        """Number, topic and message of each row, and why it cannot be published."""
        for whole in batches:
            for start in range(0, whole.num_rows, _AT_ONCE):
                some = whole.slice(start, _AT_ONCE)
                readings = self._json_rows.readings(some, span)
                yield from self._one_by_one(some, span) if readings is None else self._together(some, readings)

    def _together(self, some: pa.RecordBatch, readings: pa.BinaryArray) -> Iterator[tuple[int, str, bytes, str]]:
        """Readings: where one is published depends on its tag alone."""
        tags = some.column("tag").dictionary_encode()
        topics = [self._topics.of({"tag": tag, "asset": None}, "telemetry") for tag in tags.dictionary.to_pylist()]
        problems = [topic_problem(topic) for topic in topics]
        columns = (some.column("seq").to_pylist(), tags.indices.to_pylist(), readings.to_pylist())
        for number, code, message in zip(*columns, strict=True):
            yield number, topics[code], message, problems[code]

    def _one_by_one(self, some: pa.RecordBatch, span: SpoolSpan) -> Iterator[tuple[int, str, bytes, str]]:
        number = "row" if span.kind in ("score", "health") else "seq"
        for row in rows([some]):
            try:
                topic, message = self._topics.of(row, span.kind), payload(self._messages.of(row, span))
            except ValueError as error:  # also pydantic's: no message can say this row
                yield row[number], "", b"", str(error)
            else:
                yield row[number], topic, message, topic_problem(topic)

    def _several(self, kind: Kind) -> bool:
        return self._batched and kind not in _ALONE

    def _finished(self, topic: str, those: Sequence[tuple[int, bytes]], *, several: bool) -> Iterator[Publication | Refusal]:
        if not those:
            return
        data = batch([message for _, message in those]) if several else those[0][1]
        if self._codec is not None:
            data = self._codec.compress(data, asbytes=True)
        if len(data) > self._most:  # a single row: batches are cut before
            yield Refusal(those[0][0], f"its message has {len(data):,} bytes and {self._most:,} are allowed")
            return
        yield Publication(self._prefix + topic, data, tuple(number for number, _ in those))
