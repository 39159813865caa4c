"""Addresses that a device refused, kept in a file so that a restart of the gateway does not ask for all of them again."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import structlog

_VERSION: Final = 1
_DAMAGE: Final = (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refused address: the device's code, when it is asked for again (µs since 1970), and the pause that led there (s)."""

    code: int
    retry_us: int
    pause_s: float


class Quarantine:
    """What one device refused, by address. `load` once, then `put` whenever it changes; both block, so call them in a thread.

    `device` says whose refusals these are (endpoint, slot …): those of another device are not taken over. A file that is damaged or
    cannot be written costs the memory only, and is told once.
    """

    def __init__(self, file: Path, device: str, *, log: structlog.stdlib.BoundLogger) -> None:
        self._file, self._device, self._log = file, device, log
        self._refused: dict[str, Refusal] = {}
        self._broken = False

    def load(self, keys: Collection[str]) -> Mapping[str, Refusal]:
        """What is known of these addresses; everything else is forgotten."""
        try:
            read = _parse(self._file.read_bytes(), self._device)
        except FileNotFoundError:
            read = {}
        except _DAMAGE as error:
            self._log.warning("remembered refusals cannot be read", file=str(self._file), error=str(error))
            read = {}
        self._refused = {key: found for key, found in read.items() if key in keys}
        return self._refused

    def put(self, keys: Iterable[str], refused: Mapping[str, Refusal]) -> None:
        """Of the addresses `keys`, those in `refused` are refused and the others are not. Durable on return."""
        kept = {key: found for key, found in self._refused.items() if key not in set(keys)} | dict(refused)
        if kept == self._refused and not self._broken:
            return
        self._refused = kept
        try:
            self._write()
            self._broken = False
        except OSError as error:
            if not self._broken:
                self._log.warning("refusals cannot be remembered", file=str(self._file), error=error.strerror)
            self._broken = True

    def _write(self) -> None:
        content = {
            "version": _VERSION,
            "device": self._device,
            "refused": {key: asdict(found) for key, found in sorted(self._refused.items())},
        }
        self._file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._file.with_name(self._file.name + ".new")
        with temporary.open("wb") as file:
            file.write(json.dumps(content, indent=1).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._file)
        folder = os.open(self._file.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _parse(raw: bytes, device: str) -> dict[str, Refusal]:
    """What a file holds; nothing when it is of another device or version. Raises one of `_DAMAGE` for what `_write` never wrote."""
    content = json.loads(raw)
    if not isinstance(content, dict):
        raise TypeError("not an object")
    if content["version"] != _VERSION or content["device"] != device:
        return {}
    return {
        str(key): Refusal(int(found["code"]), int(found["retry_us"]), float(found["pause_s"]))
        for key, found in content["refused"].items()
    }
