"""The simulator is a server like any other: read here with asyncua's client."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from asyncua import Client, ua

from adapters.base import SimulatorContext
from adapters.opcua.simulator import OpcuaSimulator
from adapters.simulation import Replay, Scenario, SignalConfig, Signals
from schemas import quality as q
from schemas.errors import ConfigError
from schemas.tags import Tag
from tests.adapters.opcua.rig import bind, configure, make_simulator, read_some

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


class Seen:
    """Data values of one node as a subscription brings them."""

    def __init__(self) -> None:
        self.values: list[ua.DataValue] = []

    def datachange_notification(self, node: object, value: object, data: Any) -> None:
        self.values.append(data.monitored_item.Value)

    @property
    def numbers(self) -> list[Any]:
        return [value.Value.Value for value in self.values]


@asynccontextmanager
async def simulated(tags: Mapping[str, Mapping[str, Any]], *replays: Replay, **signals: Any) -> AsyncIterator[Client]:
    """A client of a simulator of these tags."""
    config = configure(tags)
    scenario = Scenario.model_validate({"signals": {f"**/{name}": signal for name, signal in signals.items()}})
    plant = await asyncio.to_thread(Signals, scenario, asyncio.get_running_loop().time, replays)
    simulator = OpcuaSimulator(config, SimulatorContext("robot", bind(config), plant))
    endpoint = await simulator.start()
    try:
        async with Client(endpoint) as client:
            plant.restart()  # as `genba simulate` does when every server is up
            await asyncio.sleep(0.05)  # a few slots
            yield client
    finally:
        await simulator.aclose()


@asynccontextmanager
async def watched(client: Client, node: str, enough: int) -> AsyncIterator[Seen]:
    """What a subscription has brought when there were `enough` values."""
    seen = Seen()
    subscription = await client.create_subscription(20, seen)
    await subscription.subscribe_data_change(client.get_node(node), queuesize=100)
    async with asyncio.timeout(10):
        while len(seen.values) < enough:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await subscription.delete()
    yield seen


def recorded(directory: Path, tag: str, rows: Sequence[object], **more: Any) -> Replay:
    file = directory / f"{tag}.csv"
    file.write_text("time,value\n" + "".join(f"{second},{value}\n" for second, value in enumerate(rows)))
    return Replay(tag=f"robot/{tag}", file=file, **more)


@pytest.mark.parametrize("kind", ["float64", "auto"])
async def test_a_replayed_double_waits_for_a_client_and_moves_by_one_row_per_write(tmp_path: Path, kind: str) -> None:
    rows = [n + 0.5 for n in range(300)]
    tags = {"t": {"address": "ns=2;s=T", "type": kind, "scan": "10ms", "scale": 0.5}}
    async with simulated(tags, recorded(tmp_path, "t", rows, speed=1e6)) as client:
        await asyncio.sleep(0.1)
        async with watched(client, "ns=2;s=T", 20) as first:
            pass
        await asyncio.sleep(0.1)  # nobody is there: it waits
        async with watched(client, "ns=2;s=T", 20) as second:
            pass
    came = [number * 0.5 for number in first.numbers]
    assert came == rows[: len(came)]
    again = [number * 0.5 for number in second.numbers]
    assert again == rows[rows.index(again[0]) :][: len(again)]
    assert 0 <= rows.index(again[0]) - len(came) <= 3


async def test_other_types_follow_the_time_of_the_recording_times_speed(tmp_path: Path) -> None:
    tags = {
        name: {"address": f"ns=2;s={name}", "type": kind, "scan": "10ms"}
        for name, kind in (("single", "float32"), ("word", "int32"), ("long", "int64"), ("flag", "bool"))
    }
    rows = [2**53 + 1, *range(1, 4), *[0] * 10]
    replays = [recorded(tmp_path, name, rows, speed=0.001) for name in tags]
    async with simulated(tags, *replays) as client:
        await asyncio.sleep(0.1)
        shown = [await client.get_node(f"ns=2;s={name}").read_value() for name in tags]
        assert shown == [2.0**53, 2**31 - 1, 2**53 + 1, True]  # still the first row
    replays = [recorded(tmp_path, name, rows, speed=1000.0) for name in tags]
    async with simulated(tags, *replays) as client:
        await asyncio.sleep(0.1)
        shown = [await client.get_node(f"ns=2;s={name}").read_value() for name in tags]
        assert shown == [0.0, 0, 0, False]  # the last one


async def test_a_missing_or_infinite_value_is_bad_where_the_type_cannot_hold_it(tmp_path: Path) -> None:
    rows: list[object] = ["nan", "inf", 3.4, "-inf", 1e300]
    tags = {
        "word": {"address": "ns=2;s=Word", "type": "int16"},
        "single": {"address": "ns=2;s=Single", "type": "float32"},
        "double": {"address": "ns=2;s=Double", "type": "float64"},
    }
    tags = {name: {**tag, "scan": "10ms"} for name, tag in tags.items()}
    replays = [recorded(tmp_path, name, rows, speed=10.0) for name in tags]
    async with simulated(tags, *replays) as client:
        async with watched(client, "ns=2;s=Double", 5) as double:
            assert math.isnan(double.numbers[0])
            assert [n for n in double.numbers if not math.isnan(n)] == [math.inf, 3.4, -math.inf, 1e300]
        word, single = Seen(), Seen()
        subscription = await client.create_subscription(20, word)
        await subscription.subscribe_data_change(client.get_node("ns=2;s=Word"))
        other = await client.create_subscription(20, single)
        await other.subscribe_data_change(client.get_node("ns=2;s=Single"))
        async with asyncio.timeout(10):
            while word.numbers[-1:] != [2**15 - 1] or single.numbers[-1:] == [-math.inf]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert {v.StatusCode.value for v in word.values if v.Value.Value is None} <= {q.BAD_SENSOR_FAILURE}
        assert single.numbers[-1] == pytest.approx(3.4028234e38)


async def test_a_tag_that_begins_bad_turns_good_and_bad_again(tmp_path: Path) -> None:
    tags = {"word": {"address": "ns=2;s=Word", "type": "uint16", "scan": "10ms"}}
    rows = ["nan", 5, "nan", 7]
    async with (
        simulated(tags, recorded(tmp_path, "word", rows, speed=2.0)) as client,
        watched(client, "ns=2;s=Word", 4) as seen,
    ):
        assert seen.numbers == [None, 5, None, 7]
        assert [value.StatusCode.value for value in seen.values] == [q.BAD_SENSOR_FAILURE, 0, q.BAD_SENSOR_FAILURE, 0]
        assert {v.Value.VariantType for v in seen.values if v.Value.Value is not None} == {ua.VariantType.UInt16}


async def test_booleans_that_nobody_described_go_on_and_off() -> None:
    tags = {"flag": {"address": "ns=2;s=Flag", "type": "bool", "scan": "10ms"}, "on": {"address": "ns=2;s=On", "type": "bool"}}
    async with (
        simulated(tags, flag={"mean": 0.5, "amplitude": 0.5, "period": "200ms"}, on={"constant": True}) as client,
        watched(client, "ns=2;s=Flag", 4) as seen,
    ):
        assert {type(number) for number in seen.numbers} == {bool}
        assert all(a != b for a, b in itertools.pairwise(seen.numbers))
        assert await client.get_node("ns=2;s=On").read_value() is True
    async with simulated({"flag": {"address": "ns=2;s=Flag", "type": "bool"}}) as client:
        assert await client.get_node("ns=2;s=Flag").read_value() is True  # the first half of its half minute


async def test_a_writer_that_dies_turns_its_tags_bad_and_is_told_when_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    tags = {"t": {"address": "ns=2;s=T", "scan": "10ms"}, "slow": {"address": "ns=2;s=Slow", "scan": "20ms"}}
    simulator = make_simulator(configure(tags))
    endpoint = await simulator.start()
    value = Signals.value

    def broken(self: Signals, tag: Tag, **how: bool) -> float | str:
        if tag.name == "t":
            raise ZeroDivisionError("a bug")
        return value(self, tag, **how)

    async with Client(endpoint) as client:
        monkeypatch.setattr(Signals, "value", broken)
        await asyncio.sleep(0.1)
        dead = await client.get_node("ns=2;s=T").read_data_value(raise_on_bad_status=False)
        assert (dead.StatusCode.value, dead.Value.Value) == (q.BAD_DEVICE_FAILURE, None)
        first = await client.get_node("ns=2;s=Slow").read_data_value()
        await asyncio.sleep(0.1)
        assert (await client.get_node("ns=2;s=Slow").read_data_value()).SourceTimestamp > first.SourceTimestamp
    with pytest.raises(RuntimeError, match="the simulated values of robot stopped: a bug") as raised:
        await simulator.aclose()
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    await simulator.aclose()


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


async def test_parts_of_one_variable_are_served_as_array_and_structure_and_read_again(tmp_path: Path) -> None:
    tags: dict[str, dict[str, Any]] = {
        "temps": {"address": "ns=2;s=Temps", "elements": "1..3", "type": "int16", "scale": 0.5},
        "wave": {"address": "ns=2;s=Wave", "type": "array of float32"},
        "names": {"address": "ns=2;s=Names", "type": "array of string"},
        "speed": {"address": "/Objects/2:Axis", "field": "speed", "type": "float64"},
        "load": {"address": "/Objects/2:Axis", "field": "motor.load", "type": "uint64"},
        "state": {"address": "/Objects/2:Axis", "field": "motor.state", "enum": {0: "off", 3: "on"}},
        "low": {"address": "/Objects/2:Axis", "field": "limits[0]", "type": "float32"},
        "high": {"address": "/Objects/2:Axis", "field": "limits[2]", "type": "float32"},
        "first": {"address": "ns=2;s=Many", "index": 0, "field": "name", "type": "string"},
        "third": {"address": "ns=2;s=Many", "index": 2, "field": "name", "type": "string"},
    }
    constants: dict[str, Any] = {
        "temps_1": 1,
        "temps_2": 2.5,
        "temps_3": -3,
        "wave": 4,
        "names": "n",
        "speed": 5.25,
        "load": 2**62,
    }
    constants |= {"state": 3, "low": -1, "high": 1, "first": "a", "third": "c"}
    simulator = make_simulator(configure(tags), {f"**/{name}": SignalConfig(constant=value) for name, value in constants.items()})
    try:
        endpoint = await simulator.start()
        seen = await read_some(configure(tags, endpoint), tmp_path)
        polled = await read_some(configure(tags, endpoint, read="poll"), tmp_path)
    finally:
        await simulator.aclose()
    for found in (seen, polled):
        first = {name: rows[0] for name, rows in found.rows.items()}
        assert {row["quality"] for row in first.values()} == {q.GOOD}
        numbers = {name: row["value"] for name, row in first.items() if row["value"] is not None}
        assert numbers == {
            "temps_1": 1.0, "temps_2": 2.5, "temps_3": -3.0, "speed": 5.25, "state": 3.0, "low": -1.0, "high": 1.0,
        }  # fmt: skip
        assert first["load"]["value_int"] == 2**62
        assert first["wave"]["samples"] == [4.0] * 16
        texts = {name: row["text"] for name, row in first.items() if row["text"] is not None}
        assert texts == {"names": "[" + ",".join(['"n"'] * 16) + "]", "state": "on", "first": "a", "third": "c"}


async def test_an_array_here_and_a_structure_there_is_for_a_person() -> None:
    tags = {"a": {"address": "ns=2;s=X", "index": 0}, "b": {"address": "ns=2;s=X", "field": "a"}}
    simulator = make_simulator(configure(tags))
    with pytest.raises(ConfigError, match="ns=2;s=X"):
        await simulator.start()
    await simulator.aclose()


async def test_parts_of_one_variable_that_are_read_apart_are_still_one_variable(tmp_path: Path) -> None:
    """Another scan, an option that stands at the tag for one and at the connection for the other."""
    axis = "ns=2;s=Axis"
    tags: dict[str, dict[str, Any]] = {
        "slow": {"address": axis, "field": "motor.load", "type": "float64", "scan": "200ms"},
        "fast": {"address": axis, "field": "motor.speed", "type": "float64"},
        "polled": {"address": axis, "field": "state", "type": "int32", "read": "poll"},
    }
    simulator = make_simulator(configure(tags), {f"**/{name}": SignalConfig(constant=at) for at, name in enumerate(tags, 1)})
    try:
        seen = await read_some(configure(tags, await simulator.start()), tmp_path)
    finally:
        await simulator.aclose()
    assert [(rows[0]["value"], rows[0]["quality"]) for rows in seen.rows.values()] == [
        (1.0, q.GOOD),
        (2.0, q.GOOD),
        (3.0, q.GOOD),
    ]
