"""A few of the calls that may fail, with the controls; and what failing every call has found."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest

from cloud_sinks.parquet.store import LocalStore
from gateway.spool.ledger_file import SLOT_BYTES, LedgerFile
from gateway.spool.storage import DiskStorage
from tests.gateway.spool.conftest import OpenSpool, crash, readings

from .failing import Calls, FailingLake, Fault
from .nth import run


def test_whichever_call_fails_nothing_is_lost_or_doubled():
    proof = run(7, True, stride=149)
    assert proof.complaints() == []
    assert proof.figures["faults"] > 10


@pytest.mark.parametrize("failing", range(12))
def test_a_file_that_an_attempt_with_a_failed_flush_left_behind_is_durable_before_it_counts(tmp_path: Path, failing: int):
    calls = Calls(Fault(failing, errno.EIO), random.Random(1))
    lake = FailingLake(tmp_path, calls)
    with lake.installed():
        store = LocalStore(tmp_path / "lake", "gw")
        published = None
        for _ in range(3):
            try:
                store.open()
                store.scratch("one").write_bytes(b"rows")
                published = store.publish(store.scratch("one"), "telemetry/site=s/one.parquet")
                break
            except OSError:
                continue
        assert published is not None
        lake.cut_power()
    assert (tmp_path / "lake/telemetry/site=s/one.parquet").read_bytes() == b"rows"


async def test_a_ledger_that_nothing_was_ever_written_to_takes_no_room_in_the_quarantine(open_spool: OpenSpool, tmp_path: Path):
    spool = await open_spool()
    await spool.put("telemetry", readings(3))
    await spool.flush()
    crash(spool)
    (tmp_path / "spool/ledger").write_bytes(bytes(2 * SLOT_BYTES))
    again = await open_spool()
    assert again.ledger.condition == "lost"
    assert (await again.ledger.register("telemetry", "lake")).acked == 0
    assert list((tmp_path / "spool/quarantine").iterdir()) == []


def test_one_refusal_to_open_the_ledger_does_not_set_it_back(tmp_path: Path):
    class Refusing(DiskStorage):
        refusals = 0

        def open(self, path: Path, *, write: bool = False) -> int:
            if self.refusals and not write:
                self.refusals -= 1
                raise OSError(errno.EIO, "refused")
            return super().open(path, write=write)

    disk = Refusing()
    file = LedgerFile(tmp_path / "ledger", disk)
    book = file.load()
    for _ in range(3):
        file.save(book.pack())
    file.close()
    disk.refusals = 1
    again = LedgerFile(tmp_path / "ledger", disk)
    again.load()
    assert (again.condition, again.generation) == ("whole", 3)
