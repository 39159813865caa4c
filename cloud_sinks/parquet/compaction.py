"""Compaction: small files of a folder become one of 128 to 512 MB, and nobody who reads sees a row twice or not at all.

What counts is what the folder's manifest says (`schemas.manifest`). The steps, and what a crash after each leaves:

1. merge into a file in the making and read it back: nothing that anybody sees;
2. publish it under a name of its own that is never used again: a file that does not count, since no manifest names it. The next run
   sees that and removes it;
3. write the manifest with it, if nobody wrote it since it was read: from here on it counts and its sources do not. The next run
   removes the sources;
4. after a grace period for readers that listed the folder before, see that the merged file is whole, and remove its sources.

Two compactors at once: both may merge the same files; the second to come to step 3 finds the sources replaced and takes its file away.
A file that does not count is removed only after the manifest says that it never will ("retired"), so that its maker, should it still
live, cannot make it count between the look and the removal. A gateway writes meanwhile: its files have other names and count at once. A
file that it writes again after it was merged has a name that the manifest names: it never counts, and the next run removes it.

Blocking; for a thread or a process of its own. `at` is told the name of every point at which a crash could strike, for tests.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Final, TypeVar

import pyarrow as pa

from schemas.errors import Busy, ConfigError
from schemas.kinds import KINDS, Kind
from schemas.lake import SCHEMA_VERSION, LakeFile
from schemas.manifest import MANIFEST, Manifest, Merged, Retired, Source, current, lake_files, sources_of
from schemas.span import SpoolSpan

from .audit import folders_of
from .file import ROW_GROUP, read_metadata
from .merge import Damaged, Input, Made, input_of, merge
from .shelf import Entry, Shelf

T = TypeVar("T")
TARGET_BYTES: Final = 256 << 20
GRACE_S: Final = 60.0
_ABANDONED_US: Final = 600 * 10**6
"""A published file that still does not count after so long has no living maker: between the two there is one small write."""
_HELD_ROWS: Final = 4 << 20
"""Rows of all files that are merged at once whose pages are in memory, about."""
_OPEN: Final = 512
_TRIES: Final = 50


@dataclass(frozen=True, slots=True)
class Plan:
    """Which files are merged: at least two, of one folder and log."""

    folder: str
    files: tuple[LakeFile, ...]
    bytes: int

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {"folder": self.folder, "files": [file.path().rpartition("/")[2] for file in self.files], "bytes": self.bytes}


@dataclass(frozen=True, slots=True)
class Done:
    """A merge that counts."""

    plan: Plan
    file: str
    rows: int
    bytes: int

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {**self.plan.as_json(), "file": self.file, "rows": self.rows, "bytes_after": self.bytes}


@dataclass(slots=True)
class Report:
    """What a run did, or with `dry_run` would begin with. `problems` are sentences: a person looks at those files, which stay as they are."""

    planned: list[Plan] = field(default_factory=list)
    merged: list[Done] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)  # folders whose lost manifest was made again
    problems: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        """For programs; the keys are kept over versions."""
        return {
            "ok": not self.problems, "planned": [one.as_json() for one in self.planned], "merged": [one.as_json() for one in self.merged],
            "removed": self.removed, "restored": self.restored, "problems": self.problems,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Options:
    """What is merged. `older_than_s`: only dates that ended at least so long ago, None for every date, today's too."""

    kinds: Collection[Kind] = KINDS
    target_bytes: int = TARGET_BYTES
    older_than_s: float | None = None
    grace_s: float = GRACE_S
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a plan somewhere else: the merge, if it counts, what a person should look at, and the files that are left alone."""

    done: Done | None
    problems: tuple[str, ...] = ()
    bad: frozenset[str] = frozenset()


class _Unreadable(Exception):
    """A manifest that nobody understands."""


class Compactor:
    """One run over a lake. Raises what the shelf raises where the place cannot be reached; damage of single files is reported."""

    def __init__(
        self,
        shelf: Shelf,
        options: Options,
        *,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        sleep: Callable[[float], None] = time.sleep,
        at: Callable[[str], None] = lambda point: None,
    ) -> None:
        """`shelf` is open unless it is a dry run."""
        self._shelf, self._options, self._now_us, self._sleep, self._at = shelf, options, now_us, sleep, at
        self._bad: set[str] = set()
        self._due: dict[str, int] = {}  # folder -> when its replaced files may be removed
        self.report = Report()

    def run(self) -> Report:
        """Merge what there is to merge, wait until nobody can still be reading what was replaced, remove that."""
        for folder in self._folders():
            with self._reported():
                if self._options.dry_run:
                    self.report.planned += self._plan(folder)
                    continue
                self._tidy(folder)
                while plans := self._plan(folder):
                    for plan in plans:
                        self.merge(plan)
            self._remove_due()
        self.finish()
        return self.report

    def plans(self) -> list[Plan]:
        """What can be merged now, after what earlier runs left is cleared up: for whoever merges elsewhere, each plan by a `Compactor` of its own.

        Merged files may be small still: ask again until there is none, then `finish`.
        """
        found: list[Plan] = []
        for folder in self._folders():
            with self._reported():
                self._tidy(folder)
                found += self._plan(folder)
        return found

    def carry_out(self, plan: Plan) -> Outcome:
        """One plan of another compactor, for it to `take`; clearing up is left to that one."""
        with self._reported():
            self.merge(plan)
        report = self.report
        return Outcome(report.merged[-1] if report.merged else None, tuple(report.problems), frozenset(self._bad))

    def take(self, outcome: Outcome) -> None:
        """What another compactor made of a plan; a file that it found damaged is not planned again."""
        self.report.problems += [problem for problem in outcome.problems if problem not in self.report.problems]
        self._bad |= outcome.bad
        if outcome.done is not None:
            self.report.merged.append(outcome.done)
            self._due[outcome.done.plan.folder] = self._now_us() + int(self._options.grace_s * 1e6)

    def finish(self) -> None:
        """Wait until nobody can still be reading what was replaced, and remove it."""
        while self._due:
            self._sleep(max(0.0, (min(self._due.values()) - self._now_us()) / 1e6))
            self._at("waited")
            self._remove_due()

    def _folders(self) -> Iterator[str]:
        return (folder for kind in self._options.kinds for folder in folders_of(self._shelf, kind) if self._is_due(folder))

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """A folder that cannot be kept does not keep the others from it."""
        try:
            yield
        except _Unreadable as error:
            if str(error) not in self.report.problems:
                self.report.problems.append(str(error))

    def _is_due(self, folder: str) -> bool:
        older_than_s = self._options.older_than_s
        try:
            day = date.fromisoformat(folder.rpartition("date=")[2])
        except ValueError:
            return False
        if older_than_s is None or day == date.max:
            return older_than_s is None
        ended = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)
        return self._now_us() / 1e6 - ended.timestamp() >= older_than_s

    # What to merge

    def _plan(self, folder: str) -> list[Plan]:
        entries, manifest = self._look(folder)
        small = self._options.target_bytes // 2
        logs: dict[tuple[str, int], list[tuple[LakeFile, int]]] = {}
        for file in current(folder, entries, manifest):
            size = self._bytes(file, entries)
            if size < small and file.path() not in self._bad:
                logs.setdefault((file.span.gateway, file.span.epoch), []).append((file, size))
        found = []
        for those in logs.values():
            found += [Plan(folder, tuple(f for f, _ in some), sum(n for _, n in some)) for some in self._grouped(those)]
        return found

    def _grouped(self, files: Sequence[tuple[LakeFile, int]]) -> Iterator[list[tuple[LakeFile, int]]]:
        """Files in order of their rows, as many together as make the size, and not more than memory takes."""
        group: list[tuple[LakeFile, int]] = []
        held = total = 0
        for file, size in sorted(files, key=lambda one: one[0].path()):
            rows = min(len(file.span), ROW_GROUP)
            if group and (held + rows > _HELD_ROWS or len(group) >= _OPEN):
                yield from self._worthwhile(group)
                group, held, total = [], 0, 0
            group.append((file, size))
            held, total = held + rows, total + size
            if total >= self._options.target_bytes:
                yield from self._worthwhile(group)
                group, held, total = [], 0, 0
        yield from self._worthwhile(group)

    def _worthwhile(self, group: Sequence[tuple[LakeFile, int]]) -> Iterator[list[tuple[LakeFile, int]]]:
        """Without merged files beside which the rest is little: a large file is not written anew for every small one that comes."""
        kept = list(group)
        while kept:
            largest = max(kept, key=lambda one: one[1])
            if not largest[0].merged or largest[1] <= 4 * (sum(size for _, size in kept) - largest[1]):
                break
            kept.remove(largest)
        if len(kept) > 1:
            yield kept

    # Merging

    def merge(self, plan: Plan) -> None:
        """Merge the files of a plan; what they replace stays until `finish`, or the next run. A plan that is out of date does nothing."""
        try:
            inputs = [self._input(file) for file in plan.files]
            span = plan.files[0].span
            whole = SpoolSpan(
                span.gateway, span.epoch, span.kind, min(f.span.first for f in plan.files), max(f.span.last for f in plan.files)
            )
            target = LakeFile(plan.files[0].site, plan.files[0].date, whole, secrets.token_hex(6))
            name = target.path().rpartition("/")[2]
            scratch = self._shelf.scratch(name)
            made = merge(inputs, target, scratch)
        except Damaged as error:
            self._set_aside(error.path, str(error))
            self._bad.add(error.path)
            if error.path not in {
                file.path() for file in plan.files
            }:  # what was written is wrong: nobody knows which of them it is
                self._bad.update(file.path() for file in plan.files)
            return
        except FileNotFoundError:  # somebody else has merged it and removed it since it was listed
            self._again(plan)
            return
        finally:
            for file in plan.files:
                self._shelf.let_go(file.path())
        self._at("merged")
        if not self._shelf.publish(scratch, target.path()):
            raise ConfigError(f"{target.path()} is there already", hint="a random name came twice; run it again")
        self._at("published")
        if self._commit(plan, name, made):
            self._at("committed")
            self.report.merged.append(Done(plan, name, made.rows, made.bytes))
            self._due[plan.folder] = self._now_us() + int(self._options.grace_s * 1e6)
        else:  # somebody else was faster; nothing counts this file, nor will
            self._retire(plan.folder, [name])
            self._shelf.remove(target.path())

    def _again(self, plan: Plan) -> None:
        """A file vanished: that is fine where it counts no more, else it is lost, and must not be tried for ever."""
        entries, manifest = self._look(plan.folder)
        for file in current(plan.folder, entries, manifest):
            if file in plan.files and file.path().rpartition("/")[2] not in entries:
                self._set_aside(file.path(), f"{file.path()}: counts and is not there")

    def _input(self, file: LakeFile) -> Input:
        path = file.path()
        local = self._shelf.fetched(path)
        try:
            about = read_metadata(local)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise Damaged(path, f"cannot be read: {error}") from error
        if int(about.get("genba.schema_version", SCHEMA_VERSION)) > SCHEMA_VERSION:
            raise Damaged(path, "was written by a newer version of genba; compact it with that")

        def sources() -> tuple[Source, ...]:
            if file.merged:
                return sources_of(about.get("genba.sources", "[]"))
            return (Source(file.span.first, file.span.last, int(about["genba.rows"]), about["genba.checksum"]),)

        return input_of(file, local, about, sources)

    def _commit(self, plan: Plan, name: str, made: Made) -> bool:
        """Step 3. False where the sources are not there to be replaced any more, or the file was retired meanwhile."""
        merged = {file.path().rpartition("/")[2] for file in plan.files if file.merged}
        plain = {(f.span.gateway, f.span.epoch, f.span.first, f.span.last) for f in plan.files if not f.merged}
        done = False

        def change(manifest: Manifest) -> Manifest | None:
            nonlocal done
            counting = {one.file for one in manifest.merged}
            done = name in counting
            if done:  # an earlier try had come through although its answer was lost
                return None
            gone = name in {one.file for one in manifest.retired} or self._shelf.size(f"{plan.folder}/{name}") != made.bytes
            if gone or not merged <= counting or plain & manifest.replaced():
                return None
            now = self._now_us()
            entry = Merged(name, made.sources, made.rows, made.checksum, made.bytes, now)
            kept = tuple(one for one in manifest.merged if one.file not in merged)
            retired = tuple(Retired(one, now) for one in sorted(merged))
            return Manifest((*kept, entry), (*manifest.retired, *retired))

        return self._update(plan.folder, change) is not None or done

    def _update(self, folder: str, change: Callable[[Manifest], Manifest | None]) -> Manifest | None:
        """Write the manifest that `change` makes of the one there, as often as somebody else is faster; None where it makes none."""
        path = f"{folder}/{MANIFEST}"
        for attempt in range(_TRIES):
            there = self._shelf.read_small(path)
            changed = change(Manifest() if there is None else self._unpacked(folder, there[0]))
            if changed is None:
                return None
            self._at("changing")
            try:
                if self._shelf.swap(path, changed.pack(), None if there is None else there[1]):
                    return changed
            except Busy as busy:
                self._sleep(busy.wait_s)
            self._sleep(min(1.0, 0.01 * attempt))
        raise Busy(1.0, f"{path} is written by others all the time")

    # Clearing up

    def _tidy(self, folder: str) -> None:
        """What a crash, a late retry or a lost manifest left of earlier runs."""
        entries, manifest = self._look(folder, restore=True)
        if manifest is None and not any(file.merged for file in lake_files(folder, entries)):
            return
        known = manifest or Manifest()
        now = self._now_us()
        lost = [one for one in known.merged if one.file not in entries and self._shelf.size(f"{folder}/{one.file}") is None]
        if lost:
            self._bring_back(folder, lost, entries)
        named = {one.file for one in known.merged} | {one.file for one in known.retired}
        unnamed = [
            file.path().rpartition("/")[2]
            for file in lake_files(folder, entries)
            if file.merged and file.path().rpartition("/")[2] not in named
        ]
        abandoned = [name for name in unnamed if now - entries[name].modified_us >= _ABANDONED_US]
        if abandoned:
            self._retire(folder, abandoned)
        self._remove(folder)

    def _retire(self, folder: str, names: Sequence[str]) -> None:
        """Files that do not count never will. At once to be removed: nobody ever read them."""

        def change(manifest: Manifest) -> Manifest | None:
            counting = {one.file for one in manifest.merged} | {one.file for one in manifest.retired}
            new = [Retired(name, 0) for name in names if name not in counting]
            return replace(manifest, retired=(*manifest.retired, *new)) if new else None

        self._update(folder, change)
        self._at("retired")

    def _bring_back(self, folder: str, lost: Sequence[Merged], entries: Mapping[str, Entry]) -> None:
        """A merged file that counts and is not there: where its sources still are, they count again."""
        for one in lost:
            file = LakeFile.parse(f"{folder}/{one.file}")
            there = {
                (f.span.first, f.span.last)
                for f in lake_files(folder, entries)
                if not f.merged and (f.span.gateway, f.span.epoch) == (file.span.gateway, file.span.epoch)
            }
            if not {(source.first, source.last) for source in one.sources} <= there:
                self._set_aside(
                    file.path(), f"{file.path()}: counts and is not there, nor are all of its sources: {one.rows:,} rows are lost"
                )
                continue

            def change(manifest: Manifest, one: Merged = one) -> Manifest | None:
                if one not in manifest.merged:
                    return None
                return Manifest(
                    tuple(m for m in manifest.merged if m != one), (*manifest.retired, Retired(one.file, self._now_us()))
                )

            self._update(folder, change)
            self.report.problems.append(f"{file.path()}: counted and was not there; its sources were, and count again")

    def _remove_due(self) -> None:
        now = self._now_us()
        for folder in [folder for folder, at in self._due.items() if at <= now]:
            del self._due[folder]
            with self._reported():
                self._remove(folder)

    def _remove(self, folder: str) -> None:
        """Step 4, for everything in the folder that has been replaced for long enough."""
        entries, manifest = self._look(folder)
        if manifest is None:
            return
        owners: dict[tuple[str, int, int, int], tuple[Merged, Source]] = {}
        for one in manifest.merged:
            span = LakeFile.parse(f"{folder}/{one.file}").span
            owners.update({(span.gateway, span.epoch, source.first, source.last): (one, source) for source in one.sources})
        whole: dict[str, bool] = {}
        for file in lake_files(folder, entries):
            span = file.span
            found = None if file.merged else owners.get((span.gateway, span.epoch, span.first, span.last))
            if found is None or self._is_read(folder, found[0].at_us):
                continue
            owner, source = found
            if owner.file not in whole:
                whole[owner.file] = self._is_whole(folder, owner)
            if whole[owner.file] and self._is_the_same(file, source):
                self._drop(file.path())
        old = [one for one in manifest.retired if not self._is_read(folder, one.at_us)]
        for gone in old:
            if gone.file in entries:
                self._drop(f"{folder}/{gone.file}")
        if old:
            self._at("removed")
            names = {gone.file for gone in old}

            def change(manifest: Manifest) -> Manifest | None:
                kept = tuple(gone for gone in manifest.retired if gone.file not in names)
                return replace(manifest, retired=kept) if len(kept) < len(manifest.retired) else None

            self._update(folder, change)

    def _is_read(self, folder: str, since_us: int) -> bool:
        """Whether somebody may still be reading what was replaced at `since_us`; then it is due later."""
        now, grace_us = self._now_us(), int(self._options.grace_s * 1e6)
        if now >= since_us + grace_us:
            return False
        due = min(since_us, now) + grace_us  # another machine's clock may be ahead
        self._due[folder] = max(self._due.get(folder, 0), due)
        return True

    def _is_the_same(self, file: LakeFile, source: Source) -> bool:
        """Whether a file holds the rows that were merged: one that came again could be another gateway's of the same name."""
        path = file.path()
        try:
            with self._shelf.reader(path) as there:
                about = read_metadata(there)
        except FileNotFoundError:
            return False  # somebody else has just removed it
        except (OSError, pa.ArrowException) as error:
            self._set_aside(path, f"{path}: was merged, came again and cannot be read: {error}")
            return False
        if (about.get("genba.rows"), about.get("genba.checksum")) == (str(source.rows), source.checksum):
            return True
        self._set_aside(
            path, f"{path}: holds other rows than those that were merged under this name: do two gateways share a name?"
        )
        return False

    def _is_whole(self, folder: str, one: Merged) -> bool:
        """Whether a merged file is there as it was published, before the files that it replaces go."""
        path = f"{folder}/{one.file}"
        try:
            if self._shelf.size(path) != one.bytes:
                raise FileNotFoundError(2, "not there in its full size", path)
            with self._shelf.reader(path) as file:
                about = read_metadata(file)
            if (about.get("genba.rows"), about.get("genba.checksum")) == (str(one.rows), one.checksum):
                return True
            why = "says other things of itself than the manifest"
        except (OSError, pa.ArrowException) as error:
            why = str(error)
        self._set_aside(path, f"{path}: {why}; the files that it replaces stay")
        return False

    def _drop(self, path: str) -> None:
        self._shelf.remove(path)
        self.report.removed.append(path)
        self._at("removed one")

    def _set_aside(self, path: str, problem: str) -> None:
        self._bad.add(path)
        self.report.problems.append(problem)

    # Looking

    def _look(self, folder: str, *, restore: bool = False) -> tuple[dict[str, Entry], Manifest | None]:
        """The folder, then its manifest."""
        entries = {entry.name: entry for entry in self._shelf.entries(folder) if not entry.folder}
        merged = [file for file in lake_files(folder, entries) if file.merged]
        if MANIFEST not in entries and not merged:
            return entries, None
        there = self._shelf.read_small(f"{folder}/{MANIFEST}")
        if there is not None:
            return entries, self._unpacked(folder, there[0])
        return entries, self._restore(folder, entries, merged) if restore and merged else None

    def _unpacked(self, folder: str, data: bytes) -> Manifest:
        try:
            return Manifest.unpack(data)
        except ValueError as error:
            raise _Unreadable(
                f"{folder}/{MANIFEST} cannot be read: {error}; remove it: it is made again from what the merged files say of themselves"
            ) from error

    def _bytes(self, file: LakeFile, entries: Mapping[str, Entry]) -> int:
        entry = entries.get(file.path().rpartition("/")[2])
        return entry.size if entry is not None else self._shelf.size(file.path()) or 0

    def _restore(self, folder: str, entries: Mapping[str, Entry], merged: Sequence[LakeFile]) -> Manifest | None:
        """A manifest anew, from what the merged files say of themselves: those whose sources are gone counted.

        One whose sources are all there never counted, or its sources were not yet removed: then they count, which is as right. Of two that
        have the same sources the wider one counted last.
        """
        found: list[Merged] = []
        for file in merged:
            try:
                with self._shelf.reader(file.path()) as source:
                    about = read_metadata(source)
                sources = sources_of(about["genba.sources"])
                rows, said = int(about["genba.rows"]), about["genba.checksum"]
            except (OSError, pa.ArrowException, ValueError, KeyError) as error:
                self._set_aside(file.path(), f"{file.path()}: cannot be read while its folder's manifest is missing: {error}")
                return None
            name = file.path().rpartition("/")[2]
            plain = {
                (f.span.first, f.span.last)
                for f in lake_files(folder, entries)
                if not f.merged and (f.span.gateway, f.span.epoch) == (file.span.gateway, file.span.epoch)
            }
            if not {(source.first, source.last) for source in sources} <= plain:
                found.append(Merged(name, sources, rows, said, entries[name].size, 0))
        if not found:
            return None
        kept: list[Merged] = []
        taken: dict[tuple[str, int], set[tuple[int, int]]] = {}
        for one in sorted(found, key=lambda one: -len(one.sources)):
            span = LakeFile.parse(f"{folder}/{one.file}").span
            held = taken.setdefault((span.gateway, span.epoch), set())
            mine = {(source.first, source.last) for source in one.sources}
            if mine <= held:
                continue
            if mine & held:
                self._set_aside(
                    f"{folder}/{one.file}", f"{folder}: without its manifest nobody can say which of its merged files count"
                )
                return None
            held |= mine
            kept.append(one)
        if self._options.dry_run:
            return Manifest(tuple(kept))
        retired = tuple(Retired(one.file, 0) for one in found if one not in kept)
        made = Manifest(tuple(kept), retired)
        written = self._update(folder, lambda there: made if there == Manifest() else None)
        if written is not None:
            self.report.restored.append(folder)
        return written
