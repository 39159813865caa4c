"""`genba alert shelve`: put an alarm aside for some time."""

from __future__ import annotations

from pathlib import Path

import click

from ._place import do, person, place, reason, subject


@click.command("shelve")
@subject
@click.option("--for", "span", default="8h", show_default=True, metavar="SPAN", help="For how long, 30d at most.")
@person
@reason
@place
def command(
    alarm_id: str | None, tag: str | None, asset: str | None, alarm: str | None, span: str, by: str, reason: str, place: Path
) -> None:
    """Put an alarm, or all of a tag or asset, aside for some time: nobody is told. It comes back by itself."""
    do(place, "shelve", alarm_id, tag, asset, alarm, by=by, reason=reason, **{"for": span})
