"""The book of open alarms: raising, clearing, acknowledging, shelving, the gateway's own troubles, and what survives a restart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Final, cast

import pyarrow as pa

from schemas.errors import StateMismatch
from schemas.span import Command
from schemas.tags import Severity
from schemas.values import Duration

from .alarm_records import Budget, Entry, Key, Message, State, Transition, occurrence

GATEWAY: Final = "gateway"
Waiting = tuple[str, str, int | None, str, int, int, int, int]
"""model, alarm, tag id or None, asset; then state, t0, onset_seq and onset_time of its delays."""
_RANK: Final[dict[str, int]] = {"critical": 0, "warning": 1, "info": 2}


class Book:
    """At most one open entry per key; each change of one is a message, told once even when its rows are scored again."""

    def __init__(self) -> None:
        self.open: dict[Key, Entry] = {}
        self.budget = Budget()
        self._shelf: dict[Key, int] = {}  # until when, µs
        self._seen: set[tuple[str, str]] = set()  # (id, transition) that are durable and will come up once more

    def enter(self, key: Key, entry: Entry, time: int) -> Message | None:
        """Open an occurrence; its state may say that it is suppressed. A shelved key is entered, and told as held back."""
        if entry.state == "unacknowledged" and self._shelf.get(key, time) > time:
            entry.state = "shelved"
        elif (entry.id, "acknowledged") in self._seen:
            self._seen.discard((entry.id, "acknowledged"))
            entry.state = "acknowledged"
        self.open[key] = entry
        return self._tell(entry, time, "suppressed" if entry.state in ("suppressed", "shelved") else "raised")

    def close(self, key: Key, time: int, problem: str) -> Message | None:
        """What raised it is over. What was suppressed is not told; what nobody has acknowledged stays listed as returned."""
        entry = self.open.get(key)
        if entry is None or not entry.active:
            return None
        entry.active = False
        if entry.state == "unacknowledged":
            entry.state = "returned"
        else:
            del self.open[key]
            if entry.state == "suppressed":
                return None
            entry.state = "normal"
        return self._tell(entry, time, "cleared", problem)

    def condition(
        self, alarm: str, *, subject: str, asset: str, active: bool, now: int, severity: Severity, problem: str, action: str
    ) -> Message | None:
        """See AlarmLayer."""
        key = (GATEWAY, alarm, subject)
        entry = self.open.get(key)
        if active and (entry is None or not entry.active):
            made = Entry(
                id=occurrence(*key, now), model=GATEWAY, alarm=alarm, tag=None, asset=asset, subject=subject, severity=severity,
                problem=problem, action=action, since_us=now, onset_seq=None, unit=None,
            )  # fmt: skip
            return self.enter(key, made, now)
        if active and entry is not None and entry.severity != severity:
            entry.severity, entry.problem, entry.action = severity, problem, action
            return self._tell(entry, now, "changed")
        return None if active else self.close(key, now, f"{subject} is normal again")

    def command(self, command: Command, now: int) -> Message | None:
        """See AlarmLayer; shelves that the command ends are told by `expired`."""
        if command.name not in ("acknowledge", "shelve", "unshelve"):
            raise ValueError(f"no command of the alarm layer: {command.name!r}")
        wanted = str(command.arguments.get("id", ""))
        key = next((key for key, entry in self.open.items() if entry.id == wanted), None)
        if key is None:
            raise KeyError(f"no open alarm has the id {wanted!r}")
        entry = self.open[key]
        if command.name == "acknowledge" and entry.state in ("unacknowledged", "returned"):
            entry.state = "acknowledged" if entry.active else "normal"
            if not entry.active:
                del self.open[key]
            return self._tell(entry, now, "acknowledged")
        if command.name == "shelve":
            self._shelf[key] = now + Duration(str(command.arguments.get("for", "8h"))).us
            if entry.state != "shelved":
                entry.state = "shelved"
                return self._tell(entry, now, "shelved")
        if command.name == "unshelve" and key in self._shelf:
            self._shelf[key] = now
        return None

    def expired(self, now: int) -> list[Message]:
        """Shelves whose time is over."""
        messages = []
        for key in [key for key, until in self._shelf.items() if until <= now]:
            del self._shelf[key]
            entry = self.open.get(key)
            if entry is None or entry.state != "shelved":
                continue
            entry.state = "unacknowledged" if entry.active else "normal"
            if not entry.active:
                del self.open[key]
            message = self._tell(entry, now, "unshelved")
            if message is not None:
                messages.append(message)
        return messages

    def listed(self) -> list[Entry]:
        """Copies of everything open that is not suppressed: the most serious first, then the newest."""
        shown = [replace(entry) for entry in self.open.values() if entry.state != "suppressed"]
        return sorted(shown, key=lambda entry: (_RANK[entry.severity], -entry.since_us))

    def _tell(self, entry: Entry, time: int, transition: Transition, problem: str | None = None) -> Message | None:
        if self._seen and (entry.id, transition) in self._seen:
            self._seen.discard((entry.id, transition))
            return None
        return Message(time, transition, replace(entry, problem=problem or entry.problem))

    def note(self, row: Mapping[str, object]) -> None:
        """An ALERT row that is durable and whose scores will be made once more. Commands are not: they take effect here."""
        said = (str(row["id"]), str(row["transition"]))
        if said[1] in ("acknowledged", "shelved", "unshelved"):
            for key, entry in list(self.open.items()):
                if entry.id == said[0]:
                    entry.state = cast(State, row["state"])
                    if entry.state == "normal":
                        del self.open[key]
                    return
        self._seen.add(said)

    def adopt(self, key: Key, row: Mapping[str, object]) -> Entry:
        """An ALERT row that is durable and whose scores will not come again: the row is what is known."""
        state = cast(State, row["state"])
        fields = {
            name: row[name] for name in ("id", "model", "alarm", "tag", "asset", "subject", "severity", "problem", "action",
                                         "onset_seq", "unit", "contributions")
        }  # fmt: skip
        numbers = {name: float("nan") if row[name] is None else row[name] for name in ("value", "low", "high", "score", "limit")}
        since = pa.scalar(row["since"], pa.timestamp("us", tz="UTC")).value
        active = row["transition"] != "cleared" and state not in ("normal", "returned")
        entry = Entry(**fields, **numbers, since_us=since, state=state, active=active)  # type: ignore[arg-type]  # types of the columns
        if state == "normal":
            self.open.pop(key, None)
        else:
            self.open[key] = entry
        return entry

    def written(self, waiting: Sequence[Waiting]) -> str:
        """The book as JSON text, with the delays that are running."""
        told = {
            "open": [[*key, asdict(entry)] for key, entry in self.open.items()],
            "shelf": [[*key, until] for key, until in self._shelf.items()],
            "budget": [[*key, *left] for key, left in self.budget.left.items()],
            "waiting": waiting,
        }
        return json.dumps(told, ensure_ascii=False)

    def read(self, written: str) -> list[Waiting]:
        """Take over what `written` wrote; returns the delays. Raises StateMismatch, and then nothing has changed."""
        try:
            told = json.loads(written)
            entries = {(m, a, s): Entry(**fields) for m, a, s, fields in told["open"]}
            shelf = {(m, a, s): int(until) for m, a, s, until in told["shelf"]}
            budget = {(m, a): (float(tokens), int(at)) for m, a, tokens, at in told["budget"]}
            waiting: list[Waiting] = [
                (m, a, tag, asset, int(s), int(t), int(q), int(o)) for m, a, tag, asset, s, t, q, o in told["waiting"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise StateMismatch(f"the stored alarms are damaged: {error}") from error
        self.open, self._shelf, self.budget.left = entries, shelf, budget
        return waiting
