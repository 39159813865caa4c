"""The spool against plain lists: any sequence of put, flush, read, cut, acknowledge, evict, downsample, block, tell, kill and power cut."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from gateway.spool import Cut, Spool
from gateway.spool.losses import Loss
from gateway.spool.worker import InlineWorker
from schemas.errors import Busy
from schemas.kinds import make_batch
from tests.conftest import ManualClock
from tests.simulation.loop import VirtualLoop

from .conftest import crash, everything, numbers, readings
from .power import PowerStorage


class SpoolMachine(RuleBasedStateMachine):
    """`put_rows` is what was put and not lost by a cut; a sink's model is where it stands and its cut.

    `dropped` and `windows` are the rows of which a loss was told, `owed` the losses of which no gap row was written; `on_disk` is `sinks` when
    the ledger was written last. Time is virtual: what the spool does a moment later it does in `idle`, and a sequence is the same each time.
    """

    storage_class: type[PowerStorage] = PowerStorage
    steps = 0

    @initialize(seed=st.integers(0, 2**32))
    def start(self, seed: int) -> None:
        self.loop = VirtualLoop()
        self.rng = random.Random(seed)
        self.storage = self.storage_class()
        self.put_rows: list[float] = []
        self.next_value = 0.0
        self.sinks: dict[str, tuple[int, Cut | None]] = {}
        self.on_disk: dict[str, tuple[int, Cut | None]] = {}
        self.dropped: set[int] = set()
        self.windows: set[int] = set()
        self.owed: dict[str, set[int]] = {"dropped": set(), "downsampled": set()}
        self.gaps = 0
        self.run(self.open())
        for sink in ("a", "b"):
            self.run(self.spool.ledger.register("telemetry", sink))
            self.sinks[sink] = (0, None)
        self.note_what_is_on_disk()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        with structlog.testing.capture_logs():
            return self.loop.run_until_complete(work)

    async def open(self) -> None:
        self.spool = await Spool.open(
            Path("spool"), gateway="gw", clock=ManualClock(), log=structlog.get_logger(), storage=self.storage, commit_every_s=0,
            segment_bytes=4 << 10, retention_grace_s=0, writer=InlineWorker(), reader=InlineWorker(), thinner=InlineWorker(),
        )  # fmt: skip

    @rule(rows=st.integers(1, 60))
    def put(self, rows: int) -> None:
        first = self.run(self.spool.put("telemetry", readings(rows, int(self.next_value))))
        assert first == len(self.put_rows)
        self.put_rows += [self.next_value + n for n in range(rows)]
        self.next_value += rows

    @rule()
    def flush(self) -> None:
        self.run(self.spool.flush())
        assert self.spool.durable("telemetry") == len(self.put_rows)

    @rule(sink=st.sampled_from("ab"), rows=st.integers(1, 100))
    def begin_cut(self, sink: str, rows: int) -> None:
        acked, cut = self.sinks[sink]
        durable = self.spool.durable("telemetry")
        if cut is None and acked < durable:
            cut = self.run(self.spool.ledger.begin_cut("telemetry", sink, acked, min(acked + rows, durable) - 1))
            self.sinks[sink] = (acked, cut)

    @rule(sink=st.sampled_from("ab"))
    def deliver(self, sink: str) -> None:
        _, cut = self.sinks[sink]
        if cut is None:
            return
        read = self.run(self.spool.read("telemetry", cut.first, max_rows=10**6, last=cut.last))
        self.check_rows(read, cut.first, cut.last + 1)
        rows = len(numbers(read))
        missing = cut.last + 1 - cut.first - rows
        self.run(self.spool.ledger.acknowledge("telemetry", sink, cut.last, delivered=rows, filtered=0, dropped=missing))
        self.sinks[sink] = (cut.last + 1, None)

    @rule(first=st.integers(0, 300), rows=st.integers(1, 200))
    def read(self, first: int, rows: int) -> None:
        read = self.run(self.spool.read("telemetry", first, max_rows=rows))
        assert len(numbers(read)) <= rows
        self.check_rows(read, first, numbers(read)[-1] + 1 if read else self.spool.durable("telemetry"))

    @rule()
    def evict(self) -> None:
        retention = self.spool.retention
        retention._max_bytes = self.spool.bytes_used()
        self.run(retention.make_room(1))
        retention._max_bytes = None
        losses = self.spool.take_losses()
        assert {loss.cause for loss in losses} <= {"dropped"}
        self.lose(losses)
        for sink in self.sinks:
            cursor = self.spool.ledger.cursor("telemetry", sink)
            acked, cut = self.sinks[sink]
            assert cursor.cut == cut
            assert set(range(acked, cursor.acked)) <= self.dropped | self.windows
            self.sinks[sink] = (cursor.acked, cut)

    @rule()
    def downsample(self) -> None:
        self.run(self.spool.retention._thin_oldest("telemetry"))
        losses = self.spool.take_losses()
        assert {loss.cause for loss in losses} <= {"downsampled"}
        self.lose(losses)
        for sink, (acked, cut) in self.sinks.items():
            cursor = self.spool.ledger.cursor("telemetry", sink)
            assert (cursor.acked, cursor.cut) == (acked, cut)

    @rule(rows=st.integers(1, 200))
    def put_while_full_and_blocking(self, rows: int) -> None:
        retention = self.spool.retention
        retention._max_bytes, retention._when_full = self.spool.bytes_used(), {"telemetry": "block"}
        self.put(rows)
        with suppress(Busy):
            self.run(self.spool.flush(patience_s=0))
        assert self.spool.take_losses() == []
        retention._max_bytes, retention._when_full = None, {}
        self.spool._commits._retry.set()
        self.flush()

    @rule()
    def tell(self) -> None:
        """Gap rows of all losses; those of which the ledger does not learn before a cut are told once more."""
        untold = self.spool.ledger.untold
        if untold:
            self.run(self.spool.put("gap", make_batch("gap", len(untold), time=0)))
            self.run(self.spool.flush())
            self.gaps = self.spool.durable("gap")
            self.spool.ledger.told(untold)
            self.owed = {cause: set() for cause in self.owed}

    def lose(self, losses: Sequence[Loss]) -> None:
        for loss in losses:
            rows = set(range(loss.first, loss.last + 1))
            assert loss.cause in self.owed
            (self.dropped if loss.cause == "dropped" else self.windows).update(rows)
            self.owed[loss.cause] |= rows

    @rule(power=st.booleans(), seed=st.integers(0, 2**32))
    def die(self, power: bool, seed: int) -> None:
        durable = self.spool.durable("telemetry")
        for cursor in (self.spool.ledger.cursor("telemetry", sink) for sink in self.sinks):
            assert cursor.acked <= durable
        self.leave()
        if power:
            self.storage.cut_power(random.Random(seed))
        self.run(self.open())
        end = self.spool.end("telemetry")
        assert durable <= end <= len(self.put_rows)
        self.put_rows = self.put_rows[:end]
        assert self.spool.durable("gap") >= self.gaps
        self.losses_are_told_again()
        for sink, now in self.sinks.items():
            cursor = self.spool.ledger.cursor("telemetry", sink)
            found = (cursor.acked, cursor.cut)
            assert found in (now, self.on_disk[sink]), (sink, found, now, self.on_disk[sink])
            self.sinks[sink] = found
        self.note_what_is_on_disk()
        self.everything_is_there()

    @rule()
    def restart(self) -> None:
        self.run(self.spool.close())
        self.run(self.open())
        assert self.spool.end("telemetry") == len(self.put_rows)
        self.losses_are_told_again()
        self.note_what_is_on_disk()

    def losses_are_told_again(self) -> None:
        """What is owed after a start: at least what no gap row was written of, and nothing new."""
        again: dict[str, set[int]] = {"dropped": set(), "downsampled": set()}
        for loss in self.spool.take_losses():
            again[loss.cause] |= set(range(loss.first, loss.last + 1))
        assert again["dropped"] <= self.dropped
        assert again["downsampled"] <= self.windows
        assert all(self.owed[cause] <= again[cause] for cause in self.owed), (self.owed, again)

    @rule(seconds=st.sampled_from((0.03, 1.0)))
    def idle(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    def note_what_is_on_disk(self) -> None:
        """The ledger is on disk as it is now."""
        self.on_disk = dict(self.sinks)
        self.written = self.spool.ledger.bytes_written

    @precondition(lambda self: hasattr(self, "spool"))
    @invariant()
    def every_row_is_accounted_for(self) -> None:
        SpoolMachine.steps += 1
        if self.spool.ledger.bytes_written > self.written:
            self.note_what_is_on_disk()
        for sink in self.sinks:
            account = self.spool.account("telemetry", sink)
            assert account.read == self.spool.durable("telemetry")
            assert (
                account.read == account.filtered + account.delivered + account.spooled + account.dropped + account.dead_lettered
            )
            assert min(account.filtered, account.delivered, account.spooled, account.dropped) >= 0

    def everything_is_there(self) -> None:
        """All rows that somebody still needs, and no row that is not one of ours."""
        needed = min(acked for acked, _ in self.sinks.values())
        self.check_rows(self.run(everything(self.spool, first=needed)), needed, self.spool.durable("telemetry"))

    def check_rows(self, read: Sequence[tuple[int, Any]], first: int, end: int) -> None:
        rows = numbers(read)
        assert rows == sorted(set(rows))
        for at, batch in read:
            for offset, row in enumerate(batch.select(["value", "value_min", "value_max", "count"]).to_pylist()):
                if row["count"] is None:
                    assert row["value"] == self.put_rows[at + offset]
                else:
                    assert row["value_min"] <= row["value"] <= row["value_max"]
                    assert row["value_max"] - row["value_min"] == row["count"] - 1  # neighbours, each of them once
                    assert row["value_min"] in self.put_rows
        needed = min(acked for acked, _ in self.sinks.values())
        missing = set(range(max(first, needed), end)) - set(rows)
        assert missing <= self.dropped | self.windows, missing - self.dropped - self.windows

    def leave(self) -> None:
        async def _leave() -> None:
            if not self.spool._closed:
                crash(self.spool)
            await asyncio.gather(*self.spool._tasks, return_exceptions=True)

        self.run(_leave())

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        try:
            if hasattr(self, "spool"):
                self.everything_is_there()
        finally:
            if hasattr(self, "spool"):
                self.leave()
            self.loop.close()


MODERATE = settings(max_examples=50, stateful_step_count=30, deadline=None, derandomize=True)


def test_the_spool_behaves_like_a_list():
    run_state_machine_as_test(SpoolMachine, settings=MODERATE)


class LyingStorage(PowerStorage):
    """A drive that says flushed and has not."""

    def fdatasync(self, fd: int) -> None:
        """Nothing is flushed."""


class LyingMachine(SpoolMachine):
    storage_class = LyingStorage


def test_control_a_drive_that_does_not_flush_is_noticed_by_the_machine():
    with pytest.raises(Exception):  # noqa: B017, PT011 (whatever the first broken promise is)
        run_state_machine_as_test(LyingMachine, settings=settings(MODERATE, phases=[Phase.generate], report_multiple_bugs=False))
