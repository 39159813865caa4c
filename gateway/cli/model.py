"""`genba model …`: run a model over a recording, list the models there are."""

from __future__ import annotations

import json
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ._engine import Engine, engined
from ._options import in_seconds
from .lake._location import Location, located_at, sites
from .lake._times import Interval, timed
from .lake.plot import FORMATS

if TYPE_CHECKING:
    from edge_models.base import ModelConfig


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
    from datetime import datetime

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


@command.command("backtest")
@click.option(
    "--model", required=True, metavar="KIND|NAME", help="Kind of the model; with --plant the name of an entry below `models:`."
)
@click.option("--plant", type=click.Path(path_type=Path), metavar="FILE", help="The plant file that the entry stands in.")
@click.option(
    "--labels", required=True, metavar="FILE", help="CSV, Parquet or JSON; `verdicts`: what people said of alarms of the lake."
)
@click.option("--input", "source", type=click.Path(path_type=Path), help="CSV or Parquet file, or a file of the lake.")
@click.option("--lake", metavar="LOCATION", help="Instead of a file: the lake, a directory or s3://bucket/prefix.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="A parameter, without --plant: warm_up=30s. May be repeated."
)
@click.option(
    "--early", "early_s", metavar="SPAN", callback=in_seconds, default="0s", help="An alarm may come so long before its label."
)
@click.option(
    "--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw values, bands, alarms, labels: FILE.png, .svg or .pdf."
)
@click.option("--json", "as_json", is_flag=True, help="Print figures, alarms and missed labels as JSON.")
@click.option("--time", help="Column of a file with the time; found out by default.")
@click.option("--value", "values", multiple=True, metavar="COLUMN", help="Column of a file with a tag's values; may be repeated.")
@click.option("--tags", multiple=True, metavar="PATTERN", help="Only these tags, without --plant: **/motor_*. May be repeated.")
@sites
@timed
@click.option("--region", help="Region of the bucket, where the environment does not say it.")
@click.option("--endpoint", metavar="URL", help="Another server that speaks S3.")
@click.option("--profile", help="Profile of the AWS configuration with the credentials.")
def backtest(
    model: str,
    plant: Path | None,
    labels: str,
    source: Path | None,
    lake: str | None,
    settings: tuple[str, ...],
    early_s: float,
    plot: Path | None,
    as_json: bool,
    time: str | None,
    values: tuple[str, ...],
    tags: tuple[str, ...],
    sites: tuple[str, ...],
    interval: Interval,
    region: str | None,
    endpoint: str | None,
    profile: str | None,
) -> None:
    """Try a model on your own past: the alarms that it would have raised against what really was wrong.

    Labels have the columns tag (or asset), start, end. Verdicts are those that alarms were acknowledged with.

    \b
    genba model backtest --model drift --lake ./lake --tags '**/motor_temp' --labels faults.csv --plot drift.png
    genba model backtest --model bearing-wear --plant plant.yaml --lake ./lake --labels verdicts
    genba model backtest --model drift --input press.csv --labels faults.csv --set warm_up=1h
    """
    from gateway.jobs import backtest as job
    from gateway.jobs import labels as labelled
    from gateway.jobs.score import configure, read

    if (source is None) == (lake is None):
        raise click.UsageError("give --input FILE or --lake LOCATION")
    if plant is not None and (settings or tags):
        raise click.UsageError("--set and --tags are for a kind; with --plant the entry says it all")
    format = "" if plot is None else plot.suffix.lower().lstrip(".")
    if plot is not None and format not in FORMATS:
        raise click.UsageError(f"--plot {plot}: which format? End the name in {', '.join('.' + one for one in FORMATS)}")
    config = configure(model, settings) if plant is None else _entry(plant, model)
    if tags:
        config = config.model_copy(update={"tags": tags})
    early_us = round(early_s * 1e6)
    if lake is not None:
        from cloud_sinks.jobs import Lake
        from gateway.jobs.score_plan import Request

        if time or values:
            raise click.UsageError("--time and --value are for --input; a lake has its columns")
        location = located_at(lake, region, endpoint, profile)
        location.holds_a_lake()
        with location.errors("try it on the lake"):
            given = (
                labelled.of_lake(str(location), interval.start, interval.end, sites=sites, access=location.access)
                if labels == labelled.VERDICTS
                else labelled.read(Path(labels), interval.zone or UTC)
            )
            request = Request(Lake(str(location), **location.access), config, sites, interval.start, interval.end)
            found = job.of_lake(request, given, name=model, early_us=early_us)
    else:
        assert source is not None
        if sites or interval.start or interval.end or region or endpoint or profile:
            raise click.UsageError("--site, --start, --end and the options of a bucket are for --lake")
        if labels == labelled.VERDICTS:
            raise click.UsageError("--labels verdicts are those of a --lake; name a file of labels")
        recording = read(source, time=time, values=values)
        found = job.of_file(recording, config, labelled.read(Path(labels), interval.zone or UTC), name=model, early_us=early_us)
    if as_json:
        click.echo(json.dumps(found.document(), ensure_ascii=False, indent=1))
    else:
        for line in found.sentences():
            click.echo(line)
    if plot is not None:
        from gateway.jobs import lake_plot

        from .lake._frames import scratch_for

        with scratch_for(plot) as scratch:
            lake_plot.draw(found.picture(), scratch, format, interval.zone)
        click.echo(f"{plot} is drawn", err=True)


def _entry(plant: Path, name: str) -> ModelConfig:
    """The entry of that name below `models:`. Raises ConfigError naming those that there are."""
    from gateway import config
    from gateway.suggest import did_you_mean, listed
    from schemas.errors import ConfigError

    models = config.load(plant).plant.models
    if name not in models:
        hint = did_you_mean(name, models) or (f"it has {listed(models)}" if models else "add one below `models:`")
        raise ConfigError(f"{plant} has no model {name!r}", hint=hint)
    return models[name]


@command.command("list")
def list_() -> None:
    """List the models there are and what they are for."""
    from gateway import catalogue

    names = catalogue.names("models")
    for name in names:
        about = (catalogue.plugin("models", name).config.__doc__ or "").strip().partition("\n")[0]
        click.echo(f"{name:<{max(map(len, names))}}  {about}")
