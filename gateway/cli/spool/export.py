"""`genba spool export`: rows of the spool as a Parquet file."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import click

from gateway.cli.lake._times import Interval, timed

from ._place import as_json, emit, in_us, kind_option, look, place, rows_option


@click.command("export")
@place
@click.argument("out", type=click.Path(path_type=Path))
@kind_option
@rows_option
@timed
@as_json
def command(
    place: Path, out: Path, kind: str, first_row: int | None, last_row: int | None, interval: Interval, as_json: bool
) -> None:
    """Write rows that are held into the Parquet file OUT, with their numbers and the paths of their tags.

    Times are those at which rows were stored. The gateway may run; rows that it removes meanwhile are not in the file, and no row is taken out of the spool.
    """
    from gateway.jobs.spool_export import export
    from schemas.kinds import Kind

    view = look(place)
    one = cast(Kind, kind)
    since_us, until_us = in_us(interval.start), in_us(interval.end)
    start = max(first_row or 0, 0 if since_us is None else view.row_at(one, since_us))
    ends = [
        view.durable(one) if last_row is None else last_row + 1,
        view.durable(one) if until_us is None else view.row_at(one, until_us),
    ]
    end = min(ends)
    rows = export(view, one, start, end, out)
    if as_json:
        emit({"file": str(out), "kind": kind, "first": start, "last": end - 1, "rows": rows})
    else:
        click.echo(f"{rows:,} {kind} rows are in {out}")
