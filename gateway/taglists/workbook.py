"""Cells of an .xlsx file as text: a light reader of the few parts that a tag table needs (ECMA-376, SpreadsheetML)."""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from typing import Final
from xml.etree.ElementTree import Element

from schemas.errors import ConfigError

from .markup import local, parse

LARGEST_PART: Final = 128 * 2**20
"""Bytes of one unpacked part; a zip bomb ends here."""
MOST_COLUMNS: Final = 512
_CELL: Final = re.compile(r"([A-Z]{1,3})([0-9]{1,7})")


def sheets(raw: bytes, where: str) -> Iterator[tuple[str, list[tuple[int, list[str]]]]]:
    """Each sheet by name, with its rows (number from 1, cells as text). Raises ConfigError for a file that is no workbook."""
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            strings = _strings(archive, where)
            book = parse(_part(archive, "xl/workbook.xml", where), where)
            targets = {
                one.get("Id", ""): one.get("Target", "")
                for one in parse(_part(archive, "xl/_rels/workbook.xml.rels", where), where)
            }
            for sheet in (one for one in book.iter() if local(one.tag) == "sheet"):
                target = targets.get(next((value for name, value in sheet.items() if local(name) == "id"), ""), "")
                part = target.lstrip("/") if target.startswith("/") else f"xl/{target}"
                yield sheet.get("name", ""), list(_rows(parse(_part(archive, part, where), where), strings))
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise ConfigError(f"is no workbook: {error}", where=where, hint="save it as .xlsx, or export CSV") from error


def _part(archive: zipfile.ZipFile, name: str, where: str) -> bytes:
    try:
        with archive.open(name) as file:
            data = file.read(LARGEST_PART + 1)
    except KeyError:
        raise ConfigError(f"is no workbook: {name} is missing", where=where, hint="save it as .xlsx, or export CSV") from None
    if len(data) > LARGEST_PART:
        raise ConfigError(f"{name} unpacks to more than {LARGEST_PART >> 20} MiB", where=where, hint="export fewer tags at once")
    return data


def _strings(archive: zipfile.ZipFile, where: str) -> list[str]:
    if "xl/sharedStrings.xml" not in archive.namelist():
        return []
    return [_text(one) for one in parse(_part(archive, "xl/sharedStrings.xml", where), where) if local(one.tag) == "si"]


def _text(element: Element) -> str:
    """The text of a string, without its phonetic hints."""
    runs = [child for child in element if local(child.tag) in ("t", "r")]
    return "".join(part.text or "" for run in runs for part in run.iter() if local(part.tag) == "t")


def _rows(sheet: Element, strings: list[str]) -> Iterator[tuple[int, list[str]]]:
    number = 0
    for row in (one for one in sheet.iter() if local(one.tag) == "row"):
        written = row.get("r", "")
        number = int(written) if written.isdigit() else number + 1
        cells: list[str] = []
        for cell in row:
            match = _CELL.fullmatch(cell.get("r", ""))
            column = _column(match[1]) if match else len(cells)
            if column >= MOST_COLUMNS:
                continue
            cells += [""] * (column + 1 - len(cells))
            cells[column] = _value(cell, strings)
        yield number, cells


def _column(letters: str) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - 64
    return number - 1


def _value(cell: Element, strings: list[str]) -> str:
    kind = cell.get("t", "n")
    if kind == "inlineStr":
        return "".join(_text(part) for part in cell if local(part.tag) == "is")
    text = next((part.text or "" for part in cell if local(part.tag) == "v"), "")
    if kind == "s":
        return strings[int(text)] if text.isdigit() and int(text) < len(strings) else ""
    if kind == "b":
        return "True" if text == "1" else "False"
    return text.removesuffix(".0") if kind == "n" else text
