"""`genba spool stat`: who has had what, what waits, what was lost and why."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._place import as_json, emit, headline, kinds_of, look, place, say_headline, sinks_of, size, span, table

if TYPE_CHECKING:
    from gateway.spool.view import View


@click.command("stat")
@place
@as_json
def command(place: Path, as_json: bool) -> None:
    """Show what every sink has had, what waits for it and since when, and what was lost and why.

    For each sink and kind: read = filtered + delivered + waiting + dropped + dead-lettered.
    """
    view = look(place)
    found = document(view)
    if as_json:
        emit(found)
        return
    say_headline(view)
    rows = [
        (one["sink"], one["kind"], *(f"{one[key]:,}" for key in ("read", "filtered", "delivered", "spooled", "dropped", "dead_lettered")),
         span(one["oldest_s"]) if one["oldest_s"] is not None else "-")
        for one in found["sinks"]
    ]  # fmt: skip
    if rows:
        click.echo()
        table(("sink", "data", "read", "filtered", "delivered", "waiting", "dropped", "dead letters", "oldest"), rows, left=2)
    for one in found["sinks"]:
        if one["lost"]:
            causes = ", ".join(f"{rows:,} {cause}" for cause, rows in one["lost"].items())
            click.echo(f"{one['sink']} {one['kind']}: {causes}")
    for one in found["resends"]:
        click.echo(f"once more to {one['sink']}: {one['kind']} rows {one['first']} to {one['last']}")
    click.echo()
    table(
        ("data", "rows", "first", "next", "size", "segments"),
        [
            (kind, f"{one['rows']:,}", str(one["first"]), str(one["next"]), size(one["bytes"]), str(one["segments"]))
            for kind, one in found["kinds"].items()
        ],
    )
    click.echo(f"\n{size(found['bytes_used'])} on disk; ledger: {found['ledger']}; gateway {view.gateway}, epoch {view.epoch}")
    click.echo("no gateway runs on it" if found["process"] is None else f"process {found['process']} runs on it")


def document(view: View) -> dict[str, Any]:
    """For programs. The names are a contract."""
    now_us = view.now_us()
    sinks = []
    for sink in sinks_of(view):
        for kind in view.logs:
            if (kind, sink) not in view.book.cursors:
                continue
            account = view.account(kind, sink)
            oldest = view.logs[kind].commit_us(view.book.cursors[kind, sink].acked) if account.spooled else None
            lost = {cause: rows for cause, rows in view.book.lost.get((kind, sink), {}).items() if rows}
            cut = view.book.cursors[kind, sink].cut
            sinks.append(
                {
                    "sink": sink,
                    "kind": kind,
                    **asdict(account),
                    "next": view.book.cursors[kind, sink].acked,
                    "in_flight": None if cut is None else [cut.first, cut.last],
                    "oldest_s": None if oldest is None else round(max(0.0, (now_us - oldest) / 1e6), 1),
                    "lost": lost,
                    "resent": view.book.resent.get((kind, sink), 0),
                }
            )
    kinds = {
        kind: {
            "first": view.logs[kind].oldest,
            "next": view.durable(kind),
            "rows": view.rows_held(kind),
            "bytes": view.logs[kind].size_bytes,
            "segments": len(view.logs[kind].segments),
        }
        for kind in kinds_of(view, None)
    }
    return {
        "directory": str(view.directory),
        "gateway": view.gateway,
        "epoch": view.epoch,
        "process": view.owner,
        **headline(view),
        "bytes_used": view.bytes_used,
        "ledger": view.condition,
        "sinks": sinks,
        "kinds": kinds,
        "pins": [{"kind": kind, "name": name, "row": pin.row} for (kind, name), pin in view.book.pins.items()],
        "resends": [{"kind": one.kind, "sink": one.sink, "first": one.next, "last": one.last} for one in view.book.resends],
    }
