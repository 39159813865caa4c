"""Fixtures for every test: a settable wall clock, and a watch over the event loop."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pyarrow.parquet  # noqa: F401 (its writer is watched)
import pytest
import structlog
from blockbuster import BlockBuster
from blockbuster.blockbuster import BlockBusterFunction
from hypothesis import HealthCheck, settings

# How fast a shared machine draws examples says nothing about the code.
settings.register_profile("genba", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("genba")

PACKAGES = ["gateway", "adapters", "schemas", "edge_models", "cloud_sinks"]
DISK = (
    "os.pwrite",
    "os.pwritev",
    "os.fsync",
    "os.fdatasync",
    "os.posix_fallocate",
    "os.preadv",
    "os.pread",
    "os.truncate",
    "os.ftruncate",
)
PARQUET = ("pyarrow.parquet.ParquetWriter.write_table", "pyarrow.parquet.ParquetWriter.close", "pyarrow.parquet.read_table")

HERE = Path(__file__).parent
LONG = [
    HERE / name
    for name in (
        "chaos", "gateway/spool/test_kill.py", "fuzz", "cloud_sinks/parquet/test_exactly_once.py", "e2e", "gateway/jobs", "simulation",
        "house/test_pictures.py",
    )
]  # fmt: skip
"""They begin first: where files are shared out among processes, none of these is still running when all others are done."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return next((at for at, path in enumerate(LONG) if item.path.is_relative_to(path)), len(LONG))

    items.sort(key=place)


def missing(message: str) -> NoReturn:
    """Skips the test, or fails it where everything must be there (CI=true)."""
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


class ManualClock:
    """A wall clock that tests set and step. Starts at 2026-01-01 00:00 UTC."""

    def __init__(self, now_us: int = 1_767_225_600_000_000) -> None:
        self.us = now_us

    def now_us(self) -> int:
        return self.us

    def step(self, seconds: float) -> None:
        self.us += round(seconds * 1e6)


@pytest.fixture
def manual_clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A command that a test ran in this process has pointed the log at a stream that is closed now."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def loop_watch() -> BlockBuster:
    """Raises BlockingError where code of ours, or a library called by it, blocks a running event loop; built once, not yet active.

    What a test itself does (starting a server, reading a file) may block.
    """
    watch = BlockBuster(PACKAGES)
    for name in (*DISK, *PARQUET):
        watch.functions[name] = BlockBusterFunction(None, name, scanned_modules=PACKAGES)
    for name in [name for name in watch.functions if name.startswith("threading.")]:
        del watch.functions[name]  # whether a short lock is taken by a thread just now is chance; a test must not be
    for function in watch.functions.values():
        function.can_block_in("<frozen importlib._bootstrap>", {"_find_and_load"})  # a lazy import, once a process
        function.can_block_in("threading.py", {"start"})
        function.can_block_in("gateway/catalogue.py", {"plugin"})  # plug-ins are found and imported before anything runs
        function.can_block_in(
            "cloud_sinks/lake.py", {"scan", "tags"}
        )  # the reading side: for notebooks, never on a gateway's loop
        function.can_block_in("gateway/service.py", {"_metrics"})  # the metrics port opens before and closes after everything
        function.can_block_in("adapters/recording.py", {"read_recording"})  # once, before a simulation starts
        function.can_block_in("gateway/isolation/process.py", {"start"})  # the vfork of a child, as asyncio's own does it
    return watch


@pytest.fixture(autouse=True)
def _loop_is_free(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every async test fails where production code blocks the loop, unless marked `allow_blocking(reason=...)`."""
    function = getattr(request.node, "obj", None)
    marker = request.node.get_closest_marker("allow_blocking")
    if marker is not None and not marker.kwargs.get("reason"):
        pytest.fail("allow_blocking needs its reason: @pytest.mark.allow_blocking(reason='...')")
    if marker is not None or not inspect.iscoroutinefunction(inspect.unwrap(function) if function else None):
        yield
        return
    watch: BlockBuster = request.getfixturevalue("loop_watch")
    watch.activate()
    yield
    watch.deactivate()
