"""The Parquet sink: the suite every sink passes, and what is its own: exactly once, dates, disks, the data dictionary."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import structlog

from cloud_sinks import lake
from cloud_sinks.base import Sink, SinkContext
from cloud_sinks.parquet import PLUGIN
from cloud_sinks.parquet.config import ParquetConfig, check
from cloud_sinks.parquet.store import LocalStore
from gateway.registry import TagRegistry
from schemas.errors import ConfigError, NotConnected
from schemas.kinds import KINDS, Kind, telemetry, with_seq
from schemas.lake import COLUMNS
from schemas.tags import TagVersion
from tests.conformance.sink import T0, SinkConformance, Tags, batch_of, context_of, span_of
from tests.conftest import ManualClock

DAY = 86_400_000_000


class LakeHarness:
    """A lake behind a symbolic link, so that its disk can be taken away."""

    exactly_once = True
    kinds = KINDS

    def __init__(self, directory: Path) -> None:
        self._disk, self._away = directory / "disk", directory / "away"
        self._disk.mkdir()
        (directory / "lake").symlink_to(self._disk)

    def build(self, context: SinkContext) -> Sink:
        return PLUGIN.build(ParquetConfig(location="./lake"), context)

    async def down(self) -> None:
        self._disk.rename(self._away)

    async def up(self) -> None:
        self._away.rename(self._disk)

    async def rows(self, kind: Kind, context: SinkContext, expected: int) -> list[tuple[int, str]]:
        number = "row" if kind in ("score", "health") else "seq"
        files = sorted(context.base.glob(f"lake/{kind}/*/*/*.parquet"))
        return [row for file in files for row in pl.read_parquet(file).select(number, "tag").rows()]


class TestConformance(SinkConformance):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> LakeHarness:
        return LakeHarness(tmp_path)


def files(context: SinkContext, under: str = "") -> list[str]:
    root = context.base / "lake"
    return sorted(
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_file() and str(path.relative_to(root)).startswith(under)
    )


def build(context: SinkContext) -> Sink:
    return PLUGIN.build(ParquetConfig(location="lake"), context)


async def scanned(context: SinkContext) -> pl.DataFrame:
    """Readers are for notebooks and may block, so not on the loop."""
    return await asyncio.to_thread(lambda: lake.scan(context.base / "lake").collect())


async def tags_of(base: Path) -> pl.DataFrame:
    return await asyncio.to_thread(lake.tags, base / "lake")


async def write(context: SinkContext, kind: Kind, first: int, rows: int, **changes: int) -> None:
    sink = build(context)
    await sink.connect()
    try:
        assert isinstance(context.tags, Tags)
        await sink.write([batch_of(kind, first, rows, context.tags, **changes)], span_of(kind, first, rows))
    finally:
        await sink.aclose()


async def test_layout_names_and_metadata(context: SinkContext) -> None:
    await write(context, "telemetry", 5, 100)
    path = "telemetry/site=osaka/date=2026-01-01/gw-1-0001-telemetry-00000000000005-00000000000104.parquet"
    assert files(context) == ["tags/site=osaka/gw-1.parquet", path]
    about = pq.read_metadata(context.base / "lake" / path)
    said = {k.decode(): v.decode() for k, v in about.metadata.items() if k.startswith(b"genba.")}
    assert said.pop("genba.checksum")
    assert said == {
        "genba.schema_version": "1", "genba.kind": "telemetry", "genba.enterprise": "acme", "genba.site": "osaka",
        "genba.gateway": "gw-1", "genba.epoch": "1", "genba.first": "5", "genba.last": "104", "genba.rows": "100", "genba.units": '["Cel"]',
    }  # fmt: skip
    assert {about.row_group(0).column(i).compression for i in range(about.num_columns)} == {"ZSTD"}
    assert about.row_group(0).column(0).has_column_index
    assert [about.schema.column(i).path.split(".")[0] for i in range(about.num_columns)] == [c.name for c in COLUMNS["telemetry"]]


async def test_a_span_over_midnight_is_one_file_a_date_of_the_same_name(context: SinkContext) -> None:
    await write(context, "telemetry", 0, 10, time_us=T0 + DAY - 4_000_000)
    found = files(context, "telemetry")
    assert [path.split("/")[2] for path in found] == ["date=2026-01-01", "date=2026-01-02"]
    assert len({os.path.basename(path) for path in found}) == 1
    assert [len(pl.read_parquet(context.base / "lake" / path)) for path in found] == [4, 6]


async def test_a_crash_between_the_two_dates_is_healed_by_the_retry(context: SinkContext) -> None:
    await write(context, "telemetry", 0, 10, time_us=T0 + DAY - 4_000_000)
    late, early = files(context, "telemetry")[1], files(context, "telemetry")[0]
    before = (context.base / "lake" / early).stat().st_ino
    (context.base / "lake" / late).unlink()
    await write(context, "telemetry", 0, 10, time_us=T0 + DAY - 4_000_000)
    assert len(files(context, "telemetry")) == 2
    assert (context.base / "lake" / early).stat().st_ino == before
    assert (await scanned(context)).sort("seq")["seq"].to_list() == list(range(10))


async def test_another_file_under_the_same_name_is_never_overwritten(context: SinkContext) -> None:
    await write(context, "telemetry", 0, 10)
    path = context.base / "lake" / files(context, "telemetry")[0]
    before = path.read_bytes()
    sink = build(context)
    await sink.connect()
    assert isinstance(context.tags, Tags)
    other = batch_of("telemetry", 0, 10, context.tags, time_us=T0 + 1)
    with pytest.raises(ConfigError, match=r"holds other rows \(10, checksum .* name of its own"):
        await sink.write([other], span_of("telemetry", 0, 10))
    assert path.read_bytes() == before
    path.write_bytes(b"not parquet at all")
    with pytest.raises(ConfigError, match="not readable"):
        await sink.write([batch_of("telemetry", 0, 10, context.tags)], span_of("telemetry", 0, 10))
    await sink.aclose()
    assert [name for name in files(context) if ".tmp" in name] == []


async def test_a_changed_unit_does_not_make_a_retry_another_write(context: SinkContext) -> None:
    await write(context, "telemetry", 0, 10)
    await write(replace(context, tags=Tags(*(tag.path for tag in context.tags), unit="[degF]")), "telemetry", 0, 10)
    assert (await scanned(context)).height == 10


async def test_leftovers_of_a_crash_are_removed_and_never_seen(context: SinkContext) -> None:
    leftover = context.base / "lake" / ".tmp-gw-1" / "torn.parquet.part"
    theirs = context.base / "lake" / ".tmp-gw-2" / "busy.parquet.part"
    for path in (leftover, theirs):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"PAR1")
    await write(context, "telemetry", 0, 10)
    assert not leftover.exists()
    assert theirs.exists()
    assert pl.scan_parquet(context.base / "lake" / "telemetry" / "**" / "*.parquet").collect().height == 10


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "no permission"),
        (errno.EIO, "input/output error"),
    ],
)
@pytest.mark.parametrize("at", ["fsync", "link"])
async def test_a_disk_that_refuses_is_not_connected_in_words_and_heals(
    context: SinkContext, monkeypatch: pytest.MonkeyPatch, number: int, words: str, at: str
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    sink = build(context)
    await sink.connect()
    assert isinstance(context.tags, Tags)
    batch, span = batch_of("telemetry", 0, 10, context.tags), span_of("telemetry", 0, 10)
    with monkeypatch.context() as patch:
        # EPERM from link means a file system without links, so only the others are refusals
        patch.setattr(os, at, refuse)
        with pytest.raises(NotConnected, match=words):
            await sink.write([batch], span)
    assert files(context, "telemetry") == []
    assert files(context, ".tmp") == []
    await sink.connect()
    await sink.write([batch], span)
    await sink.aclose()
    assert (await scanned(context)).height == 10


async def test_half_a_file_that_a_full_disk_left_is_removed(context: SinkContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """The room it takes is wanted by others. A disk that is really full: tests/cloud_sinks/test_cloud_faults.py."""

    def half(path: Path, *_: object) -> None:
        path.write_bytes(b"PAR1")
        raise OSError(errno.ENOSPC, "No space left on device")

    sink = build(context)
    await sink.connect()
    assert isinstance(context.tags, Tags)
    with monkeypatch.context() as patch:
        patch.setattr("cloud_sinks.parquet.publish.write_file", half)
        with pytest.raises(NotConnected, match=r"the disk is full \(ENOSPC"):
            await sink.write([batch_of("telemetry", 0, 10, context.tags)], span_of("telemetry", 0, 10))
    assert files(context, ".tmp") == []
    await sink.aclose()


@pytest.mark.parametrize("in_its_place", ["nothing", "an empty directory"])
@pytest.mark.parametrize("restarted", [False, True])
async def test_a_lake_whose_disk_is_not_mounted_is_waited_for_and_not_begun_anew(
    context: SinkContext, in_its_place: str, restarted: bool
) -> None:
    await write(context, "telemetry", 0, 10)
    sink = build(context)
    if not restarted:
        await sink.connect()
    root, aside = context.base / "lake", context.base / "aside"
    root.rename(aside)
    if in_its_place != "nothing":
        root.mkdir()
    for _ in range(2):
        with pytest.raises(NotConnected, match=r"vanished.*mount it again, or begin a new lake there: mkdir -p .*\.tmp-gw-1"):
            await sink.connect()
    assert not list(root.rglob("*"))
    if in_its_place != "nothing":
        root.rmdir()
    aside.rename(root)
    await sink.connect()
    await sink.aclose()
    await write(context, "telemetry", 10, 10)
    assert (await scanned(context)).height == 20


async def test_a_person_may_begin_a_new_lake_in_the_place_of_one_that_is_gone(context: SinkContext) -> None:
    await write(context, "telemetry", 0, 10)
    shutil.rmtree(context.base / "lake")
    (context.base / "lake" / ".tmp-gw-1").mkdir(parents=True)
    await write(context, "telemetry", 10, 10)
    assert (await scanned(context)).height == 10


async def test_a_file_system_without_links_keeps_what_is_there(context: SinkContext, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    await write(context, "telemetry", 0, 10)
    path = context.base / "lake" / files(context, "telemetry")[0]
    inode = path.stat().st_ino
    await write(context, "telemetry", 0, 10)
    assert path.stat().st_ino == inode
    assert files(context, ".tmp") == []


async def test_a_location_that_is_a_file_or_a_service_is_for_a_person(context: SinkContext) -> None:
    (context.base / "lake").write_text("x")
    sink = build(context)
    with pytest.raises(ConfigError, match="not a directory"):
        await sink.connect()
    await sink.aclose()
    remote = ParquetConfig(location="gs://acme-plant-lake/genba")
    with pytest.raises(ConfigError, match="gs://"):
        PLUGIN.build(remote, context)
    (finding,) = check(remote)
    assert finding.loc == ("location",)
    assert list(check(ParquetConfig(location="./lake"))) == []


async def test_all_blocking_work_is_done_in_one_thread_off_the_loop(
    context: SinkContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That nothing blocks the loop is watched in every test; that it is one thread, here."""
    seen: set[str] = set()
    real = LocalStore.publish

    def spy(self: LocalStore, scratch: Path, path: str) -> bool:
        seen.add(threading.current_thread().name)
        return real(self, scratch, path)

    monkeypatch.setattr(LocalStore, "publish", spy)
    await write(context, "telemetry", 0, 1000)
    await write(context, "telemetry", 1000, 1000)
    assert seen == {"genba-lake-out_0"}


async def test_a_cancelled_write_finishes_before_the_next_one(context: SinkContext) -> None:
    sink = build(context)
    await sink.connect()
    assert isinstance(context.tags, Tags)
    batch, span = batch_of("telemetry", 0, 5000, context.tags), span_of("telemetry", 0, 5000)
    task = asyncio.ensure_future(sink.write([batch], span))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await sink.write([batch], span)
    await sink.aclose()
    assert (await scanned(context)).height == 5000


class History(Tags):
    """A directory that remembers: the first tag was once described otherwise."""

    def history(self) -> Iterator[TagVersion]:
        first, *others = self
        yield TagVersion(replace(first, unit="K", label="old"), T0, T0 + 5)
        yield TagVersion(first, T0 + 5)
        for tag in others:
            yield TagVersion(tag, T0)


async def test_tags_table_tells_versions_and_when_seen(tmp_path: Path, manual_clock: ManualClock) -> None:
    tags = History("acme/osaka/b", "acme/osaka/a", "acme/osaka/never")
    context = context_of(tmp_path, manual_clock, tags)
    sink = build(context)
    await sink.connect()
    two = with_seq(telemetry(time_us=T0 + 7, tag=pa.array([0, 1], pa.int32()).to_numpy(), value=1.0), 0)
    await sink.write([two], span_of("telemetry", 0, 2))
    await sink.aclose()
    table = await tags_of(tmp_path)
    assert table.select("tag", "unit", "label").rows() == [
        ("acme/osaka/a", "Cel", ""), ("acme/osaka/b", "K", "old"), ("acme/osaka/b", "Cel", ""), ("acme/osaka/never", "Cel", ""),
    ]  # fmt: skip
    assert table["valid_from"].dt.epoch("us").to_list() == [T0, T0, T0 + 5, T0]
    assert table["valid_to"].dt.epoch("us").to_list() == [None, T0 + 5, None, None]
    assert table["last_seen"].dt.epoch("us").to_list() == [T0 + 7] * 3 + [None]
    assert table["gateway"].unique().to_list() == ["gw-1"]


async def test_tags_table_is_kept_over_restarts_and_renewed_for_new_tags(context: SinkContext, manual_clock: ManualClock) -> None:
    await write(context, "telemetry", 0, 3)
    path = context.base / "lake" / "tags/site=osaka/gw-1.parquet"
    inode = path.stat().st_ino
    sink = build(context)
    await sink.connect()
    assert path.stat().st_ino == inode, "an unchanged dictionary is not written again"
    assert isinstance(context.tags, Tags)
    added = context.tags.add("acme/osaka/new/tag")
    await sink.write([batch_of("telemetry", 4, 8, context.tags)], span_of("telemetry", 4, 8))
    assert (await tags_of(context.base)).filter(tag=added.path).height == 1
    manual_clock.step(3601)
    await sink.write([batch_of("telemetry", 12, 8, context.tags)], span_of("telemetry", 12, 8))
    assert (await tags_of(context.base))["first_seen"].null_count() == 0
    await sink.aclose()
    first = (await tags_of(context.base)).filter(tag=context.tags[0].path)
    assert first["first_seen"].dt.epoch("us").item() == T0, "what an earlier run saw is kept"


async def test_a_broken_tags_table_is_made_again(context: SinkContext) -> None:
    await write(context, "telemetry", 0, 3)
    path = context.base / "lake" / "tags/site=osaka/gw-1.parquet"
    path.write_bytes(b"garbage")
    await write(context, "telemetry", 3, 3)
    assert (await tags_of(context.base)).height == 3


async def test_first_seen_is_there_as_soon_as_the_rows_are(context: SinkContext) -> None:
    """A gateway that is killed loses no first reading of a tag, also one that came late; no file is written that says nothing new."""
    sink = build(context)
    await sink.connect()
    assert isinstance(context.tags, Tags)
    await sink.write([batch_of("telemetry", 0, 6, context.tags)], span_of("telemetry", 0, 6))
    path = context.base / "lake/tags/site=osaka/gw-1.parquet"
    first = (await tags_of(context.base)).sort("tag")["first_seen"].dt.epoch("us").to_list()
    assert first == [T0 + 2_000_000, T0, T0 + 1_000_000]
    inode = path.stat().st_ino
    await sink.write([batch_of("telemetry", 6, 6, context.tags)], span_of("telemetry", 6, 6))
    assert path.stat().st_ino == inode, "later readings wait for the hourly renewal"
    late = batch_of("telemetry", 12, 6, context.tags, time_us=T0 - 3 * DAY)
    await sink.write([late], span_of("telemetry", 12, 6))
    assert (await tags_of(context.base))["first_seen"].dt.epoch("us").min() == T0 - 3 * DAY + 12_000_000
    again = build(context)  # as after a kill: the first sink is never closed
    await again.connect()
    assert (await tags_of(context.base))["first_seen"].dt.epoch("us").min() == T0 - 3 * DAY + 12_000_000
    await again.aclose()
    await sink.aclose()


async def test_what_becomes_of_tags_over_changes_of_the_configuration(tmp_path: Path, manual_clock: ManualClock) -> None:
    """Renamed unit, a tag that goes and comes back, a clock set back, a start that was killed before the lake knew: by the real registry."""
    spool = tmp_path / "spool"
    spool.mkdir()
    base = [replace(tag, id=-1) for tag in Tags("acme/osaka/p/temp", "acme/osaka/p/flow")]
    temp, flow = base
    steps = [
        ([temp, flow], 0),
        ([replace(temp, unit="K"), flow], 100),  # another unit
        ([replace(temp, unit="K")], 200),  # flow is removed
        ([replace(temp, unit="K"), flow], 150),  # it comes back, on a clock that was set back
        ([replace(temp, unit="K", description="outlet"), flow], 300),
    ]
    for row, (tags, after) in enumerate(steps):
        registry = await TagRegistry.open(spool, log=structlog.get_logger())
        resolved = await registry.resolve(tags, T0 + after, row=row * 4)
        if row == 3:
            continue  # killed before the sink was built
        context = replace(context_of(tmp_path, manual_clock), tags=registry)
        sink = build(context)
        await sink.connect()
        ids = np.array([tag.id for tag in resolved] * 2, dtype=np.int32)
        rows = with_seq(telemetry(time_us=T0 + after + np.arange(len(ids)), tag=ids, value=1.0), row * 4)
        await sink.write([rows], span_of("telemetry", row * 4, len(ids)))
        await sink.aclose()
    found = (await tags_of(tmp_path)).select(
        "tag", "unit", "description", pl.col("valid_from").dt.epoch("us") - T0, pl.col("valid_to").dt.epoch("us") - T0
    )
    assert found.rows() == [
        ("acme/osaka/p/flow", "Cel", "", 0, 200),
        ("acme/osaka/p/flow", "Cel", "", 200, None),
        ("acme/osaka/p/temp", "Cel", "", 0, 100),
        ("acme/osaka/p/temp", "K", "", 100, 300),
        ("acme/osaka/p/temp", "K", "outlet", 300, None),
    ]
    units = (await scanned(context)).sort("seq").select("tag", "unit").rows()
    assert [unit for tag, unit in units if tag.endswith("temp")] == ["Cel"] * 2 + ["K"] * 6
    assert (await tags_of(tmp_path)).group_by("tag").agg(pl.col("first_seen").unique().dt.epoch("us") - T0).sort("tag")[
        "first_seen"
    ].to_list() == [[1], [0]]


async def test_two_gateways_of_a_site_describe_their_tags_each(context: SinkContext) -> None:
    await write(context, "telemetry", 0, 3)
    other = replace(context, gateway="gw-2", tags=Tags("acme/osaka/other/tag", context.tags[0].path, unit="K"))
    sink = build(other)
    await sink.connect()
    assert isinstance(other.tags, Tags)
    await sink.write([batch_of("telemetry", 0, 2, other.tags)], span_of("telemetry", 0, 2, gateway="gw-2"))
    await sink.aclose()
    both = (await tags_of(context.base)).filter(tag=context.tags[0].path).sort("gateway")
    assert both.select("gateway", "unit").rows() == [("gw-1", "Cel"), ("gw-2", "K")]
    found = await scanned(context)
    assert found.filter(tag=context.tags[0].path).sort("gateway").select("gateway", "unit").rows() == [
        ("gw-1", "Cel"),
        ("gw-2", "K"),
    ]


async def test_a_hundred_thousand_tags_are_described_and_renewed(tmp_path: Path, manual_clock: ManualClock) -> None:
    tags = Tags(*(f"acme/osaka/m-{n // 20:04d}/t-{n % 20:02d}" for n in range(100_000)))
    context = context_of(tmp_path, manual_clock, tags)
    sink = build(context)
    await sink.connect()
    ids = np.arange(99_999, -1, -1, dtype=np.int32)
    await sink.write(
        [with_seq(telemetry(time_us=T0 + ids.astype(np.int64), tag=ids, value=1.0), 0)], span_of("telemetry", 0, 100_000)
    )
    await sink.aclose()
    table = await tags_of(tmp_path)
    assert table.height == 100_000
    assert table["tag"].is_sorted()
    by_tag = {tag.path: T0 + tag.id for tag in list(tags)[::997]}
    some = table.filter(pl.col("tag").is_in(list(by_tag))).select("tag", pl.col("last_seen").dt.epoch("us"))
    assert dict(some.rows()) == by_tag
    assert (context.base / "lake/tags/site=osaka/gw-1.parquet").stat().st_size < 2_000_000


def files_of(context: SinkContext) -> list[Path]:
    return sorted((context.base / "lake/telemetry").rglob("*.parquet"))


@pytest.mark.parametrize("noise", [0.01, 1e12], ids=["quantised", "every bit"])
async def test_a_file_is_about_as_large_as_max_size_says(context: SinkContext, noise: float) -> None:
    """Cut as delivery cuts, by the policy of the moment: after the first file the sink knows how large its rows become."""
    config = ParquetConfig.model_validate({"location": "lake", "roll": {"max_size": "1 MB", "max_rows": 10_000_000}})
    sink = PLUGIN.build(config, context)
    await sink.connect()
    rng, first, policies = np.random.default_rng(4), 0, []
    for _ in range(4):
        policy = sink.policy("telemetry")
        policies.append(policy)
        rows = min(policy.max_rows, policy.max_bytes // 20)  # as the spool counts rows: time, tag and value
        value = np.round(rng.normal(50, 1, rows) / noise) * noise if noise < 1 else rng.normal(size=rows)
        batch = telemetry(time_us=T0 + np.arange(rows) * 1000, tag=(np.arange(rows) % 3).astype(np.int32), value=value)
        await sink.write([with_seq(batch, first)], span_of("telemetry", first, rows))
        first += rows
    await sink.aclose()
    assert policies[0].max_bytes == 1_000_000, "nothing is known yet: rows in memory are never smaller than in the file"
    sizes = [path.stat().st_size for path in files_of(context)]
    assert sizes[0] < 1_050_000
    assert all(700_000 < size < 1_300_000 for size in sizes[2:]), sizes


async def test_small_files_do_not_mislead_about_the_size_of_a_row(context: SinkContext) -> None:
    sink = build(context)
    await sink.connect()
    assert isinstance(context.tags, Tags)
    before = sink.policy("event")
    for n in range(5):
        await sink.write([batch_of("event", n, 1, context.tags)], span_of("event", n, 1))
    assert sink.policy("event") == before
    await sink.aclose()
