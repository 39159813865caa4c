"""Where a lake's files lie. A store publishes a finished file under its final name, once; it knows nothing of rows.

Every method blocks: the sink calls them in its own thread. `LocalStore` is a directory, `s3.S3Store` a bucket.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from schemas.lake import TEMPORARY

_NO_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class Store(Protocol):
    """The few operations that exactly-once needs of a place. All raise OSError, or genba's own errors where the place is a service."""

    def open(self) -> None:
        """Make the place usable and remove what a crash left behind."""
        ...

    def examine(self) -> str:
        """What is found there in a few words, without writing. Raises as `open` does."""
        ...

    def scratch(self, name: str) -> Path:
        """A local path for a file in the making."""
        ...

    def publish(self, scratch: Path, path: str) -> bool:
        """Make the scratch file durable as `path` (relative, `/`); False and nothing changed when there is one already."""
        ...

    def replace(self, scratch: Path, path: str) -> None:
        """Make the scratch file durable as `path` in place of what is there; readers see the old or the new one."""
        ...

    def reader(self, path: str) -> BinaryIO:
        """A published file, to be read from any place in it. Raises FileNotFoundError when there is none."""
        ...

    def close(self) -> None:
        """Let go of connections; the next call makes new ones."""
        ...


class LocalStore:
    """A directory. Files in the making lie in `.tmp-<owner>` inside it: the same file system, one place to clean.

    It is made once. A lake that has been there and is not, or an empty directory in its place, is a disk that is not mounted: rows written
    there would be hidden by it as soon as it comes back.
    """

    def __init__(self, root: Path, owner: str, note: Path | None = None) -> None:
        """`note`, a file outside the lake, remembers over restarts that it was made."""
        self._root, self._temporary = root, root / f"{TEMPORARY}{owner}"
        self._note, self._made = note, False
        self._durable: set[Path] = set()  # folders whose names were flushed by this process
        self._unflushed: set[Path] = set()  # folders above the root that hold a name which was not

    def open(self) -> None:
        """Make the directory, the first time, its name durable, and an empty place for files in the making."""
        known = self._known()
        if known and not self._temporary.is_dir():
            self._refuse_a_file()
            out = f"mount it again, or begin a new lake there: mkdir -p {self._temporary.absolute()}"
            raise FileNotFoundError(errno.ENOENT, f"what was written there is not there; {out}", str(self._root))
        made = [folder for folder in (self._root, *self._root.parents) if not folder.exists()]
        self._unflushed |= {folder.parent for folder in (self._root, *made)}
        self._root.mkdir(parents=True, exist_ok=True)
        for folder in sorted(self._unflushed):
            with contextlib.suppress(PermissionError):  # it may not be listed, so the name in it was not made here
                _fsync(folder)
            self._unflushed.discard(folder)
        if not known:
            self._temporary.mkdir(exist_ok=True)
        for left in self._temporary.iterdir():
            with contextlib.suppress(OSError):
                left.unlink()
        self._made = True
        if not known:
            self._remember()

    def _known(self) -> bool:
        """Whether the lake has been made here."""
        if self._made or self._note is None:
            return self._made
        try:
            return self._note.read_text(encoding="utf-8") == str(self._temporary.absolute())
        except (OSError, ValueError):
            return False

    def _remember(self) -> None:
        if self._note is not None:
            with contextlib.suppress(OSError):  # a full disk must not keep the lake from being filled; the next start tries again
                self._note.parent.mkdir(parents=True, exist_ok=True)
                self._note.write_text(str(self._temporary.absolute()), encoding="utf-8")

    def _refuse_a_file(self) -> None:
        if self._root.exists() and not self._root.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "not a directory", str(self._root))

    def examine(self) -> str:
        """The directory, or the one in which it will be made."""
        there = next(folder for folder in (self._root, *self._root.absolute().parents) if folder.exists())
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "not a directory", str(there))
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "not writable", str(there))
        free = shutil.disk_usage(there).free
        if not free:
            raise OSError(errno.ENOSPC, "no space", str(there))
        return f"{self._root} can be written, {free / 1e9:.1f} GB free"

    def scratch(self, name: str) -> Path:
        """A path in the temporary folder; it ends so that no `**/*.parquet` takes it for data."""
        return self._temporary / f"{name}.part"

    def publish(self, scratch: Path, path: str) -> bool:
        """fsync, link (which refuses an existing name, unlike rename), unlink, fsync of the folder.

        That also where the name is taken: whoever gave it may have died, or met an error, before it was durable.
        """
        final = self._root / path
        try:
            _fsync(scratch)
            self._make_folder(final.parent)
            published = _link(scratch, final)
        finally:
            with contextlib.suppress(OSError):
                scratch.unlink()
        _fsync(final.parent)
        return published

    def replace(self, scratch: Path, path: str) -> None:
        """fsync, rename, fsync of the folder."""
        final = self._root / path
        _fsync(scratch)
        self._make_folder(final.parent)
        os.replace(scratch, final)
        _fsync(final.parent)

    def reader(self, path: str) -> BinaryIO:
        """The file itself."""
        return (self._root / path).open("rb")

    def close(self) -> None:
        """Nothing is held open."""

    def _make_folder(self, folder: Path) -> None:
        """Make what is missing below the root, each name durable in its parent. A vanished root is not made anew here.

        A folder that is there may have been made by a process that died, or met an error, before its name was flushed.
        """
        unknown = []
        while folder != self._root:
            if folder not in self._durable or not folder.is_dir():
                unknown.append(folder)
            folder = folder.parent
        if not folder.is_dir():
            raise FileNotFoundError(2, "the directory has vanished", str(folder))
        for one in reversed(unknown):
            self._durable.discard(one)
            one.mkdir(exist_ok=True)
            _fsync(one.parent)
            self._durable.add(one)


def _link(scratch: Path, final: Path) -> bool:
    """Give the file its final name; False when the name is taken."""
    try:
        os.link(scratch, final)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # exFAT and some network shares. No other process uses names of this gateway, so looking first is safe enough there.
        if final.exists():
            return False
        os.rename(scratch, final)
    return True


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a folder of a network share that cannot be flushed by itself
            raise
    finally:
        os.close(descriptor)
