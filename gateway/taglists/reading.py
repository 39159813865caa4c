"""Which kind of tag list a file is, and reading it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, get_args

from schemas.errors import ConfigError

from . import kepserver, table, tia_blocks, tia_tags, workbook
from .rows import TagList
from .text import decode, read_bytes

Format = Literal["auto", "tia-tags", "tia-block", "kepserver", "table"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
_BLOCK: Final = re.compile(r"^\s*(DATA_BLOCK|TYPE)\b", re.IGNORECASE | re.MULTILINE)
_SOURCES: Final = (".db", ".scl", ".awl", ".udt", ".stl")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a person said about the file: for which adapter, in which encoding, DB numbers, where KEPServerEX keeps the device."""

    format: Format = "auto"
    kind: str | None = None
    encoding: str | None = None
    sheet: str | None = None
    prefix: str = ""
    numbers: Mapping[str, int] = field(default_factory=dict)
    number: int | None = None
    arrays: Literal["elements", "waveform"] = "elements"


def read(path: Path, wanted: Wanted) -> TagList:
    """The tags of a file. Raises ConfigError for a file that cannot be read, or that does not say what a person must say."""
    raw = read_bytes(path)
    where = str(path)
    if raw.startswith(b"PK\x03\x04"):
        return _sheets(raw, wanted, where)
    if raw.startswith(b"\xd0\xcf\x11\xe0"):
        raise ConfigError("is an old Excel file (.xls)", where=where, hint="save it as .xlsx or CSV")
    if (wanted.format == "tia-tags" and _is_xml(raw)) or (wanted.format == "auto" and _is_xml(raw)):
        return tia_tags.read(raw, where)
    text, encoding = decode(raw, path, wanted.encoding)
    if wanted.format == "tia-block" or (
        wanted.format == "auto" and (path.suffix.lower() in _SOURCES or _BLOCK.search(text[:20_000]))
    ):
        made = tia_blocks.read(text, wanted.numbers, wanted.number, wanted.arrays, where)
    else:
        rows = table.delimited(text)
        if not rows:
            raise ConfigError("is empty", where=where)
        if wanted.format == "kepserver" or (wanted.format == "auto" and kepserver.is_kepserver(rows)):
            if not kepserver.is_kepserver(rows):
                raise ConfigError(
                    "has not the columns of a KEPServerEX export", where=where, hint="leave --format out, or export it again"
                )
            made = kepserver.read(rows, wanted.kind, wanted.prefix, where)
        elif wanted.format == "tia-tags":
            made = table.read(rows, "s7", "TIA Portal tag table", where)
        else:
            made = table.read(rows, wanted.kind, "table", where)
    if encoding not in ("utf-8", wanted.encoding) and not encoding.startswith("utf-16"):
        made.notes.append(f"read as {encoding}; --encoding says otherwise where its texts look wrong")
    return made


def _is_xml(raw: bytes) -> bool:
    head = raw[:200].replace(b"\0", b"").removeprefix(b"\xef\xbb\xbf").removeprefix(b"\xff\xfe").lstrip()
    return head.startswith(b"<")


def _sheets(raw: bytes, wanted: Wanted, where: str) -> TagList:
    """The tags of a workbook: of the sheet that is named, else of every sheet that has names and addresses."""
    made: TagList | None = None
    names, problems = [], []
    for name, rows in workbook.sheets(raw, where):
        names.append(name)
        filled = [(number, row) for number, row in rows if any(cell.strip() for cell in row)]
        if (
            (wanted.sheet is not None and name != wanted.sheet)
            or not filled
            or (wanted.sheet is None and name.casefold() == "constants")
        ):
            continue
        try:
            one = table.read(filled, wanted.kind, "workbook", f"{where}, sheet {name}")
        except ConfigError as error:
            problems.append(error)
            continue
        if made is None:
            made = one
        elif made.kind == one.kind:
            made.points += one.points
            made.refused += one.refused
    if made is None:
        if problems:
            raise problems[0]
        raise ConfigError("has no sheet with tags", where=where, hint=f"its sheets are {', '.join(names)}; name one with --sheet")
    return made
