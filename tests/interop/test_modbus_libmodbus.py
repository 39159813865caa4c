"""The Modbus adapter against libmodbus: every type and order, quality of what is missing, kill and restart, a frozen server."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import tty
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any, Protocol

import pytest

from adapters.modbus import PLUGIN
from schemas import quality as q
from schemas.errors import NotConnected
from tests.conformance.adapter import AdapterConformance, Rig

pytestmark = pytest.mark.interop


class Started(Protocol):
    port: int
    pid: int

    def kill(self) -> None: ...
    def restart(self) -> None: ...


class Bench(AdapterConformance):
    """The building blocks of the conformance suite."""

    __test__ = False
    plugin = PLUGIN
    kind = "modbus"


TAGS: dict[str, dict[str, Any]] = {
    "abcd": {"address": "hr:0", "type": "float32"},
    "cdab": {"address": "hr:2", "type": "float32", "order": "CDAB"},
    "badc": {"address": "hr:24", "type": "float32", "order": "BADC"},
    "dcba": {"address": "hr:26", "type": "float32", "order": "DCBA"},
    "int16": {"address": 40005, "type": "int16"},
    "uint16": {"address": "hr:0x5", "type": "uint16"},
    "uint32": {"address": "hr:6", "type": "uint32"},
    "int32": {"address": "400009", "type": "int32"},
    "float64": {"address": "hr:10", "type": "float64"},
    "uint64": {"address": "hr:14", "type": "uint64"},
    "text": {"address": "hr:18", "type": "string[8]"},
    "scaled": {"address": "ir:2", "type": "uint16", "scale": 0.1, "offset": -40},
    "negative": {"address": "ir:3", "type": "int16"},
    "tenth": {"address": "ir:4", "type": "float32"},
    "state": {"address": "hr:101", "type": "uint16", "enum": {100: "off", 101: "on"}},
    "bit": {"address": "hr:101.6", "type": "bool"},
    **{f"coil{n}": {"address": f"co:{n}", "type": "bool"} for n in range(10)},
    **{f"input{n}": {"address": f"di:{n}", "type": "bool"} for n in range(10)},
}
NUMBERS = {
    "abcd": 21.5, "cdab": -7.25, "badc": 1.5, "dcba": -2.75, "int16": -1234, "uint16": 54321, "uint32": 3_000_000_000,
    "int32": -100_000, "float64": 3.141592653589793, "scaled": 60, "negative": -1, "state": 101, "bit": 1,
    **{f"coil{n}": bit for n, bit in enumerate([1, 0, 1, 1, 0, 0, 1, 0, 1, 1])},
    **{f"input{n}": bit for n, bit in enumerate([0, 1, 1, 0, 1, 0, 0, 1, 0, 1])},
}  # fmt: skip


def rig_of(server: Started, tags: dict[str, dict[str, Any]], directory: Path, **more: Any) -> Rig:
    return Bench().rig(Bench().configure(f"tcp://127.0.0.1:{server.port}", tags, **more), directory)


async def test_every_type_and_order_is_what_libmodbus_serves(libmodbus_server: Callable[[], Started], tmp_path: Path) -> None:
    server = await asyncio.to_thread(libmodbus_server)
    rig = rig_of(server, TAGS, tmp_path)
    await rig.adapter.connect()
    seen = await rig.read()
    await rig.adapter.aclose()
    got = {name: rows[0] for name, rows in seen.rows.items()}
    assert {row["quality"] for row in got.values()} == {q.GOOD}
    assert {name: got[name]["value"] for name in NUMBERS} == NUMBERS
    assert got["tenth"]["value"] == pytest.approx(0.1, rel=1e-7)
    assert (got["uint64"]["value_int"], got["text"]["text"], got["state"]["text"]) == (9_007_199_254_740_993, "GENBA-01", "on")
    assert rig.log == []


async def test_what_libmodbus_does_not_have_is_named_and_costs_nobody_else(
    libmodbus_server: Callable[[], Started], tmp_path: Path
) -> None:
    server = await asyncio.to_thread(libmodbus_server)
    nowhere = {
        "behind": {"address": "hr:256", "type": "uint16"},
        "half": {"address": "ir:63", "type": "float32"},
        "coil": {"address": "co:64", "type": "bool"},
        "nan": {"address": "hr:22", "type": "float32"},
    }
    rig = rig_of(server, TAGS | {"last": {"address": "hr:255", "type": "uint16"}} | nowhere, tmp_path)
    await rig.adapter.connect()
    seen = await rig.read(lambda s: len(s.batches) == 3)
    await rig.adapter.aclose()
    codes = {name: {row["quality"] for row in rows} for name, rows in seen.rows.items()}
    assert codes.pop("nan") == {q.BAD_SENSOR_FAILURE}
    assert {name for name, found in codes.items() if found != {q.GOOD}} == nowhere.keys() - {"nan"}
    assert {entry["tag"].rsplit("/")[-1] for entry in rig.log} == nowhere.keys() - {"nan"}


async def test_one_request_reads_all_tags_of_a_table(libmodbus_server: Callable[[], Started], tmp_path: Path) -> None:
    server = await asyncio.to_thread(libmodbus_server)
    tags = {f"w{n}": {"address": f"hr:{n}", "type": "uint16"} for n in range(100, 224)}
    rig = rig_of(server, tags | {"answered": {"address": "ir:0", "type": "uint32"}}, tmp_path)
    await rig.adapter.connect()
    seen = await rig.read(lambda s: len(s.batches) == 5)
    await rig.adapter.aclose()
    assert [seen.rows[f"w{n}"][-1]["value"] for n in range(100, 224)] == list(range(100, 224))
    answered = [row["value"] for row in seen.rows["answered"]]
    assert answered == [1, 3, 5, 7, 9], "two requests a poll: the holding registers, then the counter"


async def test_a_killed_server_is_noticed_and_values_come_again(libmodbus_server: Callable[[], Started], tmp_path: Path) -> None:
    server = await asyncio.to_thread(libmodbus_server)
    rig = rig_of(server, TAGS, tmp_path)
    await rig.adapter.connect()
    async with aclosing(rig.stream()) as stream:
        await anext(stream)
        await asyncio.to_thread(server.kill)
        began = time.monotonic()
        with pytest.raises(NotConnected):
            await rig.seen().drain(stream, within_s=5)
        assert time.monotonic() - began < 1.5
    with pytest.raises(NotConnected, match="refused"):
        await rig.adapter.connect()
    await asyncio.to_thread(server.restart)
    await rig.adapter.connect()
    assert (await rig.read(within_s=5)).all_good()
    await rig.adapter.aclose()


async def test_a_frozen_server_is_bad_rows_then_not_connected(libmodbus_server: Callable[[], Started], tmp_path: Path) -> None:
    server = await asyncio.to_thread(libmodbus_server)
    rig = rig_of(server, {"t": TAGS["abcd"]}, tmp_path, timeout="200ms")
    await rig.adapter.connect()
    seen = rig.seen()
    async with aclosing(rig.stream()) as stream:
        seen.add(await anext(stream))
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with pytest.raises(NotConnected, match="not answered"):
                await seen.drain(stream, within_s=5)
        finally:
            os.kill(server.pid, signal.SIGCONT)
    assert [row["quality"] for row in seen.rows["t"]][-2:] == [q.BAD_TIMEOUT] * 2
    await rig.adapter.connect()
    assert (await rig.read(within_s=5)).all_good()
    await rig.adapter.aclose()


def cross_over(stack: AsyncExitStack) -> tuple[str, str]:
    """Two serial devices, wired to one another."""
    loop = asyncio.get_running_loop()
    (one, ours), (two, theirs) = os.openpty(), os.openpty()
    for fd in (one, ours, two, theirs):
        tty.setraw(fd)
        stack.callback(os.close, fd)
    for source, target in ((one, two), (two, one)):
        loop.add_reader(source, lambda source=source, target=target: os.write(target, os.read(source, 4096)))
        stack.callback(loop.remove_reader, source)
    return os.ttyname(ours), os.ttyname(theirs)


async def test_libmodbus_on_a_serial_line(libmodbus_line: Callable[[str], Started], tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        ours, theirs = cross_over(stack)
        server = await asyncio.to_thread(libmodbus_line, theirs)
        missing = {"behind": {"address": "hr:256", "type": "uint16"}}
        rig = Bench().rig(Bench().configure(f"rtu:{ours}", TAGS | missing, timeout="500ms", serial={"parity": "none"}), tmp_path)
        await rig.adapter.connect()
        stack.push_async_callback(rig.adapter.aclose)
        seen = await rig.read(lambda s: len(s.batches) == 3, within_s=10)
        got = {name: rows[-1] for name, rows in seen.rows.items()}
        assert {name: got[name]["value"] for name in NUMBERS} == NUMBERS
        assert {name for name, row in got.items() if row["quality"] != q.GOOD} == {"behind"}
        await rig.adapter.connect()
        async with aclosing(rig.stream()) as polls:
            await anext(polls)
            await asyncio.to_thread(server.kill)
            with pytest.raises(NotConnected, match="not answered"):
                await rig.seen().drain(polls, within_s=15)
        await asyncio.to_thread(server.restart)
        await rig.adapter.connect()
        again = await rig.read(lambda s: len(s.batches) == 3, within_s=10)
        assert again.rows["abcd"][-1]["value"] == NUMBERS["abcd"]
