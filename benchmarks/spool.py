"""The spool against the disk it writes to: appending, draining, rows a second with compression, starting, idling.

The yardstick is what any durable log must do at least: one write and one fdatasync into a preallocated file, in the same run. SQLite
(WAL, synchronous FULL) stands for what one would take off the shelf.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import structlog
from report import Figure, interleaved, parser, publish

sys.path.insert(0, str(Path(__file__).parent.parent))

from gateway.clock import WallClock
from gateway.spool import Spool
from gateway.spool.codec import Decoder, Encoder
from gateway.spool.format import CODEC_PLAIN, Record, pack_footer, read_record
from gateway.spool.log import Log
from gateway.spool.opening import open_directory
from gateway.spool.quarantine import Quarantine
from gateway.spool.segment import load_entries
from gateway.spool.storage import DiskStorage
from schemas.kinds import telemetry

SEGMENT = 16 << 20


def log_in(directory: Path, segment_bytes: int = SEGMENT) -> Log:
    """An empty telemetry log on the real disk."""
    storage = DiskStorage()
    directory.mkdir(parents=True)
    return Log(
        "telemetry", directory, storage=storage, quarantine=Quarantine(directory, storage), epoch=1, segment_bytes=segment_bytes,
        allows=lambda size: True,
    )  # fmt: skip


def stored(body: bytes, first: int) -> tuple[Record, memoryview]:
    """A record around bytes that are taken as they are: what is measured is the log, not the codec."""
    rows = 1000
    return Record(len(body), len(body), first, rows, rows, 1, CODEC_PLAIN, 0, 0, 0, 0, 0, 0), memoryview(body)


def append_contestants(scratch: Path, size: int) -> dict[str, Callable[[], float]]:
    """Each call makes some durable appends of `size` bytes and returns the mean seconds of one.

    Short turns, since a shared disk has slow spells that must not hit one contestant alone; long enough for a checkpoint of SQLite's (4 MB).
    """
    appends = max(8, 5_000_000 // size)
    body = np.random.default_rng(0).bytes(size)
    place = scratch / f"append-{size}"
    place.mkdir()
    fd = os.open(place / "raw", os.O_CREAT | os.O_RDWR)
    os.posix_fallocate(fd, 0, SEGMENT)
    log = log_in(place / "log")
    base = sqlite3.connect(place / "sqlite", isolation_level=None)
    base.execute("PRAGMA journal_mode=WAL")
    base.execute("PRAGMA synchronous=FULL")
    base.execute("CREATE TABLE log (first INTEGER PRIMARY KEY, body BLOB)")
    offset = 0

    def raw() -> None:
        nonlocal fd, offset
        if offset + size > SEGMENT:
            os.close(fd)
            (place / "raw").unlink()
            fd = os.open(place / "raw", os.O_CREAT | os.O_RDWR)
            os.posix_fallocate(fd, 0, SEGMENT)
            offset = 0
        os.pwritev(fd, [body], offset)
        os.fdatasync(fd)
        offset += size

    def segments() -> None:
        log.append([stored(body, log.next)], 0)
        log.remove(log.closed)

    def sqlite() -> None:
        base.execute("INSERT INTO log (body) VALUES (?)", (body,))

    def turn(append: Callable[[], None]) -> Callable[[], float]:
        def some() -> float:
            began = time.perf_counter()
            for _ in range(appends):
                append()
            return (time.perf_counter() - began) / appends

        return some

    return {"raw": turn(raw), "segments": turn(segments), "sqlite": turn(sqlite)}


def polls(tags: int, count: int) -> list[pa.RecordBatch]:
    """`count` polls of `tags` float32 readings that wander, 1 s apart."""
    rng = np.random.default_rng(7)
    level = rng.normal(50, 20, tags)
    out = []
    for n in range(count):
        level += rng.normal(0, 0.1, tags)
        value = level.astype(np.float32).astype(np.float64)
        out.append(telemetry(time_us=1_767_225_600_000_000 + n * 1_000_000, tag=np.arange(tags, dtype=np.int32), value=value))
    return out


async def rows_per_second(scratch: Path, batches: list[pa.RecordBatch], name: str) -> tuple[float, float, float]:
    """Rows a second of wall time and of processor time into a durable spool, and bytes on disk per row."""
    spool = await Spool.open(scratch / name, gateway="bench", clock=WallClock(), log=structlog.get_logger())
    began, cpu = time.perf_counter(), time.process_time()
    for batch in batches:
        await spool.put("telemetry", batch)
    await spool.flush()
    wall, used = time.perf_counter() - began, time.process_time() - cpu
    rows, written = spool.durable("telemetry"), spool.bytes_written
    await spool.close()
    return rows / wall, rows / used, written / rows


def fill(scratch: Path, gigabytes: float) -> tuple[Log, int]:
    """A telemetry log of so many gigabytes below `scratch`/big, with records of about 1 MiB; returns it and its bytes."""
    storage = DiskStorage()
    opened = open_directory(
        scratch / "big", storage=storage, gateway="bench", now_us=1, segment_bytes=SEGMENT, allows=lambda size: True
    )
    log = opened.logs["telemetry"]
    batch = pa.concat_batches(polls(1000, 50))
    noise = np.random.default_rng(3)
    encoder, decoder = Encoder(Decoder()), Decoder()
    del decoder
    written = 0
    while written < gigabytes * 1e9:
        value = noise.normal(size=batch.num_rows)  # incompressible, so that bytes on disk are bytes of rows
        rows = batch.set_column(3, batch.schema.field(3), pa.array(value))
        one = encoder.encode("telemetry", [rows], log.next, 1)
        log.append([(one.record, one.body)], 1)
        written += one.record.length
    log.roll()
    storage.close(opened.lock)
    return log, written


def drain(log: Log) -> float:
    """Bytes of rows a second read back: from the page cache, checksum verified, decompressed, decoded."""
    log._decoded.clear()
    began, row, size = time.perf_counter(), 0, 0
    while read := log.read(row, end=log.next, max_rows=200_000, max_bytes=1 << 40):
        size += sum(batch.num_rows for _, batch in read) * 20  # time, tag, value
        row = read[-1][0] + read[-1][1].num_rows
    return size / (time.perf_counter() - began)


def verify(log: Log) -> float:
    """Stored bytes a second read and held against their checksums, nothing decoded: what a sink's disk and CRC cost."""
    storage = DiskStorage()
    began, size = time.perf_counter(), 0
    for segment in log.segments:
        entries = load_entries(storage, segment)
        fd = storage.open(segment.path)
        data = storage.read(fd, entries[-1].offset + entries[-1].size, 0)
        storage.close(fd)
        for entry in entries:
            assert read_record(data, entry.offset) is not None
            size += entry.size
    return size / (time.perf_counter() - began)


def fill_sparse(directory: Path, segments: int) -> int:
    """A spool of so many closed segments of 16 MiB, as 20 GB have them: all zeros between the first record and the footer.

    Returns its bytes. A start sees no difference: it reads headers and footers.
    """
    storage = DiskStorage()
    opened = open_directory(
        directory, storage=storage, gateway="bench", now_us=1, segment_bytes=1 << 16, allows=lambda size: True
    )
    log, encoder, batch = opened.logs["telemetry"], Encoder(Decoder()), polls(100, 1)
    for _ in range(segments):
        one = encoder.encode("telemetry", batch, log.next, 1)
        log.append([(one.record, one.body)], 1)
        log.roll()
    storage.close(opened.lock)
    for segment in log.segments:
        entries = load_entries(storage, segment)
        at = SEGMENT - len(pack_footer(entries, 0)) - 64
        fd = storage.open(segment.path, write=True)
        storage.truncate(fd, at)
        storage.write(fd, [pack_footer(entries, at)], at)
        storage.close(fd)
    return sum(path.stat().st_size for path in directory.rglob("*.seg"))


async def downsampling(scratch: Path) -> tuple[float, float]:
    """Rows a second that become windows of a minute, 100 tags a second each, and by how much the bytes shrink."""
    directory = scratch / "thin"
    spool = await Spool.open(
        directory, gateway="bench", clock=WallClock(), log=structlog.get_logger(), when_full={"telemetry": "downsample"},
        retention_grace_s=600,
    )  # fmt: skip
    await spool.ledger.register("telemetry", "lake")
    noise = np.random.default_rng(5)
    for batch in polls(100, 20_000):
        value = pa.array(noise.normal(size=batch.num_rows))
        await spool.put("telemetry", batch.set_column(3, batch.schema.field(3), value))
    await spool.flush()
    log = spool._logs["telemetry"]
    await spool._writer.run(log.roll)
    before, rows, began = log.size_bytes, log.next, time.perf_counter()
    await spool.retention._thin_oldest("telemetry")
    took = time.perf_counter() - began
    shrunk = before / log.size_bytes
    await spool.close()
    return rows / took, shrunk


async def start_s(directory: Path) -> float:
    """Seconds to open the spool in a directory."""
    began = time.perf_counter()
    spool = await Spool.open(directory, gateway="bench", clock=WallClock(), log=structlog.get_logger(), retention_grace_s=600)
    took = time.perf_counter() - began
    await spool.close()
    return took


async def idle_bytes(scratch: Path, seconds: float) -> float:
    """Bytes a second that a spool writes when nothing comes."""
    spool = await Spool.open(scratch / "idle", gateway="bench", clock=WallClock(), log=structlog.get_logger())
    await spool.ledger.register("telemetry", "lake")
    await spool.put("telemetry", polls(10, 1)[0])
    await spool.flush()
    await asyncio.sleep(1)
    before = spool.bytes_written
    await asyncio.sleep(seconds)
    written = spool.bytes_written - before
    await spool.close()
    return written / seconds


async def small_site(scratch: Path) -> float:
    """Bytes on disk per value of 50 tags polled alone, each poll its own commit: what flash wear is made of."""
    spool = await Spool.open(scratch / "small", gateway="bench", clock=WallClock(), log=structlog.get_logger())
    for batch in polls(50, 300):
        await spool.put("telemetry", batch)
        await spool.flush()
    written, rows = spool.bytes_written, spool.durable("telemetry")
    await spool.close()
    return written / rows


def main() -> None:
    """Measure and publish."""
    made = parser(__doc__ or "")
    made.add_argument("--directory", type=Path, help="where to measure: a directory on the disk in question")
    options = made.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    figures: list[Figure] = []
    rounds, gigabytes = (9, 0.3) if options.quick else (31, 1.0)
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        scratch = Path(name)
        for size, label, limit in ((100_000, "100 kB", 1.2), (1_000_000, "1 MB", 1.5)):
            took = interleaved(append_contestants(scratch, size), rounds)
            raw, ours, sqlite = took["raw"], took["segments"], took["sqlite"]
            figures += [
                Figure(f"append {label}, time", ours / raw, "x", "lower", limit, "raw preallocated pwrite + fdatasync"),
                Figure(
                    f"append {label}, throughput", size / ours / 1e6, "MB/s", "higher", None, f"raw {size / raw / 1e6:.0f} MB/s"
                ),
                Figure(f"append {label}, speed-up", sqlite / ours, "x", "higher", 2.0, "SQLite WAL FULL"),
                Figure(f"append {label}, most there is", sqlite / raw, "x", "higher", None, "SQLite WAL FULL, of raw itself"),
            ]
        batches = polls(10_000, 100 if options.quick else 300)
        rates = [asyncio.run(rows_per_second(scratch, batches, f"rate-{n}")) for n in range(3)]
        figures += [
            Figure(
                "rows into the spool, durable",
                statistics.median(r[0] for r in rates) / 1e6,
                "M rows/s",
                "higher",
                1.0,
                "wall time",
            ),
            Figure(
                "rows per processor second",
                statistics.median(r[1] for r in rates) / 1e6,
                "M rows/s",
                "higher",
                1.0,
                "with compression",
            ),
            Figure("bytes on disk, 10,000 tags", rates[0][2], "bytes/value", "lower", None, "20 bytes raw"),
            Figure(
                "bytes on disk, 50 tags alone", asyncio.run(small_site(scratch)), "bytes/value", "lower", None, "20 bytes raw"
            ),
        ]
        log, written = fill(scratch, gigabytes)
        sparse = fill_sparse(scratch / "sparse", 300 if options.quick else 1_200)
        thinned, shrunk = asyncio.run(downsampling(scratch))
        both = interleaved({"drain": lambda: drain(log), "verify": lambda: verify(log)}, 3)
        figures += [
            Figure("drain, warm, checksum verified", both["verify"] / 1e9, "GB/s", "higher", 1.0, "stored bytes"),
            Figure("drain, warm, decoded to batches", both["drain"] / 1e9, "GB/s", "higher", None, "bytes of time, tag and value"),
            Figure(
                f"start with {written / 1e9:.1f} GB spooled",
                statistics.median(asyncio.run(start_s(scratch / "big")) for _ in range(5)), "s", "lower", 0.5, "footers only",
            ),
            Figure(
                f"start with {sparse / 1e9:.1f} GB spooled",
                statistics.median(asyncio.run(start_s(scratch / "sparse")) for _ in range(5)), "s", "lower", 2.0,
                "footers only, sparse files",
            ),
            Figure("downsampling, rows", thinned / 1e6, "M rows/s", "higher", None, "100 tags, 1 s, into windows of 1 min"),
            Figure("downsampling, bytes", shrunk, "x smaller", "higher", None, "noise, which does not compress"),
            Figure("idle spool writes", asyncio.run(idle_bytes(scratch, 2 if options.quick else 10)), "bytes/s", "lower", 0.0),
        ]  # fmt: skip
    publish(figures, options)


if __name__ == "__main__":
    main()
