"""When a sink may be written to next: what a busy service asks for, and the rate that a person set. For the event loop."""

from __future__ import annotations

import asyncio
import random
from typing import Final

from schemas.errors import Busy
from schemas.kinds import Kind

from .backoff import Backoff

_LEAST_WAIT_S: Final = 0.05  # of a sink that says it is busy and names no time
_FIRST_ROWS: Final = 100
_LEAST_ROWS: Final = 20
_ONE_WRITE_S: Final = 1.0
_FORGETS: Final = 1.2


class Pace:
    """Pauses by kind. Alerts count for the rate, and never wait for it."""

    def __init__(self, rng: random.Random, max_rows_per_s: float | None) -> None:
        self._busy = Backoff(rng, first_s=0.1, max_s=5.0)
        self._max_rows_per_s = max_rows_per_s
        self._paid_until = 0.0  # loop time from which the rate allows the next row
        self._not_before: dict[Kind, float] = {}

    def pause_s(self, kind: Kind) -> float:
        """Seconds before the next row of a kind may be written; 0 or less: now."""
        asked = self._not_before.get(kind, 0.0)
        return (asked if kind == "alert" else max(asked, self._paid_until)) - asyncio.get_running_loop().time()

    def hold(self, kind: Kind, busy: Busy) -> None:
        """The service is busy: as long as it asks, and longer each time it still is. Other kinds may go."""
        wait_s = max(_LEAST_WAIT_S, busy.wait_s, self._busy.next_s())
        self._not_before[kind] = asyncio.get_running_loop().time() + wait_s

    def worked(self, rows: int) -> None:
        """The service took rows: it is not busy, and the rate allows the next ones later."""
        self._busy.reset()
        if self._max_rows_per_s:
            self._paid_until = max(self._paid_until, asyncio.get_running_loop().time()) + rows / self._max_rows_per_s


class Overtaking:
    """How many rows of bulk one write may have, so that an alert that comes behind it waits about a second, however slow the line.

    Begins small and doubles while writes are quick; what was learned stays over outages. What every write takes, however small it is (a
    distant service), is no reason for smaller ones. For a sink that gets no alerts, or lets them wait themselves (a lake), the policy alone
    counts.
    """

    def __init__(self, *, alerts: bool) -> None:
        self._most: float | None = _FIRST_ROWS if alerts else None
        self._least_s: float | None = None  # of any write, of late

    def most(self, kind: Kind, rows: int) -> int:
        """`rows`, or fewer."""
        return rows if self._most is None or kind == "alert" else min(rows, int(self._most))

    def took(self, kind: Kind, rows: int, seconds: float) -> None:
        """A write of so many rows took so long."""
        if self._most is None or not rows:
            return
        self._least_s = seconds if self._least_s is None else min(seconds, _FORGETS * self._least_s)
        fits = rows * _ONE_WRITE_S / max(seconds - self._least_s, 1e-6)
        if kind != "alert" and (
            fits < self._most or 2 * rows >= self._most
        ):  # a small write says nothing of how quick a large one is
            self._most = max(_LEAST_ROWS, min(fits, 2 * self._most))
