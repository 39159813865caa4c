"""When rows go: everybody had them, or the budget is used up. Never a cut in flight, never alerts before bulk."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from gateway.spool import DiskStorage
from schemas.errors import Busy

from .conftest import alerts, crash, everything, numbers, readings, running, segments, values


async def fill(spool, segments_: int, start: int = 0, rows: int = 4000) -> int:
    """Put and flush `segments_` segments' worth of rows, 4000 in each of about 64 KiB; returns the next row."""
    for n in range(segments_):
        first = start + n * rows
        await spool.put("telemetry", readings(rows, first, lag_ms=n + 1, text=[str(first + i) * 3 for i in range(rows)]))
        await spool.flush()
    return start + segments_ * rows


async def until_freed(spool, condition) -> None:
    async with asyncio.timeout(5):
        for _ in iter(condition, True):
            await asyncio.sleep(0.01)


async def test_a_segment_goes_when_every_sink_and_every_pin_has_passed_it(open_spool, tmp_path):
    spool = await open_spool(segment_bytes=64 << 10, retention_grace_s=0)
    await spool.ledger.register("telemetry", "fast")
    await spool.ledger.register("telemetry", "slow")
    await spool.ledger.pin("telemetry", "models", 0)
    end = await fill(spool, 6)
    held = len(segments(tmp_path / "spool"))
    assert held >= 5
    await spool.ledger.acknowledge("telemetry", "fast", end - 1, delivered=end, filtered=0)
    await spool.ledger.pin("telemetry", "models", end)
    await asyncio.sleep(0.05)
    assert len(segments(tmp_path / "spool")) == held
    await spool.ledger.acknowledge("telemetry", "slow", 8_000, delivered=8_001, filtered=0)
    await until_freed(spool, lambda: spool.oldest("telemetry") > 0)
    assert spool.oldest("telemetry") <= 8_001
    assert values(await everything(spool, first=8_001)) == list(range(8_001, end))


async def test_nothing_goes_in_the_first_seconds_so_that_sinks_can_be_registered(open_spool, tmp_path):
    spool = await open_spool(segment_bytes=64 << 10, retention_grace_s=60)
    await fill(spool, 4)
    await asyncio.sleep(0.1)
    assert spool.oldest("telemetry") == 0
    assert (await spool.ledger.register("telemetry", "lake", "oldest")).acked == 0


async def test_what_nobody_reads_goes_with_the_next_segment(open_spool):
    spool = await open_spool(segment_bytes=64 << 10, retention_grace_s=0)
    await fill(spool, 4)
    await until_freed(spool, lambda: spool.oldest("telemetry") > 0)


async def test_numbers_go_on_after_a_crash_although_nobody_reads_the_rows_and_all_files_are_gone(open_spool, tmp_path):
    """Found by tests/chaos/machine (seed 910283): after a crash nothing is noted, so the ledger was not written before the file went."""
    spool = await open_spool(retention_grace_s=60)
    await spool.put("telemetry", readings(10))
    await spool.flush()
    crash(spool)
    spool = await open_spool(retention_grace_s=0)
    await until_freed(spool, lambda: not segments(tmp_path / "spool"))
    crash(spool)
    spool = await open_spool()
    assert spool.end("telemetry") == spool.durable("telemetry") == 10


async def test_alerts_are_kept_although_everybody_has_had_them_and_their_indexes_are_not(open_spool):
    spool = await open_spool(retention_grace_s=0)
    await spool.ledger.register("alert", "a")
    end = 0
    while len(spool._logs["alert"].closed) < 3:
        await spool.put("alert", alerts(200, onset=end))
        await spool.flush()
        end += 200
    log = spool._logs["alert"]
    assert any(segment.entries is not None for segment in log.closed)
    await spool.ledger.begin_cut("alert", "a", 0, end - 1)
    await spool.ledger.acknowledge("alert", "a", end - 1, delivered=end, filtered=0)
    await until_freed(spool, lambda: all(segment.entries is None for segment in log.closed))
    assert len(log.closed) >= 3
    assert numbers(await everything(spool, "alert")) == list(range(end))


async def test_files_that_a_power_cut_brings_back_are_no_damage_where_nobody_reads_the_rows(open_spool, tmp_path):
    """Found by tests/chaos/machine (seed 602152): the names of removed files are back, one of them and not the next."""
    spool = await open_spool(retention_grace_s=60)
    for first in (0, 10, 20):  # a file for each start
        await spool.put("telemetry", readings(10, first))
        await spool.close()
        spool = await open_spool(retention_grace_s=60)
    files = {path: path.read_bytes() for path in segments(tmp_path / "spool")}
    assert len(files) == 3
    crash(spool)
    spool = await open_spool(retention_grace_s=0)
    await until_freed(spool, lambda: not segments(tmp_path / "spool"))
    crash(spool)
    first, _, last = files
    for back in ([first], [last], [first, last]):
        for path in back:
            path.write_bytes(files[path])
        with capture_logs() as log:
            spool = await open_spool(retention_grace_s=60)
        assert spool.take_losses() == []
        assert [line["event"] for line in log if line["log_level"] == "error"] == []
        assert spool.end("telemetry") == spool.durable("telemetry") == 30
        crash(spool)
        for path in back:
            path.unlink(missing_ok=True)


async def test_the_budget_is_kept_by_dropping_the_oldest_rows_and_every_row_is_accounted_for(open_spool):
    spool = await open_spool(max_bytes=1 << 20, retention_grace_s=0)
    await spool.ledger.register("telemetry", "a")
    await spool.ledger.register("telemetry", "b")
    end = 0
    lost: dict[str, int] = {"a": 0, "b": 0}
    for n in range(30):
        end = await fill(spool, 1, end)
        if n == 3:
            await spool.ledger.begin_cut("telemetry", "a", 0, 5_999)
            await spool.ledger.acknowledge("telemetry", "a", 5_999, delivered=6_000, filtered=0)
        assert spool.bytes_used() <= 1 << 20
        for loss in spool.take_losses():
            assert loss.cause == "dropped"
            assert loss.time_us <= loss.end_us
            for sink, rows in loss.sinks.items():
                lost[sink] += rows
        for sink in ("a", "b"):
            account = spool.account("telemetry", sink)
            assert account.dropped == lost[sink]
            assert account.read == end
            assert (
                account.read == account.delivered + account.filtered + account.spooled + account.dropped + account.dead_lettered
            )
    oldest = spool.oldest("telemetry")
    assert 0 < oldest < end
    assert spool.account("telemetry", "a").dropped == oldest - 6_000
    assert spool.account("telemetry", "b").dropped == oldest
    assert spool.ledger.cursor("telemetry", "b").acked == oldest
    assert values(await everything(spool, first=oldest)) == list(range(oldest, end))


async def test_a_cut_in_flight_pins_its_rows_and_later_ones_go_instead(open_spool):
    spool = await open_spool(max_bytes=1 << 20, retention_grace_s=0)
    await spool.ledger.register("telemetry", "lake")
    await fill(spool, 2)
    await spool.ledger.begin_cut("telemetry", "lake", 0, 99)
    end = await fill(spool, 28, 8_000)
    losses = spool.take_losses()
    assert losses
    assert numbers(await spool.read("telemetry", 0, max_rows=100, last=99)) == list(range(100))
    dropped = spool.account("telemetry", "lake").dropped
    assert dropped == sum(loss.last - loss.first + 1 for loss in losses)
    spool.ledger.told(losses[:-1])
    await spool.ledger.save()
    crash(spool)
    async with running(open_spool, max_bytes=1 << 20) as again:
        assert again.take_losses() == losses[-1:]  # the others are known, so not told twice
        account = again.account("telemetry", "lake")
        assert (account.read, account.dropped) == (end, dropped)
        assert numbers(await again.read("telemetry", 0, max_rows=100, last=99)) == list(range(100))
        await again.ledger.acknowledge("telemetry", "lake", 99, delivered=100, filtered=0)
        # what is missing behind it counts as dropped when it is passed, and only once
        read = await everything(again, first=100)
        last = numbers(read)[-1]
        await again.ledger.begin_cut("telemetry", "lake", 100, last)
        rows = len(numbers(read))
        await again.ledger.acknowledge("telemetry", "lake", last, delivered=rows, filtered=0, dropped=last - 99 - rows)
        account = again.account("telemetry", "lake")
        assert (account.spooled, account.dropped, account.delivered) == (0, dropped, end - dropped)


async def test_with_block_nothing_is_dropped_and_put_waits_until_rows_are_delivered(open_spool):
    spool = await open_spool(max_bytes=1 << 20, when_full={"telemetry": "block"}, retention_grace_s=0, buffer_bytes=1000)
    await spool.ledger.register("telemetry", "lake")
    end = 0

    async def fill_until_it_blocks() -> None:
        nonlocal end
        for _ in range(60):
            await spool.put("telemetry", readings(4000, end, lag_ms=end + 1, text=[str(end + i) * 3 for i in range(4000)]))
            end += 4000
            await spool.flush(patience_s=0.05)

    with pytest.raises(Busy, match="max_size"):
        await fill_until_it_blocks()
    durable = spool.durable("telemetry")
    assert durable < end
    assert "max_size" in spool.failure
    await spool.put("alert", alerts(1))  # small segments of other kinds may still fit, or wait
    assert spool.account("telemetry", "lake").dropped == 0
    waiting = asyncio.ensure_future(spool.put("telemetry", readings(1, end)))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await spool.ledger.begin_cut("telemetry", "lake", 0, durable - 1)
    await spool.ledger.acknowledge("telemetry", "lake", durable - 1, delivered=durable, filtered=0)
    assert await asyncio.wait_for(waiting, 10) == end
    await spool.flush()
    assert spool.failure == ""
    assert values(await everything(spool, first=durable)) == list(range(durable, end + 1))


async def test_alerts_are_given_up_last(open_spool):
    spool = await open_spool(max_bytes=1 << 20, retention_grace_s=0)
    await spool.ledger.register("telemetry", "lake")
    await spool.ledger.register("alert", "mqtt")
    for n in range(20):
        await spool.put("alert", alerts(1, onset=None))
        await fill(spool, 2, 8_000 * n)
    assert spool.account("telemetry", "lake").dropped > 0
    assert spool.account("alert", "mqtt").dropped == 0
    assert len(numbers(await everything(spool, "alert"))) == 20


async def test_acknowledged_alerts_are_kept_for_the_alarm_layer(open_spool):
    spool = await open_spool(segment_bytes=64 << 10, retention_grace_s=0)
    await spool.ledger.register("alert", "mqtt")
    await spool.put("alert", alerts(3))
    await spool.flush()
    await spool.ledger.acknowledge("alert", "mqtt", 2, delivered=3, filtered=0)
    await spool.close()
    for _ in range(3):
        async with running(open_spool, retention_grace_s=0) as again:
            await again.ledger.pin("telemetry", "models", 0)
            await asyncio.sleep(0.05)
            assert numbers(await everything(again, "alert")) == [0, 1, 2]


@pytest.mark.parametrize("policy", ["drop_oldest", "downsample"])
async def test_what_is_really_on_the_disk_keeps_to_the_budget_with_dead_letters_and_quarantine(open_spool, tmp_path, policy):
    directory, budget = tmp_path / "spool", 1 << 20
    for name in ("dead-letters/lake", "quarantine", "models"):
        (directory / name).mkdir(parents=True)
    (directory / "dead-letters/lake/some.arrow").write_bytes(bytes(100_000))
    (directory / "quarantine/bad").write_bytes(bytes(50_000))
    spool = await open_spool(max_bytes=budget, when_full={"telemetry": policy}, retention_grace_s=0)
    await spool.ledger.register("telemetry", "lake")
    disk, end, most = DiskStorage(), 0, 0
    for n in range(40):
        end = await fill(spool, 1, end)
        if n == 20:  # they grow while the gateway runs
            (directory / "models/state.bin").write_bytes(bytes(60_000))
        async with spool.retention._working:  # between two rewrites
            most = max(most, await asyncio.to_thread(disk.tree_bytes, directory))
        assert most <= budget
    assert most > budget * 0.75
    assert spool.account("telemetry", "lake").dropped > 0
