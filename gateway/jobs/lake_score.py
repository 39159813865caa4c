"""Scores a lake with one model: the telemetry of every gateway replayed in `seq` order, with polars or, past one machine, with Spark.

Both run `edge_models.replay`, which is the gateway's own model set, so the scores are the same bit for bit. What a run covers is
written down before its first file, so that a run that was killed is finished by giving the command again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from cloud_sinks.jobs import Lake, ScoreFiles, numbered, slices
from cloud_sinks.parquet.columns import lake_schema
from edge_models.runtime import watched
from schemas.errors import ConfigError

from .score_plan import Plan, Request, plan_of, recorded
from .score_polars import InFiles

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ROWS: Final = 4_000_000
"""Readings that are held in memory at a time, polars only."""


class Scores(Protocol):
    """The score rows of a plan, wherever they are."""

    def counts(self) -> Iterator[tuple[int, int, int, int, int]]:
        """(log, slice, rows, scored, abnormal), in order."""
        ...

    def written(self, write: ScoreFiles, offsets: Mapping[tuple[int, int], int]) -> Iterator[str]:
        """Paths of the files that `write` made of them."""
        ...

    def close(self) -> None:
        """Forget them."""
        ...


@dataclass
class Summary:
    """What came of it. `files` are the paths of a lake's files that are now there, sorted."""

    tags: int = 0
    logs: int = 0
    rows: int = 0
    scored: int = 0
    abnormal: int = 0
    files: list[str] = field(default_factory=list)


def score(
    request: Request, output: str, *, spark: SparkSession | None = None, result: Lake | None = None, rows: int = ROWS
) -> Summary:
    """Score the lake into `output`: a Parquet file (polars only), or, given `result`, a lake of its own with kind `score`.

    Done again, also after a crash, it finds or completes the same files. Raises ConfigError and what the lake's places raise.
    """
    if result is not None and result.place().names("telemetry"):
        raise ConfigError(
            "the scores of a job cannot lie among a gateway's own", hint="give --output a location of its own, ./lake-scores"
        )
    plan = plan_of(request)
    if result is not None:
        plan = recorded(plan, result)
    summary = Summary(tags=len(watched(request.config, plan.replay.tags)), logs=len(plan.logs))
    with (
        tempfile.TemporaryDirectory(prefix="genba-score-") as scratch,
        closing(_scores(plan, Path(scratch), rows, spark)) as scores,
    ):
        offsets: dict[tuple[int, int], int] = {}
        of, first = -1, 0
        for log, slice_, count, scored, abnormal in scores.counts():
            of, first = log, first if log == of else 0
            offsets[log, slice_] = first
            first += count
            summary.rows, summary.scored, summary.abnormal = (
                summary.rows + count,
                summary.scored + scored,
                summary.abnormal + abnormal,
            )
        if result is not None:
            summary.files = sorted(scores.written(ScoreFiles(result, plan.logs, plan.replay.tags, offsets), offsets))
        elif isinstance(scores, InFiles):
            _one_file(Path(output), plan, scores.ordered(offsets), offsets)
        else:
            raise ConfigError("Spark writes a lake", hint="give --output a directory or s3://bucket/prefix")
    return summary


def _scores(plan: Plan, scratch: Path, rows: int, spark: SparkSession | None) -> Scores:
    if spark is None:
        return InFiles(plan, scratch, rows)
    if plan.waveforms:
        raise ConfigError("Spark carries no waveforms", hint="score them with --engine polars, or watch other tags")
    from .score_spark import InSpark  # pyspark is an extra

    return InSpark(spark, plan)


def _one_file(path: Path, plan: Plan, scores: Iterable[pa.RecordBatch], offsets: Mapping[tuple[int, int], int]) -> None:
    """All scores in one Parquet file, in the columns of the lake."""
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
