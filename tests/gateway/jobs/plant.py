"""A small plant's lake for the jobs' tests, written by the sink's own code, and what its gateways' models said at the time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from cloud_sinks.parquet.dictionary import TagTable
from cloud_sinks.parquet.publish import publish
from cloud_sinks.parquet.rows import Names, parts
from cloud_sinks.parquet.store import LocalStore
from edge_models.base import ModelConfig
from edge_models.runtime import ModelSet
from gateway import catalogue
from schemas import quality as q
from schemas.kinds import make_batch, with_seq
from schemas.lake import COLUMNS
from schemas.span import SpoolSpan
from schemas.tags import Limits, Tag
from tests.conformance.sink import T0, Tags

DAY_US = 86_400_000_000
START_US = T0 + 59 * DAY_US - 600_000_000  # ten minutes before midnight: spans cross a date
POLL_US = 1_000_000
ASSETS = ("press-07", "press-08", "fan-1")
NAMES = ("motor_temp", "vibration", "count", "mode", "valve")
MODES = {0: "stop", 1: "run"}


class Plant:
    """A gateway: its tags in the order of its registry (not that of the alphabet), and the batches that it put into its spool."""

    def __init__(self, site: str, gateway: str, *, polls: int = 1500, seed: int = 0, epoch: int = 1) -> None:
        self.site, self.gateway, self.epoch = site, gateway, epoch
        rng = np.random.default_rng(seed)
        paths = [f"acme/{site}/{asset}/{name}" for name in NAMES for asset in ASSETS]
        self.tags = Tags(*paths, period_us=POLL_US)
        self.tags._tags = [_described(tag) for tag in self.tags]
        self.batches: list[pa.RecordBatch] = []
        self.seen: list[pa.RecordBatch] = []  # with seq, as the models get them
        n, first = len(paths), 0
        for poll in range(polls):
            value = rng.normal(50, 1, n) + (np.arange(n) % 3 == 0) * (8.0 if 1100 < poll < 1300 else 0.0)
            if 700 < poll < 760:
                value[0] = 48.25
            valve = slice(4 * len(ASSETS), n)
            value[valve] = np.round(value[valve])
            mode = float(poll % 400 < 300)
            quality = np.where(rng.random(n) < 0.01, q.BAD_SENSOR_FAILURE, 0).astype(np.uint32)
            who = np.flatnonzero(rng.random(n) < (0.97 if not 500 < poll < 560 else 0.6)).astype(np.int32)
            time = np.full(len(who), START_US + poll * POLL_US)
            late = rng.random(len(who)) < 0.01
            time[late] -= 5 * POLL_US
            whole = who // len(ASSETS) == 2
            is_mode = who // len(ASSETS) == 3
            numbers = np.where(is_mode, mode, value[who])
            good = ~q.is_bad(quality[who])
            batch = make_batch(
                "telemetry", len(who), time=time, tag=who, lag=rng.integers(1, 40, len(who)).astype(np.int32), origin=late.astype(np.uint8),
                value=pa.array(numbers, mask=whole | ~good), value_int=pa.array(numbers.astype(np.int64), mask=~whole | ~good),
                text=pa.array([MODES[int(mode)] if one else None for one in is_mode], pa.string()), quality=quality[who],
            )  # fmt: skip
            self.batches.append(batch)
            self.seen.append(with_seq(batch, first))
            first += len(who)
        self.rows = first

    def write(self, root: Path, span_rows: int = 4_000) -> None:
        """Its telemetry and its data dictionary, as the sink writes them."""
        store = LocalStore(root, self.gateway)
        store.open()
        table = pa.Table.from_batches(self.seen)
        for first in range(0, self.rows, span_rows):
            rows = table.slice(first, span_rows).combine_chunks().to_batches()
            span = SpoolSpan(self.gateway, self.epoch, "telemetry", first, first + sum(batch.num_rows for batch in rows) - 1)
            for part in parts(rows, span, Names(self.tags)):
                publish(store, part, span, enterprise="acme", site=self.site)
        TagTable(self.tags, enterprise="acme", site=self.site, gateway=self.gateway, sink="lake").write(store)

    def scores(self, config: ModelConfig) -> pl.DataFrame:
        """What its model set said live, poll by poll, as rows of the lake without their row number."""
        tags: Sequence[Tag] = list(self.tags)
        if config.kind != "limits":
            tags = [replace(tag, limits=None) for tag in tags]
        models = ModelSet.build({config.kind: config}, tags, lambda kind: catalogue.plugin("models", kind))
        made = [scores for batch in self.seen for scores in models.update(batch, 0).scores]
        paths = pa.array([tag.path for tag in tags])
        found = pl.from_arrow(pa.Table.from_batches(made))
        assert isinstance(found, pl.DataFrame)
        named = found.with_columns(
            tag=pl.Series(paths.take(pa.Table.from_batches(made)["tag"].combine_chunks()).to_pylist()),
            gateway=pl.lit(self.gateway), epoch=pl.lit(self.epoch, pl.Int64),
        )  # fmt: skip
        return bits(named)


class Fans(Plant):
    """A gateway with waveforms and the shaft speed of each fan, a pair a minute."""

    def __init__(self, site: str = "osaka", gateway: str = "gw-3", *, polls: int = 120) -> None:
        self.site, self.gateway, self.epoch = site, gateway, 1
        rng = np.random.default_rng(5)
        assets = [f"acme/{site}/fan-{n}" for n in range(2)]
        self.tags = Tags(*(f"{asset}/{name}" for asset in assets for name in ("wave", "speed")), period_us=POLL_US)
        self.tags._tags = [
            replace(tag, value_type="samples", unit="m/s2") if tag.name == "wave" else replace(tag, unit="{rev}/min")
            for tag in self.tags
        ]
        self.batches, self.seen = [], []
        n = len(self.tags._tags)
        for poll in range(polls):
            waves = [rng.normal(0, 1 + 3 * (poll > 100), 600).astype(np.float32) if tag % 2 == 0 else None for tag in range(n)]
            if poll == 40:
                waves[0] = np.zeros(600, np.float32)
            speed = pa.array([None if tag % 2 == 0 else 1480.0 + poll % 7 for tag in range(n)], pa.float64())
            batch = make_batch(
                "telemetry", n, time=START_US + poll * 60 * POLL_US, tag=np.arange(n, dtype=np.int32), lag=0, origin=0,
                value=speed, samples=pa.array(waves, pa.list_(pa.float32())), quality=np.zeros(n, np.uint32),
            )  # fmt: skip
            self.batches.append(batch)
            self.seen.append(with_seq(batch, poll * n))
        self.rows = polls * n


def _described(tag: Tag) -> Tag:
    if tag.name == "motor_temp":
        return replace(tag, limits=Limits(high=53.0))
    if tag.name == "mode":
        return replace(tag, enum=MODES, unit="1")
    return replace(tag, value_type="integer", unit="1") if tag.name == "count" else tag


def bits(scores: pl.DataFrame) -> pl.DataFrame:
    """Score rows in one order, without their row number, floats as their bits: equal means equal to the last bit."""
    names = [column.name for column in COLUMNS["score"] if column.name != "row"]
    floats = [pl.col(name).reinterpret(signed=True) for name in names if scores.schema[name] == pl.Float64]
    return scores.select(names).with_columns(floats).sort("gateway", "seq", "alarm", "time", "tag")
