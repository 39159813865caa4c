"""Values to bytes: what the simulator and round-trip tests need. The gateway itself never writes to a PLC."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from datetime import datetime, tzinfo
from typing import Final

from .datatypes import TEXTS, DataType, encode_clock, encode_counter, encode_date, encode_s5time, encode_text, parse_type

_FLOATS: Final = {"real": ">f", "lreal": ">d"}


def encode(kind: DataType, value: float | str, *, encoding: str, zone: tzinfo) -> bytes | None:
    """The bytes of a raw value; None for one that the type has no bytes for (NaN as an integer): the old ones stay.

    A number beyond the type's range becomes the nearest that it holds. For a date or time the text is ISO 8601 in plant time;
    any other text is the present moment.
    """
    if kind.kind == "text":
        return encode_text(kind, value if isinstance(value, str) else f"{value:g}", encoding)
    if kind.kind in ("date", "clock"):
        moment = _moment(value, zone)
        return encode_date(moment.date()) if kind.kind == "date" else encode_clock(kind, moment)
    number = float(value) if not isinstance(value, int) else value
    if kind.name in _FLOATS:
        return _encode_float(_FLOATS[kind.name], float(number))
    if math.isnan(number):
        return None
    if kind.kind == "s5time":
        return encode_s5time(min(max(number, 0), 9_990_000))
    if kind.kind == "counter":
        return encode_counter(min(max(number, 0), 999))
    if kind.kind == "nanoseconds":
        number *= 1e6  # from ms
    signed = kind.code.startswith(">i")
    bits = kind.size * 8
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    whole = low if number == -math.inf else high if number == math.inf else min(max(round(number), low), high)
    return whole.to_bytes(kind.size, signed=signed)


def encode_array(kind: DataType, values: Sequence[float | str], *, encoding: str, zone: tzinfo) -> bytes:
    """The bytes of an array from the raw values of its elements; zeros where an element has no bytes for its value."""
    if kind.kind == "bits":
        return b"".join(
            sum(1 << bit for bit, on in enumerate(values[at : at + 8]) if on).to_bytes(1) for at in range(0, kind.length, 8)
        )
    element = parse_type(kind.name)
    stride = kind.size // kind.length
    return b"".join(_element(element, value, encoding, zone).ljust(stride, b"\0") for value in values)


def _element(kind: DataType, value: float | str, encoding: str, zone: tzinfo) -> bytes:
    if isinstance(value, str) and kind.kind not in TEXTS:
        try:
            value = int(value) if kind.kind == "integer" else float(value)
        except ValueError:
            value = 0
    return encode(kind, value, encoding=encoding, zone=zone) or bytes(kind.size)


def _encode_float(code: str, number: float) -> bytes:
    try:
        return struct.pack(code, number)
    except OverflowError:  # beyond REAL
        return struct.pack(code, math.copysign(math.inf, number))


def _moment(value: float | str, zone: tzinfo) -> datetime:
    if isinstance(value, str):
        try:
            given = datetime.fromisoformat(value)
        except ValueError:
            return datetime.now(zone)
        return given.astimezone(zone) if given.tzinfo is not None else given.replace(tzinfo=zone)
    return datetime.now(zone)
