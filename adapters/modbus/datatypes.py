"""Data types of Modbus tags, the byte orders that devices use for them, and the encoding that the simulator needs.

Modbus carries 16-bit registers, high byte first. What wider values look like is the device's choice: `ABCD` names the bytes of a
32-bit value from the highest, in the order in which they follow on the wire.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Final, Literal, get_args

from .dates import UNIX, registers_of

Order = Literal["ABCD", "CDAB", "BADC", "DCBA"]
"""Order of bytes. 64-bit values follow the same idea: CDAB puts the lowest register first (GHEFCDAB), BADC swaps the bytes
within each register (BADCFEHG), DCBA does both (HGFEDCBA). BADC and DCBA therefore swap 16-bit values too."""
ORDERS: Final[tuple[Order, ...]] = get_args(Order)
TypeKind = Literal["bool", "byte", "number", "bcd", "text", "moment"]
MAX_TEXT: Final = 250  # bytes of 125 registers


@dataclass(frozen=True, slots=True)
class DataType:
    """One type: `code` is its struct and numpy letter code without byte order (`f4`), empty for text and BCD."""

    name: str
    kind: TypeKind
    registers: int
    code: str = ""
    length: int = 0  # bytes of a text

    def __str__(self) -> str:
        return self.name

    @property
    def is_text(self) -> bool:
        """True where the value is a text: a string, or a date and time."""
        return self.kind in ("text", "moment")

    @property
    def whole_64_bits(self) -> bool:
        """True where a float64 could not hold every value."""
        return self.code in ("i8", "u8")


TYPES: Final[dict[str, DataType]] = {
    t.name: t
    for t in (
        DataType("bool", "bool", 1, "u2"),
        DataType("int8", "byte", 1, "i1"),
        DataType("uint8", "byte", 1, "u1"),
        DataType("int16", "number", 1, "i2"),
        DataType("uint16", "number", 1, "u2"),
        DataType("int32", "number", 2, "i4"),
        DataType("uint32", "number", 2, "u4"),
        DataType("int64", "number", 4, "i8"),
        DataType("uint64", "number", 4, "u8"),
        DataType("float16", "number", 1, "f2"),
        DataType("float32", "number", 2, "f4"),
        DataType("float64", "number", 4, "f8"),
        DataType("bcd16", "bcd", 1, "u2"),
        DataType("bcd32", "bcd", 2, "u4"),
    )
}
_ALIASES: Final = {
    "float": "float32", "real": "float32", "single": "float32", "double": "float64", "lreal": "float64", "half": "float16",
    "int": "int16", "short": "int16", "uint": "uint16", "word": "uint16", "ushort": "uint16", "dint": "int32", "long": "int32",
    "udint": "uint32", "dword": "uint32", "ulong": "uint32", "lint": "int64", "ulint": "uint64", "lword": "uint64",
    "byte": "uint8", "char": "uint8", "bcd": "bcd16", "bit": "bool", "boolean": "bool", "coil": "bool",
    "datetime": "datetime[ymdhms]", "date": "datetime[ymd]", "timestamp": "unix32", "unix": "unix32", "time_t": "unix32",
    "string": "string[16]", "str": "string[16]", "text": "string[16]", "ascii": "string[16]",
}  # fmt: skip
_STRUCT: Final = {
    "i1": "b",
    "u1": "B",
    "i2": "h",
    "u2": "H",
    "i4": "i",
    "u4": "I",
    "i8": "q",
    "u8": "Q",
    "f2": "e",
    "f4": "f",
    "f8": "d",
}
_TEXT: Final = re.compile(r"string\[([0-9]+)\]")
_FLOAT_MAX: Final = {"f2": 65504.0, "f4": 3.4028234663852886e38}


@lru_cache(maxsize=1024)
def parse_type(name: str) -> DataType:
    """The type of this name, in any letter case. Raises ValueError with the nearest known name."""
    plain = name.strip().lower()
    if found := TYPES.get(plain):
        return found
    if match := _TEXT.fullmatch(plain.replace(" ", "")):
        length = int(match[1])
        if not 1 <= length <= MAX_TEXT:
            raise ValueError(f"{name}: a text has 1 to {MAX_TEXT} bytes, two to a register")
        return DataType(f"string[{length}]", "text", (length + 1) // 2, length=length)
    if registers := registers_of(plain.replace(" ", "")):
        return DataType(plain.replace(" ", ""), "moment", registers)
    known = ", ".join((*TYPES, *UNIX))
    near = get_close_matches(plain, [*TYPES, *UNIX, "string[16]", "datetime[ymdhms]"], n=1, cutoff=0.5)
    meant = _ALIASES.get(plain) or next(iter(near), "")
    hint = f"did you mean {meant!r}? " if meant else ""
    raise ValueError(f"unknown type {name!r}, {hint}Types are {known}, ti081, string[n] and datetime[ymdhms]")


def swaps_bytes(order: Order) -> bool:
    """True when the low byte of each register comes first."""
    return order in ("BADC", "DCBA")


def swaps_words(order: Order) -> bool:
    """True when the lowest register comes first."""
    return order in ("CDAB", "DCBA")


def encode(kind: DataType, order: Order, value: float | str, encoding: str = "latin-1") -> bytes:
    """The registers of a raw value, as they follow on the wire.

    A number that does not fit is clamped to the nearest one that does, NaN in an integer is 0; a text is cut at its length and
    padded with zeros; what its encoding lacks becomes `?`.
    """
    if kind.kind == "text":
        text = str(value).encode(encoding, "replace")[: kind.length]
        return _swapped(text.ljust(kind.registers * 2, b"\0"), swaps_bytes(order))
    number = value if not isinstance(value, str) else 0
    if kind.kind == "byte":
        low = struct.pack(">" + _STRUCT[kind.code], _whole(number, kind.code))
        return _swapped(b"\0" + low, swaps_bytes(order))
    if kind.kind == "bool":
        number = int(number == number and number != 0)
    if kind.kind == "bcd":
        most = 10 ** (4 * kind.registers) - 1
        number = int(str(min(max(_whole(number, "i8"), 0), most)), 16)
    if kind.code in ("f4", "f2") and abs(number) > _FLOAT_MAX[kind.code] and abs(number) != float("inf"):
        number = _FLOAT_MAX[kind.code] if number > 0 else -_FLOAT_MAX[kind.code]
    plain = struct.pack(">" + _STRUCT[kind.code], number if kind.code.startswith("f") else _whole(number, kind.code))
    if swaps_words(order):
        plain = b"".join(plain[i : i + 2] for i in range(len(plain) - 2, -1, -2))
    return _swapped(plain, swaps_bytes(order))


def decode_text(raw: bytes, kind: DataType, order: Order, encoding: str) -> str:
    """The text up to its first NUL, without blanks at its end. Raises ValueError for bytes that its encoding does not have."""
    plain = _swapped(raw, swaps_bytes(order))[: kind.length]
    return plain.partition(b"\0")[0].decode(encoding).rstrip(" ")


def _whole(number: float, code: str) -> int:
    half: int = 1 << (8 * int(code[1]) - 1)
    low, high = (0, 2 * half - 1) if code[0] == "u" else (-half, half - 1)
    if number != number:  # NaN
        return 0
    if number in (float("inf"), float("-inf")):
        return high if number > 0 else low
    return min(max(round(number), low), high)


def _swapped(registers: bytes, swap: bool) -> bytes:
    if not swap:
        return registers
    out = bytearray(registers)
    out[0::2], out[1::2] = registers[1::2], registers[0::2]
    return bytes(out)
