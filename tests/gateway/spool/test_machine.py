"""The spool against plain lists: any sequence of put, flush, read, cut, acknowledge, evict, kill and power cut."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from gateway.spool import Cut, Spool
from gateway.spool.worker import InlineWorker
from tests.conftest import ManualClock

from .conftest import MemoryStorage, crash, everything, numbers, readings, values


class PowerStorage(MemoryStorage):
    """A disk that forgets at a power cut what was not flushed: writes vanish, are torn at 512 bytes, or stay; new names may be gone."""

    honest = True

    def __init__(self) -> None:
        super().__init__()
        self.flushed: dict[Path, bytes] = {}
        self.named: set[Path] = set()

    def create(self, path: Path, size: int) -> int:
        fd = super().create(path, size)
        self.flushed[path] = bytes(size)
        return fd

    def fdatasync(self, fd: int) -> None:
        path = self._open[fd]
        self.flushed[path] = bytes(self.files[path])

    def fsync_directory(self, path: Path) -> None:
        self.named |= {file for file in self.files if file.parent == path}

    def rename(self, old: Path, new: Path) -> None:
        super().rename(old, new)
        self.flushed[new] = self.flushed.pop(old)
        self.named.discard(old)

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self.named.discard(path)

    def cut_power(self, rng: random.Random) -> None:
        for path, content in list(self.files.items()):
            if path not in self.named and rng.random() < 0.5:
                del self.files[path]
                continue
            kept, now = bytearray(self.flushed.get(path, b"")), bytes(content)
            size = rng.choice([len(kept), len(now)])
            del kept[size:]
            kept.extend(bytes(size - len(kept)))
            for start in range(0, min(size, len(now)), 512):
                if rng.random() < 0.5:
                    kept[start : start + 512] = now[start : min(start + 512, size)]
            self.files[path] = kept
            self.flushed[path] = bytes(kept)
        self.named = set(self.files)


class SpoolMachine(RuleBasedStateMachine):
    """`put_rows` is what was put and not lost by a cut; a sink's model is where it stands and its cut."""

    storage_class: type[PowerStorage] = PowerStorage

    @initialize(seed=st.integers(0, 2**32))
    def start(self, seed: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.rng = random.Random(seed)
        self.storage = self.storage_class()
        self.put_rows: list[float] = []
        self.next_value = 0.0
        self.sinks: dict[str, tuple[int, Cut | None]] = {}
        self.on_disk: dict[str, tuple[int, Cut | None]] = {}
        self.dropped: set[int] = set()
        self.run(self.open())
        for sink in ("a", "b"):
            self.run(self.spool.ledger.register("telemetry", sink))
            self.sinks[sink] = self.on_disk[sink] = (0, None)

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
            self.on_disk = dict(self.sinks)

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
        for loss in losses:
            assert loss.cause == "dropped"
            self.dropped |= set(range(loss.first, loss.last + 1))
        for sink in self.sinks:
            cursor = self.spool.ledger.cursor("telemetry", sink)
            acked, cut = self.sinks[sink]
            assert cursor.cut == cut
            assert set(range(acked, cursor.acked)) <= self.dropped
            self.sinks[sink] = (cursor.acked, cut)
        if losses:
            self.on_disk = dict(self.sinks)

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
        assert [loss for loss in self.spool.take_losses() if not set(range(loss.first, loss.last + 1)) <= self.dropped] == []
        for sink, now in self.sinks.items():
            cursor = self.spool.ledger.cursor("telemetry", sink)
            found = (cursor.acked, cursor.cut)
            assert found in (now, self.on_disk[sink]), (sink, found, now, self.on_disk[sink])
            self.sinks[sink] = found
        self.on_disk = dict(self.sinks)
        self.everything_is_there()

    @rule()
    def restart(self) -> None:
        self.run(self.spool.close())
        self.run(self.open())
        assert self.spool.end("telemetry") == len(self.put_rows)

    @rule()
    def idle(self) -> None:
        self.run(asyncio.sleep(0.03))

    @precondition(lambda self: hasattr(self, "spool"))
    @invariant()
    def every_row_is_accounted_for(self) -> None:
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
        assert values(read) == [self.put_rows[row] for row in rows]
        needed = min(acked for acked, _ in self.sinks.values())
        missing = set(range(max(first, needed), end)) - set(rows)
        assert missing <= self.dropped, missing - self.dropped

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


MODERATE = settings(max_examples=50, stateful_step_count=30, deadline=None)


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
