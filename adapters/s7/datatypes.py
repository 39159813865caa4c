"""S7 data types: how many bytes each has, where its value goes, and the bytes of texts and times.

Layouts follow the STEP 7 and TIA Portal manuals: big endian throughout, STRING with two length bytes, WSTRING with two length
words, DATE_AND_TIME in BCD, DTL in binary. Numbers are decoded with numpy by the plan; here is what needs Python per value.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Final, Literal

Kind = Literal["bool", "number", "integer", "s5time", "counter", "nanoseconds", "text", "date", "clock", "array", "bits", "list"]
"""How a type is decoded: a bit; a number that float64 holds exactly; a 64-bit integer; S5TIME; three BCD digits;
LTIME and LTOD; text; a date; DT, DTL or LDT; an array of numbers; of bits; of anything else."""
ARRAYS: Final = ("array", "bits", "list")
TEXTS: Final = ("text", "date", "clock", "list")
"""Kinds whose values are text."""

_CHARACTERS: Final = {"chars": "char", "wchars": "wchar"}
_EPOCH: Final = date(1990, 1, 1)
_UNIX: Final = datetime(1970, 1, 1)  # noqa: DTZ001 (LDT counts on the wall clock of the plant)
_S5_STEPS: Final = (10, 100, 1000, 10_000)  # ms


@dataclass(frozen=True, slots=True)
class DataType:
    """One S7 type. `size` in bytes on the wire, `code` the numpy dtype of a numeric one.

    `length` is the characters of a string or the elements of an array; `name` of an array is that of its elements. An array of
    characters is a text of fixed length: its name is `chars` or `wchars`.
    """

    name: str
    kind: Kind
    size: int
    code: str = ""
    length: int = 0

    def __str__(self) -> str:
        """The canonical spelling: `real`, `string[32]`, `array[10] of real`."""
        if self.kind in ARRAYS or self.name in _CHARACTERS:
            return f"array[{self.length}] of {_CHARACTERS.get(self.name, self.name)}"
        return f"{self.name}[{self.length}]" if self.length else self.name


_PLAIN: Final = {
    kind.name: kind
    for kind in (
        DataType("bool", "bool", 1),
        DataType("byte", "number", 1, ">u1"),
        DataType("word", "number", 2, ">u2"),
        DataType("dword", "number", 4, ">u4"),
        DataType("lword", "integer", 8, ">u8"),
        DataType("sint", "number", 1, ">i1"),
        DataType("usint", "number", 1, ">u1"),
        DataType("int", "number", 2, ">i2"),
        DataType("uint", "number", 2, ">u2"),
        DataType("dint", "number", 4, ">i4"),
        DataType("udint", "number", 4, ">u4"),
        DataType("lint", "integer", 8, ">i8"),
        DataType("ulint", "integer", 8, ">u8"),
        DataType("real", "number", 4, ">f4"),
        DataType("lreal", "number", 8, ">f8"),
        DataType("time", "number", 4, ">i4"),  # ms
        DataType("tod", "number", 4, ">u4"),  # ms since midnight
        DataType("ltime", "nanoseconds", 8, ">i8"),
        DataType("ltod", "nanoseconds", 8, ">u8"),
        DataType("s5time", "s5time", 2, ">u2"),
        DataType("timer", "s5time", 2, ">u2"),
        DataType("counter", "counter", 2, ">u2"),
        DataType("date", "date", 2, ">u2"),
        DataType("dt", "clock", 8),
        DataType("dtl", "clock", 12),
        DataType("ldt", "clock", 8),
        DataType("char", "text", 1),
        DataType("wchar", "text", 2),
    )
}
_SYNONYMS: Final = {
    "date_and_time": "dt",
    "date_and_ltime": "ldt",
    "time_of_day": "tod",
    "ltime_of_day": "ltod",
    "float": "real",
    "double": "lreal",
}
_STRING: Final = re.compile(r"(w?string)(?:\[(\d{1,5})\])?")
_ARRAY: Final = re.compile(r"array\[([-\d.,]{1,60})\]of(.+)")
_BOUNDS: Final = re.compile(r"(?:(-?\d{1,6})\.\.)?(-?\d{1,6})")
_LONGEST_ARRAY: Final = 65536  # bytes
_LONGEST: Final = {"string": 254, "wstring": 16382}
NAMES: Final = (*_PLAIN, "string[n]", "wstring[n]", "array[n] of real (or another type)")


@lru_cache(maxsize=1024)
def parse_type(text: str) -> DataType:
    """A type in any case to its description. `string` alone is `string[254]`. Raises ValueError that names the types there are."""
    plain = "".join(text.split()).lower()
    plain = _SYNONYMS.get(plain, plain)
    if plain in _PLAIN:
        return _PLAIN[plain]
    if found := _STRING.fullmatch(plain):
        name = found[1]
        length = int(found[2]) if found[2] else 254
        if not 1 <= length <= _LONGEST[name]:
            raise ValueError(f"{text}: a {name} has 1 to {_LONGEST[name]} characters")
        return DataType(name, "text", 2 + length if name == "string" else 4 + 2 * length, length=length)
    if found := _ARRAY.fullmatch(plain):
        return _array(text, parse_type(found[2]), [_elements(text, bounds) for bounds in found[1].split(",")])
    if re.fullmatch(r"array.*|.*\[[\d.]+\]", plain):
        raise ValueError(f"{text}: write an array like `array[10] of real` or `Array[0..9] of Real`")
    if plain in ("struct", "udt"):
        raise ValueError(f"{text}: a structure is read element by element; types are {', '.join(NAMES)}")
    raise ValueError(f"{text}: not an S7 type; types are {', '.join(NAMES)}")


def _elements(text: str, bounds: str) -> int:
    """How many elements one dimension has, by its length or its bounds."""
    found = _BOUNDS.fullmatch(bounds)
    if not found:
        raise ValueError(f"{text}: write an array like `array[10] of real` or `Array[0..9] of Real`")
    return int(found[2]) if found[1] is None else int(found[2]) - int(found[1]) + 1


def _array(text: str, element: DataType, lengths: list[int]) -> DataType:
    """An array by its element and the length of each dimension; the last index runs fastest."""
    if element.kind in ARRAYS or element.name in _CHARACTERS:
        raise ValueError(f"{text}: write an array of arrays as one: `array[3, 10] of real`")
    if element.name in ("timer", "counter"):
        raise ValueError(f"{text}: write a tag for each {element}")
    if len(lengths) > 1 and element.size < 2:
        raise ValueError(f"{text}: rows of {element} may have gaps between them; write a tag for each row")
    stride = element.size + (element.size & 1) if element.length else element.size  # a string begins at an even byte
    length = math.prod(lengths)
    most = _LONGEST_ARRAY // stride
    if min(lengths) < 1 or length > most:
        raise ValueError(f"{text}: an array of {element} has 1 to {most} elements")
    if element.kind == "bool":
        return DataType("bool", "bits", (length + 7) // 8, length=length)
    if element.name in ("char", "wchar"):
        return DataType(f"{element.name}s", "text", length * stride, length=length)
    if element.kind in ("number", "s5time"):
        return DataType(element.name, "array", length * stride, element.code, length)
    return DataType(str(element), "list", length * stride, length=length)


def decode_list(kind: DataType, raw: bytes, encoding: str, zone: tzinfo) -> str:
    """An array of texts, dates, times or 64-bit integers as a JSON list. Raises ValueError where one element cannot be right."""
    element = parse_type(kind.name)
    stride = kind.size // kind.length
    pieces = (raw[at : at + element.size] for at in range(0, kind.size, stride))
    return json.dumps([_decode_one(element, piece, encoding, zone) for piece in pieces], ensure_ascii=False)


def _decode_one(element: DataType, raw: bytes, encoding: str, zone: tzinfo) -> str | int | float:
    if element.kind == "text":
        return decode_text(element, raw, encoding)
    if element.kind == "date":
        return decode_date(raw)
    if element.kind == "clock":
        return decode_clock(element, raw, zone)
    whole = int.from_bytes(raw, signed=element.code.startswith(">i"))
    return whole / 1e6 if element.kind == "nanoseconds" else whole


def decode_text(kind: DataType, raw: bytes, encoding: str) -> str:
    """CHAR, WCHAR, STRING, WSTRING and arrays of characters, which end with blanks or zeros.

    Raises ValueError where the length or the characters cannot be right.
    """
    if kind.name in _CHARACTERS:
        return raw.decode("utf-16-be" if kind.name == "wchars" else encoding).rstrip("\0 ")
    if kind.name == "char":
        return raw.decode(encoding)
    if kind.name == "wchar":
        return raw.decode("utf-16-be")
    wide = kind.name == "wstring"
    used = int.from_bytes(raw[2:4]) if wide else raw[1]
    if used > kind.length:
        raise ValueError(f"{kind} says that it is {used} characters long")
    return raw[4 : 4 + 2 * used].decode("utf-16-be") if wide else raw[2 : 2 + used].decode(encoding)


def encode_text(kind: DataType, text: str, encoding: str) -> bytes:
    """The inverse of `decode_text`; what does not fit is cut off at a character, what the encoding lacks becomes `?`."""
    if kind.name == "char":
        return (text[:1] or " ").encode(encoding, "replace")[:1]
    if kind.name == "wchar":
        return (text[:1] or " ").encode("utf-16-be", "replace")[:2]
    if kind.name in _CHARACTERS:
        wide = kind.name == "wchars"
        coded = "utf-16-be" if wide else encoding
        cut = text.encode(coded, "replace")[: kind.size].decode(coded, "ignore").encode(coded)
        return cut + " ".encode(coded) * ((kind.size - len(cut)) // (2 if wide else 1))
    codec, unit = ("utf-16-be", 2) if kind.name == "wstring" else (encoding, 1)
    raw = text.encode(codec, "replace")
    if len(raw) > kind.length * unit:
        raw = raw[: kind.length * unit].decode(codec, "ignore").encode(codec)
    used = len(raw) // unit
    head = kind.length.to_bytes(unit) + used.to_bytes(unit)
    return head + raw.ljust(kind.length * unit, b"\0")


def decode_date(raw: bytes) -> str:
    """DATE (days since 1990-01-01) as `2026-01-02`."""
    return (_EPOCH + timedelta(days=int.from_bytes(raw))).isoformat()


def encode_date(day: date) -> bytes:
    """The inverse of `decode_date`, within the type's range."""
    return min(max((day - _EPOCH).days, 0), 65535).to_bytes(2)


def decode_clock(kind: DataType, raw: bytes, zone: tzinfo) -> str:
    """DT, DTL or LDT, plant time in `zone`, as ISO 8601 in UTC.

    Raises ValueError where it is no date (a block never written is zeros, which only LDT takes for one: 1970-01-01).
    """
    if kind.name == "ldt":
        moment = (_UNIX + timedelta(microseconds=int.from_bytes(raw) // 1000)).replace(tzinfo=zone)
        return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if kind.name == "dtl":
        year, month, day = int.from_bytes(raw[0:2]), raw[2], raw[3]
        hour, minute, second, us = raw[5], raw[6], raw[7], int.from_bytes(raw[8:12]) // 1000
    else:
        year, month, day, hour, minute, second, high = (_from_bcd(byte) for byte in raw[:7])
        year += 1900 if year >= 90 else 2000
        us = (high * 10 + _digit(raw[7] >> 4)) * 1000
    leap = second == 60  # as a clock that follows UTC says it: the first second of the next minute, as POSIX counts
    moment = datetime(year, month, day, hour, minute, 59 if leap else second, us, tzinfo=zone) + timedelta(seconds=leap)
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def encode_clock(kind: DataType, moment: datetime) -> bytes:
    """The inverse of `decode_clock` for a moment in plant time. DT keeps ms and the years 1990 to 2089, LDT µs from 1970 on."""
    if kind.name == "ldt":
        since = moment.replace(tzinfo=None) - _UNIX
        return max((since.days * 86_400_000_000 + since.seconds * 1_000_000 + since.microseconds) * 1000, 0).to_bytes(8)
    weekday = moment.isoweekday() % 7 + 1  # Sunday is 1
    if kind.name == "dtl":
        head = moment.year.to_bytes(2) + bytes((moment.month, moment.day, weekday, moment.hour, moment.minute, moment.second))
        return head + (moment.microsecond * 1000).to_bytes(4)
    if not 1990 <= moment.year <= 2089:
        raise ValueError(f"DT holds the years 1990 to 2089, not {moment.year}")
    ms = moment.microsecond // 1000
    parts = (moment.year % 100, moment.month, moment.day, moment.hour, moment.minute, moment.second, ms // 10)
    return bytes(part // 10 << 4 | part % 10 for part in parts) + bytes((ms % 10 << 4 | weekday,))


def encode_s5time(ms: float) -> bytes:
    """S5TIME in the finest base that holds `ms`; 2 h 46 min 30 s is the longest."""
    base = next((base for base, step in enumerate(_S5_STEPS) if round(ms / step) <= 999), 3)
    digits = min(max(round(ms / _S5_STEPS[base]), 0), 999)
    return (base << 12 | digits // 100 << 8 | digits // 10 % 10 << 4 | digits % 10).to_bytes(2)


def encode_counter(count: float) -> bytes:
    """Three BCD digits, 0 to 999."""
    digits = min(max(round(count), 0), 999)
    return (digits // 100 << 8 | digits // 10 % 10 << 4 | digits % 10).to_bytes(2)


def _from_bcd(byte: int) -> int:
    return _digit(byte >> 4) * 10 + _digit(byte & 15)


def _digit(nibble: int) -> int:
    if nibble > 9:
        raise ValueError(f"{nibble:x} is not a decimal digit")
    return nibble
