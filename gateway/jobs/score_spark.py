"""Scores a plan with Spark: files are read where there is room, their rows are sent to the group of their tag and sorted there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pyarrow as pa
from pyspark import StorageLevel

from cloud_sinks.jobs import TALLY, ScoreFiles, tallied
from edge_models.replay import grouped
from schemas.replay import ORDER, READINGS, SCORES

from .score_plan import Plan
from .spark import each, explained, mapped

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_WRITTEN: Final = pa.schema([("path", pa.string()), ("rows", pa.int64())])


class InSpark:
    """See `lake_score.Scores`. A group is sorted on disk where it must."""

    def __init__(self, spark: SparkSession, plan: Plan) -> None:
        cores = spark.sparkContext.defaultParallelism
        tags = plan.needed()
        groups = grouped(tags, plan.scope, lambda _: 1, -(-len(tags) // (3 * cores)))
        numbers = [groups.get(at, -1) for at in range(len(plan.replay.tags))]
        partitions = min((max(numbers) + 1) * len(plan.logs), 3 * cores)
        wanted, replay = plan.wanted(numbers), replace(plan.replay, groups=numbers)
        rows = each(spark, wanted.read, plan.files, READINGS)
        rows = rows.repartition(partitions, "log", "group").sortWithinPartitions("log", "group", "seq")
        self._partitions = partitions
        # Kept on the executors' disks, so that what is counted and what is written is worked out once.
        self._frame = mapped(rows, replay, SCORES).persist(StorageLevel.DISK_ONLY)

    def counts(self) -> Iterator[tuple[int, int, int, int, int]]:
        # Counted where they are: grouping in Spark would send them around once more.
        with explained():
            found = mapped(self._frame, tallied, TALLY).toArrow()
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
        with explained():
            made = mapped(frame, write, _WRITTEN).toArrow()
        yield from made.column("path").to_pylist()

    def close(self) -> None:
        """Free the executors' disks."""
        self._frame.unpersist()
