"""`genba alert out-of-service`: take alarms out of service."""

from __future__ import annotations

from pathlib import Path

import click

from ._place import do, person, place, reason, subject


@click.command("out-of-service")
@subject
@person
@reason
@place
def command(
    alarm_id: str | None, tag: str | None, asset: str | None, alarm: str | None, by: str, reason: str, place: Path
) -> None:
    """Take an alarm, or all of a tag or asset, out of service: nobody is told until it is put back."""
    do(place, "out_of_service", alarm_id, tag, asset, alarm, by=by, reason=reason)
