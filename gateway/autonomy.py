"""How long a spool takes everything in while no sink can be reached. Pure and light: `genba check` needs no Arrow for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from schemas.tags import Tag

READING_BYTES: Final = 16
"""On disk, compressed, of the least compressible readings: noise of 64 bits, each with a time and a lag of its own. Most take half."""

COMMIT_BYTES: Final = 256
"""What each commit costs beside its readings: record header, Arrow's message, padding, its entry in the index."""

_LEDGER_BYTES: Final = 256 * 1024


def bytes_per_second(tags: Iterable[Tag], commit_every_us: int) -> float:
    """What the tags write into the spool at most, at their configured scan classes; texts and waveforms are not foreseen."""
    periods = [tag.period_us for tag in tags if tag.period_us > 0]
    polls = sum(1e6 / period for period in set(periods))
    commits = min(polls, 1e6 / max(1, commit_every_us))
    return sum(READING_BYTES * 1e6 / period for period in periods) + COMMIT_BYTES * commits


def hours(tags: Iterable[Tag], *, max_bytes: int, segment_bytes: int, commit_every_us: int) -> float | None:
    """Hours until `max_bytes` are used, less the ledger, the reserve, and the segment that is begun; None where nothing is read."""
    rate = bytes_per_second(tags, commit_every_us)
    room = max_bytes - _LEDGER_BYTES - 2 * min(segment_bytes, max_bytes // 16)
    return room / rate / 3600 if rate else None


def in_words(hours_: float) -> str:
    """`5 hours`, `31 days`."""
    if hours_ < 1:
        return f"{max(1, round(60 * hours_))} min"
    if hours_ < 72:
        return f"{hours_:.0f} hours" if hours_ >= 1.5 else "1 hour"
    return f"{hours_ / 24:,.0f} days"
