"""`genba lake verify`: whether the lake is whole, and whether everything that a gateway's ledger says was delivered is in it, once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ._keeping import Gateway, gateway_of, kinds, opened
from ._location import Location, located

if TYPE_CHECKING:
    from gateway.jobs.verify import Verdict
    from schemas.data import Kind

_AT_MOST: Final = 50


@click.command("verify")
@located
@click.argument("plant", required=False, type=click.Path(path_type=Path))
@click.option("--spool", type=click.Path(path_type=Path), help="Spool of the gateway, where there is no PLANT at hand.")
@click.option("--sink", help="The lake's name below `sinks:`, where the gateway has several sinks.")
@kinds
@click.option("--deep", is_flag=True, help="Read every row, not only what the files say of themselves.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON on stdout.")
def command(
    location: Location,
    plant: Path | None,
    spool: Path | None,
    sink: str | None,
    kinds: tuple[Kind, ...],
    deep: bool,
    as_json: bool,
) -> None:
    """Look at every file of the lake at LOCATION; with PLANT (the gateway's configuration) or --spool, compare it with the ledger.

    Only reads, and the gateway may run meanwhile. Exits with 0 only if all is well, with 1 where something is missing, doubled,
    damaged or lies about.
    """
    import json
    import time

    from gateway.jobs import verify as job

    if plant is not None and spool is not None:
        raise click.UsageError("PLANT and --spool both say where the spool is; give one of them")
    gateway = gateway_of(plant, location, sink) if plant is not None else Gateway(spool, sink) if spool is not None else None
    if gateway is None and sink is not None:
        raise click.UsageError("--sink is a name in a gateway's ledger; give PLANT or --spool")
    name = gateway.sink if gateway is not None else None
    if gateway is not None:
        name = job.sink_of(gateway.book(), name)
    if gateway is None:  # with a ledger what is missing is named
        location.holds_a_lake()
    with opened(location, gateway) as shelf:
        verdict = job.verify(
            shelf,
            str(location),
            look=gateway.book if gateway is not None else None,
            sink=name,
            dead_letters=gateway.dead_letters(name) if gateway is not None else None,
            kinds=kinds,
            deep=deep,
            now_us=time.time_ns() // 1000,
        )
    if as_json:
        click.echo(json.dumps(verdict.as_json(), ensure_ascii=False, indent=1))
    else:
        _tell(verdict)
    if not verdict.ok:
        raise SystemExit(1)


def _tell(verdict: Verdict) -> None:
    from gateway.config.summary import counted

    click.echo(f"{counted(verdict.files, 'file')}, {verdict.rows:,} rows, {verdict.bytes:,} bytes count in {verdict.location}")
    for one in verdict.reckonings:
        parts = [f"{one.found:,} of {one.delivered:,} delivered rows are there"]
        parts += [
            f"{rows:,} {what}"
            for rows, what in (
                (one.filtered, "filtered"),
                (one.dropped, "dropped"),
                (one.dead_lettered, "rejected"),
                (one.beyond, "newer"),
            )
            if rows
        ]
        click.echo(f"  {one.kind:<10} {', '.join(parts)}")
    problems = sum(finding.level == "problem" for finding in verdict.findings)
    for finding in sorted(verdict.findings, key=lambda finding: finding.level != "problem")[:_AT_MOST]:
        mark = click.style("✗", fg="red") if finding.level == "problem" else "·"
        click.echo(f"{mark} {finding.code}: {f'{finding.path}: ' if finding.path else ''}{finding.message}")
    if len(verdict.findings) > _AT_MOST:
        click.echo(f"… and {len(verdict.findings) - _AT_MOST:,} more; --json shows all")
    read = "every row was read" if verdict.deep else "footers were read; --deep reads every row"
    click.echo(f"{counted(problems, 'problem')} ({read})" if problems else f"all is well ({read})")
