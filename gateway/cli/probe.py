"""`genba probe KIND ENDPOINT` and `genba probe plant.yaml NAME`: what a device answers, as a tag file and settings."""

from __future__ import annotations

from pathlib import Path

import click

from ._kinds import KindOrFile


def _of_kind(kind: str) -> click.Command:
    from . import _discover

    return _discover.of_kind("probe", kind)


def _of_entry(file: Path, name: str) -> click.Command:
    from . import _discover

    return _discover.of_entry("probe", file, name)


@click.command("probe", cls=KindOrFile, of_kind=_of_kind, of_entry=_of_entry)
@click.argument("words", metavar="KIND ENDPOINT | FILE NAME", nargs=-1)
def command(words: tuple[str, ...]) -> None:
    """Look at a device that does not know its own values: which addresses answer, how it counts, what it is.

    `genba probe modbus tcp://10.0.0.7:502 --out tags/drive.yaml`; the options of a kind: `genba probe modbus --help`.
    `genba probe plant.yaml drive-1` uses the options of that entry.
    """
    from . import _discover

    _discover.nothing_named("probe", words)
