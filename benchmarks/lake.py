"""The lake's files against plain ones: bytes a sample, the time to sort and write, one tag of a thousand read back, rows a second and memory.

The data is the seeded plant of `plant_mix.py`, which says why it looks as it does; `--data DIR` measures recorded data sets (SKAB, NAB, C-MAPSS)
beside it. Contestants take turns; medians are shown. "Plain" is `pyarrow.parquet.write_table` as it comes, of the same rows and columns in the order they arrived. Reading
is held against the best of the layouts tried here, whichever that is in this run. Rows a second are of one process on one core, from a spool that has
lost its memory of them to a file that is fsync'd; memory is that of a process with spool, delivery and sink, less what it was before the first row.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import gzip
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import structlog
from report import Figure, interleaved, parser, publish

sys.path.insert(0, str(Path(__file__).parent.parent))

from plant_mix import MACHINES, START_US, TAGS, mix, rows_of, tag_list

from cloud_sinks.base import SinkContext
from cloud_sinks.parquet import file as lake_file
from cloud_sinks.parquet.columns import lake_schema
from cloud_sinks.parquet.config import ParquetConfig
from cloud_sinks.parquet.dictionary import TagTable
from cloud_sinks.parquet.file import data_metadata, write_file
from cloud_sinks.parquet.rows import Names, parts
from cloud_sinks.parquet.sink import ParquetSink
from cloud_sinks.parquet.store import LocalStore
from gateway.clock import WallClock
from gateway.delivery import Delivery
from gateway.router import Router
from gateway.spool import Spool
from schemas.kinds import make_batch, with_seq
from schemas.span import SpoolSpan
from schemas.tags import Tag

FILE_ROWS = 500_000
"""The default of `roll.max_rows`."""


class Directory(list[Tag]):
    """Tags by their id."""


def numbered(batches: Sequence[pa.RecordBatch], first: int = 0) -> list[pa.RecordBatch]:
    """The batches with their row numbers, as delivery hands them to a sink."""
    out = []
    for batch in batches:
        out.append(with_seq(batch, first))
        first += batch.num_rows
    return out


def tables(batches: list[pa.RecordBatch], names: Names) -> Iterator[tuple[SpoolSpan, pa.Table]]:
    """The tables of the lake that these rows become, file by file."""
    first = 0
    for group in rows_of(batches, FILE_ROWS):
        end = first + sum(batch.num_rows for batch in group)
        span = SpoolSpan("gw-1", 1, "telemetry", first, end - 1)
        for part in parts(numbered(group, first), span, names):
            yield span, part.table
        first = end


def whole_files(batches: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """The rows that fill files, as on a gateway that runs on; what is left over would be one small file."""
    groups = list(rows_of(batches, FILE_ROWS))
    return [batch for group in groups[: len(groups) - 1] for batch in group]


def written(path: Path, span: SpoolSpan, table: pa.Table) -> int:
    """Write one file as the sink does; returns its bytes."""
    write_file(path, table, data_metadata(table, span, enterprise="acme", site="osaka"))
    return path.stat().st_size


def csv_gz(table: pa.Table) -> int:
    """Bytes of the same columns as CSV in gzip 6 (waveforms aside, which are all null here)."""
    out = pa.BufferOutputStream()
    pyarrow.csv.write_csv(
        table.drop_columns(["samples"]).cast(pa.schema([f for f in lake_schema("telemetry") if f.name != "samples"])), out
    )
    return len(gzip.compress(out.getvalue().to_pybytes(), 6))


def sizes(path: Path, batches: list[pa.RecordBatch], names: Names, what: str, *, targets: bool) -> list[Figure]:
    """Bytes a sample of whole files, of time + tag + value in them, and against csv.gz."""
    rows = size = three = text = 0
    for span, table in tables(batches, names):
        size += written(path, span, table)
        about = pq.read_metadata(path)
        for group in range(about.num_row_groups):
            for column in range(about.num_columns):
                chunk = about.row_group(group).column(column)
                three += chunk.total_compressed_size if chunk.path_in_schema in ("time", "tag", "value") else 0
        rows += table.num_rows
        if not text:  # one file says as much as all
            text, of_it = csv_gz(table), size
    return [
        Figure(f"{what}, all 16 columns", size / rows, "bytes/sample", "lower", 2.2 if targets else None, f"{rows} rows"),
        Figure(f"{what}, time + tag + value", three / rows, "bytes/sample", "lower", 1.6 if targets else None),
        Figure(f"{what}, smaller by", text / of_it, "x", "higher", 4.0 if targets else None, "csv.gz of the same columns"),
    ]


def writing(scratch: Path, batches: list[pa.RecordBatch], names: Names, rounds: int) -> list[Figure]:
    """Processor time to sort and write one file, against plain write_table of the same rows and columns."""
    group = numbered(next(rows_of(batches, FILE_ROWS)))
    rows = sum(batch.num_rows for batch in group)
    span = SpoolSpan("gw-1", 1, "telemetry", 0, rows - 1)
    (part,) = parts(group, span, names)
    order = pa.array(np.argsort(part.table.column("seq").to_numpy()))
    arrived = part.table.take(order).combine_chunks()
    sorted_table = part.table
    path = scratch / "one.parquet"

    def ours() -> None:
        (made,) = parts(group, span, names)
        write_file(path, made.table, {})

    def complete() -> None:
        (made,) = parts(group, span, names)
        written(path, span, made.table)

    took = interleaved(
        {
            "ours": partial(processor_s, ours),
            "complete": partial(processor_s, complete),
            "plain": partial(processor_s, lambda: pq.write_table(arrived, path)),
            "plain sorted": partial(processor_s, lambda: pq.write_table(sorted_table, path)),
            "zstd": partial(processor_s, lambda: pq.write_table(arrived, path, compression="zstd")),
        },
        rounds,
    )
    sort_s = statistics.median(processor_s(lambda: list(parts(group, span, names))) for _ in range(rounds))
    return [
        Figure("sort + write", took["ours"] / took["plain"], "x", "lower", 1.10, "plain write_table"),
        Figure("sort + write + checksum of the rows", took["complete"] / took["plain"], "x", "lower", None, "plain write_table"),
        Figure("sort + write, plain with zstd", took["ours"] / took["zstd"], "x", "lower", None, "write_table, zstd"),
        Figure("sort + write, plain of sorted rows", took["ours"] / took["plain sorted"], "x", "lower", None, "write_table, no sorting"),
        Figure("sort alone", sort_s / rows * 1e9, "ns/row", "lower", None, f"{took['plain'] / rows * 1e9:.0f} ns/row plain"),
    ]  # fmt: skip


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def processor_s(work: Callable[[], object]) -> float:
    """Seconds of processor time, in which what others do on the machine counts for less. All of it is one thread's."""
    began = time.process_time()
    work()
    return time.process_time() - began


# Reading


def layouts() -> dict[str, dict[str, object]]:
    """The layouts tried; each is what differs from ours."""
    rows = lake_file.ROW_GROUP
    tried: dict[str, dict[str, object]] = {"ours": {}}
    for groups in (32_768, 131_072, 262_144, 524_288, 1_048_576):
        tried[f"row groups of {groups // 1024}k, one page"] = {"group": groups, "page": groups}
    for groups, page in ((rows, 20_000), (131_072, 20_000), (131_072, 65_536), (524_288, 20_000), (1_048_576, 20_000)):
        tried[f"row groups of {groups // 1024}k, pages of {page // 1000}k"] = {"group": groups, "page": page}
    tried |= {
        "no page index": {"index": False},
        "pages of 64 kB": {"page_bytes": 64 << 10},
        "time DELTA": {"encoding": {"time": "DELTA_BINARY_PACKED"}},
        "value dictionary": {"encoding": {"value": ""}},
        "value BYTE_STREAM_SPLIT": {"encoding": {"value": "BYTE_STREAM_SPLIT"}},
        "zstd 1": {"level": 1},
        "zstd 6": {"level": 6},
        "zstd 9": {"level": 9},
    }
    return tried


def write_layout(
    path: Path,
    table: pa.Table,
    *,
    group: int = lake_file.ROW_GROUP,
    page: int = lake_file.ROW_GROUP,
    page_bytes: int | None = None,
    index: bool = True,
    level: int = 3,
    encoding: dict[str, str] | None = None,
) -> None:
    """One file in another layout, with the encodings that ours has where `encoding` names no other."""
    dictionary, chosen = lake_file.encodings(table)
    for name, one in (encoding or {}).items():
        dictionary = [column for column in dictionary if column != name] + ([] if one else [name])
        chosen = {column: two for column, two in chosen.items() if column != name} | ({name: one} if one else {})
    pq.write_table(
        table, path, row_group_size=group, max_rows_per_page=page, data_page_size=page_bytes or 16 << 20, write_page_index=index,
        compression="zstd", compression_level=level, use_dictionary=dictionary, column_encoding=chosen,
        dictionary_pagesize_limit=1 << 20, write_page_checksum=True, write_batch_size=page if page_bytes is None else 1024, store_schema=False,
    )  # fmt: skip


def reading(scratch: Path, names: Names, tags: list[Tag], rounds: int, stretch: float) -> list[Figure]:
    """One tag, one day out of 1,000 tags, in polars and in DuckDB, over all layouts."""
    import duckdb
    import polars as pl

    day = list(tables(mix(86_390, stretch=stretch), names))
    rows = sum(table.num_rows for _, table in day)
    size: dict[str, float] = {}
    tried = layouts()
    for at, (name, layout) in enumerate(tried.items()):
        folder = scratch / f"layout-{at}"
        folder.mkdir()
        for number, (span, table) in enumerate(day):
            if name == "ours":
                written(folder / f"{number}.parquet", span, table)
            else:
                write_layout(folder / f"{number}.parquet", table, **layout)  # type: ignore[arg-type]
        size[name] = sum(path.stat().st_size for path in folder.iterdir()) / rows
    wanted = [tags[machine * 20 + tag].path for machine, tag in ((3, 8), (17, 0), (32, 8), (40, 4))]
    start = datetime.fromtimestamp(START_US / 1e6, UTC)
    end = start + timedelta(days=1)
    base = duckdb.connect()
    base.execute("SET TimeZone = 'UTC'")
    query = "select time, value, quality from read_parquet(?) where tag = ? and time >= ? and time < ?"

    def in_polars(folder: Path) -> float:
        wall = 0.0
        for tag in wanted:
            frame = (
                pl.scan_parquet(f"{folder}/*.parquet")
                .filter((pl.col("tag") == tag) & (pl.col("time") >= start) & (pl.col("time") < end))
                .select("time", "value", "quality")
            )
            wall += seconds(frame.collect)
        return wall / len(wanted)

    def in_duckdb(folder: Path) -> float:
        wall = 0.0
        for tag in wanted:
            wall += seconds(lambda tag=tag: base.execute(query, [f"{folder}/*.parquet", tag, start, end]).fetchnumpy())  # type: ignore[misc]
        return wall / len(wanted)

    figures = []
    for engine, read in (("polars", in_polars), ("DuckDB", in_duckdb)):
        took = interleaved({name: partial(read, scratch / f"layout-{at}") for at, name in enumerate(tried)}, rounds)
        best = min(took, key=lambda name: took[name])
        figures.append(
            Figure(f"one tag, one day, {engine}", took["ours"] / took[best], "x", "lower", 1.5, f"{best} (best; ours {took['ours'] * 1e3:.1f} ms)")
        )  # fmt: skip
        figures += [
            Figure(f"  {name}, {engine}", took[name] * 1e3, "ms", "lower", None, f"{size[name]:.2f} bytes/sample")
            for name in tried
        ]
    base.close()
    return figures


# Rows a second and memory, each in a process of its own


async def sink_on(spool: Spool, scratch: Path, tags: Sequence[Tag]) -> Delivery:
    """A delivery of telemetry to a lake in `scratch`/lake."""
    context = SinkContext(
        "lake", "acme", "osaka", "bench", Directory(tags), WallClock(), scratch / "private", scratch, structlog.get_logger()
    )

    async def report(event: str, severity: str, message: str) -> None:
        raise RuntimeError(message)

    return Delivery(
        "lake", ParquetSink(ParquetConfig(location="lake"), context), ["telemetry"], spool=spool,
        router=Router(None, {"lake": "parquet"}, tags), clock=WallClock(), rng=random.Random(1),
        dead_letters=scratch / "dead", report=report, log=structlog.get_logger(),
    )  # fmt: skip


async def drain(scratch: Path, rows: int) -> dict[str, float]:
    """Rows a second from the spool to finished files, on one core: of wall time and of processor time."""
    batches = mix(rows / 1600)

    async def opened() -> Spool:
        return await Spool.open(scratch / "spool", gateway="bench", clock=WallClock(), log=structlog.get_logger())

    spool = await opened()
    await spool.ledger.register("telemetry", "lake")
    for batch in batches:
        await spool.put("telemetry", batch)
    await spool.close()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    pa.set_cpu_count(1)
    spool = await opened()
    delivery = await sink_on(spool, scratch, tag_list())
    delivery.finish()
    there = spool.durable("telemetry")
    began, used = time.perf_counter(), time.process_time()
    await delivery.run()
    took, used = time.perf_counter() - began, time.process_time() - used
    assert spool.ledger.cursor("telemetry", "lake").acked == there
    await spool.close()
    return {"wall": there / took, "processor": there / used}


def resident() -> float:
    """MB of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


async def memory(scratch: Path, run_s: float, sink: bool) -> dict[str, float]:
    """Memory above idle of spool, delivery and sink at 100,000 values a second in polls of 10,000 tags, and what is left of it afterwards."""
    rng = np.random.default_rng(5)
    tags = [Tag(f"acme/osaka/m-{n // 20:03d}/t-{n % 20:02d}", f"acme/osaka/m-{n // 20:03d}", f"t-{n % 20:02d}", "a", "a", str(n), id=n) for n in range(10_000)]  # fmt: skip
    spool = await Spool.open(scratch / "spool", gateway="bench", clock=WallClock(), log=structlog.get_logger())
    await spool.ledger.register("telemetry", "lake")
    delivery = await sink_on(spool, scratch, tags)
    running = asyncio.create_task(delivery.run()) if sink else None
    level, ids = rng.normal(50, 20, len(tags)), np.arange(len(tags), dtype=np.int32)
    await asyncio.sleep(1)
    gc.collect()
    idle, peak, ended = resident(), 0.0, asyncio.Event()

    async def watch() -> None:
        nonlocal peak
        while not ended.is_set():
            peak = max(peak, resident())
            await asyncio.sleep(0.01)

    watching = asyncio.create_task(watch())
    loop = asyncio.get_running_loop()
    began, late = loop.time(), 0.0
    for poll in range(round(run_s * 10)):
        level += rng.normal(0, 0.1, len(tags))
        value = np.where(ids % 2 == 0, np.round(level, 1), level.astype(np.float32))
        await spool.put(
            "telemetry",
            make_batch("telemetry", len(tags), time=time.time_ns() // 1000, tag=ids, value=value, quality=0, lag=0, origin=0),
        )
        late = max(late, loop.time() - began - (poll + 1) / 10)
        await asyncio.sleep(max(0.0, began + (poll + 1) / 10 - loop.time()))
    delivery.finish()
    if running is not None:
        await running
    ended.set()
    await watching
    await spool.close()
    gc.collect()
    pa.default_memory_pool().release_unused()
    held = pa.total_allocated_bytes() / 1e6
    return {"peak": peak - idle, "left": resident() - idle, "arrow": held, "late_s": late, "writes": delivery.writes}


def in_a_process(*options: str) -> dict[str, float]:
    """Run this script anew with `options` and return what it prints."""
    done = subprocess.run([sys.executable, __file__, *options], check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def child(options: argparse.Namespace) -> None:
    """What `in_a_process` asked for."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        if options.part == "drain":
            print(json.dumps(asyncio.run(drain(Path(name), int(options.amount)))))
        else:
            print(json.dumps(asyncio.run(memory(Path(name), options.amount, options.part == "memory"))))


def described(scratch: Path) -> list[Figure]:
    """The data dictionary of 100,000 tags: made, and renewed with other times."""
    tags = Directory(
        Tag(f"acme/osaka/m-{n // 20:04d}/t-{n % 20:02d}", f"acme/osaka/m-{n // 20:04d}", f"t-{n % 20:02d}", "plc", "plc", f"hr:{n}", unit="Cel", id=n)
        for n in range(100_000)
    )  # fmt: skip
    store = LocalStore(scratch / "described", "gw-1")
    store.open()
    table = TagTable(tags, enterprise="acme", site="osaka", gateway="gw-1", sink="lake")
    made = seconds(lambda: table.load(store))
    renewed = statistics.median(seconds(lambda: table.write(store)) for _ in range(5))
    return [
        Figure("data dictionary of 100,000 tags, at start", made, "s", "lower"),
        Figure("data dictionary of 100,000 tags, renewed", renewed, "s", "lower"),
    ]


# Recorded data


def recorded(root: Path) -> Iterator[tuple[str, list[pa.RecordBatch], int]]:
    """(name, readings as a gateway would have read them, number of tags) of the data sets that are there."""
    for folder in ("skab", "nab", "cmapss"):
        series: list[tuple[np.ndarray, np.ndarray]] = []  # per tag: (time µs, value); of one device the times are the same
        if folder == "cmapss":
            for path in sorted(root.glob("cmapss/train_*.txt")):
                grid = np.loadtxt(path)
                time_us = START_US + np.arange(len(grid)) * 1_000_000
                series += [(time_us, grid[:, column]) for column in range(2, grid.shape[1])]
        else:
            for path in sorted(root.glob(f"{folder}/**/*.csv")):
                table = pyarrow.csv.read_csv(
                    path, parse_options=pyarrow.csv.ParseOptions(delimiter=";" if folder == "skab" else ",")
                )
                stamps = table.column(0).cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
                series += [
                    (stamps, column.cast(pa.float64()).to_numpy())
                    for name, column in zip(table.schema.names[1:], table.columns[1:], strict=True)
                    if name not in ("anomaly", "changepoint")
                ]  # fmt: skip
        if series:
            times = np.concatenate([one for one, _ in series])
            ids = np.concatenate([np.full(len(one), tag, np.int32) for tag, (one, _) in enumerate(series)])
            order = np.lexsort((ids, times))
            # One day, so that it is one file: the lake would make a folder of each date
            start = START_US // 86_400_000_000 * 86_400_000_000
            squeezed = start + (times - times.min()) % 86_400_000_000
            columns = {"time": squeezed[order], "tag": ids[order], "value": np.concatenate([v for _, v in series])[order]}
            yield folder, [make_batch("telemetry", len(ids), **columns, quality=0, lag=0, origin=0)], len(series)


def main() -> None:
    """Measure and publish."""
    made = parser(__doc__ or "")
    made.add_argument("--directory", type=Path, help="where to measure: a directory on the disk in question")
    made.add_argument("--part", choices=("drain", "memory", "memory-without-sink"), help=argparse.SUPPRESS)
    made.add_argument("--amount", type=float, default=0, help=argparse.SUPPRESS)
    options = made.parse_args()
    if options.part:
        child(options)
        return
    pa.set_cpu_count(1)
    tags = tag_list()
    names = Names(Directory(tags))
    assert len(tags) == TAGS
    seconds_of_data, rounds, stretch = (330, 5, 60.0) if options.quick else (1300, 15, 20.0)
    where = () if options.directory is None else ("--directory", str(options.directory))
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        scratch = Path(name)
        batches = whole_files(mix(seconds_of_data))
        figures = sizes(scratch / "x.parquet", batches, names, "the plant", targets=True)
        classes = (("polled every 1 or 10 s", range(30)), ("polled every 100 ms", range(30, 35)), ("OPC UA", range(35, MACHINES)))
        for what, machines in classes:
            figures += sizes(scratch / "x.parquet", mix(seconds_of_data, machines=machines), names, f"  {what}", targets=False)
        if options.data is not None:
            for what, rows, count in recorded(options.data):
                found = Names(
                    Directory(
                        Tag(f"acme/{what}/t-{n:04d}", f"acme/{what}", f"t-{n:04d}", "a", "a", str(n), id=n) for n in range(count)
                    )
                )
                figures += sizes(scratch / "x.parquet", rows, found, f"recorded: {what}", targets=False)
        figures += writing(scratch, batches, names, 3 * rounds)
        del batches
        figures += reading(scratch, names, tags, rounds, stretch)
        figures += described(scratch)
    amount = str((1 if options.quick else 3) * 1e6)
    drained = [in_a_process("--part", "drain", "--amount", amount, *where) for _ in range(3 if options.quick else 5)]
    wall, used = (statistics.median(one[what] for one in drained) / 1e6 for what in ("wall", "processor"))
    run_s = "12" if options.quick else "60"
    held, without = (in_a_process("--part", part, "--amount", run_s, *where) for part in ("memory", "memory-without-sink"))
    figures += [
        Figure("local lake, spool to finished file, per processor second", used, "M rows/s", "higher", 2.0, "one core"),
        Figure("local lake, spool to finished file, wall time", wall, "M rows/s", "higher", None, "one core, shared with what else runs"),
        Figure("memory at 100,000 values/s, peak above idle", held["peak"], "MB", "lower", 150.0, f"spool alone {without['peak']:.0f} MB"),
        Figure("memory left when all is written", held["left"], "MB", "lower", None, f"spool alone {without['left']:.0f} MB; Arrow holds {held['arrow']:.1f} MB"),
        Figure("latest poll at 100,000 values/s", held["late_s"] * 1e3, "ms", "lower", None, f"{held['writes']:.0f} files written"),
    ]  # fmt: skip
    publish(figures, options)


if __name__ == "__main__":
    main()
