"""The disk as the spool sees it: a handful of calls, injected, so that full disks, failing flushes and power cuts can be tested."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

Bytes = bytes | bytearray | memoryview
_LOCK_ATTEMPTS: Final = 5


class Storage(Protocol):
    """Blocking file calls; every one may raise OSError. Descriptors are small integers of this storage.

    What is written is durable after `fdatasync` of the file, a name (created, renamed, unlinked) after `fsync_directory`.
    """

    def create(self, path: Path, size: int) -> int:
        """A new file of `size` zero bytes, its blocks allocated, open for reading and writing. Leaves no file behind when it fails."""
        ...

    def open(self, path: Path, *, write: bool = False) -> int:
        """Open a file that exists."""
        ...

    def close(self, fd: int) -> None: ...

    def size(self, fd: int) -> int: ...

    def read(self, fd: int, size: int, offset: int) -> bytes:
        """Up to `size` bytes; fewer only at the end of the file."""
        ...

    def write(self, fd: int, buffers: Sequence[Bytes], offset: int) -> int:
        """Write the buffers one after the other; returns how many bytes were written, which may be fewer than were given."""
        ...

    def truncate(self, fd: int, size: int) -> None: ...

    def fdatasync(self, fd: int) -> None: ...

    def fsync_directory(self, path: Path) -> None: ...

    def make_directory(self, path: Path) -> None:
        """Make a directory and its parents; one that exists is left alone."""
        ...

    def rename(self, old: Path, new: Path) -> None: ...

    def unlink(self, path: Path) -> None: ...

    def list_directory(self, path: Path) -> list[str]:
        """The names in a directory, sorted."""
        ...

    def exists(self, path: Path) -> bool: ...

    def free_bytes(self, path: Path) -> int: ...

    def tree_bytes(self, path: Path) -> int:
        """Bytes of a file, or of all files below a directory. What is not there or cannot be asked counts nothing."""
        ...

    def lock(self, path: Path, owner: str) -> int:
        """Lock a file for one process until `close`; `owner` is written into it.

        Raises BlockingIOError with the present owner's text as message when it is locked.
        """
        ...


class DiskStorage:
    """The real disk."""

    def create(self, path: Path, size: int) -> int:
        """See `Storage.create`."""
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o640)
        try:
            if size:
                os.posix_fallocate(fd, 0, size)  # a clean ENOSPC now instead of a short write later
        except OSError:
            os.close(fd)
            os.unlink(path)
            raise
        return fd

    def open(self, path: Path, *, write: bool = False) -> int:
        """See `Storage.open`."""
        return os.open(path, (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC)

    def close(self, fd: int) -> None:
        """See `Storage.close`."""
        os.close(fd)

    def size(self, fd: int) -> int:
        """See `Storage.size`."""
        return os.fstat(fd).st_size

    def read(self, fd: int, size: int, offset: int) -> bytes:
        """See `Storage.read`."""
        data = os.pread(fd, size, offset)
        if len(data) == size or not data:
            return data
        parts = [data]
        got = len(data)
        while got < size and (data := os.pread(fd, size - got, offset + got)):
            parts.append(data)
            got += len(data)
        return b"".join(parts)

    def write(self, fd: int, buffers: Sequence[Bytes], offset: int) -> int:
        """See `Storage.write`."""
        return os.pwritev(fd, buffers, offset)

    def truncate(self, fd: int, size: int) -> None:
        """See `Storage.truncate`."""
        os.ftruncate(fd, size)

    def fdatasync(self, fd: int) -> None:
        """See `Storage.fdatasync`."""
        os.fdatasync(fd)

    def fsync_directory(self, path: Path) -> None:
        """See `Storage.fsync_directory`."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def make_directory(self, path: Path) -> None:
        """See `Storage.make_directory`."""
        path.mkdir(parents=True, exist_ok=True)

    def rename(self, old: Path, new: Path) -> None:
        """See `Storage.rename`."""
        os.rename(old, new)

    def unlink(self, path: Path) -> None:
        """See `Storage.unlink`."""
        os.unlink(path)

    def list_directory(self, path: Path) -> list[str]:
        """See `Storage.list_directory`."""
        return sorted(os.listdir(path))

    def exists(self, path: Path) -> bool:
        """See `Storage.exists`."""
        return path.exists()

    def free_bytes(self, path: Path) -> int:
        """See `Storage.free_bytes`."""
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def tree_bytes(self, path: Path) -> int:
        """See `Storage.tree_bytes`."""
        found = 0
        for file in [str(path), *(os.path.join(top, name) for top, _, files in os.walk(path) for name in files)]:
            with suppress(OSError):
                found += os.lstat(file).st_size
        return found

    def lock(self, path: Path, owner: str) -> int:
        """See `Storage.lock`. flock, so that two spools in one process exclude one another too."""
        fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o640)
        for attempt in range(_LOCK_ATTEMPTS):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == _LOCK_ATTEMPTS - 1:
                    present = os.pread(fd, 64, 0).decode(errors="replace").strip("\0\n ")
                    os.close(fd)
                    raise BlockingIOError(errno.EWOULDBLOCK, present) from None
                time.sleep(0.02)  # `genba spool stat` looks whether somebody has it, and lets go at once
        with suppress(OSError):  # a full disk must not keep the gateway from draining
            os.pwrite(fd, owner.encode()[:63].ljust(63) + b"\n", 0)
        return fd


def write_all(storage: Storage, fd: int, buffers: Sequence[Bytes], offset: int) -> int:
    """Write everything or raise; returns the number of bytes. A short write is an error: the rest would not fit either."""
    wanted = sum(len(buffer) for buffer in buffers)
    written = storage.write(fd, buffers, offset)
    if written != wanted:
        raise OSError(errno.ENOSPC, f"short write: {written} of {wanted} bytes")
    return wanted


def read_patiently(storage: Storage, fd: int, size: int, offset: int) -> bytes:
    """Like `Storage.read`, with a second try: not every read error of a worn flash is its last word."""
    try:
        return storage.read(fd, size, offset)
    except OSError:
        return storage.read(fd, size, offset)


def open_patiently(storage: Storage, path: Path) -> int:
    """Like `Storage.open` for reading, with a second try: what follows from one refusal may be dear."""
    try:
        return storage.open(path)
    except FileNotFoundError:
        raise
    except OSError:
        return storage.open(path)


def read_file(storage: Storage, path: Path) -> bytes:
    """The whole content of a file."""
    fd = storage.open(path)
    try:
        return read_patiently(storage, fd, storage.size(fd), 0)
    finally:
        storage.close(fd)


def write_file(storage: Storage, path: Path, data: Bytes) -> None:
    """Replace a file by one with this content: durable when it returns, old or new after a crash, nothing between."""
    part = path.with_name(path.name + ".part")
    if storage.exists(part):
        storage.unlink(part)
    fd = storage.create(part, 0)
    try:
        write_all(storage, fd, [data], 0)
        storage.fdatasync(fd)
    finally:
        storage.close(fd)
    storage.rename(part, path)
    storage.fsync_directory(path.parent)
