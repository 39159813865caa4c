"""`genba spool ls`: the files of a spool, with the rows in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ._place import any_kind, as_json, at, emit, headline, kinds_of, look, place, say_headline, size, table


@click.command("ls")
@place
@any_kind
@as_json
def command(place: Path, kind: str | None, as_json: bool) -> None:
    """List the segments: which rows they hold, when these came, and how often they were downsampled."""
    view = look(place)
    segments: list[dict[str, Any]] = [
        {
            "kind": one,
            "file": segment.path.name,
            "first": segment.first,
            "last": segment.next - 1,
            "rows": segment.next - segment.first - sum(end - first for first, end in segment.thin),
            "level": segment.level,
            "bytes": segment.bytes,
            "from_us": segment.first_commit_us,
            "to_us": segment.last_commit_us,
            "closed": segment.summary is not None,
        }
        for one in kinds_of(view, kind)
        for segment in view.logs[one].segments
    ]
    if as_json:
        emit({"directory": str(view.directory), **headline(view), "segments": segments})
        return
    say_headline(view)
    rows = [
        (
            str(one["kind"]), str(one["file"]), f"{one['first']} … {one['last']}", f"{one['rows']:,}", size(one["bytes"]),
            at(one["from_us"]), at(one["to_us"]), "open" if not one["closed"] else f"windows {one['level']}" if one["level"] else "",
        )
        for one in segments
    ]  # fmt: skip
    if rows:
        click.echo()
        table(("data", "file", "row numbers", "rows", "size", "from (UTC)", "to (UTC)", ""), rows, left=2)
