"""`genba lake features`: what the readings of each tag were like, window by window, as Parquet beside the data."""

from __future__ import annotations

import click

from gateway.cli._engine import Engine, engined

from ._location import Location, located, sites
from ._times import Interval, timed


@click.command("features")
@located
@click.option(
    "--every", default="1m", show_default=True, metavar="SPAN", help="Length of a window; it divides a day: 1m, 15m, 1h."
)
@timed
@sites
@click.option(
    "--out", metavar="LOCATION", help="Another place for them than the lake itself: a directory, or s3://bucket/prefix."
)
@click.option("--sink", help="Name of the sink that writes the lake, where the lake does not say it: its gaps are counted.")
@engined
def command(
    location: Location, every: str, interval: Interval, sites: tuple[str, ...], out: str | None, sink: str | None, engine: Engine
) -> None:
    """Make features of the lake at LOCATION: count, quality, least, greatest, mean, spread, slope, silence and gaps of each tag.

    They lie in features/every=1m/site=…/date=…/features.parquet, a file per site and date. Whole dates are made, those that
    --start and --end touch. Given again it makes only what has changed since; the same rows give the same bytes.
    """
    from cloud_sinks.jobs import Lake
    from gateway.jobs import lake_features
    from schemas.errors import ConfigError
    from schemas.values import Duration

    try:
        window = Duration(every)
    except ValueError as error:
        raise ConfigError(f"--every {every}: {error}") from error
    lake = Lake(str(location), **location.access)
    location.holds_a_lake()
    with engine.session() as spark, location.errors("make features"):
        summary = lake_features.make(
            lake,
            window,
            result=None if out is None else Lake(out, **location.access),
            sites=sites,
            start=interval.start,
            end=interval.end,
            sink=sink,
            spark=spark,
        )
    click.echo(
        f"{summary.rows:,} windows of {window} in {summary.files:,} {'file' if summary.files == 1 else 'files'}, "
        f"{summary.made:,} made now"
    )
