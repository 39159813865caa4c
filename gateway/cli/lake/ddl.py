"""`genba lake ddl`: the lake as tables of Athena, Glue, Spark or DuckDB."""

from __future__ import annotations

from datetime import datetime
from typing import get_args

import click

from cloud_sinks.ddl import TABLES, Dialect
from schemas.errors import ConfigError


@click.command("ddl")
@click.argument("location", metavar="LOCATION")
@click.option("--dialect", type=click.Choice(get_args(Dialect)), required=True, help="Which engine.")
@click.option("--table", "tables", type=click.Choice(TABLES), multiple=True, help="Only this table; may be repeated.")
@click.option("--database", default="genba", show_default=True, help="Of Athena, Glue or Spark.")
@click.option(
    "--site", "sites", multiple=True, metavar="SITE", help="A site of the lake; without any, queries of Athena name theirs."
)
@click.option(
    "--since",
    type=click.DateTime(["%Y-%m-%d"]),
    default="2020-01-01",
    show_default=True,
    help="The first date, for Athena and Glue.",
)
def command(
    location: str, dialect: Dialect, tables: tuple[str, ...], database: str, sites: tuple[str, ...], since: datetime
) -> None:
    """Print the statements that make the lake at LOCATION tables of another engine. Connects to nothing.

    Glue gets a JSON array; each element is what `boto3.client("glue").create_table(**element)` takes.
    """
    import json

    from cloud_sinks import ddl

    wanted = [table for table in TABLES if table in (tables or TABLES)]
    day = since.date()
    try:
        match dialect:
            case "athena":
                parts = [ddl.athena(table, location, database=database, sites=sites, since=day) for table in wanted]
            case "glue":
                made = [ddl.glue(table, location, database=database, sites=sites, since=day) for table in wanted]
                parts = [json.dumps(made, ensure_ascii=False, indent=1) + "\n"]
            case "spark":
                parts = [ddl.spark(table, location, database=database) for table in wanted if ddl.has_files(table, location)]
            case "duckdb":
                parts = [ddl.duckdb(table, location) for table in wanted if ddl.has_files(table, location)]
        if dialect in ("spark", "duckdb"):  # they look for the files at once
            parts += [f"-- no {table} in this lake yet\n" for table in wanted if not ddl.has_files(table, location)]
    except ValueError as error:
        raise ConfigError(str(error)) from error
    click.echo("\n".join(parts), nl=False)
