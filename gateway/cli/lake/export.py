"""`genba lake export`: a part of the lake as one file for hand-over, however large."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from schemas.lake import COLUMNS

from ._frames import CSV_TIME, for_csv, format_of, scratch_for
from ._location import Location, located, sites
from ._times import Interval, timed

if TYPE_CHECKING:
    import polars as pl


@click.command("export")
@located
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...")
@timed
@sites
@click.option("--kind", type=click.Choice(tuple(COLUMNS)), default="telemetry", show_default=True, help="Which table.")
@click.option(
    "--format", "format_", type=click.Choice(("parquet", "csv", "arrow")), help="By default what the name of --out ends in."
)
@click.option("--out", "-o", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The file to write.")
def command(
    location: Location,
    patterns: tuple[str, ...],
    interval: Interval,
    sites: tuple[str, ...],
    kind: Any,
    format_: str | None,
    out: Path,
) -> None:
    """Write the rows of the lake at LOCATION that fit into one Parquet, CSV or Arrow file, with every column.

    Memory stays small however much it is. Rows come in order of site, date and file, within a file by tag and time. The file
    appears under its name when it is whole.
    """
    import json

    from cloud_sinks import lake

    format = format_of(format_, out)
    if format not in ("parquet", "csv", "arrow"):
        raise click.UsageError(f"--out {out}: export writes parquet, csv or arrow")

    location.holds_a_lake()

    def read() -> pl.LazyFrame:
        asked: dict[str, Any] = {"tags": patterns or None, "start": interval.start, "end": interval.end, "sites": sites or None}
        return _shown(lake.scan(str(location), kind=kind, **asked, **location.access), interval, format)

    with location.errors():
        about = {
            "genba.kind": kind,
            "genba.source": str(location),
            "genba.tags": json.dumps(patterns, ensure_ascii=False),
            "genba.start": interval.start.isoformat() if interval.start else "",
            "genba.end": interval.end.isoformat() if interval.end else "",
        }
        with scratch_for(out) as scratch:
            try:
                _sink(read(), format, scratch, about)
            except FileNotFoundError:  # files were merged and removed since they were listed: from the beginning
                _sink(read(), format, scratch, about)
    click.echo(f"{out}: {out.stat().st_size:,} bytes", err=True)


def _shown(rows: pl.LazyFrame, interval: Interval, format: str) -> pl.LazyFrame:
    import polars.selectors as cs

    if interval.zone is not None:
        rows = rows.with_columns(cs.datetime(time_zone="*").dt.convert_time_zone(interval.zone.key))
    return for_csv(rows) if format == "csv" else rows


def _sink(rows: pl.LazyFrame, format: str, out: Path, about: dict[str, str]) -> None:
    import polars as pl

    if format == "csv":
        rows.sink_csv(out, datetime_format=CSV_TIME)
    elif format == "arrow":
        rows.sink_ipc(out, compression="zstd", compat_level=pl.CompatLevel.oldest())
    else:
        rows.sink_parquet(out, compression="zstd", row_group_size=131_072, metadata=about)
