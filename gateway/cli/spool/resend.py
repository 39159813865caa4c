"""`genba spool resend`: deliver rows once more."""

from __future__ import annotations

from pathlib import Path

import click

from gateway.cli.lake._times import Interval, timed

from ._place import as_json, change, emit, in_us, kind_option, place, rows_option


@click.command("resend")
@place
@click.argument("sink")
@kind_option
@rows_option
@timed
@as_json
def command(
    place: Path, sink: str, kind: str, first_row: int | None, last_row: int | None, interval: Interval, as_json: bool
) -> None:
    """Let SINK have rows once more that it has had, as far as they are still held; all of them without an option.

    Times are those at which rows were stored.
    The gateway does it after what waits; when none runs, after its next start. A lake gets only what it does not have: no row is in it
    twice. Other sinks get the rows again.
    """
    since_us, until_us = in_us(interval.start), in_us(interval.end)
    request = {
        "do": "resend",
        "kind": kind,
        "sink": sink,
        "first": first_row,
        "last": last_row,
        "since_us": since_us,
        "until_us": until_us,
    }
    answer = change(place, request)
    if as_json:
        emit(answer)
    else:
        click.echo(f"{sink} gets {kind} rows {answer['first']} to {answer['last']} once more")
