"""Compaction: rows a second and memory, against reading all of it, sorting and writing it at once; and what a reader gains by it.

    python benchmarks/compaction.py [--quick]

A day's quarter-hour files of the seeded plant (`plant_mix`), in a directory. Each measurement has a process of its own, so that its memory is its own.
"""

from __future__ import annotations

import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from report import Figure, parser, publish

TAG = "**/machine-17/motor_temp"


def lake(root: Path, files: int, seconds: float) -> int:
    """So many files of so many seconds each, as the sink writes them; returns the rows."""
    from plant_mix import mix, tag_list

    from cloud_sinks.parquet.file import data_metadata, write_file
    from cloud_sinks.parquet.rows import Names, parts
    from schemas.kinds import with_seq
    from schemas.lake import LakeFile
    from schemas.span import SpoolSpan

    names = Names(tag_list())  # type: ignore[arg-type]
    row = 0
    for number in range(files):
        batches = []
        first = row
        for batch in mix(seconds, seed=number + 1):
            column = batch.schema.get_field_index("time")
            moved = [a if i != column else _later(a, int(number * seconds * 1e6)) for i, a in enumerate(batch.columns)]
            batches.append(with_seq(type(batch).from_arrays(moved, schema=batch.schema), row))
            row += batch.num_rows
        span = SpoolSpan("gw-1", 1, "telemetry", first, row - 1)
        for part in parts(batches, span, names):
            path = root / LakeFile("osaka", part.date, span).path()
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, part.table, data_metadata(part.table, span, enterprise="acme", site="osaka"))
    return row


def _later(times: object, by_us: int) -> object:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.add(times.cast(pa.int64()), by_us).cast(times.type)  # type: ignore[attr-defined]


def compacted(root: Path) -> None:
    """In a process of its own: CPU seconds, and how much memory it took above what it had after its imports, in MB."""
    import pyarrow.parquet as pq  # noqa: F401

    from cloud_sinks.parquet.compaction import Compactor
    from cloud_sinks.parquet.compaction_records import Options
    from cloud_sinks.parquet.shelf import LocalShelf

    idle, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    shelf = LocalShelf(root)
    shelf.open()
    report = Compactor(shelf, Options(grace_s=0.0)).run()
    shelf.close()
    taken = time.process_time() - began
    merged = sum(done.rows for done in report.merged)
    print(taken, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - idle) / 1024, merged, len(report.problems))


def at_once(root: Path) -> None:
    """The baseline, likewise: all rows in memory, one sort, one file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from cloud_sinks.parquet.file import write_file

    idle, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    table = pa.concat_tables([pq.read_table(path, partitioning=None) for path in sorted(root.rglob("gw-1*.parquet"))])
    table = table.sort_by([("tag", "ascending"), ("time", "ascending"), ("seq", "ascending")])
    write_file(root / "whole.parquet", table, {})
    taken = time.process_time() - began
    (root / "whole.parquet").unlink()
    print(taken, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - idle) / 1024, table.num_rows, 0)


def measured(what: str, root: Path) -> list[float]:
    """The numbers that a process of its own printed."""
    done = subprocess.run([sys.executable, __file__, what, str(root)], capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


def query_s(root: Path) -> float:
    """One tag of all there is, warm, by `lake.scan`: the median of five."""
    from cloud_sinks import lake as reader

    times = []
    for _ in range(6):
        began = time.perf_counter()
        assert reader.scan(root, tags=TAG).collect().height
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def size(root: Path) -> int:
    """Bytes of all data files."""
    return sum(path.stat().st_size for path in (root / "telemetry").rglob("*.parquet"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parser(__doc__ or "").parse_args(arguments)
    files, seconds = (24, 60.0) if options.quick else (96, 120.0)
    scratch = Path(tempfile.mkdtemp(prefix="genba-bench-"))
    try:
        small, large = scratch / "small", scratch / "large"
        lake(small, files // 4, seconds)
        rows = lake(large, files, seconds)
        before, apart = size(large), query_s(large)
        base_s, base_mb, _, _ = measured("at_once", large)
        _, little_mb, _, _ = measured("compacted", small)
        taken, most_mb, merged, problems = measured("compacted", large)
        assert problems == 0
        together = query_s(large)
        figures = [
            Figure("merged rows per CPU second", merged / taken / 1e6, "M rows/s", "higher"),
            Figure("CPU time a row, verified twice", (taken / merged) / (base_s / rows), "x", "lower", None, "read, sort and write all at once, not verified"),
            Figure("memory above idle", most_mb, "MB", "lower", 500.0),
            Figure("memory of all at once", base_mb, "MB", "lower"),
            Figure("memory, four times the data", most_mb / max(little_mb, 1.0), "x", "lower", None, "a quarter of it"),
            Figure("bytes after", size(large) / before, "x", "lower", None, "before"),
            Figure(f"one tag out of 1,000, {files} files", apart * 1e3, "ms", "lower"),
            Figure("one tag out of 1,000, merged", together / apart, "x", "lower", 1.0, "before"),
        ]  # fmt: skip
        publish(figures, options)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    if sys.argv[1:2] in (["compacted"], ["at_once"]):
        {"compacted": compacted, "at_once": at_once}[sys.argv[1]](Path(sys.argv[2]))
    else:
        main()
