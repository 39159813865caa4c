"""The sink: one thread with a botocore client; requests that keep the order of each key, and only failed records again."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

import pyarrow as pa

from cloud_sinks.aws import Account
from cloud_sinks.base import BatchPolicy, SinkContext
from cloud_sinks.json_rows import JsonRows
from cloud_sinks.messages import Messages
from cloud_sinks.thread import OneThread
from schemas.errors import Busy, ConfigError, NotConnected, Rejected
from schemas.span import Command, SpoolSpan

from .config import Format, KinesisConfig
from .records import Aggregated, ArrowStreams, Encode, JsonLines, Keys, Record, TooLarge
from .request import put_records

if TYPE_CHECKING:
    from schemas.kinds import Kind

_ROWS: Final[dict[Format, int]] = {"json": 20_000, "kpl": 20_000, "arrow": 200_000}
"""Rows of a span: about one request. An Arrow stream costs half a millisecond whatever it holds, so there it is more."""
_ATTEMPTS: Final = 6
_FIRST_WAIT_S: Final = 0.1
_LONGEST_WAIT_S: Final = 3.0
_STATES: Final = ("ACTIVE", "UPDATING")


class KinesisSink:
    """Delivers to one stream. What a repeated span has already brought over is not sent again, as long as this process lives."""

    def __init__(self, config: KinesisConfig, context: SinkContext) -> None:
        self._config, self._context = config, context
        aws = config.aws if config.region is None else config.aws.model_copy(update={"region": config.region})
        self._where = f"sinks.{context.name}"
        self._account = Account(aws, context.base, self._where)
        self._target = {"StreamARN": config.stream} if config.stream.startswith("arn:") else {"StreamName": config.stream}
        self._policy = BatchPolicy(_ROWS[config.format], int(config.max_request), config.max_age.s)
        self._encode: Encode | None = None
        self._span: SpoolSpan | None = None  # the one under way, and the numbers of its records that the stream has
        self._done: set[int] = set()
        self._thread = OneThread(f"genba-kinesis-{context.name}")
        self._closed = asyncio.Event()
        self._rng = random.Random()
        self._stopping = threading.Event()

    def policy(self, kind: Kind) -> BatchPolicy:
        """The same for every kind."""
        return self._policy

    async def connect(self) -> None:
        """See whether the stream is there. Raises NotConnected and ConfigError."""
        self._stopping.clear()
        await self._thread.run(self._open)

    async def write(self, batches: Sequence[pa.RecordBatch], span: SpoolSpan) -> None:
        """Put every row and return when the stream has them all. Raises Rejected for rows larger than a record may be."""
        await self._thread.run(lambda: self._write(batches, span))

    async def commands(self) -> AsyncIterator[Command]:
        """A stream asks nothing."""
        nothing: tuple[Command, ...] = ()
        for command in nothing:
            yield command

    async def lost(self) -> None:
        """Nothing is connected between two requests."""
        await self._closed.wait()

    def examine(self) -> str:
        """See Examined."""
        self._encoding()
        try:
            return f"the stream {self._config.stream} is {self._look().lower()}"
        finally:
            self._account.close()

    async def aclose(self) -> None:
        """Let the request under way finish, close the connections, end the thread."""
        self._closed.set()
        self._stopping.set()
        await self._thread.aclose(self._account.close)

    # What follows runs in the sink's thread.

    def _open(self) -> None:
        if self._encode is None:
            self._encode = self._encoding()
        self._look()

    def _look(self) -> str:
        found = self._account.call(
            "kinesis",
            f"look at the stream {self._config.stream}",
            lambda kinesis: kinesis.describe_stream_summary(**self._target),
        )
        state = str(found["StreamDescriptionSummary"]["StreamStatus"])
        if state not in _STATES:
            raise NotConnected(f"the stream {self._config.stream} is {state.lower()}")
        return state

    def _encoding(self) -> Encode:
        context = self._context
        keys = Keys(context.tags, self._config.partition_key, context.gateway)
        if self._config.format == "arrow":
            return ArrowStreams(keys, context.tags)
        zone = ZoneInfo(context.time_zone)
        plant = {"enterprise": context.enterprise, "site": context.site}
        rows = JsonRows(Messages(context.tags, zone=zone, **plant), context.tags, **plant)
        if self._config.format == "kpl":
            try:
                return Aggregated(keys, rows)
            except ConfigError as error:
                raise ConfigError(error.message, where=f"{self._where}.format", hint=error.hint) from error
        return JsonLines(keys, rows)

    def _write(self, batches: Sequence[pa.RecordBatch], span: SpoolSpan) -> None:
        if self._encode is None:
            raise NotConnected("the stream is not connected")
        if span != self._span:
            self._span, self._done = span, set()
        batches = [batch for batch in batches if batch.num_rows]
        records: list[Record] = []
        refused: list[TooLarge] = []
        for made in self._encode(batches, span, int(self._config.max_record)) if batches else ():
            if isinstance(made, Record):
                records.append(made)
            else:
                refused.append(made)
        for numbers in self._requests(records):
            self._put(numbers, records)
        if refused:
            most = max(refused, key=lambda one: one.size)
            raise Rejected(
                f"a row of {most.size:,} bytes is larger than a record may be ({int(self._config.max_record):,}): raise max_record "
                "here and at the stream",
                [one.row for one in refused],
            )

    def _requests(self, records: Sequence[Record]) -> Iterator[list[int]]:
        """Numbers of the records that go together. No key twice in one request: the service may take the second and not the first."""
        todo = [number for number in range(len(records)) if number not in self._done]
        while todo:
            taken, later, keys, size, seen = list[int](), list[int](), set[str](), 0, 0
            for number in todo:
                record = records[number]
                bytes_ = len(record.data) + len(record.key.encode())
                if len(taken) == self._config.max_records or (taken and size + bytes_ > self._config.max_request):
                    break
                seen += 1
                if record.key in keys:
                    later.append(number)
                    continue
                taken.append(number)
                keys.add(record.key)
                size += bytes_
            yield taken
            todo = later + todo[seen:]

    def _put(self, numbers: Sequence[int], records: Sequence[Record]) -> None:
        """One request, and again what failed of it, with a full-jitter wait that doubles. Raises Busy when it goes on failing."""
        left = list(numbers)
        reason = ""
        for attempt in range(_ATTEMPTS):
            if attempt:
                self._stopping.wait(self._rng.uniform(0, min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**attempt)))
            try:
                failed = self._once(left, records)
            except Busy as busy:  # all of it
                reason = str(busy)
            else:
                self._done.update(number for number in left if number not in failed)
                if not failed:
                    return
                left = [number for number in left if number in failed]
                reason = f"{len(left)} of its records were refused: {failed[left[0]]}"
            if self._stopping.is_set():
                break
        raise Busy(self._rng.uniform(0.5, _LONGEST_WAIT_S), f"the stream {self._config.stream} takes no more: {reason}")

    def _once(self, numbers: Sequence[int], records: Sequence[Record]) -> dict[int, str]:
        """Numbers of the records that were not taken, each with the service's reason."""
        entries = [records[number] for number in numbers]
        answer = self._account.call(
            "kinesis",
            f"write to the stream {self._config.stream}",
            lambda kinesis: put_records(kinesis, entries, self._target),
        )
        told = answer.get("Records", [])
        if len(told) != len(numbers):
            raise NotConnected(f"the stream {self._config.stream} answers {len(told)} of {len(numbers)} records")
        return {
            number: f"{one['ErrorCode']}: {one.get('ErrorMessage', '')}"
            for number, one in zip(numbers, told, strict=True)
            if one.get("ErrorCode")
        }
