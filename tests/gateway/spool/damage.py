"""Every way to damage a small file of a spool, one after the other: opened again, and looked at for what it cost. Each returns how many were tried."""

from __future__ import annotations

from pathlib import Path

from gateway.spool import format as f
from gateway.spool.book import Cursor
from gateway.spool.codec import Decoder, Encoder
from gateway.spool.ledger_file import SLOT_BYTES, LedgerFile
from gateway.spool.log import Log
from gateway.spool.quarantine import Quarantine
from gateway.spool.recovery import KindRecovery, recover
from gateway.spool.segment import scan

from .conftest import MemoryStorage, numbers, readings, values

SEGMENT = Path("log") / f"{0:020d}.seg"
LEDGER = Path("ledger")


def small_log(*, closed: bool) -> tuple[bytes, list[f.Entry]]:
    """The bytes of a segment of three records of two rows each, and where the records are."""
    storage = MemoryStorage()
    log, _ = opened(storage)
    encoder = Encoder(Decoder())
    for n in range(3):
        one = encoder.encode("telemetry", [readings(2, 2 * n)], 2 * n, 5)
        log.append([(one.record, one.body)], 5)
    if closed:
        log.roll()
    data = bytes(storage.files[SEGMENT])
    found = scan(data, 0)
    return data if closed else data[: found.end], found.entries


def opened(storage: MemoryStorage) -> tuple[Log, KindRecovery]:
    quarantine = Quarantine(Path("quarantine"), storage)
    found, report = recover("telemetry", SEGMENT.parent, storage=storage, quarantine=quarantine, epoch=1, high_water=0)
    log = Log(
        "telemetry", SEGMENT.parent, storage=storage, quarantine=quarantine, epoch=1, segment_bytes=4096, allows=lambda size: True,
        segments=found, next_row=report.next_row,
    )  # fmt: skip
    return log, report


def flip_every_bit(*, closed: bool) -> int:
    """A start succeeds whatever bit is flipped, and at most the record that was hit is lost; returns how many were tried."""
    data, entries = small_log(closed=closed)
    for position in range(len(data)):
        hit = next((n for n, entry in enumerate(entries) if entry.offset <= position < entry.offset + entry.size), None)
        kept = [row for n in range(3) for row in (2 * n, 2 * n + 1) if n != hit]
        for bit in range(8):
            storage = MemoryStorage()
            storage.files[SEGMENT] = bytearray(data)
            storage.files[SEGMENT][position] ^= 1 << bit
            log, report = opened(storage)
            read = log.read(0, end=log.next, max_rows=100, max_bytes=1 << 20)
            assert numbers(read) == values(read) == kept, (position, bit)
            if hit is not None:
                known = [*report.missing, *log.gone]
                if closed or hit < 2:
                    assert known == [(2 * hit, 2 * hit + 2)]
                    assert any(path.parent.name == "quarantine" for path in storage.files)
                else:
                    assert report.truncated_bytes > 0
    return 8 * len(data)


def truncate_everywhere(*, preallocated: bool) -> int:
    """The file ends, or is zero, from any byte of the first record on: the whole records before it are there, and what was torn is counted."""
    data, entries = small_log(closed=False)
    for size in range(entries[0].offset, len(data)):
        storage = MemoryStorage()
        storage.files[SEGMENT] = bytearray(data[:size].ljust(4096 if preallocated else 0, b"\0"))
        log, report = opened(storage)
        whole = [entry for entry in entries if entry.offset + entry.size <= size]
        kept = whole[-1].next if whole else 0
        end = f.padded(whole[-1].offset + whole[-1].size) if whole else entries[0].offset
        assert values(log.read(0, end=log.next, max_rows=100, max_bytes=1 << 20)) == list(range(kept)), size
        assert (report.next_row, report.missing, report.quarantined) == (kept, [], []), size
        assert report.truncated_bytes == len(data[end:size].rstrip(b"\0")), size
        again, report = opened(storage)  # what was repaired is whole
        assert (again.next, report.truncated_bytes, report.quarantined) == (kept, 0, []), size
    return len(data) - entries[0].offset


def truncate_the_footer() -> int:
    """A closed segment ends at any byte of its footer: no row is lost."""
    data, entries = small_log(closed=True)
    start = f.padded(entries[-1].offset + entries[-1].size)
    for size in range(start, len(data)):
        storage = MemoryStorage()
        storage.files[SEGMENT] = bytearray(data[:size])
        log, report = opened(storage)
        assert values(log.read(0, end=log.next, max_rows=100, max_bytes=1 << 20)) == list(range(entries[-1].next)), size
        assert (report.missing, report.quarantined) == ([], []), size
    return len(data) - start


def flip_the_ledger() -> int:
    """Any bit of either slot: the newest content or the one before is there, whole, and a damaged slot is noticed and written again."""
    storage = MemoryStorage()
    file = LedgerFile(LEDGER, storage)
    book = file.load()
    for row in (5, 7):
        book.cursors["telemetry", "lake"] = Cursor(0, row, delivered=row)
        file.save(book.pack())
    file.close()
    whole = bytes(storage.files[LEDGER])
    tried = 0
    for slot, newest in ((SLOT_BYTES, False), (0, True)):
        used = len(whole[slot : slot + SLOT_BYTES].rstrip(b"\0"))
        for position in range(slot, slot + used):
            for bit in range(8):
                storage.files[LEDGER] = bytearray(whole)
                storage.files[LEDGER][position] ^= 1 << bit
                file = LedgerFile(LEDGER, storage)
                found = file.load().cursors["telemetry", "lake"].acked
                assert (found, file.condition) == (5 if newest else 7, "one slot"), (position, bit)
                tried += 1
            file.save(book.pack())
            file.close()
            again = LedgerFile(LEDGER, storage)
            assert (again.load().cursors["telemetry", "lake"].acked, again.condition) == (7, "whole"), position
    return tried
