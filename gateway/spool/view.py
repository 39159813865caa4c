"""A spool seen from outside, without its lock and without a change to a single byte: of a gateway that runs or of one that does not. Blocking.

What is seen is one moment: the ledger may be some commits younger or older than the segments, and a segment that a running gateway
removes meanwhile is simply not seen.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn

import pyarrow as pa

from schemas.errors import ConfigError
from schemas.kinds import KINDS, Kind

from . import format as f
from .accounts import Account, account_of
from .book import Book
from .codec import Decoder, Undecodable
from .identity import read_identity
from .ledger_file import LEDGER_BYTES, Condition, LedgerFile
from .log import Log
from .opening import other_bytes
from .quarantine import Quarantine
from .recovery import recover
from .segment import Segment, load_entries
from .spans import Span, Spans
from .storage import Bytes, DiskStorage, Storage, read_patiently

_NO_CHANGE: Final = errno.EROFS


class ReadOnlyStorage(DiskStorage):
    """The real disk, on which nothing can be changed."""

    def create(self, path: Path, size: int) -> int:
        """Never."""
        _refuse(path)

    def open(self, path: Path, *, write: bool = False) -> int:
        """See `Storage.open`; for reading only."""
        if write:
            _refuse(path)
        return super().open(path)

    def write(self, fd: int, buffers: Sequence[Bytes], offset: int) -> int:
        """Never."""
        _refuse(Path())

    def truncate(self, fd: int, size: int) -> None:
        """Never."""
        _refuse(Path())

    def make_directory(self, path: Path) -> None:
        """Never."""
        _refuse(path)

    def rename(self, old: Path, new: Path) -> None:
        """Never."""
        _refuse(old)

    def unlink(self, path: Path) -> None:
        """Never."""
        _refuse(path)


def _refuse(path: Path) -> NoReturn:
    raise OSError(_NO_CHANGE, "this spool is only looked at", str(path))


@dataclass(slots=True)
class Verdict:
    """What checking every record of a kind found."""

    segments: int = 0
    records: int = 0
    rows: int = 0
    bytes: int = 0
    damaged: list[Span] = field(default_factory=list)  # records that are not what was written
    missing: list[Span] = field(default_factory=list)  # rows between records, still needed by somebody and not yet reported
    downsampled: int = 0  # rows that windows stand for
    unfinished: int = 0  # segments without footer: the one that is being written, or what a crash left


class View:
    """One moment of a spool directory."""

    def __init__(self, directory: Path, storage: Storage | None = None) -> None:
        """Raises ConfigError when there is no spool in `directory`, or one of a newer version."""
        storage = storage or ReadOnlyStorage()
        self.directory, self._storage = directory, storage
        identity = read_identity(directory, storage)
        if identity is None:
            raise ConfigError(f"there is no spool in {directory}", hint="name spool.directory of the gateway, or its YAML file")
        self.gateway, self.epoch = identity.gateway, identity.epoch
        self.condition: Condition = "new"
        self.book = self._ledger()
        self.logs: dict[Kind, Log] = {}
        self.holes: dict[Kind, Spans] = {}
        for kind in KINDS:
            self._open(kind)

    def _ledger(self) -> Book:
        if not self._storage.exists(self.directory / "ledger"):
            return Book(self.gateway, self.epoch)
        for _ in range(3):  # a slot that is being written now is whole a moment later
            file = LedgerFile(self.directory / "ledger", self._storage)
            book, self.condition = file.load(), file.condition
            if self.condition in ("whole", "new"):
                break
        return book

    def _open(self, kind: Kind) -> None:
        directory = self.directory / kind
        hands_off = Quarantine(self.directory / "quarantine", self._storage)
        segments: list[Segment] = []
        next_row = self.book.high_water(kind)
        if self._storage.exists(directory):
            try:
                segments, report = recover(
                    kind, directory, storage=self._storage, quarantine=hands_off, epoch=self.epoch, high_water=next_row
                )
            except f.TooNew as error:
                raise ConfigError(
                    f"this spool was written by a newer version of genba: {error}", hint="use that version"
                ) from error
            next_row, self.holes[kind] = report.next_row, Spans(report.missing)
        self.logs[kind] = Log(
            kind, directory, storage=self._storage, quarantine=hands_off, epoch=self.epoch, segment_bytes=0,
            allows=lambda size: False, segments=segments, next_row=next_row,
        )  # fmt: skip

    @property
    def owner(self) -> str | None:
        """The process that has the spool, `unknown` where it does not say; None when no gateway runs on it."""
        try:
            fd = os.open(self.directory / "lock", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return os.pread(fd, 64, 0).decode(errors="replace").strip("\0\n ") or "unknown"
        except OSError:
            return None
        finally:
            os.close(fd)
        return None

    @property
    def bytes_used(self) -> int:
        """As the running gateway counts them: segments, ledger, and what else is in the directory."""
        segments = sum(log.size_bytes for log in self.logs.values())
        return segments + LEDGER_BYTES + other_bytes(self.directory, self._storage)

    def durable(self, kind: Kind) -> int:
        """The first row number that is not durable."""
        return self.logs[kind].next

    def gone(self, kind: Kind) -> Spans:
        """Rows that are no more, as the ledger says."""
        return self.book.gone.get(kind, Spans())

    def account(self, kind: Kind, sink: str) -> Account:
        """What became of a sink's rows."""
        return account_of(self.book.cursors[kind, sink], self.durable(kind), self.gone(kind), self.logs[kind])

    def oldest_undelivered_us(self, sink: str | None = None) -> int | None:
        """When the oldest row came that a sink (any sink) has not had; None when there is none."""
        times = []
        for (kind, name), cursor in self.book.cursors.items():
            if sink in (None, name) and self.account(kind, name).spooled > 0:
                found = self.logs[kind].commit_us(cursor.acked)
                times += [] if found is None else [found]
        return min(times, default=None)

    def now_us(self) -> int:
        """The wall clock of this machine, which is the gateway's."""
        return time.time_ns() // 1000

    def rows_held(self, kind: Kind) -> int:
        """Rows that can be read, windows among them."""
        return sum(
            segment.next - segment.first - sum(end - first for first, end in segment.thin) for segment in self.logs[kind].segments
        )

    def row_at(self, kind: Kind, time_us: int) -> int:
        """The first row that was stored at `time_us` or later."""
        return self.logs[kind].row_at(time_us)

    def read(self, kind: Kind, first: int, end: int, *, max_bytes: int = 16 << 20) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Rows `first` … `end` - 1 as far as they are held, piece by piece."""
        row = first
        while row < end:
            found = self.logs[kind].read(row, end=end, max_rows=1 << 40, max_bytes=max_bytes)
            if not found:
                return
            yield from found
            row = found[-1][0] + found[-1][1].num_rows

    def verify(self, kind: Kind) -> Verdict:
        """Read every record: its checksum, its columns, and whether the rows follow one another."""
        verdict, log, decoder = Verdict(), self.logs[kind], Decoder()
        for segment in log.segments:
            try:
                self._verify(kind, segment, decoder, verdict)
            except FileNotFoundError:
                continue  # delivered and removed meanwhile
            except OSError:
                verdict.damaged.append((segment.first, segment.next))
        needed = self.book.needed(kind)
        holes = self.holes.get(kind, Spans())
        if needed is not None:
            holes.add(needed, min(log.oldest, log.next))
            holes.discard_below(needed)
            verdict.missing = [new for first, end in holes for new in self.gone(kind).missing_from(first, end)]
        return verdict

    def _verify(self, kind: Kind, segment: Segment, decoder: Decoder, verdict: Verdict) -> None:
        entries = segment.entries if segment.entries is not None else load_entries(self._storage, segment)
        fd = self._storage.open(segment.path)
        verdict.segments += 1
        verdict.bytes += segment.bytes
        verdict.unfinished += segment.summary is None
        try:
            for entry in entries:
                verdict.records += 1
                found = f.read_record(read_patiently(self._storage, fd, entry.size, entry.offset), 0)
                try:
                    if found is None or found[0].first != entry.first:
                        raise Undecodable
                    decoder.decode(kind, *found)
                except Undecodable:
                    verdict.damaged.append((entry.first, min(entry.next, segment.next)))
                    continue
                verdict.rows += entry.rows
                verdict.downsampled += entry.span - entry.rows
        finally:
            self._storage.close(fd)
