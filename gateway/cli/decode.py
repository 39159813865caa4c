"""`genba decode FILE`: the readings in a capture of an adapter, decoded offline by the same code that reads the device."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from schemas.errors import ConfigError

if TYPE_CHECKING:
    from gateway.decoding import Decoded


@click.command("decode")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print readings and troubles as JSON instead of a table.")
@click.option("--csv", "as_csv", is_flag=True, help="Print the readings as CSV.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the readings to this file too: `.parquet` or `.csv`.")
@click.option("--last", type=click.IntRange(1), help="Show the last N readings of each tag only.")
@click.option(
    "--golden",
    type=click.Path(path_type=Path),
    help="Make a golden test of it: a folder with the capture and the expected readings.",
)
def command(file: Path, as_json: bool, as_csv: bool, out: Path | None, last: int | None, golden: Path | None) -> None:
    """Decode FILE, which `capture: FILE` of an adapter has written. Opens no connection.

    Exit status 1 when an exchange could not be decoded.
    """
    import json

    from adapters.playback import read_capture
    from gateway.decoding import decode, write_table

    if out is not None and out.suffix not in (".parquet", ".csv"):
        raise click.BadParameter("ends in .parquet or .csv", param_hint="--out")
    capture = read_capture(file)
    decoded = decode(capture)
    if out is not None:
        with _written(out):
            write_table(decoded.table(), out)
    if golden is not None:
        from gateway.golden import write_golden

        with _written(golden):
            write_golden(golden, file, decoded)
        click.echo(f"{golden}: {len(decoded.rows())} readings; look at expected.json before it becomes a test", err=True)
    rows = _last(decoded.rows(), last) if last else decoded.rows()
    if as_json:
        click.echo(json.dumps({"readings": rows, "troubles": _troubles(decoded)}, ensure_ascii=False, indent=1))
    elif as_csv:
        _csv(rows)
    elif golden is None:
        _table(rows)
    if capture.torn:
        click.echo(f"{file}: {capture.torn}; what stands before is decoded", err=True)
    if not as_json:
        for trouble in _troubles(decoded):
            click.echo(f"{trouble['time']}  cannot be decoded: {trouble['why']}  {trouble['request']}".rstrip(), err=True)
    if decoded.troubles:
        raise SystemExit(1)


@contextmanager
def _written(path: Path) -> Iterator[None]:
    """Raises ConfigError where a person named a place that cannot be written."""
    try:
        yield
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)  # Arrow's own text is a paragraph
        raise ConfigError(f"{path}: cannot be written: {why}") from error


def _last(rows: list[dict[str, object]], count: int) -> list[dict[str, object]]:
    from collections import Counter

    seen: Counter[object] = Counter()
    kept = []
    for row in reversed(rows):
        seen[row["tag"]] += 1
        if seen[row["tag"]] <= count:
            kept.append(row)
    return kept[::-1]


def _troubles(decoded: Decoded) -> list[dict[str, str]]:
    from gateway.decoding import iso

    return [
        {"time": iso(trouble.time_us), "request": trouble.request.hex(" "), "why": trouble.why} for trouble in decoded.troubles
    ]


def _value(row: dict[str, object]) -> str:
    value = row.get("value", row.get("value_int", row.get("samples", "")))
    text = row.get("text")
    return str(value) if text is None else f"{text} ({value})" if "value" in row else str(text)


def _table(rows: list[dict[str, object]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from gateway.decoding import iso

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("time", "tag", "value", "quality"):
        table.add_column(name, no_wrap=name != "value", justify="right" if name == "value" else "left")
    for row in rows:
        table.add_row(iso(int(str(row["time_us"]))), Text(str(row["tag"])), Text(_value(row)), Text(str(row["quality"])))
    console = Console()
    if not console.is_terminal:
        console = Console(width=240)  # whole lines, for a pager or a file
    console.print(table)


def _csv(rows: list[dict[str, object]]) -> None:
    import csv
    import sys

    from gateway.decoding import iso

    writer = csv.writer(sys.stdout)
    writer.writerow(["time", "tag", "value", "text", "quality"])
    for row in rows:
        value = row.get("value", row.get("value_int", ""))
        writer.writerow([iso(int(str(row["time_us"]))), row["tag"], value, row.get("text", ""), row["quality"]])
