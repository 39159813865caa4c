"""`genba alert …`: look at alarms and answer them. One file a subcommand; files that begin with `_` are what they share."""

from __future__ import annotations

import click

from gateway.cli import Commands


@click.group("alert", cls=Commands, package=__name__)
def command() -> None:
    """Look at the alarms of a gateway, acknowledge them, put them aside.

    The gateway is that of `plant.yaml` or `./spool` here, or of --in: its YAML file or its spool directory.
    """
