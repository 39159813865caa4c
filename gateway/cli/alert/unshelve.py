"""`genba alert unshelve`: take back what was shelved."""

from __future__ import annotations

from pathlib import Path

import click

from ._place import do, person, place, reason, subject


@click.command("unshelve")
@subject
@person
@reason
@place
def command(
    alarm_id: str | None, tag: str | None, asset: str | None, alarm: str | None, by: str, reason: str, place: Path
) -> None:
    """Take back what was shelved, before its time is over."""
    do(place, "unshelve", alarm_id, tag, asset, alarm, by=by, reason=reason)
