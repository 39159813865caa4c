"""`genba doctor [plant.yaml]`: what is wrong on this machine or on the way to the devices, and what to do about it."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("doctor")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
def command(file: Path | None, as_json: bool) -> None:
    """Check this machine and, with FILE, the configuration and whether its devices and sinks can be reached."""
    import dataclasses
    import json

    from gateway import config, doctor

    configuration = config.load(file, strict_env=False) if file is not None else None
    directory = configuration.directory / configuration.plant.spool.directory if configuration else Path()
    reach = list(doctor.reachability(configuration)) if configuration else []
    checks = [*doctor.machine(directory), *reach]
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(check) for check in checks], ensure_ascii=False, indent=1))
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            mark, colour = {"ok": ("ok  ", "green"), "warning": ("warn", "yellow"), "failure": ("FAIL", "red")}[check.result]
            click.echo(
                f"{click.style(mark, fg=colour)} {check.name:<{width}}  {check.found}"
                + (f"\n     {'':<{width}}  -> {check.way_out}" if check.way_out else "")
            )
    failed = [check for check in checks if check.result == "failure"]
    if failed:
        raise SystemExit(3 if all(check in reach for check in failed) else 1)
