"""Downsampling on disk: some closed, neighbouring segments become one that holds windows of their readings. Blocking.

The new file is whole and durable under its final name before anything of the old ones goes. A start that finds both lets the new one win
(`recovery`), so that a crash between any two steps leaves the rows once: as they were, or in windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa

from schemas.kinds import SCHEMAS, Kind

from . import format as f
from .codec import SCHEMA_VERSION, Decoder, Encoder, Undecodable
from .recovery import PART
from .segment import Segment, load_entries, parse_name, segment_name, thinned
from .spans import Span
from .storage import Storage, read_patiently, write_all
from .windows import WIDTHS_US, thin

_CHUNK_ROWS: Final = 500_000
_WORTH_IT: Final = 0.7
"""Less than this share of the bytes must be left, else it is left alone."""


class NotWorthIt(Exception):
    """Windows of these rows would take about as much room as the rows."""


class Rewrite:
    """Downsamples one run of segments. `prepare` reads and thins, `write` puts the new file beside the old ones."""

    def __init__(self, kind: Kind, directory: Path, run: Sequence[Segment], *, storage: Storage, epoch: int) -> None:
        self.run, self.first, self.next = tuple(run), run[0].first, run[-1].next
        self.damaged = False
        """A record could not be read: nothing is rewritten, reading will tell what is wrong with it."""
        self._kind, self._directory, self._storage, self._epoch = kind, directory, storage, epoch
        self._decoder = Decoder()
        self._records: list[tuple[f.Record, memoryview]] = []
        self.level = max(segment.level for segment in run) + 1

    def prepare(self, borders: Sequence[int], most: int) -> None:
        """Read, thin and encode, record for record; no record reaches over a row in `borders`, where somebody stands.

        Raises NotWorthIt, also where more than `most` bytes would be left of several segments; OSError where the disk cannot be asked.
        """
        encoder = Encoder(self._decoder)
        width: int | None = None
        level = min(self.level, len(WIDTHS_US))
        for first, end, batch, commit_us in self._pieces(sorted(borders)):
            if width is None:
                width = next((one for one in WIDTHS_US[level - 1 :] if _pays(batch, one)), WIDTHS_US[-1])
            found = thin(batch, width)
            made = encoder.encode(self._kind, [found], first, commit_us)
            flags = f.FLAG_DOWNSAMPLED if found.num_rows < end - first else 0
            self._records.append((made.record._replace(span=end - first, flags=flags), made.body))
        self.level = level if width is None else max(self.level, WIDTHS_US.index(width) + 1)
        size = sum(f.padded(f.RECORD_HEADER_BYTES + record.length) for record, _ in self._records)
        most = most if len(self.run) > 1 else size
        if self.damaged or not self._records or size > min(most, _WORTH_IT * sum(segment.bytes for segment in self.run)):
            raise NotWorthIt

    def reaches_over(self, row: int) -> bool:
        """Whether a new record stands for rows on both sides of `row`."""
        return any(record.first < row < record.next for record, _ in self._records)

    def lost(self, first: int) -> list[Span]:
        """Row numbers from `first` on that will have no row any more, those that had none before among them."""
        return [(max(first, r.first + r.rows), r.next) for r, _ in self._records if r.next > max(first, r.first + r.rows)]

    def write(self) -> Segment:
        """The new segment, durable under its name. Raises OSError: then there is none."""
        attempt = 1 + max((parse_name(segment.path.name) or (0, 0))[1] for segment in self.run)
        path = self._directory / segment_name(self.first, attempt)
        while self._storage.exists(path):
            attempt += 1
            path = self._directory / segment_name(self.first, attempt)
        part = path.with_name(path.name.removesuffix(".seg") + PART)
        if self._storage.exists(part):
            self._storage.unlink(part)
        buffers, entries, end = self._layout()
        footer = f.pack_footer(entries, end)
        fd = self._storage.create(part, end + len(footer))
        try:
            write_all(self._storage, fd, [*buffers, footer], 0)
            self._storage.fdatasync(fd)
        except OSError:
            self._storage.close(fd)
            self._storage.unlink(part)
            raise
        self._storage.close(fd)
        self._storage.rename(part, path)
        try:
            self._storage.fsync_directory(self._directory)
        except OSError:
            self._storage.fsync_directory(self._directory)  # once more: the name is there, and the old files must outlive it
        summary = f.unpack_trailer(footer)
        assert summary is not None
        return Segment(
            path, summary.first, summary.next, end + len(footer), summary.first_commit_us, summary.last_commit_us, None, summary,
            level=self.level, thin=thinned(entries),
        )  # fmt: skip

    def _layout(self) -> tuple[list[bytes | memoryview], list[f.Entry], int]:
        """All bytes before the footer, the index, and where they end."""
        columns = len(SCHEMAS[self._kind])
        commit_us = self._records[0][0].commit_us
        header = f.SegmentHeader(self._kind, self.first, self._epoch, commit_us, SCHEMA_VERSION, columns, self.level)
        buffers: list[bytes | memoryview] = [f.pack_segment_header(header)]
        entries, at = [], f.SEGMENT_HEADER_BYTES
        for record, body in self._records:
            entry = f.entry_of(record, at)
            entries.append(entry)
            buffers += [f.pack_record(record, body), body, bytes(f.padded(entry.size) - entry.size)]
            at += f.padded(entry.size)
        return buffers, entries, at

    def _pieces(self, borders: Sequence[int]) -> Iterator[tuple[int, int, pa.RecordBatch, int]]:
        """(first row number, number after the last, the rows held of them, commit time): gapless, and bounded in rows."""
        parts: list[pa.RecordBatch] = []
        first = end = rows = commit_us = 0
        for start, stop, batch, committed in self._cut(borders):
            if parts and (start != end or rows + batch.num_rows > _CHUNK_ROWS or any(first < row <= start for row in borders)):
                yield first, end, pa.concat_batches(parts), commit_us
                parts, rows = [], 0
            if not parts:
                first, commit_us = start, committed
            parts.append(batch)
            rows, end = rows + batch.num_rows, stop
        if parts:
            yield first, end, pa.concat_batches(parts), commit_us

    def _cut(self, borders: Sequence[int]) -> Iterator[tuple[int, int, pa.RecordBatch, int]]:
        """The records, cut where somebody stands among their rows."""
        for entry, limit, batch in self._decoded():
            end = min(entry.next, limit)
            batch = batch.slice(0, min(batch.num_rows, end - entry.first))
            at = 0
            for border in borders:
                if entry.first + at < border < entry.first + batch.num_rows:
                    yield entry.first + at, border, batch.slice(at, border - entry.first - at), entry.commit_us
                    at = border - entry.first
            yield entry.first + at, end, batch.slice(at), entry.commit_us

    def _decoded(self) -> Iterator[tuple[f.Entry, int, pa.RecordBatch]]:
        """Every record of the run, with the row before which its segment ends."""
        for segment in self.run:
            entries = segment.entries if segment.entries is not None else load_entries(self._storage, segment)
            fd = self._storage.open(segment.path)
            try:
                for entry in entries:
                    if entry.first >= segment.next or self.damaged:
                        break
                    found = f.read_record(read_patiently(self._storage, fd, entry.size, entry.offset), 0)
                    try:
                        if found is None or found[0].first != entry.first:
                            raise Undecodable
                        yield entry, segment.next, self._decoder.decode(self._kind, *found)
                    except Undecodable:
                        self.damaged = True
            finally:
                self._storage.close(fd)


def _pays(batch: pa.RecordBatch, width_us: int) -> bool:
    return bool(2 * thin(batch, width_us).num_rows <= batch.num_rows)
