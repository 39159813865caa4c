"""Refused addresses of a connection over restarts: a new process does not search for them again, and asks for each once a day."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from adapters.quarantine import Quarantine, Refusal
from schemas.clock import Clock

from .scanner import Scanner

_DAY_S: Final = 86_400.0


class Memory:
    """Which tags of each scan class are set aside, in a file. One task uses it."""

    def __init__(
        self, quarantine: Quarantine, scanners: Sequence[Scanner], clock: Clock, log: structlog.stdlib.BoundLogger
    ) -> None:
        self._quarantine, self._scanners, self._clock, self._log = quarantine, scanners, clock, log
        self._retry_us: dict[str, int] = {}
        self._loaded = self._asked_again = False

    async def recall(self) -> None:
        """Set aside what a former process was refused less than a day ago. Does something once in a process."""
        if self._loaded:
            return
        self._loaded = True
        known = await asyncio.to_thread(self._quarantine.load, {key for scanner in self._scanners for key in scanner.keys})
        now_us = self._clock.now_us()
        for scanner in self._scanners:
            # A time further off than a day was written by a clock that was wrong.
            waiting = {
                member: known[key]
                for member, key in enumerate(scanner.keys)
                if key in known and now_us < known[key].retry_us <= now_us + _DAY_S * 1e6
            }
            if waiting:
                self._retry_us |= {scanner.keys[member]: refusal.retry_us for member, refusal in waiting.items()}
                scanner.leave_out({member: refusal.code for member, refusal in waiting.items()})
                self._log.info("tags that were refused before are left out until they are asked for again", tags=len(waiting))

    def wake(self, scanner: Scanner) -> None:
        """Before a poll: ask again for what is due."""
        now_us = self._clock.now_us()
        if any(self._retry_us.get(scanner.keys[member], now_us) < now_us for member in scanner.refused):
            for member in scanner.refused:
                self._retry_us.pop(scanner.keys[member], None)
            self._asked_again = True
            scanner.ask_again()

    async def keep(self, scanner: Scanner) -> None:
        """After a poll: write down what has changed."""
        if not scanner.refused and not self._retry_us and not self._asked_again:
            return  # as nearly always; ten thousand keys need not be compared for it
        refused = {scanner.keys[member]: code for member, code in scanner.refused.items()}
        before = self._retry_us.keys() & set(scanner.keys)
        if refused.keys() == before and not self._asked_again:
            return
        self._asked_again = False
        for key in before - refused.keys():
            del self._retry_us[key]
        retry_us = self._clock.now_us() + round(_DAY_S * 1e6)
        for key in refused:
            self._retry_us.setdefault(key, retry_us)
        found = {key: Refusal(code, self._retry_us[key], _DAY_S) for key, code in refused.items()}
        await asyncio.to_thread(self._quarantine.put, scanner.keys, found)
