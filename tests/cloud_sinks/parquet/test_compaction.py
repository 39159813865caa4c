"""Merging files of a lake: what is merged, how, and that nothing but the number of files changes."""

from __future__ import annotations

import json
import pickle
import random
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cloud_sinks.parquet import merge as merging
from cloud_sinks.parquet.checksum import checksum
from cloud_sinks.parquet.compaction import Compactor
from cloud_sinks.parquet.compaction_records import TARGET_BYTES, Options
from cloud_sinks.parquet.file import data_metadata, read_metadata, write_file
from cloud_sinks.parquet.shelf import LocalShelf
from schemas.kinds import KINDS, Kind
from schemas.lake import LakeFile
from schemas.manifest import MANIFEST, Manifest
from schemas.span import SpoolSpan
from tests.cloud_sinks.parquet.compactions import DAY, Clock, compact, data, put, rows, well, written


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
