"""`genba browse KIND ENDPOINT` and `genba browse plant.yaml NAME`: what a server has, as a tag file."""

from __future__ import annotations

from pathlib import Path

import click

from ._kinds import KindOrFile


def _of_kind(kind: str) -> click.Command:
    from . import _discover

    return _discover.of_kind("browse", kind)


def _of_entry(file: Path, name: str) -> click.Command:
    from . import _discover

    return _discover.of_entry("browse", file, name)


@click.command("browse", cls=KindOrFile, of_kind=_of_kind, of_entry=_of_entry)
@click.argument("words", metavar="KIND ENDPOINT | FILE NAME", nargs=-1)
def command(words: tuple[str, ...]) -> None:
    """List what a server has as tags, with types, units and names, or write them into a tag file.

    `genba browse opcua opc.tcp://10.0.0.5:4840 --out tags/robot.yaml`; the options of a kind: `genba browse opcua --help`.
    `genba browse plant.yaml robot-3` uses the security and the user of that entry.
    """
    from . import _discover

    _discover.nothing_named("browse", words)
