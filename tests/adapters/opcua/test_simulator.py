"""The simulator is a server like any other: read here with asyncua's client."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from asyncua import Client, ua

from adapters.base import SimulatorContext
from adapters.opcua.simulator import OpcuaSimulator
from adapters.simulation import Replay, Scenario, SignalConfig, Signals
from tests.adapters.opcua.rig import bind, configure, make_simulator

TAGS = {
    "number": {"address": "ns=3;s=N", "scan": "20ms"},
    "small": {"address": "nsu=http://acme.example/a;i=7", "type": "int16", "scale": 0.1, "offset": -40},
    "clipped": {"address": "nsu=http://acme.example/b;i=7", "type": "uint8"},
    "path": {"address": "/Objects/2:Plant/5:Robot/2:Temp", "type": "float32"},
    "twin": {"address": "ns=3;s=N"},
    "mode": {"address": "ns=3;g=09087e75-8e5e-499b-954f-f2a9603db28a", "enum": {0: "idle"}},
    "opaque": {"address": "ns=3;b=AP8=", "type": "string"},
    "clock": {"address": "i=2258", "type": "datetime"},
}


async def test_the_address_map_of_the_configuration_is_served() -> None:
    signals = {"**/small": SignalConfig(constant=10), "**/clipped": SignalConfig(constant=999)}
    simulator = make_simulator(configure(TAGS), signals)
    endpoint = await simulator.start()
    assert endpoint.startswith("opc.tcp://127.0.0.1:")
    assert endpoint.endswith("/plant")
    try:
        async with Client(endpoint) as client:
            spaces = await client.get_namespace_array()
            a, b = (spaces.index(f"http://acme.example/{x}") for x in "ab")
            assert len(spaces) == len(set(spaces)) >= 6
            assert not {a, b} & {2, 3, 5}
            small = await client.get_node(f"ns={a};i=7").read_data_value()
            assert (small.Value.Value, small.Value.VariantType) == (500, ua.VariantType.Int16)
            assert (await client.get_node(f"ns={b};i=7").read_value()) == 255
            temp = await client.nodes.objects.get_child(["2:Plant", "5:Robot", "2:Temp"])
            assert (await temp.read_data_value()).Value.VariantType is ua.VariantType.Float
            mode = await client.get_node("ns=3;g=09087e75-8e5e-499b-954f-f2a9603db28a").read_data_value()
            assert mode.Value.VariantType is ua.VariantType.Int32
            number = client.get_node("ns=3;s=N")
            first = await number.read_data_value()
            await asyncio.sleep(0.2)
            later = await number.read_data_value()
            assert later.SourceTimestamp > first.SourceTimestamp
            assert later.Value.Value != first.Value.Value
    finally:
        await simulator.aclose()
        await simulator.aclose()


async def test_a_replayed_column_moves_by_one_row_per_write(tmp_path: Path) -> None:
    recording = tmp_path / "r.csv"
    recording.write_text("x\n" + "\n".join(str(i + 0.5) for i in range(200)))
    config = configure({"t": {"address": "ns=2;s=T", "type": "float64", "scan": "10ms"}})
    replays = [Replay(tag="robot/t", file=recording)]
    plant = await asyncio.to_thread(Signals, Scenario(), asyncio.get_running_loop().time, replays)
    simulator = OpcuaSimulator(config, SimulatorContext("robot", bind(config), plant))
    seen: list[float] = []
    enough = asyncio.Event()

    class Handler:
        def datachange_notification(self, node: object, value: float, data: object) -> None:
            seen.append(value)
            if len(seen) >= 20:
                enough.set()

    endpoint = await simulator.start()
    try:
        async with Client(endpoint) as client:
            subscription = await client.create_subscription(50, Handler())
            await subscription.subscribe_data_change(client.get_node("ns=2;s=T"), queuesize=100)
            async with asyncio.timeout(10):
                await enough.wait()
            await subscription.delete()
    finally:
        await simulator.aclose()
    assert seen == [seen[0] + i for i in range(len(seen))]


async def test_a_taken_port_is_an_os_error() -> None:
    taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    simulator = make_simulator(configure({"t": "ns=2;s=T"}))
    with pytest.raises(OSError, match="in use"):
        await simulator.start(port=taken.sockets[0].getsockname()[1])
    await simulator.aclose()
    assert (await simulator.start()).startswith("opc.tcp://127.0.0.1:")
    await simulator.aclose()
    taken.close()
    await taken.wait_closed()
