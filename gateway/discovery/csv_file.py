"""A tag file in CSV, edited in place: rows that do not change keep every character, a row that changes keeps its other cells."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from gateway.config import tagfile as reader
from gateway.config.places import Section
from gateway.config.report import Report
from gateway.config.source import Source
from schemas.errors import ConfigError

from .points import Entry
from .scalars import flow
from .tagfile import GONE, Written, gone_mark, switched_off

_COLUMNS: Final = ("name", "asset", "address", "type", "unit", "label", "description", "enum")
_BOM: Final = "\ufeff"


class CsvTags:
    """The tags of a CSV file. Raises ConfigError for a file that cannot be read as one."""

    def __init__(self, path: Path, content: str) -> None:
        self._path = path
        self._bom = _BOM if content.startswith(_BOM) or not content else ""
        self._content = content.removeprefix(_BOM)
        self._break = "\r\n" if "\r\n" in content else "\n"
        self._header: list[str] = []
        self._delimiter = ","
        self._rows: list[tuple[str, str | None, list[str]]] = []  # text with its line end, key of its tag, cells
        self._options: dict[str, dict[str, Any]] = {}
        self._changed: dict[str, dict[str, Any]] = {}
        self._marks: dict[str, str | None] = {}
        self._removed: set[str] = set()
        self._added: list[Entry] = []
        if self._content.strip():
            self._parse()

    @property
    def written(self) -> list[Written]:
        """The tags, in the order of the file."""
        made, gone = [], False
        for line, key, _ in self._rows:
            if key is not None and key in self._options and key not in self._removed:
                made.append(Written(key, self._options[key], gone))
            gone = bool(GONE.match(line))
        return made

    @property
    def off(self) -> frozenset[str]:
        """Addresses in rows that begin with `#`."""
        found = set()
        column = self._header.index("address") if "address" in self._header else None
        for line, key, cells in self._rows:
            if key is None and line.startswith("#"):
                if column is not None and len(cells) > column and cells[column].strip():
                    found.add(cells[column].strip())
                elif (address := switched_off(line)) is not None:
                    found.add(address)
        return frozenset(found)

    def set(self, key: str, option: str, value: object) -> None:
        """One option of a tag."""
        self._changed.setdefault(key, {})[option] = value
        self._options[key][option] = value

    def add(self, entry: Entry) -> None:
        """A new row at the end."""
        self._added.append(entry)

    def mark(self, key: str, day: str | None) -> None:
        """Mark a tag as gone, or take the mark away."""
        self._marks[key] = day

    def remove(self, key: str) -> None:
        """Take a row out with its mark."""
        self._removed.add(key)

    def text(self) -> str:
        """The file with all changes. Raises ConfigError where the result would not be what was meant."""
        columns = list(self._header)
        wanted = [option for changes in self._changed.values() for option in _flat(changes)]
        wanted += [option for entry in self._added for option in _flat({"name": "", **entry.options})]
        new = [
            column for column in dict.fromkeys(wanted) if column not in columns and not (column == "name" and "tag" in columns)
        ]
        columns += sorted(new, key=lambda column: _COLUMNS.index(column) if column in _COLUMNS else len(_COLUMNS))
        out: list[str] = []
        header_seen = False
        for line, key, cells in self._rows:
            if not header_seen and cells == self._header and key is None and not line.startswith("#"):
                header_seen = True
                out.append(self._row(columns) if new else line)
                continue
            if key is None:
                out.append(line)
                continue
            if key in self._removed:
                self._unmark(out)
                continue
            day = self._marks.get(key, "")
            if day is None or day:
                self._unmark(out)
            if day:
                self._end_line(out)
                out.append(gone_mark(day) + self._break)
            out.append(self._edited(columns, cells, self._changed[key]) if key in self._changed else line)
        if not header_seen:
            out.insert(0, self._row(columns))
        for entry in self._added:
            self._end_line(out)
            out.append(self._edited(columns, [], {"name": entry.key.rsplit("/", 1)[-1], **entry.options}))
        made = "".join(out)
        self._prove(made)
        return self._bom + made

    def _parse(self) -> None:
        section = self._read(self._content)
        self._options = {key: _plain(below) for key, below in section.items() if isinstance(below, Section)}
        lines = self._content.splitlines(keepends=True)
        self._delimiter = max(",;\t", key=lines[0].count)
        rows = csv.reader(io.StringIO(self._content, newline=""), delimiter=self._delimiter, strict=True)
        at = 0
        for cells in rows:
            text, at = "".join(lines[at : rows.line_num]), rows.line_num
            if not self._header and cells and not text.startswith("#"):
                self._header = [cell.strip() for cell in cells]
                self._rows.append((text, None, self._header))
            elif any(cell.strip() for cell in cells) and not text.startswith("#"):
                self._rows.append((text, self._key(cells), cells))
            else:
                self._rows.append((text, None, cells))

    def _key(self, cells: Sequence[str]) -> str:
        row = {column: cell.strip() for column, cell in zip(self._header, cells, strict=False)}
        name = row.get("name") or row.get("tag") or ""
        return f"{row['asset']}/{name}" if row.get("asset") else name

    def _read(self, content: str) -> Section:
        report = Report()
        section = reader.parse(Source(str(self._path), self._path, content), report)
        if section is None or report.failed:
            raise ConfigError(
                "the file cannot be read, so it is not overwritten",
                where=str(self._path),
                hint="; ".join(found.message for found in report.finished()[:3]),
            )
        return section

    def _edited(self, columns: Sequence[str], cells: Sequence[str], changes: Mapping[str, Any]) -> str:
        row = list(cells) + [""] * (len(columns) - len(cells))
        for option, value in _flat(changes).items():
            name = "tag" if option == "name" and "tag" in columns else option
            row[columns.index(name)] = _cell(option, value)
        return self._row(row)

    def _row(self, cells: Sequence[str]) -> str:
        buffer = io.StringIO()
        csv.writer(buffer, delimiter=self._delimiter, lineterminator=self._break).writerow(cells)
        return buffer.getvalue()

    def _unmark(self, out: list[str]) -> None:
        if out and GONE.match(out[-1]):
            out.pop()

    def _end_line(self, out: list[str]) -> None:
        if out and not out[-1].endswith(("\n", "\r")):
            out[-1] += self._break

    def _prove(self, made: str) -> None:
        """The text says what was meant, as the gateway will read it."""
        wanted = {key: _texts(options) for key, options in self._options.items() if key not in self._removed}
        wanted |= {entry.key: _texts({"name": entry.key.rsplit("/", 1)[-1], **entry.options}) for entry in self._added}
        found = {key: _texts(_plain(below)) for key, below in self._read(made).items() if isinstance(below, Section)}
        if found != wanted:
            wrong = next((key for key in wanted if found.get(key) != wanted[key]), "")
            raise ConfigError(f"the row of {wrong!r} cannot be edited by a program, so nothing is written", where=str(self._path))


def _flat(options: Mapping[str, Any]) -> dict[str, Any]:
    """One column an option; the limits are columns of their own."""
    made: dict[str, Any] = {}
    for option, value in options.items():
        if option == "limits" and isinstance(value, Mapping):
            made |= value
        else:
            made[option] = value
    return made


def _cell(option: str, value: object) -> str:
    if option == "enum" and isinstance(value, Mapping):
        return ";".join(f"{number}={_label(label)}" for number, label in value.items())
    if isinstance(value, str):
        return " ".join(value.replace("${", "$${").split())
    return flow(value)


def _label(label: object) -> str:
    return " ".join(str(label).replace(";", ",").replace("|", ",").replace("${", "$${").split())


def _texts(options: Mapping[str, Any]) -> dict[str, Any]:
    """What the file says of a tag, all as text, as the reader gives it."""
    made: dict[str, Any] = {}
    for option, value in options.items():
        if option == "enum" and isinstance(value, Mapping):
            made[option] = {str(number): _label(label) for number, label in value.items()}
        elif isinstance(value, Mapping):
            made[option] = {str(name): flow(below).strip('"') for name, below in value.items()}
        else:
            made[option] = _cell(option, value)
    return {option: value for option, value in made.items() if value not in ("", {})}


def _plain(section: Section) -> dict[str, Any]:
    return {
        key: _plain(value) if isinstance(value, Section) else value.replace("$${", "${") if isinstance(value, str) else value
        for key, value in section.items()
    }
