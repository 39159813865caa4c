"""What compaction says of a folder of the lake: `_merged.json` names each merged file and the files that it replaces.

The manifest is the one thing that decides what counts; a file of the sink counts unless a merged file replaces it, a merged file
counts only when the manifest names it. So one write of the manifest puts a merged file in the place of its sources for every
reader at once, whatever else lies in the folder before and after: a merged file that was published and not yet named, sources
that are not yet removed, a source that a late retry has written again.

A reader lists the folder first and reads the manifest afterwards (`current`). Why that is right at any moment: a source leaves
the folder only after a manifest that replaces it; so each row's file is in the listing, or in the manifest, and never counts
twice. Sources are compared by their exact names, never by the range between first and last: what a hole in a merged
file leaves open, a file that comes later may fill.

Imports nothing heavy, so that notebooks read a lake without the gateway's libraries.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .lake import LakeFile

MANIFEST: Final = "_merged.json"
"""Name of the manifest in a folder. It begins with `_` and is no Parquet file, so that no glob takes it for data."""
_FORMAT: Final = 1


@dataclass(frozen=True, slots=True, order=True)
class Source:
    """Rows of one file that the sink wrote: the span in its name (both ends included), how many rows it held, and their checksum."""

    first: int
    last: int
    rows: int
    checksum: str


@dataclass(frozen=True, slots=True)
class Merged:
    """A merged file: `file` is its name in the folder, `at_us` when it came to count (µs since 1970 UTC)."""

    file: str
    sources: tuple[Source, ...]
    rows: int
    checksum: str
    bytes: int
    at_us: int


@dataclass(frozen=True, slots=True)
class Retired:
    """A merged file that does not count any more, or never will; its name is not used again."""

    file: str
    at_us: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a folder's manifest says. The empty one is as good as none."""

    merged: tuple[Merged, ...] = ()
    retired: tuple[Retired, ...] = ()

    def pack(self) -> bytes:
        """As JSON, one merged file a line."""
        document = {
            "format": _FORMAT,
            "merged": [
                {
                    "file": one.file,
                    "sources": _plain(one.sources),
                    "rows": one.rows,
                    "checksum": one.checksum,
                    "bytes": one.bytes,
                    "at_us": one.at_us,
                }
                for one in self.merged
            ],
            "retired": [{"file": one.file, "at_us": one.at_us} for one in self.retired],
        }
        return json.dumps(document, separators=(",", ":")).replace('{"file"', '\n{"file"').encode() + b"\n"

    @classmethod
    def unpack(cls, data: bytes) -> Manifest:
        """The inverse of `pack`. Raises ValueError for anything else, and for a manifest of a newer version of genba."""
        try:
            document: dict[str, Any] = json.loads(data)
            if document["format"] > _FORMAT:
                raise ValueError(f"written by a newer version of genba (format {document['format']})")
            return cls(
                tuple(
                    Merged(
                        str(one["file"]),
                        _sources(one["sources"]),
                        int(one["rows"]),
                        str(one["checksum"]),
                        int(one["bytes"]),
                        int(one["at_us"]),
                    )
                    for one in document["merged"]
                ),
                tuple(Retired(str(one["file"]), int(one["at_us"])) for one in document["retired"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a manifest: {type(error).__name__}: {error}") from error

    def replaced(self) -> frozenset[tuple[str, int, int, int]]:
        """(gateway, epoch, first, last) of every file of the sink that a merged file replaces."""
        found: set[tuple[str, int, int, int]] = set()
        for one in self.merged:
            gateway, epoch = _log_of(one.file)
            found.update((gateway, epoch, source.first, source.last) for source in one.sources)
        return frozenset(found)


def current(folder: str, names: Iterable[str], manifest: Manifest | None) -> list[LakeFile]:
    """The files of a folder (`kind/site=…/date=…`) that count, ordered by path. Anything else that lies there is passed over.

    `names` was listed before `manifest` was read, see above; None where there is no manifest. Raises ValueError for a manifest that names
    what is no merged file.
    """
    known = manifest or Manifest()
    replaced = known.replaced()
    found = [LakeFile.parse(f"{folder}/{one.file}") for one in known.merged]
    for file in lake_files(folder, names):
        span = file.span
        if not file.merged and (span.gateway, span.epoch, span.first, span.last) not in replaced:
            found.append(file)
    return sorted(found, key=lambda file: file.path())


def lake_files(folder: str, names: Iterable[str]) -> list[LakeFile]:
    """Those names in a folder that are data files of the lake, whether they count or not."""
    found = []
    for name in names:
        try:
            found.append(LakeFile.parse(f"{folder}/{name}"))
        except ValueError:
            continue
    return found


def sources_text(sources: Sequence[Source]) -> str:
    """As a merged file holds its sources in its own metadata, under `genba.sources`."""
    return json.dumps(_plain(sources), separators=(",", ":"))


def sources_of(text: str) -> tuple[Source, ...]:
    """The inverse of `sources_text`. Raises ValueError."""
    try:
        return _sources(json.loads(text))
    except TypeError as error:
        raise ValueError(f"not a list of sources: {text[:80]!r}") from error


def _plain(sources: Sequence[Source]) -> list[list[int | str]]:
    return [[source.first, source.last, source.rows, source.checksum] for source in sources]


def _sources(plain: Any) -> tuple[Source, ...]:
    return tuple(Source(int(first), int(last), int(rows), str(checksum)) for first, last, rows, checksum in plain)


def _log_of(name: str) -> tuple[str, int]:
    match = LakeFile.NAME.fullmatch(name)
    if match is None or not match["merged"]:
        raise ValueError(f"not the name of a merged file: {name!r}")
    return match["gateway"], int(match["epoch"])
