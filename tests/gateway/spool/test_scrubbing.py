"""Damage in segments that nobody reads is found in the background; a start reads little however much is spooled."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gateway.spool import DiskStorage
from tests.gateway.samples import until

from .conftest import everything, numbers, readings, running, segments


class CountingStorage(DiskStorage):
    def __init__(self) -> None:
        self.bytes_read = self.reads = 0

    def read(self, fd: int, size: int, offset: int) -> bytes:
        data = super().read(fd, size, offset)
        self.bytes_read += len(data)
        self.reads += 1
        return data


async def spooled(open_spool, count: int) -> None:
    """Segments of ten rows each."""
    async with running(open_spool, retention_grace_s=3600) as spool:
        await spool.ledger.register("telemetry", "lake", "oldest")
        for n in range(count):
            await spool.put("telemetry", readings(10, 10 * n))
            await spool.flush()
            await spool._writer.run(spool._logs["telemetry"].roll)


async def test_a_flipped_bit_in_a_closed_segment_is_found_although_nobody_reads_it(open_spool, tmp_path):
    await spooled(open_spool, 5)
    victim = segments(tmp_path / "spool")[2]
    data = bytearray(victim.read_bytes())
    data[180] ^= 4
    victim.write_bytes(data)
    async with running(open_spool, scrub_every_s=0, retention_grace_s=3600) as spool:
        assert spool.recovery["telemetry"].missing == []  # its footer is whole
        await until(lambda: spool.scrub.segments == 5)
        await until(lambda: spool.corrupt_records == 1)
        assert spool.scrub.damaged == 1
        [loss] = spool.take_losses()
        assert (loss.first, loss.last, loss.cause, dict(loss.sinks)) == (20, 29, "quarantined", {"lake": 10})
        account = spool.account("telemetry", "lake")
        assert (account.dropped, account.spooled) == (10, 40)
        assert numbers(await everything(spool)) == [*range(20), *range(30, 50)]
        assert [path.name for path in (tmp_path / "spool/quarantine").iterdir()] == ["telemetry-00000000000000000020.bad"]


async def test_whole_segments_are_checked_once_and_left_as_they_are(open_spool, tmp_path):
    await spooled(open_spool, 4)
    before = {path: path.read_bytes() for path in segments(tmp_path / "spool")}
    disk = CountingStorage()
    async with running(open_spool, storage=disk, scrub_every_s=0, retention_grace_s=3600) as spool:
        await until(lambda: spool.scrub.segments == 4)
        read = disk.reads
        await asyncio.sleep(0.1)
        assert disk.reads == read
        assert spool.scrub.damaged == 0
    assert {path: path.read_bytes() for path in segments(tmp_path / "spool")} == before


async def test_a_start_reads_footers_and_the_tail_and_nothing_else(open_spool, tmp_path):
    await spooled(open_spool, 30)
    await asyncio.to_thread(grow, segments(tmp_path / "spool"), 1 << 30)  # 30 GB, sparse: between the last record and the footer
    disk = CountingStorage()
    async with running(open_spool, storage=disk, retention_grace_s=3600, scrub_every_s=3600) as spool:
        assert spool.oldest("telemetry") == 0
        assert spool.end("telemetry") == 300
        assert disk.bytes_read < 30 * 300 + (1 << 20)
        assert numbers(await everything(spool)) == list(range(300))


def grow(paths: list[Path], size: int) -> None:
    """Move the footer of each segment to the end of a file of `size` bytes."""
    from gateway.spool import format as f
    from gateway.spool.segment import Segment, load_entries, read_summary

    storage = DiskStorage()
    for path in paths:
        fd = storage.open(path, write=True)
        found = read_summary(storage, fd)
        assert found is not None
        entries = load_entries(storage, Segment(path, found[1].first, found[1].next, 0, 0, 0, None, found[1]))
        at = size - len(f.pack_footer(entries, 0)) - 64
        footer = f.pack_footer(entries, at)
        storage.truncate(fd, at)
        storage.write(fd, [footer], at)
        storage.close(fd)
