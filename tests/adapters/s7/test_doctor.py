"""The doctor names the one cause: against the simulator with the refusals of real CPUs injected."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from pydantic import ValidationError

from adapters.s7 import PLUGIN, S7Examination, simulator
from adapters.s7.doctor import OPTIMISED, PROTECTION, PUT_GET
from schemas.plugin import Check
from tests.adapters.s7 import rig

DB10 = {"a": ("DB10.DBD4", "real"), "text": ("DB10.DBB20", "string[32]"), "flag": ("M0.0", "bool"), "delay": ("T3", "timer")}
Read = Callable[[tuple[int, int], int, int], bytes | int | None]


async def examine(endpoint: str, **options: Any) -> dict[str, Check]:
    """Checks by name, in order."""
    assert PLUGIN.doctor is not None
    given = S7Examination.model_validate({"endpoint": endpoint, "timeout": "500ms", **options})
    async with asyncio.timeout(20), aclosing(PLUGIN.doctor.examine(given)) as checks:
        return {check.name: check async for check in checks}


def failures(checks: dict[str, Check]) -> list[str]:
    return [name for name, check in checks.items() if check.result == "failure"]


@asynccontextmanager
async def plc(**more: Any) -> AsyncIterator[str]:
    device = rig.make_simulator(rig.configure(DB10, **more))
    try:
        yield await device.start()
    finally:
        await device.aclose()


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[[Read], None]:
    """Makes reads end with the return code that a function of block, start and size gives, where it gives one."""

    def arrange(code_of: Read) -> None:
        read = simulator._Memory.read

        def instead(self: Any, block: tuple[int, int], start: int, count: int) -> bytes | int:
            code = code_of(block, start, count)
            return read(self, block, start, count) if code is None else code

        monkeypatch.setattr(simulator._Memory, "read", instead)

    return arrange


@pytest.fixture
def only_from(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Makes the PLC accept some remote TSAPs only, with a disconnect request or by hanging up; the list is what was tried."""

    def arrange(*accepted: int, hang_up: bool = False) -> list[int]:
        tried: list[int] = []
        answer = simulator._Peer._answer

        def picky(self: Any, whole: bytes) -> bytes | None:
            if whole[5] != 0xE0:
                return answer(self, whole)
            tried.append(int.from_bytes(whole[20:22]))
            if tried[-1] in accepted:
                return answer(self, whole)
            return None if hang_up else b"\x03\0\0\x0b\x06\x80" + whole[8:10] + b"\0\x01\0"

        monkeypatch.setattr(simulator._Peer, "_answer", picky)
        return tried

    return arrange


@asynccontextmanager
async def listener(respond: bytes | None) -> AsyncIterator[str]:
    """A server that answers whatever comes with `respond`, or not at all."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            if respond is not None:
                writer.write(respond)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        server.close()
        await asyncio.sleep(0.05)  # the last connection's end


async def test_a_plc_that_can_be_read_is_all_ok_and_the_length_of_its_blocks_is_told() -> None:
    async with plc(cpu="s7-1200") as endpoint:
        checks = await examine(endpoint, db=[10], address=["DB10.DBD4", "DB10.DBB20:string[32]", "M0.0", "T3"])
    assert failures(checks) == []
    assert list(checks)[:4] == ["network", "rack and slot", "PDU", "access"]
    assert checks["PDU"].found == "240 bytes, 8 requests at a time"
    assert {name: checks[name].found for name in ("DB10", "M", "T")} == {
        "DB10": "can be read, 54 bytes",
        "M": "can be read, 2 bytes",
        "T": "can be read, 8 bytes",
    }
    assert all(not check.way_out for check in checks.values())


async def test_nothing_named_says_what_could_be() -> None:
    async with plc() as endpoint:
        assert "--db 10" in (await examine(endpoint.removeprefix("s7://")))["blocks"].way_out


async def test_a_closed_port_and_an_unknown_name_are_the_network() -> None:
    async with plc() as endpoint:
        pass
    closed = await examine(endpoint)
    assert failures(closed) == list(closed) == ["network"]
    assert "refuses port" in closed["network"].found
    unknown = await examine("plc.invalid")
    assert failures(unknown) == list(unknown) == ["network"]
    assert "not known" in unknown["network"].found


async def test_another_protocol_on_the_port_is_told() -> None:
    async with listener(b"HTTP/1.1 400 Bad Request\r\n\r\n") as endpoint:
        checks = await examine(endpoint)
    assert failures(checks) == ["S7"]
    assert "something else" in checks["S7"].way_out


async def test_silence_ends_within_a_deadline_for_each_try() -> None:
    async with listener(None) as endpoint:
        began = time.monotonic()
        checks = await examine(endpoint, timeout="100ms")
    assert time.monotonic() - began < 2
    assert failures(checks) == ["rack and slot"]
    assert "no answer within 0.1 s" in checks["rack and slot"].found


@pytest.mark.parametrize("hang_up", [False, True])
async def test_a_wrong_slot_is_found_out_and_the_right_one_named(only_from: Callable[..., list[int]], hang_up: bool) -> None:
    tried = only_from(0x0202, hang_up=hang_up)
    async with plc() as endpoint:
        checks = await examine(endpoint, rack=0, slot=1)
    assert failures(checks) == ["rack and slot"]
    assert "rack 0, slot 1 (op, TSAP 02.01) is refused" in checks["rack and slot"].found
    assert checks["rack and slot"].way_out == "write `cpu: s7-300`, or `rack: 0` and `slot: 2`"
    assert tried == [0x0201, 0x0202]


async def test_a_taken_connection_resource_is_not_taken_for_a_wrong_slot(only_from: Callable[..., list[int]]) -> None:
    only_from(0x0301)
    async with plc() as endpoint:
        checks = await examine(endpoint, cpu="s7-1500")
    assert checks["rack and slot"].way_out.startswith("write `connection: basic`, or free one of the `op` connections")


async def test_no_place_accepted_at_all_says_where_to_look_and_tries_the_programming_device_last(
    only_from: Callable[..., list[int]],
) -> None:
    tried = only_from()
    async with plc() as endpoint:
        checks = await examine(endpoint)
    assert failures(checks) == ["rack and slot"]
    assert "device configuration" in checks["rack and slot"].way_out
    assert tried == [0x0201, 0x0202, 0x0203, 0x0200, 0x0301, 0x0101]


async def test_a_tsap_and_a_right_slot_are_used_as_given(only_from: Callable[..., list[int]]) -> None:
    tried = only_from(0x0200, 0x0324)
    async with plc() as endpoint:
        assert failures(await examine(endpoint, tsap="02.00")) == []
        assert failures(await examine(endpoint, rack=1, slot=4, connection="basic")) == []
    assert tried == [0x0200, 0x0324]


async def test_a_processor_without_s7_connections_is_told_from_a_wrong_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = simulator._Peer._answer
    monkeypatch.setattr(simulator._Peer, "_answer", lambda self, whole: answer(self, whole) if whole[5] == 0xE0 else None)
    async with plc() as endpoint:
        checks = await examine(endpoint)
    assert failures(checks) == ["S7"]
    assert "no S7 communication" in checks["S7"].found


@pytest.mark.parametrize(("code", "way_out"), [(0x8104, PUT_GET), (0xD602, PROTECTION), (0xD241, PROTECTION)])
async def test_put_get_and_the_protection_level_are_told_apart(monkeypatch: pytest.MonkeyPatch, code: int, way_out: str) -> None:
    monkeypatch.setattr(simulator._Peer, "_read", lambda _, reference, __: simulator._error(reference, code))
    async with plc() as endpoint:
        checks = await examine(endpoint, db=[10])
    assert (failures(checks), list(checks)[-1]) == (["access"], "access")
    assert f"0x{code:X}" in checks["access"].found
    assert checks["access"].way_out == way_out


async def test_put_get_refused_item_by_item(refuse: Callable[[Read], None]) -> None:
    refuse(lambda block, start, count: 0x03)
    async with plc() as endpoint:
        assert (await examine(endpoint, db=[10]))["access"].way_out == PUT_GET


async def test_an_optimised_block_a_missing_and_a_protected_one_beside_a_good_one(refuse: Callable[[Read], None]) -> None:
    codes = {11: 0x05, 12: 0x0A, 13: 0x03, 15: 0x01}
    refuse(lambda block, start, count: codes.get(block[1]))
    async with plc() as endpoint:
        checks = await examine(endpoint, db=[10, *codes], address=["DB11.DBD4"])
    assert failures(checks) == ["DB11", "DB12", "DB13", "DB15"]
    assert "optimised block access" in checks["DB11"].found
    assert checks["DB11"].way_out == OPTIMISED
    assert "not in the CPU" in checks["DB12"].found
    assert checks["DB12"].way_out.startswith("check the number")
    assert checks["DB13"].way_out.startswith(OPTIMISED)
    assert "hardware fault" in checks["DB15"].found
    assert "DB11.DBD4" not in checks  # the block was the matter


async def test_a_block_that_is_too_short_is_told_with_both_lengths() -> None:
    async with plc() as endpoint:
        checks = await examine(endpoint, address=["DB10.DBD50", "DB10.DBD52", "DB10.DBB24:string[30]", "T4", "I0.0"])
    assert failures(checks) == ["I", "DB10.DBD52", "DB10.DBB24:string[30]", "T4"]
    assert checks["DB10.DBD52"].found == "DB10 is too short: it has 54 bytes, and 56 are needed"
    assert checks["T4"].found == "T is too short: it has 8 bytes, and 10 are needed"


@pytest.mark.parametrize("length", [1, 2, 3, 255, 256, 257, 65534, 65536, 70_001, 1 << 21])
async def test_the_length_of_a_block_takes_few_reads(refuse: Callable[[Read], None], length: int) -> None:
    reads = 0

    def counted(block: tuple[int, int], start: int, count: int) -> Any:
        nonlocal reads
        reads += 1
        return (bytes(count) if start + count <= length else 0x05) if block == (0x84, 77) else None

    refuse(counted)
    async with plc() as endpoint:
        assert (await examine(endpoint, db=[77]))["DB77"].found == f"can be read, {length} bytes"
    assert reads <= 2 + 41


async def test_a_plc_that_hangs_up_on_a_read_is_told_and_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulator._Peer, "_read", lambda *_: None)
    async with plc() as endpoint:
        checks = await examine(endpoint, db=[10])
    assert failures(checks) == ["connection"]
    assert "closed the connection" in checks["connection"].found


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"db": [0]}, "1 to 65535"),
        ({"address": ["DB1.DBX4"]}, "DB1.DBX4.0"),
        ({"address": ["DB1.DBD4:int"]}, "write DB1.DBW4"),
        ({"tsap": "2"}, "two bytes in hex"),
        ({"slot": 1, "tsap": "02.00"}, "say the same thing"),
        ({"endpoint": "opc.tcp://plc"}, "not an S7 endpoint"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_opened(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        S7Examination.model_validate({"endpoint": "plc", **options})
    assert says in str(caught.value)
