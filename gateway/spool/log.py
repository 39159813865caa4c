"""One kind's log: segments on disk, the one that is being written, and reading by row number. Blocking.

`append`, `roll` and `remove` are for the writer thread, `read` may run in another one: what readers see (`segments`, a segment's
entries) only grows, or is replaced as a whole.
"""

from __future__ import annotations

import errno
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa

from schemas.kinds import SCHEMAS, Kind

from . import format as f
from .codec import SCHEMA_VERSION, Decoder, Undecodable
from .quarantine import Quarantine
from .segment import Segment, close_segment, find, load_entries, segment_name
from .spans import Span, Spans
from .storage import Storage, read_patiently, write_all

_READ_AHEAD: Final = 4 << 20
_INDEXES_KEPT: Final = 8


class SpoolFull(Exception):
    """The budget does not allow another segment of `size` bytes."""

    def __init__(self, kind: Kind, size: int) -> None:
        super().__init__(f"the spool's max_size does not allow another {size} bytes of {kind}")
        self.kind, self.size = kind, size


class Log:
    """All segments of one kind."""

    def __init__(
        self,
        kind: Kind,
        directory: Path,
        *,
        storage: Storage,
        quarantine: Quarantine,
        epoch: int,
        segment_bytes: int,
        allows: Callable[[int], bool],
        segments: Sequence[Segment] = (),
        next_row: int = 0,
    ) -> None:
        """`allows(bytes)` says whether the budget has room for a new segment. `segments` is what recovery found, all closed."""
        self.kind, self.directory = kind, directory
        self.segments: tuple[Segment, ...] = tuple(segments)
        self.next = next_row
        self.written = 0  # bytes handed to the disk
        self.corrupt_records = 0
        self.rewritten = 0  # rises whenever segments were replaced by others with the same rows
        self.gone: deque[Span] = deque()  # row spans that reading found damaged, until somebody takes them
        self._storage, self._quarantine, self._epoch = storage, quarantine, epoch
        self._segment_bytes, self._allows = segment_bytes, allows
        self._fd: int | None = None
        self._offset = self._capacity = 0
        self._decoder = Decoder()
        self._indexed: OrderedDict[Path, Segment] = OrderedDict()
        self._decoded: OrderedDict[tuple[Path, int], pa.RecordBatch] = OrderedDict()

    @property
    def oldest(self) -> int:
        """The first row that is still held; the next row number when none is."""
        segments = self.segments
        return segments[0].first if segments else self.next

    @property
    def size_bytes(self) -> int:
        """Bytes that the segments occupy."""
        return sum(segment.bytes for segment in self.segments)

    @property
    def closed(self) -> tuple[Segment, ...]:
        """The segments that are not being written."""
        return self.segments[:-1] if self._fd is not None else self.segments

    def commit_us(self, row: int) -> int | None:
        """When `row`, or the next one held, was handed to the disk; None when there is none."""
        at = self._locate(row)
        return self.segments[at].commit_us(max(row, self.segments[at].first)) if at < len(self.segments) else None

    def row_at(self, time_us: int) -> int:
        """The first row that was handed to the disk at `time_us` or later; the next row number when none was.

        Exact to the record where the index is in memory, else in proportion within its segment. Clocks that step make it a guess.
        """
        for segment in self.segments:
            if segment.last_commit_us < time_us:
                continue
            low, high = segment.first, segment.next
            while low < high:
                row = (low + high) // 2
                low, high = (row + 1, high) if segment.commit_us(row) < time_us else (low, row)
            return low
        return self.next

    # Writing

    def append(self, records: Sequence[tuple[f.Record, memoryview]], now_us: int) -> None:
        """Write records, in row order and gapless, and return once they are durable.

        Raises SpoolFull or OSError: then none of them is, nothing written before is touched, and the next call starts a new segment, since
        after a failed flush nobody knows what the old descriptor has on disk.
        """
        buffers: list[bytes | memoryview] = []
        entries = []
        size = 0
        for record, body in records:
            taken = f.RECORD_HEADER_BYTES + record.length
            entries.append(f.entry_of(record, size))
            buffers += [f.pack_record(record, body), body, bytes(f.padded(taken) - taken)]
            size += f.padded(taken)
        if self._fd is not None and self._offset + size > self._capacity:
            self.roll()
        if self._fd is None:
            self._start(size, now_us)
        assert self._fd is not None
        try:
            write_all(self._storage, self._fd, buffers, self._offset)
            self._storage.fdatasync(self._fd)
        except OSError:
            self._abandon()
            raise
        segment = self.segments[-1]
        assert segment.entries is not None
        if not segment.entries:
            segment.first_commit_us = entries[0].commit_us
        segment.entries.extend(entry._replace(offset=entry.offset + self._offset) for entry in entries)
        segment.next = self.next = entries[-1].next
        segment.last_commit_us = entries[-1].commit_us
        self._offset += size
        self.written += size

    def roll(self) -> None:
        """Close the segment that is being written: footer, and the rest of its room given back. Never raises.

        A segment without footer is whole too; the next start reads it record by record and closes it then.
        """
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        segment = self.segments[-1]
        if not segment.entries:
            self._drop_empty(fd, segment)
            return
        try:
            segment.summary, segment.bytes = close_segment(self._storage, fd, segment.entries, self._offset)
            self.written += segment.bytes - self._offset
            self._remember(segment)
        except OSError:
            self._cut_off(fd, segment)
        self._close(fd)

    def remove(self, segments: Sequence[Segment]) -> int:
        """Unlink closed segments and return how many bytes that freed. Nobody may need their rows any more."""
        gone = set(map(id, segments))
        self.segments = tuple(segment for segment in self.segments if id(segment) not in gone)
        freed = 0
        for segment in segments:
            self._indexed.pop(segment.path, None)
            try:
                self._storage.unlink(segment.path)
            except FileNotFoundError:
                pass
            except OSError:
                continue  # the file comes back at the next start and is removed then
            freed += segment.bytes
        return freed

    def replace(self, old: Sequence[Segment], new: Segment) -> int:
        """Let `new` stand for the closed, neighbouring segments `old`, whose rows it holds; returns how many bytes that freed."""
        self.segments = tuple(
            new if segment is old[0] else segment for segment in self.segments if segment is old[0] or segment not in old
        )
        self.rewritten += 1
        return self.remove(old) - new.bytes

    def thinned(self) -> Iterator[Span]:
        """The row numbers that downsampling left without a row."""
        for segment in self.segments:
            yield from segment.thin

    def without_row(self, first: int, end: int, gone: Spans) -> int:
        """How many of the rows `first` … `end` - 1 downsampling took, less those in `gone`."""
        taken = 0
        for segment in self.segments:
            if segment.thin and segment.next > first and segment.first < end:
                for low, high in segment.thin:
                    low, high = max(low, first), min(high, end, segment.next)
                    taken += max(0, high - low) - (gone.within(low, high) if high > low else 0)
        return taken

    def _start(self, size: int, now_us: int) -> None:
        capacity = max(self._segment_bytes, f.SEGMENT_HEADER_BYTES + size)
        if not self._allows(capacity):
            raise SpoolFull(self.kind, capacity)
        attempt, path = 0, self.directory / segment_name(self.next)
        while self._storage.exists(path):  # an earlier attempt at the same rows that could not be removed
            attempt += 1
            path = self.directory / segment_name(self.next, attempt)
        fd = self._storage.create(path, capacity)
        header = f.SegmentHeader(self.kind, self.next, self._epoch, now_us, SCHEMA_VERSION, len(SCHEMAS[self.kind]))
        try:
            self._offset = write_all(self._storage, fd, [f.pack_segment_header(header)], 0)
            self._storage.fsync_directory(self.directory)
        except OSError:
            self._close(fd)
            self._unlink(path)
            raise
        self._fd, self._capacity = fd, capacity
        self.written += self._offset
        self.segments = (*self.segments, Segment(path, self.next, self.next, capacity, now_us, now_us, []))

    def _abandon(self) -> None:
        """Never write to this descriptor again. What was durable before stays; the next segment starts where that ends."""
        assert self._fd is not None
        fd, self._fd = self._fd, None
        segment = self.segments[-1]
        if segment.entries:
            self._cut_off(fd, segment)
            self._remember(segment)
            self._close(fd)
        else:
            self._drop_empty(fd, segment)

    def _drop_empty(self, fd: int, segment: Segment) -> None:
        self.segments = self.segments[:-1]
        self._close(fd)
        self._unlink(segment.path)

    def _cut_off(self, fd: int, segment: Segment) -> None:
        """Give back what is behind the last record. Should it fail, recovery finds out: the next segment's rows win."""
        try:
            self._storage.truncate(fd, self._offset)
            segment.bytes = self._offset
        except OSError:
            segment.bytes = self._capacity

    def _close(self, fd: int) -> None:
        try:
            self._storage.close(fd)
        except OSError:
            return  # what mattered was flushed, or is written again elsewhere

    def _unlink(self, path: Path) -> None:
        try:
            self._storage.unlink(path)
        except OSError:
            return

    # Reading

    def read(self, first: int, *, end: int, max_rows: int, max_bytes: int) -> list[tuple[int, pa.RecordBatch]]:
        """Rows from `first` on and below `end`, as (first row number, batch), at least one batch if any row is readable.

        `max_bytes` counts decoded rows without their dull columns. Missing rows are skipped; damaged ones are quarantined, noted in `gone`
        and skipped. Raises OSError where the disk cannot be asked.
        """
        while True:
            rewritten = self.rewritten
            found = self._read(first, end, max_rows, max_bytes)
            if rewritten == self.rewritten:
                return found

    def _read(self, first: int, end: int, max_rows: int, max_bytes: int) -> list[tuple[int, pa.RecordBatch]]:
        out: list[tuple[int, pa.RecordBatch]] = []
        rows, room, row = max_rows, max_bytes, first
        while row < end and (at := self._locate(row)) < len(segments := self.segments):
            segment = segments[at]
            for entry, batch in self._records(segment, row, min(end, segment.next), rows, room):
                start, stop = max(row, entry.first), min(entry.first + batch.num_rows, end, segment.next)
                per_row = max(1.0, entry.raw / max(1, entry.rows))
                count = min(stop - start, rows, max(0 if out else 1, int(room / per_row)))
                if count > 0:
                    whole = start == entry.first and count == batch.num_rows
                    out.append((start, batch if whole else batch.slice(start - entry.first, count)))
                    rows -= count
                    room -= round(count * per_row)
                if rows <= 0 or room <= 0 or start + count < stop:
                    return out
                row = entry.next
            row = max(row, segment.next)
        return out

    def _locate(self, row: int) -> int:
        """Position of the segment that holds `row` or the next row after it."""
        return bisect_right(self.segments, row, key=lambda segment: segment.next)

    def _records(self, segment: Segment, row: int, end: int, rows: int, room: int) -> Iterator[tuple[f.Entry, pa.RecordBatch]]:
        """Decoded records from the one that holds `row` on, read in few pieces, each large enough for `rows` and `room`."""
        try:
            entries = self._entries(segment)
            at = find(entries, row)
            while at < len(entries) and entries[at].first < end:
                kept = self._decoded.get((segment.path, entries[at].first))
                if kept is not None:
                    yield entries[at], kept
                    at += 1
                    continue
                piece: list[f.Entry] = []
                start = entries[at].offset
                while at < len(entries) and entries[at].first < end:
                    entry = entries[at]
                    if piece and (rows <= 0 or room <= 0 or entry.offset + entry.size - start > _READ_AHEAD):
                        break
                    piece.append(entry)
                    rows, room, at = rows - entry.rows, room - entry.raw, at + 1
                yield from self._decode(segment, [one for one in piece if one.first not in segment.bad])
        except FileNotFoundError:
            self._lose(segment)

    def _decode(self, segment: Segment, piece: Sequence[f.Entry]) -> Iterator[tuple[f.Entry, pa.RecordBatch]]:
        if not piece:
            return
        start = piece[0].offset
        fd = self._storage.open(segment.path)
        try:
            try:
                data = read_patiently(self._storage, fd, piece[-1].offset + piece[-1].size - start, start)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                data = b"".join(self._salvage(fd, one, after) for one, after in zip(piece, [*piece[1:], None], strict=True))
        finally:
            self._storage.close(fd)
        for entry in piece:
            at = entry.offset - start
            found = f.read_record(data, at)
            if found is None or found[0].first != entry.first or found[0].length + f.RECORD_HEADER_BYTES != entry.size:
                self._spoil(segment, entry, data[at : at + entry.size])
                continue
            try:
                batch = self._decoder.decode(self.kind, *found)
            except Undecodable:
                self._spoil(segment, entry, data[at : at + entry.size])
                continue
            self._decoded[segment.path, entry.first] = batch
            if len(self._decoded) > 2:
                self._decoded.popitem(last=False)
            yield entry, batch

    def _salvage(self, fd: int, entry: f.Entry, after: f.Entry | None) -> bytes:
        """One record's bytes up to the next record; zeros where the medium gives them back no more."""
        size = entry.size if after is None else after.offset - entry.offset
        try:
            return read_patiently(self._storage, fd, size, entry.offset).ljust(size, b"\0")
        except OSError:
            return bytes(size)

    def _entries(self, segment: Segment) -> list[f.Entry]:
        entries = segment.entries
        if entries is None:
            segment.entries = entries = load_entries(self._storage, segment)
            self._miss(segment, entries)
        if segment.summary is not None:
            self._remember(segment)
        return entries

    def _miss(self, segment: Segment, entries: Sequence[f.Entry]) -> None:
        """Rows that a closed segment had by its trailer, and has not: its index was damaged too, so that no record is there to be read."""
        if segment.summary is None or segment.missed or segment.summary.spanned == sum(entry.span for entry in entries):
            return
        segment.missed = True
        at = segment.first
        for entry in (*entries, None):
            first = segment.next if entry is None else min(entry.first, segment.next)
            if at < first:
                self.corrupt_records += 1
                self.gone.append((at, first))
            at = segment.next if entry is None else entry.next

    def _remember(self, segment: Segment) -> None:
        """Keep the indexes of the segments read last in memory, and no others: a month of backlog has millions of records."""
        self._indexed[segment.path] = segment
        self._indexed.move_to_end(segment.path)
        while len(self._indexed) > _INDEXES_KEPT:
            _, oldest = self._indexed.popitem(last=False)
            if oldest.summary is not None:
                oldest.entries = None

    def forget(self, segments: Sequence[Segment]) -> None:
        """Let go of the indexes of closed segments that are kept and seldom read: whoever reads one finds its index in the file."""
        for segment in segments:
            if segment.summary is not None:
                self._indexed.pop(segment.path, None)
                segment.entries = None

    def _spoil(self, segment: Segment, entry: f.Entry, data: bytes) -> None:
        segment.bad.add(entry.first)
        self.corrupt_records += 1
        self.gone.append((entry.first, min(entry.next, segment.next)))
        self._quarantine.keep_bytes(f"{self.kind}-{entry.first:020d}.bad", data)

    def _lose(self, segment: Segment) -> None:
        """Somebody removed the file under us."""
        if not segment.lost and segment in self.segments:
            segment.lost = True
            self.gone.append((segment.first, segment.next))
            segment.entries = []
