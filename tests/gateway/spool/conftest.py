"""Spools in a temporary directory, batches of every kind, and a disk that fails on command."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import structlog

from gateway.spool import DiskStorage, Spool
from gateway.spool.worker import ThreadWorker
from schemas.kinds import Kind, make_batch, telemetry
from tests.conftest import ManualClock

OpenSpool = Callable[..., Awaitable[Spool]]


class FaultyStorage(DiskStorage):
    """The real disk, on which named calls fail. `fail("write", errno.ENOSPC, skip=2)` fails the third and all later writes."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}
        self._faults: dict[str, tuple[int, int, int]] = {}  # call -> (error number, calls to skip, times to fail)
        self.short = False

    def fail(self, call: str, error: int = errno.EIO, *, skip: int = 0, times: int = 1 << 30) -> None:
        self._faults[call] = (error, self.calls.get(call, 0) + skip, times)

    def heal(self) -> None:
        self._faults.clear()
        self.short = False

    def _called(self, call: str) -> bool:
        number = self.calls.get(call, 0)
        self.calls[call] = number + 1
        if call in self._faults:
            error, skip, times = self._faults[call]
            if skip <= number < skip + times:
                raise OSError(error, errno.errorcode[error])
        return True

    def create(self, path: Path, size: int) -> int:
        self._called("create")
        return super().create(path, size)

    def open(self, path: Path, *, write: bool = False) -> int:
        self._called("open")
        return super().open(path, write=write)

    def write(self, fd: int, buffers: Sequence[Any], offset: int) -> int:
        self._called("write")
        if self.short:
            whole = b"".join(buffers)
            return super().write(fd, [whole[: len(whole) // 2]], offset)
        return super().write(fd, buffers, offset)

    def read(self, fd: int, size: int, offset: int) -> bytes:
        self._called("read")
        return super().read(fd, size, offset)

    def truncate(self, fd: int, size: int) -> None:
        self._called("truncate")
        super().truncate(fd, size)

    def fdatasync(self, fd: int) -> None:
        self._called("fdatasync")
        super().fdatasync(fd)

    def fsync_directory(self, path: Path) -> None:
        self._called("fsync_directory")
        super().fsync_directory(path)

    def unlink(self, path: Path) -> None:
        self._called("unlink")
        super().unlink(path)

    def rename(self, old: Path, new: Path) -> None:
        self._called("rename")
        super().rename(old, new)


class MemoryStorage:
    """A disk in memory, for tests that open thousands of spools."""

    def __init__(self) -> None:
        self.files: dict[Path, bytearray] = {}
        self.directories: set[Path] = set()
        self._open: dict[int, Path] = {}
        self._next = 3

    def _opened(self, path: Path) -> int:
        self._next += 1
        self._open[self._next] = path
        return self._next

    def create(self, path: Path, size: int) -> int:
        if path in self.files:
            raise FileExistsError(errno.EEXIST, "exists")
        self.files[path] = bytearray(size)
        return self._opened(path)

    def open(self, path: Path, *, write: bool = False) -> int:
        if path not in self.files:
            raise FileNotFoundError(errno.ENOENT, "not there")
        return self._opened(path)

    def close(self, fd: int) -> None:
        del self._open[fd]

    def size(self, fd: int) -> int:
        return len(self.files[self._open[fd]])

    def read(self, fd: int, size: int, offset: int) -> bytes:
        return bytes(self.files[self._open[fd]][offset : offset + size])

    def write(self, fd: int, buffers: Sequence[Any], offset: int) -> int:
        data = b"".join(buffers)
        file = self.files[self._open[fd]]
        file.extend(bytes(max(0, offset - len(file))))
        file[offset : offset + len(data)] = data
        return len(data)

    def truncate(self, fd: int, size: int) -> None:
        file = self.files[self._open[fd]]
        del file[size:]
        file.extend(bytes(size - len(file)))

    def fdatasync(self, fd: int) -> None:
        """Nothing to do."""

    def fsync_directory(self, path: Path) -> None:
        """Nothing to do."""

    def make_directory(self, path: Path) -> None:
        self.directories.add(path)

    def rename(self, old: Path, new: Path) -> None:
        self.files[new] = self.files.pop(old)

    def unlink(self, path: Path) -> None:
        if path not in self.files:
            raise FileNotFoundError(errno.ENOENT, "not there")
        del self.files[path]

    def list_directory(self, path: Path) -> list[str]:
        return sorted(file.name for file in self.files if file.parent == path)

    def exists(self, path: Path) -> bool:
        return path in self.files

    def free_bytes(self, path: Path) -> int:
        return 1 << 40

    def tree_bytes(self, path: Path) -> int:
        return sum(len(data) for file, data in self.files.items() if file == path or path in file.parents)

    def lock(self, path: Path, owner: str) -> int:
        if path in self._open.values():
            raise BlockingIOError(errno.EWOULDBLOCK, owner)
        self.files.setdefault(path, bytearray())
        return self._opened(path)


def readings(rows: int, start: int = 0, **columns: object) -> pa.RecordBatch:
    """Telemetry whose values are `start`, `start` + 1, …, so that a row says which one it is."""
    values = np.arange(start, start + rows, dtype=np.float64)
    return telemetry(
        time_us=1_767_225_600_000_000 + np.arange(start, start + rows, dtype=np.int64),
        tag=np.zeros(rows, np.int32),
        value=values,
        **columns,
    )


def alerts(rows: int, onset: int | None = None) -> pa.RecordBatch:
    return make_batch("alert", rows, time=0, alarm="hot", onset_seq=onset)


def values(read: Sequence[tuple[int, pa.RecordBatch]]) -> list[float]:
    return [value for _, batch in read for value in batch.column("value").to_pylist()]


def numbers(read: Sequence[tuple[int, pa.RecordBatch]]) -> list[int]:
    return [row for first, batch in read for row in range(first, first + batch.num_rows)]


async def everything(spool: Spool, kind: Kind = "telemetry", first: int = 0) -> list[tuple[int, pa.RecordBatch]]:
    """All readable rows, from disk as well as from memory."""
    return await spool.read(kind, first, max_rows=1 << 40)


def segments(directory: Path, kind: Kind = "telemetry") -> list[Path]:
    return sorted((directory / kind).glob("*.seg"))


def crash(spool: Spool) -> None:
    """Leave the spool as a killed process would: nothing is flushed, closed or noted; the lock goes with the descriptor."""
    for task in spool._tasks:
        task.cancel()
    spool._first_collection.cancel()
    spool._closed = True
    for worker in (spool._writer, spool._reader, spool._thinner):
        if isinstance(worker, ThreadWorker):  # what is being written when the process dies is written or not; here it is
            worker._executor.shutdown(wait=True, cancel_futures=True)
    storage = spool._storage
    for log in spool._logs.values():
        if log._fd is not None:
            storage.close(log._fd)
            log._fd = None
    spool._ledger_file.close()
    storage.close(spool._lock)


@pytest.fixture
async def open_spool(tmp_path: Path, manual_clock: ManualClock) -> AsyncIterator[OpenSpool]:
    """Opens spools below tmp_path/spool and closes what the test left open."""
    opened: list[Spool] = []

    async def open_(**options: Any) -> Spool:
        options = {"gateway": "gw", "clock": manual_clock, "log": structlog.get_logger(), "commit_every_s": 0.005, **options}
        spool = await Spool.open(options.pop("directory", tmp_path / "spool"), **options)
        opened.append(spool)
        return spool

    yield open_
    for spool in opened:
        await spool.close()


@asynccontextmanager
async def running(open_spool: OpenSpool, **options: Any) -> AsyncIterator[Spool]:
    spool = await open_spool(**options)
    try:
        yield spool
    finally:
        await spool.close()


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield
