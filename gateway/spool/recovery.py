"""What a start makes of a log's directory: closed segments by their footers, the tail record by record, damage put aside. Blocking.

Nothing here refuses to start. What cannot be trusted goes to the quarantine, what is missing is known by its row numbers, and every
segment that was being written is cut behind its last whole record, flushed and closed, so that nobody ever appends to old bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final

from schemas.kinds import SCHEMAS, Kind

from . import format as f
from .codec import SCHEMA_VERSION
from .quarantine import Quarantine
from .segment import Scan, Segment, close_segment, load_entries, parse_name, read_summary, scan, thinned
from .spans import Span, Spans
from .storage import Storage, open_patiently, read_patiently, write_all

PART: Final = ".seg.part"
"""How the name of a segment ends that is not finished."""

_FLUSH_FAILED: Final = "could not be flushed or closed"


@dataclass(slots=True)
class KindRecovery:
    """What a start found of one kind's log.

    `missing` are row spans [first, end) that were numbered and are no more, found now for the first time; `quarantined` names of
    files put aside; `discarded` names of segments that held nothing; `truncated_bytes` torn writes cut off (never acknowledged).
    """

    first_row: int = 0
    next_row: int = 0
    last_durable_us: int | None = None
    truncated_bytes: int = 0
    quarantined: list[str] = field(default_factory=list)
    discarded: list[str] = field(default_factory=list)
    missing: list[Span] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)  # disk errors on the way, in words


def recover(
    kind: Kind, directory: Path, *, storage: Storage, quarantine: Quarantine, epoch: int, high_water: int
) -> tuple[list[Segment], KindRecovery]:
    """The readable segments of a log in row order, all closed, and what was found.

    `high_water` is the lowest row number that may be given next, as far as anybody outside has seen rows. Raises format.TooNew for a log of a
    newer version, OSError where the directory cannot be read.
    """
    report = KindRecovery()
    before = len(quarantine.files)
    listed = storage.list_directory(directory)
    for name in listed:
        if name.endswith(PART):
            _Loader(kind, directory / name, 0, storage, quarantine, epoch, report).discard()
    names = sorted((parsed, name) for name in listed if (parsed := parse_name(name)))
    loaded: list[tuple[int, int, Segment]] = []
    inner: dict[Path, list[Span]] = {}
    for position, ((first, attempt), name) in enumerate(names):
        newest = position == len(names) - 1
        found = _Loader(kind, directory / name, first, storage, quarantine, epoch, report).load(newest=newest)
        if found is not None:
            segment, inner[directory / name] = found
            loaded.append((segment.first, attempt, segment))
    loaded.sort(key=lambda one: one[:2])
    current = _without_superseded([segment for _, _, segment in loaded], storage, report)
    segments = _without_overlap(kind, current, quarantine)
    # What a segment lacks that another one has taken the place of is missing nowhere.
    holes, end = [], 0
    for segment in segments:
        holes += [(max(low, end), min(high, segment.next)) for low, high in inner[segment.path]]
        end = segment.next
    for one, other in pairwise(segments):
        holes.append((one.next, other.first))
    holes = [(low, high) for low, high in [*holes, (end, high_water)] if low < high]
    report.missing = list(Spans(holes))
    report.next_row = max(end, high_water)
    report.first_row = segments[0].first if segments else report.next_row
    report.last_durable_us = segments[-1].last_commit_us if segments else None  # the newest, not the latest: clocks are set back
    report.quarantined = quarantine.files[before:]
    return segments, report


def _without_superseded(segments: Sequence[Segment], storage: Storage, report: KindRecovery) -> list[Segment]:
    """Without those whose rows another one holds downsampled: the process died before it had removed them."""
    newer = [one for one in segments if one.level]
    kept = []
    for segment in segments:
        if any(one.level > segment.level and one.first <= segment.first and segment.next <= one.next for one in newer):
            try:
                storage.unlink(segment.path)
            except OSError as error:
                report.trouble.append(f"{segment.path.name}: {error.strerror or error}")
        else:
            kept.append(segment)
    return kept


def _without_overlap(kind: Kind, segments: Sequence[Segment], quarantine: Quarantine) -> list[Segment]:
    """A later segment's rows win: it was started at the first row whose write had failed in the one before."""
    kept: list[Segment] = []
    for segment in segments:
        while kept and kept[-1].first >= segment.first:
            quarantine.take_file(kept[-1].path, f"{kind}-{kept.pop().path.name}")
        if kept:
            kept[-1].next = min(kept[-1].next, segment.first)
        kept.append(segment)
    return kept


@dataclass(slots=True)
class _Loader:
    """Looks at one segment file."""

    kind: Kind
    path: Path
    first: int  # by its name
    storage: Storage
    quarantine: Quarantine
    epoch: int
    report: KindRecovery

    def load(self, *, newest: bool) -> tuple[Segment, list[Span]] | None:
        """The segment and its holes; None when nothing in it is usable."""
        try:
            fd = open_patiently(self.storage, self.path)
        except OSError as error:
            self._unusable(error)
            return None
        try:
            size = self.storage.size(fd)
            found = read_summary(self.storage, fd)
            if found is not None and found[0].kind == self.kind:
                self._check_version(found[0])
                return self._closed(found[0], found[1], size)
            data = read_patiently(self.storage, fd, size, 0)
        except OSError as error:
            self._unusable(error)
            return None
        finally:
            self.storage.close(fd)
        return self._open(data, newest=newest)

    def _unusable(self, error: OSError) -> None:
        """Left where it is: the next start may be able to read it."""
        self.report.trouble.append(f"{self.path.name}: {error.strerror or error}")

    def _closed(self, header: f.SegmentHeader, summary: f.Summary, size: int) -> tuple[Segment, list[Span]]:
        segment = Segment(
            self.path, summary.first, summary.next, size, summary.first_commit_us, summary.last_commit_us, None, summary,
            level=header.level,
        )  # fmt: skip
        holes: list[Span] = []
        if summary.rows < summary.next - summary.first:
            try:
                entries = load_entries(self.storage, segment)
                holes, segment.thin = _holes(entries), thinned(entries)
            except OSError as error:
                self.report.trouble.append(f"{self.path.name}: {error.strerror or error}")
        return segment, holes

    def _open(self, data: bytes, *, newest: bool) -> tuple[Segment, list[Span]] | None:
        header = f.unpack_segment_header(data)
        if header is not None and header.kind != self.kind:
            self.quarantine.take_file(self.path, f"{self.kind}-{self.path.name}")
            return None
        if header is not None:
            self._check_version(header)
        result = scan(data, header.first if header is not None else self.first)
        if not result.entries:
            blank = not data.strip(b"\0")
            if blank or (header is not None and (newest or not result.torn)):
                # Born and never used, or its first write was torn.
                self.report.truncated_bytes += result.torn
                self.report.discarded.append(self.path.name)
                self._unlink()
            else:
                self.quarantine.take_file(self.path, f"{self.kind}-{self.path.name}")
            return None
        for start, end in result.damaged:
            self.quarantine.keep_bytes(f"{self.kind}-{self.path.stem}-{start}.bad", data[start:end])
        self.report.truncated_bytes += result.torn
        segment = self._close(result)
        holes = _holes(result.entries)
        expected = header.first if header is not None else self.first
        if segment.first > expected:
            holes.append((expected, segment.first))
        return segment, holes

    def _check_version(self, header: f.SegmentHeader) -> None:
        """Rows of a newer schema would be taken for damage; nobody may throw them away for an old version's sake."""
        if header.schema > SCHEMA_VERSION or header.columns > len(SCHEMAS[self.kind]):
            raise f.TooNew(f"{self.kind} rows have columns of a newer schema")

    def _close(self, result: Scan) -> Segment:
        """Cut the file behind its last whole record, flush it (what was read back may never have been) and give it its footer."""
        entries = result.entries
        size, summary = result.end, None
        try:
            fd = self.storage.open(self.path, write=True)
            try:
                if result.header is None:
                    header = f.SegmentHeader(
                        self.kind, entries[0].first, self.epoch, entries[0].commit_us, SCHEMA_VERSION, len(SCHEMAS[self.kind])
                    )
                    write_all(self.storage, fd, [f.pack_segment_header(header)], 0)
                self.storage.truncate(fd, result.end)
                self.storage.fdatasync(fd)
                summary, size = close_segment(self.storage, fd, entries, result.end)
                self.storage.fdatasync(fd)
            finally:
                self.storage.close(fd)
        except OSError as error:
            self.report.trouble.append(f"{self.path.name} {_FLUSH_FAILED}: {error.strerror or error}")
        return Segment(
            self.path, entries[0].first, entries[-1].next, size, entries[0].commit_us, entries[-1].commit_us,
            None if summary is not None else entries, summary, level=0 if result.header is None else result.header.level,
            thin=thinned(entries),
        )  # fmt: skip

    def discard(self) -> None:
        """Remove a file that was being made when the process died."""
        self.report.discarded.append(self.path.name)
        self._unlink()

    def _unlink(self) -> None:
        try:
            self.storage.unlink(self.path)
        except OSError as error:
            self.report.trouble.append(f"{self.path.name}: {error.strerror or error}")


def _holes(entries: Sequence[f.Entry]) -> list[Span]:
    return [(one.next, other.first) for one, other in pairwise(entries) if one.next < other.first]
