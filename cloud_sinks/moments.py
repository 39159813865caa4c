"""Moments and spans as people give them to the reading side, and as µs since 1970 UTC. Imports nothing heavy."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

Moment = datetime | str
"""A point in time: an aware datetime, or ISO 8601 text with an offset (`2026-03-01T00:00:00+09:00`)."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SPANS: Final = {"us": 1, "ms": 10**3, "s": 10**6, "m": 60 * 10**6, "min": 60 * 10**6, "h": 3600 * 10**6, "d": 86400 * 10**6}
_SPAN: Final = re.compile(rf"\s*([0-9]+(?:\.[0-9]+)?)\s*({'|'.join(_SPANS)})\s*")


def instant(moment: Moment | None, what: str) -> datetime | None:
    """As aware UTC datetime. A time without an offset is refused: on the night clocks are set back it would name two moments."""
    if moment is None:
        return None
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError:
            raise ValueError(f"{what}={moment!r} is no ISO 8601 time; write it like 2026-03-01T00:00:00+09:00") from None
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise ValueError(
            f"{what}={moment} has no time zone, so it is not one moment; "
            "write datetime(2026, 3, 1, tzinfo=ZoneInfo('Asia/Tokyo')) or '2026-03-01T00:00:00+09:00'"
        )
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{what}={moment} lies outside the calendar") from None


def span_us(span: timedelta | str, what: str, *, zero: bool = False) -> int:
    """A time span in µs. Raises ValueError for other text, and for none at all unless `zero`."""
    if isinstance(span, timedelta):
        found = span // timedelta(microseconds=1)
    else:
        match = _SPAN.fullmatch(span)
        if match is None:
            raise ValueError(f"{what}={span!r} is no time span; write it like 500ms, 1s, 15m, 8h or 1d")
        found = round(float(match[1]) * _SPANS[match[2]])
    if found < 0 or (found == 0 and not zero):
        raise ValueError(f"{what}={span} must be longer than nothing")
    return found


def us_of(moment: datetime) -> int:
    """An aware time in µs since 1970."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def at_us(time_us: int) -> datetime:
    """µs since 1970 as a time in UTC; what no calendar holds becomes its first or last moment."""
    try:
        return _EPOCH + timedelta(microseconds=time_us)
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC) if time_us < 0 else datetime.max.replace(tzinfo=UTC)
