"""Modbus addresses: `hr:100`, `hr:0x64`, `hr:100.3`, 1-based `40101` and `400101` in, one canonical spelling out.

The four tables and their reading function codes are those of the MODBUS Application Protocol Specification V1.1b3, 4.3 and 6.1-6.4.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, NamedTuple

Table = Literal["co", "di", "ir", "hr"]
FUNCTIONS: Final[dict[Table, int]] = {"co": 1, "di": 2, "hr": 3, "ir": 4}
"""The function code that reads each table: coils, discrete inputs, holding registers, input registers."""
TABLES: Final[dict[int, Table]] = {code: table for table, code in FUNCTIONS.items()}
_LEADING: Final[dict[str, Table]] = {"0": "co", "1": "di", "3": "ir", "4": "hr"}
_WRITTEN_OUT: Final = {
    "holding": "hr", "holdingregister": "hr", "h": "hr", "mw": "hr", "input": "ir", "inputregister": "ir", "i": "ir",
    "coil": "co", "c": "co", "coils": "co", "discrete": "di", "discreteinput": "di", "d": "di",
}  # fmt: skip
_PREFIXED: Final = re.compile(r"([a-z_ ]+):(0x[0-9a-f]+|[0-9]+)(?:\.([0-9]{1,2}))?")
_STRETCH: Final = re.compile(r"([a-z_ ]+)\s*:\s*(0x[0-9a-f]+|[0-9]+)(?:\s*-\s*(0x[0-9a-f]+|[0-9]+))?")
_NUMBERED: Final = re.compile(r"([0134])([0-9]{4}|[0-9]{5})(?:\.([0-9]{1,2}))?")
_FORMS: Final = "hr:100, ir:0, co:7, di:3, hr:0x64, hr:100.3 or 40101"


@dataclass(frozen=True, slots=True)
class Address:
    """A place on the wire: the table, the offset as it is sent (0-based), and the bit of a register (0 is the lowest)."""

    table: Table
    offset: int
    bit: int | None = None

    def __str__(self) -> str:
        return f"{self.table}:{self.offset}" if self.bit is None else f"{self.table}:{self.offset}.{self.bit}"

    @property
    def function(self) -> int:
        """The function code that reads it."""
        return FUNCTIONS[self.table]

    @property
    def is_bit_table(self) -> bool:
        """True for coils and discrete inputs."""
        return self.table in ("co", "di")


class Stretch(NamedTuple):
    """Addresses `start` to before `end` of one table."""

    table: Table
    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.table}:{self.start}-{self.end - 1}" if self.end - self.start > 1 else f"{self.table}:{self.start}"


def stretch_of(written: str) -> Stretch:
    """`hr:100-120`, `hr:100`. Raises ValueError."""
    found = _STRETCH.fullmatch(written.strip().lower())
    if not found:
        raise ValueError(f"{written!r} is not a range of addresses; write it like hr:100-120")
    table = _table(found[1], written)
    low = int(found[2], 0)
    high = int(found[3], 0) if found[3] else low
    if not low <= high <= 65_535:
        raise ValueError(f"{written}: addresses go from 0 to 65535, the lower one first")
    return Stretch(table, low, high + 1)


@lru_cache(maxsize=65_536)
def parse(text: str) -> Address:
    """Read any of the spellings. Raises ValueError that names the way out. `parse(str(address)) == address`."""
    plain = text.strip().lower()
    if match := _PREFIXED.fullmatch(plain):
        name, number, bit = match.groups()
        table = _table(name, text)
        offset = int(number, 16) if number.startswith("0x") else int(number)
    elif match := _NUMBERED.fullmatch(plain):
        first, number, bit = match.groups()
        table, offset = _LEADING[first], int(number) - 1
        if offset < 0:
            raise ValueError(f"{text}: addresses of {len(number) + 1} digits count from 1; the first one is {table}:0")
    else:
        raise ValueError(f"{text}: {_why(plain)}")
    if offset > 65_535:
        raise ValueError(f"{text}: Modbus addresses end at {table}:65535")
    if bit is None:
        return Address(table, offset)
    if table in ("co", "di"):
        raise ValueError(f"{text}: {table} is a table of bits already; write {table}:{offset}")
    if int(bit) > 15:
        raise ValueError(f"{text}: the bits of a register are numbered 0 to 15")
    return Address(table, offset, int(bit))


def _table(name: str, text: str) -> Table:
    for table in FUNCTIONS:
        if name == table:
            return table
    meant = _WRITTEN_OUT.get(name.replace("_", "").replace(" ", "").removesuffix("s"))
    hint = f"did you mean {meant!r}?" if meant else "tables are co, di, ir and hr"
    raise ValueError(f"{text}: unknown table {name!r}, {hint}")


def _why(plain: str) -> str:
    """What is special about a spelling that does not parse, and the way out."""
    if re.fullmatch(r"[0-9]{1,6}", plain):
        return f"a bare number has 5 or 6 digits and counts from 1 (40101 is hr:100); write hr:{int(plain)} for the address on the wire"
    if re.fullmatch(r"0x[0-9a-f]+", plain):
        return f"the table is missing; write hr:{plain} for a holding register"
    if match := re.fullmatch(r"%?mw([0-9]+)", plain):
        return f"write hr:{match[1]}, if that is how the device maps its memory words"
    return f"not a Modbus address; write it like {_FORMS}"
