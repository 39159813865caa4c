"""`genba lake …`: look into the lake and look after it. One file a subcommand; files that begin with `_` are what they share."""

from __future__ import annotations

import click

from gateway.cli import Commands


@click.group("lake", cls=Commands, package=__name__)
def command() -> None:
    """Look into the lake and look after it.

    LOCATION is the lake's directory or `s3://bucket/prefix`, as `location` of the sink.
    """
