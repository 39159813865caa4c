"""Who has had which rows: per kind and sink the next row to deliver, the cut in flight and the counters; and cursors by name.

Kept in memory and in one small preallocated file of two slots, which are written in turn: whatever happens to a write, the other
slot is whole. A write is an overwrite in place, so the ledger goes on when the disk is full.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, cast

from schemas.errors import Busy, ConfigError
from schemas.kinds import KINDS, Kind

from .format import checksum
from .spans import Spans
from .storage import Storage, read_patiently, write_all
from .worker import Worker

SLOT_BYTES: Final = 128 << 10
LEDGER_BYTES: Final = 2 * SLOT_BYTES
_HEADER: Final = struct.Struct("<8sHHIQ")  # magic, format, zero, length of the body, generation; then the checksum
_CRC: Final = struct.Struct("<I")
_MAGIC: Final = b"GENBALDG"
_FORMAT: Final = 1
_RETRY_S: Final = 0.5

Condition = Literal["new", "whole", "one slot", "lost"]
"""What a start found: no ledger yet, both slots or the only one written so far, one slot damaged, nothing usable."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Rows `first` … `last` (both included) that were handed to a sink and not yet acknowledged."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where one sink stands in one log. Rows `start` … `acked` - 1 are decided: delivered, filtered, dropped or dead-lettered."""

    start: int
    acked: int  # next row to deliver
    cut: Cut | None = None
    delivered: int = 0
    filtered: int = 0
    dropped: int = 0
    dead_lettered: int = 0


@dataclass(frozen=True, slots=True)
class Pin:
    """A cursor by name that is no sink: rows from `row` on are still needed. `note` is its owner's (a snapshot's file name)."""

    row: int
    note: str = ""


@dataclass(slots=True)
class Book:
    """The content of the ledger."""

    gateway: str = ""
    epoch: int = 0
    durable: dict[Kind, int] = field(default_factory=dict)  # next row of each log when this was written
    cursors: dict[tuple[Kind, str], Cursor] = field(default_factory=dict)
    pins: dict[tuple[Kind, str], Pin] = field(default_factory=dict)
    gone: dict[Kind, Spans] = field(default_factory=dict)  # rows that are no more and have been reported

    def high_water(self, kind: Kind) -> int:
        """The lowest row number that nobody outside can have seen."""
        rows = [cursor.acked for (k, _), cursor in self.cursors.items() if k == kind]
        rows += [cursor.cut.last + 1 for (k, _), cursor in self.cursors.items() if k == kind and cursor.cut]
        rows += [pin.row for (k, _), pin in self.pins.items() if k == kind]
        return max([*rows, self.durable.get(kind, 0)])

    def needed(self, kind: Kind) -> int | None:
        """The lowest row that a sink or a named cursor still needs; None when nobody reads this kind."""
        rows = [cursor.acked for (k, _), cursor in self.cursors.items() if k == kind]
        rows += [pin.row for (k, _), pin in self.pins.items() if k == kind]
        return min(rows, default=None)

    def pack(self) -> bytes:
        """As the JSON of a slot."""
        document = {
            "gateway": self.gateway,
            "epoch": self.epoch,
            "durable": self.durable,
            "cursors": [
                [k, sink, c.start, c.acked, c.cut.last if c.cut else None, c.delivered, c.filtered, c.dropped, c.dead_lettered]
                for (k, sink), c in self.cursors.items()
            ],
            "pins": [[k, name, pin.row, pin.note] for (k, name), pin in self.pins.items()],
            "gone": {k: list(spans) for k, spans in self.gone.items() if spans},
        }
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def unpack(cls, data: bytes) -> Book:
        """The inverse of `pack`. Raises ValueError, KeyError or TypeError for anything else."""
        document = json.loads(data)
        book = cls(document["gateway"], document["epoch"])
        book.durable = {cast(Kind, k): row for k, row in document["durable"].items() if k in KINDS}
        for k, sink, start, acked, last, delivered, filtered, dropped, dead in document["cursors"]:
            cut = None if last is None else Cut(acked, last)
            book.cursors[k, sink] = Cursor(start, acked, cut, delivered, filtered, dropped, dead)
        for k, name, row, note in document["pins"]:
            book.pins[k, name] = Pin(row, note)
        book.gone = {cast(Kind, k): Spans((first, end) for first, end in spans) for k, spans in document["gone"].items()}
        return book


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
        fd = self._storage.open(self.path)
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


class Ledger:
    """The ledger of a running spool. All methods are for the event loop; what they change is on disk when they say so."""

    def __init__(
        self,
        file: LedgerFile,
        book: Book,
        worker: Worker,
        *,
        durable: Callable[[Kind], int],
        oldest: Callable[[Kind], int],
        failed: Callable[[OSError | None], None],
    ) -> None:
        """`durable` and `oldest` ask the logs; `failed` is told the error of each write that did not work, and None when one did."""
        self._file, self._book, self._worker = file, book, worker
        self._durable, self._oldest, self._failed = durable, oldest, failed
        self._version = self._saved = 0
        self._saving = asyncio.Lock()
        self._settled = replace_book(book)
        self.changed = asyncio.Event()
        """Set whenever there may be something to write; whoever writes it clears it first."""

    @property
    def condition(self) -> Condition:
        """What the start found of the ledger."""
        return self._file.condition

    @property
    def sinks(self) -> frozenset[str]:
        """All sinks that the ledger knows, configured or not."""
        return frozenset(sink for _, sink in self._book.cursors)

    def sinks_of(self, kind: Kind) -> tuple[str, ...]:
        """The sinks that are registered for a kind."""
        return tuple(sink for k, sink in self._book.cursors if k == kind)

    def cursor(self, kind: Kind, sink: str) -> Cursor:
        """Where `sink` stands now; one that is not registered stands at the end."""
        found = self._book.cursors.get((kind, sink))
        return found if found is not None else Cursor(self._durable(kind), self._durable(kind))

    def pin_of(self, kind: Kind, name: str) -> Pin | None:
        """The named cursor, None when there is none."""
        return self._book.pins.get((kind, name))

    def gone(self, kind: Kind) -> Spans:
        """Rows of a log that are no more although somebody may still stand before them."""
        return self._book.gone.setdefault(kind, Spans())

    def note_gone(self, kind: Kind, first: int, end: int) -> None:
        """Remember that rows `first` … `end` - 1 were found to be no more, so that the next start does not report them again."""
        self.gone(kind).add(first, end)
        self._touch()

    def needed(self, kind: Kind) -> int | None:
        """The lowest row that a sink or a named cursor still needs, as it is on disk; None when nobody reads this kind."""
        return self._settled.needed(kind)

    def cuts(self, kind: Kind) -> list[Cut]:
        """The cuts in flight, which pin their rows."""
        return [cursor.cut for (k, _), cursor in self._book.cursors.items() if k == kind and cursor.cut is not None]

    async def register(self, kind: Kind, sink: str, from_: Literal["tail", "oldest"] = "tail") -> Cursor:
        """Make a sink known; one that is known stays where it is. Durable when it returns.

        A new one starts at the next row, or at the oldest that is held; at the oldest too when the ledger was lost, since then
        nobody knows what it has had. Raises ConfigError when the ledger has no room for another sink.
        """
        key = (kind, sink)
        if key not in self._book.cursors:
            row = self._oldest(kind) if from_ == "oldest" or self.condition == "lost" else self._durable(kind)
            self._book.cursors[key] = Cursor(row, row)
            try:
                await self._persist()
            except ConfigError:
                del self._book.cursors[key]
                raise
        return self._book.cursors[key]

    async def begin_cut(self, kind: Kind, sink: str, first: int, last: int) -> Cut:
        """Note that rows `first` … `last` are about to be handed to `sink`; durable when it returns.

        `first` is where the sink stands, all rows are durable, no other cut is in flight: else ValueError. Raises Busy when rows were
        given up since the caller looked at the cursor: look again.
        """
        cursor = self._cursor(kind, sink)
        if first < cursor.acked:
            raise Busy(0.0, f"{kind} rows {first} to {cursor.acked - 1} were given up meanwhile")
        if first != cursor.acked or cursor.cut is not None or not first <= last < self._durable(kind):
            raise ValueError(f"no cut of {kind} rows {first} to {last} for {sink}, which stands at {cursor}")
        cut = Cut(first, last)
        self._book.cursors[kind, sink] = replace(cursor, cut=cut)
        try:
            await self._persist()
        except BaseException:
            # Not known to be durable, so it must not be taken for a cut in flight.
            if self._book.cursors.get((kind, sink)) == replace(cursor, cut=cut):
                self._book.cursors[kind, sink] = cursor
                self._touch()
            raise
        return cut

    async def acknowledge(
        self, kind: Kind, sink: str, last: int, *, delivered: int, filtered: int, dead_lettered: int = 0, dropped: int = 0
    ) -> None:
        """Note what became of the rows up to `last`. On disk a moment later, together with others.

        Should the process die before, the cut is in flight again and is delivered once more, with the same rows. Raises ValueError where the
        counts are not the number of rows, or `last` is not the end of the cut.
        """
        cursor = self._cursor(kind, sink)
        rows = last + 1 - cursor.acked
        if (
            rows <= 0
            or rows != delivered + filtered + dead_lettered + dropped
            or min(delivered, filtered, dead_lettered, dropped) < 0
        ):
            raise ValueError(f"{rows} rows of {kind} and {delivered}+{filtered}+{dead_lettered}+{dropped} accounted for")
        if cursor.cut is not None and last != cursor.cut.last:
            raise ValueError(f"the cut in flight ends at {cursor.cut.last}, not at {last}")
        if last >= self._durable(kind):
            raise ValueError(f"{kind} row {last} is not durable")
        self._book.cursors[kind, sink] = Cursor(
            cursor.start, last + 1, None, cursor.delivered + delivered, cursor.filtered + filtered,
            cursor.dropped + dropped, cursor.dead_lettered + dead_lettered,
        )  # fmt: skip
        self._touch()

    async def pin(self, kind: Kind, name: str, row: int, note: str = "") -> None:
        """Set the named cursor: rows from `row` on are still needed. Durable when it returns."""
        self._book.pins[kind, name] = Pin(row, note)
        await self._persist()

    async def forget(self, name: str) -> bool:
        """Drop everything about a sink or a named cursor, so that it holds no rows back; durable when it returns. False: not known."""
        before = len(self._book.cursors) + len(self._book.pins)
        self._book.cursors = {key: cursor for key, cursor in self._book.cursors.items() if key[1] != name}
        self._book.pins = {key: pin for key, pin in self._book.pins.items() if key[1] != name}
        await self._persist()
        return len(self._book.cursors) + len(self._book.pins) < before

    def give_up(self, kind: Kind, first: int, end: int) -> list[tuple[str, int]]:
        """Note that rows `first` … `end` - 1 are no more; returns the sinks that had not had them, with how many.

        Sinks that stand among them move on, sinks further back will find them missing. Call `save` before they are unlinked.
        """
        hit = []
        for (k, sink), cursor in list(self._book.cursors.items()):
            if k != kind or cursor.acked >= end:
                continue
            lost = self.gone(kind)
            rows = (end - max(first, cursor.acked)) - lost.within(max(first, cursor.acked), end)
            if rows:
                hit.append((sink, rows))
            if cursor.acked >= first and cursor.cut is None:
                self._book.cursors[k, sink] = replace(cursor, acked=end, dropped=cursor.dropped + end - cursor.acked)
        for (k, name), pin in list(self._book.pins.items()):
            if k == kind and first <= pin.row < end:
                self._book.pins[k, name] = replace(pin, row=end)
        self.gone(kind).add(first, end)
        self._touch()
        return hit

    async def save(self) -> None:
        """Return when everything noted so far is on disk."""
        if self._saved < self._version:
            await self._persist(touch=False)

    async def try_save(self) -> bool:
        """One attempt to bring everything noted so far to disk; False when the disk does not take it now."""
        return await self._save_once(self._version)

    async def close(self) -> None:
        """Let go of the file; what is not on disk stays unsaid."""
        await self._worker.run(self._file.close)

    @property
    def bytes_written(self) -> int:
        """Bytes handed to the disk."""
        return self._file.written

    def _cursor(self, kind: Kind, sink: str) -> Cursor:
        found = self._book.cursors.get((kind, sink))
        if found is None:
            raise ValueError(f"{sink} is not registered for {kind}")
        return found

    def _touch(self) -> None:
        self._version += 1
        self.changed.set()

    async def _persist(self, *, touch: bool = True) -> None:
        """Until the disk has it. Raises ConfigError when it does not fit at all."""
        if touch:
            self._touch()
        wanted = self._version
        while True:
            if await self._save_once(wanted):
                return
            await asyncio.sleep(_RETRY_S)

    async def _save_once(self, wanted: int) -> bool:
        """Whoever comes first writes for all who wait behind it."""
        async with self._saving:
            if self._saved >= wanted:
                return True
            version = self._version
            for kind in KINDS:
                self._book.durable[kind] = self._durable(kind)
                if kind in self._book.gone:
                    self._book.gone[kind].discard_below(self._lowest(kind))
            settled = replace_book(self._book)
            body = self._book.pack()
            if len(body) + _HEADER.size + 4 > SLOT_BYTES:
                raise ConfigError("the ledger has no room for so many sinks", hint="drop old ones with `genba spool forget SINK`")
            try:
                await self._worker.run(lambda: self._file.save(body))
            except OSError as error:
                self._failed(error)
                return False
            self._failed(None)
            self._saved, self._settled = version, settled
            return True

    def _lowest(self, kind: Kind) -> int:
        """Below this row nobody asks any more."""
        rows: Iterable[int] = [cursor.acked for (k, _), cursor in self._book.cursors.items() if k == kind]
        return min([*rows, self._oldest(kind)])


def replace_book(book: Book) -> Book:
    """A copy that later changes do not reach."""
    gone: Mapping[Kind, Spans] = {kind: Spans(spans) for kind, spans in book.gone.items()}
    return Book(book.gateway, book.epoch, dict(book.durable), dict(book.cursors), dict(book.pins), dict(gone))
