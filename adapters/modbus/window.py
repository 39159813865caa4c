"""How many requests are in flight at once, and the way back to one for a device that does not take several."""

from __future__ import annotations

from typing import Final

import structlog

_MISSING: Final = 3  # answers that were missing among several and came alone; a mangled one is enough by itself


class Window:
    """Requests in flight on one connection, shared by its scan classes. Goes back to 1, and stays there, for a device that mixes
    up, refuses or leaves out answers to several requests but answers each alone, or that hangs up on the first such poll."""

    def __init__(self, size: int, log: structlog.stdlib.BoundLogger) -> None:
        self.size = size
        self._log = log
        self._missing = 0
        self._proven = False

    def worked(self) -> None:
        """A whole poll went well."""
        self._proven = True

    def answered_alone(self, trouble: str, *, missing: bool) -> None:
        """What gave `trouble` among several requests was answered when it was the only one."""
        self._missing += 1
        if not missing or self._missing >= _MISSING:
            self._fall_back(trouble)

    def lost(self, why: str) -> None:
        """The connection was lost with several requests in flight."""
        if not self._proven:
            self._fall_back(why)

    def _fall_back(self, trouble: str) -> None:
        if self.size > 1:
            self.size = 1
            self._log.warning("the device does not take several requests at once; one at a time from now on", error=trouble)
