"""A table on its way out: for people on the terminal, as CSV or JSON for programs, as Parquet or Arrow for data tools."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Literal, TypeVar, cast

import click

from gateway.cli._options import printable
from schemas.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl

    AnyFrame = TypeVar("AnyFrame", pl.DataFrame, pl.LazyFrame)

Format = Literal["table", "csv", "json", "parquet", "arrow"]
SUFFIXES: Final[dict[str, Format]] = {
    ".csv": "csv", ".json": "json", ".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow", ".txt": "table",
}  # fmt: skip
CSV_TIME: Final = "%Y-%m-%dT%H:%M:%S%.6f%:z"
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


def write(frames: Iterable[pl.DataFrame], format: Format, out: Path | None, *, units: Mapping[str, str] | None = None) -> None:
    """A table to a file or stdout, piece by piece: at least one piece, all with the same columns.

    `units` (column -> UCUM code) go into the header of table and CSV, and into the fields' metadata of Parquet and Arrow. A table
    for people is cut after 1,000 rows, which stderr says.
    """
    if out is None and format in ("parquet", "arrow") and sys.stdout.isatty():
        raise click.UsageError(f"{format} is nothing for a terminal; give --out FILE, or send it into a pipe")
    with written(out) as stream:
        match format:
            case "table":
                _table(frames, stream if out else None, units or {})
            case "csv":
                for i, frame in enumerate(frames):
                    text = for_csv(frame).rename(_titles(units or {})).write_csv(include_header=i == 0, datetime_format=CSV_TIME)
                    stream.write(text.encode())
            case "json":
                _json(frames, stream)
            case "parquet" | "arrow":
                _arrow(frames, format, stream, units or {}, seekable=out is not None)


@contextmanager
def written(out: Path | None) -> Iterator[IO[bytes]]:
    """A file to write, which appears under its name when it is whole, or stdout. Raises ConfigError where it cannot be written."""
    if out is None:
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with scratch_for(out) as scratch, scratch.open("wb") as stream:
        yield stream


@contextmanager
def scratch_for(out: Path) -> Iterator[Path]:
    """A file beside `out` that takes its name when it is whole. Raises ConfigError where it cannot be written."""
    scratch = out.with_name(f".tmp-{os.getpid()}-{out.name}"[:255])
    try:
        scratch.touch()
        yield scratch
        scratch.replace(out)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        scratch.unlink(missing_ok=True)


def for_csv(frame: AnyFrame) -> AnyFrame:
    """What CSV can hold: the samples of a waveform stand in one cell, a blank between them."""
    import polars as pl
    import polars.selectors as cs

    samples = cs.list()
    return frame.with_columns(pl.when(samples.is_not_null()).then(samples.cast(pl.List(pl.String)).list.join(" ")).name.keep())


def for_people(frame: pl.DataFrame) -> pl.DataFrame:
    """Codes as words: units as people write them, quality by its name."""
    import polars as pl

    from schemas.quality import name
    from schemas.units import display

    words: dict[str, Callable[[Any], str]] = {"unit": display, "quality": name}
    return frame.with_columns(
        frame[column].replace_strict(
            {code: word(code) for code in frame[column].unique().drop_nulls()}, default=None, return_dtype=pl.String
        )
        for column, word in words.items()
        if column in frame.columns
    )


def _titles(units: Mapping[str, str]) -> dict[str, str]:
    """Column -> title with its unit, `…/motor_temp [°C]`; one that ends in a unit already stays."""
    from schemas.units import display

    return {name: f"{name} [{display(unit)}]" for name, unit in units.items() if unit != "1" and not name.endswith("]")}


def _json(frames: Iterable[pl.DataFrame], stream: IO[bytes]) -> None:
    """An array of objects; times ISO 8601 with their offset, what is no number in JSON is null."""
    import json
    import math

    def plain(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return None
        return value.isoformat() if hasattr(value, "isoformat") else value

    before = "["
    for frame in frames:
        for row in frame.iter_rows(named=True):
            text = json.dumps({name: plain(value) for name, value in row.items()}, ensure_ascii=False)
            stream.write(f"{before}{text}".encode())
            before = ",\n "
    stream.write(b"[]\n" if before == "[" else b"]\n")


def _arrow(
    frames: Iterable[pl.DataFrame], format: Format, stream: IO[bytes], units: Mapping[str, str], *, seekable: bool
) -> None:
    """Parquet, or Arrow IPC: a file is the format that can be looked into at any place (Feather), a pipe gets a stream."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from cloud_sinks.wide import arrow_schema, plain_arrow

    writer: Any = None
    try:
        for frame in frames:
            table = plain_arrow(frame)
            if writer is None:
                schema = arrow_schema(table.schema, units)
                writer = (
                    pq.ParquetWriter(stream, schema, compression="zstd")
                    if format == "parquet"
                    else (pa.ipc.new_file if seekable else pa.ipc.new_stream)(stream, schema)
                )
            writer.write_table(pa.Table.from_arrays(table.columns, schema=schema))
    finally:
        if writer is not None:
            writer.close()


def _table(frames: Iterable[pl.DataFrame], stream: IO[bytes] | None, units: Mapping[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    titles = _titles(units)
    table = Table(box=None, pad_edge=False, header_style="bold")
    rows = 0
    for frame in frames:
        if not table.columns:
            for name, dtype in frame.schema.items():
                right = str(dtype).startswith(_RIGHT)
                table.add_column(Text(printable(titles.get(name, name))), no_wrap=True, justify="right" if right else "left")
        for row in frame.head(max(0, _AT_MOST - rows)).iter_rows():
            table.add_row(*(Text(printable(_shown(value))) for value in row))
        rows += frame.height
        if rows > _AT_MOST:
            break
    text = io.StringIO()
    console = Console(file=sys.stdout if stream is None else text)
    if not console.is_terminal:
        console = Console(file=console.file, width=10_000)  # whole lines, for a pager or a file
    console.print(table)
    if stream is not None:
        stream.write(text.getvalue().encode())
    if rows > _AT_MOST:
        click.echo(f"only the first {_AT_MOST:,} rows are shown; --format csv or --out FILE has all", err=True)


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
