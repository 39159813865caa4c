"""What a person wants a sink to get once more: cut, durable in the ledger before the write, and never twice into a lake."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from cloud_sinks.base import Holding, Sink
from schemas.errors import Busy
from schemas.kinds import Kind
from schemas.span import SpoolSpan

from .pace import Overtaking, Pace
from .spool import Resend, Spool
from .spool.spans import Spans

_AGAIN_S: Final = 0.05


class Resends:
    """The resends of one sink. It comes to them when nothing that waits is due."""

    def __init__(self, name: str, sink: Sink, kinds: Sequence[Kind], spool: Spool, pace: Pace, overtaking: Overtaking) -> None:
        self._name, self._sink, self._kinds, self._spool = name, sink, kinds, spool
        self._pace, self._overtaking = pace, overtaking

    def _mine(self) -> list[Resend]:
        return [one for one in self._spool.ledger.resends if one.sink == self._name and one.kind in self._kinds]

    def due(self) -> Resend | None:
        """The next one that may go now."""
        return next((one for one in self._mine() if self._pace.pause_s(one.kind) <= 0), None)

    def soonest(self, otherwise: float | None) -> float | None:
        """Seconds until one may go, or `otherwise` where that is less."""
        pauses = [max(0.0, self._pace.pause_s(one.kind)) for one in self._mine()]
        return min([*pauses, *([] if otherwise is None else [otherwise])], default=None)

    async def begin(self, resend: Resend) -> Resend | None:
        """The cut to write now, durable; the one in flight where there is one. None: look again, there may be nothing left.

        A sink that holds each row exactly once gets only what it does not have, under spans that touch no other.
        """
        if resend.cut is not None:
            return resend
        spool, kind, policy = self._spool, resend.kind, self._sink.policy(resend.kind)
        first, last = resend.next, resend.last
        if isinstance(self._sink, Holding):
            held = await self._sink.holds(SpoolSpan(spool.gateway, spool.epoch, kind, first, last))
            missing = Spans((low, high + 1) for low, high in held).missing_from(first, last + 1)
            if not missing:
                spool.ledger.end_resend(resend, last, 0)
                return None
            first, last = missing[0][0], missing[0][1] - 1
        rewritten = spool.rewritten(kind)
        most = self._overtaking.most(kind, policy.max_rows)
        read = await spool.read(kind, first, max_rows=most, max_bytes=policy.max_bytes, last=last)
        if not read:
            spool.ledger.end_resend(resend, last, 0)
            return None
        try:
            if spool.rewritten(kind) != rewritten:
                return None
            return await spool.ledger.begin_resend(resend, first, read[-1][0] + read[-1][1].num_rows - 1)
        except Busy:
            await asyncio.sleep(_AGAIN_S)
            return None

    def give_up(self, kind: Kind) -> None:
        """End the resend of a kind that cannot be done."""
        for one in self._mine():
            if one.kind == kind:
                self._spool.ledger.end_resend(one, one.last, 0)
                return
