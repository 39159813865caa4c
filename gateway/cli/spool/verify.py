"""`genba spool verify`: is everything in the spool what was written?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from ._place import any_kind, as_json, emit, headline, kinds_of, look, place, say_headline, size, table


@click.command("verify")
@place
@any_kind
@as_json
def command(place: Path, kind: str | None, as_json: bool) -> None:
    """Read every record: its checksum, its columns, and whether the row numbers follow one another. Nothing is changed.

    Exits with 1 when there is damage. What was put aside before lies in `quarantine/` and is named, too.
    """
    view = look(place)
    found = {one: view.verify(one) for one in kinds_of(view, kind)}
    aside = sorted(path.name for path in view.directory.glob("quarantine/*"))
    bad = any(verdict.damaged or verdict.missing for verdict in found.values())
    whole = view.condition in ("new", "whole")
    if as_json:
        emit(
            {
                "directory": str(view.directory),
                **headline(view),
                "ok": not bad and whole,
                "ledger": view.condition,
                "kinds": {one: asdict(verdict) for one, verdict in found.items()},
                "quarantine": aside,
            }
        )
    else:
        say_headline(view)
        click.echo()
        table(
            ("data", "segments", "records", "rows", "read", "damaged", "missing"),
            [
                (one, str(v.segments), f"{v.records:,}", f"{v.rows:,}", size(v.bytes), str(len(v.damaged)), str(len(v.missing)))
                for one, v in found.items()
            ],
        )
        for one, verdict in found.items():
            for what, spans in (("damaged", verdict.damaged), ("missing", verdict.missing)):
                for first, end in spans[:20]:
                    click.echo(f"{what}: {one} rows {first} to {end - 1}")
        if not whole:
            click.echo(f"ledger: {view.condition}")
        if aside:
            click.echo(f"in quarantine: {', '.join(aside[:20])}")
        click.echo("damage was found" if bad or not whole else "all is as it was written")
    if bad or not whole:
        raise SystemExit(1)
