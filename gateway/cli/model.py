"""`genba model …`: run a model over a recording, list the models there are."""

from __future__ import annotations

from pathlib import Path

import click


@click.group("model")
def command() -> None:
    """Models beside the machines: which there are, and what they say of a recording."""


@command.command("score")
@click.option("--model", "kind", required=True, help="Kind of the model: `genba model list`.")
@click.option(
    "--input", "source", required=True, type=click.Path(path_type=Path), help="CSV or Parquet file, or a file of the lake."
)
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Parquet file for the scores.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="A parameter: warm_up=30s, alarm.on_delay=5s. May be repeated."
)
@click.option("--time", help="Column with the time; found out by default.")
@click.option(
    "--value", "values", multiple=True, metavar="COLUMN", help="Column with a tag's values; all numeric ones by default."
)
def score(kind: str, source: Path, output: Path, settings: tuple[str, ...], time: str | None, values: tuple[str, ...]) -> None:
    """Score a recording with the code that watches the live stream, and write the score of every reading."""
    from datetime import UTC, datetime

    from gateway.jobs import score as job

    config = job.configure(kind, settings)
    summary = job.score(job.read(source, time=time, values=values), config, output)
    click.echo(
        f"{summary.readings:,} readings of {summary.tags} {'tag' if summary.tags == 1 else 'tags'}, {summary.scored:,} scored, "
        f"{summary.abnormal:,} abnormal, {len(summary.alarms):,} {'alarm' if len(summary.alarms) == 1 else 'alarms'}"
    )
    for moment, alarm, problem in summary.alarms[:20]:
        when = datetime.fromtimestamp(moment / 1e6, UTC)
        click.echo(f"  {when:%Y-%m-%d %H:%M:%S}  {alarm}: {problem}")
    if len(summary.alarms) > 20:
        click.echo(f"  and {len(summary.alarms) - 20} more")
    click.echo(f"scores are in {output}")


@command.command("list")
def list_() -> None:
    """List the models there are and what they are for."""
    from gateway import catalogue

    names = catalogue.names("models")
    for name in names:
        about = (catalogue.plugin("models", name).config.__doc__ or "").strip().partition("\n")[0]
        click.echo(f"{name:<{max(map(len, names))}}  {about}")
