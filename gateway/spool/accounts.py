"""What became of the rows that one sink was to have of one kind, from where it stands and what is no more. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from .book import Cursor
from .log import Log
from .spans import Spans


@dataclass(frozen=True, slots=True)
class Account:
    """What became of the rows that one sink was to have of one kind. read = filtered + delivered + spooled + dropped + dead_lettered."""

    read: int
    filtered: int
    delivered: int
    spooled: int
    dropped: int
    dead_lettered: int


def account_of(cursor: Cursor, end: int, gone: Spans, log: Log) -> Account:
    """The account of a sink, when rows below `end` are durable and `gone` are no more."""
    lost = gone.within(cursor.acked, end) + log.without_row(cursor.acked, end, gone)
    return Account(
        read=end - cursor.start, filtered=cursor.filtered, delivered=cursor.delivered, spooled=end - cursor.acked - lost,
        dropped=cursor.dropped + lost, dead_lettered=cursor.dead_lettered,
    )  # fmt: skip
