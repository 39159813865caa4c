"""The simulated device, asked by the library's own client: values, exceptions, and replays that step once a read."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pymodbus.client import AsyncModbusTcpClient

from adapters.modbus import PLUGIN, ModbusConfig
from adapters.modbus.simulator import ModbusSimulator
from adapters.simulation import Replay, Scenario, SignalConfig, Signals
from tests.conformance.adapter import SimulatorContext, bind

Tags = Mapping[str, Mapping[str, Any]]
TAGS: Tags = {
    "f32": {"address": "hr:0", "type": "float32"},
    "swapped": {"address": "hr:2", "type": "float32", "order": "CDAB"},
    "scaled": {"address": "hr:4", "type": "int16", "scale": 0.1, "offset": -40},
    "text": {"address": "hr:10", "type": "string[6]"},
    "bit": {"address": "hr:20.3", "type": "bool"},
    "other_bit": {"address": "hr:20.15", "type": "bool"},
    "coil": {"address": "co:9", "type": "bool"},
    "input": {"address": "di:4", "type": "bool"},
    "big": {"address": "ir:0", "type": "uint32"},
}
VALUES: Mapping[str, float | str | bool] = {
    "f32": 21.5, "swapped": -7.25, "scaled": 12.3, "text": "GENBA", "bit": True, "other_bit": False, "coil": True, "input": True,
    "big": 3_000_000_000,
}  # fmt: skip


def simulator_of(tags: Tags, values: Mapping[str, float | str | bool] = VALUES, *replays: Replay, **more: Any) -> ModbusSimulator:
    config = ModbusConfig.model_validate({"kind": "modbus", "endpoint": "tcp://h:1", "tags": tags} | more)
    signals = {f"**/{name}": SignalConfig(constant=value) for name, value in values.items()}
    plant = Signals(Scenario(signals=signals), asyncio.get_running_loop().time, replays)
    assert PLUGIN.simulate is not None
    made = PLUGIN.simulate(config, SimulatorContext("press", bind("press", config), plant))
    assert isinstance(made, ModbusSimulator)
    return made


@asynccontextmanager
async def asked(simulator: ModbusSimulator) -> AsyncIterator[AsyncModbusTcpClient]:
    """The library's client, connected to the simulator."""
    endpoint = urlsplit(await simulator.start())
    client = AsyncModbusTcpClient(str(endpoint.hostname), port=int(endpoint.port or 0), timeout=2, retries=0, reconnect_delay=0)
    try:
        assert await client.connect()
        yield client
    finally:
        client.close()
        await asyncio.sleep(0)
        await simulator.aclose()


async def test_the_library_s_client_reads_every_value() -> None:
    async with asked(simulator_of(TAGS)) as client:
        kinds = client.DATATYPE
        registers = (await client.read_holding_registers(0, count=21)).registers
        assert client.convert_from_registers(registers[0:2], kinds.FLOAT32) == 21.5
        assert client.convert_from_registers(registers[2:4], kinds.FLOAT32, word_order="little") == -7.25
        assert client.convert_from_registers(registers[4:5], kinds.INT16) == 523
        assert struct.pack(">3H", *registers[10:13]) == b"GENBA\0"
        assert registers[20] == 0b1000
        assert (
            client.convert_from_registers((await client.read_input_registers(0, count=2)).registers, kinds.UINT32)
            == 3_000_000_000
        )
        assert (await client.read_coils(9, count=1)).bits[0] is True
        assert (await client.read_discrete_inputs(4, count=1)).bits[0] is True


async def test_what_it_does_not_have_it_refuses() -> None:
    async with asked(simulator_of(TAGS)) as client:
        assert (await client.read_holding_registers(5, count=4)).registers == [0] * 4, "gaps can be read"
        assert (await client.read_holding_registers(20, count=2)).exception_code == 2
        assert (await client.read_holding_registers(30_000, count=1)).exception_code == 2
        assert (await client.read_coils(0, count=1)).exception_code == 2
        assert (await client.write_register(0, 1)).exception_code == 1
        assert (await client.read_holding_registers(0, count=1, device_id=9)).exception_code == 11
        assert simulator_of(TAGS).answer(1, bytes((3, 0, 0, 0, 126))) == bytes((0x83, 3))
        assert simulator_of(TAGS).answer(1, bytes((3, 0, 0, 0, 0))) == bytes((0x83, 3))
        assert simulator_of(TAGS).answer(1, bytes((3, 0, 0))) == bytes((0x83, 3))


async def test_a_stream_that_is_not_modbus_is_dropped() -> None:
    simulator = simulator_of(TAGS)
    endpoint = urlsplit(await simulator.start())
    reader, writer = await asyncio.open_connection(endpoint.hostname, endpoint.port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    assert await asyncio.wait_for(reader.read(), 2) == b""
    writer.close()
    await writer.wait_closed()
    await simulator.aclose()


def recording(directory: Path, name: str, rows: int) -> Path:
    file = directory / f"{name}.csv"
    file.write_text("value\n" + "".join(f"{n}.5\n" for n in range(rows)))
    return file


async def test_a_replay_steps_once_for_each_request_of_its_scan_class(tmp_path: Path) -> None:
    tags: Tags = {
        "slow": {"address": "hr:0", "type": "float64", "scan": "1s"},
        "fast": {"address": "hr:4", "type": "float64", "scan": "100ms"},
        "slow_end": {"address": "hr:8", "type": "int16", "scan": "1s"},
    }
    replays = [Replay(tag=f"press/{name}", file=recording(tmp_path, name, 9)) for name in ("slow", "fast")]
    async with asked(simulator_of(tags, {}, *replays)) as client:

        async def read(start: int, count: int) -> list[float]:
            registers = (await client.read_holding_registers(start, count=count)).registers
            return [struct.unpack(">d", struct.pack(">4H", *registers[at : at + 4]))[0] for at in range(0, count // 4 * 4, 4)]

        assert [await read(4, 4) for _ in range(2)] == [[0.5], [1.5]]  # what the fast class asks
        assert await read(0, 9) == [0.5, 1.5], "the slow class reads over the fast tag without moving it"
        assert await read(4, 4) == [2.5]
        assert await read(0, 9) == [1.5, 2.5]
        assert await read(0, 8) == [2.5, 3.5], "a foreign request is a read of all that it covers"
        assert (await client.read_holding_registers(0, count=2)).registers[0] == struct.unpack(">H", struct.pack(">d", 2.5)[:2])[
            0
        ]
        assert await read(0, 9) == [3.5, 3.5], "half a value is no read of it"


async def test_it_listens_on_the_port_it_is_told_and_says_when_it_is_taken() -> None:
    first, second = simulator_of(TAGS), simulator_of(TAGS)
    endpoint = await first.start()
    port = urlsplit(endpoint).port or 0
    with pytest.raises(OSError, match="address already in use"):
        await second.start(port=port)
    await second.aclose()
    await first.aclose()
    await first.aclose()
    assert await second.start(port=port) == endpoint
    await second.aclose()


async def test_units_have_maps_of_their_own() -> None:
    tag = {"t": {"address": "hr:0", "type": "uint16"}}
    devices = {"fan-1": {"unit_id": 1, "tags": tag}, "fan-2": {"unit_id": 2, "tags": tag}}
    simulator = simulator_of({}, {"fan-1/t": 1.0, "fan-2/t": 2.0}, devices=devices)
    async with asked(simulator) as client:
        answers = [(await client.read_holding_registers(0, count=1, device_id=unit)).registers for unit in (1, 2)]
    assert answers == [[1], [2]]
