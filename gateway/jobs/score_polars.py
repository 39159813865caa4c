"""Scores a plan in this process: polars reads and sorts, one group of tags after the other; what comes out waits in files."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from cloud_sinks import lake as reading
from cloud_sinks.jobs import ScoreFiles
from edge_models.replay import Replay, grouped
from schemas.errors import ConfigError
from schemas.replay import ORDER, READINGS, SCORES, WAVEFORMS, Log

from .score_plan import Plan

if TYPE_CHECKING:
    import polars as pl


_ROWS_OF_WAVEFORMS = 2_000  # a waveform may have as many bytes as thousands of numbers
_BATCH = 65_536


class Groups:
    """The telemetry of a plan, cut so that about `rows` readings are held at a time, twice as many of a tag that cannot be divided."""

    def __init__(self, plan: Plan, rows: int) -> None:
        import polars as pl

        self._pl, self._plan = pl, plan
        self._rows = min(rows, _ROWS_OF_WAVEFORMS) if plan.waveforms else rows

    def groups(self, log: Log) -> Iterator[tuple[Replay, Iterator[pa.RecordBatch]]]:
        """For each group of tags of a log: the model over them, and their READINGS (or WAVEFORMS) in order."""
        pl, plan = self._pl, self._plan
        tags = plan.needed()
        frame = self._frame(log, [tag.path for tag in tags], everything=len(tags) == len(plan.replay.tags))
        held = (
            frame.group_by("tag").agg(pl.len(), pl.col("seq").min().alias("first"), pl.col("seq").max().alias("last")).collect()
        )
        if held.height == 0:
            return
        number = {tag.path: tag.id for tag in plan.replay.tags}
        unknown = [path for path in held["tag"] if path not in number]
        if unknown:
            raise ConfigError(f"{unknown[0]!r} is not in the lake's data dictionary", hint="copy tags/ along with the data")
        count = {number[path]: rows for path, rows in held.select("tag", "len").iter_rows()}
        groups = grouped([tag for tag in tags if tag.id in count], plan.scope, lambda tag: count[tag.id], self._rows)
        for group in range(max(groups.values()) + 1):
            ids = sorted(tag for tag, at in groups.items() if at == group)
            paths = [plan.replay.tags[at].path for at in ids]
            mine = held.filter(pl.col("tag").is_in(paths))
            replay = replace(plan.replay, groups=[0 if groups.get(at) == group else -1 for at in range(len(plan.replay.tags))])
            first, last = int(mine["first"].min()), int(mine["last"].max())  # type: ignore[arg-type]
            parts_ = max(1, -(-sum(count[at] for at in ids) // (2 * self._rows)))
            cuts = [first + (last + 1 - first) * at // parts_ for at in range(parts_ + 1)]
            windows = itertools.pairwise(cuts)
            yield replay, (batch for low, high in windows for batch in self._window(log, paths, ids, low, high))

    def _window(self, log: Log, paths: list[str], ids: list[int], low: int, high: int) -> Iterator[pa.RecordBatch]:
        """READINGS (or WAVEFORMS) of some tags with low <= seq < high, sorted by seq."""
        pl = self._pl
        everything = len(ids) == len(self._plan.replay.tags)
        text = pl.col("text") if self._plan.request.config.active_when is not None else pl.lit(None, pl.String)
        samples = pl.col("samples") if self._plan.waveforms else pl.lit(None, pl.List(pl.Float32))
        frame = (
            self._frame(log, paths, everything=everything)
            .filter((pl.col("seq") >= low) & (pl.col("seq") < high))
            .select(
                "seq", pl.col("time").dt.epoch("us"), "lag", "value", "value_int", "quality",
                tag=pl.col("tag").replace_strict(paths, ids, return_dtype=pl.Int32),
                text=text, samples=samples, origin=pl.col("origin").replace_strict(["live", "backfill", "replay", "downsampled"], [0, 1, 2, 3], default=0, return_dtype=pl.Int32),
                log=pl.lit(self._plan.logs.index(log), pl.Int32), group=pl.lit(0, pl.Int32),
            )
            .sort("seq")
            .collect()
        )  # fmt: skip
        schema = WAVEFORMS if self._plan.waveforms else READINGS
        yield from frame.select(schema.names).to_arrow().cast(schema).to_batches(min(self._rows, _BATCH))

    def _frame(self, log: Log, paths: list[str], *, everything: bool) -> pl.LazyFrame:
        pl, request = self._pl, self._plan.request
        frame = reading.scan(
            request.lake.location, start=request.start, end=request.end, sites=log.site, **request.lake.access
        ).filter((pl.col("gateway") == log.gateway) & (pl.col("epoch") == log.epoch) & (pl.col("seq") <= self._plan.until[log]))
        if everything:
            return frame
        tag = pl.col("tag")
        return frame.filter(tag.is_in(paths) & tag.is_between(pl.lit(min(paths)), pl.lit(max(paths))))


class InFiles(Groups):
    """See `lake_score.Scores` and `Groups`."""

    def __init__(self, plan: Plan, scratch: Path, rows: int) -> None:
        super().__init__(plan, rows)
        self._scratch = scratch
        number = 0
        for log in plan.logs:
            for replay, batches in self.groups(log):
                with pq.ParquetWriter(scratch / f"{number:06d}.parquet", SCORES, compression="zstd") as writer:
                    for table in _large(replay(batches)):
                        writer.write_table(table)
                number += 1

    def _found(self) -> pl.LazyFrame:
        found: pl.LazyFrame = self._pl.scan_parquet(
            sorted(self._scratch.glob("*.parquet")), schema=self._pl.DataFrame(SCORES.empty_table()).schema
        )
        return found

    def counts(self) -> Iterator[tuple[int, int, int, int, int]]:
        pl = self._pl
        if not any(self._scratch.glob("*.parquet")):
            return
        abnormal = (pl.col("score") >= pl.col("limit")).sum()
        found = (
            self._found()
            .group_by("log", "slice")
            .agg(pl.len(), pl.col("score").count().alias("scored"), abnormal.alias("abnormal"))
        )
        yield from found.sort("log", "slice").collect().iter_rows()

    def ordered(self, offsets: Mapping[tuple[int, int], int]) -> Iterator[pa.RecordBatch]:
        pl = self._pl
        for log, slice_ in sorted(offsets):
            frame = self._found().filter((pl.col("log") == log) & (pl.col("slice") == slice_)).collect()
            frame = frame.sort(ORDER, nulls_last=False, maintain_order=True)
            yield from frame.to_arrow().cast(SCORES).to_batches(min(self._rows, _BATCH))

    def written(self, write: ScoreFiles, offsets: Mapping[tuple[int, int], int]) -> Iterator[str]:
        for made in write(self.ordered(offsets)):
            yield from made.column("path").to_pylist()

    def close(self) -> None:
        """The files go with their folder."""


def _large(batches: Iterable[pa.RecordBatch], rows: int = 131_072) -> Iterator[pa.Table]:
    """The same rows in larger pieces: a model that speaks seldom makes thousands of small ones."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        held.append(batch)
        count += batch.num_rows
        if count >= rows:
            yield pa.Table.from_batches(held)
            held, count = [], 0
    if held:
        yield pa.Table.from_batches(held)
