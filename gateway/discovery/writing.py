"""A tag file on disk: read, compared, changed, and written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from schemas.errors import ConfigError

from . import memory as remembering
from .csv_file import CsvTags
from .difference import Difference, apply, compare, learnt
from .memory import Memory
from .points import Entry, identity_of
from .tagfile import TagFile
from .yaml_file import YamlTags

SUFFIXES: Final = (".yaml", ".yml", ".csv")


@dataclass(slots=True)
class Draft:
    """A tag file, what is known of it, and what a walk makes different in it. Nothing is on disk before `write`."""

    path: Path
    kind: str
    file: TagFile
    before: str | None
    memory: Memory
    difference: Difference
    found: Sequence[Entry]
    scope: str

    @property
    def new(self) -> bool:
        """Whether the file is not there yet."""
        return self.before is None

    def write(self, *, day: str, prune: bool = False) -> bool:
        """Apply the difference and write file and memory; False where the file stays as it was. Raises ConfigError.

        The file is written first: a memory that is older than its file only makes the next run ask again.
        """
        if _read(self.path) != self.before:
            raise ConfigError("was changed by somebody else meanwhile", where=str(self.path), hint="run the command again")
        text, gone = self._changed(day, prune)
        changed = text != self.before
        if changed:
            write_whole(self.path, text)
        known = learnt(self.found, self.memory, self.scope, forget=gone)
        noted = remembering.text(known)
        if noted != (_read(remembering.path_of(self.path)) if self.memory.known else None):
            write_whole(remembering.path_of(self.path), noted)
        return changed

    def _changed(self, day: str, prune: bool) -> tuple[str, set[str]]:
        """The text of the file afterwards, and the identities of what is pruned."""
        if self.before is not None and not self.difference and not prune:
            return self.before, set()
        identity = identity_of(self.kind)
        there = {identity(tag.options) for tag in self.file.written}
        apply(self.difference, self.file, day=day, prune=prune)
        gone = there - {identity(tag.options) for tag in self.file.written}
        return self.file.text(), gone


def open_file(path: Path, head: str = "") -> tuple[TagFile, str | None]:
    """The tag file at `path` and its text, None where there is none: then `head` is its first lines. Raises ConfigError."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ConfigError("a tag file is .yaml or .csv", where=str(path), hint="rename it after what it shall hold")
    before = _read(path)
    if suffix == ".csv":
        return CsvTags(path, before or ""), before
    return YamlTags(path, head if before is None else before), before


def draft(
    path: Path, found: Sequence[Entry], kind: str, *, scope: str, whole: bool, head: str = "", again: bool = False
) -> Draft:
    """What the walk makes different in the tag file at `path`. Reads only. Raises ConfigError for a file that cannot be edited."""
    file, before = open_file(path, head)
    known = remembering.read(path) if before is not None else Memory()
    difference = compare(found, file, known, identity_of(kind), scope=scope, whole=whole, again=again)
    return Draft(path, kind, file, before, known, difference, found, scope)


def as_yaml(found: Sequence[Entry], head: str = "") -> str:
    """A new tag file as text."""
    file = YamlTags(Path("tags.yaml"), head)
    for entry in found:
        file.add(entry)
    return file.text()


def write_whole(path: Path, text: str) -> None:
    """The whole file or none: a temporary file beside it, synced, renamed over it. Raises ConfigError where that is not possible."""
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        target = path.resolve() if path.is_symlink() else path
        part = target.with_name(f".{target.name}.part")
        with part.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            os.chmod(part, target.stat().st_mode & 0o7777)
        part.replace(target)
        directory = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ConfigError(f"cannot be written: {error.strerror or error}", where=str(path)) from error


def _read(path: Path) -> str | None:
    """The text of a file with its line ends and byte order mark; None where there is none."""
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise ConfigError("is not UTF-8 text, so it is not overwritten", where=str(path), hint="save it as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from error
