"""`genba spool drop`: do without a backlog."""

from __future__ import annotations

from pathlib import Path
from zoneinfo import ZoneInfo

import click

from gateway.cli.lake._times import moment, zone_of

from ._place import as_json, change, emit, in_us, kind_option, place


@click.command("drop")
@place
@click.argument("sink")
@kind_option
@click.option("--before-row", type=click.IntRange(min=0), metavar="ROW", help="Rows below this number.")
@click.option(
    "--before",
    "before_time",
    metavar="TIME",
    help="Rows stored before this time, ISO 8601 with an offset or on the clocks of --zone.",
)
@click.option("--zone", callback=zone_of, metavar="ZONE", help="Time zone of --before: Asia/Tokyo.")
@click.option("--all", "everything", is_flag=True, help="All rows that wait.")
@as_json
def command(
    place: Path,
    sink: str,
    kind: str,
    before_row: int | None,
    before_time: str | None,
    zone: ZoneInfo | None,
    everything: bool,
    as_json: bool,
) -> None:
    """Let SINK do without rows that wait for it. They are lost to it: counted as dropped, and told by a gap row.

    Other sinks keep theirs. Rows that were in flight may have arrived all the same.
    """
    if [before_row is not None, before_time is not None, everything].count(True) != 1:
        raise click.UsageError("say which rows: --before-row ROW, --before TIME or --all")
    before_us = None if before_time is None else in_us(moment(before_time, zone, "--before"))
    answer = change(place, {"do": "drop", "kind": kind, "sink": sink, "before": before_row, "before_us": before_us})
    if as_json:
        emit(answer)
    else:
        click.echo(f"{sink} does without {answer['rows']:,} {kind} rows and goes on at row {answer['next']}")
