"""Opening a spool directory: lock, identity, ledger, and the logs as recovery finds them. Blocking."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from schemas.errors import ConfigError
from schemas.kinds import KINDS, Kind

from .book import Book
from .format import TooNew
from .identity import Identity, identify, take_lock
from .ledger_file import LedgerFile
from .log import Log
from .quarantine import Quarantine
from .recovery import KindRecovery, recover
from .spans import Spans
from .storage import Storage

BULK: Final[frozenset[Kind]] = frozenset({"telemetry", "score"})
"""Kinds with segments of full size; the others fill theirs slowly and take a sixteenth."""

OTHERS: Final = ("quarantine", "dead-letters", "models", "tags.jsonl", "spool.json")
"""What is in the directory of a spool beside segments and ledger, and takes of its budget."""

SMALLEST_SEGMENT: Final = 64 << 10
_A_PERSON_MUST_ACT: Final = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}


@dataclass(slots=True)
class Opened:
    """The parts of an open spool."""

    lock: int
    identity: Identity
    ledger_file: LedgerFile
    book: Book
    logs: dict[Kind, Log]
    recovery: dict[Kind, KindRecovery]
    other_bytes: int


def open_directory(
    directory: Path, *, storage: Storage, gateway: str, now_us: int, segment_bytes: int, allows: Callable[[int], bool]
) -> Opened:
    """Everything that is on disk, ready to be written to.

    Raises ConfigError when another process has the directory, when it belongs to another gateway or to a newer version, or when it cannot
    be written to. Damage is no reason not to open.
    """
    quarantine = Quarantine(directory / "quarantine", storage)
    try:
        for child in (*KINDS, "quarantine"):
            if not storage.exists(directory / child):
                storage.make_directory(directory / child)
        lock = take_lock(directory, storage)
    except OSError as error:
        if error.errno in _A_PERSON_MUST_ACT:
            raise ConfigError(
                f"the spool cannot be kept in {directory}: {error.strerror}", hint="give the gateway's user write access to it"
            ) from error
        raise
    try:
        storage.fsync_directory(directory.parent)
        file = LedgerFile(directory / "ledger", storage)
        book = file.load()
        noted = Identity(book.gateway, book.epoch)
        identity = identify(directory, storage, quarantine, gateway=gateway, noted=noted, now_us=now_us)
        book.gateway, book.epoch = identity.gateway, identity.epoch
        storage.fsync_directory(directory)  # also of names that a start before this one made, and died before it had flushed them
        logs: dict[Kind, Log] = {}
        recovery: dict[Kind, KindRecovery] = {}
        for kind in KINDS:
            logs[kind], recovery[kind] = _open_log(
                kind, directory / kind, book=book, storage=storage, quarantine=quarantine,
                segment_bytes=_size_for(kind, segment_bytes), allows=allows,
            )  # fmt: skip
        if file.condition == "new" and any(log.segments for log in logs.values()):
            file.condition = "lost"  # but nothing is in it that anybody could want to see
        elif file.condition == "lost":
            quarantine.take_file(directory / "ledger", "ledger")
            file = _fresh(file)
    except TooNew as error:
        storage.close(lock)
        raise ConfigError(
            f"the spool in {directory} was written by a newer version of genba: {error}", hint="install that version"
        ) from error
    except BaseException:
        storage.close(lock)
        raise
    return Opened(lock, identity, file, book, logs, recovery, other_bytes(directory, storage))


def other_bytes(directory: Path, storage: Storage) -> int:
    """Bytes of what the directory holds beside segments and ledger."""
    return sum(storage.tree_bytes(directory / name) for name in OTHERS)


def _fresh(lost: LedgerFile) -> LedgerFile:
    """An empty ledger file in place of one that was put aside; it still says that one was lost."""
    made = lost.anew()
    made.load()
    made.condition = "lost"
    return made


def _size_for(kind: Kind, segment_bytes: int) -> int:
    return segment_bytes if kind in BULK else max(min(SMALLEST_SEGMENT, segment_bytes), segment_bytes // 16)


def _open_log(
    kind: Kind,
    directory: Path,
    *,
    book: Book,
    storage: Storage,
    quarantine: Quarantine,
    segment_bytes: int,
    allows: Callable[[int], bool],
) -> tuple[Log, KindRecovery]:
    segments, report = recover(
        kind, directory, storage=storage, quarantine=quarantine, epoch=book.epoch, high_water=book.high_water(kind)
    )
    log = Log(
        kind, directory, storage=storage, quarantine=quarantine, epoch=book.epoch, segment_bytes=segment_bytes, allows=allows,
        segments=segments, next_row=report.next_row,
    )  # fmt: skip
    known = book.gone.get(kind, Spans())
    # Given up, and the process died before the file went.
    log.remove([segment for segment in segments if known.within(segment.first, segment.next) == segment.next - segment.first])
    needed = book.needed(kind)
    found = Spans(report.missing)
    if needed is not None:
        # What is neither here nor needed was removed in good order.
        found.add(needed, log.oldest)
        found.discard_below(needed)
    else:
        # Where nobody stands every closed segment may go, and a cut may bring some of them back: lost is what is damaged within one.
        found = Spans(
            (max(first, segment.first), min(end, segment.next))
            for first, end in report.missing
            for segment in segments
            if first < segment.next and segment.first < end
        )
    report.missing = [new for first, end in found for new in known.missing_from(first, end)]
    report.first_row = log.oldest
    return log, report


def missing_rows(recovery: Mapping[Kind, KindRecovery]) -> int:
    """How many rows a start found to be missing, over all kinds."""
    return sum(end - first for report in recovery.values() for first, end in report.missing)
