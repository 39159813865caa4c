"""Recorded data for the simulator: one numeric column of a CSV file, by row or by the file's own time."""

from __future__ import annotations

import csv
import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import Final

from pydantic import Field

from schemas.errors import ConfigError
from schemas.values import Strict

USAGE: Final = "--replay TAG=FILE.csv[:COLUMN]"
_TIME_NAMES: Final = ("time", "timestamp", "datetime", "date", "t")
_LEAP: Final = re.compile(r"(.*\d\d:59:)60(.*)")
_MISSING: Final = ("", "-", "na", "n/a", "nan", "null", "none")


class Replay(Strict):
    """`--replay TAG=FILE.csv[:COLUMN] --speed N`: the recorded column is what the tag shows."""

    tag: str = Field(description="Path of the tag, its path below enterprise/site, a pattern, or `adapter/name`.")
    file: Path = Field(description="CSV file with a header line.")
    column: str | None = Field(None, description="Which column; may be left out where only one is not the time.")
    speed: float = Field(1.0, gt=0, description="How many times faster than recorded; for tags that follow the time.")


def parse_replay(text: str, speed: float = 1.0) -> Replay:
    """One `--replay` option. Raises ConfigError.

    The column begins behind the colon that follows `.csv`, `.tsv` or `.txt`, else behind the last one; a drive letter's is none.
    """
    tag, equals, rest = text.partition("=")
    tag = tag.strip()
    if not equals or not tag or not rest.strip():
        raise ConfigError(f"cannot read --replay {text!r}", hint=USAGE)
    if not (math.isfinite(speed) and speed > 0):
        raise ConfigError(f"--speed {speed:g} is not above 0", hint="300 replays five minutes of the recording in a second")
    drive = re.match(r"[A-Za-z]:[\\/]", rest) is not None
    colons = [found.start() for found in re.finditer(":", rest)][1 if drive else 0 :]
    at = next((at for at in colons if rest[:at].lower().endswith((".csv", ".tsv", ".txt"))), None)
    if at is None and colons and not rest.lower().endswith((".csv", ".tsv", ".txt")):
        at = colons[-1]
    file, column = (rest, None) if at is None else (rest[:at], rest[at + 1 :])
    if column is not None and not column.strip():
        raise ConfigError(f"--replay {text!r} names no column behind its colon", hint=USAGE)
    return Replay(tag=tag, file=Path(file), column=column, speed=speed)


@dataclass(frozen=True, slots=True)
class Recording:
    """A column and the seconds since its first row. A missing value is NaN; whole numbers stay whole."""

    values: Sequence[float]
    times_s: Sequence[float]

    def row_at(self, t_s: float) -> int:
        """The newest row at this time of the recording; the last one behind its end."""
        return max(bisect_right(self.times_s, t_s) - 1, 0)

    def real(self, row: int) -> float:
        """The value of `row`; where it is missing or infinite the nearest earlier one that is not, else the first that is not."""
        for at in chain(range(row, -1, -1), range(row + 1, len(self.values))):
            value = self.values[at]
            if math.isfinite(value):
                return value
        return 0.0


def read_recording(file: Path, column: str | None = None) -> Recording:
    """One column of a CSV file with a header; comma, semicolon (with decimal comma) and tab are told apart by it. Blocking.

    Time is the column called time, timestamp, datetime, date or t, else the first one if it holds ISO 8601 times; without any a row
    is a second. Raises ConfigError that names file, line and the columns there are.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}", hint=USAGE) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8 text", hint="save it as CSV UTF-8") from error
    head = lines[0] if lines else ""
    delimiter = max(",;\t", key=head.count)
    try:
        rows = [(reader.line_num, row) for reader in [csv.reader(lines, delimiter=delimiter)] for row in reader if row]
    except csv.Error as error:
        raise ConfigError(f"{file} is not CSV: {error}", hint=USAGE) from error
    if len(rows) < 2:
        raise ConfigError(f"{file} has no rows below its header")
    header = [name.strip() for name in rows[0][1]]
    time_at = _time_column(header, rows[1][1])
    at = _value_column(file, header, column, time_at)
    values = [_number(file, line, header[at], row[at] if at < len(row) else "", delimiter) for line, row in rows[1:]]
    return Recording(values, _times([row for _, row in rows[1:]], time_at))


def _time_column(header: Sequence[str], first: Sequence[str]) -> int | None:
    named = next((at for at, name in enumerate(header) if name.lower() in _TIME_NAMES), None)
    if named is not None and _seconds(first, named) is not None:
        return named
    return 0 if len(header) > 1 and first and not _plain(first[0]) and _seconds(first, 0) is not None else None


def _value_column(file: Path, header: Sequence[str], column: str | None, time_at: int | None) -> int:
    others = [name for at, name in enumerate(header) if at != time_at]
    if column is None:
        if len(others) == 1:
            return header.index(others[0])
        raise ConfigError(
            f"{file} has several columns", hint=f"name one: {file}:{others[-1] if others else ''} (of {', '.join(others)})"
        )
    if column.strip() not in header:
        close = get_close_matches(column.strip(), header, 1, 0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(header)}"
        raise ConfigError(f"{file} has no column {column!r}", hint=hint)
    return header.index(column.strip())


def _number(file: Path, line: int, name: str, text: str, delimiter: str) -> float:
    text = text.strip()
    if text.lower() in _MISSING:
        return math.nan
    if text.lower() in ("true", "false"):
        return int(text.lower() == "true")
    try:
        return int(text) if text.lstrip("+-").isdecimal() else float(text.replace(",", ".") if delimiter == ";" else text)
    except ValueError as error:
        message = f"{file}:{line}: {name} is not a number: {text!r}"
        raise ConfigError(message, hint="choose a numeric column with FILE.csv:COLUMN") from error


def _times(rows: Sequence[Sequence[str]], at: int | None) -> list[float]:
    """Seconds since the first row; never running back. A row whose time cannot be read has that of the row above."""
    if at is None:
        return [float(number) for number in range(len(rows))]
    first = _seconds(rows[0], at) or 0.0
    times: list[float] = []
    for row in rows:
        seconds = _seconds(row, at)
        above = times[-1] if times else 0.0
        times.append(above if seconds is None else max(seconds - first, above))
    return times


def _plain(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _seconds(row: Sequence[str], at: int) -> float | None:
    """A time as seconds: a number as it stands, ISO 8601 (UTC where it names no zone). None for anything else."""
    text = row[at].strip() if at < len(row) else ""
    try:
        return float(text)
    except ValueError:
        pass
    leap = _LEAP.fullmatch(text)
    try:
        moment = datetime.fromisoformat(f"{leap[1]}59{leap[2]}" if leap else text)
    except ValueError:
        return None
    # A leap second is the first of the next day, as POSIX counts: what follows it there keeps its order by row number.
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp() + (1.0 if leap else 0.0)
