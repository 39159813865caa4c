"""A few of the calls that may fail, with the controls; and what failing every call has found."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest

from cloud_sinks.parquet.store import LocalStore

from .failing import Calls, FailingLake, Fault
from .nth import run


@pytest.mark.timeout(180)
def test_whichever_call_fails_nothing_is_lost_or_doubled():
    proof = run(7, True, stride=357)
    assert proof.complaints() == []
    assert proof.figures["faults"] > 5


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
