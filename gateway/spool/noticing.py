"""Rows that are no more, found by a start, by reading or given up for room: counted once, told once. For the event loop."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from schemas.clock import Clock
from schemas.kinds import Kind

from .ledger import Ledger
from .log import Log
from .losses import Loss
from .opening import missing_rows
from .recovery import KindRecovery


class Noticing:
    """Collects losses until somebody takes them for gap rows."""

    def __init__(self, logs: Mapping[Kind, Log], ledger: Ledger, *, clock: Clock, log: structlog.stdlib.BoundLogger) -> None:
        self._logs, self._ledger, self._clock, self._log = logs, ledger, clock, log
        for loss, level in ledger.intended:
            ledger.settle(loss, happened=_happened(loss, level, logs[loss.kind]))
        self._losses = ledger.untold  # a gap row of these may be missing: the process died too early

    def lost(self, loss: Loss) -> None:
        """A loss that the ledger has counted."""
        self._losses.append(loss)

    def take(self) -> list[Loss]:
        """The losses since the last call."""
        taken = list(self._losses)
        self._losses.clear()
        return taken

    def look(self, kind: Kind) -> None:
        """Notice what reading found to be damaged."""
        gone = self._logs[kind].gone
        while gone:
            self._damaged(kind, *gone.popleft())

    def tell_recovery(self, recovery: Mapping[Kind, KindRecovery]) -> None:
        """Notice and log what the start found."""
        for kind, report in recovery.items():
            for first, end in report.missing:
                self._damaged(kind, first, end)
            for trouble in report.trouble:
                self._log.warning("the disk made trouble at the start", kind=kind, error=trouble)
        cut = {kind: report.truncated_bytes for kind, report in recovery.items() if report.truncated_bytes}
        aside = [name for report in recovery.values() for name in report.quarantined]
        if cut or aside or self._ledger.condition in ("one slot", "lost"):
            self._log.warning(
                "the spool was repaired", torn_bytes=cut, quarantined=aside, ledger=self._ledger.condition,
                missing_rows=missing_rows(recovery),
            )  # fmt: skip

    def _damaged(self, kind: Kind, first: int, end: int) -> None:
        log = self._logs[kind]
        for low, high in self._ledger.gone(kind).missing_from(first, end):
            thinned = log.without_row(low, high, self._ledger.gone(kind))
            sinks = {
                sink: rows
                for sink in self._ledger.sinks_of(kind)
                if (rows := high - max(low, self._ledger.cursor(kind, sink).acked) - thinned) > 0
            }
            self._ledger.note_gone(kind, low, high)
            now = self._clock.now_us()
            before, after = log.commit_us(max(0, low - 1)), log.commit_us(high)
            loss = Loss(kind, low, high - 1, "quarantined", sinks, before or now, after or now)
            self._ledger.note_loss(loss)
            self.lost(loss)
            self._log.error("rows are damaged or missing", kind=kind, first=low, last=high - 1)


def _happened(loss: Loss, level: int, log: Log) -> bool:
    """Whether what was about to be downsampled is there in windows."""
    return any(one.level == level and one.first == loss.first and one.next == loss.last + 1 for one in log.segments)
