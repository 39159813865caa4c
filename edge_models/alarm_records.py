"""The alarm layer's records: what is open, how an alert row is made of it, and the budget that keeps a screen readable."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, Literal

import pyarrow as pa

from schemas.kinds import make_batch
from schemas.tags import Severity

State = Literal["unacknowledged", "acknowledged", "returned", "normal", "shelved", "suppressed"]
Transition = Literal["raised", "cleared", "acknowledged", "shelved", "unshelved", "suppressed", "changed"]
Key = tuple[str, str, str]
"""model, alarm, subject (path of the tag or asset, or name of the gateway's part): at most one occurrence of a key is open."""
_DAY_US: Final = 86_400_000_000


@dataclass(slots=True)
class Entry:
    """One occurrence of an alarm. `active` is whether what raised it still holds; NaN stands for no number."""

    id: str
    model: str
    alarm: str  # as in ALERT: unique within the asset
    tag: int | None
    asset: str
    subject: str
    severity: Severity
    problem: str
    action: str
    since_us: int
    onset_seq: int | None
    unit: str | None
    state: State = "unacknowledged"
    active: bool = True
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    score: float = math.nan
    limit: float = math.nan
    contributions: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One transition of an entry as it is to be told. Made at once, because the entry goes on changing."""

    time_us: int
    transition: Transition
    entry: Entry


def occurrence(model: str, alarm: str, subject: str, onset: int) -> str:
    """The id of an alarm occurrence: the same whenever the same rows are scored again. 20 hexadecimal digits."""
    said = "\0".join((model, alarm, subject, str(onset)))
    return blake2b(said.encode(), digest_size=10).hexdigest()


def alert_batch(messages: Sequence[Message]) -> pa.RecordBatch | None:
    """ALERT(n) in the given order; None for no message."""
    if not messages:
        return None
    entries = [message.entry for message in messages]
    columns: dict[str, list[object]] = {
        name: [getattr(entry, name) for entry in entries]
        for name in (
            "id", "alarm", "model", "tag", "asset", "subject", "state", "severity", "problem", "action", "onset_seq", "unit",
            "contributions",
        )
    }  # fmt: skip
    for name in ("value", "low", "high", "score", "limit"):
        numbers = (getattr(entry, name) for entry in entries)
        columns[name] = [number if math.isfinite(number) else None for number in numbers]
    columns["time"] = [message.time_us for message in messages]
    columns["since"] = [entry.since_us for entry in entries]
    columns["transition"] = [message.transition for message in messages]
    return make_batch("alert", len(entries), **columns)


class Budget:
    """So many alarms a day and asset: a bucket that starts full and is filled again evenly, in the time of the rows."""

    def __init__(self) -> None:
        self.left: dict[tuple[str, str], tuple[float, int]] = {}  # (model, asset) -> tokens, as of µs

    def take(self, model: str, asset: str, per_day: float, time_us: int) -> bool:
        """Use one up. False when there is none left."""
        tokens, at = self.left.get((model, asset), (max(per_day, 1.0), time_us))
        tokens = min(max(per_day, 1.0), tokens + max(0, time_us - at) / _DAY_US * per_day)
        granted = tokens >= 1.0
        self.left[model, asset] = (tokens - 1.0 if granted else tokens, max(at, time_us))
        return granted
