"""`genba spool dead-letters`: what a sink refused for good, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ._place import as_json, at, directory_of, emit, headline, look, place, say_headline, size, table


@click.command("dead-letters")
@place
@click.option("--sink", help="Of one sink only.")
@as_json
def command(place: Path, sink: str | None, as_json: bool) -> None:
    """List the rows that a sink refused for good, with its reason, newest last.

    They are Arrow files, beside each the reason as JSON. Deleting a pair gives its room back.
    """
    view = look(place)
    found = graves(directory_of(place) / "dead-letters", sink)
    if as_json:
        emit({"directory": str(view.directory), **headline(view), "dead_letters": found})
        return
    say_headline(view)
    if not found:
        click.echo("no dead letters")
        return
    rows = [
        (one["sink"], one["kind"], f"{one['first']} … {one['last']}", f"{one['rows']:,}", size(one["bytes"]), at(one["time_us"]), one["reason"])
        for one in found
    ]  # fmt: skip
    click.echo()
    table(("sink", "data", "row numbers", "rows", "size", "when (UTC)", "reason"), rows, left=2)
    click.echo(f"\nthe rows are in {directory_of(place) / 'dead-letters'}, readable with pyarrow.ipc.open_file")


def graves(directory: Path, sink: str | None) -> list[dict[str, Any]]:
    """Every dead letter, oldest first. One whose reason cannot be read is listed by its name."""
    out = []
    for path in directory.glob(f"{sink or '*'}/*.arrow"):
        try:
            stat = path.stat()
            about = json.loads(path.with_suffix(".json").read_bytes())
        except (OSError, ValueError):
            about = {"reason": "the file with the reason cannot be read"}
        kind, _, first, last = [*path.stem.split("-"), "", "", ""][:4]
        out.append(
            {
                "sink": path.parent.name,
                "kind": about.get("kind", kind),
                "first": about.get("first", int(first) if first.isdigit() else None),
                "last": about.get("last", int(last) if last.isdigit() else None),
                "rows": about.get("rows", 0),
                "reason": about.get("reason", ""),
                "bytes": stat.st_size,
                "time_us": round(stat.st_mtime * 1e6),
                "file": str(path),
            }
        )
    return sorted(out, key=lambda one: (one["time_us"], one["file"]))
