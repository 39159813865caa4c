"""Whether anything listens: every way a TCP connection ends, each with its next step."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest

from adapters.reach import reach


async def test_a_listener_is_reached_and_gets_nothing_to_read() -> None:
    received: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            received.set_result(await reader.read())
        except ConnectionError:
            received.set_result(b"")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        check = await reach("127.0.0.1", port, timeout_s=2)
        assert (check.name, check.result, check.way_out) == ("network", "ok", "")
        assert await asyncio.wait_for(received, 2) == b""
    refused = await reach("127.0.0.1", port, timeout_s=2)
    assert (refused.result, f"refuses port {port}" in refused.found) == ("failure", True)


async def test_a_name_that_nobody_knows() -> None:
    check = await reach("plc.invalid", 102, timeout_s=5)
    assert (check.result, "not known" in check.found, "IP address" in check.way_out) == ("failure", True, True)


@pytest.mark.parametrize("why", ["silence", "no route"])
async def test_a_device_that_is_switched_off(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    async def connect(*_: Any) -> Any:
        if why == "no route":
            raise OSError(errno.EHOSTUNREACH, "multiple")
        await asyncio.sleep(60)

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", connect)
    check = await reach("10.0.0.20", 102, timeout_s=0.05)
    assert check.result == "failure"
    assert ("No route to host" if why == "no route" else "10.0.0.20:102 does not answer in 0.05 s") in check.found
    assert check.way_out
