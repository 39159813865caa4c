"""24 hours of a plant, the same for the same seed: six machines, eight tags each, every type of value, bad quality, gaps, events.

Written as a lake, so that the adapter `replay` plays it: readings and events, noon to noon, a date border in the middle.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from schemas import quality as q
from schemas.lake import LakeFile
from schemas.span import SpoolSpan

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
ASSETS = ("press-1", "press-2", "furnace", "mixer", "line 3", "ポンプ")
LIMIT = 90.0
_HOUR_US = 3_600_000_000


@dataclass(frozen=True)
class TagSpec:
    """A tag of every machine: its type in the YAML file and the seconds between two readings."""

    name: str
    type: str
    every_s: int


TAGS = (
    TagSpec("temp", "number", 15),  # limit 90: waves go beyond it
    TagSpec("pressure", "number", 15),
    TagSpec("speed", "number", 20),
    TagSpec("current", "number", 20),
    TagSpec("energy", "integer", 30),  # beyond 2**53
    TagSpec("running", "number", 30),  # a boolean
    TagSpec("recipe", "text", 120),
    TagSpec("vibration", "samples", 900),
)
_TELEMETRY = pa.schema(
    [
        ("time", pa.timestamp("us", tz="UTC")), ("tag", pa.string()), ("value", pa.float64()), ("value_int", pa.int64()),
        ("text", pa.string()), ("samples", pa.list_(pa.float32())), ("quality", pa.int64()), ("lag", pa.int32()), ("seq", pa.int64()),
    ]
)  # fmt: skip
_EVENT = pa.schema(
    [("time", pa.timestamp("us", tz="UTC"))]
    + [(name, pa.string()) for name in ("asset", "source", "event", "severity", "message", "attributes")]
    + [("seq", pa.int64())]
)


def path_of(asset: str, tag: str) -> str:
    """The tag's path, in the recording and in the lake."""
    return f"acme/osaka/{asset}/{tag}"


def make(seed: int, hours: float = 24.0) -> tuple[pa.Table, pa.Table]:
    """Readings and events, sorted by time, then tag."""
    rng = np.random.default_rng(seed)
    begin = round(START.timestamp() * 1e6)
    parts = [
        _tag(rng, path_of(asset, spec.name), spec, begin, hours, away)
        for asset in ASSETS
        for away in [rng.uniform(0.05, 0.9, 2) * hours * _HOUR_US + begin]
        for spec in TAGS
    ]
    readings = pa.concat_tables(parts)
    order = np.lexsort([readings["tag"].combine_chunks().dictionary_encode().indices.to_numpy(), _us(readings)])
    readings = readings.take(pa.array(order))
    numbers = pa.array(np.arange(readings.num_rows), pa.int64())
    readings = readings.set_column(_TELEMETRY.get_field_index("seq"), "seq", numbers)
    return readings, _events(rng, begin, hours)


def _tag(rng: np.random.Generator, path: str, spec: TagSpec, begin: int, hours: float, away: npt.NDArray[np.float64]) -> pa.Table:
    count = int(hours * 3600 / spec.every_s)
    jitter = rng.integers(0, 400_000, count)
    time = begin + np.arange(count) * spec.every_s * 1_000_000 + jitter
    keep = ~((time >= away[:, None]) & (time < away[:, None] + _HOUR_US // 4)).any(axis=0)  # the machine was off, twice
    time = time[keep]
    n = len(time)
    quality = np.zeros(n, np.int64)
    for at in rng.integers(0, max(1, n), 4):  # a broken wire for a while
        quality[at : at + 25] = q.BAD_SENSOR_FAILURE
    quality[rng.random(n) < 0.002] = q.UNCERTAIN_LAST_USABLE_VALUE
    bad = quality >= q.BAD
    nothing = pa.nulls(n)
    columns: dict[str, pa.Array] = {"value": nothing, "value_int": nothing, "text": nothing, "samples": nothing}
    hour = (time - begin) / _HOUR_US
    if spec.name == "temp":
        values = 70 + 25 * np.sin(2 * np.pi * (hour * 1.5 + rng.random())) + rng.normal(0, 0.2, n)
        columns["value"] = pa.array(values, mask=bad)
    elif spec.name == "running":
        columns["value"] = pa.array((rng.random(n) < 0.9).astype(float), mask=bad)
    elif spec.type == "number":
        columns["value"] = pa.array(np.cumsum(rng.normal(0, 1, n)) / 7, mask=bad)
    elif spec.type == "integer":
        columns["value_int"] = pa.array(2**60 + np.cumsum(rng.integers(0, 1000, n)), pa.int64(), mask=bad)
    elif spec.type == "text":
        texts = [f'レシピ-{k} "{k}"' for k in rng.integers(0, 50, n)]
        columns["text"] = pa.array([None if b else t for t, b in zip(texts, bad, strict=True)], pa.string())
    else:
        shapes = [None if b else rng.normal(0, 1, 64).astype(np.float32) for b in bad]
        columns["samples"] = pa.array(shapes, pa.list_(pa.float32()))
    arrays = {
        "time": pa.array(time), "tag": pa.array([path] * n, pa.string()), **columns, "quality": pa.array(quality),
        "lag": pa.array(rng.integers(0, 300, n), pa.int32()), "seq": pa.array(np.zeros(n, np.int64)),
    }  # fmt: skip
    return pa.table([arrays[f.name].cast(f.type) for f in _TELEMETRY], schema=_TELEMETRY)


def _events(rng: np.random.Generator, begin: int, hours: float) -> pa.Table:
    n = int(30 * hours)
    time = begin + np.sort(rng.integers(0, round(hours * _HOUR_US), n))
    time[1::9] = time[0:-1:9][: len(time[1::9])]  # some at the same microsecond
    rows = {
        "time": pa.array(time), "seq": pa.array(np.arange(n)),
        "asset": pa.array([f"acme/osaka/{ASSETS[k]}" for k in rng.integers(0, len(ASSETS), n)]),
        "source": pa.array(["plc"] * n), "event": pa.array([f"step_{k}" for k in rng.integers(0, 20, n)]),
        "severity": pa.array(["info" if k else "warning" for k in rng.integers(0, 9, n)]),
        "message": pa.array([f"step {k} of the night" for k in range(n)]),
        "attributes": pa.array([json.dumps({"number": k}) for k in range(n)]),
    }  # fmt: skip
    return pa.table([rows[f.name].cast(f.type) for f in _EVENT], schema=_EVENT)


def write(directory: Path, readings: pa.Table, events: pa.Table) -> None:
    """As a lake: one file a date."""
    for kind, table in (("telemetry", readings), ("event", events)):
        time = _us(table)
        for day in _days(time):
            low = round(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1e6)
            mine = np.flatnonzero((time >= low) & (time < low + 24 * _HOUR_US))
            span = SpoolSpan("old-gw", 1, kind, int(mine[0]), int(mine[-1]))  # type: ignore[arg-type]
            path = directory / LakeFile("osaka", day, span).path()
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table.take(pa.array(mine)), path, use_dictionary=["tag"] if kind == "telemetry" else False)


def _us(table: pa.Table) -> npt.NDArray[np.int64]:
    found: npt.NDArray[np.int64] = table["time"].cast(pa.int64()).to_numpy()
    return found


def _days(time: npt.NDArray[np.int64]) -> list[date]:
    first, last = (datetime.fromtimestamp(int(at) // 1_000_000, UTC).date() for at in (time.min(), time.max()))
    return [first + timedelta(days=k) for k in range((last - first).days + 1)]
