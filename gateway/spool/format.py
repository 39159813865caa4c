"""Every byte of a segment file: its header, its records' headers, the index and the trailer. Pure functions on bytes.

`docs/spool-format.md` describes the same for people who write a reader. Numbers are little endian; checksums are CRC-32C.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import pyarrow as pa
from awscrt.checksums import crc32c

FORMAT: Final = 1
SEGMENT_MAGIC: Final = b"GENBASEG"
INDEX_MAGIC: Final = b"GENBAIDX"
MARKER: Final = b"gRec"
ALIGNMENT: Final = 8
CODEC_PLAIN: Final = 0
CODEC_ZSTD: Final = 1
FLAG_DOWNSAMPLED: Final = 1

_SEGMENT: Final = struct.Struct("<8sHHHH16sQQqI")
_RECORD: Final = struct.Struct("<4sIIIQIIHBBIQQqqq")
_ENTRY: Final = struct.Struct("<QIIQIIqqq")
_TRAILER: Final = struct.Struct("<8sQIIIIQQqqqqQQ")
_CRC: Final = struct.Struct("<I")
SEGMENT_HEADER_BYTES: Final = _SEGMENT.size + 4
RECORD_HEADER_BYTES: Final = _RECORD.size
TRAILER_BYTES: Final = _TRAILER.size + 4
MAX_BODY_BYTES: Final = 0xFFFF_FFFF


class TooNew(ValueError):
    """The bytes are whole and were written by a newer format."""


class SegmentHeader(NamedTuple):
    """What the first 64 bytes of a segment say."""

    kind: str
    first: int
    epoch: int
    created_us: int
    schema: int = 1  # version of the kind's schema
    columns: int = 0  # number of columns that the kind had then
    level: int = 0  # how often these rows were downsampled; 0: as they were put


class Record(NamedTuple):
    """The header of one record. Row i of its body has row number `first` + i; the record stands for `span` row numbers.

    `rows` is smaller than `span` after downsampling: the numbers `first + rows` … `first + span - 1` are no more.
    `present` and `zero` are bit masks over the kind's columns in schema order: a column that is not present is all zero
    (false) where its bit of `zero` is set, else all null.
    """

    length: int  # bytes of the stored body
    raw: int  # bytes of the body before compression
    first: int
    span: int
    rows: int
    schema: int
    codec: int
    flags: int
    present: int
    zero: int
    commit_us: int  # wall time at which the rows were handed to the disk
    min_us: int  # of the rows' `time`
    max_us: int

    @property
    def next(self) -> int:
        """The first row number after this record."""
        return self.first + self.span


class Entry(NamedTuple):
    """Where a record lies in its segment, and what is known of it without reading it."""

    offset: int
    size: int  # header and body, without padding
    raw: int
    first: int
    span: int
    rows: int
    commit_us: int
    min_us: int
    max_us: int

    @property
    def next(self) -> int:
        """The first row number after this record."""
        return self.first + self.span


@dataclass(frozen=True, slots=True)
class Summary:
    """What a trailer says of its whole segment."""

    records: int
    first: int
    next: int
    first_commit_us: int
    last_commit_us: int
    min_us: int
    max_us: int
    rows: int
    spanned: int  # row numbers that records stand for; less than next - first when some are missing
    index_offset: int = 0
    index_length: int = 0
    index_raw: int = 0
    index_crc: int = 0


def checksum(data: bytes | bytearray | memoryview | pa.Buffer, before: int = 0) -> int:
    """CRC-32C of `data`, continued from `before`."""
    return int(crc32c(data, before))


def padded(size: int) -> int:
    """`size` rounded up to the alignment of records."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def pack_segment_header(header: SegmentHeader) -> bytes:
    """64 bytes."""
    body = _SEGMENT.pack(
        SEGMENT_MAGIC, FORMAT, header.schema, header.columns, header.level, header.kind.encode("ascii"),
        header.first, header.epoch, header.created_us, 0,
    )  # fmt: skip
    return body + _CRC.pack(checksum(body))


def unpack_segment_header(data: bytes) -> SegmentHeader | None:
    """None for bytes that are no header or a damaged one. Raises TooNew for a whole one of a newer format."""
    if len(data) < SEGMENT_HEADER_BYTES or data[:8] != SEGMENT_MAGIC:
        return None
    body = data[: _SEGMENT.size]
    if _CRC.unpack_from(data, _SEGMENT.size)[0] != checksum(body):
        return None
    _, version, schema, columns, level, kind, first, epoch, created_us, _ = _SEGMENT.unpack(body)
    if version > FORMAT:
        raise TooNew(f"segment format {version}, this version knows {FORMAT}")
    return SegmentHeader(kind.rstrip(b"\0").decode("ascii", "replace"), first, epoch, created_us, schema, columns, level)


def pack_record(record: Record, body: bytes | memoryview) -> bytes:
    """The 80 bytes that stand before `body`, its checksum included."""
    rest = _RECORD.pack(
        MARKER, 0, record.length, record.raw, record.first, record.span, record.rows, record.schema, record.codec, record.flags, 0,
        record.present, record.zero, record.commit_us, record.min_us, record.max_us,
    )[8:]  # fmt: skip
    return MARKER + _CRC.pack(checksum(body, checksum(rest))) + rest


def peek_record(data: bytes | memoryview, offset: int) -> Record | None:
    """The record header at `offset`, not yet held against its checksum; None where none starts or it reaches over the end."""
    if offset + RECORD_HEADER_BYTES > len(data) or data[offset : offset + 4] != MARKER:
        return None
    (
        _, _, length, raw, first, span, rows, schema, codec, flags, _, present, zero, commit_us, min_us, max_us,
    ) = _RECORD.unpack_from(data, offset)  # fmt: skip
    if offset + RECORD_HEADER_BYTES + length > len(data):
        return None
    return Record(length, raw, first, span, rows, schema, codec, flags, present, zero, commit_us, min_us, max_us)


def read_record(data: bytes | memoryview, offset: int) -> tuple[Record, memoryview] | None:
    """The record at `offset` and its stored body; None for anything that is not a whole, unchanged record."""
    record = peek_record(data, offset)
    if record is None:
        return None
    view = memoryview(data)
    end = offset + RECORD_HEADER_BYTES + record.length
    if checksum(view[offset + 8 : end]) != _CRC.unpack_from(data, offset + 4)[0]:
        return None
    if record.span == 0 or record.rows > record.span:
        return None
    return record, view[offset + RECORD_HEADER_BYTES : end]


def entry_of(record: Record, offset: int) -> Entry:
    """The index entry of a record that lies at `offset`."""
    return Entry(
        offset, RECORD_HEADER_BYTES + record.length, record.raw, record.first, record.span, record.rows,
        record.commit_us, record.min_us, record.max_us,
    )  # fmt: skip


def summarise(entries: Sequence[Entry]) -> Summary:
    """The summary of one or more entries in row order."""
    return Summary(
        records=len(entries),
        first=entries[0].first,
        next=entries[-1].next,
        first_commit_us=entries[0].commit_us,
        last_commit_us=entries[-1].commit_us,
        min_us=min(entry.min_us for entry in entries),
        max_us=max(entry.max_us for entry in entries),
        rows=sum(entry.rows for entry in entries),
        spanned=sum(entry.span for entry in entries),
    )


def pack_footer(entries: Sequence[Entry], offset: int) -> bytes:
    """Index and trailer, to be written at `offset` as the last bytes of the file."""
    raw = b"".join(_ENTRY.pack(*entry) for entry in entries)
    index: bytes = pa.Codec("zstd", compression_level=1).compress(raw, asbytes=True)
    s = summarise(entries)
    trailer = _TRAILER.pack(
        INDEX_MAGIC, offset, len(index), len(raw), s.records, checksum(index), s.first, s.next,
        s.first_commit_us, s.last_commit_us, s.min_us, s.max_us, s.rows, s.spanned,
    )  # fmt: skip
    return index + trailer + _CRC.pack(checksum(trailer))


def unpack_trailer(data: bytes) -> Summary | None:
    """The summary in the last bytes of a closed segment; None where there is none or it is damaged."""
    data = data[-TRAILER_BYTES:]
    if len(data) < TRAILER_BYTES or data[:8] != INDEX_MAGIC:
        return None
    if _CRC.unpack_from(data, _TRAILER.size)[0] != checksum(data[: _TRAILER.size]):
        return None
    (
        _, offset, length, raw, records, crc, first, next_, first_commit, last_commit, min_us, max_us, rows, spanned,
    ) = _TRAILER.unpack_from(data)  # fmt: skip
    return Summary(records, first, next_, first_commit, last_commit, min_us, max_us, rows, spanned, offset, length, raw, crc)


def unpack_index(data: bytes, summary: Summary) -> list[Entry] | None:
    """The index of a closed segment from the bytes that its trailer names; None when they are damaged."""
    if len(data) != summary.index_length or checksum(data) != summary.index_crc:
        return None
    raw = pa.Codec("zstd").decompress(data, summary.index_raw, asbytes=True)
    return [Entry(*fields) for fields in _ENTRY.iter_unpack(raw)]
