"""From spooled rows to what is published: topic and payload, each within the service's limits. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import pyarrow as pa

from cloud_sinks.messages import BATCH_BYTES, Messages, batch, payload, rows
from cloud_sinks.topics import Topics
from schemas.kinds import Kind
from schemas.span import SpoolSpan

from .config import topic_problem

_ALONE: Final = ("alert", "event", "health", "image")
"""Kinds whose rows people and rules look at one by one."""


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
        self, topics: Topics, messages: Messages, *, prefix: str, batched: bool, compressed: bool, max_payload: int
    ) -> None:
        self._topics, self._messages, self._prefix = topics, messages, prefix
        self._batched, self._most = batched, max_payload
        self._codec = pa.Codec("zstd", compression_level=3) if compressed else None

    def of(self, batches: Sequence[pa.RecordBatch], span: SpoolSpan) -> Iterator[Publication | Refusal]:
        """In row order per topic."""
        number = "row" if span.kind in ("score", "health") else "seq"
        waiting: dict[str, list[tuple[int, bytes]]] = {}
        sizes: dict[str, int] = {}
        several = self._several(span.kind)
        for row in rows(batches):
            try:
                topic, message = self._topics.of(row, span.kind), payload(self._messages.of(row, span))
            except ValueError as error:  # also pydantic's: no message can say this row
                yield Refusal(row[number], str(error))
                continue
            problem = topic_problem(topic)
            if problem:
                yield Refusal(row[number], problem)
                continue
            if not several:
                yield from self._finished(topic, [(row[number], message)], several=False)
                continue
            size = len(message) + 1
            # Compressed or not, a batch is cut by what it holds: how well it will compress is not known before.
            if sizes.get(topic, 0) + size > self._most - BATCH_BYTES:
                yield from self._finished(topic, waiting.pop(topic, []), several=True)
                sizes[topic] = 0
            waiting.setdefault(topic, []).append((row[number], message))
            sizes[topic] = sizes.get(topic, 0) + size
        for topic, those in waiting.items():
            yield from self._finished(topic, those, several=True)

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
