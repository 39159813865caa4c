"""Remembers over a restart since when a device has been away: its gap row is written when it is back, and by then another run may have begun."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from .spool.storage import DiskStorage, Storage, read_file, write_file


class Absence:
    """One adapter's note on disk, in its private directory. All methods block."""

    def __init__(self, path: Path, storage: Storage | None = None) -> None:
        self._path, self._storage = path, storage or DiskStorage()

    def since_us(self) -> int | None:
        """Since when the device was away when the previous run ended; None when it was there, or nobody knows."""
        try:
            return int(json.loads(read_file(self._storage, self._path))["since"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def begin(self, since_us: int) -> None:
        """Note that the device is away; durable when this returns. Raises OSError."""
        self._storage.make_directory(self._path.parent)
        write_file(self._storage, self._path, json.dumps({"since": since_us}).encode() + b"\n")

    def end(self) -> None:
        """The device is back and its gap is written. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            self._storage.unlink(self._path)
