"""`genba simulate` and `genba test` together, as somebody without a PLC uses them; and what `genba test` says of absent devices."""

from __future__ import annotations

import asyncio
import json
import signal

import pytest

from gateway import reading
from gateway.collector import Collector
from tests.e2e import plant
from tests.gateway.cli.process import ended, started

TEXT = plant.HEAD + plant.PRESS + "sinks:\n" + plant.LAKE


@pytest.fixture
async def served(tmp_path):
    """A simulated plant; endpoints.json beside plant.yaml says where."""
    plant.write(tmp_path, TEXT)
    (tmp_path / "scenario.yaml").write_text("signals:\n  press/temp: {constant: 42.5}\n  press/mode: {constant: 1}\n")
    async with started(
        "simulate", "plant.yaml", "--scenario", "scenario.yaml", "--write", "endpoints.json", cwd=tmp_path
    ) as process:
        await process.until("Ctrl-C ends")
        yield process


async def test_simulated_values_are_shown_and_the_status_is_0(served, tmp_path):
    assert "press: tcp://127.0.0.1:1 is served at tcp://127.0.0.1:" in served.out
    done = await ended("test", "plant.yaml", "--endpoints", "endpoints.json", "--duration", "1s", cwd=tmp_path)
    assert done.process.returncode == 0, done.err
    (temp,) = [line.split() for line in done.out.splitlines() if "press/temp" in line]
    assert temp[:4] == ["press/temp", "42.5", "°C", "Good"]
    (mode,) = [line.split() for line in done.out.splitlines() if "press/mode" in line]
    assert mode[:4] == ["press/mode", "run", "(1)", "Good"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "endpoints.json",
        "plant.yaml",
        "scenario.yaml",
    ]  # nothing is stored


async def test_json_is_one_row_per_tag(served, tmp_path):
    done = await ended("test", "plant.yaml", "--endpoints", "endpoints.json", "--duration", "1s", "--json", cwd=tmp_path)
    assert done.process.returncode == 0
    temp, mode = json.loads(done.out)
    assert (temp["tag"], temp["address"], temp["value"], temp["text"], temp["quality"]) == (
        "acme/osaka/press/temp",
        "hr:0",
        42.5,
        None,
        "Good",
    )
    assert (mode["value"], mode["text"]) == (1.0, "run")
    assert temp["time_us"] > 1_700_000_000_000_000


async def test_simulate_ends_cleanly_at_ctrl_c_and_leaves_the_port(served):
    assert await served.end(signal.SIGINT) == 0
    assert served.err == ""


async def test_simulate_as_json_says_where_and_when(tmp_path):
    plant.write(tmp_path, TEXT)
    async with started("simulate", "plant.yaml", "--json", cwd=tmp_path) as process:
        told = json.loads(await process.until("endpoints"))
        assert told["endpoints"]["press"].startswith("tcp://127.0.0.1:")
        assert told["started"] > 1_700_000_000
        assert await process.end(signal.SIGTERM) == 0
    assert process.err == ""


async def test_a_device_that_is_absent_is_named_and_the_status_is_3(tmp_path):
    plant.write(tmp_path, TEXT)
    done = await ended("test", "plant.yaml", "--duration", "1s", cwd=tmp_path)
    assert done.process.returncode == 3
    assert "press cannot be read: tcp://127.0.0.1:1: Connection refused" in done.err
    assert "Traceback" not in done.err


async def test_json_stays_json_when_the_device_is_absent(tmp_path):
    plant.write(tmp_path, TEXT)
    done = await ended("test", "plant.yaml", "--duration", "500ms", "--json", cwd=tmp_path)
    assert done.process.returncode == 3
    assert [row["value"] for row in json.loads(done.out)] == [None, None]
    assert json.loads(done.out)[0]["quality"].startswith("Bad")


async def test_ctrl_c_ends_a_test_without_end_and_what_was_read_is_shown(served, tmp_path):
    for wait_s in (2.5, 10, 30):  # nothing is said before the end, and a busy machine takes its time to the first reading
        async with started("test", "plant.yaml", "--endpoints", "endpoints.json", "--duration", "0", cwd=tmp_path) as process:
            await asyncio.sleep(wait_s)
            assert process.process.returncode is None
            status = await process.end(signal.SIGINT)
        if "42.5 °C" in process.out:
            break
    assert status == 0
    assert "42.5 °C" in process.out
    assert "Traceback" not in process.err


async def test_a_bad_tag_fails_where_it_was_asked_for(served, tmp_path):
    plant.write(tmp_path, TEXT.replace('"hr:0", type: float64', '"hr:60000", type: float64'))
    arguments = ("test", "plant.yaml", "--endpoints", "endpoints.json", "--duration", "1s")
    lenient = await ended(*arguments, cwd=tmp_path)
    assert lenient.process.returncode == 0
    strict = await ended(*arguments, "--fail-on", "bad", cwd=tmp_path)
    assert strict.process.returncode == 3
    assert "bad: acme/osaka/press/temp" in strict.err


def test_an_adapter_that_crashes_is_named_as_a_bug_and_the_status_is_1(genba, tmp_path, monkeypatch):
    async def crash(self):
        raise ZeroDivisionError

    monkeypatch.setattr(Collector, "run", crash)
    assert reading.Collector is Collector
    done = genba("test", plant.write(tmp_path, TEXT), "--duration", "100ms")
    assert done.status == 1
    assert "press crashed, which is a bug: ZeroDivisionError()" in done.err


@pytest.mark.parametrize("duration", ["banana", "5", "-1s", "4x"])
def test_a_duration_that_is_none_is_refused_in_one_sentence(genba, tmp_path, duration):
    done = genba("test", plant.write(tmp_path, TEXT), f"--duration={duration}")
    assert done.status == 2
    assert "Invalid value for '--duration'" in done.err


def test_endpoints_that_cannot_be_written_are_one_sentence(genba, tmp_path):
    done = genba("simulate", plant.write(tmp_path, TEXT), "--write", tmp_path / "no" / "endpoints.json")
    assert done.status == 2
    assert "cannot write the endpoints: No such file or directory" in done.err
