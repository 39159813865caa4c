"""The ledger on disk: two slots, written in turn, so that whatever happens to a write, the other slot is whole. Blocking."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final, Literal

from schemas.errors import ConfigError

from .book import Book
from .format import checksum
from .storage import Storage, open_patiently, read_patiently, write_all

SLOT_BYTES: Final = 128 << 10
LEDGER_BYTES: Final = 2 * SLOT_BYTES
_HEADER: Final = struct.Struct("<8sHHIQ")  # magic, format, zero, length of the body, generation; then the checksum
_CRC: Final = struct.Struct("<I")
_MAGIC: Final = b"GENBALDG"
_FORMAT: Final = 1
LARGEST_BODY: Final = SLOT_BYTES - _HEADER.size - _CRC.size

Condition = Literal["new", "whole", "one slot", "lost"]
"""What a start found: no ledger yet, both slots or the only one written so far, one slot damaged, nothing usable."""


class LedgerFile:
    """The two slots on disk. Blocking, for one thread."""

    def __init__(self, path: Path, storage: Storage) -> None:
        self.path = path
        self.condition: Condition = "new"
        self.generation = 0
        self.written = 0
        self._storage = storage
        self._fd: int | None = None

    def load(self) -> Book:
        """The newest whole content; an empty one, and `condition` lost, where there is none any more.

        Makes the file when it is missing. Raises OSError.
        """
        if not self._storage.exists(self.path):
            fd = self._storage.create(self.path, LEDGER_BYTES)
            try:
                self._storage.fdatasync(fd)
                self._storage.fsync_directory(self.path.parent)
            finally:
                self._storage.close(fd)
            return Book()
        slots = [self._read(at) for at in (0, SLOT_BYTES)]
        used = [data for data in slots if data is None or data.strip(b"\0")]
        whole = [found for data in slots if data is not None and (found := _read_slot(data)) is not None]
        if not whole:
            self.condition = "lost" if used else "new"
            return Book()
        self.generation, book = max(whole, key=lambda slot: slot[0])
        self.condition = "whole" if len(whole) == len(used) else "one slot"
        return book

    def _read(self, offset: int) -> bytes | None:
        """One slot's bytes; None when the disk does not give them back."""
        try:
            fd = open_patiently(self._storage, self.path)  # one refusal must not set the whole spool back to the slot before
        except OSError:
            return None
        try:
            return read_patiently(self._storage, fd, SLOT_BYTES, offset)
        except OSError:
            return None
        finally:
            self._storage.close(fd)

    def save(self, body: bytes) -> None:
        """Make `body` the newest content, durable when this returns. Raises OSError: then the content before is still whole.

        A write that failed is repeated in the same slot through a new descriptor; the other slot is left alone until it worked.
        """
        if self._fd is None:
            self._fd = self._storage.open(self.path, write=True)
        generation = self.generation + 1
        header = _HEADER.pack(_MAGIC, _FORMAT, 0, len(body), generation)
        slot = header + _CRC.pack(checksum(body, checksum(header))) + body
        try:
            write_all(self._storage, self._fd, [slot], (generation & 1) * SLOT_BYTES)
            self._storage.fdatasync(self._fd)
        except OSError:
            self.close()
            raise
        self.generation = generation
        self.written += len(slot)

    def anew(self) -> LedgerFile:
        """The same ledger with nothing read yet."""
        return LedgerFile(self.path, self._storage)

    def close(self) -> None:
        """Let go of the descriptor."""
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        try:
            self._storage.close(fd)
        except OSError:
            return  # nothing was promised of it


def _read_slot(data: bytes) -> tuple[int, Book] | None:
    if len(data) < _HEADER.size + 4:
        return None
    magic, version, _, length, generation = _HEADER.unpack_from(data)
    start = _HEADER.size + 4
    if magic != _MAGIC or start + length > len(data):
        return None
    body = data[start : start + length]
    if _CRC.unpack_from(data, _HEADER.size)[0] != checksum(body, checksum(data[: _HEADER.size])):
        return None
    if version > _FORMAT:
        raise ConfigError(f"the ledger was written by a newer version of genba (format {version})", hint="install that version")
    try:
        return generation, Book.unpack(body)
    except (ValueError, KeyError, TypeError):
        return None
