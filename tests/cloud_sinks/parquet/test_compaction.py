"""Merging files of a lake: the same rows, each once, for every reader at every moment, whoever dies or works beside it."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cloud_sinks import lake
from cloud_sinks.parquet import merge as merging
from cloud_sinks.parquet.audit import audit
from cloud_sinks.parquet.checksum import checksum
from cloud_sinks.parquet.compaction import Compactor
from cloud_sinks.parquet.compaction_records import TARGET_BYTES, Options, Report
from cloud_sinks.parquet.file import data_metadata, read_metadata, write_file
from cloud_sinks.parquet.rows import Names, parts
from cloud_sinks.parquet.shelf import LocalShelf
from schemas.kinds import KINDS, Kind
from schemas.lake import LakeFile
from schemas.manifest import MANIFEST, Manifest
from schemas.span import SpoolSpan
from tests.cloud_sinks.test_lake import PATHS
from tests.cloud_sinks.test_lake import put as put_described
from tests.conformance.sink import Tags, batch_of

POINTS = ("merged", "published", "changing", "committed", "waited", "removed one", "removed", "retired")
HOURS = 3_600_000_000
DAY = "date=2026-01-01"


def put(root: Path, first: int, count: int, **options: Any) -> list[Path]:
    """One span, without the data dictionary."""
    return put_described(root, first, count, described=False, **options)


class Clock:
    """The real time plus what was slept and what is added."""

    def __init__(self, later_us: int = 0) -> None:
        self.added_us = later_us

    def now_us(self) -> int:
        return time.time_ns() // 1000 + self.added_us

    def sleep(self, seconds: float) -> None:
        self.added_us += int(seconds * 1e6)


def compact(root: Path, *, at: Callable[[str], None] = lambda point: None, later_us: int = 0, **options: object) -> Report:
    shelf, clock = LocalShelf(root), Clock(later_us)
    shelf.open()
    try:
        return Compactor(shelf, Options(**options), now_us=clock.now_us, sleep=clock.sleep, at=at).run()  # type: ignore[arg-type]
    finally:
        shelf.close()


def written(root: Path, first: int, count: int, kind: Kind) -> Path:
    """A span of readings a second apart, as one sink writes it at a stretch."""
    tags, span = Tags(*PATHS), SpoolSpan("gw-1", 1, kind, first, first + count - 1)
    (part,) = parts([batch_of(kind, first, count, tags)], span, Names(tags))
    path = root / LakeFile("osaka", part.date, span).path()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, part.table, data_metadata(part.table, span, enterprise="acme", site="osaka"))
    return path


def rows(root: Path, kind: Kind = "telemetry") -> pl.DataFrame:
    number = "row" if kind in ("score", "health") else "seq"
    return lake.scan(root, kind=kind).collect().sort("gateway", "epoch", number)


def data(root: Path, kind: str = "telemetry") -> list[str]:
    return sorted(path.name for path in (root / kind).rglob("*.parquet"))


def well(root: Path) -> None:
    """Every file is what it says, nothing lies about."""
    assert audit(LocalShelf(root), deep=True, now_us=time.time_ns() // 1000).findings == []
    assert list(root.glob(".tmp-compact*")) == []


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Eight spans of one day with a hole at 400, two of the next day, two of another gateway."""
    made = tmp_path / "lake"
    for first in (0, 100, 200, 300, 500, 600, 700, 800):
        put(made, first, 100)
    put(made, 900, 100, day=1)
    put(made, 1000, 100, day=1)
    put(made, 0, 50, gateway="gw-2")
    put(made, 50, 50, gateway="gw-2")
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_file_is_as_the_sink_would_have_written_it(tmp_path: Path, kind: Kind) -> None:
    for first in range(0, 500, 100):
        written(tmp_path / "small", first, 100, kind)
    whole = written(tmp_path / "large", 0, 500, kind)
    before = rows(tmp_path / "small", kind)
    compact(tmp_path / "small")
    (name,) = data(tmp_path / "small", kind)
    merged = tmp_path / "small" / kind / "site=osaka" / DAY / name
    assert rows(tmp_path / "small", kind).equals(before)
    theirs, ours = pq.ParquetFile(whole), pq.ParquetFile(merged)
    assert ours.read().equals(theirs.read())  # in the same order too
    assert ours.schema_arrow == theirs.schema_arrow
    assert ours.metadata.row_group(0).sorting_columns == theirs.metadata.row_group(0).sorting_columns
    for column in range(ours.metadata.num_columns):
        mine, sinks = (file.metadata.row_group(0).column(column) for file in (ours, theirs))
        assert (mine.encodings, mine.compression, mine.has_column_index) == (
            sinks.encodings,
            sinks.compression,
            sinks.has_column_index,
        )
    about = read_metadata(merged)
    sources = about.pop("genba.sources")
    assert about == read_metadata(whole)
    assert [one[:3] for one in json.loads(sources)] == [[n, n + 99, 100] for n in range(0, 500, 100)]
    assert LakeFile.parse(f"{kind}/site=osaka/{DAY}/{name}").span == SpoolSpan("gw-1", 1, kind, 0, 499)
    well(tmp_path / "small")


def test_folders_and_logs_are_merged_each_for_itself_and_a_second_run_does_nothing(root: Path) -> None:
    before = rows(root)
    report = compact(root)
    assert [(done.plan.folder.rpartition("/")[2], len(done.plan.files), done.rows) for done in report.merged] == [
        (DAY, 8, 800), (DAY, 2, 100), ("date=2026-01-02", 2, 200),
    ]  # fmt: skip
    assert len(report.removed) == 12
    assert len(data(root)) == 3
    assert rows(root).equals(before)
    well(root)
    again = compact(root)
    assert (again.merged, again.removed, again.problems) == ([], [], [])


def test_groups_of_rows_are_filled_whatever_the_files_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Merged in small pieces, as a large merge is: the order over many groups is that of one sort."""
    for name, value in (("_HELD", 64), ("_LEAST", 7), ("_MOST", 64)):
        monkeypatch.setattr(merging, name, value)
    monkeypatch.setattr("cloud_sinks.parquet.file.ROW_GROUP", 100)
    rng = random.Random(3)
    first = 0
    while first < 3000:
        count = rng.randint(1, 400)
        put(tmp_path, first, count)
        first += count + rng.choice([0, 0, 5])
    before = rows(tmp_path)
    compact(tmp_path)
    (name,) = data(tmp_path)
    file = pq.ParquetFile(tmp_path / "telemetry/site=osaka" / DAY / name)
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    assert set(sizes[:-1]) == {100}
    table = file.read()
    assert table.equals(table.sort_by([("tag", "ascending"), ("time", "ascending"), ("seq", "ascending")]))
    assert rows(tmp_path).equals(before)
    well(tmp_path)


def test_a_file_that_comes_late_into_a_hole_is_seen_and_merged_later(root: Path) -> None:
    compact(root)
    put(root, 400, 60)
    put(root, 460, 40)
    assert rows(root).filter(gateway="gw-1")["seq"].to_list() == list(range(1100))
    report = compact(root)
    assert [done.rows for done in report.merged] == [900]  # the merged one is no larger than four times the new ones
    assert rows(root).filter(gateway="gw-1")["seq"].to_list() == list(range(1100))
    well(root)


def test_a_large_merged_file_is_not_written_anew_for_every_small_one(root: Path) -> None:
    compact(root)
    put(root, 410, 1)
    put(root, 420, 1)
    big = max((root / "telemetry/site=osaka" / DAY).glob("gw-1*.parquet"), key=lambda path: path.stat().st_size)
    for path in (root / "telemetry/site=osaka" / DAY).glob("gw-1*-0000000000041*.parquet"):
        assert path.stat().st_size * 2 > big.stat().st_size / 4  # small files are all footer here: make the old one large
    manifest = Manifest.unpack((root / "telemetry/site=osaka" / DAY / MANIFEST).read_bytes())
    assert len(manifest.merged) == 2
    files = [(LakeFile.parse(f"telemetry/site=osaka/{DAY}/{one.file}"), 10**6) for one in manifest.merged[:1]]
    small = [(LakeFile("osaka", files[0][0].date, SpoolSpan("gw-1", 1, "telemetry", n, n)), 10**4) for n in (410, 420)]
    compactor = Compactor(LocalShelf(root), Options())
    assert list(compactor._grouped([*files, *small])) == [small]
    assert list(compactor._grouped([*files, *small[:1]])) == []
    assert list(compactor._grouped([(files[0][0], 30_000), *small])) == [[(files[0][0], 30_000), *small]]


def test_a_late_retry_brings_no_row_back_and_is_cleared_away(root: Path, tmp_path: Path) -> None:
    before = rows(root)
    folder = root / "telemetry/site=osaka" / DAY
    name = "gw-1-0001-telemetry-00000000000100-00000000000199.parquet"
    shutil.copy(folder / name, tmp_path / name)
    compact(root)
    shutil.copy(tmp_path / name, folder / name)
    assert rows(root).equals(before)
    assert pl.scan_parquet(f"{root}/telemetry/**/*.parquet").collect().height == before.height + 100  # the control: a plain glob
    assert [path.rpartition("/")[2] for path in compact(root).removed] == [name]
    assert rows(root).equals(before)
    well(root)


def test_other_rows_under_a_merged_name_are_kept_and_said(root: Path) -> None:
    """Two gateways that share a name: nothing of either is thrown away."""
    compact(root)
    (path,) = put(root, 100, 100, gateway="gw-3")
    table, span = pq.read_table(path, partitioning=None).slice(0, 90), SpoolSpan("gw-1", 1, "telemetry", 100, 199)
    other = path.with_name("gw-1-0001-telemetry-00000000000100-00000000000199.parquet")
    write_file(other, table, data_metadata(table, span, enterprise="acme", site="osaka"))
    report = compact(root)
    assert "holds other rows than those that were merged under this name" in report.problems[0]
    assert other.exists()


# Crashes


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_every_point_and_run_again(root: Path, point: str) -> None:
    before = rows(root)
    _fully_used(root, point)
    _killed(root, point)
    assert rows(root).equals(before)
    compact(root)
    assert rows(root).equals(before)
    compact(root, later_us=HOURS)  # now nobody can be about to make the file count that was published
    assert rows(root).equals(before)
    well(root)
    assert len(data(root)) == 3


def _fully_used(root: Path, point: str) -> None:
    """Make sure that a run comes to the point: only what was merged twice is retired, only what was abandoned is retired unread."""
    if point in ("removed", "retired"):
        source = next((root / "telemetry/site=osaka" / DAY).glob("gw-1*.parquet"))
        name = "gw-1-0001-telemetry-00000000000000-00000000000099-mffffffffffff.parquet"
        shutil.copy(source, source.with_name(name))
        os.utime(source.with_name(name), (1, 1))


_RUN = """
import os, signal, sys, time
from pathlib import Path
from cloud_sinks.parquet.compaction import Compactor
from cloud_sinks.parquet.compaction_records import Options
from cloud_sinks.parquet.shelf import LocalShelf
point = sys.argv[2]
def at(name):
    if name == point:
        os.kill(os.getpid(), signal.SIGKILL)
    if not point:
        time.sleep(0.004)
shelf = LocalShelf(Path(sys.argv[1]))
print("ready", flush=True)
shelf.open()
Compactor(shelf, Options(grace_s=0.0 if not point else 0.2), at=at).run()
"""


def _killed(root: Path, point: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(root), point], cwd=Path(__file__).parents[3], check=False, stdout=subprocess.DEVNULL
    )
    assert done.returncode == -9, "the point was not reached"


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path) -> None:
    rng = random.Random(11)
    root = tmp_path / "lake"
    first = 0
    for attempt in range(4):
        for _ in range(6):
            put(root, first, 40, day=attempt % 2)
            first += 40
        victim = subprocess.Popen(
            [sys.executable, "-c", _RUN, str(root), ""], cwd=Path(__file__).parents[3], stdout=subprocess.PIPE
        )
        assert victim.stdout is not None
        assert victim.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0, 0.12))
        victim.kill()
        victim.wait()
        victim.stdout.close()
        assert rows(root)["seq"].to_list() == list(range(first))
    compact(root, later_us=HOURS)
    assert rows(root)["seq"].to_list() == list(range(first))
    well(root)


def _stop_at(point: str) -> Callable[[str], None]:
    def at(name: str) -> None:
        if name == point:
            raise InterruptedError

    return at


# Others at work


@pytest.mark.parametrize("point", ["merged", "published", "changing", "committed", "waited", "removed one"])
def test_another_compactor_at_every_point(root: Path, point: str) -> None:
    """One runs from beginning to end while the other stands at the point; also one that takes all for abandoned."""
    before = rows(root)
    for later_us in (0, HOURS):
        for _ in range(2):
            put(root, before["seq"].max() + 1, 30, day=3)  # type: ignore[operator]
            before = rows(root)
        busy = False

        def at(name: str, later_us: int = later_us, expected: pl.DataFrame = before) -> None:
            nonlocal busy
            assert rows(root).equals(expected)
            if name == point and not busy:
                busy = True
                compact(root, later_us=later_us)
                assert rows(root).equals(expected)

        compact(root, at=at)
        assert busy
        assert rows(root).equals(before)
    compact(root, later_us=HOURS)
    assert rows(root).equals(before)
    well(root)


def test_without_the_condition_two_compactors_would_double_rows(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test above."""

    def careless(self: LocalShelf, path: str, data: bytes, version: str | None) -> bool:
        scratch = self.scratch("careless")
        scratch.write_bytes(data)
        self.replace(scratch, path)
        return True

    before = rows(root)
    monkeypatch.setattr(LocalShelf, "swap", careless)
    busy = False

    def at(name: str) -> None:
        nonlocal busy
        if name == "changing" and not busy:
            busy = True
            compact(root)

    compact(root, at=at)
    assert rows(root).height != before.height or len(data(root)) != 3


def test_a_reader_that_looked_before_finds_its_files_through_the_grace_period(root: Path) -> None:
    before = rows(root)
    frames: list[pl.LazyFrame] = []
    now = [time.time_ns() // 1000]
    shelf = LocalShelf(root)
    shelf.open()

    def at(point: str) -> None:
        if point != "removed one":
            frames.append(lake.scan(root))

    def sleep(seconds: float) -> None:
        for frame in frames:  # whoever looked at any point until now
            assert frame.collect().height == before.height
        now[0] += int(seconds * 1e6)

    report = Compactor(shelf, Options(grace_s=60.0), now_us=lambda: now[0], sleep=sleep, at=at).run()
    shelf.close()
    assert len(report.removed) == 12
    assert len(frames) > 6
    with pytest.raises((OSError, pl.exceptions.ComputeError)):  # beyond it: loud, never fewer rows
        frames[0].collect()


def test_a_listing_that_is_older_than_the_manifest(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader lists, everything is merged and removed, the reader reads the manifest. And the control: the other way round loses rows."""
    before = rows(root)
    from cloud_sinks.places import Directory

    names, read = Directory.names, Directory.read
    listed: dict[str, list[str]] = {}
    for folder in ("telemetry", "telemetry/site=osaka", f"telemetry/site=osaka/{DAY}", "telemetry/site=osaka/date=2026-01-02"):
        listed[folder] = names(Directory(root), folder)
    put(root, 2000, 10)
    put(root, 2010, 10)
    compact(root)
    expected = rows(root)
    monkeypatch.setattr(
        Directory,
        "names",
        lambda self, folder: (listed.get(folder) or names(self, folder)) + ([MANIFEST] if "date=" in folder else []),
    )
    assert rows(root).equals(expected)
    monkeypatch.setattr(Directory, "names", names)
    monkeypatch.setattr(Directory, "read", lambda self, path: None if path.endswith(MANIFEST) else read(self, path))
    with pytest.raises(ValueError, match="is missing, and without it nobody knows"):
        rows(root)
    assert before.height == expected.height - 20


def test_a_gateway_that_writes_meanwhile(root: Path) -> None:
    expected = rows(root).height
    first = 5000

    def at(point: str) -> None:
        nonlocal expected, first
        if first == 5200:
            return
        put(root, first, 10)
        first, expected = first + 10, expected + 10
        assert rows(root).height == expected

    compact(root, at=at)
    compact(root)
    found = rows(root)
    assert found.height == expected
    assert found.select("gateway", "seq").is_unique().all()


# Damage


def _edit(path: Path) -> None:
    with pq.ParquetFile(path) as file:
        table = file.read()
    values = table.column("value").to_pylist()
    values[5] = 99.0
    column = table.schema.get_field_index("value")
    write_file(path, table.set_column(column, "value", pa.array(values, pa.float64())), read_metadata(path))


def _shuffle(path: Path) -> None:
    with pq.ParquetFile(path) as file:
        table = file.read()
    write_file(path, table.take(list(range(len(table) - 1, -1, -1))), read_metadata(path))


def _flip(path: Path) -> None:
    column = pq.read_metadata(path).row_group(0).column(2)
    data = bytearray(path.read_bytes())
    data[column.data_page_offset + column.total_compressed_size - 3] ^= 1
    path.write_bytes(bytes(data))


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def _rename(path: Path) -> None:
    path.rename(path.with_name(path.name.replace("0000000000100-", "0000000000150-")))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_edit, "its rows are not those it was written with"),
        (_shuffle, "not in order"),
        (_flip, "cannot be read"),
        (_truncate, "cannot be read"),
        (_rename, "is not what its name says"),
    ],
)
def test_a_damaged_file_is_left_alone_and_the_others_are_merged(root: Path, damage: Callable[[Path], None], said: str) -> None:
    victim = root / "telemetry/site=osaka" / DAY / "gw-1-0001-telemetry-00000000000100-00000000000199.parquet"
    damage(victim)
    there = set(data(root))
    report = compact(root)
    assert len(report.problems) == 1
    assert said in report.problems[0]
    assert sorted(done.rows for done in report.merged) == [100, 200, 700]
    assert len(set(data(root)) & there) == 1
    assert compact(root).problems == report.problems  # said until somebody has looked at it


def test_what_was_written_wrongly_never_counts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the read-back: a writer that loses a row."""
    before, there = rows(root), data(root)
    groups = merging._groups
    monkeypatch.setattr(merging, "_groups", lambda *given: (group.slice(1) for group in groups(*given)))
    report = compact(root)
    assert [problem.partition(": ")[2] for problem in report.problems] == ["what was written is not the sum of its sources"] * 3
    assert (report.merged, report.removed, data(root)) == ([], [], there)
    assert rows(root).equals(before)


def test_sources_stay_when_the_merged_file_is_damaged_before_they_go(root: Path) -> None:
    there = set(data(root))

    def at(point: str) -> None:
        if point == "waited":
            for path in (root / "telemetry").rglob("*-m*.parquet"):
                path.write_bytes(path.read_bytes()[:-1])

    report = compact(root, at=at)
    assert len(report.problems) == 3
    assert report.removed == []
    assert there < set(data(root))


def test_a_merged_file_that_vanished_gives_way_to_its_sources(root: Path) -> None:
    before = rows(root)

    def at(point: str) -> None:
        if point == "waited":
            for path in (root / "telemetry").rglob("*-m*.parquet"):
                path.unlink()

    compact(root, at=at)
    report = compact(root)
    assert ["count again" in problem for problem in report.problems] == [True] * 3
    assert rows(root).equals(before)
    assert compact(root).problems == []
    assert rows(root).equals(before)
    well(root)


def test_a_lost_manifest_is_made_again(root: Path) -> None:
    before = rows(root)
    compact(root)
    put(root, 400, 60)
    put(root, 460, 40)
    with pytest.raises(InterruptedError):  # the merged file of before is retired and still there
        compact(root, at=_stop_at("committed"))
    folder = root / "telemetry/site=osaka" / DAY
    assert len(list(folder.glob("gw-1*-m*"))) == 2
    expected = rows(root)
    (folder / MANIFEST).unlink()
    with pytest.raises(ValueError, match="genba lake compact"):
        rows(root)
    report = compact(root)
    assert report.restored == [f"telemetry/site=osaka/{DAY}"]
    assert rows(root).equals(expected)
    assert expected.height == before.height + 100
    compact(root)
    well(root)


def test_a_first_merge_that_does_not_count_yet_is_no_lost_manifest(root: Path) -> None:
    before = rows(root)
    _killed(root, "published")
    assert not (root / "telemetry/site=osaka" / DAY / MANIFEST).exists()
    assert rows(root).equals(before)


def test_a_name_is_merged_only_once(root: Path) -> None:
    """What a slow compactor published and a fast one took for abandoned never counts, however late it comes."""
    before = rows(root)

    def at(point: str) -> None:
        if point == "published":
            compact(root, later_us=HOURS)

    report = compact(root, at=at)
    assert report.merged == []
    assert rows(root).equals(before)
    well(root)


# Options


def test_only_dates_that_ended(root: Path) -> None:
    later = int(datetime(2026, 1, 3, 6, tzinfo=UTC).timestamp() * 1e6) - time.time_ns() // 1000
    assert compact(root, older_than_s=48 * 3600.0, later_us=later).merged == []
    assert {done.plan.folder.rpartition("/")[2] for done in compact(root, older_than_s=24 * 3600.0, later_us=later).merged} == {
        DAY
    }
    assert {done.plan.folder.rpartition("/")[2] for done in compact(root, later_us=later).merged} == {"date=2026-01-02"}


def test_a_dry_run_touches_nothing(root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    report = Compactor(LocalShelf(root), Options(dry_run=True)).run()
    assert [len(plan.files) for plan in report.planned] == [8, 2, 2]
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_the_target_size_bounds_what_goes_together(root: Path) -> None:
    size = max(path.stat().st_size for path in (root / "telemetry").rglob("*.parquet"))
    report = Compactor(LocalShelf(root), Options(target_bytes=3 * size, dry_run=True, kinds=("telemetry",))).run()
    assert all(plan.bytes < 4 * size for plan in report.planned)
    assert len(report.planned) > 3
    assert Compactor(LocalShelf(root), Options(target_bytes=size, dry_run=True)).run().planned == []  # all are large enough


def test_checksums_add_up(root: Path) -> None:
    """What the read-back relies on."""
    tables = [pq.read_table(path, partitioning=None) for path in (root / "telemetry/site=osaka" / DAY).glob("gw-1*.parquet")]
    total = sum(int(checksum("telemetry", table), 16) for table in tables) % 2**64
    assert f"{total:016x}" == checksum("telemetry", pa.concat_tables(tables))
    assert TARGET_BYTES // 2 >= 128 << 20


def test_several_processes_at_once_and_a_reader_that_never_stops(root: Path) -> None:
    before = rows(root)
    command = [sys.executable, "-c", _RUN, str(root), ""]
    running = [subprocess.Popen(command, cwd=Path(__file__).parents[3], stdout=subprocess.DEVNULL) for _ in range(3)]
    looks = 0
    while any(one.poll() is None for one in running):
        try:
            found = rows(root)
        except (OSError, pl.exceptions.ComputeError):  # without a grace period a file may go between the look and the reading
            continue
        assert found.equals(before)
        looks += 1
    assert [one.wait() for one in running] == [0, 0, 0]
    assert looks
    compact(root, later_us=HOURS)
    assert rows(root).equals(before)
    assert len(data(root)) == 3
    well(root)


def test_plans_are_carried_out_elsewhere(root: Path) -> None:
    """As a cluster does it: one plans, others merge, each plan as often as it is tried; and the one clears up."""
    before = rows(root)
    driver, clock = LocalShelf(root), Clock()
    driver.open()
    planner = Compactor(driver, Options(), now_us=clock.now_us, sleep=clock.sleep)
    merged = 0
    while plans := planner.plans():
        for plan in pickle.loads(pickle.dumps(plans)):  # noqa: S301 (what is sent to another process)
            for _ in range(2):  # an executor that was taken for dead
                shelf = LocalShelf(root)
                shelf.open()
                worker = Compactor(shelf, Options())
                worker.merge(plan)
                shelf.close()
                merged += len(worker.report.merged)
        assert rows(root).equals(before)
    planner.plans()
    planner.finish()
    driver.close()
    assert merged == 3
    assert len(data(root)) == 3
    assert rows(root).equals(before)
    well(root)
