"""`genba lake query`: readings, or any other table of the lake, as rows, as a wide table, or by SQL."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from schemas.errors import ConfigError
from schemas.lake import COLUMNS

from ._frames import for_people as words
from ._frames import format_of, outputs, write
from ._location import Location, located, sites
from ._times import Interval, timed

if TYPE_CHECKING:
    import polars as pl

HOW = ("last", "mean", "min", "max", "time_weighted")


def gridded(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a wide table: `wide`, `every`, and the keyword arguments of `lake.pivot` as `how`, `tolerance`, …"""
    for option in reversed(
        (
            click.option("--wide", is_flag=True, help="A row per moment and a column per tag, with units."),
            click.option("--every", metavar="SPAN", help="Distance of the moments, which makes the table wide.  [default: 1s]"),
            click.option(
                "--how", type=click.Choice(HOW), default="last", show_default=True,
                help="The value at the moment, or over the time from it to the next.",
            ),
            click.option("--tolerance", metavar="SPAN", default="5m", show_default=True, help="How long a reading may hold."),
            click.option(
                "--units", type=click.Choice(("refuse", "split")), default="refuse", show_default=True,
                help="A tag whose unit changed: an error, or a column per unit.",
            ),
            click.option("--uncertain", is_flag=True, help="Take uncertain readings for good ones."),
        )
    ):  # fmt: skip
        function = option(function)
    return function


@click.command("query")
@located
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...")
@timed
@sites
@click.option("--kind", type=click.Choice(tuple(COLUMNS)), default="telemetry", show_default=True, help="Which table.")
@gridded
@click.option("--sql", help="A SELECT over `telemetry`, `alert`, …, `tags`: of what the other options leave.")
@click.option("--limit", type=click.IntRange(1), help="At most so many rows, the oldest.")
@outputs("table", "csv", "json", "parquet", "arrow")
def command(
    location: Location,
    patterns: tuple[str, ...],
    interval: Interval,
    sites: tuple[str, ...],
    kind: str,
    wide: bool,
    every: str | None,
    sql: str | None,
    limit: int | None,
    format_: str | None,
    out: Path | None,
    **grid: Any,
) -> None:
    """Show readings of the lake at LOCATION, in order of time: one row per reading, or a wide table, or what SQL asks for.

    \b
    genba lake query ./lake '**/motor_temp' --last 8h
    genba lake query ./lake 'press-07/*' --start 2026-03-01 --zone Asia/Tokyo --every 1m --how mean --out press.csv
    genba lake query ./lake --sql "select tag, avg(value) from telemetry group by tag"

    Only files that can hold what is asked for are read. For more rows than fit into memory there is `genba lake export`.
    """
    wide = wide or every is not None
    if sql is not None and wide:
        raise click.UsageError("--sql makes its own table; it does not go with --wide or --every")
    if wide and kind != "telemetry":
        raise click.UsageError(f"a wide table is made of readings; {kind} has none")
    format = format_of(format_, out)
    asked: dict[str, Any] = {
        "tags": patterns or None, "start": interval.start, "end": interval.end, "sites": sites or None, **location.access,
    }  # fmt: skip
    location.holds_a_lake()
    with location.errors():
        units: dict[str, str] = {}
        if sql is not None:
            frames: Iterable[pl.DataFrame] = [_sql(sql, str(location), asked, limit)]
        elif wide:
            frames, units = _wide(str(location), asked, every or "1s", limit, grid)
            if not units:
                location.say_why_nothing(patterns, sites)
        else:
            frames = [_rows(str(location), kind, asked, limit, for_people=format == "table")]
            if frames[0].is_empty():
                location.say_why_nothing(patterns, sites)
        write((_shown_in(frame, interval) for frame in frames), format, out, units=units)


def _rows(location: str, kind: Any, asked: dict[str, Any], limit: int | None, *, for_people: bool) -> pl.DataFrame:
    from cloud_sinks import lake

    frame = lake.scan(location, kind=kind, **asked)
    most = min(limit or 1_001, 1_001) if for_people else limit
    order = [name for name in ("time", "tag", "seq") if name in frame.collect_schema()]
    frame = frame.sort(*order) if most is None else frame.sort(*order).head(most)
    found = frame.collect(engine="streaming")
    if for_people:  # columns without anything to say are left out
        quiet = [
            name for name in found.columns if name not in ("time", "tag", "value") and found[name].null_count() == found.height
        ]
        found = found.drop(*quiet, "gateway", "epoch", "seq", "row", "date", "lag", strict=False)
        found = words(found)
    return found


def _wide(
    location: str, asked: dict[str, Any], every: str, limit: int | None, grid: dict[str, Any]
) -> tuple[Iterable[pl.DataFrame], dict[str, str]]:
    from itertools import chain

    import polars as pl

    from cloud_sinks import lake

    made = lake.pivot(location, every=every, **grid, **asked)
    batches = made.batches() if limit is None else made.head(limit).batches()
    return chain([pl.DataFrame(schema=made.schema)], batches), dict(made.units)


def _sql(sql: str, location: str, asked: dict[str, Any], limit: int | None) -> pl.DataFrame:
    """Raises ConfigError for SQL that cannot be understood, with the tables there are."""
    import polars as pl
    import polars.exceptions as pe

    from cloud_sinks import lake

    words = set(re.findall(r"\w+", sql.lower()))
    context: pl.SQLContext[Any] = pl.SQLContext()
    for kind in COLUMNS:
        if kind in words:  # a bucket is listed only for what is asked
            context.register(kind, lake.scan(location, kind=kind, **asked))
    if "tags" in words:
        about = {name: value for name, value in asked.items() if name not in ("start", "end")}
        context.register("tags", lake.tags(location, **about).lazy())
    try:
        found = context.execute(sql, eager=False)
        return (found if limit is None else found.head(limit)).collect(engine="streaming")
    except (pe.SQLInterfaceError, pe.SQLSyntaxError, pe.ColumnNotFoundError, pe.InvalidOperationError, pe.SchemaError) as error:
        said = str(error).strip().partition("\n")[0]
        raise ConfigError(f"--sql: {said}", hint=f"tables are {', '.join((*COLUMNS, 'tags'))}") from error


def _shown_in(frame: pl.DataFrame, interval: Interval) -> pl.DataFrame:
    import polars.selectors as cs

    if interval.zone is None:
        return frame
    return frame.with_columns(cs.datetime(time_zone="*").dt.convert_time_zone(interval.zone.key))
