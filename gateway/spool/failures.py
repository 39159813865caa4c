"""What keeps rows from becoming durable at present, said once when it begins and once when it is over."""

from __future__ import annotations

import asyncio

import structlog


class Failures:
    """The troubles of the disk by where they showed. For the event loop."""

    def __init__(self, log: structlog.stdlib.BoundLogger) -> None:
        self._log = log
        self._texts: dict[str, str] = {}
        self._since_s = 0.0

    @property
    def text(self) -> str:
        """In words; empty while all is well."""
        return next(iter(self._texts.values()), "")

    def last_for(self, seconds: float) -> bool:
        """Whether there has been trouble for so long."""
        return bool(self._texts) and asyncio.get_running_loop().time() - self._since_s >= seconds

    def set(self, what: str, error: Exception | None) -> None:
        """An attempt at `what` failed with `error`, or worked (None)."""
        before = self.text
        if error is None:
            self._texts.pop(what, None)
        else:
            text = error.strerror if isinstance(error, OSError) else None
            self._texts[what] = text or str(error)
        if self._texts and not before:
            self._since_s = asyncio.get_running_loop().time()
            self._log.error("rows cannot be made durable and wait in memory", error=self.text)
        elif before and not self._texts:
            self._log.info("rows are durable again")
