"""Cursors, cuts and counters: what a restart knows of who has had what."""

from __future__ import annotations

import asyncio
import errno

import pytest

from gateway.spool import Cut
from gateway.spool.book import Book, Cursor, Pin
from gateway.spool.ledger_file import SLOT_BYTES, LedgerFile
from gateway.spool.spans import Spans
from schemas.errors import Busy, ConfigError

from .conftest import FaultyStorage, crash, everything, readings, running


async def filled(open_spool, rows: int = 100, **options):
    spool = await open_spool(**options)
    await spool.put("telemetry", readings(rows))
    await spool.flush()
    return spool


async def test_a_new_sink_starts_at_the_tail_unless_told_otherwise_and_a_known_one_stays(open_spool):
    spool = await filled(open_spool)
    assert (await spool.ledger.register("telemetry", "a")).acked == 100
    assert (await spool.ledger.register("telemetry", "b", "oldest")).acked == 0
    assert (await spool.ledger.register("telemetry", "a", "oldest")).acked == 100
    assert spool.ledger.sinks == {"a", "b"}
    assert spool.account("telemetry", "b").spooled == 100
    assert spool.account("telemetry", "unheard of").read == 0


async def test_a_cut_is_durable_before_it_returns_and_found_again_after_a_crash(open_spool):
    spool = await filled(open_spool)
    await spool.ledger.register("telemetry", "lake", "oldest")
    await spool.ledger.begin_cut("telemetry", "lake", 0, 41)
    crash(spool)
    async with running(open_spool) as again:
        assert again.ledger.cursor("telemetry", "lake") == Cursor(0, 0, Cut(0, 41))
        assert again.account("telemetry", "lake").spooled == 100
        await again.ledger.acknowledge("telemetry", "lake", 41, delivered=40, filtered=1, dead_lettered=1)
        assert again.ledger.cursor("telemetry", "lake").cut is None
    async with running(open_spool) as again:
        account = again.account("telemetry", "lake")
        assert (account.read, account.delivered, account.filtered, account.dead_lettered, account.spooled) == (100, 40, 1, 1, 58)
        assert account.read == account.delivered + account.filtered + account.dead_lettered + account.dropped + account.spooled


async def test_wrong_cuts_and_counts_are_refused(open_spool):
    spool = await filled(open_spool)
    ledger = spool.ledger
    await ledger.register("telemetry", "lake", "oldest")
    for first, last in ((1, 5), (0, 100), (5, 4)):
        with pytest.raises(ValueError, match="no cut"):
            await ledger.begin_cut("telemetry", "lake", first, last)
    with pytest.raises(ValueError, match="not registered"):
        await ledger.begin_cut("telemetry", "stranger", 0, 1)
    await ledger.begin_cut("telemetry", "lake", 0, 9)
    with pytest.raises(ValueError, match="no cut"):
        await ledger.begin_cut("telemetry", "lake", 0, 9)
    with pytest.raises(ValueError, match="accounted for"):
        await ledger.acknowledge("telemetry", "lake", 9, delivered=9, filtered=0)
    with pytest.raises(ValueError, match="ends at 9"):
        await ledger.acknowledge("telemetry", "lake", 8, delivered=9, filtered=0)
    await ledger.acknowledge("telemetry", "lake", 9, delivered=10, filtered=0)
    with pytest.raises(ValueError, match="not durable"):
        await ledger.acknowledge("telemetry", "lake", 100, delivered=91, filtered=0)


async def test_an_acknowledgement_is_on_disk_a_commit_later_also_in_the_first_seconds(open_spool):
    spool = await filled(open_spool, commit_every_s=0.01, retention_grace_s=60)
    await spool.ledger.register("telemetry", "lake", "oldest")
    await asyncio.sleep(0.1)
    await spool.ledger.begin_cut("telemetry", "lake", 0, 9)
    await spool.ledger.acknowledge("telemetry", "lake", 9, delivered=10, filtered=0)
    await asyncio.sleep(0.2)
    crash(spool)
    async with running(open_spool) as again:
        assert again.ledger.cursor("telemetry", "lake") == Cursor(0, 10, None, 10)


async def test_many_acknowledgements_are_one_write(open_spool):
    spool = await filled(open_spool, commit_every_s=0.05)
    for n in range(20):
        await spool.ledger.register("telemetry", f"sink-{n}", "oldest")
    for n in range(20):
        await spool.ledger.begin_cut("telemetry", f"sink-{n}", 0, 9)
    before = spool._ledger_file.generation
    for n in range(20):
        await spool.ledger.acknowledge("telemetry", f"sink-{n}", 9, delivered=10, filtered=0)
    await asyncio.sleep(0.2)
    assert spool._ledger_file.generation == before + 1
    await asyncio.gather(*(spool.ledger.begin_cut("telemetry", f"sink-{n}", 10, 19) for n in range(20)))
    assert spool._ledger_file.generation <= before + 3


@pytest.mark.parametrize("hit", [0, 1])
@pytest.mark.parametrize("at", [0, 9, 20, 27, 60])
async def test_damage_to_one_slot_falls_back_to_the_other(open_spool, tmp_path, hit, at):
    spool = await filled(open_spool)
    await spool.ledger.register("telemetry", "lake", "oldest")
    for n in range(4):
        await spool.ledger.begin_cut("telemetry", "lake", 10 * n, 10 * n + 9)
        await spool.ledger.acknowledge("telemetry", "lake", 10 * n + 9, delivered=10, filtered=0)
        await spool.ledger.save()
    newest = spool._ledger_file.generation & 1
    crash(spool)
    path = tmp_path / "spool" / "ledger"
    data = bytearray(path.read_bytes())
    data[hit * SLOT_BYTES + at] ^= 0x10
    path.write_bytes(bytes(data))
    async with running(open_spool) as again:
        assert again.ledger.condition == "one slot"
        cursor = again.ledger.cursor("telemetry", "lake")
        assert cursor == (Cursor(0, 30, Cut(30, 39), 30) if hit == newest else Cursor(0, 40, None, 40))
        assert len(again.recovery["telemetry"].missing) == 0
        await again.ledger.pin("telemetry", "models", 5)
    async with running(open_spool) as again:
        assert again.ledger.condition == "whole"
        assert again.ledger.pin_of("telemetry", "models") == Pin(5)


@pytest.mark.parametrize("damage", ["both slots", "deleted", "zeros", "cut short"])
async def test_a_lost_ledger_makes_every_sink_begin_at_the_oldest_row(open_spool, tmp_path, damage):
    spool = await filled(open_spool)
    await spool.ledger.register("telemetry", "lake", "oldest")
    await spool.close()
    path = tmp_path / "spool" / "ledger"
    if damage == "both slots":
        path.write_bytes(b"\xff" * 2 * SLOT_BYTES)
    elif damage == "deleted":
        path.unlink()
    elif damage == "zeros":
        path.write_bytes(bytes(2 * SLOT_BYTES))
    else:
        path.write_bytes(path.read_bytes()[:40])
    async with running(open_spool) as again:
        assert again.ledger.condition == "lost"
        assert (await again.ledger.register("telemetry", "lake")).acked == 0
        assert again.end("telemetry") == 100
        assert await everything(again)
    async with running(open_spool) as again:
        assert again.ledger.condition == "whole"
        assert again.ledger.cursor("telemetry", "lake").acked == 0


async def test_a_failing_ledger_disk_makes_cuts_wait_and_never_lie(open_spool):
    disk = FaultyStorage()
    spool = await filled(open_spool, storage=disk)
    await spool.ledger.register("telemetry", "lake", "oldest")
    disk.fail("fdatasync", errno.EIO)
    cut = asyncio.ensure_future(spool.ledger.begin_cut("telemetry", "lake", 0, 9))
    await asyncio.sleep(0.1)
    assert not cut.done()
    assert spool.failure
    disk.heal()
    assert await asyncio.wait_for(cut, 5) == Cut(0, 9)
    assert spool.failure == ""


async def test_a_cut_that_was_cancelled_before_it_was_durable_is_not_in_flight(open_spool):
    disk = FaultyStorage()
    spool = await filled(open_spool, storage=disk)
    await spool.ledger.register("telemetry", "lake", "oldest")
    disk.fail("fdatasync", errno.EIO)
    cut = asyncio.ensure_future(spool.ledger.begin_cut("telemetry", "lake", 0, 9))
    await asyncio.sleep(0.05)
    cut.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cut
    disk.heal()
    assert spool.ledger.cursor("telemetry", "lake").cut is None
    await spool.ledger.begin_cut("telemetry", "lake", 0, 49)


async def test_forgetting_a_sink_frees_what_it_held_back(open_spool):
    spool = await filled(open_spool)
    await spool.ledger.register("telemetry", "old", "oldest")
    await spool.ledger.register("event", "old")
    await spool.ledger.pin("telemetry", "models", 40, "state-40.bin")
    assert spool.ledger.needed("telemetry") == 0
    assert await spool.ledger.forget("old")
    assert not await spool.ledger.forget("old")
    assert spool.ledger.needed("telemetry") == 40
    assert spool.ledger.needed("event") is None
    assert spool.ledger.sinks == frozenset()


async def test_rows_given_up_meanwhile_make_a_cut_busy(open_spool):
    spool = await filled(open_spool)
    await spool.ledger.register("telemetry", "lake", "oldest")
    assert spool.ledger.give_up("telemetry", 0, 30) == {"lake": 30}
    with pytest.raises(Busy):
        await spool.ledger.begin_cut("telemetry", "lake", 0, 49)
    account = spool.account("telemetry", "lake")
    assert (account.read, account.dropped, account.spooled) == (100, 30, 70)
    assert await spool.ledger.begin_cut("telemetry", "lake", 30, 49) == Cut(30, 49)
    # behind a cut in flight rows are given up too; the sink finds them missing later, and they count as dropped at once
    assert spool.ledger.give_up("telemetry", 60, 80) == {"lake": 20}
    account = spool.account("telemetry", "lake")
    assert (account.read, account.dropped, account.spooled) == (100, 50, 50)


async def test_a_ledger_that_is_full_refuses_another_sink(open_spool):
    spool = await filled(open_spool)
    await spool.ledger.register("telemetry", "x" * (SLOT_BYTES // 2))
    with pytest.raises(ConfigError, match="no room"):
        await spool.ledger.register("telemetry", "y" * (SLOT_BYTES // 2))
    await spool.ledger.register("telemetry", "small")
    assert "small" in spool.ledger.sinks


def test_a_book_packs_and_unpacks():
    book = Book("gw", 7, {"alert": 3})
    book.cursors["telemetry", "lake 湖"] = Cursor(1, 5, Cut(5, 9), 2, 1, 1, 0)
    book.cursors["alert", "mqtt"] = Cursor(0, 3, None, 3)
    book.pins["telemetry", "models"] = Pin(12, "state-12.bin")
    book.gone["telemetry"] = Spans([(2, 4), (8, 9)])
    back = Book.unpack(book.pack())
    assert (back.gateway, back.epoch, back.durable, back.cursors, back.pins) == ("gw", 7, book.durable, book.cursors, book.pins)
    assert list(back.gone["telemetry"]) == [(2, 4), (8, 9)]
    assert (back.high_water("telemetry"), back.high_water("alert"), back.high_water("gap")) == (12, 3, 0)


def test_spans_merge_count_and_answer():
    spans = Spans([(5, 8), (1, 3), (3, 5), (20, 20)])
    assert list(spans) == [(1, 8)]
    spans.add(10, 12)
    assert (spans.within(0, 100), spans.within(7, 11), spans.within(8, 10)) == (9, 2, 0)
    assert spans.missing_from(0, 15) == [(0, 1), (8, 10), (12, 15)]
    spans.discard_below(11)
    assert list(spans) == [(11, 12)]


async def test_a_named_cursor_stands_on_durable_rows_only(open_spool):
    """Else a crash would make lost rows of what was never written."""
    spool = await open_spool(commit_every_s=10)
    await spool.put("telemetry", readings(5))
    with pytest.raises(ValueError, match="row 4 is not durable"):
        await spool.ledger.pin("telemetry", "models", 5)
    await spool.flush()
    await spool.ledger.pin("telemetry", "models", 5)


async def test_a_ledger_that_nothing_was_ever_written_to_takes_no_room_in_the_quarantine(open_spool, tmp_path):
    spool = await open_spool()
    await spool.put("telemetry", readings(3))
    await spool.flush()
    crash(spool)
    (tmp_path / "spool/ledger").write_bytes(bytes(2 * SLOT_BYTES))
    again = await open_spool()
    assert again.ledger.condition == "lost"
    assert (await again.ledger.register("telemetry", "lake")).acked == 0
    assert list((tmp_path / "spool/quarantine").iterdir()) == []


def test_one_refusal_to_open_the_ledger_does_not_set_it_back(tmp_path):
    disk = FaultyStorage()
    file = LedgerFile(tmp_path / "ledger", disk)
    book = file.load()
    for _ in range(3):
        file.save(book.pack())
    file.close()
    disk.fail("open", times=1)
    again = LedgerFile(tmp_path / "ledger", disk)
    again.load()
    assert (again.condition, again.generation) == ("whole", 3)
