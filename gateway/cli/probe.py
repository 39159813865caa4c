"""`genba probe KIND ENDPOINT` and `genba probe plant.yaml NAME`: what a device answers, as a tag file and settings."""

from __future__ import annotations

from pathlib import Path

import click

from . import _discover
from ._kinds import KindOrFile


@click.command(
    "probe",
    cls=KindOrFile,
    of_kind=lambda kind: _discover.of_kind("probe", kind),
    of_entry=lambda file, name: _discover.of_entry("probe", file, name),
)
@click.argument("file", metavar="KIND ENDPOINT | FILE NAME", type=click.Path(path_type=Path), required=False)
def command(file: Path | None) -> None:
    """Look at a device that does not know its own values: which addresses answer, how it counts, what it is.

    `genba probe modbus tcp://10.0.0.7:502 --out tags/drive.yaml`; the options of a kind: `genba probe modbus --help`.
    `genba probe plant.yaml drive-1` uses the options of that entry.
    """
    _discover.nothing_named("probe", file)
