"""What of the alarms outlives the process: how the stored book and the durable events are read back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Final, cast

from .alarm_records import Entry, Key
from .alarm_shelf import Aside, Hold
from .delays import Waits

Waiting = tuple[str, str, int | None, str, Waits]
"""model, alarm, tag id or None, asset; then what its delays hold."""
EVENTS: Final[Mapping[str, str]] = {
    "acknowledge": "alarm_acknowledged", "shelve": "alarm_shelved", "unshelve": "alarm_unshelved",
    "out_of_service": "alarm_out_of_service", "in_service": "alarm_in_service",
}  # fmt: skip


def put_aside(event: str, attributes: str | None) -> dict[Key, Hold | None]:
    """What an EVENT row says was put aside, or taken back (None); nothing for another event, or one of another version."""
    states: Mapping[str, Aside | None] = {
        EVENTS["shelve"]: "shelved", EVENTS["out_of_service"]: "out_of_service", EVENTS["unshelve"]: None, EVENTS["in_service"]: None
    }  # fmt: skip
    if event not in states:
        return {}
    try:
        about = json.loads(attributes or "{}")
        key = (str(about.get("model", "")), str(about.get("alarm", "")), str(about["subject"]))
        state, until = states[event], about.get("until_us")
        if state is None:
            return {key: None}
        by, reason = (str(about.get(name, "")) for name in ("by", "reason"))
        return {key: Hold(state, int(about["since_us"]), None if until is None else int(until), by, reason)}
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}


def entries_of(told: object) -> dict[Key, Entry]:
    """Stored entries. Raises TypeError or ValueError for what is none."""
    known = {field.name for field in fields(Entry)}
    found: dict[Key, Entry] = {}
    for model, alarm, subject, given in cast("Sequence[tuple[str, str, str, Mapping[str, object]]]", told):
        if not known >= given.keys():
            raise ValueError("an entry has fields of another version")
        found[model, alarm, subject] = Entry(**given)  # type: ignore[arg-type]  # as `asdict` wrote it
    return found


def waiting_of(told: Sequence[object]) -> Waiting:
    """Stored delays, also those of version 1. Raises TypeError or ValueError for what is none."""
    model, alarm, tag, asset, *rest = told
    fresh = (0, False, 0.0, 0.0, 0)  # version 1 held neither votes nor peaks
    given = rest[0] if len(rest) == 1 else [rest[0], *rest[1:], *fresh]
    state, t0, onset_seq, onset_time, bits, held, bar, peak, rest_until = cast("Sequence[float]", given)
    waits = (
        int(state),
        int(t0),
        int(onset_seq),
        int(onset_time),
        int(bits),
        bool(held),
        float(bar),
        float(peak),
        int(rest_until),
    )
    return str(model), str(alarm), None if tag is None else int(str(tag)), str(asset), waits
