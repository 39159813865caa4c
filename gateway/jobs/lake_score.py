"""Scores a lake with one model: the telemetry of every gateway replayed in `seq` order, with polars or, past one machine, with Spark.

Both run `edge_models.replay`, which is the gateway's own model set, so the scores are the same bit for bit. What a run covers is
written down before its first file, so that a run that was killed is finished by giving the command again.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from cloud_sinks import lake as reading
from cloud_sinks.jobs import TALLY, Lake, ScoreFiles, Wanted, numbered, slices, tallied
from edge_models.gate import parse
from edge_models.replay import Replay, grouped, needed, scope_of, without_limits
from edge_models.runtime import watched
from gateway import catalogue
from gateway.suggest import listed
from schemas.errors import ConfigError
from schemas.lake import LakeFile, tags_path
from schemas.replay import ORDER, READINGS, SCORES, Log
from schemas.tags import Limits, Tag

if TYPE_CHECKING:
    import polars as pl
    from pyspark.sql import SparkSession

    from edge_models.base import ModelConfig, Scope

RECORD: Final = "score.json"
"""Says, in the location of the results, what they are the results of."""
ROWS: Final = 4_000_000
"""Readings that are held in memory at a time, polars only."""
_WRITTEN: Final = pa.schema([("path", pa.string()), ("rows", pa.int64())])


@dataclass(frozen=True)
class Request:
    """What is to be scored. Times are aware; `start` is where the model begins to see anything."""

    lake: Lake
    config: ModelConfig
    sites: Sequence[str] = ()
    start: datetime | None = None
    end: datetime | None = None


@dataclass
class Summary:
    """What came of it. `files` are the paths of a lake's files that are now there, sorted."""

    tags: int = 0
    logs: int = 0
    rows: int = 0
    scored: int = 0
    abnormal: int = 0
    files: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Plan:
    request: Request
    replay: Replay
    scope: Scope
    logs: Sequence[Log]
    until: Mapping[Log, int]
    files: Sequence[LakeFile]

    def wanted(self, groups: Sequence[int]) -> Wanted:
        request = self.request
        return Wanted(
            request.lake,
            [tag.path for tag in self.replay.tags],
            groups,
            {log: (number, self.until[log]) for number, log in enumerate(self.logs)},
            _us(request.start),
            _us(request.end),
            request.config.active_when is not None,
        )


def score(
    request: Request, output: str, *, spark: SparkSession | None = None, result: Lake | None = None, rows: int = ROWS
) -> Summary:
    """Score the lake into `output`: a Parquet file (polars only), or, given `result`, a lake of its own with kind `score`.

    Done again, also after a crash, it finds or completes the same files. Raises ConfigError and what the lake's places raise.
    """
    if result is not None and result.location.rstrip("/") == request.lake.location.rstrip("/"):
        raise ConfigError(
            "the scores of a job cannot lie among a gateway's own", hint="give --output a location of its own, ./lake-scores"
        )
    plan = _plan(request)
    if result is not None:
        plan = _recorded(plan, result)
    with tempfile.TemporaryDirectory(prefix="genba-score-") as scratch:
        scores: _Scores = _InSpark(spark, plan) if spark is not None else _InFiles(plan, Path(scratch), rows)
        summary = Summary(tags=len(watched(request.config, plan.replay.tags)), logs=len(plan.logs))
        offsets: dict[tuple[int, int], int] = {}
        before: tuple[int, int] | None = None  # log, rows so far
        for log, slice_, count, scored, abnormal in scores.counts():
            first = before[1] if before is not None and before[0] == log else 0
            offsets[log, slice_] = first
            before = log, first + count
            summary.rows, summary.scored, summary.abnormal = (
                summary.rows + count, summary.scored + scored, summary.abnormal + abnormal,
            )  # fmt: skip
        if result is None:
            _one_file(Path(output), plan, scores.ordered(offsets), offsets)
        else:
            summary.files = sorted(scores.written(ScoreFiles(result, plan.logs, plan.replay.tags, offsets), offsets))
    return summary


def tags_of(lake: Lake, sites: Sequence[str] = ()) -> list[Tag]:
    """The tags of a lake as they were last described, by path; `id` is the position. What is not in the dictionary is left out."""
    frame = reading.tags(lake.location, sites=list(sites) or None, **lake.access)
    newest = frame.sort("tag", "valid_from", nulls_last=False).group_by("tag", maintain_order=True).last()
    found: list[Tag] = []
    for row in newest.iter_rows(named=True):
        levels = {name: row[name] for name in ("low_low", "low", "high", "high_high")}
        found.append(
            Tag(
                path=row["tag"],
                asset=row["asset"] or "",
                name=row["name"] or "",
                adapter=row["adapter"] or "",
                device=row["device"] or "",
                address=row["address"] or "",
                value_type=row["value_type"] or "number",
                unit=row["unit"] or "1",
                label=row["label"] or "",
                description=row["description"] or "",
                period_us=round((row["period"] or 1.0) * 1e6),
                limits=Limits(**levels) if any(one is not None for one in levels.values()) else None,
                id=len(found),
            )
        )
    return found


def _plan(request: Request) -> _Plan:
    config, lake = request.config, request.lake
    tags = tags_of(lake, request.sites)
    files = lake.files("telemetry", request.sites or None, request.start, request.end)
    if not files:
        raise ConfigError(f"{lake.location} holds no telemetry of that time", hint="look at `genba lake tags`")
    described = set(lake.described())
    for file in files:
        if (file.site, file.span.gateway) not in described:
            raise ConfigError(
                f"{lake.location} has no data dictionary of {file.span.gateway} ({tags_path(file.site, file.span.gateway)})",
                hint="the gateway writes it; it must be copied along with the data",
            )
    if config.kind != "limits":
        tags = without_limits(tags)
    plugin = catalogue.plugin("models", config.kind)
    if not watched(config, tags):
        raise ConfigError(
            f"no tag of the lake fits {' '.join(config.tags)}", hint=f"it has {listed([tag.path for tag in tags], 8)}"
        )
    if config.active_when is not None:
        tags = _with_enums(tags, config, lake)
    until: dict[Log, int] = {}
    for file in files:
        log = Log(file.site, file.span.gateway, file.span.epoch)
        until[log] = max(until.get(log, -1), file.span.last)
    replay = Replay(config.kind, config, plugin, tags, [0] * len(tags))
    replay.check()
    return _Plan(request, replay, scope_of(config, plugin, config.kind), sorted(until), until, files)


def _with_enums(tags: Sequence[Tag], config: ModelConfig, lake: Lake) -> list[Tag]:
    """A condition may name the value of an enum; the lake holds number and name side by side in the rows."""
    import polars as pl

    condition = parse(config.active_when or "")
    named = {one.tag for one in condition.comparisons if isinstance(one.literal, str)}
    paths = [tag.path for tag in tags if tag.name in named and tag.value_type != "text"]
    if not paths:
        return list(tags)
    pairs = (
        reading.scan(lake.location, **lake.access)
        .filter(pl.col("tag").is_in(paths) & pl.col("text").is_not_null() & pl.col("value").is_not_null())
        .select("tag", "value", "text")
        .unique()
        .collect()
    )
    enums: dict[str, dict[int, str]] = {}
    for path, value, text in pairs.sort("tag", "value", "text").iter_rows():
        enums.setdefault(path, {})[int(value)] = text
    return [replace(tag, enum=enums[tag.path]) if tag.path in enums else tag for tag in tags]


def _recorded(plan: _Plan, result: Lake) -> _Plan:
    """Write down what is scored, up to which row of each gateway; or take it over from the run that is repeated."""
    request = plan.request
    mine: dict[str, Any] = {
        "model": plan.replay.name,
        "parameters": json.loads(request.config.model_dump_json()),
        "lake": request.lake.location,
        "sites": sorted(request.sites),
        "start": request.start.isoformat() if request.start else None,
        "end": request.end.isoformat() if request.end else None,
    }
    until: list[tuple[str, str, int, int]] = [(*astuple(log), last) for log, last in sorted(plan.until.items())]
    with result.store() as store:
        scratch = store.scratch(RECORD)
        scratch.write_text(json.dumps({**mine, "until": until}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        if not store.publish(scratch, RECORD):
            with store.reader(RECORD) as file:
                there = json.loads(file.read())
            until = there.pop("until")
            other = [key for key in mine if mine[key] != there.get(key)]
            if other:
                raise ConfigError(
                    f"{result.location} holds the scores of another run: {other[0]} was {there.get(other[0])!r}",
                    hint="name another --output",
                )
        for site, gateway in sorted({(log.site, log.gateway) for log in plan.logs}):
            _copy_dictionary(request.lake, store, tags_path(site, gateway))
    covered = {Log(site, gateway, epoch): last for site, gateway, epoch, last in until}
    files = [
        file for file in plan.files if file.span.first <= covered.get(Log(file.site, file.span.gateway, file.span.epoch), -1)
    ]
    return replace(plan, until=covered, logs=sorted(covered), files=files)


def _copy_dictionary(lake: Lake, store: Any, path: str) -> None:
    """The data dictionary lies beside the results too, so that they are a lake of their own."""
    scratch = store.scratch("tags")
    try:
        with lake.opened(path) as source:
            scratch.write_bytes(Path(source).read_bytes() if isinstance(source, str) else source.read())
    except FileNotFoundError:
        return
    store.replace(scratch, path)


class _Scores:
    """The score rows of a plan, wherever they are."""

    def counts(self) -> Iterator[tuple[int, int, int, int, int]]:
        """(log, slice, rows, scored, abnormal), in order."""
        raise NotImplementedError

    def ordered(self, offsets: Mapping[tuple[int, int], int]) -> Iterator[pa.RecordBatch]:
        """SCORES sorted by (log, slice, ORDER)."""
        raise NotImplementedError

    def written(self, write: ScoreFiles, offsets: Mapping[tuple[int, int], int]) -> Iterator[str]:
        """Paths of the files that `write` made of them."""
        raise NotImplementedError


class _InFiles(_Scores):
    """polars: one group of tags after the other; what comes out waits in files of this machine."""

    def __init__(self, plan: _Plan, scratch: Path, rows: int) -> None:
        import polars as pl

        self._pl, self._plan, self._scratch, self._rows = pl, plan, scratch, rows
        number = 0
        for log in plan.logs:
            for batches in self._groups(log):
                with pq.ParquetWriter(scratch / f"{number:06d}.parquet", SCORES, compression="zstd") as writer:
                    for scores in batches:
                        writer.write_batch(scores)
                number += 1

    def _groups(self, log: Log) -> Iterator[Iterator[pa.RecordBatch]]:
        pl, plan = self._pl, self._plan
        tags = needed(plan.request.config, plan.scope, plan.replay.tags)
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
            replay = replace(plan.replay, groups=[0 if at in set(ids) else -1 for at in range(len(plan.replay.tags))])
            first, last = int(mine["first"].min()), int(mine["last"].max())  # type: ignore[arg-type]
            parts_ = max(1, -(-sum(count[at] for at in ids) // (2 * self._rows)))
            cuts = [first + (last + 1 - first) * at // parts_ for at in range(parts_ + 1)]
            windows = itertools.pairwise(cuts)
            yield replay(batch for low, high in windows for batch in self._window(log, paths, ids, low, high))

    def _window(self, log: Log, paths: list[str], ids: list[int], low: int, high: int) -> Iterator[pa.RecordBatch]:
        """READINGS of some tags with low <= seq < high, sorted by seq."""
        pl = self._pl
        everything = len(ids) == len(self._plan.replay.tags)
        text = pl.col("text") if self._plan.request.config.active_when is not None else pl.lit(None, pl.String)
        frame = (
            self._frame(log, paths, everything=everything)
            .filter((pl.col("seq") >= low) & (pl.col("seq") < high))
            .select(
                "seq", pl.col("time").dt.epoch("us"), "lag", "value", "value_int", "quality",
                tag=pl.col("tag").replace_strict(paths, ids, return_dtype=pl.Int32),
                text=text, origin=pl.col("origin").replace_strict(["live", "backfill", "replay", "downsampled"], [0, 1, 2, 3], default=0, return_dtype=pl.Int32),
                log=pl.lit(self._plan.logs.index(log), pl.Int32), group=pl.lit(0, pl.Int32),
            )
            .sort("seq")
            .collect()
        )  # fmt: skip
        yield from frame.select(READINGS.names).to_arrow().cast(READINGS).to_batches(65_536)

    def _frame(self, log: Log, paths: list[str], *, everything: bool) -> pl.LazyFrame:
        pl, request = self._pl, self._plan.request
        frame = reading.scan(
            request.lake.location, start=request.start, end=request.end, sites=log.site, **request.lake.access
        ).filter((pl.col("gateway") == log.gateway) & (pl.col("epoch") == log.epoch) & (pl.col("seq") <= self._plan.until[log]))
        if everything:
            return frame
        tag = pl.col("tag")
        return frame.filter(tag.is_in(paths) & tag.is_between(pl.lit(min(paths)), pl.lit(max(paths))))

    def _found(self) -> pl.LazyFrame:
        return self._pl.scan_parquet(
            sorted(self._scratch.glob("*.parquet")), schema=self._pl.DataFrame(SCORES.empty_table()).schema
        )

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
            yield from frame.to_arrow().cast(SCORES).to_batches(65_536)

    def written(self, write: ScoreFiles, offsets: Mapping[tuple[int, int], int]) -> Iterator[str]:
        for made in write(self.ordered(offsets)):
            yield from made.column("path").to_pylist()


class _InSpark(_Scores):
    """Spark: files are read where there is room, their rows are sent to the group of their tag and sorted there, on disk if need be."""

    def __init__(self, spark: SparkSession, plan: _Plan) -> None:
        from pyspark import StorageLevel

        from . import spark as sparks

        self._sparks = sparks
        cores = spark.sparkContext.defaultParallelism
        tags = needed(plan.request.config, plan.scope, plan.replay.tags)
        groups = grouped(tags, plan.scope, lambda _: 1, -(-len(tags) // (3 * cores)))
        numbers = [groups.get(at, -1) for at in range(len(plan.replay.tags))]
        partitions = min((max(numbers) + 1) * len(plan.logs), 3 * cores)
        wanted, replay = plan.wanted(numbers), replace(plan.replay, groups=numbers)
        rows = sparks.each(spark, wanted.read, plan.files, READINGS)
        rows = rows.repartition(partitions, "log", "group").sortWithinPartitions("log", "group", "seq")
        self._partitions = partitions
        # Kept on the executors' disks, so that what is counted and what is written is worked out once.
        self._frame = sparks.mapped(rows, replay, SCORES).persist(StorageLevel.DISK_ONLY)

    def counts(self) -> Iterator[tuple[int, int, int, int, int]]:
        # Counted where they are: grouping in Spark would send them around once more.
        with self._sparks.explained():
            found = self._sparks.mapped(self._frame, tallied, TALLY).toArrow()
        total: dict[tuple[int, int], list[int]] = {}
        for one in found.to_pylist():
            held = total.setdefault((one["log"], one["slice"]), [0, 0, 0])
            for at, name in enumerate(("rows", "scored", "abnormal")):
                held[at] += one[name]
        for (log, slice_), (rows, scored, abnormal) in sorted(total.items()):
            yield log, slice_, rows, scored, abnormal

    def written(self, write: ScoreFiles, offsets: Mapping[tuple[int, int], int]) -> Iterator[str]:
        if not offsets:
            return
        frame = self._frame.repartition(min(len(offsets), 3 * self._partitions), "log", "slice")
        frame = frame.sortWithinPartitions("log", "slice", *ORDER)
        with self._sparks.explained():
            made = self._sparks.mapped(frame, write, _WRITTEN).toArrow()
        self._frame.unpersist()
        yield from made.column("path").to_pylist()


def _one_file(path: Path, plan: _Plan, scores: Iterable[pa.RecordBatch], offsets: Mapping[tuple[int, int], int]) -> None:
    """All scores in one Parquet file, in the columns of the lake."""
    from cloud_sinks.parquet.columns import lake_schema

    metadata = {"genba.kind": "score", "genba.model": plan.replay.name, "genba.parameters": plan.request.config.model_dump_json()}
    schema = lake_schema("score").with_metadata(metadata)
    paths = pa.array([tag.path for tag in plan.replay.tags], pa.string())
    scratch = path.with_name(f".tmp-{path.name}")
    try:
        with pq.ParquetWriter(scratch, schema, compression="zstd") as writer:
            for (log, slice_), table in slices(scores):
                key = plan.logs[log]
                for batch in numbered(table, offsets[log, slice_]):
                    n = batch.num_rows
                    named: dict[str, Any] = {name: batch.column(name) for name in batch.schema.names}
                    named["tag"] = paths.take(batch.column("tag"))
                    named["gateway"], named["epoch"] = pa.repeat(key.gateway, n), pa.repeat(pa.scalar(key.epoch, pa.int64()), n)
                    writer.write_batch(pa.RecordBatch.from_arrays([named[name] for name in schema.names], schema=schema))
        scratch.replace(path)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        scratch.unlink(missing_ok=True)


def _us(moment: datetime | None) -> int | None:
    from datetime import UTC, timedelta

    return None if moment is None else (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
