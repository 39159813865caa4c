"""Merging files of a lake: each row once, for every reader at every moment, whoever dies or works beside it, whatever is damaged."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cloud_sinks import lake
from cloud_sinks.parquet import merge as merging
from cloud_sinks.parquet.compaction import Compactor
from cloud_sinks.parquet.compaction_records import Options
from cloud_sinks.parquet.file import read_metadata, write_file
from cloud_sinks.parquet.shelf import LocalShelf
from schemas.manifest import MANIFEST
from tests.cloud_sinks.parquet.compactions import DAY, HOURS, POINTS, compact, data, put, rows, well

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
