"""`genba model …`: run a model over a recording, list the models there are."""

from __future__ import annotations

from pathlib import Path

import click

from ._engine import Engine, engined
from .lake._location import Location, located_at, sites
from .lake._times import Interval, timed


@click.group("model")
def command() -> None:
    """Models beside the machines: which there are, and what they say of a recording."""


@command.command("score")
@click.option("--model", "kind", required=True, help="Kind of the model: `genba model list`.")
@click.option("--input", "source", type=click.Path(path_type=Path), help="CSV or Parquet file, or a file of the lake.")
@click.option("--lake", metavar="LOCATION", help="Instead of a file: the lake, a directory or s3://bucket/prefix.")
@click.option(
    "--output", required=True, help="Parquet file for the scores; of a lake also a location of its own, as rows of kind `score`."
)
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="A parameter: warm_up=30s, alarm.on_delay=5s. May be repeated."
)
@click.option("--time", help="Column of a file with the time; found out by default.")
@click.option(
    "--value",
    "values",
    multiple=True,
    metavar="COLUMN",
    help="Column of a file with a tag's values; all numeric ones by default.",
)
@click.option("--tags", multiple=True, metavar="PATTERN", help="Only these tags of the lake: **/motor_*. May be repeated.")
@sites
@timed
@click.option("--region", help="Region of the bucket, where the environment does not say it.")
@click.option("--endpoint", metavar="URL", help="Another server that speaks S3.")
@click.option("--profile", help="Profile of the AWS configuration with the credentials.")
@engined
def score(
    kind: str,
    source: Path | None,
    lake: str | None,
    output: str,
    settings: tuple[str, ...],
    time: str | None,
    values: tuple[str, ...],
    tags: tuple[str, ...],
    sites: tuple[str, ...],
    interval: Interval,
    region: str | None,
    endpoint: str | None,
    profile: str | None,
    engine: Engine,
) -> None:
    """Score a recording, or a lake, with the code that watches the live stream, and write the score of every reading.

    \b
    genba model score --model drift --input press.csv --output scores.parquet --set warm_up=1h
    genba model score --model drift --lake ./lake --tags '**/motor_temp' --output scores.parquet
    genba model score --model drift --lake s3://acme-plant-lake/genba --engine spark --master yarn --output s3://acme-scores/drift
    """
    if (source is None) == (lake is None):
        raise click.UsageError("give --input FILE or --lake LOCATION")
    if lake is not None:
        if time or values:
            raise click.UsageError("--time and --value are for --input; a lake has its columns")
        _score_lake(kind, located_at(lake, region, endpoint, profile), output, settings, tags, sites, interval, engine)
        return
    assert source is not None
    if tags or sites or interval.start or interval.end or region or endpoint or profile or engine.master:
        raise click.UsageError("--tags, --site, --start, --end, the options of a bucket and --engine are for --lake")
    _score_file(kind, source, Path(output), settings, time, values)


def _score_lake(
    kind: str,
    location: Location,
    output: str,
    settings: tuple[str, ...],
    tags: tuple[str, ...],
    sites: tuple[str, ...],
    interval: Interval,
    engine: Engine,
) -> None:
    from cloud_sinks.jobs import Lake
    from gateway.jobs.lake_score import score as score_lake
    from gateway.jobs.score import configure
    from gateway.jobs.score_plan import Request

    as_file = output.endswith((".parquet", ".pq"))
    if as_file and engine.master is not None:
        raise click.UsageError("Spark writes a lake: give --output a directory or s3://bucket/prefix")
    if as_file and "://" in output:
        raise click.UsageError("a file is written here: name one of this machine, or a location s3://bucket/prefix")
    config = configure(kind, settings)
    if tags:
        config = config.model_copy(update={"tags": tags})
    request = Request(Lake(str(location), **location.access), config, sites, interval.start, interval.end)
    with engine.session() as spark, location.errors("score it"):
        result = None if as_file else Lake(output, **location.access)
        summary = score_lake(request, output, spark=spark, result=result)
    click.echo(
        f"{summary.rows:,} scores of {summary.tags:,} {'tag' if summary.tags == 1 else 'tags'} and {summary.logs:,} "
        f"{'gateway' if summary.logs == 1 else 'gateways'}, {summary.scored:,} scored, {summary.abnormal:,} abnormal"
    )
    click.echo(f"scores are in {output}")


def _score_file(
    kind: str, source: Path, output: Path, settings: tuple[str, ...], time: str | None, values: tuple[str, ...]
) -> None:
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
