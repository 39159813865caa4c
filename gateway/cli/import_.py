"""`genba import tags FILE`: tag lists of engineering tools as a tag file."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ._options import printable
from ._output import OUTPUT, Output, complain_of_output, deliver

if TYPE_CHECKING:
    from gateway.taglists.rows import TagList

_SHOWN = 50


@click.group("import")
def command() -> None:
    """Take over what other tools know."""


@command.command("tags")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--format", "form", default="auto", show_default=True, type=click.Choice(["auto", "tia-tags", "tia-block", "kepserver", "table"]),
    help="What FILE is: TIA Portal tag table, TIA Portal data block source, KEPServerEX CSV, or any table.",
)  # fmt: skip
@click.option(
    "--kind",
    type=click.Choice(["modbus", "opcua", "s7"]),
    help="Adapter for which the tags are; told from the addresses if left out.",
)
@click.option(
    "--db",
    "numbers",
    multiple=True,
    metavar="[NAME=]NUMBER",
    help="Number of a data block whose source does not say it; may be repeated.",
)
@click.option(
    "--arrays",
    type=click.Choice(["elements", "waveform"]),
    default="elements",
    show_default=True,
    help="Each element of an array of numbers as a tag, or the whole array as one.",
)
@click.option(
    "--prefix",
    default="",
    metavar="CHANNEL.DEVICE",
    help="Where the device is in KEPServerEX, to read it through its OPC UA server.",
)
@click.option("--sheet", help="Sheet of a workbook; every one with names and addresses if left out.")
@click.option("--encoding", help="Encoding of FILE where it is not guessed right: cp932, cp1252, utf-8.")
def tags(
    file: Path,
    form: str,
    kind: str | None,
    numbers: tuple[str, ...],
    arrays: Literal["elements", "waveform"],
    prefix: str,
    sheet: str | None,
    encoding: str | None,
    **given: Any,
) -> None:
    """Read the tag list in FILE and write it as tags: TIA Portal tag tables (.xml, .xlsx, .csv, .sdf) and data block sources (.db, .scl, .awl),
    KEPServerEX CSV, or any table with a name and an address per row.

    Every row that is not taken is named with its line and the reason. Exits with 0 when all were taken, with 1 when some were left out
    (the others are written) or when --diff finds a difference, with 2 when FILE cannot be read.
    """
    from gateway.taglists.reading import Wanted, read

    output = Output.taken(given)
    complain_of_output(output)
    named, alone = _numbers(numbers)
    wanted = Wanted(form, kind, encoding, sheet, prefix, named, alone, arrays)  # type: ignore[arg-type]
    found = read(file, wanted)
    command = shlex.join(["genba", "import", "tags", str(file), *_options(form, kind, numbers, arrays, prefix, sheet, encoding)])
    scope = json.dumps([file.name, found.kind, prefix, sheet])
    _tell(found, file)
    result = deliver(found.points, found.kind, output, command=command, source=str(file), scope=scope, whole=True)
    if output.as_json:
        told = {
            "kind": found.kind,
            "format": found.format,
            "points": [{"name": p.name, "asset": p.asset, "options": dict(p.options), "note": p.note} for p in found.points],
            "left_out": [{"line": one.line, "name": one.name, "reason": one.reason} for one in found.refused],
            "notes": found.notes,
            **result.as_json(),
        }
        click.echo(json.dumps(told, ensure_ascii=False, indent=1, default=str))
    if found.refused or (output.diff and result.difference):
        raise SystemExit(1)


tags.params.extend(OUTPUT)


def _numbers(given: Sequence[str]) -> tuple[dict[str, int], int | None]:
    """DB numbers by block name, and the one that was given without a name."""
    named: dict[str, int] = {}
    alone: int | None = None
    for text in given:
        name, equals, number = text.rpartition("=")
        if not number.isdigit() or not 1 <= int(number) <= 65535:
            raise click.UsageError(f"--db: {text!r} is not a number from 1 to 65535; write --db 10 or --db Motor=10")
        if equals:
            named[name] = int(number)
        else:
            alone = int(number)
    return named, alone


def _options(
    form: str, kind: str | None, numbers: Sequence[str], arrays: str, prefix: str, sheet: str | None, encoding: str | None
) -> list[str]:
    words: list[str] = []
    pairs = [("--format", form if form != "auto" else None), ("--kind", kind), *(("--db", number) for number in numbers)]
    pairs += [
        ("--arrays", arrays if arrays != "elements" else None),
        ("--prefix", prefix),
        ("--sheet", sheet),
        ("--encoding", encoding),
    ]
    for name, value in pairs:
        if value:
            words += [name, value]
    return words


def _tell(found: TagList, file: Path) -> None:
    """What was read and what was left out, on stderr."""
    for one in found.refused[:_SHOWN]:
        click.echo(printable(f"{file}:{one.line}: {one.name}: left out: {one.reason}"), err=True)
    if len(found.refused) > _SHOWN:
        click.echo(f"… and {len(found.refused) - _SHOWN:,} more; --json names all", err=True)
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    left = f", {len(found.refused):,} left out" if found.refused else ""
    click.echo(f"{file} ({found.format}): {len(found.points):,} tags for {found.kind}{left}", err=True)
