"""Alarms of a real gateway process, answered on the command line: kept over kill -9, written down in the lake, drawn."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from adapters.simulation import Scenario, SignalConfig
from cloud_sinks import lake
from gateway.cli import main
from tests.e2e import plant

HOT = plant.PRESS.replace("high: 90", "high: 90, high_high: 100")
SCENARIO = Scenario(signals={"press/temp": SignalConfig(mean=150, noise=0.1)})
TAG = "acme/osaka/press/temp"


class Operator:
    """A person at the gateway's shell, in the directory of its file."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys, self.running = capsys, False

    async def __call__(self, *arguments: str, status: int = 0) -> str:
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            await asyncio.to_thread(main, ["alert", *arguments])
        said = self._capsys.readouterr()
        assert caught.value.code == status, said.err
        return said.out if status == 0 else said.err

    async def alarms(self) -> dict[str, dict[str, Any]]:
        listed = json.loads(await self("list", "--json"))
        self.running = listed["running"]
        return {one["alarm"]: one for one in listed["alarms"]}


async def test_what_an_operator_does_is_kept_over_kill_9_and_is_in_the_lake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = plant.write(tmp_path, plant.HEAD + HOT + "sinks:" + plant.LAKE)
    monkeypatch.chdir(tmp_path)
    simulator = plant.simulator_of(await plant.load(path), "press", scenario=SCENARIO)
    endpoint = await simulator.start()
    process, genba = plant.GatewayProcess(path, {"press": endpoint}), Operator(capsys)
    try:
        await process.start()
        async with asyncio.timeout(20):
            while len(found := await genba.alarms()) < 2 or not genba.running:  # noqa: ASYNC110 (another process)
                await asyncio.sleep(0.05)
        assert {name: one["state"] for name, one in found.items()} == {
            "temp.high": "unacknowledged",
            "temp.high_high": "unacknowledged",
        }
        high, outer = found["temp.high"]["id"], found["temp.high_high"]["id"]
        assert "no open alarm" in await genba("acknowledge", "nobody", status=2)
        assert "as a false alarm" in await genba("acknowledge", high, "--verdict", "false", "--by", "Sato")
        said = await genba("shelve", outer, "--for", "2h", "--by", "Sato", "--reason", "sensor is ordered")
        assert said.strip().endswith("by Sato: sensor is ordered")
        await genba("out-of-service", "--asset", "acme/osaka/forge")
        await process.kill()

        offline = await genba("list")
        assert "shelved" in offline
        assert "no gateway runs" in await genba("unshelve", outer, status=2)

        await process.start()
        async with asyncio.timeout(20):
            while not (listed := json.loads(await genba("list", "--json")))["running"]:  # noqa: ASYNC110 (ready a moment before it listens)
                await asyncio.sleep(0.05)
        assert {one["id"]: one["state"] for one in listed["alarms"]} == {high: "acknowledged", outer: "shelved"}
        assert {(one["state"], one["subject"], one["by"], one["reason"]) for one in listed["aside"] if one["by"] == "Sato"} == {
            ("shelved", TAG, "Sato", "sensor is ordered")
        }
        assert [one["state"] for one in listed["aside"] if one["subject"] == "acme/osaka/forge"] == ["out_of_service"]
        assert "is not shelved any more" in await genba("unshelve", outer)
        assert "that was so already" in await genba("unshelve", outer)
        assert (await genba.alarms())["temp.high_high"]["state"] == "unacknowledged"

        shown = await genba("show", high[:12], "--plot", "alarm.svg")
        for words in (
            "temp.high (limits)",
            "press temp, acme/osaka/press/temp",
            "expected      anything to 90 °C",
            "acknowledged",
        ):
            assert words in shown
        assert b"<svg" in await asyncio.to_thread(Path("alarm.svg").read_bytes)
        document = json.loads(await genba("show", high, "--json"))
        assert document["tag"] == TAG
        assert document["context"][-1][0] <= document["time"]
        assert [one["transition"] for one in document["transitions"]] == ["raised", "acknowledged"]
        assert await process.stop() == 0
    finally:
        if process.process.returncode is None:
            await process.kill()
        await simulator.aclose()

    events = await asyncio.to_thread(_events, tmp_path / "lake")
    assert [(one["event"], one["attributes"].get("verdict"), one["attributes"].get("by")) for one in events][:2] == [
        ("alarm_acknowledged", "false", "Sato"), ("alarm_shelved", None, "Sato")
    ]  # fmt: skip
    assert events[0]["attributes"]["id"] == high
    told = await asyncio.to_thread(_transitions, tmp_path / "lake")
    assert told[high] == ["raised", "acknowledged"]  # one message a transition, also over kill -9
    assert told[outer] == ["raised", "shelved", "unshelved"]
    await genba("show", outer, "--lake", "lake", "--plot", "lake.png", "--zone", "Asia/Tokyo")
    assert (await asyncio.to_thread(Path("lake.png").read_bytes)).startswith(b"\x89PNG")


def _events(location: Path) -> list[dict[str, Any]]:
    rows = lake.scan(location, kind="event").filter(pl.col("event").str.starts_with("alarm_")).sort("seq").collect().to_dicts()
    return [row | {"attributes": json.loads(row["attributes"])} for row in rows]


def _transitions(location: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in lake.scan(location, kind="alert").sort("seq").collect().to_dicts():
        found.setdefault(row["id"], []).append(row["transition"])
    return found


async def test_mistakes_say_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    genba = Operator(capsys)
    assert "name one: ID, --tag or --asset" in await genba("shelve", status=2)
    assert "--alarm goes with" in await genba("shelve", "abc", "--alarm", "x", status=2)
    assert "there is no spool" in await genba("list", status=2)
    assert "which format" in await genba("show", "abc", "--plot", "x.bmp", status=2)
    assert "is no time zone" in await genba("show", "abc", "--zone", "Asia/Nowhere", status=2)
