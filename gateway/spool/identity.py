"""What makes a directory one gateway's spool: its lock, its name and its epoch. Blocking."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from schemas.errors import ConfigError
from schemas.kinds import KINDS

from . import format as f
from .quarantine import Quarantine
from .segment import parse_name
from .storage import Storage, read_file, write_file

_NAME: Final = "spool.json"


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose rows these are. (gateway, epoch, kind, row) names a row for ever."""

    gateway: str
    epoch: int


def take_lock(directory: Path, storage: Storage) -> int:
    """Lock the directory for this process; the descriptor holds the lock. Raises ConfigError naming the process that has it."""
    try:
        return storage.lock(directory / "lock", str(os.getpid()))
    except BlockingIOError as error:
        owner = (error.strerror or "").strip() or "unknown"
        raise ConfigError(
            f"the spool in {directory} is in use by process {owner}",
            hint="stop that gateway first, or give this one a spool.directory of its own",
        ) from None


def identify(
    directory: Path, storage: Storage, quarantine: Quarantine, *, gateway: str, noted: Identity, now_us: int
) -> Identity:
    """The identity of a spool; makes it for a new one.

    The epoch of a new spool is the time of its making in seconds, so that a gateway that lost its disk never names two rows alike. A damaged
    identity file is put aside and made again from what the ledger has `noted` or from the segments. Raises ConfigError when the
    spool belongs to a gateway of another name.
    """
    path = directory / _NAME
    found = read_identity(directory, storage)
    if found is None:
        if storage.exists(path):
            quarantine.take_file(path, _NAME)
        epoch = noted.epoch or _epoch_of_segments(directory, storage) or max(1, now_us // 1_000_000)
        found = Identity(noted.gateway or gateway, epoch)
    if found.gateway != gateway:
        raise ConfigError(
            f"the spool in {directory} belongs to gateway {found.gateway!r}, not to {gateway!r}",
            hint="give the gateway its old name, or another spool.directory",
        )
    if not storage.exists(path):
        text = json.dumps({"format": f.FORMAT, "gateway": found.gateway, "epoch": found.epoch, "created_us": now_us})
        write_file(storage, path, text.encode() + b"\n")
    return found


def read_identity(directory: Path, storage: Storage) -> Identity | None:
    """What a spool says it is; None where it says nothing that can be read."""
    path = directory / _NAME
    if not storage.exists(path):
        return None
    try:
        document = json.loads(read_file(storage, path))
        return Identity(str(document["gateway"]), int(document["epoch"]))
    except (ValueError, KeyError, TypeError, OSError):
        return None


def _head(path: Path, storage: Storage) -> bytes:
    try:
        fd = storage.open(path)
    except OSError:
        return b""
    try:
        return storage.read(fd, f.SEGMENT_HEADER_BYTES, 0)
    except OSError:
        return b""
    finally:
        storage.close(fd)


def _epoch_of_segments(directory: Path, storage: Storage) -> int:
    """The newest epoch that any segment names; 0 when there is none."""
    epochs = [0]
    for kind in KINDS:
        for name in storage.list_directory(directory / kind):
            if parse_name(name) is None:
                continue
            header = f.unpack_segment_header(_head(directory / kind / name, storage))
            if header is not None:
                epochs.append(header.epoch)
    return max(epochs)
