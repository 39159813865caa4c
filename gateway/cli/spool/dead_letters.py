"""`genba spool dead-letters`: what a sink refused for good, and why; and to have it delivered after all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.lake._times import Interval, timed

from ._place import as_json, at, change, directory_of, emit, headline, in_us, look, place, say_headline, size, table

if TYPE_CHECKING:
    from gateway.dead_letters import Grave


@click.command("dead-letters")
@place
@click.option("--sink", help="Of one sink only.")
@click.option("--resend", is_flag=True, help="Deliver them, once what they were refused for is mended.")
@timed
@as_json
def command(place: Path, sink: str | None, resend: bool, interval: Interval, as_json: bool) -> None:
    """List the rows that a sink refused for good, with its reason, newest last; with --resend, let their sinks have them.

    Times are those at which they were refused.
    They are Arrow files, beside each the reason as JSON. Deleting a pair gives its room back. The gateway delivers them after what waits; when
    none runs, after its next start. What is delivered counts as such and is no dead letter any more; what is refused again stays.
    """
    since_us, until_us = in_us(interval.start), in_us(interval.end)
    if resend:
        answer = change(place, {"do": "redeliver", "sink": sink, "since_us": since_us, "until_us": until_us})
        if as_json:
            emit(answer)
        else:
            files = "1 file" if answer["files"] == 1 else f"{answer['files']} files"
            click.echo(f"{answer['rows']} dead letters in {files} are delivered once more")
        return
    from gateway.dead_letters import DIRECTORY

    view = look(place)
    directory = directory_of(place) / DIRECTORY
    found = [
        one
        for one in listed(directory, sink)
        if (since_us or 0) <= one["time_us"] and (until_us is None or one["time_us"] < until_us)
    ]
    if as_json:
        emit({"directory": str(view.directory), **headline(view), "dead_letters": found})
        return
    say_headline(view)
    if not found:
        click.echo("no dead letters")
        return
    rows = [
        (one["sink"], one["kind"], f"{one['first']} … {one['last']}", f"{one['rows']:,}", size(one["bytes"]), at(one["time_us"]),
         f"{one['reason']}{' (to be delivered once more)' if one['resend'] else ''}")
        for one in found
    ]  # fmt: skip
    click.echo()
    table(("sink", "data", "row numbers", "rows", "size", "when (UTC)", "reason"), rows, left=2)
    click.echo(f"\nthe rows are in {directory}, readable with pyarrow.ipc.open_file; --resend has them delivered")


def listed(directory: Path, sink: str | None) -> list[dict[str, Any]]:
    """Every dead letter, oldest first. One whose reason cannot be read is listed by its name."""
    from gateway.dead_letters import graves

    return sorted((_told(one) for one in graves(directory, sink)), key=lambda one: (one["time_us"], one["file"]))


def _told(grave: Grave) -> dict[str, Any]:
    stat = grave.path.stat()
    try:
        about = grave.about()
    except (OSError, ValueError):
        about = {"reason": "the file with the reason cannot be read"}
    kind, _, first, last = [*grave.path.stem.split("-"), "", "", ""][:4]
    return {
        "sink": grave.sink,
        "kind": about.get("kind", kind),
        "first": about.get("first", int(first) if first.isdigit() else None),
        "last": about.get("last", int(last) if last.isdigit() else None),
        "rows": about.get("rows", 0),
        "reason": about.get("reason", ""),
        "resend": grave.asked(),
        "bytes": stat.st_size,
        "time_us": round(stat.st_mtime * 1e6),
        "file": str(grave.path),
    }
