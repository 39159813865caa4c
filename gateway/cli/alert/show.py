"""`genba alert show`: everything about one alarm."""

from __future__ import annotations

from pathlib import Path
from zoneinfo import ZoneInfo

import click

from gateway.cli.lake._frames import scratch_for
from gateway.cli.lake._times import zone_of
from gateway.cli.lake.plot import FORMATS
from gateway.cli.spool._place import as_json, at, directory_of, emit, table

from ._place import place


@click.command("show")
@click.argument("alarm_id", metavar="ID")
@click.option("--plot", "-o", type=click.Path(path_type=Path, dir_okay=False), help="Draw it: FILE.png, .svg or .pdf.")
@click.option("--lake", metavar="LOCATION", help="Look into this lake: a directory or s3://bucket/prefix.")
@click.option("--region", help="Region of the bucket, where the environment does not say it.")
@click.option("--endpoint", metavar="URL", help="Another server that speaks S3.")
@click.option("--profile", help="Profile of the AWS configuration with the credentials.")
@click.option("--zone", "clock", callback=zone_of, help="Time zone of the plot, such as Asia/Tokyo.")
@as_json
@place
def command(
    alarm_id: str, plot: Path | None, lake: str | None, region: str | None, endpoint: str | None, profile: str | None,
    clock: ZoneInfo | None, as_json: bool, place: Path,
) -> None:  # fmt: skip
    """Show what raised the alarm ID, how far it was from normal, what contributed, and what has become of it.

    The beginning of an ID is enough. --plot draws the minute before it; from a lake also a minute after.

    \b
    genba alert show 5f0c7a1e --plot press.png
    """
    from gateway.cli.lake._location import located_at
    from gateway.jobs import alert_story

    format = "" if plot is None else plot.suffix.lower().lstrip(".")
    if plot is not None and format not in FORMATS:
        raise click.UsageError(f"--plot {plot}: which format? End the name in {', '.join('.' + one for one in FORMATS)}")
    if lake is None:
        story = alert_story.in_spool(directory_of(place), alarm_id)
        location = None
    else:
        location = located_at(lake, region, endpoint, profile)
        location.holds_a_lake()
        with location.errors():
            story = alert_story.in_lake(str(location), alarm_id, location.access)
    if as_json:
        emit(story.document())
    else:
        for name, value in story.facts():
            click.echo(f"{name:<14}{value}")
        click.echo()
        table(("time (UTC)", "what", "state"), [(at(row["time"]), row["transition"], row["state"]) for row in story.rows], left=3)
    if plot is not None:
        from gateway.jobs import lake_plot

        with scratch_for(plot) as scratch:
            if location is None:
                lake_plot.draw(story.picture(), scratch, format, clock)
            else:
                with location.errors():
                    lake_plot.draw(story.picture_of(str(location), location.access), scratch, format, clock)
        click.echo(f"{plot} is drawn", err=True)
