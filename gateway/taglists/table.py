"""Tables with one row a tag, whatever their columns are called: plain CSV, TIA Portal's tag table as .xlsx, .csv or .sdf.

The first row that names columns is the header; a table without one (an .sdf) is read by what stands in its columns.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from adapters.modbus import address as modbus
from adapters.opcua import address as opcua
from adapters.s7 import address as s7
from schemas.errors import ConfigError

from .rows import TagList, unit_in
from .types import typed

Rows = Sequence[tuple[int, Sequence[str]]]
"""Rows with the number of the line (or row of the sheet) where each begins."""

HEADERS: Final[Mapping[str, tuple[str, ...]]] = {
    "name": ("name", "tag", "tag name", "tagname", "symbol", "signal", "variable", "point", "bezeichnung", "nom", "nombre", "名前", "名称",
             "タグ名", "タグ", "信号名"),
    "address": ("address", "logical address", "addr", "register", "offset", "node id", "nodeid", "node", "adresse", "logische adresse",
                "adresse logique", "dirección", "アドレス", "番地", "レジスタ"),
    "type": ("type", "data type", "datatype", "datentyp", "typ", "format", "type de données", "tipo de datos", "データ型", "データタイプ", "型"),
    "unit": ("unit", "units", "eng units", "engineering units", "engineering unit", "uom", "eu", "einheit", "unité", "unidad", "単位"),
    "description": ("description", "comment", "desc", "remark", "remarks", "kommentar", "beschreibung", "commentaire", "comentario",
                    "コメント", "説明", "備考"),
    "label": ("label", "display name", "displayname", "alias", "表示名"),
    "scale": ("scale", "factor", "multiplier", "gain", "faktor", "skalierung", "倍率"),
    "offset": ("value offset", "bias"),
    "scan": ("scan", "scan class"),
    "order": ("order", "byte order", "word order"),
    "asset": ("asset", "device", "equipment", "machine", "設備"),
}  # fmt: skip
"""Columns that are taken, and how they are called; case, underscores and what stands in brackets do not count."""
_SAID: Final = {spelling: column for column, spellings in HEADERS.items() for spelling in spellings}
_PARSERS: Final[Mapping[str, Callable[[str], object]]] = {"s7": s7.parse, "modbus": modbus.parse, "opcua": opcua.parse}
_FLAGS: Final = frozenset({"", "true", "false", "wahr", "falsch"})
_CONSTANT: Final = re.compile(r"[-+]?[0-9][0-9#._A-Fa-f]*")


def delimited(text: str) -> Rows:
    """The rows of CSV text; comma, semicolon or tab, whichever makes the most columns. Quotes that do not close are refused later."""
    lines = text.splitlines()
    sample = next((line for line in lines if line.strip() and not line.lstrip().startswith("#")), "")
    delimiter = max(",;\t", key=lambda one: _outside_quotes(sample, one))
    rows: list[tuple[int, Sequence[str]]] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    line = 0
    while True:
        first, line = line, 0
        try:
            row = next(reader)
        except StopIteration:
            return rows
        except csv.Error as error:
            raise ConfigError(
                f"line {first + 1} is not CSV: {error}", hint="check the quotes of this row and the one above"
            ) from error
        line = reader.line_num
        if any(cell.strip() for cell in row) and not row[0].lstrip().startswith("#"):
            rows.append((first + 1, row))


def _outside_quotes(line: str, delimiter: str) -> int:
    return re.sub(r'"[^"]*"', "", line).count(delimiter)


def read(rows: Rows, kind: str | None, form: str, where: str) -> TagList:
    """The tags of a table. Raises ConfigError where nobody can tell its columns or for which adapter its addresses are."""
    header, columns = _header(rows)
    body = rows[header:]
    kind = kind or _kind(body, columns)
    if kind is None:
        raise ConfigError(
            "cannot tell for which protocol these addresses are",
            where=where,
            hint="say it with --kind modbus, --kind s7 or --kind opcua",
        )
    if not columns:
        columns = _by_content(body, kind)
    missing = [column for column in ("name", "address") if column not in columns]
    if missing:
        raise ConfigError(
            f"no column is the {' or the '.join(missing)} of a tag",
            where=where,
            hint="the first row names the columns, for instance name,address,type,unit,description",
        )
    made = TagList(kind, form)
    for line, row in body:
        _take(made, line, {column: _cell(row, index) for column, index in columns.items()}, kind)
    return made


def _take(made: TagList, line: int, cells: Mapping[str, str], kind: str) -> None:
    name, address = cells["name"], cells["address"]
    if not name:
        made.refuse(line, address, "the row names no tag")
        return
    if not address or (kind != "modbus" and _CONSTANT.fullmatch(address)):
        made.refuse(line, name, f"it has no address{f' ({address} is a constant)' if address else ''}")
        return
    options: dict[str, Any] = {"address": _address(address, kind)}
    if cells.get("type"):
        options["type"] = typed(cells["type"], kind)
    elif kind == "opcua":
        options["type"] = "auto"
    else:
        made.refuse(line, name, "it has no data type")
        return
    options["type"] = _lengthened(options["type"], kind)
    for column in ("scale", "offset"):
        if cells.get(column):
            try:
                options[column] = float(cells[column].replace(",", "."))
            except ValueError:
                made.refuse(line, name, f"{column}: {cells[column]!r} is not a number")
                return
    for column in ("label", "description", "scan", "order", "asset"):
        if cells.get(column):
            options[column] = cells[column]
    made.take(line, name, options, unit=cells.get("unit") or unit_in(cells.get("description", "")))


def _address(text: str, kind: str) -> str:
    """The canonical spelling where it can be read; otherwise as it is, for the adapter to judge."""
    try:
        return str(_PARSERS[kind](text)) if kind != "opcua" else text
    except ValueError:
        return text


def _lengthened(name: str, kind: str) -> str:
    return f"{name}[16]" if kind == "modbus" and name == "string" else name


def _header(rows: Rows) -> tuple[int, dict[str, int]]:
    """How many rows the header and what is above it take, and the column of each thing; (0, {}) for a table without one."""
    for number, (_, row) in enumerate(rows[:20]):
        found: dict[str, int] = {}
        for index, cell in enumerate(row):
            column = _SAID.get(_plain(cell))
            if column is not None:
                found.setdefault(column, index)
        if "name" in found and "address" in found:
            return number + 1, found
    return 0, {}


def _plain(cell: str) -> str:
    return " ".join(re.sub(r"[\[(].*?[\])]", " ", cell).replace("_", " ").strip('﻿" ').split()).casefold()


def _kind(body: Rows, columns: Mapping[str, int]) -> str | None:
    """The one protocol whose addresses most rows hold; None when there is none, or more than one."""
    sample = body[:200]
    cells = [
        [_cell(row, columns["address"])] if "address" in columns else [cell.strip() for cell in row] for _, row in sample
    ]  # fmt: skip
    votes = {kind: sum(any(_fits(cell, parser) for cell in row) for row in cells) for kind, parser in _PARSERS.items()}
    best = max(votes, key=lambda kind: votes[kind])
    others = [kind for kind in votes if kind != best and votes[kind] == votes[best]]
    return best if votes[best] and votes[best] * 2 >= len(sample) and not others else None


def _fits(cell: str, parser: Callable[[str], object]) -> bool:
    try:
        parser(cell)
    except ValueError:
        return False
    return bool(cell) and (parser is not opcua.parse or "=" in cell or cell.startswith("/Objects"))


def _by_content(body: Rows, kind: str) -> dict[str, int]:
    """The columns of a table without a header: the address by its form, the type behind it, the name first, the comment last."""
    width = max((len(row) for _, row in body), default=0)
    parser = _PARSERS[kind]
    hits = [sum(_fits(_cell(row, index), parser) for _, row in body[:200]) for index in range(width)]
    if not any(hits):
        return {}
    found = {"address": hits.index(max(hits))}
    rest = [index for index in range(width) if index != found["address"]]
    found["name"] = rest[0] if rest else found["address"]
    types = [index for index in rest[1:] if _is_type_column(body, index, kind)]
    if types:
        found["type"] = types[0]
    comments = [
        index
        for index in rest[1:]
        if index not in types and any(_cell(row, index).casefold() not in _FLAGS for _, row in body[:200])
    ]
    if comments:
        found["description"] = comments[0]
    return found


def _is_type_column(body: Rows, index: int, kind: str) -> bool:
    from adapters.s7.datatypes import parse_type

    def known(cell: str) -> bool:
        try:
            parse_type(typed(cell, "s7"))
        except ValueError:
            return False
        return True

    cells = [cell for _, row in body[:200] if (cell := _cell(row, index))]
    return bool(cells) and sum(map(known, cells)) * 2 > len(cells) and kind in _PARSERS


def _cell(row: Sequence[str], index: int) -> str:
    return row[index].strip() if index < len(row) else ""
