"""`genba lake compact`: small files of the lake become large ones; readers see every row once all the while."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli._engine import Engine, engined
from gateway.cli._options import in_seconds

from ._keeping import Gateway, aws_of, gateway_of, kinds, opened
from ._location import Location, located

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from cloud_sinks.parquet.compaction import Options, Outcome, Plan, Report
    from schemas.data import Kind


def _bytes(ctx: click.Context, param: click.Parameter, text: str) -> int:
    from schemas.values import Size

    try:
        found = int(Size(text))
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is {error}", ctx, param) from error
    if found < 1 << 20:
        raise click.BadParameter("less than 1 MiB is no size for a merged file", ctx, param)
    return found


@click.command("compact")
@located
@click.argument("plant", required=False, type=click.Path(path_type=Path))
@click.option("--sink", help="The lake's name below `sinks:`, where several sinks of PLANT write to LOCATION.")
@kinds
@click.option(
    "--older-than",
    callback=in_seconds,
    metavar="SPAN",
    help="Only dates that ended at least so long ago, 1d or 0s; else today's too.",
)
@click.option(
    "--target-size",
    default="256 MiB",
    show_default=True,
    callback=_bytes,
    metavar="SIZE",
    help="Of a merged file; files of half of it and more stay as they are.",
)
@click.option(
    "--grace",
    default="1m",
    show_default=True,
    callback=in_seconds,
    metavar="SPAN",
    help="How long files that were merged stay for those who are just reading them.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be merged first.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON on stdout.")
@engined
def command(
    location: Location,
    plant: Path | None,
    sink: str | None,
    kinds: tuple[Kind, ...],
    older_than: float | None,
    target_size: int,
    grace: float,
    dry_run: bool,
    as_json: bool,
    engine: Engine,
) -> None:
    """Merge the small files of each folder of the lake at LOCATION; gateways write and others read meanwhile.

    PLANT (a gateway's configuration) says how the bucket is reached and encrypted. Killing it or running it twice at once harms
    nothing: the next run clears up. Exits with 1 when a file is not what it says of itself; it stays as it is. With Spark each merge is a
    task of its own, with the same files in the same format as here.
    """
    import json

    from cloud_sinks.parquet.compaction import Compactor, Options

    if plant is None and sink is not None:
        raise click.UsageError("--sink is a name in PLANT; give that")
    gateway = gateway_of(plant, location, sink) if plant is not None else None
    options = Options(kinds, target_size, older_than, grace, dry_run)
    with engine.session() as spark, opened(location, gateway) as shelf:
        if not dry_run:
            shelf.open()
        compactor = Compactor(shelf, options)
        if spark is None or dry_run:
            compactor.run()
        else:
            while plans := compactor.plans():
                for outcome in _in_spark(spark, plans, location, gateway, options):
                    compactor.take(outcome)
            compactor.finish()
        report = compactor.report
    if as_json:
        click.echo(json.dumps(report.as_json(), ensure_ascii=False, indent=1))
    else:
        _tell(report, dry_run=dry_run)
    if report.problems:
        raise SystemExit(1)


def _in_spark(
    spark: SparkSession, plans: Sequence[Plan], location: Location, gateway: Gateway | None, options: Options
) -> Iterator[Outcome]:
    """Each plan is a task."""
    from cloud_sinks.parquet.remote import OUTCOME, CarryOut, unpacked
    from gateway.jobs.spark import each, explained

    base, kms_key = (gateway.base, gateway.config.kms_key if gateway.config else None) if gateway else (Path(), None)
    work = CarryOut(str(location), aws_of(location, gateway), base.resolve(), kms_key, options)
    with explained():
        rows = each(spark, work, list(enumerate(plans)), OUTCOME).toArrow().to_pylist()
    for row in rows:
        yield unpacked(row["outcome"], plans[row["plan"]])


def _tell(report: Report, *, dry_run: bool) -> None:
    from gateway.config.summary import counted

    for plan in report.planned:
        click.echo(f"{plan.folder}: {counted(len(plan.files), 'file')}, {plan.bytes:,} bytes")
    for done in report.merged:
        click.echo(
            f"{done.plan.folder}: {counted(len(done.plan.files), 'file')}, {done.plan.bytes:,} bytes -> {done.bytes:,}, {done.rows:,} rows"
        )
    for folder in report.restored:
        click.echo(f"{folder}: the manifest was lost and is made again")
    for problem in report.problems:
        click.echo(f"{click.style('✗', fg='red')} {problem}")
    if dry_run:
        click.echo(f"{counted(len(report.planned), 'merge')} to begin with" if report.planned else "nothing to merge")
    elif not (report.merged or report.removed):
        click.echo("nothing to merge")
    else:
        click.echo(f"{counted(len(report.merged), 'merge')}, {counted(len(report.removed), 'replaced file')} removed")
