"""A lake as its keeper sees it: what `store` can do, and listing, fetching, removing, and writing a small file only if nobody else did.

For compaction and verification. Every method blocks; OSError of a directory, genba's own errors of a bucket.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from cloud_sinks.aws import Account, AwsConfig
from schemas.errors import Busy
from schemas.lake import TEMPORARY

from .s3 import S3Store
from .store import LocalStore, Store

if TYPE_CHECKING:
    import structlog
    from botocore.client import BaseClient

_LOCK: Final = ".manifest.lock"
_OURS: Final = "compact-"


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in a folder of the lake; `size` and `modified_us` (µs since 1970) are 0 for a folder."""

    name: str
    size: int = 0
    modified_us: int = 0
    folder: bool = False


class Shelf(Store, Protocol):
    """What keeping a lake takes of a place. Paths are relative, `/` between."""

    def entries(self, folder: str) -> list[Entry]:
        """What is in a folder, by name; nothing when there is no such folder."""
        ...

    def size(self, path: str) -> int | None:
        """Bytes of a file; None when there is none."""
        ...

    def read_small(self, path: str) -> tuple[bytes, str] | None:
        """A small file and the version that `swap` asks for; None when there is none."""
        ...

    def swap(self, path: str, data: bytes, version: str | None) -> bool:
        """Make `data` the content, durable, if it still is of `version` (None: is still not there); False and nothing changed otherwise."""
        ...

    def fetched(self, path: str) -> Path:
        """The file on this machine; `let_go` when it is not needed any more. Raises FileNotFoundError."""
        ...

    def let_go(self, path: str) -> None:
        """Remove what `fetched` had to copy."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file; one that is not there is no error."""
        ...


class LocalShelf(LocalStore):
    """A directory. Files in the making lie in a folder of this process; those of processes that died are removed by `open`."""

    def __init__(self, root: Path) -> None:
        """Touches nothing; reading needs no `open`."""
        self._mine = f"{_OURS}{os.getpid()}-{secrets.token_hex(4)}"
        self._held: int | None = None
        super().__init__(root, self._mine)

    def open(self) -> None:
        """Make the folder for files in the making, hold a lock in it, and clear away those that nobody holds. FileNotFoundError where there is no lake."""
        if not self._root.is_dir():
            raise FileNotFoundError(2, "no such directory", str(self._root))
        for folder in self._root.glob(f"{TEMPORARY}{_OURS}*"):
            with contextlib.suppress(OSError):
                held = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
                finally:
                    os.close(held)
        while self._held is None:
            self._temporary.mkdir(exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # somebody cleared it away before it was held
                held = os.open(self._temporary, os.O_RDONLY | os.O_CLOEXEC)
                fcntl.flock(held, fcntl.LOCK_EX)
                if self._temporary.is_dir() and os.path.samestat(os.fstat(held), self._temporary.stat()):
                    self._held = held
                else:
                    os.close(held)

    def close(self) -> None:
        """Remove the folder for files in the making."""
        held, self._held = self._held, None
        if held is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            os.close(held)

    def entries(self, folder: str) -> list[Entry]:
        """See `Shelf`."""
        found = []
        try:
            with os.scandir(self._root / folder) as listing:
                for one in listing:
                    if one.is_dir():
                        found.append(Entry(one.name, folder=True))
                        continue
                    with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                        about = one.stat()
                        found.append(Entry(one.name, about.st_size, about.st_mtime_ns // 1000))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(found, key=lambda entry: entry.name)

    def size(self, path: str) -> int | None:
        """See `Shelf`."""
        try:
            return (self._root / path).stat().st_size
        except FileNotFoundError:
            return None

    def read_small(self, path: str) -> tuple[bytes, str] | None:
        """See `Shelf`. The version is a hash of the content."""
        try:
            data = (self._root / path).read_bytes()
        except FileNotFoundError:
            return None
        return data, hashlib.sha256(data).hexdigest()

    def swap(self, path: str, data: bytes, version: str | None) -> bool:
        """See `Shelf`. Compares and renames under a lock that every process of genba takes; it has to be a file system with locks."""
        lock = os.open(self._root / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            there = self.read_small(path)
            if (None if there is None else there[1]) != version:
                return False
            scratch = self.scratch(f"swap-{secrets.token_hex(4)}")
            scratch.write_bytes(data)
            self.replace(scratch, path)
            return True
        finally:
            os.close(lock)

    def fetched(self, path: str) -> Path:
        """See `Shelf`. The file itself."""
        found = self._root / path
        if not found.is_file():
            raise FileNotFoundError(2, "no such file", str(found))
        return found

    def let_go(self, path: str) -> None:
        """See `Shelf`. Nothing was copied."""

    def remove(self, path: str) -> None:
        """See `Shelf`. That it does not come back after a power cut is not needed: it does not count any more."""
        (self._root / path).unlink(missing_ok=True)


class S3Shelf(S3Store):
    """A bucket and a prefix. What is fetched and what is in the making lies in a temporary folder of this machine."""

    def __init__(
        self,
        location: str,
        aws: AwsConfig,
        *,
        log: structlog.stdlib.BoundLogger,
        base: Path | None = None,
        kms_key: str | None = None,
    ) -> None:
        """Touches nothing; reading needs no `open`. `base` is what relative paths in `aws` are relative to."""
        self._work = Path(tempfile.mkdtemp(prefix="genba-lake-"))
        account = Account(aws, base or Path(), "lake")
        super().__init__(account, location, owner="compact", directory=self._work, kms_key=kms_key, log=log)

    def close(self) -> None:
        """Close the connections and remove the temporary folder."""
        super().close()
        shutil.rmtree(self._work, ignore_errors=True)

    def entries(self, folder: str) -> list[Entry]:
        """See `Shelf`."""
        prefix = f"{self._prefix}{folder}/" if folder else self._prefix

        def listed(s3: BaseClient) -> list[Entry]:
            found: list[Entry] = []
            pages: Any = s3.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=prefix, Delimiter="/"):
                found += [Entry(one["Prefix"][len(prefix) :].rstrip("/"), folder=True) for one in page.get("CommonPrefixes", ())]
                found += [
                    Entry(one["Key"][len(prefix) :], int(one["Size"]), int(one["LastModified"].timestamp() * 1e6))
                    for one in page.get("Contents", ())
                ]
            return sorted(found, key=lambda entry: entry.name)

        return self._account.call("s3", f"list {self._url(folder)}", listed)

    def size(self, path: str) -> int | None:
        """See `Shelf`."""
        return self._size(path)

    def read_small(self, path: str) -> tuple[bytes, str] | None:
        """See `Shelf`. The version is the ETag."""

        def read(s3: BaseClient) -> tuple[bytes, str] | None:
            try:
                answer = s3.get_object(Bucket=self._bucket, Key=self._prefix + path)
            except s3.exceptions.NoSuchKey:
                return None
            return answer["Body"].read(), str(answer["ETag"])

        return self._account.call("s3", f"read {self._url(path)}", read)

    def swap(self, path: str, data: bytes, version: str | None) -> bool:
        """See `Shelf`. `If-Match` or `If-None-Match: *`; a service that ignores both is looked at first, which two at once could slip through."""
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        if not self._exclusive:
            there = self.read_small(path)
            if (None if there is None else there[1]) != version:
                return False
            condition = {}
        return self._put_if(path, data, condition)

    def fetched(self, path: str) -> Path:
        """See `Shelf`. Downloaded."""
        copy = self._copy(path)
        copy.parent.mkdir(parents=True, exist_ok=True)
        with self.reader(path) as source, copy.open("wb") as target:
            shutil.copyfileobj(source, target, 8 << 20)
        return copy

    def let_go(self, path: str) -> None:
        """See `Shelf`."""
        self._copy(path).unlink(missing_ok=True)

    def remove(self, path: str) -> None:
        """See `Shelf`."""
        self._account.call(
            "s3", f"remove {self._url(path)}", lambda s3: s3.delete_object(Bucket=self._bucket, Key=self._prefix + path)
        )

    def _copy(self, path: str) -> Path:
        return self._work / "fetched" / path


def shelf_of(
    location: str | Path,
    aws: AwsConfig,
    *,
    log: structlog.stdlib.BoundLogger,
    base: Path | None = None,
    kms_key: str | None = None,
) -> Shelf:
    """The shelf of a directory (relative to `base`) or of `s3://bucket/prefix`. Touches nothing but, for a bucket, a temporary folder."""
    text = str(location)
    if text.startswith("s3://"):
        return S3Shelf(text, aws, log=log, base=base, kms_key=kms_key)
    return LocalShelf((base or Path()) / text)


def swapped(shelf: Shelf, path: str, data: bytes, version: str | None) -> bool:
    """`swap`, once more where another write of the same object is just under way."""
    try:
        return shelf.swap(path, data, version)
    except Busy:
        return False
