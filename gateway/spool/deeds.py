"""What a person may change of a spool: deliver rows once more, do without a backlog, forget a sink. For the event loop.

The same functions work in a running gateway, which `genba spool` asks over its control socket, and on a directory that no gateway has.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from schemas.errors import ConfigError
from schemas.kinds import KINDS, Kind

from .losses import Loss
from .spool import Spool

Answer = Mapping[str, str | int | None]


async def resend(
    spool: Spool, kind: Kind, sink: str, *, first: int | None = None, last: int | None = None,
    since_us: int | None = None, until_us: int | None = None,
) -> Answer:  # fmt: skip
    """Let `sink` have rows once more that it has passed, by number or by when they were stored; as far as they are held.

    Raises ConfigError where there is nothing to resend.
    """
    _known(spool, kind, sink)
    acked, oldest = spool.ledger.cursor(kind, sink).acked, spool.oldest(kind)
    start = max(oldest, first if first is not None else spool.row_at(kind, since_us) if since_us is not None else oldest)
    end = last + 1 if last is not None else spool.row_at(kind, until_us) if until_us is not None else acked
    end = min(end, acked)
    if start >= end:
        raise ConfigError(
            f"no {kind} row of these is held that {sink} has had: rows {oldest} to {acked - 1} can be resent"
            if oldest < acked
            else f"no {kind} row is held any more that {sink} has had",
            hint="rows are held until every sink has had them, and for spool.keep after that",
        )
    await spool.ledger.ask_resend(kind, sink, start, end - 1)
    spool.wake()
    return {"kind": kind, "sink": sink, "first": start, "last": end - 1, "rows": end - start}


async def drop(spool: Spool, kind: Kind, sink: str, *, before: int | None = None, before_us: int | None = None) -> Answer:
    """Let `sink` do without its oldest rows that wait, up to a number or a time (not included); all that wait without either.

    They count as dropped, and a gap row tells of them. Raises ConfigError for a sink that is not known.
    """
    _known(spool, kind, sink)
    end = before if before is not None else spool.row_at(kind, before_us) if before_us is not None else spool.durable(kind)
    first = spool.ledger.cursor(kind, sink).acked
    began = spool.time_of(kind, first)
    rows, upto = await spool.drop(kind, sink, end)
    if rows:
        spool.note_loss(Loss(kind, first, upto - 1, "requested", {sink: rows}, began, spool.time_of(kind, upto)))
        await spool.ledger.save()
    return {"kind": kind, "sink": sink, "rows": rows, "next": spool.ledger.cursor(kind, sink).acked}


async def forget(spool: Spool, sink: str, *, configured: Collection[str] = ()) -> Answer:
    """Drop everything that is known of a sink which is not `configured` any more, so that it holds no rows back. Raises ConfigError."""
    if sink in configured:
        raise ConfigError(
            f"{sink} is a sink of the running gateway", hint="take it out of the file and restart the gateway first"
        )
    waiting = {kind: spool.account(kind, sink).spooled for kind in KINDS if sink in spool.ledger.sinks_of(kind)}
    if not await spool.ledger.forget(sink):
        known = ", ".join(sorted(spool.ledger.sinks)) or "none"
        raise ConfigError(f"no sink {sink!r} is known", hint=f"known are: {known}")
    return {"sink": sink, "rows": sum(waiting.values())}


def _known(spool: Spool, kind: Kind, sink: str) -> None:
    if sink not in spool.ledger.sinks_of(kind):
        sinks = ", ".join(spool.ledger.sinks_of(kind)) or "none"
        raise ConfigError(f"{kind} does not go to a sink {sink!r}", hint=f"it goes to: {sinks}")
