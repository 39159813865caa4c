"""A simulated plant from a configuration: where it listens, and what it refuses."""

from __future__ import annotations

import asyncio
import socket

import pytest
import structlog

from adapters.simulation import Replay, Scenario, SignalConfig
from gateway.reading import Reading
from gateway.simulation import read_scenario, simulated_plant
from schemas.errors import ConfigError
from tests.e2e import plant
from tests.gateway.samples import until

TEXT = plant.HEAD + plant.PRESS + "sinks:\n" + plant.LAKE
CONSTANT = Scenario(signals={"press/temp": SignalConfig(constant=42.5)})


async def configured(tmp_path, port=1):
    return await plant.load(plant.write(tmp_path, TEXT.replace("127.0.0.1:1\n", f"127.0.0.1:{port}\n")))


async def test_what_is_served_is_read_by_the_adapters_of_the_same_file(tmp_path):
    configuration = await configured(tmp_path)
    async with simulated_plant(configuration, scenario=CONSTANT) as endpoints:
        reading = Reading(configuration, endpoints=endpoints, log=structlog.get_logger(), directory=tmp_path / "scratch")
        async with reading.running():
            await until(lambda: reading.latest.count > 4)
    assert reading.latest.value[0] == 42.5
    assert reading.crashed == {}
    assert not (tmp_path / "spool").exists()


async def test_the_port_of_the_file_is_taken_where_it_is_free(tmp_path):
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    configuration = await configured(tmp_path, port)
    async with simulated_plant(configuration) as endpoints:
        assert endpoints == {"press": f"tcp://127.0.0.1:{port}"}


async def test_a_port_that_is_taken_is_no_failure(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        async with simulated_plant(await configured(tmp_path, port)) as endpoints:
            served = int(endpoints["press"].rsplit(":", 1)[1])
            assert served not in (port, 0)
            _, writer = await asyncio.open_connection("127.0.0.1", served)
            writer.close()
            await writer.wait_closed()


async def test_afterwards_nobody_listens(tmp_path):
    async with simulated_plant(await configured(tmp_path)) as endpoints:
        port = int(endpoints["press"].rsplit(":", 1)[1])
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


@pytest.mark.parametrize(
    ("scenario", "replays", "says"),
    [
        (Scenario(signals={"press/tmep": SignalConfig(constant=1)}), [], "did you mean 'press/temp'"),
        (Scenario(signals={"elsewhere": SignalConfig(constant=1)}), [], "tags are press/temp, press/mode"),
        (None, ["press/nothing"], "--replay 'press/nothing' fits no tag"),
    ],
)
async def test_a_name_that_fits_no_tag_is_refused(tmp_path, scenario, replays, says):
    replays = [Replay(tag=tag, file=tmp_path / "x.csv") for tag in replays]
    with pytest.raises(ConfigError) as caught:
        async with simulated_plant(await configured(tmp_path), scenario=scenario, replays=replays):
            pytest.fail("served")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot read the scenario"),
        ("a: [", "cannot read the scenario"),
        ("signals: {t: {mean: warm}}", "signals.t.mean"),
        ("- 1", ""),
    ],
)
def test_a_wrong_scenario_is_refused_with_its_file(tmp_path, text, says):
    path = tmp_path / "scenario.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_scenario(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)


def test_an_empty_scenario_is_one(tmp_path):
    path = tmp_path / "scenario.yaml"
    path.write_text("")
    assert read_scenario(path) == Scenario()
