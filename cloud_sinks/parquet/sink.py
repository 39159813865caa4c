"""The sink: one file per span and date, written in one thread of its own, published exactly once in a directory or a bucket."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from cloud_sinks.aws import Account, AwsConfig
from cloud_sinks.base import BatchPolicy, SinkContext
from cloud_sinks.thread import OneThread
from schemas.errors import ConfigError, GenbaError, NotConnected
from schemas.span import Command, SpoolSpan

from .config import HINT, ParquetConfig, unsupported
from .dictionary import TagTable
from .holdings import held
from .publish import publish
from .rows import Names, parts
from .s3 import S3Store
from .shelf import shelf_of
from .store import LocalStore, Store

if TYPE_CHECKING:
    import pyarrow as pa

    from schemas.kinds import Kind

T = TypeVar("T")
_SEEN_EVERY_US: Final = 3600 * 10**6
_MEMORY: Final = 128 << 20
"""Bytes of rows, as they lie in memory, that go into one file at most, unless `max_size` itself is more."""
_TELLING_ROWS: Final = 1_000
_FOOTER: Final = 12_000
_LEAST_A_ROW: Final = 0.25
_WORDS: Final = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.ENOENT: "the directory has vanished",
    errno.EEXIST: "a link that leads nowhere is in the place of the directory",
    errno.ENOTDIR: "a file is in the place of a directory",
    errno.EACCES: "no permission",
    errno.EIO: "the disk reports an input/output error",
}


class ParquetSink:
    """A lake in a directory or a bucket. A repeated span finds its file there, compares what the file says of its rows, and is done."""

    def __init__(self, config: ParquetConfig, context: SinkContext) -> None:
        """Raises ConfigError for a location that this version cannot write to. Touches nothing."""
        problem = unsupported(config.location)
        if problem:
            raise ConfigError(problem, where=f"sinks.{context.name}.location", hint=HINT)
        self._config, self._location = config, config.location
        self._root = None if config.on_s3 else context.base / config.location
        self._context = context
        self._roll = config.roll
        self._bytes_a_row: dict[Kind, float] = {}  # of the files of this run
        self._store = _store(config, context)
        self._dictionary = TagTable(
            context.tags, enterprise=context.enterprise, site=context.site, gateway=context.gateway, sink=context.name
        )
        self._names: Names | None = None
        self._described_us = 0
        self._thread = OneThread(f"genba-lake-{context.name}")
        self._closed = asyncio.Event()

    def policy(self, kind: Kind) -> BatchPolicy:
        """`roll`, with the rows that make a file of `max_size`, as the last files of the kind were.

        Rows in memory are larger than in the file, so `max_bytes`, which counts those, only bounds memory once the ratio is known.
        """
        rows, size = self._roll.max_rows, int(self._roll.max_size)
        known = self._bytes_a_row.get(kind)
        if known is None:
            return BatchPolicy(rows, size, self._roll.max_age.s)
        return BatchPolicy(max(1, min(rows, int(size / known))), max(size, _MEMORY), self._roll.max_age.s)

    async def connect(self) -> None:
        """Make the directory usable, remove what a crash left, bring the data dictionary up to date."""
        await self._run(self._open)

    async def write(self, batches: Sequence[pa.RecordBatch], span: SpoolSpan) -> None:
        """Write one file per date. Raises ConfigError when a file of this span holds other rows."""
        await self._run(lambda: self._write(batches, span))

    async def holds(self, span: SpoolSpan) -> Sequence[tuple[int, int]]:
        """See `cloud_sinks.base.Holding`."""
        return await self._run(lambda: self._held(span))

    async def commands(self) -> AsyncIterator[Command]:
        """A lake asks nothing."""
        nothing: tuple[Command, ...] = ()
        for command in nothing:
            yield command

    async def lost(self) -> None:
        """A directory shows that it is away only when it is written to."""
        await self._closed.wait()

    def examine(self) -> str:
        """See Examined."""
        try:
            return self._guarded(self._store.examine)
        finally:
            self._store.close()

    async def aclose(self) -> None:
        """Let a write under way finish, renew the data dictionary, end the thread."""
        self._closed.set()
        await self._thread.aclose(self._close)

    async def _run(self, work: Callable[[], T]) -> T:
        return await self._thread.run(lambda: self._guarded(work))

    # What follows runs in the sink's thread.

    def _guarded(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except OSError as error:
            root = self._root
            if root is not None and root.exists() and not root.is_dir():
                where = f"sinks.{self._context.name}.location"
                raise ConfigError(f"{root} is not a directory", where=where, hint="name a directory") from error
            raise NotConnected(f"cannot write to the lake at {root or self._location}: {_in_words(error)}") from error

    def _open(self) -> None:
        self._store.open()
        self._names = Names(self._context.tags)
        self._dictionary.load(self._store)
        self._described_us = self._context.clock.now_us()

    def _write(self, batches: Sequence[pa.RecordBatch], span: SpoolSpan) -> None:
        if self._names is None:
            raise NotConnected("the lake is not connected")
        if self._names.stale:
            self._names = Names(self._context.tags)
            self._dictionary.write(self._store)  # before the data, so that every tag in the lake is described there
        earlier, size = False, 0
        for part in parts(batches, span, self._names):
            size += publish(self._store, part, span, enterprise=self._context.enterprise, site=self._context.site).bytes
            if span.kind == "telemetry":
                earlier = self._dictionary.note(part) or earlier
        self._learn(span.kind, len(span), size)
        now = self._context.clock.now_us()
        if earlier or (self._dictionary.dirty and abs(now - self._described_us) >= _SEEN_EVERY_US):
            self._dictionary.write(self._store)
            self._described_us = now

    def _held(self, span: SpoolSpan) -> list[tuple[int, int]]:
        config, context = self._config, self._context
        shelf = shelf_of(config.location, config.aws or AwsConfig(), log=context.log, base=context.base)
        try:
            return held(shelf, context.site, span)
        except ValueError as error:
            raise ConfigError(f"the lake's manifest cannot be read: {error}", where=f"sinks.{context.name}.location") from error
        finally:
            shelf.close()

    def _learn(self, kind: Kind, rows: int, size: int) -> None:
        """How large a spooled row is in a file, its footer aside. Small files say little, so they count for little."""
        if rows >= _TELLING_ROWS:
            found = max(_LEAST_A_ROW, (size - _FOOTER) / rows)
            known = self._bytes_a_row.get(kind, found)
            self._bytes_a_row[kind] = known + (found - known) * min(1.0, rows / (100 * _TELLING_ROWS))

    def _close(self) -> None:
        if self._dictionary.dirty:
            try:
                self._dictionary.write(self._store)
            except (OSError, GenbaError) as error:
                why = _in_words(error) if isinstance(error, OSError) else str(error)
                self._context.log.warning("first and last seen of the tags are not renewed", error=why)
        self._store.close()


def _store(config: ParquetConfig, context: SinkContext) -> Store:
    if not config.on_s3:
        return LocalStore(context.base / config.location, context.gateway, context.directory / "lake")
    where = f"sinks.{context.name}"
    return S3Store(
        Account(config.aws or AwsConfig(), context.base, where),
        config.location,
        owner=context.gateway,
        directory=context.directory,
        kms_key=config.kms_key,
        log=context.log,
    )


def _in_words(error: OSError) -> str:
    """What the operating system means, and its own words."""
    return f"{_WORDS.get(error.errno or 0, 'the file system refuses')} ({errno.errorcode.get(error.errno or 0, '?')}: {error.strerror or error})"
