"""`genba init`: a commented configuration to start from, and the schema that lets an editor complete it."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("init")
@click.argument("file", type=click.Path(path_type=Path), default=Path("plant.yaml"))
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
def command(file: Path, force: bool) -> None:
    """Write a commented starter configuration to FILE (plant.yaml), and genba.schema.json beside it for the editor."""
    import json

    from gateway.config.schema import FILE_NAME, json_schema
    from gateway.config.starter import starter

    schema, left_out = json_schema()
    beside = file.parent / FILE_NAME
    try:
        with file.open("w" if force else "x", encoding="utf-8") as out:
            out.write(starter())
        beside.write_text(json.dumps(schema, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    except FileExistsError:
        raise click.ClickException(f"{file} is there already; --force overwrites it") from None
    except OSError as error:
        raise click.ClickException(f"cannot write {error.filename}: {error.strerror}") from error
    for reason in left_out:
        click.echo(f"warning: {reason}", err=True)
    click.echo(f"wrote {file} and {beside}")
    click.echo(f"edit it, then: genba check {file}")
