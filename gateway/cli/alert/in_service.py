"""`genba alert in-service`: put alarms back into service."""

from __future__ import annotations

from pathlib import Path

import click

from ._place import do, person, place, reason, subject


@click.command("in-service")
@subject
@person
@reason
@place
def command(
    alarm_id: str | None, tag: str | None, asset: str | None, alarm: str | None, by: str, reason: str, place: Path
) -> None:
    """Put back into service what was taken out of it."""
    do(place, "in_service", alarm_id, tag, asset, alarm, by=by, reason=reason)
