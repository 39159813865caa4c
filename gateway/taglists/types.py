"""Data types as engineering tools name them, in the words of each kind of adapter."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from adapters.s7.datatypes import parse_type

KINDS: Final = ("modbus", "opcua", "s7")
"""Adapters whose tags can be imported."""
_WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    # what it is: how it is called
    "bool": ("bool", "boolean", "bit", "coil", "discrete", "digital", "x"),
    "int8": ("int8", "sint", "char", "sbyte", "signed byte", "i8"),
    "uint8": ("uint8", "usint", "byte", "unsigned byte", "u8"),
    "int16": ("int16", "short", "integer", "signed", "i16", "signed word", "signed int", "s16"),
    "uint16": ("uint16", "word", "ushort", "unsigned", "u16", "unsigned word", "unsigned int"),
    "int32": ("int32", "dint", "long", "i32", "signed long", "s32", "double integer", "int 32"),
    "uint32": ("uint32", "udint", "dword", "ulong", "u32", "unsigned long", "double word"),
    "int64": ("int64", "lint", "llong", "longlong", "i64", "s64"),
    "uint64": ("uint64", "ulint", "qword", "lword", "u64"),
    "float32": ("float32", "float", "real", "single", "f32", "ieee754", "float 32"),
    "float64": ("float64", "double", "lreal", "f64", "float 64"),
    "string": ("string", "text", "str", "ascii"),
    "datetime": ("datetime", "date", "date_time"),
    "bcd16": ("bcd", "bcd16"),
    "bcd32": ("lbcd", "bcd32"),
}
_SAID: Final = {word: name for name, words in _WORDS.items() for word in words}
_S7: Final = {
    "int8": "sint", "uint8": "byte", "int16": "int", "uint16": "word", "int32": "dint", "uint32": "dword", "int64": "lint",
    "uint64": "lword", "float32": "real", "float64": "lreal",
}  # fmt: skip
_LENGTH: Final = re.compile(r"(.*?)\s*[\[(]\s*(\d+)\s*[\])]\s*")


def typed(text: str, kind: str) -> str:
    """The type in the words of that adapter; what is not known comes back as it is, for the adapter to judge.

    `int` alone is 16 bits to a PLC and to Modbus and 32 bits to OPC UA; what S7 calls a type stays what it is there.
    """
    plain = " ".join(text.split()).lower()
    length = _LENGTH.fullmatch(plain)
    word, size = (length[1], f"[{length[2]}]") if length else (plain, "")
    if kind == "s7":
        try:
            return str(parse_type(plain))
        except ValueError:
            found = _SAID.get(word)
            return plain if found is None else _S7.get(found, found) + size
    if word in ("int", "uint"):
        return f"{word}32" if kind == "opcua" else f"{word}16"
    found = _SAID.get(word, plain)
    if kind == "opcua":
        return {"bcd16": "uint16", "bcd32": "uint32"}.get(found, found)
    return found + size if found == "string" else found
