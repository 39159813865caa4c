"""A table on its way out: for people on the terminal, as CSV or JSON for programs, as Parquet or Arrow for data tools."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Literal, cast

import click

from gateway.cli._options import printable
from schemas.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl

Format = Literal["table", "csv", "json", "parquet", "arrow"]
SUFFIXES: Final[dict[str, Format]] = {
    ".csv": "csv", ".json": "json", ".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow", ".txt": "table",
}  # fmt: skip
_AT_MOST: Final = 1_000
"""Rows of a table for people; who wants more wants a file."""
_RIGHT: Final = ("Int", "UInt", "Float", "Decimal")


def format_of(asked: str | None, out: Path | None, default: Format = "table") -> Format:
    """The format that was asked for, or that the file's name says. Raises click.UsageError for a name that says nothing."""
    if asked is not None:
        return cast("Format", asked)
    if out is None:
        return default
    found = SUFFIXES.get(out.suffix.lower())
    if found is None:
        raise click.UsageError(f"--out {out}: which format? End the name in {', '.join(SUFFIXES)}, or give --format")
    return found


def write(frame: pl.DataFrame, format: Format, out: Path | None) -> None:
    """The whole table, to a file or stdout; a table for people is cut after 1,000 rows, which stderr says."""
    if format == "table":
        with written(out) as stream:
            _table(frame, io.TextIOWrapper(stream, encoding="utf-8", write_through=True) if out else sys.stdout)
        return
    if out is None and format in ("parquet", "arrow") and sys.stdout.isatty():
        raise click.UsageError(f"{format} is nothing for a terminal; give --out FILE, or send it into a pipe")
    with written(out) as stream:
        match format:
            case "csv":
                stream.write(_flat(frame).write_csv().encode())
            case "json":
                stream.write(_json(frame).encode())
            case "parquet":
                frame.write_parquet(stream, compression="zstd")
            case "arrow":
                frame.write_ipc_stream(stream)


@contextmanager
def written(out: Path | None) -> Iterator[IO[bytes]]:
    """A file to write, which appears under its name when it is whole, or stdout. Raises ConfigError where it cannot be written."""
    if out is None:
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    scratch = out.with_name(f".tmp-{os.getpid()}-{out.name}")
    try:
        with scratch.open("wb") as stream:
            yield stream
        scratch.replace(out)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        scratch.unlink(missing_ok=True)


def _flat(frame: pl.DataFrame) -> pl.DataFrame:
    """What CSV can hold: a list becomes JSON text, times ISO 8601 with their offset."""
    import polars as pl
    import polars.selectors as cs

    return frame.with_columns(
        cs.list().map_elements(lambda values: str(list(values)), return_dtype=pl.String, skip_nulls=True),
        cs.datetime().dt.to_string("%Y-%m-%dT%H:%M:%S%.6f%:z"),
    )


def _json(frame: pl.DataFrame) -> str:
    """An array of objects; times ISO 8601 with their offset, what is no number in JSON is null."""
    import json
    import math

    def plain(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return None
        return value.isoformat() if hasattr(value, "isoformat") else value

    rows = ({name: plain(value) for name, value in row.items()} for row in frame.iter_rows(named=True))
    return "[" + ",\n ".join(json.dumps(row, ensure_ascii=False) for row in rows) + "]\n"


def _table(frame: pl.DataFrame, stream: IO[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, dtype in frame.schema.items():
        table.add_column(Text(printable(name)), no_wrap=True, justify="right" if str(dtype).startswith(_RIGHT) else "left")
    for row in frame.head(_AT_MOST).iter_rows():
        table.add_row(*(Text(printable(_shown(value))) for value in row))
    console = Console(file=stream)
    if not console.is_terminal:
        console = Console(file=stream, width=10_000)  # whole lines, for a pager or a file
    console.print(table)
    if frame.height > _AT_MOST:
        click.echo(f"{frame.height - _AT_MOST:,} more rows; --format csv or --out FILE writes all", err=True)


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.10g}"
    return value.isoformat(sep=" ") if hasattr(value, "hour") and hasattr(value, "isoformat") else str(value)


def outputs(*formats: Format) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The options --format, as `format_`, and --out."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        function = click.option("--out", "-o", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file.")(
            function
        )
        return click.option(
            "--format", "format_", type=click.Choice(formats), help="By default what the name of --out ends in, else a table."
        )(function)

    return decorate
