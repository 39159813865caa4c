"""One segment file on disk: finding what is in it, closing it, and saying what of it cannot be trusted. Blocking."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from . import format as f
from .spans import Span
from .storage import Storage, open_patiently, read_file, read_patiently, write_all

_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_NAME: Final = re.compile(r"(\d{20})(?:\.(\d+))?\.seg")


def segment_name(first: int, attempt: int = 0) -> str:
    """The name of the segment that starts at row `first`; a later attempt replaces what earlier ones hold from that row on."""
    return f"{first:020d}.{attempt}.seg" if attempt else f"{first:020d}.seg"


def parse_name(name: str) -> tuple[int, int] | None:
    """First row and attempt; None for a file that is no segment."""
    match = _NAME.fullmatch(name)
    return (int(match[1]), int(match[2] or 0)) if match else None


@dataclass(slots=True, eq=False)
class Segment:
    """A segment that holds rows `first` … `next` - 1, less what was lost.

    `entries` is None until somebody reads from a closed segment; those of the segment being written grow at the end only, and
    only with what is durable.
    """

    path: Path
    first: int
    next: int
    bytes: int  # on disk
    first_commit_us: int
    last_commit_us: int
    entries: list[f.Entry] | None
    summary: f.Summary | None = None
    bad: set[int] = field(default_factory=set)  # first rows of records that failed their checksum
    lost: bool = False  # the file is gone
    missed: bool = False  # rows that its damaged index hid were told
    level: int = 0  # how often its rows were downsampled
    thin: tuple[Span, ...] = ()  # row numbers that downsampling left without a row
    checked: bool = False  # every record was read once since the start
    full: bool = False  # downsampling it again would win nothing

    def commit_us(self, row: int) -> int:
        """When `row` was handed to the disk: exact where the index is in memory, else in proportion."""
        entries = self.entries
        if entries:
            return entries[min(find(entries, row), len(entries) - 1)].commit_us
        part = (row - self.first) / max(1, self.next - self.first)
        return self.first_commit_us + round(part * (self.last_commit_us - self.first_commit_us))


def thinned(entries: Sequence[f.Entry]) -> tuple[Span, ...]:
    """The row numbers that records stand for without holding a row."""
    return tuple((entry.first + entry.rows, entry.next) for entry in entries if entry.rows < entry.span)


def find(entries: Sequence[f.Entry], row: int) -> int:
    """Position of the first record that holds `row` or a later one."""
    return bisect_right(entries, row, key=lambda entry: entry.next)


class Scan(NamedTuple):
    """What a walk over a segment's bytes found."""

    header: f.SegmentHeader | None
    entries: list[f.Entry]
    damaged: list[tuple[int, int]]  # byte ranges between whole records
    torn: int  # bytes that are not zero after the last whole record
    end: int  # where the last whole record ends, padding included


def scan(data: bytes, first: int) -> Scan:
    """Walk over the records of a segment that was not closed, or whose footer is damaged.

    Row numbers must rise from `first` on. Where something is not a record, the walk goes on at the next whole one: so one flipped bit
    costs one record. Raises format.TooNew.
    """
    header = f.unpack_segment_header(data)
    entries: list[f.Entry] = []
    damaged: list[tuple[int, int]] = []
    expected, at = first, f.SEGMENT_HEADER_BYTES
    while (found := _next_record(data, at, expected)) is not None:
        record, start = found
        if start > at:
            damaged.append((at, start))
        entry = f.entry_of(record, start)
        entries.append(entry)
        expected, at = entry.next, f.padded(start + entry.size)
    torn = 0 if data[at : at + 4] == _ZSTD_MAGIC else len(data[at:].rstrip(b"\0"))  # an index whose trailer is damaged is no data
    return Scan(header, entries, damaged, torn, at)


def _next_record(data: bytes, at: int, expected: int) -> tuple[f.Record, int] | None:
    """The first whole record from `at` on, and its offset."""
    while (at := data.find(f.MARKER, at)) >= 0:
        if at % f.ALIGNMENT == 0:
            found = f.read_record(data, at)
            if found is not None and found[0].first >= expected:
                return found[0], at
        at += 1
    return None


def read_summary(storage: Storage, fd: int) -> tuple[f.SegmentHeader, f.Summary] | None:
    """Header and trailer of a closed segment; None where either is missing or damaged. Raises format.TooNew."""
    size = storage.size(fd)
    header = f.unpack_segment_header(read_patiently(storage, fd, f.SEGMENT_HEADER_BYTES, 0))
    summary = f.unpack_trailer(read_patiently(storage, fd, f.TRAILER_BYTES, max(0, size - f.TRAILER_BYTES)))
    return None if header is None or summary is None else (header, summary)


def load_entries(storage: Storage, segment: Segment) -> list[f.Entry]:
    """The index of a closed segment, from its footer or, where that is damaged, from its records. Raises OSError."""
    summary = segment.summary
    if summary is not None:
        fd = open_patiently(storage, segment.path)
        try:
            found = f.unpack_index(read_patiently(storage, fd, summary.index_length, summary.index_offset), summary)
        finally:
            storage.close(fd)
        if found is not None:
            return found
    return scan(read_file(storage, segment.path), segment.first).entries


def close_segment(storage: Storage, fd: int, entries: Sequence[f.Entry], end: int) -> tuple[f.Summary, int]:
    """Write the footer behind the last record and give back the rest of the file; returns summary and size. Raises OSError.

    Neither is flushed: the records are, and a start that finds a footer torn reads the records instead.
    """
    footer = f.pack_footer(entries, end)
    write_all(storage, fd, [footer], end)
    storage.truncate(fd, end + len(footer))
    summary = f.unpack_trailer(footer)
    assert summary is not None
    return summary, end + len(footer)
