"""Dates and times packed into registers, and back for the simulator.

Devices keep the time of the plant's clocks, which is told as ISO 8601 in UTC, and Unix time, which is UTC already.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, tzinfo
from itertools import pairwise
from typing import Final

from .datatypes import DataType, Order, swaps_bytes, swaps_words
from .dates import SPELLING, TI081, UNIX, fields_of

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def decode_moment(raw: bytes, kind: DataType, order: Order, zone: tzinfo) -> str:
    """`2026-11-27T21:35:00Z`, or `2026-11-27` where there is no time. `zone` is that of the plant.

    Raises ValueError where it is no date (registers that were never written are zeros).
    """
    words = list(struct.unpack(f"{'<' if swaps_bytes(order) else '>'}{len(raw) // 2}H", raw))
    if kind.name in UNIX:
        _, code, per_s = UNIX[kind.name]
        number: int = struct.unpack(">" + code, struct.pack(f">{len(words)}H", *(words[::-1] if swaps_words(order) else words)))[
            0
        ]
        try:
            return _told(_EPOCH + timedelta(microseconds=number * 1_000_000 // per_s))
        except OverflowError as error:
            raise ValueError(f"{number} is no time") from error
    if kind.name == TI081:
        return _told(_ti081(words, zone))
    fields, parts = _parts(kind, words)
    found = {field: part for field, part in zip(fields, parts, strict=False) if field}
    if found["year"] < 100:
        found["year"] += 2000
    if "hour" not in found:
        return date(**found).isoformat()
    return _told(datetime(**found, tzinfo=zone))


def encode_moment(kind: DataType, order: Order, moment: datetime) -> bytes:
    """The inverse of `decode_moment` for a moment in plant time."""
    if kind.name in UNIX:
        registers, code, per_s = UNIX[kind.name]
        since = moment.astimezone(UTC) - _EPOCH
        number = (since.days * 86_400_000 + since.seconds * 1000 + since.microseconds // 1000) * per_s // 1000
        words = list(struct.unpack(f">{registers}H", struct.pack(">" + code, max(number, 0))))
        words = words[::-1] if swaps_words(order) else words
    elif kind.name == TI081:
        words = [
            moment.year % 100, moment.month << 8 | moment.isoweekday() << 5 | moment.day, moment.hour << 8 | moment.minute,
            moment.second * 1000 + moment.microsecond // 1000,
        ]  # fmt: skip
    else:
        found = SPELLING.fullmatch(kind.name)
        assert found is not None
        parts = [getattr(moment, field) if field else 0 for field in fields_of(found[3])]
        if found[1] or found[2]:
            parts = [
                part % 100 if field == "year" and found[1] else part
                for field, part in zip(fields_of(found[3]), parts, strict=True)
            ]
        if found[2]:
            parts = [int(str(part), 16) for part in parts]
        words = [high << 8 | low for high, low in _pairs(parts)] if found[1] else parts
    return struct.pack(f"{'<' if swaps_bytes(order) else '>'}{len(words)}H", *words)


def _parts(kind: DataType, words: Sequence[int]) -> tuple[tuple[str, ...], list[int]]:
    found = SPELLING.fullmatch(kind.name)
    assert found is not None
    parts = [part for word in words for part in (word >> 8, word & 255)] if found[1] else list(words)
    if found[2]:
        parts = [int(f"{part:x}") for part in parts]  # raises ValueError for what is no digit
    return fields_of(found[3]), parts


def _ti081(words: Sequence[int], zone: tzinfo) -> datetime:
    """IEC 60870-5-4 as power meters have it: year, month and day, hour and minute, milliseconds of the minute."""
    year, day, hour, ms = words
    second, ms = divmod(ms, 1000)
    return datetime(2000 + (year & 127), day >> 8 & 15, day & 31, hour >> 8 & 31, hour & 63, second, ms * 1000, tzinfo=zone)


def _pairs(parts: Sequence[int]) -> list[tuple[int, int]]:
    even = [*parts, 0] if len(parts) % 2 else list(parts)
    return list(pairwise(even))[::2]


def _told(moment: datetime) -> str:
    try:
        return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
    except OverflowError as error:  # the last hours of the year 9999, west of Greenwich
        raise ValueError(f"{moment} is outside of the calendar in UTC") from error
