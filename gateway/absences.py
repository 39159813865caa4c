"""Since when each device has been away, kept on disk: the gap row is written when it is back, and the gateway may end before that.

One small file for all adapters. An absence is over when its gap row is durable: until then a restart takes it up again, from its own
beginning, however much other devices have read meanwhile.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import structlog

from .spool.storage import DiskStorage, Storage, read_file, write_file

_NAME: Final = "absences.json"


@dataclass(frozen=True, slots=True)
class Pending:
    """Nothing has been heard since `since_us`, and why. `told` is the number of the gap row that says so, once there is one."""

    since_us: int
    cause: str
    told: int | None = None


class Absences:
    """The absences of all adapters of one gateway. Made by `open`."""

    def __init__(
        self,
        path: Path,
        storage: Storage,
        found: dict[str, Pending],
        durable_gaps: Callable[[], int],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        """For `open`."""
        self._path, self._storage, self._log = path, storage, log
        self._durable_gaps = durable_gaps
        self._pending = found
        self._version = self._saved = 0
        self._saving = asyncio.Lock()
        self._unstored = ""

    @classmethod
    async def open(
        cls,
        directory: Path,
        adapters: Iterable[str],
        *,
        last_seen_us: int | None,
        durable_gaps: Callable[[], int],
        log: structlog.stdlib.BoundLogger,
        storage: Storage | None = None,
    ) -> Absences:
        """What is pending in `directory`, durable when it returns. An adapter that was not away is so since the gateway ended, `last_seen_us`.

        `durable_gaps` asks for the first number of a gap row that is not durable: an absence that was told by a row from there on was not. A
        damaged file costs the beginnings that it held.
        """
        disk, path = storage or DiskStorage(), directory / _NAME
        before = await asyncio.to_thread(_read, path, disk)
        found = {}
        for name in adapters:
            known = before.get(name)
            if known is not None and (known.told is None or known.told >= durable_gaps()):
                # What was read between the last durable row and its beginning went with the power: nothing is known from there on.
                since_us = known.since_us if last_seen_us is None else min(known.since_us, last_seen_us)
                found[name] = replace(known, told=None, since_us=since_us)
            elif last_seen_us is not None:
                found[name] = Pending(last_seen_us, "gateway_stopped")
        made = cls(path, disk, found, durable_gaps, log)
        if found != before:
            await made._save()
        return made

    def of(self, adapter: str) -> Absence:
        """The one of an adapter."""
        return Absence(self, adapter)

    def pending(self, adapter: str) -> Pending | None:
        """Its absence, None while it is there."""
        found = self._pending.get(adapter)
        return found if found is not None and found.told is None else None

    async def begin(self, adapter: str, since_us: int, cause: str) -> None:
        """See `Absence`. One before it whose gap row is not durable yet goes on: should the gateway die now, that row was never there."""
        before = self._pending.get(adapter)
        if before is not None and before.told is not None and before.told >= self._durable_gaps():
            since_us, cause = before.since_us, before.cause
        await self.note(adapter, Pending(since_us, cause))

    async def note(self, adapter: str, pending: Pending | None) -> None:
        """Remember it, durable when it returns, unless the disk does not take it: then it holds until the gateway ends."""
        if self._pending.get(adapter) == pending:
            return
        if pending is None:
            del self._pending[adapter]
        else:
            self._pending[adapter] = pending
        await self._save()

    async def _save(self) -> None:
        """Whoever comes first writes for all who wait behind it."""
        self._version += 1
        wanted = self._version
        async with self._saving:
            if self._saved >= wanted:
                return
            version = self._version
            data = json.dumps({name: asdict(one) for name, one in self._pending.items()}, ensure_ascii=False).encode()
            try:
                await asyncio.to_thread(write_file, self._storage, self._path, data + b"\n")
            except OSError as error:
                if not self._unstored:
                    self._log.warning("since when devices are away cannot be stored", error=error.strerror or str(error))
                self._unstored = str(error)
            else:
                self._saved, self._unstored = version, ""


class Absence:
    """That of one adapter."""

    def __init__(self, absences: Absences, adapter: str) -> None:
        self._absences, self._adapter = absences, adapter

    @property
    def pending(self) -> Pending | None:
        """Since when nothing has been heard; None while all is well."""
        return self._absences.pending(self._adapter)

    async def begin(self, since_us: int, cause: str) -> None:
        """Nothing has been heard since then."""
        await self._absences.begin(self._adapter, since_us, cause)

    async def told(self, gap_row: int | None) -> None:
        """It is over, and the gap row with this number says so; None where there was nothing to say."""
        pending = self.pending
        if pending is not None:
            await self._absences.note(self._adapter, None if gap_row is None else replace(pending, told=gap_row))


def _read(path: Path, storage: Storage) -> dict[str, Pending]:
    try:
        document = json.loads(read_file(storage, path)) if storage.exists(path) else {}
        return {str(name): Pending(int(one["since_us"]), str(one["cause"]), one["told"]) for name, one in document.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
