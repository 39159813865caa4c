"""A disk in memory and a lake in a real directory whose n-th call fails: out of space, an error of the medium, half a write, a flush that failed.

One counter numbers the calls of both. What a failing flush left unwritten stays unwritten, as on Linux: the pages count as clean, a later
flush of the same file says yes and writes nothing of them. Names and contents that were not flushed go when the power is cut.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal
from unittest.mock import patch

from cloud_sinks.parquet import dictionary, publish
from cloud_sinks.parquet.store import LocalStore
from tests.gateway.spool.power import Inode, PowerStorage

Lasting = Literal["once", "for a while", "until a restart"]
Errors = tuple[int | str, ...]

_ROOM: Errors = (errno.ENOSPC, errno.EIO)
_MEDIUM: Errors = (errno.EIO,)
ERRORS: dict[str, Errors] = {
    "create": _ROOM, "write": (errno.ENOSPC, errno.EIO, "short"), "truncate": _MEDIUM, "fdatasync": _MEDIUM, "fsync_directory": _MEDIUM,
    "rename": _ROOM, "unlink": _MEDIUM, "make_directory": _ROOM, "open": _MEDIUM, "read": _MEDIUM, "list_directory": _MEDIUM, "lock": _ROOM,
    "lake write": (errno.ENOSPC, errno.EIO, "short"), "lake fsync": _MEDIUM, "lake link": _ROOM, "lake replace": _ROOM, "lake mkdir": _ROOM,
    "lake open": _MEDIUM, "lake read": _MEDIUM, "lake unlink": _MEDIUM,
}  # fmt: skip
"""What each call may answer."""

LOOKS = frozenset({"open", "read", "list_directory", "lake open", "lake read"})
"""Calls that change nothing. They fail once only: what cannot be read time and again is damage, and counts as such."""


@dataclass(frozen=True, slots=True)
class Fault:
    """The `number`-th call (from 0) answers `error`; later ones that change something answer it too, as long as it lasts."""

    number: int
    error: int | str
    lasting: Lasting = "once"


@dataclass
class Calls:
    """Numbers the calls and says which of them fail."""

    fault: Fault | None = None
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    on: bool = True
    names: list[str] = field(default_factory=list)
    struck: bool = False
    healed: bool = False
    on_strike: Callable[[], None] = lambda: None

    @property
    def lasts(self) -> bool:
        """The disk fails at present, and goes on failing."""
        return self.struck and not self.healed

    def heal(self) -> None:
        """The disk works from now on, if it has failed before."""
        self.healed = self.healed or self.struck

    def answer(self, name: str) -> int | str | None:
        """What this call has to fail with, None when it works."""
        if not self.on:
            return None
        number = len(self.names)
        self.names.append(name)
        fault = self.fault
        if fault is None:
            return None
        if number == fault.number:
            self.struck, self.healed = True, fault.lasting == "once"
            self.on_strike()
            return fault.error
        if self.lasts and name not in LOOKS:
            return fault.error if fault.error in ERRORS[name] else errno.EIO
        return None

    def called(self, name: str) -> None:
        """Count the call, and raise what it has to fail with."""
        answer = self.answer(name)
        if answer is not None:
            _fail(answer)


def _fail(answer: int | str) -> None:
    number = errno.ENOSPC if isinstance(answer, str) else answer
    raise OSError(number, os.strerror(number))


class FailingStorage(PowerStorage):
    """The spool's disk. `believes` is what a broken spool would not notice: "fsync" or "short"."""

    def __init__(self, calls: Calls, believes: str = "") -> None:
        super().__init__()
        self.calls, self.believes = calls, believes
        self.wrong: list[str] = []
        self._distrusted: set[int] = set()

    def create(self, path: Path, size: int) -> int:
        self.calls.called("create")
        return super().create(path, size)

    def open(self, path: Path, *, write: bool = False) -> int:
        self.calls.called("open")
        return super().open(path, write=write)

    def close(self, fd: int) -> None:
        self._distrusted.discard(fd)
        super().close(fd)

    def read(self, fd: int, size: int, offset: int) -> bytes:
        self.calls.called("read")
        return super().read(fd, size, offset)

    def write(self, fd: int, buffers: Sequence[Any], offset: int) -> int:
        self._trusted(fd)
        answer = self.calls.answer("write")
        if answer == "short":
            whole = b"".join(buffers)
            written = super().write(fd, [whole[: len(whole) // 2]], offset)
            return len(whole) if self.believes == "short" else written
        if answer is not None:
            _fail(answer)
        return super().write(fd, buffers, offset)

    def truncate(self, fd: int, size: int) -> None:
        self.calls.called("truncate")
        super().truncate(fd, size)

    def fdatasync(self, fd: int) -> None:
        self._trusted(fd)
        inode = self._inodes[self._open[fd]]
        answer = self.calls.answer("fdatasync")
        if answer is None:
            inode.durable, inode.pending = _settled(inode), []
            return
        inode.durable, inode.pending = bytes(inode.drawn(self.calls.rng)), []
        if self.believes != "fsync":
            self._distrusted.add(fd)
            _fail(answer)

    def _trusted(self, fd: int) -> None:
        if fd in self._distrusted:
            self.wrong.append(f"{self._open[fd].name}: a descriptor is used again whose flush has failed")

    def fsync_directory(self, path: Path) -> None:
        self.calls.called("fsync_directory")
        super().fsync_directory(path)

    def rename(self, old: Path, new: Path) -> None:
        self.calls.called("rename")
        super().rename(old, new)

    def unlink(self, path: Path) -> None:
        self.calls.called("unlink")
        super().unlink(path)

    def make_directory(self, path: Path) -> None:
        self.calls.called("make_directory")
        super().make_directory(path)

    def list_directory(self, path: Path) -> list[str]:
        self.calls.called("list_directory")
        return super().list_directory(path)

    def lock(self, path: Path, owner: str) -> int:
        self.calls.called("lock")
        fd = super().lock(path, owner)
        self._inodes.setdefault(path, Inode())
        return fd

    def exists(self, path: Path) -> bool:
        return path in self.directories or super().exists(path)

    def opened(self) -> list[str]:
        """The names of what is open."""
        return sorted(path.name for path in self._open.values())


def _settled(inode: Inode) -> bytes:
    data = bytearray(inode.durable)
    for at, written in inode.pending:
        if written is None:
            del data[at:]
            data.extend(bytes(at - len(data)))
        else:
            data.extend(bytes(max(0, at - len(data))))
            data[at : at + len(written)] = written
    return bytes(data)


class FailingLake:
    """The file operations below `root`, in this process. `believes_fsync`: a flush that failed looks as if it had worked."""

    def __init__(self, root: Path, calls: Calls, *, believes_fsync: bool = False) -> None:
        self.root, self.calls, self.believes_fsync = root, calls, believes_fsync
        self.published: list[str] = []
        """The final names, in the order in which they came."""
        self.wrong: list[str] = []
        self._names: set[Path] = set()  # not known to be durable
        self._contents: set[Path] = set()  # written, and not flushed since
        self._doomed: set[Path] = set()  # a flush of them has failed

    def cut_power(self) -> None:
        """What was not flushed is gone. No call of the gateway's is among these."""
        on, self.calls.on = self.calls.on, False
        for path in self._contents & {Path(top) / name for top, _, files in os.walk(self.root) for name in files}:
            os.truncate(path, 0)
        for path in sorted(self._names, reverse=True):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        self._names, self._contents, self._doomed = set(), set(), set()
        self.calls.on = on

    @contextmanager
    def installed(self) -> Iterator[None]:
        """As long as this is open, calls go through here."""
        real = {name: getattr(os, name) for name in ("open", "fsync", "link", "replace", "mkdir", "unlink")}
        write_file, reader = publish.write_file, LocalStore.reader

        def ours(path: object) -> bool:
            return isinstance(path, (str, os.PathLike)) and str(path).startswith(str(self.root))

        def called(name: str, *paths: object) -> bool:
            if not ours(paths[-1]):
                return False
            self.calls.called(f"lake {name}")
            return True

        def open_(path: Any, flags: int, *args: Any, **options: Any) -> int:
            called("open", path)
            return int(real["open"](path, flags, *args, **options))

        def fsync(fd: int) -> None:
            path = Path(os.readlink(f"/proc/self/fd/{fd}"))
            answer = self.calls.answer("lake fsync") if ours(path) else None
            if answer is not None:
                self._doomed |= {path} & self._contents
                if not self.believes_fsync:
                    _fail(answer)
            elif path in self._contents:
                self._contents -= {path} - self._doomed
            else:
                self._names = {name for name in self._names if name.parent != path}

        def link(old: Any, new: Any) -> None:
            if called("link", old, new):
                real["link"](old, new)
                self._named(Path(old), Path(new))
                self.published.append(Path(new).name)

        def replace(old: Any, new: Any) -> None:
            if called("replace", old, new):
                real["replace"](old, new)
                self._named(Path(old), Path(new))
                self._names.discard(Path(new))  # the old content under this name would do as well
                return
            real["replace"](old, new)

        def mkdir(path: Any, *args: Any, **options: Any) -> None:
            known = Path(path).is_dir()
            mine = called("mkdir", path)
            real["mkdir"](path, *args, **options)
            if mine and not known:
                self._names.add(Path(path))

        def unlink(path: Any, *args: Any, **options: Any) -> None:
            called("unlink", path)
            real["unlink"](path, *args, **options)
            self._names.discard(Path(path))
            self._contents.discard(Path(path))

        def write(path: Path, *args: Any) -> None:
            answer = self.calls.answer("lake write")
            if isinstance(answer, int):
                _fail(answer)
            self._contents.add(path)
            self._doomed.discard(path)
            write_file(path, *args)
            if answer is not None:
                os.truncate(path, path.stat().st_size // 2)
                _fail(answer)

        def read(store: LocalStore, path: str) -> BinaryIO:
            self.calls.called("lake read")
            return reader(store, path)

        with ExitStack() as stack:
            for name, one in (("open", open_), ("fsync", fsync), ("link", link), ("replace", replace), ("mkdir", mkdir), ("unlink", unlink)):  # fmt: skip
                stack.enter_context(patch.object(os, name, one))
            for module in (publish, dictionary):
                stack.enter_context(patch.object(module, "write_file", write))
            stack.enter_context(patch.object(LocalStore, "reader", read))
            yield

    def _named(self, old: Path, new: Path) -> None:
        self._names.add(new)
        if old in self._contents:
            if not self.believes_fsync:
                self.wrong.append(f"{new.name} is published before it is flushed")
            self._contents.add(new)
