"""The S7 adapter against the C++ snap7 server: every type, what is not there, a kill, a freeze."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pytest
import structlog

from adapters.s7 import PLUGIN, S7Config, S7Examination
from gateway.collector import Collector
from schemas import quality as q
from schemas.errors import NotConnected
from schemas.kinds import Kind
from tests.adapters.s7 import rig

pytestmark = pytest.mark.interop


@pytest.fixture(autouse=True)
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an adapter keeps goes to the working directory here."""
    monkeypatch.chdir(tmp_path)


class Started(Protocol):
    port: int
    pid: int

    def kill(self) -> None: ...
    def restart(self) -> None: ...


TAGS = {
    "real": ("DB1.DBD0", "real"),
    "counter": ("DB1.DBD4", "real"),
    "int": ("DB1.DBW8", "int"),
    "uint": ("%DB1.DBW10", "UInt"),
    "dint": ("DB1.DBD12", "dint"),
    "udint": ("DB1.DBD16", "udint"),
    "on": ("DB1.DBX20.0", "bool"),
    "off": ("DB1.DBX20.1", "bool"),
    "alarm": ("DB1.DBX20.3", "bool"),
    "lreal": ("DB1.DBB24", "lreal"),
    "recipe": ("DB1.DBB32", "string[32]"),
    "lint": ("DB1.DBB66", "lint"),
    "nan": ("DB1.DBD74", "real"),
    "made": ("DB1.DBB78", "dt"),
    "byte": ("DB1.DBB86", "byte"),
    "flags": ("MB0", "byte"),
    "word": ("MW2", "word"),
    "input": ("EB0", "byte"),
    "output": ("AB0", "byte"),
    "delay": ("T0", "timer"),
    "parts": ("Z0", "counter"),
    "shift": ("C1", "counter"),
    "curve": ("DB2.DBD4", "Array[0..499] of Real"),
}


def endpoint(server: Started) -> str:
    return f"s7://127.0.0.1:{server.port}"


async def test_values_of_every_type(snap7_node_server: Callable[[], Started]) -> None:
    server = await asyncio.to_thread(snap7_node_server)
    config = rig.configure(TAGS)
    async with rig.connected(config, endpoint(server), time_zone="Asia/Tokyo") as adapter:
        assert adapter._connection is not None
        assert (adapter._connection.pdu, adapter._connection.window) == (960, 8)
        first, *_, last = (rig.rows_of(config, batch) for batch in await rig.take(adapter, 10))
    numbers = {"real": 21.5, "int": -1234, "uint": 54321, "dint": -100_000, "udint": 3_000_000_000, "on": 1, "off": 0, "alarm": 1}
    numbers |= {"lreal": 3.141592653589793, "byte": 200, "flags": 0b10101010, "word": 4242, "input": 1, "output": 2}
    numbers |= {"delay": 12_300, "parts": 427, "shift": 3}
    assert {name: first[name]["value"] for name in numbers} == numbers
    assert first["curve"]["samples"] == pytest.approx([n / 10 for n in range(1, 501)])
    assert first["lint"]["value_int"] == 9007199254740993
    assert first["recipe"]["text"] == "GENBA"
    assert first["made"]["text"] == "2026-01-01T18:04:05.678000Z"
    assert (first["nan"]["value"], first["nan"]["quality"]) == (None, q.BAD_SENSOR_FAILURE)
    assert {row["quality"] for name, row in first.items() if name != "nan"} == {q.GOOD}
    assert last["counter"]["value"] > first["counter"]["value"]


async def test_a_thousand_values_across_several_requests(snap7_node_server: Callable[[], Started]) -> None:
    server = await asyncio.to_thread(snap7_node_server)
    config = rig.configure({f"n{n}": (f"DB2.DBD{4 * n}", "real") for n in range(1000)})
    async with rig.connected(config, endpoint(server)) as adapter:
        for batch in await rig.take(adapter, 3):
            assert batch.column("value").to_pylist() == pytest.approx([n / 10 for n in range(1000)])


async def test_what_the_plc_refuses_does_not_take_the_rest_along(snap7_node_server: Callable[[], Started]) -> None:
    server = await asyncio.to_thread(snap7_node_server)
    config = rig.configure(
        {
            **TAGS,
            "behind": ("DB1.DBD254", "real"),
            "absent": ("DB3.DBD0", "real"),
            "far": ("MW62", "int"),
            "beyond": ("MW63", "int"),
        }
    )
    async with rig.connected(config, endpoint(server)) as adapter:
        for batch in await rig.take(adapter, 3):
            rows = rig.rows_of(config, batch)
            assert {name for name, row in rows.items() if row["quality"]} == {"nan", "behind", "absent", "beyond"}
            assert rows["absent"]["quality"] == q.BAD_NODE_ID_UNKNOWN
            assert rows["real"]["value"] == 21.5


async def test_the_doctor_tells_a_missing_block_and_one_that_is_too_short(snap7_node_server: Callable[[], Started]) -> None:
    server = await asyncio.to_thread(snap7_node_server)
    given = S7Examination.model_validate(
        {"endpoint": endpoint(server), "db": [3, 4], "address": ["DB1.DBD252", "DB1.DBD254", "T0"]}
    )
    assert PLUGIN.doctor is not None
    async with aclosing(PLUGIN.doctor.examine(given)) as checks:
        found = {check.name: check async for check in checks}
    assert [name for name, check in found.items() if check.result == "failure"] == ["DB3", "DB1.DBD254"]
    assert found["PDU"].found == "960 bytes, 8 requests at a time"
    assert found["DB4"].found == "can be read, 40000 bytes"
    assert found["DB1.DBD254"].found == "DB1 is too short: it has 256 bytes, and 258 are needed"


async def test_a_kill_is_noticed_at_once_and_a_restart_gives_values_again_within_five_seconds(
    snap7_node_server: Callable[[], Started],
) -> None:
    server = await asyncio.to_thread(snap7_node_server)
    adapter = rig.make_adapter(rig.configure(TAGS), endpoint(server))
    await adapter.connect()
    async with aclosing(adapter.batches()) as stream:
        await anext(stream)
        server.kill()
        began = time.monotonic()
        with pytest.raises(NotConnected):
            await rig.drain(stream)
        assert time.monotonic() - began < 1.5
    with pytest.raises(NotConnected):
        await adapter.connect()
    await asyncio.to_thread(server.restart)
    began = time.monotonic()
    while True:  # as the supervisor does
        try:
            await adapter.connect()
            break
        except NotConnected:
            assert time.monotonic() - began < 5
            await asyncio.sleep(0.25)
    (batch,) = await rig.take(adapter, 1)
    assert time.monotonic() - began < 5
    assert batch.column("value")[0].as_py() == 21.5
    await adapter.aclose()


async def test_a_frozen_server_is_not_connected_after_the_timeout(snap7_node_server: Callable[[], Started]) -> None:
    server = await asyncio.to_thread(snap7_node_server)
    async with rig.connected(rig.configure(TAGS, timeout="400ms"), endpoint(server)) as adapter:
        await rig.take(adapter, 2)
        os.kill(server.pid, signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(NotConnected, match="no answer"):
            await rig.take(adapter, 3)
        assert time.monotonic() - began < 5
        os.kill(server.pid, signal.SIGCONT)
        await adapter.connect()
        await rig.take(adapter, 1)


class Taken:
    """What a collector hands on, by kind."""

    def __init__(self) -> None:
        self.batches: list[tuple[Kind, pa.RecordBatch]] = []
        self._more = asyncio.Event()

    async def put(self, kind: Kind, batch: pa.RecordBatch) -> int:
        self.batches.append((kind, batch))
        self._more.set()
        return 0

    def of(self, kind: Kind) -> list[pa.RecordBatch]:
        return [batch for found, batch in self.batches if found == kind]

    @property
    def polls(self) -> list[float]:
        """When the polls were that brought values, in seconds."""
        good = [batch for batch in self.of("telemetry") if batch.column("quality")[0].as_py() == q.GOOD]
        return [batch.column("time")[0].value / 1e6 for batch in good]

    async def until(self, what: Callable[[Taken], object], patience_s: float = 10.0) -> None:
        async with asyncio.timeout(patience_s):
            while not what(self):
                self._more.clear()
                await self._more.wait()


@asynccontextmanager
async def collected(config: S7Config, endpoint: str, directory: Path) -> AsyncIterator[Taken]:
    """The adapter as the gateway drives it."""
    taken = Taken()
    adapter = rig.make_adapter(config, endpoint, directory=directory)
    collector = Collector(
        "furnace", adapter, [bound.tag for bound in rig.bind(config)], put=taken.put, clock=rig.SystemClock(), rng=random.Random(1), log=structlog.get_logger(),
    )  # fmt: skip
    task = asyncio.create_task(collector.run())
    try:
        yield taken
    finally:
        task.cancel()
        await asyncio.wait({task})


def assert_one_gap(taken: Taken, config: S7Config, *, outage: tuple[float, float], late_s: float) -> None:
    """One gap row for each tag, from the last poll before the outage to the first one behind it, which came at most `late_s` after it."""
    began, ended = outage
    (gap,) = taken.of("gap")
    assert gap.column("tag").to_pylist() == [bound.tag.id for bound in rig.bind(config)]
    assert set(gap.column("cause").to_pylist()) == {"not_connected"}
    low, high = (gap.column(name)[0].value / 1e6 for name in ("time", "end"))
    before = [poll for poll in taken.polls if poll <= low]
    after = [poll for poll in taken.polls if poll > low]
    assert low - before[-1] < 0.05  # nothing that was read is inside of the gap
    assert high == after[0]
    assert began - 0.2 < low < began + 0.2
    assert ended <= high < ended + late_s
    for polls in (before, after):  # and outside of it nothing is missing
        assert max(second - first for first, second in pairwise(polls)) < 0.3
    events = [name for batch in taken.of("event") for name in batch.column("event").to_pylist()]
    assert events == ["adapter_up", "adapter_down", "adapter_up"]


async def test_a_kill_costs_the_outage_itself_and_is_one_gap_row_for_each_tag(
    snap7_node_server: Callable[[], Started], tmp_path: Path
) -> None:
    server = await asyncio.to_thread(snap7_node_server)
    config = rig.configure(TAGS, scan="50ms")
    async with collected(config, endpoint(server), tmp_path) as taken:
        await taken.until(lambda taken: len(taken.polls) > 5)
        began = time.time()
        server.kill()
        await asyncio.sleep(0.6)
        await asyncio.to_thread(server.restart)
        ended = time.time()
        polls = len(taken.polls)
        await taken.until(lambda taken: len(taken.polls) > polls + 5)
    assert_one_gap(taken, config, outage=(began, ended), late_s=3.3)  # the longest pause between two tries is 3 s


async def test_a_server_that_freezes_costs_the_timeout_and_the_outage_and_no_value_of_before_comes_after_it(
    snap7_node_server: Callable[[], Started], tmp_path: Path
) -> None:
    server = await asyncio.to_thread(snap7_node_server)
    config = rig.configure(TAGS, scan="50ms", timeout="300ms")
    async with collected(config, endpoint(server), tmp_path) as taken:
        await taken.until(lambda taken: len(taken.polls) > 5)
        began = time.time()
        os.kill(server.pid, signal.SIGSTOP)
        await asyncio.sleep(1.2)
        os.kill(server.pid, signal.SIGCONT)
        ended = time.time()
        polls = len(taken.polls)
        await taken.until(lambda taken: len(taken.polls) > polls + 5)
    assert_one_gap(taken, config, outage=(began, ended), late_s=3.3)
    counts = [rig.rows_of(config, batch)["counter"]["value"] for batch in taken.of("telemetry")]
    counts = [count for count in counts if count is not None]
    assert counts == sorted(counts)
