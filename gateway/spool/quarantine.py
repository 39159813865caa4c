"""Where bytes go that cannot be trusted: kept for people and `genba spool verify`, never read again, never in the way."""

from __future__ import annotations

from pathlib import Path

from .storage import Storage, write_file


class Quarantine:
    """The directory `quarantine` of a spool. Blocking; a full or failing disk costs the evidence, never the start."""

    def __init__(self, directory: Path, storage: Storage) -> None:
        self.directory = directory
        self._storage = storage
        self.files: list[str] = []
        """Names put here since this process started."""

    def take_file(self, path: Path, name: str) -> None:
        """Move a whole file here. One that cannot be moved stays where it is."""
        target = self._free_name(name)
        try:
            self._storage.rename(path, self.directory / target)
        except OSError:
            return
        self.files.append(target)

    def keep_bytes(self, name: str, data: bytes) -> None:
        """Keep a copy of damaged bytes. The same name twice is the same damage, found again."""
        target = self.directory / name
        try:
            if not self._storage.exists(target):
                write_file(self._storage, target, data)
        except OSError:
            return
        self.files.append(name)

    def _free_name(self, name: str) -> str:
        number, target = 1, name
        while self._storage.exists(self.directory / target):
            number += 1
            target = f"{name}.{number}"
        return target
