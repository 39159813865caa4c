"""A disk in memory that loses power: what was not flushed since may be there, torn, or gone, in any order, and names likewise."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .conftest import MemoryStorage

SECTOR = 512


@dataclass
class Inode:
    """A file: what is durable of it, and what was done since: (offset, data), or (size, None) for a new size."""

    durable: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def drawn(self, rng: random.Random) -> bytearray:
        """A content that it may have after a cut."""
        data = bytearray(self.durable)
        for at, written in self.pending:
            if written is None:
                if rng.random() < 0.5:
                    del data[at:]
                    data.extend(bytes(at - len(data)))
                continue
            whole, start = rng.random() < 0.25, 0
            while start < len(written):
                end = min(len(written), start + SECTOR - (at + start) % SECTOR)
                if whole or rng.random() < 0.5:
                    data.extend(bytes(max(0, at + start - len(data))))
                    data[at + start : at + end] = written[start:end]
                start = end
        return data


Name = tuple[tuple[Path, Inode | None], ...]
"""One change of a directory, done whole or not at all: names and what they stand for (None: gone)."""


@dataclass
class Disk:
    """What a disk holds: names that are durable, and the changes of directories since."""

    names: dict[Path, Inode] = field(default_factory=dict)
    changes: list[Name] = field(default_factory=list)

    def drawn(self, rng: random.Random) -> dict[Path, bytearray]:
        """The files that may be there after a cut: one of the legal states."""
        names = dict(self.names)
        for change in self.changes:
            if rng.random() < 0.5:
                _apply(change, names)
        return {path: inode.drawn(rng) for path, inode in names.items()}

    def copy(self) -> Disk:
        """As it is now."""
        copies: dict[int, Inode] = {}

        def copied(inode: Inode) -> Inode:
            return copies.setdefault(id(inode), Inode(inode.durable, list(inode.pending)))

        names = {path: copied(inode) for path, inode in self.names.items()}
        return Disk(names, [tuple((p, None if i is None else copied(i)) for p, i in change) for change in self.changes])


class PowerStorage(MemoryStorage):
    """A disk in memory that knows what of it is durable. `flushes` and `flushes_names` false: it lies, and says that it is."""

    def __init__(self, *, flushes: bool = True, flushes_names: bool = True) -> None:
        super().__init__()
        self.disk = Disk()
        self._inodes: dict[Path, Inode] = {}
        self._flushes, self._flushes_names = flushes, flushes_names

    def look(self) -> None:
        """Called before every call that changes or flushes something."""

    def cut_power(self, rng: random.Random) -> None:
        """Whatever is there afterwards is durable."""
        self.restore(self.disk.drawn(rng))

    def restore(self, files: dict[Path, bytearray]) -> None:
        """These files, durable as they are."""
        self.files = files
        self._inodes = {path: Inode(bytes(content)) for path, content in self.files.items()}
        self.disk = Disk(dict(self._inodes))

    def create(self, path: Path, size: int) -> int:
        self.look()
        fd = super().create(path, size)
        self._inodes[path] = Inode(b"", [(size, None)])
        self.disk.changes.append(((path, self._inodes[path]),))
        return fd

    def write(self, fd: int, buffers: Sequence[Any], offset: int) -> int:
        self.look()
        self._inodes[self._open[fd]].pending.append((offset, b"".join(buffers)))
        return super().write(fd, buffers, offset)

    def truncate(self, fd: int, size: int) -> None:
        self.look()
        self._inodes[self._open[fd]].pending.append((size, None))
        super().truncate(fd, size)

    def fdatasync(self, fd: int) -> None:
        self.look()
        if self._flushes:
            inode = self._inodes[self._open[fd]]
            inode.durable, inode.pending = bytes(self.files[self._open[fd]]), []

    def fsync_directory(self, path: Path) -> None:
        self.look()
        if not self._flushes_names:
            return
        for change in [one for one in self.disk.changes if one[0][0].parent == path]:
            self.disk.changes.remove(change)
            _apply(change, self.disk.names)

    def rename(self, old: Path, new: Path) -> None:
        self.look()
        super().rename(old, new)
        self._inodes[new] = self._inodes.pop(old)
        self.disk.changes.append(((old, None), (new, self._inodes[new])))

    def unlink(self, path: Path) -> None:
        self.look()
        super().unlink(path)
        self._inodes.pop(path, None)
        self.disk.changes.append(((path, None),))


def _apply(change: Name, names: dict[Path, Inode]) -> None:
    for path, inode in change:
        if inode is None:
            names.pop(path, None)
        else:
            names[path] = inode
