"""`genba spool forget`: let go of a sink that is not configured any more."""

from __future__ import annotations

from pathlib import Path

import click

from ._place import as_json, change, emit, place


@click.command("forget")
@place
@click.argument("sink")
@as_json
def command(place: Path, sink: str, as_json: bool) -> None:
    """Drop everything that is known of SINK, so that it holds no rows back any more.

    A running gateway refuses that for a sink of its file. Should SINK be configured again, it starts as a new one.
    """
    answer = change(place, {"do": "forget", "sink": sink})
    if as_json:
        emit(answer)
    else:
        waited = f"; {answer['rows']:,} rows waited for it" if answer["rows"] else ""
        click.echo(f"{sink} is forgotten{waited}")
