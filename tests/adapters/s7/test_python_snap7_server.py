"""The adapter against the server of python-snap7, which another hand wrote: values, a missing block, one request at a time."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator

import pytest
from s7 import Server, SrvArea

from schemas import quality as q
from tests.adapters.s7 import rig


@pytest.fixture
async def endpoint() -> AsyncIterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    server = Server()
    block = bytearray(4000)
    struct.pack_into(">1000f", block, 0, *range(1000))
    server.register_area(SrvArea.DB, 1, block)
    server.register_area(SrvArea.MK, 0, bytearray(b"\xaa\x00\x10\x92"))
    await asyncio.to_thread(server.start_to, "127.0.0.1", port)
    yield f"s7://127.0.0.1:{port}"
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.destroy)


async def test_a_thousand_values_flags_and_an_array(endpoint: str) -> None:
    tags = {f"n{n}": (f"DB1.DBD{4 * n}", "real") for n in range(1000)}
    config = rig.configure(
        {**tags, "byte": ("MB0", "byte"), "word": ("MW2", "word"), "curve": ("DB1.DBB0", "array[1000] of real")}
    )
    async with rig.connected(config, endpoint) as adapter:
        *_, batch = await rig.take(adapter, 3)
    assert batch.column("value").to_pylist()[:1002] == [*range(1000), 0xAA, 0x1092]
    assert rig.rows_of(config, batch)["curve"]["samples"] == list(range(1000))


async def test_a_missing_block_costs_its_own_tags_only(endpoint: str) -> None:
    config = rig.configure({"here": ("DB1.DBD4", "real"), "gone": ("DB9.DBD0", "real")})
    async with rig.connected(config, endpoint) as adapter:
        for batch in await rig.take(adapter, 3):
            rows = rig.rows_of(config, batch)
            assert rows["here"]["value"] == 1
            assert q.is_bad(rows["gone"]["quality"])
