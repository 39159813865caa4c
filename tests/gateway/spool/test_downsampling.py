"""The oldest telemetry becomes windows before anything is given up: within the budget, outside any cut, whole after every crash."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import structlog

from gateway.spool import Spool
from gateway.spool.rewriting import Rewrite
from gateway.spool.worker import InlineWorker
from schemas.errors import Busy
from schemas.kinds import Origin, telemetry
from tests.conftest import ManualClock

from .conftest import MemoryStorage, crash, everything, numbers, running, segments
from .power import PowerStorage

BUDGET = 1 << 20
TAGS = 4
START = 1_767_225_600_000_000


def noise(rows: int, start: int):
    """`rows` readings of four tags, a reading a second of each, that do not compress."""
    rng = np.random.default_rng(start)
    number = np.arange(start, start + rows)
    return telemetry(
        time_us=START + number // TAGS * 1_000_000, tag=(number % TAGS).astype(np.int32), value=rng.normal(50, 20, rows)
    )


async def fill(spool, rows: int, start: int = 0, step: int = 2000) -> int:
    for first in range(start, start + rows, step):
        await spool.put("telemetry", noise(step, first))
        await spool.flush()
    return start + rows


async def checked(spool, sink: str):
    """The account of a sink, with the identity asserted, at once; and the causes of what it lost, between two rewrites."""
    account = spool.account("telemetry", sink)
    assert account.read == account.filtered + account.delivered + account.spooled + account.dropped + account.dead_lettered
    await spool.retention._working.acquire()
    spool.retention._working.release()
    account = spool.account("telemetry", sink)
    assert account.read == account.filtered + account.delivered + account.spooled + account.dropped + account.dead_lettered
    assert min(account.spooled, account.dropped) >= 0
    assert sum(spool.ledger.lost("telemetry", sink).values()) == account.dropped
    return account


def readings_in(read) -> int:
    return sum(int(batch.column("count").fill_null(1).to_numpy().sum()) for _, batch in read)


async def deliver(spool, sink: str, rows: int) -> list:
    """As delivery does: read, cut, acknowledge."""
    cursor = spool.ledger.cursor("telemetry", sink)
    read = await spool.read("telemetry", cursor.acked, max_rows=rows)
    last = numbers(read)[-1]
    await spool.ledger.begin_cut("telemetry", sink, cursor.acked, last)
    held = len(numbers(read))
    missing = last + 1 - cursor.acked - held
    await spool.ledger.acknowledge("telemetry", sink, last, delivered=held, filtered=0, dropped=missing)
    return read


async def test_the_oldest_readings_become_windows_and_every_row_is_accounted_for(open_spool):
    spool = await open_spool(max_bytes=BUDGET, when_full={"telemetry": "downsample"}, retention_grace_s=0)
    await spool.ledger.register("telemetry", "lake")
    end, told = 0, 0
    for _ in range(60):
        end = await fill(spool, 4000, end)
        assert spool.bytes_used() <= BUDGET
        account = await checked(spool, "lake")
        assert account.read == end
        told += sum(loss.sinks["lake"] for loss in spool.take_losses())
    assert told == account.dropped
    assert set(spool.ledger.lost("telemetry", "lake")) == {"downsampled"}
    assert spool.oldest("telemetry") == 0
    read = await everything(spool)
    assert readings_in(read) == end  # windows say how many readings they are of: all of them
    assert len(numbers(read)) == account.spooled < end / 3
    origins = [origin for _, batch in read for origin in batch.column("origin").to_pylist()]
    assert origins[0] == Origin.DOWNSAMPLED
    assert origins[-1] == Origin.LIVE  # the newest are as they were put
    rows = [row for _, batch in read for row in batch.to_pylist() if row["count"]]
    assert all(row["value_min"] <= row["value"] <= row["value_max"] for row in rows)
    # a sink that comes back gets windows, then readings, and the account comes out even
    while spool.ledger.cursor("telemetry", "lake").acked < end:
        await deliver(spool, "lake", 5_000)
        await checked(spool, "lake")
    account = await checked(spool, "lake")
    assert (account.spooled, account.delivered + account.dropped) == (0, end)


async def test_when_windows_fill_the_budget_they_become_wider_and_only_then_rows_are_dropped(open_spool):
    spool = await open_spool(max_bytes=BUDGET, when_full={"telemetry": "downsample"}, retention_grace_s=0)
    await spool.ledger.register("telemetry", "lake")
    end = 0
    log = spool._logs["telemetry"]
    for _ in range(60):
        end = await fill(spool, 20_000, end, 10_000)
        assert spool.bytes_used() <= BUDGET
        await checked(spool, "lake")
    assert {segment.level for segment in log.segments} >= {0, 1, 2}
    assert spool.ledger.lost("telemetry", "lake").keys() == {"downsampled"}
    assert readings_in(await everything(spool)) == end
    for segment in log.segments:
        segment.full = True  # as if windows of these would win nothing
    await fill(spool, 100_000, end, 10_000)
    assert (await checked(spool, "lake")).dropped > 0
    assert spool.bytes_used() <= BUDGET


async def test_rows_of_a_cut_stay_as_they_are_and_windows_end_where_a_sink_stands(open_spool):
    spool = await open_spool(max_bytes=BUDGET, when_full={"telemetry": "downsample"}, retention_grace_s=0)
    for sink in ("a", "b"):
        await spool.ledger.register("telemetry", sink)
    end = await fill(spool, 12_000)
    first = (await deliver(spool, "a", 5_555))[0][1]
    await spool.ledger.begin_cut("telemetry", "b", 0, 99)
    end = await fill(spool, 200_000, end)
    assert (await checked(spool, "a")).dropped > 0
    again = await spool.read("telemetry", 0, max_rows=100, last=99)
    assert again[0][1].equals(first.slice(0, 100))
    assert all(loss.cause == "downsampled" for loss in spool.take_losses())
    await spool.ledger.acknowledge("telemetry", "b", 99, delivered=100, filtered=0)
    end = await fill(spool, 200_000, end)
    for sink, had in (("a", 5_555), ("b", 100)):
        rest = await everything(spool, first=spool.ledger.cursor("telemetry", sink).acked)
        assert had + readings_in(rest) == end, sink  # each reading once, delivered before or in a window now
        await checked(spool, sink)


async def test_a_cut_that_is_begun_while_its_rows_are_rewritten_waits_and_is_read_anew(open_spool, monkeypatch):
    spool = await open_spool(max_bytes=BUDGET, when_full={"telemetry": "downsample"}, retention_grace_s=0)
    await spool.ledger.register("telemetry", "lake")
    held = asyncio.get_running_loop().create_future()
    write = Rewrite.write

    def slowly(self):
        spool_loop.call_soon_threadsafe(lambda: held.done() or held.set_result(None))
        release.result(10)
        return write(self)

    import concurrent.futures

    release: concurrent.futures.Future[None] = concurrent.futures.Future()
    spool_loop = asyncio.get_running_loop()
    monkeypatch.setattr(Rewrite, "write", slowly)
    filling = asyncio.ensure_future(fill(spool, 200_000))
    await held
    seen = spool.rewritten("telemetry")
    with pytest.raises(Busy, match="rewritten"):
        await spool.ledger.begin_cut("telemetry", "lake", 0, 9)
    release.set_result(None)
    await filling
    assert spool.rewritten("telemetry") > seen
    assert readings_in(await deliver(spool, "lake", 1 << 30)) == 200_000


async def test_texts_that_change_all_the_time_are_dropped_since_windows_would_win_nothing(open_spool):
    spool = await open_spool(max_bytes=BUDGET, when_full={"telemetry": "downsample"}, retention_grace_s=0)
    await spool.ledger.register("telemetry", "lake")
    rng = np.random.default_rng(1)
    for n in range(30):
        words = [rng.bytes(12).hex() for _ in range(2000)]
        await spool.put("telemetry", telemetry(time_us=START, tag=np.zeros(2000, np.int32), text=words, lag_ms=n))
        await spool.flush()
        assert spool.bytes_used() <= BUDGET
    assert spool.ledger.lost("telemetry", "lake").keys() == {"dropped"}
    await checked(spool, "lake")


async def test_windows_are_found_again_after_a_start_with_the_same_account(open_spool, tmp_path):
    options = {"max_bytes": BUDGET, "when_full": {"telemetry": "downsample"}, "retention_grace_s": 0}
    spool = await open_spool(**options)
    await spool.ledger.register("telemetry", "lake")
    end = await fill(spool, 200_000)
    account, read = await checked(spool, "lake"), await everything(spool)
    spool.ledger.told(spool.take_losses())
    await spool.ledger.save()
    crash(spool)
    (tmp_path / "spool/telemetry/00000000000000000000.9.seg.part").write_bytes(b"half a rewrite")
    async with running(open_spool, **{**options, "retention_grace_s": 60}) as again:
        assert await checked(again, "lake") == account
        assert again.recovery["telemetry"].missing == []
        assert again.take_losses() == []
        found = await everything(again)
        assert numbers(found) == numbers(read)
        assert readings_in(found) == end
        assert not list((tmp_path / "spool/telemetry").glob("*.part"))


class Killed(BaseException):
    """The process is gone."""


class MortalStorage(MemoryStorage):
    """Kills the process before the n-th call that changes anything."""

    def __init__(self) -> None:
        super().__init__()
        self.calls_left = 1 << 30

    def _step(self) -> None:
        self.calls_left -= 1
        if self.calls_left < 0:
            raise Killed

    def create(self, path: Path, size: int) -> int:
        self._step()
        return super().create(path, size)

    def write(self, fd, buffers, offset):
        self._step()
        return super().write(fd, buffers, offset)

    def truncate(self, fd: int, size: int) -> None:
        self._step()
        super().truncate(fd, size)

    def fdatasync(self, fd: int) -> None:
        self._step()

    def fsync_directory(self, path: Path) -> None:
        self._step()

    def rename(self, old: Path, new: Path) -> None:
        self._step()
        super().rename(old, new)

    def unlink(self, path: Path) -> None:
        self._step()
        super().unlink(path)


async def _open(storage) -> Spool:
    return await Spool.open(
        Path("spool"), gateway="gw", clock=ManualClock(), log=structlog.get_logger(), storage=storage, commit_every_s=0.001,
        segment_bytes=8 << 10, retention_grace_s=3600, writer=InlineWorker(), reader=InlineWorker(), thinner=InlineWorker(),
        when_full={"telemetry": "downsample"},
    )  # fmt: skip


async def _kill_while_downsampling(number: int) -> bool:
    """Two rounds of downsampling, the second of windows, killed before the n-th change of the disk; False when it got through."""
    storage = MortalStorage()
    spool = await _open(storage)
    await spool.ledger.register("telemetry", "lake")
    end = await fill(spool, 6_000, step=500)
    await deliver(spool, "lake", 777)
    await spool.ledger.save()
    storage.calls_left = number
    through = False
    spool.retention._max_bytes = 0
    with suppress(Killed):
        for _ in range(3):
            await spool.retention._thin_oldest("telemetry")
        through = True
    for task in spool._tasks:
        task.cancel()
    await asyncio.gather(*spool._tasks, return_exceptions=True)
    storage.calls_left = 1 << 30
    crash(spool)
    again = await _open(storage)
    account = await checked(again, "lake")
    assert (account.read, account.delivered) == (end, 777)
    rest = await everything(again, first=777)
    assert len(numbers(rest)) == account.spooled
    assert readings_in(rest) == end - 777
    assert again.recovery["telemetry"].missing == []
    losses = again.take_losses()
    assert sum(loss.sinks["lake"] for loss in losses) == account.dropped
    names = [path for path in storage.files if path.suffix in (".seg", ".part")]
    assert len(names) == len([s for log in again._logs.values() for s in log.segments])
    await again.close()
    return not through


async def _kill_everywhere() -> int:
    number = 0
    with structlog.testing.capture_logs():
        while await _kill_while_downsampling(number):
            number += 1
    return number


async def test_a_kill_between_any_two_steps_leaves_every_reading_once():
    assert await _kill_everywhere() > 15


async def test_control_without_the_rule_that_windows_win_a_kill_is_noticed(monkeypatch):
    monkeypatch.setattr("gateway.spool.recovery._without_superseded", lambda segments, *_: list(segments))
    with pytest.raises(AssertionError):
        await _kill_everywhere()


async def test_whichever_call_fails_while_downsampling_nothing_is_lost(open_spool, tmp_path):
    from .conftest import FaultyStorage

    for call in ("create", "write", "fdatasync", "rename", "fsync_directory", "unlink", "read"):
        disk = FaultyStorage()
        spool = await open_spool(
            storage=disk, directory=tmp_path / call, segment_bytes=64 << 10, retention_grace_s=3600,
            when_full={"telemetry": "downsample"},
        )  # fmt: skip
        await spool.ledger.register("telemetry", "lake")
        end = await fill(spool, 40_000)
        disk.fail(call, times=2)
        await spool.retention._thin_oldest("telemetry")
        disk.heal()
        assert readings_in(await everything(spool)) == end
        await checked(spool, "lake")
        crash(spool)
        async with running(open_spool, storage=disk, directory=tmp_path / call) as again:
            assert readings_in(await everything(again)) == end, call
            await checked(again, "lake")


async def test_many_segments_of_windows_become_few(open_spool, tmp_path):
    spool = await open_spool(max_bytes=2 << 20, when_full={"telemetry": "downsample"}, retention_grace_s=0)
    await spool.ledger.register("telemetry", "lake")
    await fill(spool, 2_000_000, step=20_000)
    assert len(segments(tmp_path / "spool")) < 60
    assert (await checked(spool, "lake")).dropped > 0


class Life:
    """Puts, deliveries to two sinks, rewrites, kills, power cuts and restarts in a random order; every reading is had once by each sink."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.storage = PowerStorage()
        self.put = 0
        self.had = {"a": 0, "b": 0}  # readings that a sink was given and that are acknowledged on disk

    async def run(self, steps: int) -> None:
        self.spool = await _open(self.storage)
        for sink in self.had:
            await self.spool.ledger.register("telemetry", sink)
        for _ in range(steps):
            await self.rng.choice([self.more, self.more, self.take, self.thin, self.thin, self.die, self.restart])()
            await self.check()
        await self.leave()

    async def more(self) -> None:
        rows = self.rng.randint(1, 400)
        await self.spool.put("telemetry", noise(rows, self.put))
        await self.spool.flush()
        self.put += rows

    async def take(self) -> None:
        sink = self.rng.choice("ab")
        if self.spool.account("telemetry", sink).spooled:
            read = await deliver(self.spool, sink, self.rng.randint(1, 600))
            await self.spool.ledger.save()
            self.had[sink] += readings_in(read)

    async def thin(self) -> None:
        await self.spool.retention._thin_oldest("telemetry")

    async def die(self) -> None:
        power = self.rng.random() < 0.5
        await self.leave()
        if power:
            self.storage.cut_power(self.rng)
        self.spool = await _open(self.storage)
        assert self.spool.recovery["telemetry"].missing == []

    async def restart(self) -> None:
        await self.spool.close()
        self.spool = await _open(self.storage)

    async def leave(self) -> None:
        for task in self.spool._tasks:
            task.cancel()
        await asyncio.gather(*self.spool._tasks, return_exceptions=True)
        crash(self.spool)

    async def check(self) -> None:
        for sink, had in self.had.items():
            account = await checked(self.spool, sink)
            assert account.read == self.put
            rest = await everything(self.spool, first=self.spool.ledger.cursor("telemetry", sink).acked)
            assert len(numbers(rest)) == account.spooled
            assert had + readings_in(rest) == self.put, sink


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_happens_each_sink_has_each_reading_once(seed):
    with structlog.testing.capture_logs():
        await Life(seed).run(60)


async def test_damage_in_a_segment_that_windows_have_taken_the_place_of_is_no_loss():
    """The process died before it had removed the old one, which rotted meanwhile."""
    storage = MemoryStorage()
    with structlog.testing.capture_logs():
        spool = await _open(storage)
        await spool.ledger.register("telemetry", "lake")
        end = await fill(spool, 6_000, step=500)
        await spool._writer.run(spool._logs["telemetry"].roll)
        before = {path: bytes(data) for path, data in storage.files.items() if path.suffix == ".seg"}
        assert await spool.retention._thin_oldest("telemetry")
        for task in spool._tasks:
            task.cancel()
        await asyncio.gather(*spool._tasks, return_exceptions=True)
        crash(spool)
        old = next(path for path in sorted(before) if path not in storage.files)
        storage.files[old] = bytearray(before[old][:-10])  # no footer, so it is read record by record
        storage.files[old][200] ^= 4
        again = await _open(storage)
        assert again.recovery["telemetry"].missing == []
        assert {loss.cause for loss in again.take_losses()} == {"downsampled"}
        assert readings_in(await everything(again)) == end
        assert old not in storage.files
        await again.close()
