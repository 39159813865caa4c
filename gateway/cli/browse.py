"""`genba browse KIND ENDPOINT` and `genba browse plant.yaml NAME`: what a server has, as a tag file."""

from __future__ import annotations

from pathlib import Path

import click

from . import _discover
from ._kinds import KindOrFile


@click.command(
    "browse",
    cls=KindOrFile,
    of_kind=lambda kind: _discover.of_kind("browse", kind),
    of_entry=lambda file, name: _discover.of_entry("browse", file, name),
)
@click.argument("file", metavar="KIND ENDPOINT | FILE NAME", type=click.Path(path_type=Path), required=False)
def command(file: Path | None) -> None:
    """List what a server has as tags, with types, units and names, or write them into a tag file.

    `genba browse opcua opc.tcp://10.0.0.5:4840 --out tags/robot.yaml`; the options of a kind: `genba browse opcua --help`.
    `genba browse plant.yaml robot-3` uses the security and the user of that entry.
    """
    _discover.nothing_named("browse", file)
