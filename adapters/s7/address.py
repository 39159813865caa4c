"""S7 addresses: STEP 7, TIA Portal and German spellings in, one canonical spelling out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from .spellings import suggestion

Area = Literal["DB", "M", "I", "Q", "T", "C"]
Width = Literal["X", "B", "W", "D", "L"]
"""The letter of an address: bit, byte, word (2), double word (4) and IEC 61131-3's long word (8 bytes)."""

AREA_CODES: Final[dict[Area, int]] = {"C": 0x1C, "T": 0x1D, "I": 0x81, "Q": 0x82, "M": 0x83, "DB": 0x84}
"""How the protocol numbers the areas of a PLC."""
WIDTHS: Final[dict[Width, int]] = {"X": 1, "B": 1, "W": 2, "D": 4, "L": 8}
MAX_BYTE: Final = (1 << 21) - 1  # the wire has 24 bits for the bit address
MAX_NUMBER: Final = 65535  # of a timer or counter
ELEMENTS: Final[tuple[Area, ...]] = ("T", "C")
"""Areas whose addresses count timers or counters of two bytes each, not bytes."""
_LETTERS: Final[dict[str, Area]] = {"M": "M", "I": "I", "E": "I", "Q": "Q", "A": "Q", "T": "T", "C": "C", "Z": "C"}
_DB: Final = re.compile(r"DB(\d{1,5})\.DB([XBWDL])(\d{1,7})(?:\.(\d))?")
_OTHER: Final = re.compile(r"([MIEQA])([XBWDL]?)(\d{1,7})(?:\.(\d))?")
_ELEMENT: Final = re.compile(r"([TCZ])(\d{1,6})")
_EXAMPLES: Final = "DB10.DBD4, DB10.DBX0.3, MW10, M10.3, I0.0, QB4, T5 or C12"


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """Where a value begins. `db` is 0 outside of data blocks; `bit` is None unless the address names one.

    Of a timer or counter `byte` is its number and `width` is W.
    """

    area: Area
    db: int
    byte: int
    width: Width
    bit: int | None = None

    def __str__(self) -> str:
        """The canonical spelling: English letters, no `%`, `DB10.DBX0.3`, `M10.3`, `MW10`, `T5`, `C12`."""
        bit = "" if self.bit is None else f".{self.bit}"
        if self.area == "DB":
            return f"DB{self.db}.DB{self.width}{self.byte}{bit}"
        if self.area in ELEMENTS:
            return f"{self.area}{self.byte}"
        return f"{self.area}{'' if self.width == 'X' else self.width}{self.byte}{bit}"

    @property
    def start(self) -> int:
        """The first byte within the area, taking timers and counters as two bytes each."""
        return self.byte * 2 if self.area in ELEMENTS else self.byte


@lru_cache(maxsize=16384)
def parse(text: str) -> Address:
    """Any usual spelling to an address. Raises ValueError that says how to write it."""
    plain = "".join(text.split()).upper().removeprefix("%")
    area: Area
    if found := _DB.fullmatch(plain):
        number, letter, byte, bit = found.groups()
        area, db = "DB", int(number)
        if not 1 <= db <= 65535:
            raise ValueError(f"{text}: data blocks are numbered 1 to 65535")
    elif found := _ELEMENT.fullmatch(plain):
        if int(found[2]) > MAX_NUMBER:
            raise ValueError(f"{text}: timers and counters are numbered 0 to {MAX_NUMBER}")
        return Address(_LETTERS[found[1]], 0, int(found[2]), "W")
    elif found := _OTHER.fullmatch(plain):
        name, letter, byte, bit = found.groups()
        area, db, letter = _LETTERS[name], 0, letter or "X"
    else:
        raise ValueError(f"{text}: {_why(plain)}")
    if letter == "X" and bit is None:
        at = f"{area}{db}.DB" if area == "DB" else area
        raise ValueError(f"{text}: a bit address needs its bit: {at}{'X' if area == 'DB' else ''}{byte}.0; a byte is {at}B{byte}")
    if letter != "X" and bit is not None:
        raise ValueError(f"{text}: only a bit address has a bit: {'DB' + str(db) + '.DBX' if area == 'DB' else area}{byte}.{bit}")
    if bit is not None and int(bit) > 7:
        raise ValueError(f"{text}: bits are numbered 0 to 7")
    if int(byte) > MAX_BYTE:
        raise ValueError(f"{text}: S7 addresses end at byte {MAX_BYTE}")
    return Address(area, db, int(byte), _width(letter), None if bit is None else int(bit))


def _width(letter: str) -> Width:
    for width in WIDTHS:
        if width == letter:
            return width
    raise ValueError(f"no width is called {letter}")


def _why(plain: str) -> str:
    """What is special about a spelling that does not parse, and the way out."""
    if re.fullmatch(r"P[IEQA].*", plain) or plain.endswith(":P"):
        return "peripheral addresses are not read; take the process image (I, Q)"
    if (other := suggestion(plain)) is not None:
        return f"did you mean address: {other[0]} with type: {other[1]}? Type and address are two options here"
    if re.fullmatch(r"DB\d+[.,]\d+(\.\d)?", plain):
        db, _, offset = plain.replace(",", ".").partition(".")
        return f"the offset needs its width: {db}.DBX{offset if '.' in offset else offset + '.0'} for a bit, DBB, DBW or DBD otherwise"
    if re.fullmatch(r"V[BWDX]?\d+(\.\d)?", plain):
        return "the V area of LOGO! and S7-200 is DB1: write DB1.DBW0 for VW0"
    if '"' in plain or re.fullmatch(r"DB_?[A-Z]\w*\..*", plain):
        return f"symbols are read with `kind: s7plus` (experimental) or opcua; here write the absolute address like {_EXAMPLES}"
    return f"not an S7 address; write it like {_EXAMPLES}"
