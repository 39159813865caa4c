"""What several commands do with their options."""

from __future__ import annotations

import click


def in_seconds(ctx: click.Context, param: click.Parameter, text: str | None) -> float | None:
    """A time span written as in the YAML file, `500ms`, `45s`, for the callback of an option. Raises BadParameter for other text."""
    from schemas.values import Duration

    if text is None:
        return None
    try:
        return Duration(text).s
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is {error}", ctx, param) from error


def printable(text: str) -> str:
    """What a device or a file says, without what a terminal would take for a command."""
    return "".join(one if one.isprintable() else "\ufffd" for one in text)
