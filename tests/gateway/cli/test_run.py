"""`genba run` as service managers and people see it: exit status, streams, signals."""

from __future__ import annotations

import json
import signal

import pytest

from gateway import doctor
from tests.e2e import plant
from tests.gateway.cli.process import ended, started

TEXT = plant.HEAD + plant.PRESS + "sinks:\n" + plant.LAKE


async def test_a_wrong_file_ends_with_2_and_names_file_line_and_column(tmp_path):
    plant.write(tmp_path, TEXT.replace("timeout:", "timeuot:"))
    done = await ended("run", "plant.yaml", cwd=tmp_path)
    assert done.process.returncode == 2
    line = TEXT[: TEXT.index("timeout:")].count("\n") + 1
    assert f"plant.yaml:{line}:5 " in done.err
    assert "did you mean" in done.err
    assert "Traceback" not in done.err
    assert done.out == ""
    assert not (tmp_path / "spool").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot read endpoints"),
        ("[1]", "not a mapping"),
        ('{"press": 5}', "not a mapping"),
        ("{", "cannot read endpoints"),
    ],
)
def test_wrong_endpoints_end_with_2(tmp_path, genba, text, says):
    path = plant.write(tmp_path, TEXT)
    endpoints = tmp_path / "endpoints.json"
    if text is not None:
        endpoints.write_text(text)
    done = genba("run", path, "--endpoints", endpoints)
    assert done.status == 2
    assert f"{endpoints}: " in done.err
    assert says in done.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_without_a_terminal_it_logs_json_and_a_signal_ends_it_cleanly(tmp_path, number):
    plant.write(tmp_path, TEXT)
    async with started("run", "plant.yaml", cwd=tmp_path) as process:
        await process.until("gateway is ready", "stderr")
        assert await process.end(number) == 0
    lines = [json.loads(line) for line in process.err.splitlines()]
    events = [line["event"] for line in lines]
    assert {"gateway is ready", "stopping", "gateway stopped"} <= set(events)
    assert events[-1] == "gateway stopped"
    assert all({"timestamp", "level", "event"} <= line.keys() for line in lines)
    assert process.out == ""


async def test_a_device_that_is_away_does_not_keep_it_from_starting(tmp_path):
    plant.write(tmp_path, TEXT)
    async with started("run", "plant.yaml", cwd=tmp_path) as process:
        line = json.loads(await process.until("device is not connected", "stderr"))
        assert (line["adapter"], line["level"]) == ("press", "warning")
        assert await process.end(signal.SIGTERM) == 0


async def test_text_may_be_asked_for(tmp_path):
    plant.write(tmp_path, TEXT)
    async with started("run", "plant.yaml", "--log-text", cwd=tmp_path) as process:
        line = await process.until("gateway is ready", "stderr")
        assert not line.startswith("{")
        assert await process.end(signal.SIGTERM) == 0


async def test_a_second_gateway_on_the_same_spool_is_refused_with_2(tmp_path):
    plant.write(tmp_path, TEXT)
    async with started("run", "plant.yaml", cwd=tmp_path) as process:
        await process.until("gateway is ready", "stderr")
        second = await ended("run", "plant.yaml", cwd=tmp_path)
        assert second.process.returncode == 2
        assert "Traceback" not in second.err
        assert "error:" in second.err
        assert process.process.returncode is None
        assert await process.end(signal.SIGTERM) == 0


def test_it_refuses_to_start_where_package_names_are_not_its_own(tmp_path, genba, monkeypatch):
    path = plant.write(tmp_path, TEXT)
    monkeypatch.setattr(doctor, "foreign_owners", lambda: {"adapters": ["adapters"]})
    done = genba("run", path)
    assert done.status == 2
    assert "environment of its own" in done.err
    assert not (tmp_path / "spool").exists()
