"""`genba lake plot`: readings as a picture."""

from __future__ import annotations

from pathlib import Path

import click

from ._frames import scratch_for
from ._location import Location, located, sites
from ._times import Interval, timed

FORMATS = ("png", "svg", "pdf")


@click.command("plot")
@located
@click.argument("patterns", nargs=-1, required=True, metavar="PATTERN...")
@timed
@sites
@click.option("--out", "-o", type=click.Path(path_type=Path, dir_okay=False), required=True, help="FILE.png, .svg or .pdf.")
def command(location: Location, patterns: tuple[str, ...], interval: Interval, sites: tuple[str, ...], out: Path) -> None:
    """Draw the tags of the lake at LOCATION that fit PATTERN: bad quality and gaps marked, an axis per unit, alerts as marks.

    \b
    genba lake plot ./lake '**/motor_temp' --last 8h --zone Asia/Tokyo --out temp.png
    """
    format = out.suffix.lower().lstrip(".")
    if format not in FORMATS:
        raise click.UsageError(f"--out {out}: which format? End the name in {', '.join('.' + one for one in FORMATS)}")
    from gateway.jobs import lake_plot

    location.holds_a_lake()
    with location.errors():
        what = lake_plot.picture(str(location), patterns, interval.start, interval.end, sites=sites, access=location.access)
        with scratch_for(out) as scratch:
            lake_plot.draw(what, scratch, format, interval.zone)
    click.echo(f"{out}: {len(what.lines)} lines, {len(what.alerts)} alerts", err=True)
