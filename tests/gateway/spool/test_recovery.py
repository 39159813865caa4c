"""What a start makes of torn, damaged, empty, foreign and missing files. Nothing keeps a spool from opening."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gateway.spool import format as f
from gateway.spool.segment import scan
from schemas.errors import ConfigError
from schemas.kinds import make_batch

from .conftest import OpenSpool, crash, everything, numbers, readings, running, segments, values
from .damage import flip_every_bit, flip_the_ledger, truncate_everywhere, truncate_the_footer


async def crashed(open_spool: OpenSpool, directory: Path, records: int = 3, rows: int = 4) -> None:
    """A spool that was killed with `records` durable records of `rows` rows, not closed."""
    spool = await open_spool(directory=directory, segment_bytes=64 << 10)
    for n in range(records):
        await spool.put("telemetry", readings(rows, rows * n))
        await spool.flush()
    crash(spool)


async def reopened(open_spool: OpenSpool, directory: Path) -> tuple[list[int], list[float], object]:
    """Row numbers and values that a start finds, and its report; the spool takes rows afterwards."""
    async with running(open_spool, directory=directory) as spool:
        read = await everything(spool)
        first = await spool.put("telemetry", readings(1, 999))
        await spool.flush()
        assert values(await everything(spool, first=first)) == [999]
        return numbers(read), values(read), spool.recovery["telemetry"]


@pytest.mark.parametrize("preallocated", [False, True])
def test_truncation_at_every_byte_of_the_last_records_costs_what_was_cut_only(preallocated):
    assert truncate_everywhere(preallocated=preallocated) > 500


def test_truncation_at_every_byte_of_a_footer_costs_nothing():
    assert truncate_the_footer() > 100


def test_whatever_bit_of_the_ledger_is_flipped_the_content_before_is_there():
    assert flip_the_ledger() > 1000


async def test_torn_bytes_are_counted(open_spool, tmp_path):
    await crashed(open_spool, tmp_path / "spool")
    [path] = segments(tmp_path / "spool")
    end = scan(path.read_bytes(), 0).entries[1].offset
    path.write_bytes(path.read_bytes()[: end + 100])
    rows, _, report = await reopened(open_spool, tmp_path / "spool")
    assert rows == [0, 1, 2, 3]
    assert report.truncated_bytes == 100


@pytest.mark.parametrize("closed", [False, True])
def test_every_bit_flipped_costs_at_most_its_own_record(closed):
    assert flip_every_bit(closed=closed) > 4000


def test_control_without_a_checksum_flipped_bits_are_noticed_by_the_test_above(monkeypatch):
    monkeypatch.setattr(f, "checksum", lambda data, before=0: 7)
    with pytest.raises((AssertionError, ValueError, OverflowError, MemoryError, OSError)):
        flip_every_bit(closed=False)


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, b"\xff" * 70, b"garbage" * 1000, b"GENBASEG"])
async def test_a_newest_segment_without_anything_usable_does_no_harm(open_spool, tmp_path, content):
    async with running(open_spool) as spool:
        await spool.put("telemetry", readings(5))
    path = tmp_path / "spool" / "telemetry" / f"{5:020d}.seg"
    path.write_bytes(content)
    rows, _, report = await reopened(open_spool, tmp_path / "spool")
    assert rows == list(range(5))
    assert report.discarded + report.quarantined
    assert not path.exists() or path.read_bytes() != content


async def three_segments(open_spool: OpenSpool, directory: Path) -> None:
    for n in range(3):
        async with running(open_spool, directory=directory) as spool:
            await spool.ledger.register("telemetry", "lake", "oldest")
            await spool.put("telemetry", readings(10, 10 * n))


@pytest.mark.parametrize("damage", ["missing", "empty", "garbage", "of another kind"])
@pytest.mark.parametrize("which", [0, 1])
async def test_an_earlier_segment_that_is_lost_is_a_known_gap_and_told_once(open_spool, tmp_path, damage, which):
    directory = tmp_path / "spool"
    await three_segments(open_spool, directory)
    victim = segments(directory)[which]
    if damage == "missing":
        victim.unlink()
    elif damage == "empty":
        victim.write_bytes(b"")
    elif damage == "garbage":
        victim.write_bytes(b"\x55" * 3000)
    else:
        header = f.pack_segment_header(f.SegmentHeader("alert", 0, 1, 0))
        victim.write_bytes(header + victim.read_bytes()[64 : -f.TRAILER_BYTES])
    async with running(open_spool) as spool:
        lost = (10 * which, 10 * which + 10)
        assert spool.recovery["telemetry"].missing == [lost]
        [loss] = spool.take_losses()
        assert (loss.kind, loss.first, loss.last, loss.cause, dict(loss.sinks)) == (
            "telemetry",
            lost[0],
            lost[1] - 1,
            "quarantined",
            {"lake": 10},
        )
        assert values(await everything(spool)) == [v for v in range(30) if not lost[0] <= v < lost[1]]
        account = spool.account("telemetry", "lake")
        assert (account.read, account.spooled, account.dropped) == (30, 20, 10)
        if damage in ("garbage", "of another kind"):
            assert len(list((directory / "quarantine").iterdir())) == 1
        spool.ledger.told([loss])
    async with running(open_spool) as spool:
        assert spool.recovery["telemetry"].missing == []
        assert spool.take_losses() == []
        assert spool.account("telemetry", "lake") == account


async def test_swapped_files_are_put_in_order_by_what_is_in_them(open_spool, tmp_path):
    directory = tmp_path / "spool"
    await three_segments(open_spool, directory)
    one, two, _ = segments(directory)
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)
    rows, read, _ = await reopened(open_spool, directory)
    assert rows == read == list(range(30))


async def test_a_copy_of_a_segment_gives_no_row_twice(open_spool, tmp_path):
    directory = tmp_path / "spool"
    await three_segments(open_spool, directory)
    one = segments(directory)[0]
    shutil.copy(one, one.with_name(one.stem + ".1.seg"))
    rows, _, _ = await reopened(open_spool, directory)
    assert rows == list(range(30))


@pytest.mark.parametrize("seen_by", ["sink", "pin", "cut"])
async def test_a_number_that_anybody_saw_is_never_given_again_even_when_the_last_segment_is_lost(open_spool, tmp_path, seen_by):
    async with running(open_spool) as spool:
        await spool.ledger.register("telemetry", "lake")
        await spool.put("telemetry", readings(10))
        await spool.flush()
        if seen_by == "pin":
            await spool.ledger.pin("telemetry", "models", 10, "state-10.bin")
        else:
            await spool.ledger.begin_cut("telemetry", "lake", 0, 9)
            if seen_by == "sink":
                await spool.ledger.acknowledge("telemetry", "lake", 9, delivered=10, filtered=0)
    for path in segments(tmp_path / "spool"):
        path.unlink()
    async with running(open_spool) as spool:
        assert spool.end("telemetry") == 10
        assert await spool.put("telemetry", readings(1)) == 10
        if seen_by == "cut":
            assert await spool.read("telemetry", 0, max_rows=10, last=9) == []


async def test_a_record_damaged_in_a_closed_segment_is_found_by_reading_and_skipped(open_spool, tmp_path):
    async with running(open_spool) as spool:
        await spool.ledger.register("telemetry", "lake")
        for n in range(5):
            await spool.put("telemetry", readings(10, 10 * n))
            await spool.flush()
    [path] = segments(tmp_path / "spool")
    data = bytearray(path.read_bytes())
    data[scan(bytes(data), 0).entries[2].offset + 100] ^= 4
    path.write_bytes(bytes(data))
    async with running(open_spool) as spool:
        assert values(await everything(spool)) == [*range(20), *range(30, 50)]
        assert spool.corrupt_records == 1
        [loss] = spool.take_losses()
        assert (loss.first, loss.last, dict(loss.sinks)) == (20, 29, {"lake": 10})
        assert spool.account("telemetry", "lake").dropped == 10
        assert numbers(await spool.read("telemetry", 20, max_rows=3)) == [30, 31, 32]
        assert await spool.read("telemetry", 20, max_rows=3, last=29) == []
        await spool.ledger.acknowledge("telemetry", "lake", 19, delivered=20, filtered=0)
        assert await spool.skip_missing("telemetry", "lake") == 10
        account = spool.account("telemetry", "lake")
        assert (account.read, account.delivered, account.dropped, account.spooled) == (50, 20, 10, 20)
    assert len(list((tmp_path / "quarantine").glob("*.bad")) + list((tmp_path / "spool" / "quarantine").glob("*.bad"))) == 1


@pytest.mark.parametrize("record", [0, 2, 4])
async def test_a_record_that_is_damaged_together_with_the_index_is_a_loss_that_is_told(open_spool, tmp_path, record):
    async with running(open_spool) as spool:
        await spool.ledger.register("telemetry", "lake")
        for n in range(5):
            await spool.put("telemetry", readings(10, 10 * n))
            await spool.flush()
    [path] = segments(tmp_path / "spool")
    data = bytearray(path.read_bytes())
    summary = f.unpack_trailer(bytes(data))
    assert summary is not None
    data[scan(bytes(data), 0).entries[record].offset + 100] ^= 4
    data[summary.index_offset + 8] ^= 1
    path.write_bytes(bytes(data))
    gone = range(10 * record, 10 * record + 10)
    async with running(open_spool) as spool:
        for _ in range(2):
            assert values(await everything(spool)) == [row for row in range(50) if row not in gone]
        assert spool.corrupt_records == 1
        [loss] = spool.take_losses()
        assert (loss.cause, loss.first, loss.last, dict(loss.sinks)) == ("quarantined", gone[0], gone[-1], {"lake": 10})
        assert spool.account("telemetry", "lake").dropped == 10


async def test_a_file_that_vanishes_while_the_spool_runs_is_a_loss_and_not_an_error(open_spool, tmp_path):
    await three_segments(open_spool, tmp_path / "spool")
    async with running(open_spool) as spool:
        segments(tmp_path / "spool")[1].unlink()
        assert values(await everything(spool)) == [*range(10), *range(20, 30)]
        assert [(loss.first, loss.last) for loss in spool.take_losses()] == [(10, 19)]
        assert spool.take_losses() == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"gateway": 1}'])
async def test_a_damaged_identity_is_made_again_with_the_same_epoch(open_spool, tmp_path, manual_clock, content):
    async with running(open_spool) as spool:
        epoch = spool.epoch
        await spool.put("telemetry", readings(1))
    assert epoch == manual_clock.now_us() // 1_000_000
    manual_clock.step(1000)
    (tmp_path / "spool" / "spool.json").write_bytes(content)
    async with running(open_spool) as spool:
        assert (spool.gateway, spool.epoch) == ("gw", epoch)
    (tmp_path / "spool" / "spool.json").unlink()
    (tmp_path / "spool" / "ledger").unlink()
    async with running(open_spool) as spool:
        assert spool.epoch == epoch


async def test_a_newer_format_is_refused_with_a_sentence(open_spool, tmp_path, monkeypatch):
    monkeypatch.setattr(f, "FORMAT", 2)
    async with running(open_spool) as spool:
        await spool.put("telemetry", readings(1))
    monkeypatch.setattr(f, "FORMAT", 1)
    with pytest.raises(ConfigError, match="newer version of genba"):
        await open_spool()


@pytest.mark.parametrize("closed", [True, False])
async def test_rows_of_a_newer_schema_are_refused_and_kept(open_spool, tmp_path, closed):
    spool = await open_spool()
    await spool.put("gap", make_batch("gap", 1, time=1))
    await spool.flush()
    if closed:
        await spool.close()
    else:
        crash(spool)
    [path] = segments(tmp_path / "spool", "gap")
    data = path.read_bytes()
    header = f.unpack_segment_header(data)
    assert header is not None
    path.write_bytes(f.pack_segment_header(header._replace(columns=header.columns + 1)) + data[64:])
    with pytest.raises(ConfigError, match="newer schema"):
        await open_spool()
    path.write_bytes(data)
    async with running(open_spool) as spool:
        assert numbers(await everything(spool, "gap")) == [0]


async def test_files_that_are_not_ours_are_left_alone(open_spool, tmp_path):
    async with running(open_spool) as spool:
        await spool.put("telemetry", readings(1))
    other = tmp_path / "spool" / "telemetry" / "notes.txt"
    other.write_text("mine")
    await reopened(open_spool, tmp_path / "spool")
    assert other.read_text() == "mine"
