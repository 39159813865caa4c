"""Names: a slug that could stand for what somebody wrote, and time zones."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Set
from zoneinfo import ZoneInfo, available_timezones


def slug_of(text: str) -> str:
    """`Stamping GW_1` -> `stamping-gw-1`; empty when nothing usable is left (日本)."""
    plain = unicodedata.normalize("NFKD", text.strip()).casefold()
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def time_zones(name: str | None = None) -> Set[str]:
    """All IANA names; with a name only that one if it is known, which reads one file instead of a directory."""
    if name is None:
        return available_timezones()
    try:
        ZoneInfo(name)
    except (ValueError, OSError, KeyError):  # ZoneInfoNotFoundError is a KeyError
        return frozenset()
    return frozenset({name})
