"""Names of the types in which devices keep dates and times: how many registers each has, and what stands in them."""

from __future__ import annotations

import re
from typing import Final

UNIX: Final = {"unix32": (2, "I", 1), "unix64": (4, "q", 1), "unix64_ms": (4, "q", 1000)}
"""Registers, struct code, and units to the second."""
TI081: Final = "ti081"
SPELLING: Final = re.compile(r"datetime(8)?(_bcd)?\[([ymdhs-]+)\]")
"""A byte to each letter instead of a register; decimal digits of four bits; the letters."""
_DATE: Final = ("year", "month", "day")
_TIME: Final = ("hour", "minute", "second")


def registers_of(name: str) -> int:
    """How many registers the date type of this name has; 0 when it is none. Raises ValueError for letters that make no date."""
    if name in UNIX:
        return UNIX[name][0]
    if name == TI081:
        return 4
    found = SPELLING.fullmatch(name)
    if found is None:
        return 0
    fields = fields_of(found[3])
    return (len(fields) + 1) // 2 if found[1] else len(fields)


def fields_of(letters: str) -> tuple[str, ...]:
    """What each letter stands for; an m beside h or s is the minute. Raises ValueError."""
    fields = []
    for at, letter in enumerate(letters):
        beside = letters[max(at - 1, 0) : at] + letters[at + 1 : at + 2]
        names = {"y": "year", "d": "day", "h": "hour", "s": "second", "-": ""}
        is_minute = letters[max(at - 1, 0) : at] in ("h", "s") or (letters[at + 1 : at + 2] in ("h", "s") and "d" not in beside)
        fields.append(names.get(letter, "minute" if is_minute else "month"))
    named = [field for field in fields if field]
    time = tuple(field for field in _TIME if field in named)
    if len(named) != len(set(named)) or not set(_DATE) <= set(named) or time != _TIME[: len(time)]:
        raise ValueError(
            f"[{letters}] makes no date: y, m and d once each, then h, m and s as far as there are any, in the order of the device; "
            "- for a place that is not used, like [ymd-hms]"
        )
    return tuple(fields)
