"""Readings as a wide table: a row per moment of a grid, a column per tag, with the unit of each column. Made by `lake.pivot`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Final

from schemas.units import display

from . import align
from .align import How
from .moments import at_us
from .signals import Signal

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from schemas.tags import ValueType

COLUMNS: Final = (
    "time", "tag", "value", "value_int", "text", "unit", "quality", "value_min", "value_max", "count", "epoch", "seq",
)  # fmt: skip
_CELLS: Final = 1_000_000
"""Readings, or cells of the result, that are worked on at a time: some hundred megabytes."""
_GOOD: Final = 0x4000_0000
_BAD: Final = 0x8000_0000


@dataclass(frozen=True, slots=True)
class Grid:
    """The moments start, start + every, … before end, in µs."""

    start_us: int
    end_us: int
    every_us: int

    def __len__(self) -> int:
        return max(0, -(-(self.end_us - self.start_us) // self.every_us))

    def cut(self, rows: int) -> Iterator[Grid]:
        """The same moments in pieces of at most `rows`."""
        for first in range(0, len(self), rows):
            begin = self.start_us + first * self.every_us
            yield Grid(begin, min(self.end_us, begin + rows * self.every_us), self.every_us)


class Wide:
    """A wide table that is computed when it is asked for: `collect()` at once, `batches()` a slice of time after the other.

    Columns: `time` (µs UTC), then one per tag in order of the path, named by the path; Float64 for numbers, Int64 for 64-bit
    integers, String for text. A cell is null where the value is not known. `strayed` is how many days at most readings
    are filed before and after the date of their time.
    """

    def __init__(
        self,
        readings: pl.LazyFrame,
        gaps: pl.DataFrame,
        signals: Sequence[Signal],
        grid: Grid,
        *,
        how: How,
        tolerance_us: int,
        uncertain: bool,
        coverage: float,
        total: int,
        strayed: tuple[int, int] = (0, 0),
        again: Callable[[], pl.LazyFrame] | None = None,
    ) -> None:
        self.signals = tuple(signals)
        self.grid = grid
        self._readings, self._again, self._gaps = readings, again, align.merged(gaps)
        self._strayed = strayed
        self._how, self._tolerance_us, self._coverage = how, tolerance_us, coverage
        self._limit = _BAD if uncertain else _GOOD
        most = _CELLS // max(1, len(self.signals))
        self._rows = max(1, min(most, len(grid) * _CELLS // max(1, total)))

    @property
    def units(self) -> Mapping[str, str]:
        """Column -> UCUM code, `1` for a number without unit and for text."""
        return {signal.name: signal.unit for signal in self.signals}

    @property
    def schema(self) -> Mapping[str, pl.DataType]:
        """Column -> polars type, `time` first."""
        import polars as pl

        return {"time": pl.Datetime("us", "UTC"), **{signal.name: self._type(signal) for signal in self.signals}}

    def collect(self) -> pl.DataFrame:
        """The whole table."""
        import polars as pl

        frames = list(self.batches())
        return pl.concat(frames) if frames else pl.DataFrame(schema=self.schema)

    def batches(self) -> Iterator[pl.DataFrame]:
        """The table in slices of time, in order: memory is bounded by a slice, however long the table is."""
        for grid in self.grid.cut(self._rows):
            yield self._slice(grid)

    def head(self, rows: int) -> Wide:
        """The first so many rows of the same table."""
        grid = Grid(self.grid.start_us, min(self.grid.end_us, self.grid.start_us + rows * self.grid.every_us), self.grid.every_us)
        made = copy(self)
        made.grid = grid
        return made

    def to_arrow(self) -> pa.Table:
        """The whole table for pyarrow, Parquet and pandas, each field with `tag`, `unit` (UCUM) and `unit_display` in its metadata."""
        import pyarrow as pa

        table = plain_arrow(self.collect())
        tags = {signal.name: signal.tag for signal in self.signals}
        return pa.Table.from_arrays(table.columns, schema=arrow_schema(table.schema, self.units, tags))

    def _type(self, signal: Signal) -> pl.DataType:
        import polars as pl

        if signal.type == "text":
            return pl.String()
        whole = signal.type == "integer" and self._how in ("last", "min", "max")
        return pl.Int64() if whole else pl.Float64()

    def _slice(self, grid: Grid) -> pl.DataFrame:
        import polars as pl

        parts = self._parts(self._rows_of(grid))
        moments = pl.int_range(grid.start_us, grid.end_us, grid.every_us, eager=True)
        columns = [moments.cast(pl.Datetime("us", "UTC")).alias("time")]
        for signal in self.signals:
            part, dtype = parts.get(signal.tag), self._type(signal)
            if part is None:
                values = pl.Series([None], dtype=dtype).new_from_index(0, len(moments))
            else:
                values = self._column(signal, part, grid, moments)
            columns.append(values.cast(dtype).alias(signal.name))
        return pl.DataFrame(columns)

    def _rows_of(self, grid: Grid) -> pl.DataFrame:
        """The readings that matter for a slice. Where files were merged and removed since they were listed, they are listed again."""
        import polars.exceptions as pe

        try:
            return self._collected(grid)
        except (OSError, pe.ComputeError):
            if self._again is None:
                raise
            self._readings = self._again()
            return self._collected(grid)

    def _collected(self, grid: Grid) -> pl.DataFrame:
        import polars as pl

        since, until = at_us(grid.start_us - self._tolerance_us), at_us(grid.end_us)
        behind, ahead = self._strayed
        first, last = _later(since, behind), _later(until, ahead)
        return (
            self._readings.filter(pl.col("time") >= since, pl.col("time") < until)
            .filter(pl.col("date").is_between(first, last))  # folders of other days are not opened
            .select(*COLUMNS)
            .with_columns(pl.col("time").to_physical())
            .collect(engine="streaming")
        )

    def _parts(self, rows: pl.DataFrame) -> dict[str, pl.DataFrame]:
        """The rows of each tag, ordered and with the limit of carrying."""
        prepared = align.limited(align.ordered(rows), self._gaps)
        return {str(key[0]): part for key, part in prepared.partition_by("tag", as_dict=True, maintain_order=True).items()}

    def _column(self, signal: Signal, part: pl.DataFrame, grid: Grid, moments: pl.Series) -> pl.Series:
        import polars as pl

        value, least, greatest = _value(signal.type)
        known = (pl.col("quality") < self._limit) & value.is_not_null()
        if signal.units is not None:
            known &= pl.col("unit").is_in(list(signal.units))
        rows = part.select(
            "time", "limit", "count", value=value, known=known.fill_null(value=False), least=least, greatest=greatest
        )
        if signal.type == "text" or self._how == "last":
            return align.at(rows, moments, self._tolerance_us)
        if self._how == "time_weighted":
            return align.time_weighted(
                rows, start_us=grid.start_us, every_us=grid.every_us, n=len(grid), end_us=grid.end_us,
                tolerance_us=self._tolerance_us, coverage=self._coverage,
            )  # fmt: skip
        return align.over(rows, self._how, start_us=grid.start_us, every_us=grid.every_us, n=len(grid))


def _later(moment: datetime, days: int) -> date:
    """The date so many days later, or the last that there is."""
    return date.fromordinal(min(max(moment.toordinal() + days, 1), date.max.toordinal()))


def plain_arrow(frame: pl.DataFrame) -> pa.Table:
    """A frame as Arrow with the types that every reader of Arrow knows: no string views."""
    import polars as pl

    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())


def arrow_schema(schema: pa.Schema, units: Mapping[str, str], tags: Mapping[str, str] | None = None) -> pa.Schema:
    """The schema with what each column is in its field's metadata: `unit` (UCUM), `unit_display`, and `tag` (the column's name)."""
    import pyarrow as pa

    def about(name: str) -> dict[str, str]:
        return {"tag": (tags or {}).get(name, name), "unit": units[name], "unit_display": display(units[name])}

    return pa.schema([field.with_metadata(about(field.name)) if field.name in units else field for field in schema])


def _value(kind: ValueType) -> tuple[pl.Expr, pl.Expr, pl.Expr]:
    """(value, least, greatest) of a row; what is not a number is none."""
    import polars as pl

    if kind == "number":
        number = pl.coalesce(pl.col("value"), pl.col("value_int").cast(pl.Float64)).fill_nan(None)
        return number, pl.col("value_min"), pl.col("value_max")
    if kind == "integer":
        return pl.col("value_int"), pl.lit(None, pl.Int64), pl.lit(None, pl.Int64)
    text = pl.when(pl.col("value").is_null() & pl.col("value_int").is_null()).then(pl.col("text"))
    return text, pl.lit(None, pl.String), pl.lit(None, pl.String)
