"""The watch over the event loop bites: production code that blocks fails an async test, everything else does not."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import CodeType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blockbuster import BlockingError

ROOT = Path(__file__).parents[2]


def as_if_in(package: str, source: str, **names: object) -> Callable[[], None]:
    """A function `call()` whose code says that it stands in a file of that package."""
    code: CodeType = compile(f"def call():\n    {source}\n", str(ROOT / package / "made_up.py"), "exec")
    scope: dict[str, Callable[[], None]] = {}
    exec(code, names, scope)  # noqa: S102 (a frame that names a file of ours is the point)
    return scope["call"]


BLOCKING = {
    "sleep": ("time.sleep(0)", "time.sleep"),
    "write": ("os.pwrite(fd, b'1', 0)", "os.pwrite"),
    "vector write": ("os.pwritev(fd, [b'1'], 0)", "os.pwritev"),
    "sync": ("os.fsync(fd)", "os.fsync"),
    "data sync": ("os.fdatasync(fd)", "os.fdatasync"),
    "allocate": ("os.posix_fallocate(fd, 0, 1)", "os.posix_fallocate"),
    "parquet": ("writer.write_table(table)", "ParquetWriter"),
}


@pytest.mark.parametrize("name", BLOCKING)
async def test_blocking_production_code_fails(name: str, tmp_path: Path) -> None:
    source, called = BLOCKING[name]
    table = pa.table({"a": [1]})
    with (tmp_path / "file").open("wb") as file, pq.ParquetWriter(tmp_path / "a.parquet", table.schema) as writer:
        names = {"os": os, "time": time, "fd": file.fileno(), "table": table, "writer": writer}
        call = as_if_in("gateway", source, **names)
        with pytest.raises(BlockingError, match=called):
            call()
        await asyncio.to_thread(call)  # in a thread it may


async def test_the_test_itself_may_block(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.allow_blocking(reason="shows the marker")
async def test_a_marked_test_lets_production_code_block() -> None:
    as_if_in("gateway", "time.sleep(0)", time=time)()


def test_no_loop_no_watch() -> None:
    as_if_in("gateway", "time.sleep(0)", time=time)()
