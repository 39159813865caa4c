"""What was freed goes back to the system, and what is in use stays."""

from __future__ import annotations

import asyncio
import gc
import os
import platform
import subprocess
import sys
import weakref
from contextlib import suppress

import numpy as np
import pytest

from gateway import memory


def resident_mb() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6


def test_all_of_arrow_takes_its_memory_from_the_pool_that_gives_it_back() -> None:
    """Also what Arrow takes for itself, as to write a lake file, which `set_memory_pool` does not reach."""
    code = (
        "from gateway import memory; import io, pyarrow as pa, pyarrow.parquet as pq; memory.keep_small();"
        "pq.write_table(pa.table({'n': range(10_000)}), io.BytesIO(), compression='zstd');"
        "print(pa.default_memory_pool().backend_name, pa.mimalloc_memory_pool().max_memory())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "ARROW_DEFAULT_MEMORY_POOL"}
    expected = "jemalloc" if platform.machine() == "x86_64" else "system"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == [expected, "0"]
    assert done.stderr == ""


async def test_what_lies_free_between_blocks_in_use_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = [bytes(30_000) for _ in range(4_000)]  # 120 MB below what malloc takes from the system one by one
    kept = blocks[::40]
    del blocks
    before = resident_mb()
    monkeypatch.setattr(memory, "EVERY_S", 0.01)
    task = asyncio.create_task(memory.give_back_now_and_then())
    try:
        async with asyncio.timeout(30):
            while resident_mb() > before - 60:  # noqa: ASYNC110 - nobody tells when the system has taken it
                await asyncio.sleep(0.02)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert np.frombuffer(kept[-1], dtype=np.uint8).sum() == 0


class Ring:
    """Rubbish that only the collector of cycles finds."""

    def __init__(self) -> None:
        self.me = self


async def test_rubbish_goes_although_nothing_comes_and_what_was_there_before_is_not_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "EVERY_S", 0.01)
    task = asyncio.create_task(memory.give_back_now_and_then())
    try:
        async with asyncio.timeout(30):
            while not gc.get_freeze_count():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
            assert len(gc.get_objects()) < gc.get_freeze_count() / 10
            rubbish = Ring()
            found = weakref.ref(rubbish)
            del rubbish
            while found() is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert gc.get_freeze_count() == 0
