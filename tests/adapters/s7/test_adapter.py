"""The adapter against its simulator and against PLCs that refuse, freeze, die, return and talk nonsense."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, ClassVar

import pytest
import structlog

from adapters.s7 import PLUGIN, scanning, simulator
from adapters.s7.connection import Connection
from adapters.s7.wire import OK, Span
from adapters.simulation import SignalConfig
from schemas import quality as q
from schemas.errors import NotConnected
from tests.adapters.s7 import rig
from tests.conformance.adapter import AdapterConformance, PollingConformance

FURNACE = {
    "zone1": ("DB10.DBD4", "real"),
    "zone2": ("DB10.DBD8", "real"),
    "burner": ("DB10.DBX0.3", "bool"),
    "recipe": ("DB10.DBB20", "string[32]"),
    "gas": ("DB11.DBD60", "udint"),
}


class TestS7(PollingConformance, AdapterConformance):
    plugin = PLUGIN
    kind = "s7"
    places: ClassVar = {
        "temperature": {"address": "DB10.DBD4", "type": "real"},
        "pump": {"address": "DB10.DBX0.3", "type": "bool"},
        "count": {"address": "DB10.DBW8", "type": "int"},
        "mode": {"address": "MW10", "type": "uint"},
        "recipe": {"address": "DB10.DBB20", "type": "string[32]"},
        "force": {"address": "DB11.DBW2", "type": "int"},
        "energy": {"address": "DB11.DBB8", "type": "lint"},
    }
    missing: ClassVar = {"address": "DB10.DBD4000", "type": "real"}
    replayed: ClassVar = {"address": "DB12.DBB0", "type": "lreal"}

    def endpoint(self, port: int) -> str:
        return f"s7://127.0.0.1:{port}"


class Capture:
    """A log that tests read."""

    def __init__(self) -> None:
        self._capture = structlog.testing.LogCapture()
        self.log = structlog.wrap_logger(None, processors=[self._capture], wrapper_class=structlog.stdlib.BoundLogger)

    @property
    def lines(self) -> list[tuple[str, str, int]]:
        return [(line["event"], line.get("reason", ""), line["count"]) for line in self._capture.entries]


async def test_a_missing_block_and_an_address_behind_the_end_cost_only_their_own_tags() -> None:
    served = rig.configure(FURNACE)
    asked = rig.configure(
        {**FURNACE, "behind": ("DB10.DBD100", "real"), "gone1": ("DB77.DBD0", "real"), "gone2": ("DB77.DBD4", "real")}
    )
    device, capture = rig.make_simulator(served), Capture()
    async with rig.connected(asked, await device.start(), capture.log) as adapter:
        batches = await rig.take(adapter, 3)
    await device.aclose()
    for batch in batches:
        rows = rig.rows_of(asked, batch)
        assert {name for name, row in rows.items() if row["quality"]} == {"behind", "gone1", "gone2"}
        assert {rows[name]["quality"] for name in ("behind", "gone1", "gone2")} == {q.BAD_NODE_ID_UNKNOWN}
        assert rows["zone1"]["value"] == pytest.approx(20, abs=3)
    assert [(event, count) for event, _, count in capture.lines] == [("tags cannot be read", 1), ("tags cannot be read", 2)]


async def test_refused_tags_are_asked_for_again_and_their_return_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "RETRY_S", 0.1)
    asked = rig.configure({**FURNACE, "late": ("DB50.DBW0", "int")})
    device, capture = rig.make_simulator(rig.configure(FURNACE)), Capture()
    endpoint = await device.start()
    loaded = False
    read = simulator._Memory.read

    def with_the_block(self: Any, block: tuple[int, int], start: int, size: int) -> bytes | int:
        return bytes(size) if loaded and block == (0x84, 50) else read(self, block, start, size)

    monkeypatch.setattr(simulator._Memory, "read", with_the_block)
    async with rig.connected(asked, endpoint, capture.log) as adapter, aclosing(adapter.batches()) as stream:
        for _ in range(15):  # three tries in vain
            assert rig.rows_of(asked, await anext(stream))["late"]["quality"] == q.BAD_NODE_ID_UNKNOWN
        loaded = True
        async with asyncio.timeout(5):
            while rig.rows_of(asked, await anext(stream))["late"]["quality"]:
                pass
    await device.aclose()
    assert [event for event, _, _ in capture.lines] == ["tags cannot be read", "tags can be read again"]


async def test_a_refusal_is_told_once_over_reconnects_and_so_is_the_block_that_is_there_afterwards() -> None:
    asked = rig.configure({**FURNACE, "late": ("DB50.DBW0", "int")})
    device, capture = rig.make_simulator(rig.configure(FURNACE)), Capture()
    endpoint = await device.start()
    async with rig.connected(asked, endpoint, capture.log) as adapter:
        await rig.take(adapter, 2)
        await adapter.connect()
        await rig.take(adapter, 2)
        await device.aclose()
        device = rig.make_simulator(asked)
        await device.start(port=int(endpoint.rsplit(":", 1)[1]))
        await adapter.connect()
        (batch,) = await rig.take(adapter, 1)
    await device.aclose()
    assert set(batch.column("quality").to_pylist()) == {q.GOOD}
    assert [event for event, _, _ in capture.lines] == ["tags cannot be read", "tags can be read again"]


@pytest.mark.parametrize(("code", "quality"), [(0x8104, q.BAD_NOT_READABLE), (0x8500, q.BAD_COMMUNICATION_ERROR)])
async def test_a_plc_that_refuses_every_read_gives_bad_rows_and_stays_connected(
    monkeypatch: pytest.MonkeyPatch, code: int, quality: int
) -> None:
    device, capture = rig.make_simulator(rig.configure(FURNACE)), Capture()
    monkeypatch.setattr(simulator._Peer, "_read", lambda _, reference, __: simulator._error(reference, code))
    async with rig.connected(rig.configure(FURNACE), await device.start(), capture.log) as adapter:
        for batch in await rig.take(adapter, 3):
            assert set(batch.column("quality").to_pylist()) == {quality}
    await device.aclose()
    if code == 0x8104:
        assert len(capture.lines) == 1
        assert "PUT/GET" in capture.lines[0][1]


async def test_an_item_refused_although_its_tags_are_not_is_read_tag_by_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some gateways have holes in their blocks that no PLC has."""
    device, capture = rig.make_simulator(rig.configure(FURNACE)), Capture()
    sizes: list[int] = []
    read = simulator._Memory.read

    def with_a_hole(self: Any, block: tuple[int, int], start: int, size: int) -> bytes | int:
        sizes.append(size)
        return 0x05 if start <= 2 < start + size else read(self, block, start, size)

    monkeypatch.setattr(simulator._Memory, "read", with_a_hole)
    async with rig.connected(rig.configure(FURNACE), await device.start(), capture.log) as adapter:
        batches = await rig.take(adapter, 3)
    await device.aclose()
    assert all(set(batch.column("quality").to_pylist()) == {q.GOOD} for batch in batches)
    assert capture.lines == []
    assert max(sizes[2:]) == 34  # never merged again


async def test_a_whole_block_refused_is_found_out_with_one_read_and_a_refusal_of_one_of_two_tags_is_not_both_their_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = rig.configure(
        {"a": ("DB5.DBD0", "real"), "b": ("DB5.DBD4", "real")} | {f"m{n}": (f"DB6.DBD{n * 4}", "real") for n in range(1000)}
    )
    device, capture = rig.make_simulator(rig.configure({"a": ("DB5.DBD0", "real"), "b": ("DB5.DBD4", "real")})), Capture()
    asked_of: list[tuple[int, int]] = []
    read = simulator._Memory.read

    def strange(self: Any, block: tuple[int, int], start: int, size: int) -> bytes | int:
        asked_of.append(block)
        return 0x0A if block == (0x84, 5) and size > 4 else read(self, block, start, size)

    monkeypatch.setattr(simulator._Memory, "read", strange)
    async with rig.connected(asked, await device.start(), capture.log) as adapter:
        batches = await rig.take(adapter, 2)
    await device.aclose()
    for batch in batches:
        assert [row["quality"] for row in rig.rows_of(asked, batch).values()] == [0, 0] + [q.BAD_NODE_ID_UNKNOWN] * 1000
    assert asked_of.count((0x84, 6)) == 5 + 1  # the items of the first poll, and the sample
    assert [(event, count) for event, _, count in capture.lines] == [("tags cannot be read", 1000)]


async def test_one_failing_module_does_not_take_its_neighbours_along(monkeypatch: pytest.MonkeyPatch) -> None:
    config = rig.configure({"a": ("IB0", "byte"), "b": ("IB1", "byte"), "c": ("IB2", "byte")})
    device, capture = rig.make_simulator(config), Capture()
    broken = True
    read = simulator._Memory.read

    def faulty(self: Any, block: tuple[int, int], start: int, size: int) -> bytes | int:
        return 0x01 if broken and start <= 1 < start + size else read(self, block, start, size)

    monkeypatch.setattr(simulator._Memory, "read", faulty)
    async with rig.connected(config, await device.start(), capture.log) as adapter, aclosing(adapter.batches()) as stream:
        for _ in range(3):
            assert (await anext(stream)).column("quality").to_pylist() == [0, q.BAD_DEVICE_FAILURE, 0]
        broken = False
        assert (await anext(stream)).column("quality").to_pylist() == [0, 0, 0]  # nobody had to wait for a retry
    await device.aclose()


async def test_several_scan_classes_share_the_connection() -> None:
    config = rig.configure({"fast": ("DB1.DBD0", "real"), "slow": {"address": "DB1.DBD4", "type": "real", "scan": "100ms"}})
    device = rig.make_simulator(config)
    async with rig.connected(config, await device.start()) as adapter:
        batches = await rig.take(adapter, 24)
    await device.aclose()
    tags = [batch.column("tag").to_pylist() for batch in batches]
    assert all(len(tag) == 1 for tag in tags)
    assert 3 <= tags.count([101]) <= 6


async def test_more_tags_than_a_small_pdu_answers_at_once() -> None:
    tags = {f"t{n}": (f"DB{n % 7 + 1}.DBD{n // 7 * 4}", "real") for n in range(2000)}
    config = rig.configure(tags, cpu="s7-1200")
    device = rig.make_simulator(config, {f"furnace/t{n}": SignalConfig(constant=float(n)) for n in range(2000)})
    async with rig.connected(config, await device.start()) as adapter:
        (batch,) = await rig.take(adapter, 1)
    await device.aclose()
    assert batch.column("value").to_pylist() == list(range(2000))


async def test_a_plc_that_restarts_gives_values_again_on_the_same_adapter() -> None:
    config = rig.configure(FURNACE)
    device = rig.make_simulator(config)
    endpoint = await device.start()
    async with rig.connected(config, endpoint) as adapter:
        await rig.take(adapter, 2)
        stream = adapter.batches()
        await anext(stream)
        await device.aclose()
        began = time.monotonic()
        with pytest.raises(NotConnected):
            await rig.drain(stream)
        assert time.monotonic() - began < 1.5
        with pytest.raises(NotConnected, match="refused"):
            await adapter.connect()
        device = rig.make_simulator(config)
        await device.start(port=int(endpoint.rsplit(":", 1)[1]))
        await adapter.connect()
        (batch,) = await rig.take(adapter, 1)
        assert set(batch.column("quality").to_pylist()) == {q.GOOD}
    await device.aclose()


async def test_a_peer_that_goes_between_two_polls_is_noticed_at_once() -> None:
    config = rig.configure(FURNACE, scan="1h")
    device = rig.make_simulator(config)
    async with rig.connected(config, await device.start()) as adapter, aclosing(adapter.batches()) as stream:
        await anext(stream)
        asyncio.get_running_loop().call_later(0.05, lambda: [peer.transport.abort() for peer in device._peers if peer.transport])
        began = time.monotonic()
        with pytest.raises(NotConnected):
            await anext(stream)
        assert time.monotonic() - began < 5
    await device.aclose()


async def test_a_connection_without_tags_waits_for_its_end() -> None:
    device = rig.make_simulator(rig.configure(FURNACE))
    async with rig.connected(rig.configure({}), await device.start()) as adapter:
        asyncio.get_running_loop().call_later(0.05, lambda: [peer.transport.abort() for peer in device._peers if peer.transport])
        with pytest.raises(NotConnected):
            await anext(adapter.batches())
    await device.aclose()


PLC = """
import asyncio, sys
from tests.adapters.s7 import rig

async def main():
    device = rig.make_simulator(rig.configure({"zone1": ("DB10.DBD4", "real")}))
    print(await device.start(port=int(sys.argv[1])), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


class PlcProcess:
    """The simulator in a process of its own, to be frozen and killed."""

    def __init__(self, port: int = 0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PLC), str(port)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        )
        assert self.process.stdout is not None
        self.endpoint = self.process.stdout.readline().strip()

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


async def test_a_frozen_plc_is_not_connected_after_the_timeout_and_a_killed_one_at_once() -> None:
    config = rig.configure({"zone1": ("DB10.DBD4", "real")}, timeout="300ms")
    plc = await asyncio.to_thread(PlcProcess)
    try:
        async with rig.connected(config, plc.endpoint) as adapter:
            await rig.take(adapter, 2)
            plc.send(signal.SIGSTOP)
            began = time.monotonic()
            with pytest.raises(NotConnected, match=r"no answer within 0\.3 s"):
                await rig.take(adapter, 5)
            assert 0.25 < time.monotonic() - began < 5
            with pytest.raises(NotConnected, match=r"no answer within 0\.3 s"):
                await adapter.connect()  # the kernel still accepts
            plc.send(signal.SIGCONT)
            await adapter.connect()
            await rig.take(adapter, 2)
            stream = adapter.batches()
            await anext(stream)
            plc.end()
            began = time.monotonic()
            with pytest.raises(NotConnected):
                await rig.drain(stream)
            assert time.monotonic() - began < 0.3
    finally:
        plc.end()


async def test_a_plc_that_answers_each_request_late_but_in_time_is_no_timeout() -> None:
    """The deadline is per request, not per poll."""

    class Slow(simulator._Peer):
        def data_received(self, data: bytes) -> None:
            asyncio.get_running_loop().call_later(0.04, super().data_received, data)

    tags = {f"t{n}": (f"DB1.DBD{n * 4}", "real") for n in range(1000)}
    config = rig.configure(tags, cpu="s7-1200", timeout="150ms")
    device = rig.make_simulator(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulator, "_Peer", Slow)
        patch.setattr(simulator, "_WINDOW", 1)
        endpoint = await device.start()
        async with rig.connected(config, endpoint) as adapter:
            began = time.monotonic()
            (batch,) = await rig.take(adapter, 1)
            assert time.monotonic() - began > 0.5
        await device.aclose()
    assert set(batch.column("quality").to_pylist()) == {q.GOOD}


@pytest.mark.parametrize("pause_s", [0.02, 0.15])
async def test_a_peer_that_dribbles_its_answers_ends_with_the_deadline_and_not_with_its_last_byte(pause_s: float) -> None:
    """A slow loris costs the timeout of one request; a byte now and then is no answer, however long it goes on."""
    config = rig.configure(FURNACE, timeout="300ms")
    device = rig.make_simulator(config)
    dribbling: list[asyncio.Task[None]] = []

    class Dribbling(simulator._Peer):
        async def dribble(self, transport: asyncio.Transport, answer: bytes) -> None:
            for at in range(len(answer)):
                transport._slow(answer[at : at + 1])  # type: ignore[attr-defined]
                await asyncio.sleep(pause_s)

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(Drip(self, transport))  # type: ignore[arg-type]

    class Drip(asyncio.Transport):
        def __init__(self, peer: Dribbling, real: asyncio.BaseTransport) -> None:
            self.peer, self.real, self.sent = peer, real, 0

        def write(self, data: bytes | bytearray | memoryview) -> None:  # type: ignore[override]
            self.sent += 1
            if self.sent <= 2:  # the greeting is given at once
                self._slow(bytes(data))
            else:
                dribbling.append(asyncio.get_running_loop().create_task(self.peer.dribble(self, bytes(data))))

        def _slow(self, data: bytes) -> None:
            self.real.write(data)  # type: ignore[attr-defined]

        def abort(self) -> None:
            self.real.abort()  # type: ignore[attr-defined]

        def close(self) -> None:
            self.real.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulator, "_Peer", Dribbling)
        async with rig.connected(config, await device.start()) as adapter:
            began = time.monotonic()
            with pytest.raises(NotConnected, match=r"no answer within 0\.3 s"):
                await rig.take(adapter, 1)
            assert 0.25 < time.monotonic() - began < 0.8
    for task in dribbling:
        task.cancel()
    await device.aclose()


async def served_by(answer: Callable[[bytes], bytes]) -> tuple[asyncio.Server, int]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(4096):
                writer.write(answer(data))
        except ConnectionError:
            pass
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak S7"),
        (lambda _: bytes.fromhex("0300000b0680000000000000"), "wrong rack, slot or TSAP"),
        (lambda _: b"\x03\x00\xff\xff" + bytes(100), "does not speak S7"),
        (lambda _: bytes.fromhex("0300000702f080") * 3, "no answer within|does not speak"),
    ],
)
async def test_what_is_no_s7_plc_is_named(answer: Callable[[bytes], bytes], says: str) -> None:
    server, port = await served_by(answer)
    adapter = rig.make_adapter(rig.configure(FURNACE, timeout="300ms"), f"s7://127.0.0.1:{port}")
    with pytest.raises(NotConnected, match=says):
        await adapter.connect()
    await adapter.aclose()
    server.close()
    await server.wait_closed()


async def test_answers_in_fragments_and_in_any_order_find_their_requests() -> None:
    config = rig.configure(FURNACE)
    device = rig.make_simulator(config, {"**": SignalConfig(constant=7.0)})
    endpoint = await device.start()
    port = int(endpoint.rsplit(":", 1)[1])
    connection: Connection | None = None

    class Shuffled(Connection):
        held: ClassVar[list[bytes]] = []

        def data_received(self, data: bytes) -> None:
            for at in range(0, len(data), 3):  # torn anywhere
                super().data_received(data[at : at + 3])

        def _answer(self, pdu: bytes) -> None:
            self.held.append(pdu)
            if len(self.held) == self._left:  # all answers of the exchange are there: the last one first
                held, self.held[:] = list(self.held), []
                for one in reversed(held):
                    super()._answer(one)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("adapters.s7.connection.Connection", Shuffled)
        from adapters.s7.connection import open_connection
        from adapters.s7.wire import parse_read, read_request

        connection = await open_connection("127.0.0.1", port, (0x0100, 0x0201), timeout_s=2)
        frames = [read_request([Span(0x84, 10, start, 4)]) for start in (4, 8, 4, 8)]
        answers = await connection.exchange(frames, timeout_s=2)
        assert [parse_read(pdu, [4])[0].code for pdu in answers] == [OK] * 4
        assert len({pdu[4:6] for pdu in answers}) == 4
        assert [pdu[4:6] for pdu in answers] == sorted(pdu[4:6] for pdu in answers)
        await connection.aclose()
    await device.aclose()
