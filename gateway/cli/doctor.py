"""`genba doctor [plant.yaml]` and `genba doctor KIND ENDPOINT`: what is wrong on this machine, on the way to the devices or at one
device, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from schemas.plugin import Check


class KindOrFile(click.Command):
    """A command whose first argument may be a kind of adapter: then that kind's own options follow."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """That of the kind's command where the first argument is a kind, the usual one otherwise."""
        first = next((n for n, argument in enumerate(args) if not argument.startswith("-")), None)
        if first is not None:
            from gateway import catalogue

            if args[first] in catalogue.names("adapters"):
                rest = [*args[:first], *args[first + 1 :]]
                return of_kind(args[first]).make_context(f"{info_name} {args[first]}", rest, parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


@click.command("doctor", cls=KindOrFile)
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
def command(file: Path | None, as_json: bool) -> None:
    """Check this machine and, with FILE, the configuration and whether its devices and sinks can be reached.

    `genba doctor KIND ENDPOINT` looks at one device instead: `genba doctor s7 10.0.0.20 --db 10`. Its options: `genba doctor s7 --help`.
    """
    from gateway import config, doctor

    configuration = config.load(file, strict_env=False) if file is not None else None
    directory = configuration.directory / configuration.plant.spool.directory if configuration else Path()
    reach = list(doctor.reachability(configuration)) if configuration else []
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
    import asyncio

    from gateway import catalogue

    from . import _fields

    doctor = catalogue.plugin("adapters", kind).doctor
    if doctor is None:
        raise click.UsageError(
            f"the adapter {kind!r} has no doctor of its own; `genba doctor FILE` tells whether its devices answer"
        )

    def run(as_json: bool, **given: Any) -> None:
        options = _fields.read(doctor.options, given, argument="endpoint")

        async def examine() -> list[Check]:
            checks = []
            async with aclosing(doctor.examine(options)) as found:
                async for check in found:
                    checks.append(check)
                    if not as_json:
                        print_line(check, 15)
            return checks

        checks = asyncio.run(examine())
        if as_json:
            print_json(checks)
        if any(check.result == "failure" for check in checks):
            raise SystemExit(3)

    return click.Command(
        f"doctor {kind}",
        callback=run,
        params=[
            *_fields.parameters(doctor.options, argument="endpoint"),
            click.Option(["--json", "as_json"], is_flag=True, help="Print the checks as JSON."),
        ],
        help=f"Look at one {kind} device step by step: what is wrong with it, and what to do about it. Nothing is changed there.",
    )


def print_line(check: Check, width: int) -> None:
    """One check for people."""
    mark, colour = {"ok": ("ok  ", "green"), "warning": ("warn", "yellow"), "failure": ("FAIL", "red")}[check.result]
    first, *more = check.found.splitlines() or [""]
    click.echo(f"{click.style(mark, fg=colour)} {check.name:<{width}}  {first}")
    for line in more:
        click.echo(f"     {'':<{width}}  {line}")
    for number, line in enumerate(check.way_out.splitlines()):
        click.echo(f"     {'':<{width}}  {'   ' if number else '-> '}{line}")


def print_json(checks: Sequence[Check]) -> None:
    """All checks for programs."""
    import dataclasses
    import json

    click.echo(json.dumps([dataclasses.asdict(check) for check in checks], ensure_ascii=False, indent=1))
