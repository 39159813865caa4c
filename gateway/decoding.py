"""Decodes a capture offline: builds the adapter that made it, gives it the file in place of the device, and collects what comes out."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import structlog

from adapters.base import Adapter, AdapterContext
from adapters.playback import Capture, Player, Session, Trouble
from schemas import quality as q
from schemas.errors import ConfigError, EndOfStream, NotConnected
from schemas.kinds import Origin, kind_of
from schemas.tags import Tag

from . import catalogue
from .handover import Entry, from_plain
from .logs import quiet_libraries

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

MAX_ROWS = 5_000_000
"""Rows that are kept in memory; a capture of 16 MB has a few hundred thousand."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a capture holds: batches of readings in their order, and the exchanges that could not be decoded."""

    entry: Entry
    batches: Sequence[pa.RecordBatch]
    gaps: Sequence[pa.RecordBatch]
    troubles: Sequence[Trouble]
    log: Sequence[Mapping[str, Any]]
    """What the adapter logged over it."""

    @property
    def tags(self) -> Mapping[int, Tag]:
        """The tags by id."""
        return {bound.tag.id: bound.tag for bound in self.entry.tags}

    def rows(self) -> list[dict[str, Any]]:
        """Every reading as plain data: time_us, tag (path), value, value_int, text, samples (only those it has), quality and lag_ms."""
        tags = self.tags
        found = []
        for batch in self.batches:
            times = batch.column("time").cast(pa.int64()).to_pylist()
            for row, time_us in zip(batch.drop_columns(["time"]).to_pylist(), times, strict=True):
                plain: dict[str, Any] = {"time_us": time_us, "tag": tags[row["tag"]].path}
                plain |= {name: row[name] for name in ("value", "value_int", "text", "samples") if row[name] is not None}
                found.append(plain | {"quality": q.name(row["quality"]), "lag_ms": row["lag"]})
        return found

    def table(self) -> pa.Table:
        """Every reading as a table with the path of its tag."""
        paths = self.tags
        table = pa.Table.from_batches(self.batches) if self.batches else pa.table({"time": [], "tag": []})
        names = pa.array([paths[number].path for number in table.column("tag").to_pylist()], pa.string())
        return table.set_column(table.schema.get_field_index("tag"), "tag", names)


def decode(capture: Capture) -> Decoded:
    """Everything in a capture; blocking, with a loop of its own. Raises ConfigError where its kind of adapter is not installed or its
    options are of another version."""
    quiet_libraries()
    log = structlog.testing.LogCapture()
    player = Player(capture)
    batches: list[pa.RecordBatch] = []
    gaps: list[pa.RecordBatch] = []
    with TemporaryDirectory(prefix="genba-decode-") as scratch:
        directory = Path(scratch)
        entry = _entry(capture, directory)
        if not entry.config.records:  # it would ask the device
            raise ConfigError(f"adapters of kind {entry.config.kind!r} cannot decode a capture")
        if capture.sessions:
            _remember(capture.sessions[0], directory)
        context = AdapterContext(
            entry.name, entry.tags, player, directory,
            structlog.wrap_logger(None, processors=[log], wrapper_class=structlog.stdlib.BoundLogger),
            time_zone=entry.time_zone, tape=player,
        )  # fmt: skip
        plugin = catalogue.plugin("adapters", entry.config.kind)

        async def play() -> None:
            adapter: Adapter = plugin.build(entry.config, context)
            try:
                await _play(adapter, player, batches, gaps)
            finally:
                await adapter.aclose()

        asyncio.run(play())
    return Decoded(entry, batches, gaps, player.troubles, log.entries)


async def _play(adapter: Adapter, player: Player, batches: list[pa.RecordBatch], gaps: list[pa.RecordBatch]) -> None:
    rows = 0
    while True:
        try:
            await adapter.connect()
            stream = cast("AsyncGenerator[pa.RecordBatch, None]", adapter.batches())
            async with aclosing(stream):
                async for batch in stream:
                    (batches if kind_of(batch) == "telemetry" else gaps).append(_replayed(batch))
                    rows += batch.num_rows
                    if rows > MAX_ROWS:
                        raise ConfigError(f"the capture has more than {MAX_ROWS:,} readings", hint="capture less: max_size")
        except NotConnected as error:
            session = player.session
            if session is not None and not str(error).endswith(session.closed):
                player.trouble(b"", str(error))
        except EndOfStream:
            return


def _replayed(batch: pa.RecordBatch) -> pa.RecordBatch:
    at = batch.schema.get_field_index("origin")
    if at < 0:
        return batch
    origin = pa.array([int(Origin.REPLAY)] * batch.num_rows, pa.uint8())
    return batch.set_column(at, batch.schema.field(at), origin)


def _entry(capture: Capture, directory: Path) -> Entry:
    try:
        return from_plain(capture.head["entry"], directory=directory)
    except (KeyError, ValueError, TypeError) as error:
        made = capture.head.get("genba", "?")
        raise ConfigError(
            f"its configuration cannot be read: {error}", hint=f"it was made by genba {made}; decode it with that"
        ) from error


def _remember(session: Session, directory: Path) -> None:
    """What the adapter knew of refused addresses when the capture began: it did not ask for them."""
    refused = session.facts.get("refused")
    if isinstance(refused, str):
        (directory / "refused.json").write_text(refused, encoding="utf-8")


def iso(time_us: int) -> str:
    """A time as people read it, UTC with µs."""
    return datetime.fromtimestamp(time_us / 1e6, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def write_table(table: pa.Table, file: Path) -> None:
    """Readings into a Parquet or CSV file, by the name's ending; blocking. In CSV samples are left out."""
    if file.suffix == ".csv":
        from pyarrow import csv

        csv.write_csv(table.drop_columns([name for name in ("samples",) if name in table.column_names]), file)
        return
    from pyarrow import parquet

    parquet.write_table(table, file, compression="zstd")
