"""Tags from a file: CSV (one row a tag, one column an option) or YAML like the mapping below `tags:`. Places point into the file."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Sequence
from typing import Final

from . import document
from .places import Section
from .report import Report
from .source import Source, Span

LIMITS: Final = ("low_low", "low", "high", "high_high", "hysteresis")
"""Columns of a CSV file that are options of `limits`."""
_NAME: Final = ("name", "tag")
_OWN: Final = ("address", "label", "description")
"""Columns in which most rows differ. What stands in the others is kept once, however many rows say it."""
_CELL: Final = re.compile(r'\s*"(?:[^"]|"")*"[^{0}]*|[^{0}]*')


class CellSpot:
    """Where one cell of a CSV file stands. Its key is the header of its column."""

    __slots__ = ("_column", "_delimiter", "_line", "source")

    def __init__(self, source: Source, line: int, column: int, delimiter: str) -> None:
        self.source, self._line, self._column, self._delimiter = source, line, column, delimiter

    def key(self) -> Span:
        """The header of the column."""
        return _cell(self.source, 0, self._column, self._delimiter)

    def value(self) -> Span:
        """The cell."""
        return _cell(self.source, self._line, self._column, self._delimiter)

    def written(self) -> str | None:
        """None: cells are always text."""
        return None

    def hide(self) -> None:
        """Never show the cell."""
        line, column, length = self.value()
        self.source.hide((line, column), (line, column + length))


class RowSpot(CellSpot):
    """Where one tag of a CSV file stands: its key is the cell that names it."""

    __slots__ = ()

    def key(self) -> Span:
        """The cell that names the tag."""
        return self.value()


def parse(source: Source, report: Report) -> Section | None:
    """The tags of a file by name (CSV: by `asset/name` where an asset is written); None when it cannot be read."""
    if source.path.suffix.lower() in (".yaml", ".yml"):
        return document.parse(source, report)
    if source.path.suffix.lower() != ".csv":
        report.add("E021", source, None, "a tag file is .csv or .yaml", hint="rename the file after what it holds")
        return None
    return _csv(source, report)


def _csv(source: Source, report: Report) -> Section | None:
    header_line = source.lines[0] if source.lines else ""
    delimiter = max(",;\t", key=header_line.count)
    rows = csv.reader(io.StringIO(source.text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    made = Section(source)
    line = 0
    try:
        for row in rows:
            first, line = line, rows.line_num
            if not header:
                header = [cell.strip() for cell in row]
                if not _check_header(source, header, delimiter, report):
                    return None
            elif any(cell.strip() for cell in row) and not row[0].startswith("#"):
                _row(source, first, header, row, delimiter, made, report)
    except csv.Error as error:
        report.add("E021", source, Span(line, 0), f"not CSV: {error}", hint="check the quotes of this row and the one above")
        return None
    if not header:
        report.add("E021", source, None, "the file is empty", hint="the first row names the columns: name,address,type,unit")
        return None
    return made


def _check_header(source: Source, header: Sequence[str], delimiter: str, report: Report) -> bool:
    names = [column for column in header if column in _NAME]
    if len(names) != 1:
        problem = "two columns name the tag" if names else "no column names the tag"
        report.add("E021", source, Span(0, 0), problem, hint="the first row names the columns, one of them `name` (or `tag`)")
        return False
    for index, column in enumerate(header):
        if column and column in header[:index]:
            report.add("E003", source, _cell(source, 0, index, delimiter), f"the column {column} is written twice")
            return False
    return True


def _row(
    source: Source, line: int, header: Sequence[str], row: Sequence[str], delimiter: str, made: Section, report: Report
) -> None:
    if any(cell.strip() for cell in row[len(header) :]):
        spot = CellSpot(source, line, len(header), delimiter)
        hint = f"a text that holds {delimiter!r} stands in double quotes"
        report.at_spot("E021", spot, f"the row has {len(row)} cells and the header {len(header)}", hint=hint)
        return
    tag, limits = Section(source), Section(source)
    name, asset, at = "", "", CellSpot(source, line, 0, delimiter)
    for index, (column, cell) in enumerate(zip(header, row, strict=False)):
        text = cell.strip()
        spot = CellSpot(source, line, index, delimiter)
        if column in _NAME:
            name, at = text, RowSpot(source, line, index, delimiter)
            tag.put("name", text, spot)
        elif not text:
            continue
        elif column in LIMITS:
            limits.put(column, text, spot)
        elif column == "enum":
            tag.put("enum", _enum(source, text, spot, report), spot)
        elif column:
            tag.put(column, text if column in _OWN else sys.intern(text), spot)
            asset = text if column == "asset" else asset
        else:
            report.at_spot("E021", spot, "this column has no name", hint="name it in the first row")
    if not name:
        report.at_spot("E021", at, "the row names no tag", hint="fill in the column, or delete the row")
        return
    if limits:
        tag.put("limits", limits, next(iter(limits.spots.values())))
    key = f"{asset}/{name}" if asset else name
    if key in made:
        report.at_spot("E003", at, f"{key} is written twice, first on line {made.spots[key].key().line + 1}")
        return
    made.put(key, tag, at)


def _enum(source: Source, text: str, spot: CellSpot, report: Report) -> Section:
    """`0=idle;1=run` as a mapping."""
    made = Section(source)
    for part in re.split(r"[;|]", text):
        number, equals, label = part.partition("=")
        if not equals or not re.fullmatch(r"\s*[-+]?[0-9]+\s*", number) or not label.strip():
            report.at_spot("E021", spot, "the names of the values cannot be read", hint="write them like 0=idle;1=run")
            return made
        made.put(number.strip(), label.strip(), spot)
    return made


def _cell(source: Source, line: int, column: int, delimiter: str) -> Span:
    """The place of a cell on the first line of its row; cells may hold delimiters in quotes."""
    text = source.lines[line] if line < len(source.lines) else ""
    cell = re.compile(_CELL.pattern.replace("{0}", re.escape(delimiter)))
    begin = 0
    for _ in range(column):
        match = cell.match(text, begin)
        end = match.end() if match else len(text)
        if end >= len(text):
            return Span(line, min(begin, max(0, len(text) - 1)))
        begin = end + 1
    match = cell.match(text, begin)
    written = match[0] if match else ""
    return Span(line, begin + len(written) - len(written.lstrip()), max(1, len(written.strip())))
