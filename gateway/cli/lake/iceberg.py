"""`genba lake iceberg`: the lake's files as Iceberg tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ._keeping import kinds
from ._location import Location, located

if TYPE_CHECKING:
    from schemas.data import Kind


@click.command("iceberg")
@located
@click.option(
    "--catalog",
    metavar="URI|NAME",
    help="http(s)://… of a REST catalog, glue, sqlite:////file, or a name from .pyiceberg.yaml; else SQLite in LOCATION/_iceberg.",
)
@click.option(
    "--warehouse", metavar="URI", help="Where the tables' metadata goes; else LOCATION/_iceberg, or what the catalog says."
)
@click.option("--namespace", default="genba", show_default=True, help="Of the tables, which are called as the kinds of data.")
@kinds
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON on stdout.")
def command(
    location: Location, catalog: str | None, warehouse: str | None, namespace: str, kinds: tuple[Kind, ...], as_json: bool
) -> None:
    """Register the files of the lake at LOCATION as Iceberg tables, or bring these up to date; no data is copied.

    Run it after each `genba lake compact`, and as often as readers want news. One that was killed is healed by the next.
    """
    import json

    from cloud_sinks.parquet import iceberg

    location.holds_a_lake()
    place = location.place()
    access = location.access
    with location.errors("register the lake"):
        name, properties = iceberg.settings(place, catalog, warehouse, region=access["region"], profile=access["profile"])
        with iceberg.opened(name, properties) as there:
            done = iceberg.register(place, there, kinds=kinds, namespace=namespace)
    if as_json:
        click.echo(json.dumps([one.as_json() for one in done], ensure_ascii=False, indent=1))
        return
    for one in done:
        click.echo(f"{one.table}: {one.added:,} files added, {one.removed:,} removed; {one.files:,} files, {one.rows:,} rows")
    if not any(one.added or one.removed for one in done):
        click.echo("nothing new")
