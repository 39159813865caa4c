"""Putting, numbering, committing and reading back."""

from __future__ import annotations

import asyncio

import numpy as np
import pyarrow as pa
import pytest

from gateway.spool.commit import COMMIT_ORDER
from schemas.errors import ConfigError
from schemas.kinds import KINDS, SCHEMAS, make_batch

from .conftest import alerts, crash, everything, numbers, readings, running, segments, values


async def test_rows_are_numbered_at_once_and_durable_after_the_commit(open_spool):
    spool = await open_spool(commit_every_s=30)
    assert [await spool.put("telemetry", readings(3)), await spool.put("telemetry", readings(2, 3))] == [0, 3]
    assert (spool.end("telemetry"), spool.durable("telemetry")) == (5, 0)
    assert await everything(spool) == []
    await spool.flush()
    assert spool.durable("telemetry") == 5
    assert values(await everything(spool)) == [0, 1, 2, 3, 4]


async def test_what_was_durable_is_there_after_a_crash_and_numbers_go_on(open_spool):
    spool = await open_spool()
    await spool.put("telemetry", readings(10))
    await spool.put("event", make_batch("event", 2, time=5, event="x"))
    await spool.flush()
    crash(spool)
    async with running(open_spool) as again:
        assert values(await everything(again)) == list(range(10))
        assert await again.put("telemetry", readings(1, 10)) == 10
        assert again.end("event") == 2
        assert again.recovery["telemetry"].missing == []
        assert again.recovery["telemetry"].truncated_bytes == 0
        assert again.epoch == spool.epoch


async def test_every_kind_comes_back_as_it_was_put(open_spool):
    rng = np.random.default_rng(1)
    put = {}
    async with running(open_spool) as spool:
        for kind in KINDS:
            columns = {}
            for field in SCHEMAS[kind]:
                if pa.types.is_string(field.type):
                    columns[field.name] = ["主モータ", None, "ß\0", ""]
                elif pa.types.is_list(field.type):
                    columns[field.name] = [[1.5, 2.5], None, [], [float("nan")]]
                elif pa.types.is_boolean(field.type):
                    columns[field.name] = [True, None, False, True]
                elif pa.types.is_floating(field.type):
                    columns[field.name] = pa.array([1e300, None, -0.0, float("inf")])
                else:
                    columns[field.name] = pa.array([int(rng.integers(0, 200)), None, 7, 0], pa.int64()).cast(field.type)
            put[kind] = make_batch(kind, 4, **columns)
            await spool.put(kind, put[kind])
    async with running(open_spool) as spool:
        for kind in KINDS:
            [(first, batch)] = await everything(spool, kind)
            assert first == 0
            assert batch.schema.equals(SCHEMAS[kind], check_metadata=True)
            assert batch.to_pydict().__repr__() == put[kind].to_pydict().__repr__()


async def test_a_put_of_a_wrong_schema_is_refused_and_an_empty_one_takes_no_number(open_spool):
    spool = await open_spool()
    with pytest.raises(ValueError, match="not a batch of alert"):
        await spool.put("alert", readings(1))
    assert await spool.put("telemetry", readings(0)) == 0
    assert await spool.put("telemetry", readings(1)) == 0


async def test_an_alert_is_committed_at_once_and_its_reading_with_it(open_spool):
    spool = await open_spool(commit_every_s=30)
    await spool.put("telemetry", readings(5))
    seen = spool.progress
    await spool.put("alert", alerts(1, onset=4))
    await asyncio.wait_for(spool.wait(seen), 5)
    assert (spool.durable("telemetry"), spool.durable("alert")) == (5, 1)
    assert COMMIT_ORDER[0] == "telemetry"
    assert COMMIT_ORDER[-1] == "alert"


async def test_a_commit_comes_when_enough_bytes_wait(open_spool):
    spool = await open_spool(commit_every_s=30, commit_bytes=2000)
    seen = spool.progress
    await spool.put("telemetry", readings(100))
    await asyncio.wait_for(spool.wait(seen), 5)
    assert spool.durable("telemetry") == 100


async def test_with_fsync_always_a_put_returns_when_its_rows_are_durable(open_spool):
    spool = await open_spool(commit_every_s=30, fsync="always")
    for n in range(3):
        assert await spool.put("telemetry", readings(2, 2 * n)) == 2 * n
        assert spool.durable("telemetry") == 2 * n + 2


async def test_reading_keeps_to_rows_bytes_and_the_last_row_and_comes_from_disk_as_from_memory(open_spool):
    spool = await open_spool()
    for n in range(10):
        await spool.put("telemetry", readings(100, 100 * n))
        await spool.flush()
    crash(spool)
    again = await open_spool()
    for one in (spool, again):
        one._closed = False  # reading from memory needs no thread
        for first, most, last in (
            (0, 1, None),
            (99, 2, None),
            (250, 500, None),
            (0, 10**6, 777),
            (950, 100, 10**9),
            (1000, 5, None),
        ):
            read = await one.read("telemetry", first, max_rows=most, last=last)
            stop = min(1000, first + most, 1000 if last is None else last + 1)
            assert numbers(read) == list(range(first, stop))
            assert values(read) == list(range(first, stop))
        few = numbers(await one.read("telemetry", 0, max_rows=10**6, max_bytes=5000))
        assert 100 < len(few) < 500
        assert numbers(await one.read("telemetry", 5, max_rows=10**6, max_bytes=1)) == [5]
    spool._closed = True


async def test_segments_roll_are_closed_with_a_footer_and_read_across(open_spool, tmp_path):
    async with running(open_spool, segment_bytes=64 << 10) as spool:
        rng = np.random.default_rng(0)
        for n in range(40):
            await spool.put("telemetry", readings(1000, 1000 * n, text=pa.array(rng.bytes(8).hex() for _ in range(1000))))
            await spool.flush()
    assert len(segments(tmp_path / "spool")) > 4
    async with running(open_spool) as spool:
        assert values(await spool.read("telemetry", 500, max_rows=38_000)) == list(range(500, 38_500))
        assert spool.recovery["telemetry"].next_row == 40_000


async def test_a_batch_larger_than_a_segment_is_taken(open_spool, tmp_path):
    rng = np.random.default_rng(0)
    samples = pa.array([rng.random(700_000, dtype=np.float32) for _ in range(3)], pa.list_(pa.float32()))
    async with running(open_spool, segment_bytes=1 << 20) as spool:
        await spool.put("telemetry", readings(3, samples=samples))
        await spool.put("telemetry", readings(5, 3))
    async with running(open_spool) as spool:
        read = await everything(spool)
        assert values(read) == list(range(8))
        assert pa.concat_arrays([batch.column("samples") for _, batch in read])[:3].equals(samples)


async def test_put_waits_while_the_buffer_is_full_and_goes_on_in_the_order_of_the_calls(open_spool):
    spool = await open_spool(commit_every_s=0.001, buffer_bytes=1000)
    firsts = await asyncio.gather(*(spool.put("telemetry", readings(10, 10 * n)) for n in range(50)))
    assert firsts == list(range(0, 500, 10))
    await spool.flush()
    assert values(await everything(spool)) == list(range(500))


async def test_a_put_that_is_cancelled_while_it_waits_takes_no_number_and_lets_the_next_pass(open_spool):
    spool = await open_spool(commit_every_s=30, commit_bytes=1 << 30, buffer_bytes=100)
    await spool.put("telemetry", readings(100))
    waiting = [asyncio.ensure_future(spool.put("telemetry", readings(1, 100))) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await spool.flush()
    assert await asyncio.wait_for(waiting[1], 5) == 100
    assert waiting[0].cancelled()


async def test_a_tap_sees_every_batch_in_row_order_at_put_time(open_spool):
    spool = await open_spool(commit_every_s=30)
    seen = []
    stop = spool.tap("telemetry", lambda first, batch: seen.append((first, batch.num_rows)))
    await spool.put("telemetry", readings(2))
    await spool.put("telemetry", readings(3, 2))
    stop()
    await spool.put("telemetry", readings(1, 5))
    assert seen == [(0, 2), (2, 3)]


async def test_two_spools_cannot_share_a_directory_and_the_error_names_the_process(open_spool):
    import os

    await open_spool()
    with pytest.raises(ConfigError, match=f"in use by process {os.getpid()}"):
        await open_spool()


async def test_a_spool_of_another_gateway_is_refused(open_spool):
    await (await open_spool()).close()
    with pytest.raises(ConfigError, match="belongs to gateway 'gw', not to 'other'"):
        await open_spool(gateway="other")
    await open_spool()  # and it is not locked afterwards


async def test_a_directory_that_cannot_be_written_is_for_a_person(open_spool, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be kept in"):
        await open_spool(directory=tmp_path / "file")


async def test_an_idle_spool_writes_nothing(open_spool):
    spool = await open_spool()
    await spool.ledger.register("telemetry", "lake")
    await spool.put("telemetry", readings(1))
    await spool.flush()
    await asyncio.sleep(0.05)
    before = spool.bytes_written
    await asyncio.sleep(0.2)
    assert spool.bytes_written == before


async def test_times_of_rows_survive_a_restart(open_spool, manual_clock):
    async with running(open_spool) as spool:
        assert spool.last_durable_us("telemetry") is None
        times = []
        for n in range(3):
            manual_clock.step(10)
            times.append(manual_clock.now_us())
            await spool.put("telemetry", readings(2, 2 * n))
            await spool.flush()
        assert [spool.time_of("telemetry", row) for row in range(6)] == [t for t in times for _ in range(2)]
    manual_clock.step(100)
    async with running(open_spool) as spool:
        assert spool.last_durable_us("telemetry") == times[-1]
        assert times[0] <= spool.time_of("telemetry", 0) <= spool.time_of("telemetry", 5) <= times[-1]
        assert spool.time_of("telemetry", 6) == manual_clock.now_us()


async def test_after_a_restart_the_newest_row_counts_not_the_latest_time_which_a_clock_that_was_set_back_left(
    open_spool, manual_clock
):
    for step in (0, -30 * 86_400):  # each run begins a segment of its own
        manual_clock.step(step)
        async with running(open_spool, segment_bytes=64 << 10) as spool:
            await spool.put("telemetry", readings(2))
    async with running(open_spool) as spool:
        assert spool.last_durable_us("telemetry") == manual_clock.now_us()


async def test_concurrent_puts_reads_and_acknowledgements_lose_nothing(open_spool):
    spool = await open_spool(segment_bytes=64 << 10, retention_grace_s=0)
    await spool.ledger.register("telemetry", "lake")
    taken: list[float] = []
    done = asyncio.Event()

    async def produce(start: int) -> None:
        for n in range(100):
            await spool.put("telemetry", readings(20, start + 20 * n))
            await asyncio.sleep(0)

    async def consume() -> None:
        while not done.is_set() or spool.account("telemetry", "lake").spooled:
            seen = spool.progress
            cursor = spool.ledger.cursor("telemetry", "lake")
            read = await spool.read("telemetry", cursor.acked, max_rows=333)
            if not read:
                if not done.is_set():
                    await spool.wait(seen)
                continue
            last = numbers(read)[-1]
            await spool.ledger.begin_cut("telemetry", "lake", cursor.acked, last)
            taken.extend(values(read))
            await spool.ledger.acknowledge("telemetry", "lake", last, delivered=len(numbers(read)), filtered=0)

    async with asyncio.TaskGroup() as group:
        group.create_task(consume())
        await asyncio.gather(*(produce(10_000 * k) for k in range(4)))
        await spool.flush()
        done.set()
    assert len(taken) == 8000
    for k in range(4):
        mine = [value for value in taken if 10_000 * k <= value < 10_000 * (k + 1)]
        assert mine == list(range(10_000 * k, 10_000 * k + 2000))
    account = spool.account("telemetry", "lake")
    assert (account.read, account.delivered, account.spooled) == (8000, 8000, 0)
