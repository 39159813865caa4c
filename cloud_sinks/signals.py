"""Which columns a wide table has: one per tag; more where a tag changed its unit or turned from number to text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal

from schemas.tags import ValueType
from schemas.units import display, normalise

if TYPE_CHECKING:
    import polars as pl

Units = Literal["refuse", "split"]
"""What becomes of a tag whose unit changed within the interval: an error that names it, or a column per unit, `tag [kPa]`."""
MOST: Final = 10_000
_SANE_US: Final = 946_684_800_000_000
"""2000-01-01: an older time is a device clock that was never set, and no beginning of a table."""


@dataclass(frozen=True, slots=True)
class Signal:
    """One column of a wide table. `units` are the spellings of its unit in the lake; None takes every row of the tag."""

    name: str
    tag: str
    type: ValueType
    unit: str
    units: frozenset[str] | None = None


@dataclass
class Seen:
    """What the lake has of one tag in the interval: known readings per column that holds a value, and first time (µs) per unit."""

    numbers: int = 0
    integers: int = 0
    texts: int = 0
    units: dict[str, int] = field(default_factory=dict)

    @property
    def nothing(self) -> bool:
        """True when it was bad all the time, or not there."""
        return not (self.numbers or self.integers or self.texts)


def facts_of(readings: pl.LazyFrame, *, uncertain: bool, sane: bool) -> pl.DataFrame:
    """FACTS(tag, unit, rows, numbers, integers, texts, first, last, behind, ahead): known readings by the column that holds them.

    A row per tag and unit; `first` and `last`, in µs, are null where a clock was never set. `behind` and `ahead` are the least and the
    greatest number of days from the date of a row's time to the date that it is filed under, not 0 where a clock was impossible;
    with `sane` without times before 2000. Reads the selection once, in bounded memory.
    """
    import polars as pl

    known = pl.col("quality") < (0x8000_0000 if uncertain else 0x4000_0000)
    number, whole = pl.col("value").is_not_null(), pl.col("value_int").is_not_null()
    time = pl.col("time").to_physical()
    is_sane = time >= _SANE_US
    strayed = (pl.col("date") - pl.col("time").dt.date()).dt.total_days()
    strayed = strayed.filter(is_sane) if sane else strayed
    return (
        readings.filter(pl.col("tag").is_not_null())
        .group_by("tag", "unit")
        .agg(
            rows=pl.len(),
            numbers=(known & number).sum(),
            integers=(known & whole & ~number).sum(),
            texts=(known & pl.col("text").is_not_null() & ~number & ~whole).sum(),
            first=time.filter(is_sane).min(),
            last=time.filter(is_sane).max(),
            behind=strayed.min(),
            ahead=strayed.max(),
        )
        .collect(engine="streaming")
    )


def strayed(facts: pl.DataFrame) -> tuple[int, int]:
    """FACTS -> by how many days readings are filed before and after the date of their time: at most 0, at least 0."""
    days = [0, *facts["behind"].drop_nulls(), *facts["ahead"].drop_nulls()]
    return min(days), max(days)


def described(table: pl.DataFrame, since: datetime | None, until: datetime | None) -> dict[str, tuple[str, str]]:
    """The data dictionary -> (value type, unit) of each tag, by its newest description that holds in the interval."""
    import polars as pl

    if since is not None:
        table = table.filter(pl.col("valid_to").is_null() | (pl.col("valid_to") > since))
    if until is not None:
        table = table.filter(pl.col("valid_from").is_null() | (pl.col("valid_from") < until))
    rows = table.select("tag", "value_type", "unit").iter_rows()
    return {tag: (kind or "number", unit or "1") for tag, kind, unit in rows}


def seen(facts: Iterable[Mapping[str, Any]]) -> dict[str, Seen]:
    """FACTS, row by row -> what there is of each tag."""
    found: dict[str, Seen] = {}
    for row in facts:
        tag = found.setdefault(row["tag"], Seen())
        tag.numbers += row["numbers"]
        tag.integers += row["integers"]
        tag.texts += row["texts"]
        if row["unit"] is not None and (row["numbers"] or row["integers"]):
            first = row["first"] or 0
            tag.units[row["unit"]] = min(tag.units.get(row["unit"], first), first)
    return found


def signals(tags: Mapping[str, Seen], described: Mapping[str, tuple[str, str]], units: Units) -> list[Signal]:
    """The columns, in order of tags. `described` has (value type, unit) of tags from the data dictionary, also of silent ones.

    Raises ValueError for a tag whose unit changed when that is refused, and for more tags than a table can have columns.
    """
    waveforms = {tag for tag, (kind, _) in described.items() if kind == "samples"}
    names = sorted({*described, *tags} - {tag for tag in waveforms if tags.get(tag, Seen()).nothing})
    if len(names) > MOST:
        raise ValueError(f"{len(names):,} tags fit, and a wide table has at most {MOST:,} columns; name fewer in tags=")
    made: list[Signal] = []
    for name in names:
        kind, unit = described.get(name, ("number", "1"))
        made += _columns(name, tags.get(name, Seen()), kind, unit, units)
    return made


def _columns(name: str, tag: Seen, kind: str, unit: str, units: Units) -> list[Signal]:
    numeric: ValueType = "number" if tag.numbers or not tag.integers else "integer"
    if tag.nothing:
        return [Signal(name, name, _value_type(kind), unit)]
    made: list[Signal] = []
    if tag.numbers or tag.integers:
        codes: dict[str, set[str]] = {}
        for spelling in sorted(tag.units, key=lambda one: tag.units[one]):
            codes.setdefault(_code(spelling), set()).add(spelling)
        if len(codes) > 1 and units == "refuse":
            raise ValueError(
                f"{name} changes its unit from {' to '.join(display(code) for code in codes)} within the interval; "
                "choose start= and end= so that it does not, or take a column for each unit with units='split'"
            )
        if len(codes) > 1:
            made += [Signal(f"{name} [{display(code)}]", name, numeric, code, frozenset(codes[code])) for code in codes]
        else:
            made.append(Signal(name, name, numeric, next(iter(codes), unit)))
    if tag.texts:
        made.append(Signal(f"{name} [text]" if made else name, name, "text", "1"))
    return made


def _value_type(kind: str) -> ValueType:
    return "integer" if kind == "integer" else "text" if kind == "text" else "number"


def _code(spelling: str) -> str:
    """One code for the spellings of a unit; what is no unit stays as it is."""
    try:
        return normalise(spelling)
    except ValueError:
        return spelling
