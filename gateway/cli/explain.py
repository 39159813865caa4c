"""`genba explain E012`: what an error code means and what to do, without network or documentation at hand."""

from __future__ import annotations

import click


@click.command("explain")
@click.argument("code", required=False)
def command(code: str | None) -> None:
    """Explain an error CODE such as E012; without one, list all."""
    from gateway.config.codes import CODES
    from gateway.suggest import did_you_mean

    if code is None:
        for known in CODES.values():
            click.echo(f"{known.code}  {known.title}")
        return
    found = CODES.get(code.strip().upper())
    if found is None:
        hint = did_you_mean(code.strip().upper(), CODES) or "`genba explain` lists all codes"
        raise click.UsageError(f"there is no code {code!r}; {hint}")
    click.echo(found.explained())
