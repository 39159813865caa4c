"""`genba doctor [plant.yaml]` and `genba doctor KIND ENDPOINT`: what is wrong on this machine, on the way to the devices or at one
device, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._kinds import KindOrFile, of_place
from ._options import printable

if TYPE_CHECKING:
    from schemas.plugin import Check, Doctor, Plugin


@click.command("doctor", cls=KindOrFile, of_kind=lambda kind: of_kind(kind), of_entry=lambda file, name: of_entry(file, name))
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
def command(file: Path | None, as_json: bool) -> None:
    """Check this machine and, with FILE, the configuration and whether its devices and sinks can be reached.

    `genba doctor KIND ENDPOINT` looks at one device instead: `genba doctor s7 10.0.0.20 --db 10`. Its options: `genba doctor s7 --help`.
    `genba doctor FILE NAME` looks at the device of one entry of FILE, with that entry's own options.
    """
    from gateway import config, doctor

    configuration = config.load(file, strict_env=False) if file is not None else None
    directory = configuration.directory / configuration.plant.spool.directory if configuration else Path()
    reach = [*doctor.reachability(configuration), *doctor.sinks(configuration)] if configuration else []
    checks = [*doctor.machine(directory), *reach]
    if as_json:
        print_json(checks)
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            print_line(check, width)
    failed = [check for check in checks if check.result == "failure"]
    if failed:
        raise SystemExit(3 if all(check in reach for check in failed) else 1)


def of_kind(kind: str) -> click.Command:
    """The command for devices of one kind of adapter. Raises click.UsageError when its adapter has no doctor."""
    from gateway import catalogue

    from . import _fields

    doctor = _doctor(catalogue.plugin("adapters", kind), kind)

    def run(as_json: bool, **given: Any) -> None:
        examine(doctor, _fields.read(doctor.options, given, argument="endpoint"), as_json)

    return _command(f"doctor {kind}", _fields.parameters(doctor.options, argument="endpoint"), run, f"Look at one {kind} device")


def of_entry(file: Path, name: str) -> click.Command:
    """The command for the device of one entry of a configuration file. Raises ConfigError, and click.UsageError as `of_kind` does."""
    from gateway.config.entry import load_entry

    from . import _fields

    entry = load_entry(file, name)
    doctor = _doctor(entry.plugin, entry.kind)

    def run(as_json: bool, **given: Any) -> None:
        examine(doctor, of_place(doctor, entry, given), as_json)

    options = _fields.parameters(doctor.options, argument="endpoint")[1:]
    return _command(f"doctor {file} {name}", options, run, f"Look at the {entry.kind} device of {name} in {file}")


def examine(doctor: Doctor[Any], options: Any, as_json: bool) -> None:
    """Run a doctor and show what it finds. Raises SystemExit(3) when a check fails."""
    import asyncio

    async def told() -> list[Check]:
        checks = []
        async with aclosing(doctor.examine(options)) as found:
            async for check in found:
                checks.append(check)
                if not as_json:
                    print_line(check, 15)
        return checks

    checks = asyncio.run(told())
    if as_json:
        print_json(checks)
    if any(check.result == "failure" for check in checks):
        raise SystemExit(3)


def _doctor(plugin: Plugin[Any, Any], kind: str) -> Doctor[Any]:
    if plugin.doctor is None:
        raise click.UsageError(
            f"the adapter {kind!r} has no doctor of its own; `genba doctor FILE` tells whether its devices answer"
        )
    return plugin.doctor


def _command(name: str, options: list[click.Parameter], run: Callable[..., None], what: str) -> click.Command:
    as_json = click.Option(["--json", "as_json"], is_flag=True, help="Print the checks as JSON.")
    text = f"{what} step by step: what is wrong with it, and what to do about it. Nothing is changed there."
    return click.Command(name, callback=run, params=[*options, as_json], help=text)


def print_line(check: Check, width: int, *, err: bool = False) -> None:
    """One check for people, on stdout or stderr."""
    mark, colour = {"ok": ("ok  ", "green"), "warning": ("warn", "yellow"), "failure": ("FAIL", "red")}[check.result]
    first, *more = check.found.splitlines() or [""]
    click.echo(f"{click.style(mark, fg=colour)} {check.name:<{width}}  {printable(first)}", err=err)
    for line in more:
        click.echo(f"     {'':<{width}}  {printable(line)}", err=err)
    for number, line in enumerate(check.way_out.splitlines()):
        click.echo(f"     {'':<{width}}  {'   ' if number else '-> '}{printable(line)}", err=err)


def print_json(checks: Sequence[Check]) -> None:
    """All checks for programs."""
    import dataclasses
    import json

    click.echo(json.dumps([dataclasses.asdict(check) for check in checks], ensure_ascii=False, indent=1))
