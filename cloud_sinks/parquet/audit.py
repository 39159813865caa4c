"""Looks at every file of a lake: which count, whether each is what it says of itself, and what else lies about.

`quick` reads footers; `deep` reads every row and knows the row numbers of each file. Only reads. Blocking.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final, Literal, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.kinds import Kind
from schemas.lake import COLUMNS, SCHEMA_VERSION, TEMPORARY, LakeFile
from schemas.manifest import MANIFEST, Manifest, Source, current, lake_files, sources_of

from .checksum import checksum
from .columns import lake_schema
from .file import read_metadata
from .merge import tables, whose
from .order import Ordered
from .rows import clock_is_impossible
from .shelf import Entry, Shelf

Level = Literal["problem", "note"]
Span = tuple[int, int]
Runs = npt.NDArray[np.int64]
"""Row numbers as runs: int64 (n, 2), first and last of each, ascending and disjoint."""
_FRESH_US: Final = 3_600_000_000
"""What looks like debris and is younger may still be somebody's work."""
_DAY_US: Final = 86_400_000_000
_BATCH: Final = 65_536
_TRIES: Final = 5
_EPOCH: Final = date(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about the lake that a person wants to know. `code` is constant; `spans` are row numbers, both ends included."""

    code: str
    level: Level
    message: str
    path: str = ""
    kind: str = ""
    gateway: str = ""
    epoch: int = 0
    spans: tuple[Span, ...] = ()
    rows: int = 0

    def as_json(self) -> dict[str, object]:
        """For programs; every key is always there."""
        return {
            "code": self.code, "level": self.level, "message": self.message, "path": self.path, "kind": self.kind,
            "gateway": self.gateway, "epoch": self.epoch, "spans": [list(span) for span in self.spans], "rows": self.rows,
        }  # fmt: skip


@dataclass(slots=True)
class Counted:
    """A file that counts. `sources`: the spans it answers for; `rows` as read; `runs` its row numbers, where rows were read."""

    file: LakeFile
    size: int
    rows: int
    sources: tuple[Source, ...]
    readable: bool = True
    runs: Runs | None = None


@dataclass(slots=True)
class Audit:
    """What was found."""

    files: list[Counted] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def of_log(self, kind: Kind, gateway: str, epoch: int) -> list[Counted]:
        """The files of one gateway's log, in order of their rows."""
        mine = [
            one
            for one in self.files
            if (one.file.span.kind, one.file.span.gateway, one.file.span.epoch) == (kind, gateway, epoch)
        ]
        return sorted(mine, key=lambda one: (one.file.span.first, one.file.path()))


def audit(shelf: Shelf, *, kinds: Collection[Kind] = tuple(COLUMNS), deep: bool, now_us: int) -> Audit:
    """Look at every folder of the given kinds. Raises what the shelf raises where the place itself cannot be read."""
    found = Audit()
    at_root = shelf.entries("")
    for entry in at_root:
        if entry.folder and entry.name.startswith(TEMPORARY):
            found.findings += _unfinished(entry.name, shelf.entries(entry.name), now_us)
    for kind in kinds:
        for folder in folders_of(shelf, kind):
            for attempt in range(_TRIES):
                try:
                    seen = _look_at(shelf, folder, deep=deep, now_us=now_us)
                except FileNotFoundError:  # removed since it was listed: compaction is at work
                    if attempt == _TRIES - 1:
                        raise
                else:
                    found.files += seen.files
                    found.findings += seen.findings
                    break
        for gateway, epoch in sorted({(one.file.span.gateway, one.file.span.epoch) for one in found.files}):
            found.findings += _doubles(found.of_log(kind, gateway, epoch), deep=deep)
    return found


def folders_of(shelf: Shelf, kind: str) -> Iterator[str]:
    """`kind/site=…/date=…` of every folder that can hold data."""
    for site in shelf.entries(kind):
        if site.folder and site.name.startswith("site="):
            for day in shelf.entries(f"{kind}/{site.name}"):
                if day.folder and day.name.startswith("date="):
                    yield f"{kind}/{site.name}/{day.name}"


def _look_at(shelf: Shelf, folder: str, *, deep: bool, now_us: int) -> Audit:
    found = Audit()
    entries = {entry.name: entry for entry in shelf.entries(folder) if not entry.folder}
    manifest: Manifest | None = None
    merged = [file for file in lake_files(folder, entries) if file.merged]
    if MANIFEST in entries or merged:
        there = shelf.read_small(f"{folder}/{MANIFEST}")
        try:
            manifest = None if there is None else Manifest.unpack(there[0])
            counting = current(folder, entries, manifest)
        except ValueError as error:
            message = f"the manifest cannot be read, so that nobody knows which files of this folder count: {error}"
            found.findings.append(Finding("unreadable_manifest", "problem", message, f"{folder}/{MANIFEST}"))
            return found
    else:
        counting = current(folder, entries, None)
    said = {one.file: one for one in manifest.merged} if manifest is not None else {}
    for file in counting:
        path = file.path()
        name = path.rpartition("/")[2]
        size = entries[name].size if name in entries else shelf.size(path)
        if size is None:
            if name in said:
                message = f"the manifest names {name}, which is not there: its {said[name].rows:,} rows are lost"
                spans = tuple((source.first, source.last) for source in said[name].sources)
                found.findings.append(_about(file, "missing_file", message, spans=spans, rows=said[name].rows))
            continue  # else it was merged since it was listed
        examined = _examine(shelf, file, size, found.findings, deep=deep)
        if name in said and (examined.sources, examined.rows) != (said[name].sources, said[name].rows) and examined.readable:
            found.findings.append(
                _about(file, "wrong_metadata", "the file and the manifest name other sources or numbers of rows")
            )
        found.files.append(examined)
    found.findings += _debris(folder, entries, manifest, {file.path() for file in counting}, now_us)
    return found


def _examine(shelf: Shelf, file: LakeFile, size: int, findings: list[Finding], *, deep: bool) -> Counted:
    """Whether a file is what it says. What it says and what its name says must agree with what is in it."""
    span, path = file.span, file.path()
    examined = Counted(file, size, 0, () if file.merged else (Source(span.first, span.last, 0, ""),))
    try:
        if deep:
            local = shelf.fetched(path)
            try:
                with pq.ParquetFile(local, page_checksum_verification=True) as parquet:
                    about = read_metadata(local)
                    _check_footer(file, parquet, about, examined, findings)
                    _check_rows(file, parquet, about, examined, findings)
            finally:
                shelf.let_go(path)
        else:
            with shelf.reader(path) as source, pq.ParquetFile(source) as parquet:
                about = {k.decode(): v.decode() for k, v in (parquet.metadata.metadata or {}).items() if k.startswith(b"genba.")}
                _check_footer(file, parquet, about, examined, findings)
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException, ValueError) as error:
        examined.readable = False
        findings.append(_about(file, "unreadable_file", f"cannot be read: {_first_line(error)}"))
    return examined


def _check_footer(
    file: LakeFile, parquet: pq.ParquetFile, about: Mapping[str, str], examined: Counted, findings: list[Finding]
) -> None:
    span, rows = file.span, parquet.metadata.num_rows
    examined.rows = rows
    if int(about.get("genba.schema_version", SCHEMA_VERSION)) > SCHEMA_VERSION:
        findings.append(
            _about(file, "newer_version", "written by a newer version of genba: only what this one knows was looked at", "note")
        )
    expected = {
        "kind": span.kind, "site": file.site, "gateway": span.gateway, "epoch": str(span.epoch), "first": str(span.first), "last": str(span.last),
    }  # fmt: skip
    wrong = [
        f"{key} {about.get(f'genba.{key}')!r}, not {value!r}"
        for key, value in expected.items()
        if about.get(f"genba.{key}") != value
    ]
    if wrong:
        findings.append(_about(file, "wrong_metadata", "the file says of itself " + ", ".join(wrong)))
    if about.get("genba.rows") != str(rows):
        findings.append(_about(file, "wrong_row_count", f"holds {rows:,} rows and says {about.get('genba.rows')}", rows=rows))
    if file.merged:
        examined.sources = sources_of(about.get("genba.sources", "[]"))
        if not examined.sources or sum(source.rows for source in examined.sources) != rows:
            findings.append(_about(file, "wrong_metadata", "its sources do not add up to its rows"))
    else:
        examined.sources = (Source(span.first, span.last, rows, about.get("genba.checksum", "")),)
        if rows > len(span):
            findings.append(_about(file, "wrong_row_count", f"holds {rows:,} rows of a span of {len(span):,}", rows=rows))
    schema = lake_schema(span.kind)
    there = parquet.schema_arrow
    odd = [
        f"{f.name}: {there.field(f.name).type}" for f in schema if f.name in there.names and there.field(f.name).type != f.type
    ]
    lacking = [name for name in ("time", "gateway", "epoch", schema.names[-1]) if name not in there.names]
    if odd or lacking:
        findings.append(
            _about(file, "wrong_columns", f"columns of other types ({', '.join(odd)}) or none ({', '.join(lacking)})")
        )
        return
    bounds = _bounds(parquet.metadata)
    number = bounds.get(schema.names[-1])
    if number is not None and not (span.first <= number[0] and number[1] <= span.last):
        findings.append(_about(file, "wrong_rows", f"holds rows {number[0]} to {number[1]}, outside of its span"))
    if (
        bounds.get("gateway", (span.gateway,) * 2) != (span.gateway,) * 2
        or bounds.get("epoch", (span.epoch,) * 2) != (span.epoch,) * 2
    ):
        findings.append(_about(file, "wrong_gateway", f"holds rows of {bounds['gateway'][0]}, epoch {bounds['epoch'][0]}"))


def _bounds(metadata: pq.FileMetaData) -> dict[str, tuple[Any, Any]]:
    """Least and greatest value of the flat columns that have statistics in every row group."""
    found: dict[str, tuple[Any, Any]] = {}
    for column in range(metadata.num_columns):
        name = metadata.schema.column(column).path
        if name not in ("gateway", "epoch", "seq", "row"):
            continue
        stats = [metadata.row_group(group).column(column).statistics for group in range(metadata.num_row_groups)]
        if stats and all(one is not None and one.has_min_max for one in stats):
            found[name] = (min(one.min for one in stats), max(one.max for one in stats))
    return found


def _check_rows(
    file: LakeFile, parquet: pq.ParquetFile, about: Mapping[str, str], examined: Counted, findings: list[Finding]
) -> None:
    """Every row: checksum, whose it is, its number, its date, the order."""
    kind, schema = file.span.kind, lake_schema(file.span.kind)
    total, numbers, foreign, misplaced = 0, [], 0, 0
    ordered = Ordered(schema.names[-1])
    sorted_ = True
    for table in tables(parquet, kind, _BATCH):
        total += int(checksum(kind, table), 16)
        numbers.append(table.column(schema.names[-1]).combine_chunks().to_numpy())
        foreign += table.num_rows - whose(table, file.span.gateway, file.span.epoch)
        misplaced += _misplaced(table, file.date)
        sorted_ = ordered.next(table) and sorted_
    said = about.get("genba.checksum")
    if said != f"{total % 2**64:016x}":
        message = f"its rows have the checksum {total % 2**64:016x}, it says {said}: rows were changed after they were written"
        findings.append(_about(file, "wrong_checksum", message, rows=examined.rows))
    if foreign:
        findings.append(_about(file, "wrong_gateway", f"{foreign:,} rows are of another gateway or epoch", rows=foreign))
    if misplaced:
        findings.append(_about(file, "wrong_partition", f"{misplaced:,} rows belong to another date", rows=misplaced))
    if not sorted_:
        findings.append(_about(file, "unsorted", "rows are not in order of tag, time and row number"))
    number = np.sort(np.concatenate(numbers)) if numbers else np.empty(0, np.int64)
    twice = int((number[1:] == number[:-1]).sum())
    if twice:
        findings.append(_about(file, "doubled_rows", f"{twice:,} row numbers come twice in one file", rows=twice))
    examined.runs = _runs(np.unique(number))
    for source in examined.sources:
        inside = _within(examined.runs, source.first, source.last)
        if inside != source.rows and not twice:
            message = f"rows {source.first} to {source.last}: {inside:,} are there, its sources say {source.rows:,}"
            findings.append(_about(file, "wrong_row_count", message, spans=((source.first, source.last),), rows=inside))


def _misplaced(table: pa.Table, day: date) -> int:
    """Rows whose time is of another date, but for those whose clock was impossible: they lie where they arrived."""
    time_us = table.column("time").cast(pa.int64()).to_numpy()
    lag = table.column("lag").fill_null(0).to_numpy() if "lag" in table.column_names else None
    elsewhere = time_us // _DAY_US != (day - _EPOCH).days
    return int((elsewhere & ~clock_is_impossible(time_us, lag)).sum()) if elsewhere.any() else 0


def _runs(numbers: npt.NDArray[np.int64]) -> Runs:
    if not len(numbers):
        return np.empty((0, 2), np.int64)
    breaks = np.flatnonzero(numbers[1:] != numbers[:-1] + 1)
    return np.stack([numbers[np.r_[0, breaks + 1]], numbers[np.r_[breaks, len(numbers) - 1]]], axis=1)


def _within(runs: Runs, first: int, last: int) -> int:
    return int(np.maximum(0, np.minimum(runs[:, 1], last) - np.maximum(runs[:, 0], first) + 1).sum())


def _doubles(files: list[Counted], *, deep: bool) -> Iterator[Finding]:
    """Rows that are in the lake more than once: by their numbers where they were read, else by the spans that files answer for."""
    if not files:
        return
    if deep:
        have = [one for one in files if one.runs is not None and len(one.runs)]
        if not have:
            return
        runs = np.concatenate([cast(Runs, one.runs) for one in have])
        of = np.repeat(np.arange(len(have)), [len(cast(Runs, one.runs)) for one in have])
        order = np.lexsort((of, runs[:, 0]))
        runs, of = runs[order], of[order]
        reach = np.maximum.accumulate(runs[:, 1])
        again = np.flatnonzero(runs[1:, 0] <= reach[:-1]) + 1
        if not len(again):
            return
        spans = tuple((int(runs[i, 0]), int(min(runs[i, 1], reach[i - 1]))) for i in again.tolist())
        paths = sorted({have[of[i]].file.path() for i in again.tolist()})
        rows = sum(last - first + 1 for first, last in spans)
        yield _about(
            files[0].file,
            "doubled_rows",
            f"{rows:,} rows are in more than one file: see {', '.join(paths[:5])}",
            spans=spans,
            rows=rows,
        )
        return
    held: dict[Span, dict[tuple[str, date], list[Counted]]] = {}
    for one in files:
        for source in one.sources:
            where = held.setdefault((source.first, source.last), {})
            where.setdefault((one.file.site, one.file.date), []).append(one)
    for span, places in held.items():
        for those in places.values():
            if len(those) > 1:
                message = f"the rows of this span are in {len(those)} files of one folder: {', '.join(sorted(o.file.path() for o in those))}"
                yield _about(
                    those[0].file,
                    "doubled_rows",
                    message,
                    spans=(span,),
                    rows=sum(s.rows for s in those[1].sources if (s.first, s.last) == span),
                )
        total = sum(s.rows for those in places.values() for one in those for s in one.sources if (s.first, s.last) == span)
        if total > span[1] - span[0] + 1 and all(len(those) == 1 for those in places.values()):
            yield _about(
                files[0].file,
                "doubled_rows",
                f"{total:,} rows of a span of {span[1] - span[0] + 1:,}",
                spans=(span,),
                rows=total - (span[1] - span[0] + 1),
            )
    widest = (-1, -1)
    for span in sorted(held):
        if span[0] <= widest[1]:
            both = tuple(sorted({one.file.path() for s in (widest, span) for those in held[s].values() for one in those}))
            message = f"rows {span[0]} to {min(span[1], widest[1])} are claimed twice: {', '.join(both[:5])}; --deep tells whether they are there twice"
            yield _about(files[0].file, "overlapping_spans", message, spans=(widest, span))
        if span[1] > widest[1]:
            widest = span


def _debris(
    folder: str, entries: Mapping[str, Entry], manifest: Manifest | None, counting: Collection[str], now_us: int
) -> Iterator[Finding]:
    known = manifest or Manifest()
    committed = {one.file for one in known.merged}
    retired = {one.file for one in known.retired}
    newest_us = max((one.at_us for one in known.merged), default=0)
    plain_there = {(f.span.gateway, f.span.epoch, f.span.first, f.span.last) for f in lake_files(folder, entries) if not f.merged}
    for name, entry in entries.items():
        path = f"{folder}/{name}"
        if path in counting or name == MANIFEST:
            continue
        fresh = now_us - max(entry.modified_us, newest_us) < _FRESH_US
        level: Level = "note" if fresh else "problem"
        file = next(iter(lake_files(folder, [name])), None)
        if file is None:
            yield Finding("foreign_file", "note", "is no file of the lake; readers pass it over", path)
        elif not file.merged:
            message = (
                "was merged into another file and is still there: lake.scan passes it over, a plain glob sees its rows twice"
            )
            yield _about(file, "leftover", message + "; `genba lake compact` removes it", level)
        elif name in retired:
            yield _about(file, "leftover", "was merged again and is still there; `genba lake compact` removes it", level)
        elif name not in committed:
            lost = manifest is None and not plain_there
            message = (
                "the folder's manifest was lost; `genba lake compact` makes it again"
                if lost
                else "was published and does not count: a compaction that is under way or was killed; `genba lake compact` removes it"
            )
            yield _about(file, "lost_manifest" if lost else "leftover", message, "problem" if lost else level)


def _unfinished(folder: str, entries: Iterable[Entry], now_us: int) -> Iterator[Finding]:
    for entry in entries:
        fresh = now_us - entry.modified_us < _FRESH_US
        yield Finding(
            "unfinished_file",
            "note",
            "is being written" if fresh else "was left by a crash; the next start removes it",
            f"{folder}/{entry.name}",
        )


def _about(
    file: LakeFile, code: str, message: str, level: Level = "problem", *, spans: tuple[Span, ...] = (), rows: int = 0
) -> Finding:
    span = file.span
    return Finding(
        code, level, message, file.path(), span.kind, span.gateway, span.epoch, spans or ((span.first, span.last),), rows
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
