"""`genba alert acknowledge`: say that somebody has seen it, and whether it was one."""

from __future__ import annotations

from pathlib import Path

import click

from ._place import ask, person, place, reason, say


@click.command("acknowledge")
@click.argument("alarm_id", metavar="ID")
@click.option(
    "--verdict", type=click.Choice(["real", "false"]), help="Whether something was wrong. Kept as an event: it teaches models."
)
@person
@reason
@place
def command(alarm_id: str, verdict: str | None, by: str, reason: str, place: Path) -> None:
    """Acknowledge the alarm ID. With --verdict also one that is over, or acknowledged already."""
    say(ask(place, "acknowledge", id=alarm_id, verdict=verdict, by=by, reason=reason))
