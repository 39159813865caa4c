"""Rows that a person wants delivered once more: after what waits, outside the account, crash-safe, and never twice into a lake."""

from __future__ import annotations

import asyncio
from collections import Counter

import pyarrow.dataset as ds
import pytest

from cloud_sinks.base import BatchPolicy, SinkContext
from cloud_sinks.parquet import PLUGIN
from gateway.spool import deeds
from schemas.errors import ConfigError
from tests.conformance.sink import Tags
from tests.gateway.deliveries import TAGS, Rig, ScriptedSink, finished, running
from tests.gateway.samples import until
from tests.gateway.spool.conftest import crash


class HoldingSink(ScriptedSink):
    """A sink that knows what it has."""

    def __init__(self, **options):
        super().__init__(**options)
        self.spans: list[tuple[int, int]] = []

    async def write(self, batches, span):
        await super().write(batches, span)
        self.spans.append((span.first, span.last))

    async def holds(self, span):
        return [one for one in sorted(self.spans) if one[0] <= span.last and span.first <= one[1]]


@pytest.fixture
async def rig(open_spool, tmp_path, manual_clock):
    return Rig(await open_spool(keep_s=3600), tmp_path, manual_clock)


async def test_rows_come_once_more_in_order_and_the_account_stays(rig):
    sink = ScriptedSink(policy=BatchPolicy(max_rows=10))
    delivery = await rig.delivery(sink)
    await rig.put(40)
    async with running(delivery):
        await until(lambda: rig.account().delivered == 40)
        before = rig.account()
        answer = await deeds.resend(rig.spool, "telemetry", "lake", first=5, last=24)
        assert answer == {"kind": "telemetry", "sink": "lake", "first": 5, "last": 24, "rows": 20}
        await until(lambda: rig.spool.ledger.resends == ())
        assert sink.rows()[40:] == list(range(5, 25))
        assert rig.account() == before
        assert rig.spool.ledger.resent("telemetry", "lake") == 20
        await rig.put(1)
        await until(lambda: sink.rows()[-1] == 40)


async def test_a_resend_by_time_takes_the_rows_stored_then(rig, manual_clock):
    sink = ScriptedSink()
    delivery = await rig.delivery(sink)
    began = manual_clock.now_us()
    for _ in range(4):
        await rig.put(10)
        manual_clock.us += 60_000_000
    async with running(delivery):
        await until(lambda: rig.account().delivered == 40)
        answer = await deeds.resend(rig.spool, "telemetry", "lake", since_us=began + 60_000_000, until_us=began + 180_000_000)
        assert (answer["first"], answer["last"]) == (10, 29)


async def test_what_was_never_had_or_is_not_held_cannot_be_resent(rig):
    sink = ScriptedSink()
    await rig.delivery(sink)
    with pytest.raises(ConfigError, match="no telemetry row is held any more"):
        await deeds.resend(rig.spool, "telemetry", "lake")
    await rig.put(10)
    with pytest.raises(ConfigError, match="does not go to a sink 'lak'"):
        await deeds.resend(rig.spool, "telemetry", "lak")
    with pytest.raises(ValueError, match="will get it anyway"):
        await rig.spool.ledger.ask_resend("telemetry", "lake", 0, 5)


async def test_what_waits_goes_before_what_is_delivered_once_more(rig):
    sink = ScriptedSink(policy=BatchPolicy(max_rows=10))
    delivery = await rig.delivery(sink)
    await rig.put(10)
    async with running(delivery):
        await until(lambda: rig.account().delivered == 10)
    await rig.put(20)
    await deeds.resend(rig.spool, "telemetry", "lake")
    async with running(delivery):
        await until(lambda: rig.spool.ledger.resends == ())
    assert sink.rows() == [*range(10), *range(10, 30), *range(10)]


async def test_a_sink_that_holds_each_row_once_gets_only_what_it_has_not(rig):
    sink = HoldingSink(policy=BatchPolicy(max_rows=10))
    delivery = await rig.delivery(sink)
    await rig.put(50)
    async with running(delivery):
        await until(lambda: rig.account().delivered == 50)
        sink.spans = [span for span in sink.spans if span not in ((10, 19), (20, 29), (40, 49))]
        sink.taken.clear()
        await deeds.resend(rig.spool, "telemetry", "lake", first=5, last=44)
        await until(lambda: rig.spool.ledger.resends == ())
        assert [(first, last) for _, first, last, _ in sink.taken] == [(10, 19), (20, 29), (40, 44)]
        assert rig.spool.ledger.resent("telemetry", "lake") == 25
        await deeds.resend(rig.spool, "telemetry", "lake", first=0, last=44)
        await until(lambda: rig.spool.ledger.resends == ())
        assert len(sink.taken) == 3


async def test_after_a_crash_the_resend_goes_on_with_the_same_rows(open_spool, rig, tmp_path, manual_clock):
    async def die():
        raise asyncio.CancelledError

    sink = HoldingSink(policy=BatchPolicy(max_rows=10))
    delivery = await rig.delivery(sink)
    await rig.put(30)
    async with running(delivery):
        await until(lambda: rig.account().delivered == 30)
    sink.spans.clear()
    await deeds.resend(rig.spool, "telemetry", "lake", first=3)
    sink.on_write = [None, die]
    with pytest.raises(asyncio.CancelledError):
        await delivery.run()
    assert [(one.next, one.last, one.cut) for one in rig.spool.ledger.resends] == [(13, 29, 22)]
    crash(rig.spool)
    again = Rig(await open_spool(keep_s=3600), tmp_path, manual_clock)
    sink.policy = lambda kind: BatchPolicy(max_rows=7)  # another cut would be made now
    async with running(await again.delivery(sink)):
        await until(lambda: again.spool.ledger.resends == ())
    assert [(first, last) for _, first, last, _ in sink.taken[-3:]] == [(3, 12), (13, 22), (23, 29)]
    assert again.account().delivered == 30


async def test_a_backlog_may_be_given_up_while_it_is_under_way_and_other_sinks_keep_theirs(rig):
    started = asyncio.Event()

    async def hang():
        started.set()
        await asyncio.Event().wait()

    sink, other = ScriptedSink(policy=BatchPolicy(max_rows=10), on_write=[hang]), ScriptedSink()
    delivery, second = await rig.delivery(sink), await rig.delivery(other, name="other")
    await rig.put(100)
    async with running(delivery):
        await started.wait()
        answer = await deeds.drop(rig.spool, "telemetry", "lake", before=50)
        assert (answer["rows"], answer["next"]) == (50, 50)
    assert rig.account().dropped == 50
    assert rig.spool.ledger.lost("telemetry", "lake") == {"requested": 50}
    [loss] = rig.spool.take_losses()
    assert (loss.cause, loss.first, loss.last, dict(loss.sinks)) == ("requested", 0, 49, {"lake": 50})
    await finished(delivery)
    await finished(second)
    assert sink.rows() == list(range(50, 100))
    assert other.rows() == list(range(100))
    assert (rig.account().delivered, rig.account("other").delivered) == (50, 100)


async def test_a_write_that_ends_after_its_rows_were_given_up_changes_nothing(rig):
    async def give_up():
        await deeds.drop(rig.spool, "telemetry", "lake")

    sink = ScriptedSink(policy=BatchPolicy(max_rows=10), on_write=[give_up])
    delivery = await rig.delivery(sink)
    await rig.put(30)
    await finished(delivery)
    account = rig.account()
    assert (account.dropped, account.delivered, account.spooled) == (30, 0, 0)


async def test_no_row_is_twice_in_a_real_lake_also_when_files_were_lost(rig, tmp_path, manual_clock):
    import structlog

    config = PLUGIN.config.model_validate({"kind": "parquet", "location": "lake", "roll": {"max_rows": 100, "max_age": "1ms"}})
    context = SinkContext(
        name="lake", enterprise="acme", site="osaka", gateway="gw", tags=Tags(*(tag.path for tag in TAGS)), clock=manual_clock,
        directory=tmp_path / "sinks", base=tmp_path, log=structlog.get_logger(),
    )  # fmt: skip
    sink = PLUGIN.build(config, context)
    delivery = await rig.delivery(sink)
    await rig.put(450)
    async with running(delivery):
        await until(lambda: rig.account().delivered == 450)
    assert rows_in(tmp_path) == Counter(range(450))
    files = sorted((tmp_path / "lake/telemetry").rglob("*.parquet"))
    for lost in files[1:3]:
        lost.unlink()
    assert len(rows_in(tmp_path)) < 450
    await deeds.resend(rig.spool, "telemetry", "lake")
    sink = PLUGIN.build(config, context)
    again = await rig.delivery(sink)
    async with running(again):
        await until(lambda: rig.spool.ledger.resends == ())
    assert rows_in(tmp_path) == Counter(range(450))


def rows_in(tmp_path) -> Counter[int]:
    found = ds.dataset(tmp_path / "lake/telemetry", partitioning="hive").to_table(columns=["seq"])
    return Counter(found.column("seq").to_pylist())
