"""The adapter `replay`: what is recorded comes out as it is, in its own time, each row once, from wherever it is to go on."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import structlog
from pydantic import ValidationError

from adapters.base import AdapterContext, Mark, replay_mark
from adapters.replay import PLUGIN
from adapters.replay.config import ReplayConfig
from schemas.errors import ConfigError, EndOfStream, NotConnected
from schemas.kinds import TELEMETRY, Kind, Origin, kind_of
from schemas.manifest import Manifest, Merged, Source
from tests.chaos.day import recording
from tests.conformance.adapter import FIRST_ID, Footprint, SystemClock, bind

T0 = 1_767_225_600_000_000
TAGS = {"temp": {"address": "press/temp"}, "recipe": {"address": "press/recipe", "type": "text"}}


def adapter_of(
    directory: Path, endpoint: str, tags: Mapping[str, Any] = TAGS, reached: Mapping[Kind, Mark] | None = None, **options: Any
) -> Any:
    config = ReplayConfig.model_validate({"kind": "replay", "endpoint": endpoint, "speed": "max", "tags": tags} | options)
    context = AdapterContext(
        "day",
        bind("day", config),
        SystemClock(),
        directory / "private",
        structlog.get_logger(),
        base=directory,
        reached=reached or {},
    )
    return PLUGIN.build(config, context)


async def played(adapter: Any, within_s: float = 20.0) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All readings and events, times as µs."""
    found: dict[str, list[dict[str, Any]]] = {"telemetry": [], "event": []}
    async with asyncio.timeout(within_s):
        await adapter.connect()
        async with aclosing(adapter.batches()) as batches:
            with contextlib.suppress(EndOfStream):
                async for batch in batches:
                    assert 1 <= batch.num_rows <= 20_000
                    times = batch.column("time").cast(pa.int64()).to_pylist()
                    rows = batch.drop_columns(["time"]).to_pylist()
                    found[kind_of(batch)] += [row | {"time": at} for row, at in zip(rows, times, strict=True)]
    await adapter.aclose()
    return found["telemetry"], found["event"]


def narrow(directory: Path, rows: int = 300, times: Any = None) -> Path:
    """A Parquet file with the columns time, tag, value, text, quality, three rows for each time."""
    at = T0 + np.arange(rows) // 3 * 1_000_000 if times is None else times
    tags = ["acme/osaka/press/temp", "acme/osaka/press/recipe", "acme/osaka/press/temp"] * (rows // 3)
    table = pa.table(
        {
            "time": pa.array(at, pa.timestamp("us", "UTC")),
            "tag": pa.array(tags).dictionary_encode(),
            "value": pa.array([None if tag.endswith("recipe") else n / 7 for n, tag in enumerate(tags)]),
            "text": pa.array([f"r{n}" if tag.endswith("recipe") else None for n, tag in enumerate(tags)]),
            "quality": pa.array([0x808C0000 if n % 50 == 7 else 0 for n in range(rows)], pa.int64()),
        }
    )
    file = directory / "day.parquet"
    pq.write_table(table, file)
    return file


async def test_a_lake_comes_out_as_it_was_recorded(tmp_path):
    readings, events = recording.make(3, hours=2)
    recording.write(tmp_path / "lake", readings, events)
    tags = {
        f"{tag.name}-{number}": {"address": f"{asset}/{tag.name}", "type": tag.type}
        for number, asset in enumerate(recording.ASSETS)
        for tag in recording.TAGS
    }
    rows, told = await played(adapter_of(tmp_path, "lake", tags, data=["telemetry", "event"]))
    names = {
        FIRST_ID + n: recording.path_of(a, t.name)
        for n, (a, t) in enumerate((a, t) for a in recording.ASSETS for t in recording.TAGS)
    }
    times = readings["time"].cast(pa.int64()).to_pylist()
    expected = [row | {"time": at} for row, at in zip(readings.drop_columns(["time", "seq"]).to_pylist(), times, strict=True)]
    got = [{name: names[row["tag"]] if name == "tag" else row[name] for name in expected[0]} for row in rows]
    key = lambda row: (row["time"], row["tag"])  # noqa: E731
    assert sorted(got, key=key) == sorted(expected, key=key)
    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)
    assert {row["origin"] for row in rows} == {int(Origin.REPLAY)}
    assert [row["message"] for row in told] == events["message"].to_pylist()
    assert all(replay_mark("day") in row["attributes"] and '"number": ' in row["attributes"] for row in told)


async def test_batches_are_telemetry(tmp_path):
    narrow(tmp_path)
    adapter = adapter_of(tmp_path, "day.parquet")
    await adapter.connect()
    async with aclosing(adapter.batches()) as batches:
        batch = await anext(batches)
    assert batch.schema.equals(TELEMETRY, check_metadata=True)
    batch.validate(full=True)
    await adapter.aclose()


@pytest.mark.parametrize("at", [0, 1, 2, 3, 4, 5, 150, 297, 298, 299, 300])
async def test_it_goes_on_behind_any_row(tmp_path, at):
    narrow(tmp_path)
    whole, _ = await played(adapter_of(tmp_path, "day.parquet"))
    mark = Mark(whole[at - 1]["time"], sum(row["time"] == whole[at - 1]["time"] for row in whole[:at])) if at else None
    rest, _ = await played(adapter_of(tmp_path, "day.parquet", reached={} if mark is None else {"telemetry": mark}))
    assert rest == whole[at:]


async def test_events_behind_the_readings_are_due_at_once(tmp_path):
    """What was durable of one kind and not of the other: nothing waits for the hours between."""
    readings, events = recording.make(3, hours=6)
    recording.write(tmp_path / "lake", readings, events)
    end = int(readings["time"].cast(pa.int64()).to_numpy()[-1])
    adapter = adapter_of(
        tmp_path,
        "lake",
        {"temp": {"address": "furnace/temp"}},
        {"telemetry": Mark(end, 99)},
        data=["telemetry", "event"],
        speed=5000,
    )
    rows, told = await played(adapter)
    assert (len(rows), len(told)) == (0, events.num_rows)


async def test_it_keeps_to_its_speed(tmp_path):
    """Two seconds of recording at twice the speed: not before their time."""
    narrow(tmp_path, 9)
    began = time.monotonic()
    rows, _ = await played(adapter_of(tmp_path, "day.parquet", speed=2))
    assert time.monotonic() - began >= 1.0
    assert len(rows) == 9


async def test_a_table_with_a_column_per_tag(tmp_path):
    table = pa.table(
        {
            "Timestamp": pa.array([T0, T0 + 1000, T0 + 2000], pa.timestamp("us")),
            "temp": pa.array([1.5, None, 2.5]), "pump": pa.array([True, False, None]),
            "energy": pa.array([2**60 + 1, None, 2**60 + 2]), "recipe": pa.array(["a", "b", None]),
        }
    )  # fmt: skip
    pq.write_table(table, tmp_path / "wide.parquet")
    tags = {
        "temp": {"address": "temp"}, "pump": {"address": "pump"}, "energy": {"address": "energy", "type": "integer"},
        "recipe": {"address": "recipe", "type": "text"},
    }  # fmt: skip
    rows, _ = await played(adapter_of(tmp_path, "wide.parquet", tags))
    got = [(row["time"] - T0, row["tag"] - FIRST_ID, row["value"], row["value_int"], row["text"]) for row in rows]
    assert got == [
        (0, 0, 1.5, None, None), (0, 1, 1.0, None, None), (0, 2, None, 2**60 + 1, None), (0, 3, None, None, "a"),
        (1000, 1, 0.0, None, None), (1000, 3, None, None, "b"), (2000, 0, 2.5, None, None), (2000, 2, None, 2**60 + 2, None),
    ]  # fmt: skip


@pytest.mark.parametrize("zone", ["Z", "", "+00:00"])
async def test_a_csv_file(tmp_path, zone):
    text = "".join(f"2026-01-01T00:00:{n:02d}.250{zone},press/temp,{n}.5\n" for n in range(5))
    (tmp_path / "day.csv").write_text("time,tag,value\n" + text)
    rows, _ = await played(adapter_of(tmp_path, "day.csv", {"temp": {"address": "temp"}}))
    assert [(row["time"], row["value"]) for row in rows] == [(T0 + n * 1_000_000 + 250_000, n + 0.5) for n in range(5)]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
async def test_times_of_any_resolution_are_microseconds(tmp_path, unit):
    pq.write_table(
        pa.table({"time": pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * 2, pa.timestamp(unit, "UTC")), "temp": [1.0, 2.0]}),
        tmp_path / "wide.parquet",
    )
    rows, _ = await played(adapter_of(tmp_path, "wide.parquet", {"temp": {"address": "temp"}}))
    assert [(row["time"], row["value"]) for row in rows] == [(T0, 1.0), (T0, 2.0)]


@pytest.mark.parametrize("moment", ["before", "named", "sources gone"])
async def test_of_a_lake_under_compaction_each_row_is_played_once(tmp_path, moment):
    readings, events = recording.make(3, hours=1)
    recording.write(tmp_path / "lake", readings, events)
    (whole,) = (tmp_path / "lake" / "telemetry").rglob("*.parquet")
    folder, rows, half = whole.parent, readings.num_rows, readings.num_rows // 2
    whole.rename(folder / whole.name.replace(".parquet", "-m0123456789ab.parquet"))
    name = "old-gw-0001-telemetry-{:014d}-{:014d}.parquet"
    sources = [Source(0, half - 1, half, ""), Source(half, rows - 1, rows - half, "")]
    if moment != "sources gone":
        for one in sources:
            pq.write_table(readings.slice(one.first, one.rows), folder / name.format(one.first, one.last))
    merged = Merged(f"{whole.stem}-m0123456789ab.parquet", tuple(sources), rows, "", 0, 0)
    (folder / "_merged.json").write_bytes(Manifest(() if moment == "before" else (merged,)).pack())
    found, _ = await played(adapter_of(tmp_path, "lake", {"temp": {"address": "furnace/temp"}}))
    assert len(found) == readings.filter(pc.equal(readings["tag"], "acme/osaka/furnace/temp")).num_rows


async def test_merged_files_without_their_manifest_are_not_guessed_about(tmp_path):
    recording.write(tmp_path / "lake", *recording.make(3, hours=1))
    (whole,) = (tmp_path / "lake" / "telemetry").rglob("*.parquet")
    whole.rename(whole.with_name(whole.name.replace(".parquet", "-m0123456789ab.parquet")))
    with pytest.raises(ConfigError, match=r"_merged.json is missing .*genba lake compact"):
        await adapter_of(tmp_path, "lake").connect()


# What goes wrong


async def test_a_missing_tag_is_named_once_and_takes_no_other_along(tmp_path):
    narrow(tmp_path)
    adapter = adapter_of(tmp_path, "day.parquet", {**TAGS, "absentee": {"address": "press/absentee"}})
    with structlog.testing.capture_logs() as logs:
        rows, _ = await played(adapter)
        await adapter.connect()
        await adapter.aclose()
    assert len(rows) == 300
    assert [(line["event"], line["tags"]) for line in logs] == [("tags are not in the recording", ["press/absentee"])]


async def test_an_address_that_fits_two_tags_is_asked_about(tmp_path):
    pq.write_table(
        pa.table({"time": pa.array([T0] * 2, pa.timestamp("us", "UTC")), "tag": ["a/temp", "b/temp"], "value": [1.0, 2.0]}),
        tmp_path / "day.parquet",
    )
    with pytest.raises(ConfigError, match=r"fits 2 tags.*a/temp, b/temp"):
        await adapter_of(tmp_path, "day.parquet", {"temp": {"address": "temp"}}).connect()


@pytest.mark.parametrize(
    ("name", "content", "error", "says"),
    [
        ("none.parquet", None, NotConnected, "there is no recording"),
        ("bad.parquet", b"PAR1 no", ConfigError, "is no recording"),
        ("bad.csv", b"a,b\n1,2\n", ConfigError, "has no column of times"),
        ("empty.csv", b"", ConfigError, "is no recording"),
        ("text.csv", b"time,value\nyesterday,1\n", ConfigError, "has no column of times"),
    ],
)
async def test_what_is_no_recording_says_so(tmp_path, name, content, error, says):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    adapter = adapter_of(tmp_path, name)
    with pytest.raises(error, match=says):
        await adapter.connect()
    await adapter.aclose()


async def test_an_empty_directory_is_a_recording_that_is_not_there_yet(tmp_path):
    (tmp_path / "lake").mkdir()
    with pytest.raises(NotConnected, match="no Parquet files"):
        await adapter_of(tmp_path, "lake").connect()


async def test_a_recording_that_vanishes_is_lost_and_not_a_crash(tmp_path):
    readings, events = recording.make(3, hours=3)
    recording.write(tmp_path / "lake", readings, events)
    adapter = adapter_of(tmp_path, "lake", {"temp": {"address": "furnace/temp"}}, speed=100)
    await adapter.connect()
    for file in (tmp_path / "lake" / "telemetry").rglob("*.parquet"):
        file.unlink()
    with pytest.raises(NotConnected, match="cannot be read"):
        async for _ in adapter.batches():
            pass
    await adapter.aclose()


async def test_nothing_is_left_behind_and_aclose_is_legal_at_any_time(tmp_path):
    narrow(tmp_path)
    footprint = Footprint()
    adapter = adapter_of(tmp_path, "day.parquet")
    await adapter.aclose()
    await adapter.connect()
    async with aclosing(adapter.batches()) as batches:
        await anext(batches)
    await adapter.aclose()
    await adapter.aclose()
    await footprint.nothing_left()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"speed": 0}, "above 0"),
        ({"endpoint": "s3://bucket/lake"}, "on this machine"),
        ({"data": []}, "telemetry, event or both"),
        ({"tags": {"temp": {"address": "temp", "scale": 2}}}, "as it is; delete scale"),
        ({"tags": {"temp": {"address": "temp", "deadband": 2}}}, "as it is; delete deadband"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, says):
    with pytest.raises(ValidationError, match=says):
        ReplayConfig.model_validate({"kind": "replay", "endpoint": "./lake"} | options)
