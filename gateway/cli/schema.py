"""`genba schema`: JSON Schema of the configuration, for completion and hints in editors."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("schema")
@click.argument("file", type=click.Path(path_type=Path), required=False)
def command(file: Path | None) -> None:
    """Write the JSON Schema of plant.yaml to FILE, by default to the terminal.

    It covers the adapters, models and sinks that are installed here. Editors find it by the line
    `# yaml-language-server: $schema=./genba.schema.json` at the top of the configuration.
    """
    import json

    from gateway.config.schema import json_schema

    schema, left_out = json_schema()
    for reason in left_out:
        click.echo(f"warning: {reason}", err=True)
    text = json.dumps(schema, ensure_ascii=False, indent=1)
    if file is None:
        click.echo(text)
        return
    try:
        file.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"cannot write {file}: {error.strerror}") from error
