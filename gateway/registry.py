"""The tag registry: gives every tag path its int32 id, durable before first use and never reused, and remembers what tags were.

Kept in `tags.jsonl` of the spool directory: a line is the CRC-32C of the rest in eight hex digits, a space, a JSON object, a line feed. Lines are
only ever appended; after damage the file is written anew from what is whole.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from schemas.tags import Limits, Tag, TagVersion

from .spool.format import checksum
from .spool.quarantine import Quarantine
from .spool.storage import DiskStorage, Storage, read_file, write_all, write_file

_NAME: Final = "tags.jsonl"
_SHORTEST_LINE: Final = 128
"""No line that gives an id is shorter: from damaged bytes follows how many ids they may have held."""

_KNOWN: Final = frozenset(field.name for field in fields(Tag))
_PACKED: Final = tuple(field.name for field in fields(Tag) if field.name != "id")
_DEFAULTS: Final[Mapping[str, object]] = {
    "value_type": "number",
    "unit": "1",
    "period_us": 1_000_000,
    "deadband": 0.0,
    "report_at_least_us": 0,
}


@dataclass(slots=True)
class _Version:
    tag: Tag
    from_us: int
    to_us: int | None = None
    from_row: int = 0


class _Change(NamedTuple):
    """One line of the file: a tag as it is from `at_us` and from telemetry row `row` on, or (`tag` None) its end then."""

    id: int
    at_us: int
    tag: Tag | None
    row: int = 0

    def line(self) -> bytes:
        """The line."""
        if self.tag is None:
            return _line({"id": self.id, "to": self.at_us})
        since = {"from": self.at_us, "row": self.row} if self.row else {"from": self.at_us}
        return _line({"id": self.id, **since, "tag": _pack(self.tag)})

    @classmethod
    def of(cls, body: bytes) -> _Change:
        """From the JSON object of a line."""
        given = json.loads(body)
        if "tag" not in given:
            return cls(int(given["id"]), int(given["to"]), None)
        return cls(int(given["id"]), int(given["from"]), _unpack(given["tag"], int(given["id"])), int(given.get("row", 0)))


class TagRegistry:
    """All tags that this gateway ever had. Implements `schemas.tags.TagDirectory` and `TagHistory`."""

    def __init__(
        self, path: Path, storage: Storage, content: bytes, lines: Sequence[bytes], log: structlog.stdlib.BoundLogger
    ) -> None:
        """For `open`."""
        self._path, self._storage, self._log = path, storage, log
        self._size = len(content)
        self._versions: list[list[_Version]] = []
        self._ids: dict[str, int] = {}
        self._changing = asyncio.Lock()
        for line in lines:
            self._apply(_Change.of(line))

    @classmethod
    async def open(cls, directory: Path, *, log: structlog.stdlib.BoundLogger, storage: Storage | None = None) -> TagRegistry:
        """The registry in `directory`. A torn or damaged line costs itself: it is put aside, and its id is never given again."""
        disk = storage or DiskStorage()
        path = directory / _NAME
        content = await asyncio.to_thread(_content, path, disk)
        lines, damaged = _lines(content)
        made = cls(path, disk, content, lines, log)
        if damaged:
            # Ids that the damaged bytes may have given are taken by tags that nobody knows any more.
            reserve = max(damaged.count(b"\n") + (not damaged.endswith(b"\n")), len(damaged) // _SHORTEST_LINE)
            lost = await asyncio.to_thread(made._repair, damaged, made._last_given + 1 + reserve)
            log.warning("the tag registry was repaired", damaged_bytes=len(damaged), lost_tags=lost)
        return made

    def __getitem__(self, tag_id: int) -> Tag:
        """The tag as it is now, or was last. Raises KeyError for an id never given."""
        if not 0 <= tag_id < len(self._versions):
            raise KeyError(tag_id)
        return self._versions[tag_id][-1].tag

    def __iter__(self) -> Iterator[Tag]:
        """All tags ever registered, in order of id."""
        return (versions[-1].tag for versions in self._versions)

    def __len__(self) -> int:
        return len(self._versions)

    def history(self) -> Iterator[TagVersion]:
        """Every version of every tag, in order of id, oldest first."""
        return (TagVersion(v.tag, v.from_us, v.to_us, v.from_row) for versions in self._versions for v in versions)

    async def resolve(self, tags: Sequence[Tag], now_us: int, *, row: int = 0) -> list[Tag]:
        """The configured tags with their ids, in the order given; the registry then knows exactly these as current.

        New paths get the next ids, changed descriptions a new version from `now_us` on, and tags that are not among `tags` are retired.
        `row` is the next telemetry row: rows below it, which may still wait in the spool, keep the unit that they were read in.
        Durable when it returns, with one flush. Raises OSError when the disk does not take it (then nothing has changed), ValueError
        for a path named twice.
        """
        if len({tag.path for tag in tags}) != len(tags):
            raise ValueError("a tag path is named twice")
        async with self._changing:
            resolved, changes = await asyncio.to_thread(self._compare, tags, now_us, row)
            if changes:
                await asyncio.to_thread(self._append, changes)
                for change in changes:
                    self._apply(change)
            for tag in resolved:  # equal to what was read from the file; one object for both holds the texts once
                self._versions[tag.id][-1].tag = tag
            return resolved

    def _compare(self, tags: Sequence[Tag], now_us: int, row: int) -> tuple[list[Tag], list[_Change]]:
        """The tags with ids, and the changes that make it so."""
        resolved: list[Tag] = []
        changes: list[_Change] = []
        next_id = len(self._versions)
        for tag in tags:
            tag_id = self._ids.get(tag.path)
            if tag_id is None:
                tag_id, next_id = next_id, next_id + 1
                current = None
            else:
                current = self._versions[tag_id][-1]
            made = replace(tag, id=tag_id)
            resolved.append(made)
            if current is None or current.to_us is not None or current.tag != made:
                # The wall clock may have been set back: versions of one tag never overlap.
                since = now_us if current is None else max(now_us, current.to_us or current.from_us)
                changes.append(_Change(tag_id, since, made, row))
        kept = {tag.id for tag in resolved}
        for tag_id, versions in enumerate(self._versions):
            if tag_id not in kept and versions[-1].to_us is None:
                changes.append(_Change(tag_id, max(now_us, versions[-1].from_us), None))
        return resolved, changes

    def _apply(self, change: _Change) -> None:
        tag_id, at_us, tag, row = change
        if tag is None:
            if tag_id < len(self._versions):
                self._versions[tag_id][-1].to_us = at_us
            return
        while len(self._versions) < tag_id:  # its line was damaged
            self._versions.append([_lost(len(self._versions))])
        if tag_id == len(self._versions):
            self._versions.append([_Version(tag, at_us, None, row)])
        else:
            current = self._versions[tag_id][-1]
            current.to_us = at_us if current.to_us is None else current.to_us
            self._versions[tag_id].append(_Version(tag, at_us, None, row))
        self._ids[tag.path] = tag_id

    @property
    def _last_given(self) -> int:
        return len(self._versions) - 1

    def _append(self, changes: Sequence[_Change]) -> None:
        """Add lines to the file, durable when this returns. Blocking."""
        data = b"".join(change.line() for change in changes)
        if not self._storage.exists(self._path):
            write_file(self._storage, self._path, data)
        else:
            fd = self._storage.open(self._path, write=True)
            try:
                self._storage.truncate(fd, self._size)  # what an append that failed may have left
                if self._size and self._storage.read(fd, 1, self._size - 1) != b"\n":
                    data = b"\n" + data
                write_all(self._storage, fd, [data], self._size)
                self._storage.fdatasync(fd)
            finally:
                self._storage.close(fd)
        self._size += len(data)

    def _repair(self, damaged: bytes, next_id: int) -> int:
        """Put the damaged bytes aside and write the file anew; returns how many ids are lost. Blocking."""
        directory = self._path.parent / "quarantine"
        self._storage.make_directory(directory)
        Quarantine(directory, self._storage).keep_bytes(f"tags-{checksum(damaged):08x}.bad", damaged)
        while len(self._versions) < next_id:
            self._versions.append([_lost(len(self._versions))])
        changes: list[_Change] = []
        for tag_id, versions in enumerate(self._versions):
            for version in versions:
                changes.append(_Change(tag_id, version.from_us, version.tag, version.from_row))
                if version.to_us is not None:
                    changes.append(_Change(tag_id, version.to_us, None))
        data = b"".join(change.line() for change in changes)
        try:
            write_file(self._storage, self._path, data)
            self._size = len(data)
        except OSError as error:  # a full disk: the damaged file serves until the next start
            self._log.warning("the tag registry could not be written anew", error=error.strerror or str(error))
        return sum(versions[-1].tag.path.startswith("unknown/") for versions in self._versions)


def _line(change: Mapping[str, object]) -> bytes:
    body = json.dumps(change, ensure_ascii=False, separators=(",", ":")).encode()
    return b"%08x %s\n" % (checksum(body), body)


def _content(path: Path, storage: Storage) -> bytes:
    return read_file(storage, path) if storage.exists(path) else b""


def _lines(content: bytes) -> tuple[list[bytes], bytes]:
    """The bodies of all whole lines, and what is damaged."""
    lines: list[bytes] = []
    damaged: list[bytes] = []
    for line in content.splitlines(keepends=True):
        body = line[9:].rstrip(b"\n")
        if line[8:9] == b" " and line[:8] == b"%08x" % checksum(body):
            lines.append(body)
        elif line != b"\n":
            damaged.append(line)
    return lines, b"".join(damaged)


def _pack(tag: Tag) -> dict[str, object]:
    packed = {}
    for name in _PACKED:
        value = getattr(tag, name)
        if value not in ("", None, {}) and _DEFAULTS.get(name) != value:
            packed[name] = asdict(value) if name == "limits" else value
    return packed


def _unpack(stored: object, tag_id: int) -> Tag:
    assert isinstance(stored, dict)
    known = {name: value for name, value in stored.items() if name in _KNOWN}
    if "limits" in known:
        known["limits"] = Limits(**known["limits"])
    if "enum" in known:
        known["enum"] = {int(number): label for number, label in known["enum"].items()}
    return Tag(**{"name": "", "adapter": "", "device": "", "address": "", **known, "id": tag_id})


def _lost(tag_id: int) -> _Version:
    """A tag whose description was damaged: rows still bear its id."""
    asset, name = "unknown", f"tag-{tag_id}"
    return _Version(Tag(f"{asset}/{name}", asset, name, adapter="", device="", address="", id=tag_id), 0, 0)
