"""The alarm layer's records: what is open, and how alert and event rows are made of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, Literal

import pyarrow as pa

from schemas.kinds import make_batch
from schemas.tags import Severity

State = Literal["unacknowledged", "acknowledged", "returned", "normal", "shelved", "suppressed", "out_of_service"]
OPEN_STATES: Final[tuple[State, ...]] = (
    "unacknowledged", "acknowledged", "returned", "shelved", "suppressed", "out_of_service"
)  # fmt: skip
Transition = Literal[
    "raised", "cleared", "acknowledged", "shelved", "unshelved", "out_of_service", "in_service", "suppressed", "changed"
]
Reason = Literal["", "peak", "budget", "flood"]
"""Why an alarm is suppressed: soon after the one before, over a budget, in a flood."""
Key = tuple[str, str, str]
"""model, alarm, subject (path of the tag or asset, or name of the gateway's part): at most one occurrence of a key is open."""


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
    told: bool = True  # a person has been told of it
    held: Reason = ""  # while suppressed
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
    upto: int | None = None  # the row up to which readings explain it; None: nothing is to be explained


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that a person did to an alarm, for the log of events. `attributes` are plain values."""

    time_us: int
    event: str
    source: str
    tag: int | None
    asset: str | None
    message: str
    attributes: Mapping[str, object]


def occurrence(model: str, alarm: str, subject: str, onset: int) -> str:
    """The id of an alarm occurrence: the same whenever the same rows are scored again. 20 hexadecimal digits."""
    said = "\0".join((model, alarm, subject, str(onset)))
    return blake2b(said.encode(), digest_size=10).hexdigest()


def alert_batch(messages: Sequence[Message], contexts: Mapping[int, str | None] | None = None) -> pa.RecordBatch | None:
    """ALERT(n) in the given order; None for no message. `contexts` are the readings that explain a message, by its place."""
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
    if contexts:
        columns["context"] = [contexts.get(at) for at in range(len(messages))]
    return make_batch("alert", len(entries), **columns)


def event_batch(happenings: Sequence[Happening]) -> pa.RecordBatch | None:
    """EVENT(n) in the given order; None for nothing."""
    if not happenings:
        return None
    columns: dict[str, list[object]] = {
        name: [getattr(one, name) for one in happenings] for name in ("event", "source", "tag", "asset", "message")
    }
    columns["time"] = [one.time_us for one in happenings]
    columns["attributes"] = [
        json.dumps({name: value for name, value in one.attributes.items() if value not in (None, "")}, ensure_ascii=False)
        for one in happenings
    ]
    return make_batch("event", len(happenings), severity="info", **columns)
