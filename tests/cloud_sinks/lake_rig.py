"""Puts rows into a lake as the sink does, without the sink: what the tests of the reading side are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from cloud_sinks.parquet.dictionary import TagTable
from cloud_sinks.parquet.file import data_metadata, write_file
from cloud_sinks.parquet.rows import Names, parts
from cloud_sinks.parquet.store import LocalStore
from schemas.kinds import Kind, make_batch, with_seq
from schemas.lake import LakeFile
from schemas.span import SpoolSpan
from tests.conformance.sink import Tags

START = datetime(2026, 3, 1, tzinfo=UTC)
_T0 = int(START.timestamp()) * 1_000_000


@dataclass
class Lake:
    """A lake below `root`. Times are given in seconds after 2026-03-01T00:00Z."""

    root: Path
    next_row: dict[tuple[str, str], int] = field(default_factory=dict)

    def put(
        self,
        tags: Tags,
        rows: Sequence[tuple[Any, ...]],
        *,
        columns: Sequence[str] = ("time", "tag", "value"),
        kind: Kind = "telemetry",
        site: str = "osaka",
        gateway: str = "gw-1",
        **more: Any,
    ) -> list[Path]:
        """One span of rows, written as one file per date. `columns` names what a row holds; times (also `end`) are in seconds."""
        first = self.next_row.get((gateway, kind), 0)
        self.next_row[gateway, kind] = first + len(rows)
        span = SpoolSpan(gateway, 1, kind, first, first + len(rows) - 1)
        given = dict(zip(columns, zip(*rows, strict=True), strict=True))
        for name in ("time", "end"):
            if name in given:
                given[name] = tuple(_T0 + round(t * 1e6) for t in given[name])
        defaults: dict[str, Any] = {"quality": 0, "lag": 0, "origin": 0} if kind == "telemetry" else {}
        made = make_batch(kind, len(rows), **{**defaults, **{n: list(v) for n, v in given.items()}, **more})
        paths = []
        for part in parts([with_seq(made, first)], span, Names(tags)):
            path = self.root / LakeFile(site, part.date, span).path()
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, part.table, data_metadata(part.table, span, enterprise="acme", site=site))
            paths.append(path)
        return paths

    def gap(self, tags: Tags, rows: Sequence[tuple[Any, ...]], *, source: str = "plc", **more: Any) -> None:
        """Gaps as (start, end, tag id or None), in seconds."""
        self.put(tags, rows, columns=("time", "end", "tag"), kind="gap", source=source, cause="not_connected", **more)

    def describe(self, tags: Tags, *, site: str = "osaka", gateway: str = "gw-1", sink: str = "lake") -> None:
        """The data dictionary of a gateway."""
        store = LocalStore(self.root, gateway)
        store.open()
        TagTable(tags, enterprise="acme", site=site, gateway=gateway, sink=sink).write(store)


def table(path: Path) -> pa.Table:
    """A file's rows as pyarrow reads them, without what its folders say."""
    import pyarrow.parquet as pq

    with path.open("rb") as stream:
        return pq.read_table(stream)
