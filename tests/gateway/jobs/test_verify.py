"""Verification: a whole lake passes, and for every kind of defect there is one that does not; the ledger of a running gateway too."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import structlog

from cloud_sinks.parquet import PLUGIN
from cloud_sinks.parquet.config import ParquetConfig, Roll
from cloud_sinks.parquet.file import data_metadata, read_metadata, write_file
from cloud_sinks.parquet.shelf import LocalShelf
from gateway.dead_letters import bury
from gateway.delivery import Delivery
from gateway.jobs.verify import Verdict, verify
from gateway.router import Router
from gateway.spool.book import Book, Cursor, Cut
from gateway.spool.ledger_file import LedgerFile
from gateway.spool.looking import look
from gateway.spool.storage import DiskStorage
from schemas.errors import ConfigError, Rejected
from schemas.kinds import Kind, telemetry
from schemas.lake import LakeFile
from schemas.manifest import MANIFEST, Manifest, Merged, Source
from schemas.span import SpoolSpan
from schemas.values import Size
from tests.cloud_sinks.test_lake import PATHS, put
from tests.conformance.sink import T0, Tags, batch_of, context_of
from tests.gateway.cli.conftest import Genba
from tests.gateway.cli.conftest import genba as genba
from tests.gateway.samples import make_tag
from tests.gateway.spool.conftest import OpenSpool
from tests.gateway.spool.conftest import open_spool as open_spool

ROWS, SPANS = 50, 4
NOW = T0 + 7 * 86_400_000_000
LATE = 24 * 3600 * 1_000_000 - 20_000_000  # a span that begins 20 s before midnight has rows of two dates


class Plant:
    """A lake of four spans of telemetry (the last over midnight) and one of events, and the ledger that goes with it."""

    def __init__(self, directory: Path) -> None:
        self.root, self.spool = directory / "lake", directory / "spool"
        self.files = [path for span in range(SPANS - 1) for path in put(self.root, span * ROWS, ROWS)]
        self.night = _span(self.root, (SPANS - 1) * ROWS, ROWS, time_us=T0 + LATE)
        self.files += self.night
        put(self.root, 0, 10, kind="event")
        self.book = Book("gw-1", 1)
        self.book.cursors["telemetry", "lake"] = Cursor(0, SPANS * ROWS, None, SPANS * ROWS)
        self.book.cursors["event", "lake"] = Cursor(0, 10, None, 10)
        self.save()

    def save(self) -> None:
        self.spool.mkdir(exist_ok=True)
        file = LedgerFile(self.spool / "ledger", DiskStorage())
        file.load()
        file.save(self.book.pack())
        file.close()

    def verify(self, *, deep: bool = False) -> Verdict:
        shelf = LocalShelf(self.root)
        return verify(shelf, str(self.root), look=lambda: look(self.spool), deep=deep, now_us=NOW)


def _span(root: Path, first: int, rows: int, *, time_us: int = T0, name: tuple[int, int] | None = None) -> list[Path]:
    """Files of rows first …, seconds apart from `time_us` on; `name`: under the name and metadata of another span."""
    from cloud_sinks.parquet.rows import Names, parts

    tags = Tags(*PATHS)
    span = SpoolSpan("gw-1", 1, "telemetry", *(name or (first, first + rows - 1)))
    made = []
    for part in parts([batch_of("telemetry", first, rows, tags, time_us=time_us - first * 1_000_000)], span, Names(tags)):
        path = root / LakeFile("osaka", part.date, span).path()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, part.table, data_metadata(part.table, span, enterprise="acme", site="osaka"))
        made.append(path)
    return made


def codes(verdict: Verdict) -> set[str]:
    return {finding.code for finding in verdict.findings if finding.level == "problem"}


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return Plant(tmp_path)


@pytest.mark.parametrize("deep", [False, True])
def test_a_whole_lake_is_well(plant: Plant, deep: bool) -> None:
    found = plant.verify(deep=deep)
    assert found.findings == []
    assert found.ok
    assert (found.files, found.rows) == (SPANS + 1 + 1, SPANS * ROWS + 10)
    assert [(one.kind, one.found, one.delivered) for one in found.reckonings] == [("telemetry", 200, 200), ("event", 10, 10)]


def _delete(plant: Plant) -> None:
    plant.files[1].unlink()


def _delete_half_a_night(plant: Plant) -> None:
    plant.night[1].unlink()


def _double(plant: Plant) -> None:
    _span(plant.root, 60, 20)


def _double_in_its_own_name(plant: Plant) -> None:
    """The same rows under a span that nobody ever cut, as an edited copy would be."""
    _span(plant.root, 50, 50, name=(50, 98))


def _truncate(plant: Plant) -> None:
    data = plant.files[0].read_bytes()
    plant.files[0].write_bytes(data[: len(data) // 2])


def _flip(plant: Plant) -> None:
    column = pq.read_metadata(plant.files[0]).row_group(0).column(0)
    data = bytearray(plant.files[0].read_bytes())
    data[column.data_page_offset + column.total_compressed_size - 3] ^= 0x40
    plant.files[0].write_bytes(bytes(data))


def _rewrite(path: Path, change: Callable[[dict[str, list[object]]], None]) -> None:
    """Other rows under the metadata that was there."""
    import pyarrow as pa

    with pq.ParquetFile(path) as file:
        table = file.read()
    columns = table.to_pydict()
    change(columns)
    write_file(path, pa.table(columns, schema=table.schema.remove_metadata()), read_metadata(path))


def _edit(plant: Plant) -> None:
    def change(columns: dict[str, list[object]]) -> None:
        columns["value"][7] = -1.0

    _rewrite(plant.files[0], change)


def _cut_a_row(plant: Plant) -> None:
    def change(columns: dict[str, list[object]]) -> None:
        for values in columns.values():
            values.pop()

    _rewrite(plant.files[0], change)


def _row_twice(plant: Plant) -> None:
    def change(columns: dict[str, list[object]]) -> None:
        columns["seq"][3] = columns["seq"][4]

    _rewrite(plant.files[0], change)


def _of_another_gateway(plant: Plant) -> None:
    (other,) = put(plant.root, 0, ROWS, gateway="gw-2")
    other.replace(plant.files[0])


def _rows_of_another_gateway(plant: Plant) -> None:
    def change(columns: dict[str, list[object]]) -> None:
        columns["gateway"] = ["gw-2"] * ROWS

    _rewrite(plant.files[0], change)


def _wrong_folder(plant: Plant) -> None:
    folder = plant.root / "telemetry/site=osaka/date=2026-01-05"
    folder.mkdir()
    shutil.move(plant.files[0], folder / plant.files[0].name)


def _never_acknowledged(plant: Plant) -> None:
    _span(plant.root, 1000, 5)


def _crash_debris(plant: Plant) -> None:
    name = "gw-1-0001-telemetry-00000000000000-00000000000099-m0123456789ab.parquet"
    shutil.copy(plant.files[0], plant.files[0].parent / name)
    os.utime(plant.files[0].parent / name, (1, 1))


def _manifest_names_what_is_not_there(plant: Plant) -> None:
    name = "gw-1-0001-telemetry-00000000000000-00000000000099-m0123456789ab.parquet"
    manifest = Manifest((Merged(name, (Source(0, 49, 50, "0" * 16), Source(50, 99, 50, "0" * 16)), 100, "0" * 16, 1, 1),))
    (plant.files[0].parent / MANIFEST).write_bytes(manifest.pack())


def _no_manifest_any_more(plant: Plant) -> None:
    _crash_debris(plant)
    (plant.files[0].parent / MANIFEST).write_bytes(b"{")


DEFECTS: list[tuple[Callable[[Plant], None], set[str], set[str]]] = [
    (_delete, {"missing_rows"}, {"missing_rows"}),
    (_delete_half_a_night, {"missing_rows"}, {"missing_rows"}),
    (_double, {"overlapping_spans", "surplus_rows"}, {"doubled_rows", "surplus_rows"}),
    (_double_in_its_own_name, {"overlapping_spans", "doubled_rows", "surplus_rows", "wrong_row_count", "wrong_rows"}, {"doubled_rows", "surplus_rows", "wrong_row_count", "wrong_rows"}),
    (_truncate, {"unreadable_file", "missing_rows"}, {"unreadable_file", "missing_rows"}),
    (_flip, set(), {"unreadable_file", "missing_rows"}),
    (_edit, set(), {"wrong_checksum"}),
    (_cut_a_row, {"wrong_row_count", "missing_rows"}, {"wrong_row_count", "wrong_checksum", "missing_rows"}),
    (_row_twice, set(), {"wrong_checksum", "doubled_rows"}),
    (_of_another_gateway, {"wrong_metadata", "wrong_gateway"}, {"wrong_metadata", "wrong_gateway"}),
    (_rows_of_another_gateway, {"wrong_gateway"}, {"wrong_gateway"}),
    (_wrong_folder, set(), {"wrong_partition"}),
    (_never_acknowledged, {"unknown_rows"}, {"unknown_rows"}),
    (_crash_debris, {"leftover"}, {"leftover"}),
    (_manifest_names_what_is_not_there, {"missing_file", "missing_rows"}, {"missing_file", "missing_rows"}),
    (_no_manifest_any_more, {"unreadable_manifest", "missing_rows"}, {"unreadable_manifest", "missing_rows"}),
]  # fmt: skip


@pytest.mark.parametrize(("defect", "quick", "deep"), DEFECTS, ids=[defect.__name__.strip("_") for defect, _, _ in DEFECTS])
def test_every_defect_is_named(
    plant: Plant, defect: Callable[[Plant], None], quick: set[str], deep: set[str], genba: Genba
) -> None:
    defect(plant)
    assert codes(plant.verify()) == quick
    assert codes(plant.verify(deep=True)) == deep
    done = genba("lake", "verify", plant.root, "--spool", plant.spool, "--deep", "--json")
    assert done.status == 1
    assert {one["code"] for one in json.loads(done.out)["findings"] if one["level"] == "problem"} == deep


def test_missing_rows_are_named_by_number(plant: Plant) -> None:
    plant.files[1].unlink()
    (finding,) = plant.verify().findings
    assert (finding.spans, finding.rows, finding.kind, finding.gateway) == (((50, 99),), 50, "telemetry", "gw-1")
    assert finding.message == "50 acknowledged rows are not in the lake; rows 50-99"


def test_what_the_route_filtered_is_not_missing(plant: Plant) -> None:
    """A cut of which nothing was left to write has no file; the ledger counts its rows."""
    plant.files[1].unlink()
    plant.book.cursors["telemetry", "lake"] = Cursor(0, 200, None, 120, 50, 20, 10)
    plant.save()
    assert codes(plant.verify()) == {"surplus_rows"}  # 150 are there: the control
    plant.book.cursors["telemetry", "lake"] = Cursor(0, 200, None, 150, 30, 10, 10)
    plant.save()
    assert plant.verify(deep=True).ok
    plant.files[0].unlink()
    found = plant.verify()
    (finding,) = [one for one in found.findings if one.code == "missing_rows"]
    assert finding.rows == 50
    assert finding.spans == ((0, 99),)  # of these some were filtered, some are missing
    assert "one or several of" in finding.message


def test_a_cut_in_flight_may_be_there_or_not(plant: Plant) -> None:
    plant.book.cursors["telemetry", "lake"] = Cursor(0, 150, Cut(150, 199), 150)
    plant.save()
    found = plant.verify()
    assert found.ok
    assert [one.beyond for one in found.reckonings] == [50, 0]
    for path in plant.night:
        path.unlink()
    assert plant.verify().ok
    _span(plant.root, 150, 49)  # another cut of the same rows
    assert codes(plant.verify()) == {"unknown_rows"}


def test_a_ledger_that_does_not_add_up_is_said(plant: Plant) -> None:
    plant.book.cursors["telemetry", "lake"] = Cursor(0, 200, None, 199)
    plant.save()
    assert "unbalanced_ledger" in codes(plant.verify())


def test_which_sink_must_be_said_where_there_are_several(plant: Plant, genba: Genba) -> None:
    plant.book.cursors["telemetry", "cloud"] = Cursor(0, 0)
    plant.save()
    with pytest.raises(ConfigError, match="knows cloud, lake"):
        plant.verify()
    assert genba("lake", "verify", plant.root, "--spool", plant.spool).status == 2
    done = genba("lake", "verify", plant.root, "--spool", plant.spool, "--sink", "lake")
    assert (done.status, done.out.splitlines()[-1]) == (0, "all is well (footers were read; --deep reads every row)")


def test_by_the_configuration_of_the_plant(plant: Plant, genba: Genba, tmp_path: Path) -> None:
    yaml = tmp_path / "plant.yaml"
    yaml.write_text("enterprise: acme\nsite: osaka\ngateway: gw-1\nsinks:\n  lake: {kind: parquet, location: ./lake}\n")
    done = genba("lake", "verify", plant.root, yaml)
    assert (done.status, done.err) == (0, "")
    assert "200 of 200 delivered rows are there" in done.out
    yaml.write_text(yaml.read_text().replace("./lake", "./elsewhere"))
    assert genba("lake", "verify", plant.root, yaml).status == 2


def test_nothing_is_written(plant: Plant) -> None:
    before = {path: path.stat().st_mtime_ns for path in plant.root.parent.rglob("*")}
    plant.verify(deep=True)
    assert {path: path.stat().st_mtime_ns for path in plant.root.parent.rglob("*")} == before
    with pytest.raises(ConfigError, match="no ledger"):
        look(plant.root)
    assert not (plant.root / "ledger").exists()


async def test_beside_a_running_gateway_and_after_it_died(open_spool: OpenSpool, tmp_path: Path, manual_clock: object) -> None:
    """The real spool, router, delivery and sink: filtered, rejected and delivered rows are all explained, with the spool locked."""
    tags = [make_tag(number) for number in range(4)]
    spool = await open_spool(gateway="gw-1")
    context = context_of(tmp_path, manual_clock, Tags(*(tag.path for tag in tags)))  # type: ignore[arg-type]
    sink = PLUGIN.build(ParquetConfig(location="lake", roll=Roll(max_rows=64, max_size=Size("1 MB"))), context)
    dead_letters = tmp_path / "spool" / "dead-letters"

    async def report(event: str, severity: str, message: str) -> None:
        del event, severity, message

    class Rule:
        data: Kind = "telemetry"
        to = ("lake",)
        tags = ("**/t0", "**/t2", "**/t3")

    await spool.ledger.register("telemetry", "lake")
    delivery = Delivery(
        "lake", sink, ("telemetry",), spool=spool, router=Router([Rule()], {"lake": "parquet"}, tags), clock=context.clock,  # type: ignore[list-item]
        rng=random.Random(1), dead_letters=dead_letters, report=report, log=structlog.get_logger(),
    )  # fmt: skip
    rng = np.random.default_rng(3)
    for _ in range(10):
        ids = rng.integers(0, 4, 50).astype(np.int32)
        await spool.put("telemetry", telemetry(time_us=T0 + np.arange(50), tag=ids, value=np.arange(50.0)))
    await spool.flush()
    delivery.finish()
    await delivery.run()
    cursor = spool.ledger.cursor("telemetry", "lake")
    assert cursor.acked == 500
    assert cursor.filtered
    last = await spool.put("telemetry", telemetry(time_us=T0, tag=np.zeros(5, np.int32), value=1.0))
    await spool.flush()
    await spool.ledger.begin_cut("telemetry", "lake", last, last + 4)
    batch = batch_of("telemetry", last, 5, context.tags)  # type: ignore[arg-type]
    span = SpoolSpan("gw-1", spool.epoch, "telemetry", last, last + 4)
    await asyncio.to_thread(bury, dead_letters / "lake", [batch], span, Rejected("no", frozenset({last})))
    await spool.ledger.acknowledge("telemetry", "lake", last + 4, delivered=0, filtered=4, dead_lettered=1)
    await spool.ledger.save()

    def look_at_it() -> Verdict:
        shelf = LocalShelf(tmp_path / "lake")
        directory = tmp_path / "spool"
        return verify(shelf, "lake", look=lambda: look(directory), dead_letters=dead_letters / "lake", deep=True, now_us=NOW)

    alive = await asyncio.to_thread(look_at_it)
    assert alive.findings == []
    await spool.close()
    dead = await asyncio.to_thread(look_at_it)
    assert dead.findings == []
    (one,) = dead.reckonings
    assert (one.found, one.filtered, one.dead_lettered) == (cursor.delivered, cursor.filtered + 4, 1)
    victim = sorted((tmp_path / "lake" / "telemetry").rglob("*.parquet"))[0]
    victim.unlink()
    assert codes(await asyncio.to_thread(look_at_it)) == {"missing_rows"}
