"""The CSV that KEPServerEX exports for the tags of one device, for the device itself (Modbus, Siemens) or for KEPServerEX as OPC UA server.

Read over OPC UA the values come scaled and typed by KEPServerEX; read from the device itself the scaling is done here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from schemas.errors import ConfigError

from .rows import TagList
from .table import Rows
from .types import typed

NAMESPACE: Final = "KEPServerEX"
"""Namespace URI of the tags in KEPServerEX's OPC UA server."""
_DEFAULT_SCAN_MS: Final = 100
_MODBUS: Final = re.compile(r"([0134])(\d{4,5})(?:\.(\d{1,3})([HL]?))?")
_DB: Final = re.compile(r"DB(\d{1,5})[,.](?:DB)?([A-Z0-9]*?[A-Z])(\d{1,7})(?:\.(\d{1,5}))?")
_AREA: Final = re.compile(r"([MIQEA])([A-Z]*)(\d{1,7})(?:\.(\d{1,5}))?")
_ARRAY: Final = re.compile(r"\s*\[.*\]\s*$")
_WIDTH: Final = {
    "X": "X", "B": "B", "BYTE": "B", "C": "B", "CHAR": "B", "STRING": "B", "W": "W", "WORD": "W", "I": "W", "INT": "W", "D": "D",
    "DW": "D", "DWORD": "D", "DI": "D", "DINT": "D", "REAL": "D", "LREAL": "B", "DT": "B", "DTL": "B", "DATE": "W", "TIME": "D", "TOD": "D",
}  # fmt: skip
"""The letters of KEPServerEX's Siemens driver, as widths of an S7 address."""
_OWN_TYPES: Final = {"DT": "dt", "DTL": "dtl", "DATE": "date", "TIME": "time", "TOD": "tod"}


def is_kepserver(rows: Rows) -> bool:
    """Whether this is such an export: its header has columns that nobody else has."""
    return any({"tag name", "address", "respect data type"} <= {cell.strip().casefold() for cell in row} for _, row in rows[:5])


def read(rows: Rows, kind: str | None, prefix: str, where: str) -> TagList:
    """The tags of an export. Raises ConfigError where the protocol is not known, or `prefix` (Channel1.Device1) is missing for OPC UA."""
    start = next(n for n, (_, row) in enumerate(rows) if "address" in {cell.strip().casefold() for cell in row})
    header = [cell.strip().casefold() for cell in rows[start][1]]
    body = [(line, dict(zip(header, (cell.strip() for cell in row), strict=False))) for line, row in rows[start + 1 :]]
    kind = kind or _kind([cells.get("address", "") for _, cells in body], where)
    if kind == "opcua" and not prefix:
        raise ConfigError(
            "a tag of KEPServerEX is named after its channel and device, which its export does not hold",
            where=where,
            hint="say them with --prefix Channel1.Device1",
        )
    made = TagList(kind, "KEPServerEX CSV")
    for line, cells in body:
        _take(made, line, cells, kind, prefix)
    wide = any(point.options["type"] in ("int32", "uint32", "float32") for point in made.points)
    if kind == "modbus" and wide:
        made.notes.append(
            "KEPServerEX takes the low word of 32-bit values first unless its device says otherwise: then write `order: CDAB` at the device"
        )
    return made


def _kind(addresses: list[str], where: str) -> str:
    plain = [_ARRAY.sub("", address.upper()) for address in addresses if address]
    modbus = sum(bool(_MODBUS.fullmatch(address)) for address in plain)
    siemens = sum(bool(_DB.fullmatch(address) or _AREA.fullmatch(address)) for address in plain)
    if max(modbus, siemens) * 2 <= len(plain) or not plain:
        raise ConfigError(
            "cannot tell whether its addresses are Modbus or Siemens",
            where=where,
            hint="say it with --kind modbus or --kind s7, or --kind opcua to read through KEPServerEX",
        )
    return "modbus" if modbus >= siemens else "s7"


def _take(made: TagList, line: int, cells: Mapping[str, str], kind: str, prefix: str) -> None:
    name, address = cells.get("tag name", ""), cells.get("address", "")
    if not name or not address:
        made.refuse(line, name or address, "the row has no name" if not name else "the row has no address")
        return
    if name.startswith("_"):
        made.refuse(line, name, "a tag of KEPServerEX about itself")
        return
    options: dict[str, Any]
    told = cells.get("data type", "")
    if told.casefold().endswith(" array") or _ARRAY.search(address):
        made.refuse(line, name, "an array: write a tag for each element")
        return
    scaled, problem = _scaling(cells)
    if problem:
        made.refuse(line, name, problem)
        return
    if kind == "opcua":
        own = cells.get("scaled data type", "") if cells.get("scaling", "").casefold() not in ("", "none") else told
        options = {"address": f"nsu={NAMESPACE};s={prefix}.{name}", "type": typed(own or told, "opcua") or "auto"}
    else:
        found = (_modbus if kind == "modbus" else _siemens)(address, told)
        if isinstance(found, str):
            made.refuse(line, name, found)
            return
        options = {**found, **scaled}
    period = cells.get("scan rate", "")
    if period.isdigit() and int(period) not in (0, _DEFAULT_SCAN_MS):
        options["scan"] = f"{period}ms"
    if cells.get("description"):
        options["description"] = cells["description"]
    made.take(line, name, options, unit=cells.get("eng units", ""))


def _scaling(cells: Mapping[str, str]) -> tuple[dict[str, float], str]:
    """scale and offset of a linear scaling, and why it cannot be taken."""
    how = cells.get("scaling", "").casefold()
    if how in ("", "none"):
        return {}, ""
    if how != "linear":
        return {}, f"its scaling is {cells['scaling']}; only linear scaling can be written"
    try:
        raw_low, raw_high, low, high = (float(cells[f"{side} {end}"]) for side in ("raw", "scaled") for end in ("low", "high"))
        scale = (high - low) / (raw_high - raw_low)
    except (KeyError, ValueError, ZeroDivisionError):
        return {}, "its linear scaling has no usable Raw Low, Raw High, Scaled Low and Scaled High"
    if cells.get("negate value", "").casefold() in ("1", "true", "yes"):
        scale, low = -scale, -low
    offset = low - raw_low * scale
    made = {"scale": float(f"{scale:.12g}"), "offset": float(f"{offset:.12g}")}
    return {name: value for name, value in made.items() if value != {"scale": 1.0, "offset": 0.0}[name]}, ""


def _modbus(address: str, told: str) -> dict[str, Any] | str:
    """Options of a Modbus tag, or why there are none. KEPServerEX counts from 1; a string is `400100.20H`."""
    found = _MODBUS.fullmatch(address.strip().upper())
    if found is None:
        return f"{address} is not a Modbus address that is read (like 400001, 400001.3 or 400100.20H)"
    table, digits, more, order = found.groups()
    place = f"{ {'0': 'co', '1': 'di', '3': 'ir', '4': 'hr'}[table] }:{int(digits) - 1}"
    kind = typed(told, "modbus")
    if int(digits) == 0:
        return f"{address}: Modbus numbers begin with 1"
    if order or kind == "string":
        if not more:
            return f"{address} is a string without its length"
        options: dict[str, Any] = {"address": place, "type": f"string[{int(more)}]"}
        return options | ({"order": "BADC"} if order == "L" else {})
    if more:
        return {"address": f"{place}.{int(more)}", "type": "bool"}
    return {"address": place, "type": kind}


def _siemens(address: str, told: str) -> dict[str, Any] | str:
    """Options of an S7 tag, or why there are none."""
    plain = address.strip().upper().replace(" ", "")
    if re.fullmatch(r"[TC]\d+", plain):
        return {"address": plain, "type": "timer" if plain[0] == "T" else "counter"}
    block, area = _DB.fullmatch(plain), _AREA.fullmatch(plain)
    if block is not None:
        number, letters, byte, more = block.groups()
        start, letter = f"DB{number}.DB", letters
    elif area is not None:
        start, letters, byte, more = area.groups()
        letter = letters or "X"
    else:
        return f"{address} is not an address of KEPServerEX's Siemens driver that is read"
    width = _WIDTH.get(letter)
    if width is None:
        return f"{address}: {letter} is not a type that is read"
    kind = _OWN_TYPES.get(letter) or typed(told, "s7")
    if width == "X":
        spelled = "X" if block is not None else ""
        return {"address": f"{start}{spelled}{int(byte)}.{more or 0}", "type": "bool"}
    if letter == "STRING" or told.casefold() == "string":
        return {"address": f"{start}B{int(byte)}", "type": f"string[{more}]" if more else "string"}
    if more is not None:
        spelled = "X" if block is not None else ""
        bit = int(more)
        if not 0 <= bit < 8 * {"B": 1, "W": 2, "D": 4}[width]:
            return f"{address} has no bit {bit}"
        size = {"B": 1, "W": 2, "D": 4}[width]
        return {"address": f"{start}{spelled}{int(byte) + size - 1 - bit // 8}.{bit % 8}", "type": "bool"}
    return {"address": f"{start}{width}{int(byte)}", "type": kind}
