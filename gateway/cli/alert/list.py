"""`genba alert list`: what is open, the most serious first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from gateway.cli.spool._place import as_json, at, directory_of, emit, table

from ._place import place


@click.command("list")
@click.option(
    "--all", "everything", is_flag=True, help="Also what is suppressed: held back by a budget, a flood, or soon after the last."
)
@as_json
@place
def command(everything: bool, as_json: bool, place: Path) -> None:
    """List the open alarms of a gateway, and what people have put aside.

    Of a gateway that does not run, what its spool says of them.
    """
    from gateway.jobs import alert_story

    found = alert_story.listed(directory_of(place), everything=everything)
    if as_json:
        emit({"running": found.running, "alarms": found.alarms, "aside": found.aside})
        return
    if not found.running:
        click.echo("the gateway does not run; this is what its spool says", err=True)
    if not found.alarms:
        click.echo("no alarm is open")
    else:
        rows = [
            (one["id"], one["severity"], _state(one), at(one["since_us"]), one["alarm"], one["problem"]) for one in found.alarms
        ]  # fmt: skip
        table(("id", "severity", "state", "since (UTC)", "alarm", "problem"), rows, left=6)
    if found.aside:
        click.echo()
        put = [
            (
                str(one["state"]).replace("_", " "), f"{one['subject']} {one['alarm']}".strip(),
                at(one["until_us"]) if one["until_us"] is not None else "until put back", str(one["by"]), str(one["reason"]),
            )
            for one in found.aside
        ]  # fmt: skip
        table(("put aside", "what", "until (UTC)", "by", "why"), put, left=5)


def _state(alarm: Mapping[str, Any]) -> str:
    held = f" ({alarm['held']})" if alarm.get("held") else ""
    return str(alarm["state"]).replace("_", " ") + held
