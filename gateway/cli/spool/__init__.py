"""`genba spool …`: look into the spool and change what waits in it. One file a subcommand; files that begin with `_` are what they share."""

from __future__ import annotations

import click

from gateway.cli import Commands


@click.group("spool", cls=Commands, package=__name__)
def command() -> None:
    """Look into the spool, also while the gateway runs, and change what waits in it.

    PLACE is the spool's directory, or the gateway's YAML file, which names it.
    """
