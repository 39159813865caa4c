"""Addresses as other tools spell them, turned into ours for the hint of an error message. Nothing is read by guess.

KEPServerEX, Ignition and Node-RED write the type into the address (`DB10,REAL4`, `DB10,X0.3`, `DB10,STRING20.32`, `DB10,INT0[10]`, `MREAL4`),
Telegraf does so with one letter (`DB10.R4`, `DB10.S20.32`), PLC4X and python-snap7 behind a colon (`%DB10.DBD4:REAL`, `%DB10:4:REAL`).
"""

from __future__ import annotations

import re
from typing import Final

_TYPES: Final = {
    "X": "bool",
    "BOOL": "bool",
    "BOOLEAN": "bool",
    "B": "byte",
    "BYTE": "byte",
    "SB": "sint",
    "SINT": "sint",
    "USINT": "usint",
    "C": "char",
    "CHAR": "char",
    "W": "word",
    "WORD": "word",
    "UINT": "uint",
    "I": "int",
    "INT": "int",
    "SHORT": "int",
    "D": "dword",
    "DW": "dword",
    "DWORD": "dword",
    "UDINT": "udint",
    "DI": "dint",
    "DINT": "dint",
    "LONG": "dint",
    "R": "real",
    "REAL": "real",
    "FLOAT": "real",
    "LR": "lreal",
    "LREAL": "lreal",
    "DOUBLE": "lreal",
    "LINT": "lint",
    "ULINT": "ulint",
    "LWORD": "lword",
    "S": "string",
    "STRING": "string",
    "WSTRING": "wstring",
    "DT": "dt",
    "DTL": "dtl",
    "DATE": "date",
    "TIME": "time",
    "TOD": "tod",
    "S5TIME": "s5time",
}
_LETTERS: Final = {
    **dict.fromkeys(("byte", "sint", "usint", "char"), "B"),
    **dict.fromkeys(("word", "uint", "int", "date", "s5time"), "W"),
    **dict.fromkeys(("dword", "udint", "dint", "real", "time", "tod"), "D"),
}
"""The letter that an address of a type has; B for what is longer than four bytes."""
_AREAS: Final = {"M": "M", "F": "M", "I": "I", "E": "I", "Q": "Q", "A": "Q"}
_TAIL: Final = r"(\d{1,7})(?:\.(\d{1,5}))?(?:\[(\d{1,5})\])?"
_IN_BLOCK: Final = re.compile(r"DB(\d{1,5})[,.](?:DB)?([A-Z][A-Z0-9]*?)" + _TAIL)
_IN_AREA: Final = re.compile(r"([MFIEQA]),?([A-Z][A-Z0-9]*?)" + _TAIL)
_BEHIND_COLON: Final = re.compile(r"(.+?):(?:(\d{1,7})(?:\.(\d))?:)?([A-Z]\w*)(?:[(\[](\d{1,5})[)\]])?")
_LEGACY: Final = re.compile(r"(\d{1,5})[.,](?:DB)?([XBWD])(\d{1,7})(?:\.(\d))?")


def suggestion(plain: str) -> tuple[str, str] | None:
    """Address and type in our spelling for an address in capitals without blanks and `%`; None where it is in no other tool's."""
    if found := _BEHIND_COLON.fullmatch(plain):
        place, offset, bit, name, length = found.groups()
        kind = _TYPES.get(name)
        if kind is None or name in ("X", "B", "W", "D", "C", "R", "S", "I"):
            return None
        kind = (
            f"{kind}[{length}]" if length and kind in ("string", "wstring") else f"array[{length}] of {kind}" if length else kind
        )
        if offset is None:
            return (place, kind) if re.fullmatch(r"DB\d+\.DB[XBWDL]\d+(\.\d)?|[MIEQA][XBWDL]?\d+(\.\d)?", place) else None
        return (_address(place, kind, offset, bit), kind) if re.fullmatch(r"DB\d+|[MIEQA]", place) else None
    if found := _IN_BLOCK.fullmatch(plain):
        area, name, offset, rest, many = found.groups()
        return _made(f"DB{area}", name, offset, rest, many)
    if found := _LEGACY.fullmatch(plain):
        area, name, offset, rest = found.groups()
        return _made(f"DB{area}", name, offset, rest, None)
    if found := _IN_AREA.fullmatch(plain):
        area, name, offset, rest, many = found.groups()
        return _made(_AREAS[area], name, offset, rest, many)
    return None


def _made(area: str, name: str, offset: str, rest: str | None, many: str | None) -> tuple[str, str] | None:
    kind = _TYPES.get(name)
    if kind is None:
        return None
    if kind == "bool":
        return (_address(area, kind, offset, rest or "0"), kind) if rest is None or int(rest) <= 7 else None
    if kind in ("string", "wstring"):
        return _address(area, kind, offset, None), f"{kind}[{rest}]" if rest else kind
    if kind == "char" and rest:
        return _address(area, kind, offset, None), f"array[{rest}] of char"
    if rest is not None:
        return None
    kind = f"array[{many}] of {kind}" if many else kind
    return _address(area, kind, offset, None), kind


def _address(area: str, kind: str, offset: str, bit: str | None) -> str:
    at = f"{area}.DB" if area.startswith("DB") else area
    if kind == "bool":
        return f"{at}{'X' if area.startswith('DB') else ''}{offset}.{bit or 0}"
    return f"{at}{_LETTERS.get(kind, 'B')}{offset}"
