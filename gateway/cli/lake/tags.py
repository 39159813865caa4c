"""`genba lake tags`: what is in the lake, from its data dictionary."""

from __future__ import annotations

from pathlib import Path

import click

from ._frames import for_people, format_of, outputs, write
from ._location import Location, located, sites


@click.command("tags")
@located
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...")
@sites
@click.option(
    "--history", is_flag=True, help="Earlier descriptions too: what the tag was called and its unit, from when to when."
)
@outputs("table", "csv", "json", "parquet", "arrow")
def command(
    location: Location, patterns: tuple[str, ...], sites: tuple[str, ...], history: bool, format_: str | None, out: Path | None
) -> None:
    """List the tags of the lake at LOCATION: unit, label, and between which times there are readings.

    PATTERN is a path or a pattern, `**/motor_*`; enterprise and site may be left out. Files for programs hold every column.
    """
    import polars as pl

    from cloud_sinks import lake

    format = format_of(format_, out)
    location.holds_a_lake()
    with location.errors():
        found = lake.tags(str(location), sites=sites or None, tags=patterns or None, **location.access)
    if not history:
        found = found.filter(pl.col("valid_to").is_null())
    if format == "table":
        period = ["valid_from", "valid_to"] if history else []
        found = for_people(found.select("tag", "unit", "value_type", "label", *period, "first_seen", "last_seen"))
    if found.is_empty():
        location.say_why_nothing(patterns, sites)
    write([found], format, out)
