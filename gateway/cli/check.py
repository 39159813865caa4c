"""`genba check plant.yaml`: every mistake of a configuration at once, without touching the network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.config import Configuration, Diagnostic


@click.command("check")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Text for people or JSON."
)
@click.option("--strict-env", is_flag=True, help="A variable or secret file that is missing here is an error, not a warning.")
@click.option("--tags", "with_tags", is_flag=True, help="List every tag with its path, address, type, unit and scan class.")
def command(file: Path, form: str, strict_env: bool, with_tags: bool) -> None:
    """Check FILE and everything that it names. Opens no connection.

    Exits with 0 when it is fine (warnings are fine) and with 2 when it has errors.
    """
    import json

    from gateway.config import examine
    from gateway.config.summary import overview, summary, tag_table

    configuration, diagnostics = examine(file, strict_env=strict_env)
    errors = sum(diagnostic.level == "error" for diagnostic in diagnostics)
    if form == "json":
        report = {
            "file": str(file),
            "ok": not errors,
            "errors": errors,
            "warnings": len(diagnostics) - errors,
            "diagnostics": [diagnostic.as_json() for diagnostic in diagnostics],
            "summary": summary(configuration, with_tags=with_tags) if configuration is not None else None,
        }
        click.echo(json.dumps(report, ensure_ascii=False, indent=1))
    else:
        _tell(file, configuration, diagnostics, errors)
        if configuration is not None:
            click.echo(overview(configuration))
            if with_tags:
                click.echo(tag_table(configuration))
    if errors:
        raise SystemExit(2)


def _tell(file: Path, configuration: Configuration | None, diagnostics: Sequence[Diagnostic], errors: int) -> None:
    from gateway.config.summary import counted, findings

    if diagnostics:
        click.echo(findings(diagnostics) + "\n")
    warnings = len(diagnostics) - errors
    also = f", {counted(warnings, 'warning')}" if warnings else ""
    if errors:
        first = next(diagnostic.code for diagnostic in diagnostics if diagnostic.level == "error")
        click.echo(f"{file}: {counted(errors, 'error')}{also}; `genba explain {first}` tells more about the first")
    elif configuration is None:
        click.echo(f"{file}: no errors found{also}; what depends on the missing variables could not be checked")
    else:
        click.echo(f"{file} is fine{also}")
