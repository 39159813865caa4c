"""A recording through the whole gateway: each row once in the lake, whatever is stopped, killed or lost on the way."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import polars as pl
import pytest

from cloud_sinks import lake
from gateway.isolation.adapter import IsolatedAdapter
from schemas.errors import NotConnected
from tests.chaos.day import recording
from tests.e2e import plant

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

DAY = """
adapters:
  day:
    kind: replay
    endpoint: ./recording
    isolation: {isolation}
    speed: {speed}
    data: [telemetry, event]
    tags:
      temp: {{address: furnace/temp, unit: Cel, limits: {{high: 90}}}}
      energy: {{address: furnace/energy, type: integer}}
      recipe: {{address: furnace/recipe, type: text}}
"""


def prepared(directory: Path, *, isolation: str = "none", speed: str = "7200") -> tuple[Path, pl.DataFrame]:
    """The plant file, and what must be in the lake in the end."""
    readings, events = recording.make(5, hours=4)
    recording.write(directory / "recording", readings, events)
    path = plant.write(directory, plant.HEAD + DAY.format(isolation=isolation, speed=speed) + "sinks:\n" + plant.LAKE)
    wanted = [recording.path_of("furnace", name) for name in ("temp", "energy", "recipe")]
    frame = pl.DataFrame(pl.from_arrow(readings)).filter(pl.col("tag").is_in(wanted))
    return path, frame.with_columns(pl.col("tag").str.replace("furnace", "day")).select(COLUMNS).sort("time", "tag")


COLUMNS = ("time", "tag", "value", "value_int", "text", "quality")


def found(directory: Path) -> pl.DataFrame:
    return lake.scan(directory / "lake").filter(pl.col("origin") == "replay").select(COLUMNS).sort("time", "tag").collect()


async def finished(pipeline, within_s: float = 60.0) -> None:
    await plant.until(lambda: pipeline.collectors[0].state == "finished", "the recording has been played", within_s)


async def test_a_stop_in_the_middle_and_a_further_start_leave_each_row_once_and_no_gap(tmp_path):
    path, expected = prepared(tmp_path)
    async with plant.gateway(path, {}) as pipeline:
        await plant.until(lambda: pipeline.collectors[0].rows > 300, "rows")
    assert 0 < found(tmp_path).height < expected.height
    for _ in range(2):  # the second time there is nothing left to play
        async with plant.gateway(path, {}) as pipeline:
            await finished(pipeline)
    assert found(tmp_path).equals(expected, null_equal=True)
    events = lake.scan(tmp_path / "lake", kind="event").filter(pl.col("source") == "plc").collect()
    assert events["message"].is_unique().all()
    assert events.height == 120
    assert lake.scan(tmp_path / "lake", kind="gap").collect().is_empty()


async def test_a_process_of_its_own_that_dies_in_the_middle_loses_no_row_and_brings_none_twice(tmp_path):
    path, expected = prepared(tmp_path, isolation="process", speed="3600")
    async with plant.gateway(path, {}) as pipeline:
        collector = pipeline.collectors[0]
        await plant.until(lambda: collector.rows > 300, "rows", 30)
        assert isinstance(collector.adapter, IsolatedAdapter)
        os.kill(collector.adapter.pid, signal.SIGKILL)
        await plant.until(lambda: collector.state == "down", "its end is noticed")
        await finished(pipeline)
    assert found(tmp_path).equals(expected, null_equal=True)


async def test_a_recording_that_cannot_be_read_for_a_while_goes_on_where_it_was(tmp_path, monkeypatch):
    path, expected = prepared(tmp_path)
    async with plant.gateway(path, {}) as pipeline:
        collector = pipeline.collectors[0]
        await plant.until(lambda: collector.rows > 300, "rows")

        async def away(*_: object) -> None:
            raise NotConnected("the share is away")

        with monkeypatch.context() as patched:
            patched.setattr(collector.adapter, "_read", away)
            await plant.until(lambda: collector.state == "down", "it is away", 30)
        await finished(pipeline)
    assert found(tmp_path).equals(expected, null_equal=True)


async def test_alarms_of_a_recording_bear_its_times(tmp_path):
    path, expected = prepared(tmp_path, speed="max")
    path.write_text(path.read_text() + "routes:\n  - {data: alert, to: [lake]}\n")
    async with plant.gateway(path, {}) as pipeline:
        await finished(pipeline)
        await asyncio.sleep(0.2)
    alerts = lake.scan(tmp_path / "lake", kind="alert").filter(pl.col("alarm") == "temp.high").sort("seq").collect()
    beyond = expected.filter(pl.col("tag").str.ends_with("/temp") & (pl.col("value") > 90))
    assert alerts["transition"][0] == "raised"
    assert alerts["time"][0] == beyond["time"][0]
    assert set(alerts["time"]) <= set(expected["time"])
