"""Full disks, failing flushes, short writes: nothing acknowledged is lost, rows wait in memory, and it goes on by itself."""

from __future__ import annotations

import asyncio
import errno
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from schemas.errors import Busy
from tests.conftest import missing

from .conftest import FaultyStorage, alerts, crash, everything, numbers, readings, running, segments, values


async def until(condition, seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        for _ in iter(condition, True):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("create", errno.ENOSPC),
        ("write", errno.ENOSPC),
        ("write", errno.EIO),
        ("fdatasync", errno.EIO),
        ("fsync_directory", errno.EIO),
        ("short", errno.ENOSPC),
    ],
)
@pytest.mark.parametrize("first", [True, False])
async def test_a_failing_disk_loses_nothing_and_writing_goes_on_when_it_works_again(open_spool, call, error, first):
    disk = FaultyStorage()
    spool = await open_spool(storage=disk, segment_bytes=64 << 10)
    put = 0
    if not first:
        for _ in range(3):
            await spool.put("telemetry", readings(100, put))
            put += 100
        await spool.flush()
    if call == "short":
        disk.short = True
    elif call in ("create", "fsync_directory") and not first:
        spool._logs["telemetry"]._capacity = 0  # the next record needs a new segment
        disk.fail(call, error)
    else:
        disk.fail(call, error)
    durable = spool.durable("telemetry")
    await spool.put("telemetry", readings(50, put))
    with pytest.raises(Busy):
        await spool.flush(patience_s=0.05)
    assert spool.failure
    assert spool.durable("telemetry") == durable
    assert values(await everything(spool)) == list(range(durable))
    disk.heal()
    await spool.put("telemetry", readings(50, put + 50))
    await asyncio.wait_for(spool.flush(), 10)
    assert spool.failure == ""
    assert values(await everything(spool)) == list(range(put + 100))
    crash(spool)
    async with running(open_spool) as again:
        assert numbers(await everything(again)) == values(await everything(again)) == list(range(put + 100))
        assert again.recovery["telemetry"].missing == []


async def test_after_a_failed_flush_the_old_descriptor_is_never_written_again(open_spool, tmp_path):
    disk = FaultyStorage()
    spool = await open_spool(storage=disk)
    await spool.put("telemetry", readings(5))
    await spool.flush()
    [old] = segments(tmp_path / "spool")
    disk.fail("fdatasync", times=1)
    disk.fail("truncate")  # nor can the record that may have reached the disk be cut off
    await spool.put("telemetry", readings(5, 5))
    await spool.flush()
    disk.heal()
    assert len(segments(tmp_path / "spool")) == 2
    before = old.read_bytes()
    await spool.put("telemetry", readings(5, 10))
    await spool.flush()
    assert old.read_bytes() == before
    crash(spool)
    async with running(open_spool) as again:  # the rewritten rows win over the ones of the failed write
        assert numbers(await everything(again)) == values(await everything(again)) == list(range(15))


@pytest.mark.parametrize("call", ["create", "write", "read", "fdatasync", "truncate", "unlink", "fsync_directory", "rename"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
async def test_whichever_call_fails_once_nothing_acknowledged_is_lost(open_spool, tmp_path, call, error):
    for number in range(40):
        disk = FaultyStorage()
        directory = tmp_path / f"{call}-{number}"
        acknowledged = 0
        spool = await open_spool(
            storage=disk, directory=directory, segment_bytes=64 << 10, retention_grace_s=0, commit_every_s=0.001
        )
        await spool.ledger.register("telemetry", "lake", "oldest")
        disk.calls.clear()
        disk.fail(call, error, skip=number, times=1)
        for n in range(4):
            await spool.put("telemetry", readings(2000, 2000 * n, lag_ms=n + 1))
            await spool.flush()
            acknowledged = spool.durable("telemetry")
            if n == 2:
                await spool.ledger.begin_cut("telemetry", "lake", 0, 999)
                await spool.ledger.acknowledge("telemetry", "lake", 999, delivered=1000, filtered=0)
        reached = disk.calls.get(call, 0) > number
        crash(spool)
        if not reached:
            disk.heal()  # a start that fails is tried again by whoever starts it; here it is the life before that counts
        async with running(open_spool, storage=disk, directory=directory) as again:
            rows = numbers(await everything(again, first=1000))
            assert rows == list(range(1000, acknowledged)) == list(range(1000, 8000))
            assert again.account("telemetry", "lake").read == 8000
        if not reached:
            break


async def test_the_gateways_own_alert_is_stored_although_readings_cannot_be(open_spool):
    disk = FaultyStorage()
    spool = await open_spool(storage=disk)
    await spool.put("alert", alerts(1))
    await spool.flush()
    disk.fail("create", errno.ENOSPC)  # no new segment: that of the readings
    await spool.put("telemetry", readings(10))
    await spool.put("alert", alerts(1))
    await until(lambda: spool.durable("alert") == 2)
    await spool.put("alert", alerts(1, onset=5))
    await spool.put("alert", alerts(1))
    await asyncio.sleep(0.3)
    assert spool.durable("alert") == 2  # this one came from a reading, which is not durable
    disk.heal()
    await spool.flush()
    assert (spool.durable("telemetry"), spool.durable("alert")) == (10, 4)


async def test_an_alert_is_never_durable_before_its_reading_whatever_fails(open_spool):
    for number in range(12):
        disk = FaultyStorage()
        spool = await open_spool(storage=disk, commit_every_s=0.001)
        disk.fail("fdatasync", skip=number - 1, times=1)
        first = spool.end("telemetry")
        for n in range(3):
            await spool.put("telemetry", readings(1, n))
            await spool.put("alert", alerts(1, onset=first + n))
            await asyncio.sleep(0.002)
            assert spool.durable("telemetry") - first >= spool.durable("alert") - 3 * number
        crash(spool)
        async with running(open_spool) as again:
            onsets = [row for _, batch in await everything(again, "alert") for row in batch.column("onset_seq").to_pylist()]
            assert max((onset for onset in onsets if onset is not None), default=-1) < again.durable("telemetry")
            # what did not become durable is put again, so that the next round counts alike
            while again.durable("alert") < 3 * (number + 1):
                await again.put("alert", alerts(1))
                await again.flush()


async def test_with_a_failing_disk_put_waits_at_the_limit_and_other_kinds_are_not_held_up(open_spool):
    disk = FaultyStorage()
    spool = await open_spool(storage=disk, buffer_bytes=1000)
    disk.fail("create", errno.ENOSPC)
    await spool.put("telemetry", readings(100))
    waiting = asyncio.ensure_future(spool.put("telemetry", readings(1, 100)))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await asyncio.wait_for(spool.put("alert", alerts(1)), 1)
    assert spool.buffered_bytes() < 10_000
    disk.heal()
    assert await asyncio.wait_for(waiting, 10) == 100


async def test_a_full_spool_drains_and_resumes(open_spool):
    disk = FaultyStorage()
    spool = await open_spool(storage=disk, segment_bytes=64 << 10, retention_grace_s=0)
    await spool.ledger.register("telemetry", "lake")
    for n in range(3):
        await spool.put("telemetry", readings(5000, 5000 * n, lag_ms=n))
        await spool.flush()
    disk.fail("create", errno.ENOSPC)
    await spool._writer.run(spool._logs["telemetry"].roll)
    await spool.put("telemetry", readings(10, 15_000))
    await until(lambda: bool(spool.failure))
    used = spool.bytes_used()
    await spool.ledger.begin_cut("telemetry", "lake", 0, 14_999)
    await spool.ledger.acknowledge("telemetry", "lake", 14_999, delivered=15_000, filtered=0)
    await until(lambda: spool.bytes_used() < used)
    disk.heal()
    began = time.perf_counter()
    await spool.flush()
    assert time.perf_counter() - began < 5
    assert values(await everything(spool, first=15_000)) == list(range(15_000, 15_010))


async def test_rows_that_were_never_durable_are_named_when_closing_on_a_dead_disk(open_spool):
    disk = FaultyStorage()
    spool = await open_spool(storage=disk)
    await spool.put("telemetry", readings(3))
    disk.fail("create", errno.EIO)
    await asyncio.wait_for(spool.close(), 10)
    disk.heal()
    async with running(open_spool) as again:
        assert again.end("telemetry") == 0


ON_A_SMALL_DISK = """
import asyncio, ctypes, os, sys
sys.path.insert(0, {root!r})
import structlog
from gateway.clock import WallClock
from gateway.spool import Spool
from tests.gateway.spool.conftest import readings, values, everything
from pathlib import Path
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
directory = Path({mount!r})

async def main():
    spool = await Spool.open(directory / "spool", gateway="gw", clock=WallClock(), log=structlog.get_logger(), segment_bytes=256 << 10,
                             retention_grace_s=0, commit_every_s=0.01)
    await spool.ledger.register("telemetry", "lake")
    put = 0
    while not spool.failure:
        await spool.put("telemetry", readings(5000, put, lag_ms=put))
        put += 5000
        await asyncio.sleep(0.011)
    durable = spool.durable("telemetry")
    assert 0 < durable < put, (durable, put)
    assert values(await everything(spool)) == list(range(durable))
    await spool.ledger.begin_cut("telemetry", "lake", 0, durable - 1)
    await spool.ledger.acknowledge("telemetry", "lake", durable - 1, delivered=durable, filtered=0)
    async with asyncio.timeout(10):
        await spool.flush(patience_s=10)
    assert values(await everything(spool, first=durable)) == list(range(durable, put))
    await spool.close()
    again = await Spool.open(directory / "spool", gateway="gw", clock=WallClock(), log=structlog.get_logger())
    assert again.end("telemetry") == put
    assert again.account("telemetry", "lake").delivered == durable
    await again.close()
    print("drained", durable, "of", put)

asyncio.run(main())
"""


def test_a_really_full_disk_is_drained_and_written_again(tmp_path):
    mount = tmp_path / "disk"
    mount.mkdir()
    script = tmp_path / "fill.py"
    script.write_text(textwrap.dedent(ON_A_SMALL_DISK.format(root=str(Path(__file__).parents[3]), mount=str(mount))))
    command = f"mount -t tmpfs -o size=3m none {mount} && {sys.executable} {script}"
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        missing("no user namespaces here, so no small disk")
    done = subprocess.run(["unshare", "-rm", "sh", "-c", command], capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
    assert "drained" in done.stdout
