"""The book of open alarms: raising, clearing, acknowledging, putting aside, the gateway's own troubles, and what survives a restart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Final, NamedTuple, cast

import pyarrow as pa

from schemas.errors import StateMismatch
from schemas.span import Command
from schemas.tags import Severity
from schemas.values import Duration

from .alarm_memory import EVENTS, Waiting, entries_of, waiting_of
from .alarm_records import Entry, Happening, Key, Message, Reason, State, Transition, occurrence
from .alarm_shelf import Aside, Hold, Shelf

GATEWAY: Final = "gateway"
COMMANDS: Final = ("acknowledge", "shelve", "unshelve", "out_of_service", "in_service")
VERDICTS: Final = ("real", "false")
_RANK: Final[dict[str, int]] = {"critical": 0, "warning": 1, "info": 2}
_HELD: Final[Mapping[Reason, str]] = {
    "peak": "soon after the one before, and not clearly worse", "budget": "the budget is used up", "flood": "too many at once", "": ""
}  # fmt: skip
_DONE: Final = 200  # occurrences that are over and still take a verdict
_LONGEST_US: Final = 30 * 86_400_000_000
_LONGEST_TEXT: Final = 500


class Done(NamedTuple):
    """What came of a command."""

    messages: list[Message]
    happenings: list[Happening]


class Book:
    """At most one open entry per key; each change of one is a message, told once even when its rows are scored again."""

    def __init__(self) -> None:
        self.open: dict[Key, Entry] = {}
        self.shelf = Shelf()
        self._done: dict[str, tuple[Key, Entry]] = {}  # by id, the newest last
        self._seen: set[tuple[str, str]] = set()  # (id, transition) that are durable and will come up once more

    def enter(self, key: Key, entry: Entry, time: int, held: Reason = "") -> Message | None:
        """Open an occurrence, which may be held back. One that a person has put aside is entered and not told to people."""
        hold = self.shelf.of(key, entry.asset, time)
        entry.held = held if hold is None else ""
        if hold is not None:
            entry.state = hold.state
        elif held:
            entry.state = "suppressed"
        elif (entry.id, "acknowledged") in self._seen:
            self._seen.discard((entry.id, "acknowledged"))
            entry.state = "acknowledged"
        else:
            entry.state = "unacknowledged"
        self._forget(key)
        self.open[key] = entry
        entry.told = entry.state in ("unacknowledged", "acknowledged")
        if entry.told:
            return self._tell(entry, time, "raised", upto=entry.onset_seq)
        if hold is not None and (entry.id, "raised") in self._seen:  # it was put aside later, in a life that has ended
            self._seen.discard((entry.id, "raised"))
            entry.told = True
            return None
        why = _aside(entry.problem, hold) if hold is not None else f"{entry.problem}; held back: {_HELD[entry.held]}"
        return self._tell(entry, time, "suppressed", why, upto=entry.onset_seq)

    def release(self, key: Key, time: int, upto: int) -> Message | None:
        """Tell of one that was held back: its turn has come."""
        entry = self.open[key]
        entry.state, entry.held, entry.told = "unacknowledged", "", True
        return self._tell(entry, time, "raised", upto=upto)

    def close(self, key: Key, time: int, problem: str) -> Message | None:
        """What raised it is over. Nobody is told of what nobody was told; what nobody has acknowledged stays listed as returned."""
        entry = self.open.get(key)
        if entry is None or not entry.active:
            return None
        entry.active = False
        if entry.state == "unacknowledged":
            entry.state = "returned"
        else:
            entry.state = "normal"
            self._forget(key)
            if not entry.told:
                return None
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
            return self.change(key, now, problem, severity=severity, action=action)
        return None if active else self.close(key, now, f"{subject} is normal again")

    def change(
        self, key: Key, now: int, problem: str, *, severity: Severity | None = None, action: str | None = None
    ) -> Message | None:
        """Tell that an open alarm is another one now."""
        entry = self.open[key]
        entry.problem, entry.severity = problem, severity or entry.severity
        entry.action = entry.action if action is None else action
        return self._tell(entry, now, "changed") if entry.told else None

    def command(self, command: Command, now: int) -> Done:
        """See AlarmLayer; what ends by the command is told by `expired`."""
        said = command.arguments
        if command.name not in COMMANDS:
            raise ValueError(f"no command of the alarm layer: {command.name!r}")
        if command.name == "acknowledge":
            return self._acknowledge(command, now)
        key = self._target(command)
        by, reason = (str(said.get(name, ""))[:_LONGEST_TEXT] for name in ("by", "reason"))
        if command.name in ("shelve", "out_of_service"):
            span = Duration(str(said.get("for", "8h"))).us if command.name == "shelve" or "for" in said else None
            if span is not None and not 0 < span <= _LONGEST_US:
                raise ValueError("an alarm is put aside for some time, 30d at most; `out_of_service` needs no `for`")
            state: Aside = "shelved" if command.name == "shelve" else "out_of_service"
            return self.put_aside(
                key, Hold(state, now, None if span is None else now + span, by, reason), now, source=command.source
            )
        wanted = "shelved" if command.name == "unshelve" else "out_of_service"
        hold = self.shelf.holds.get(key)
        if hold is None or hold.state != wanted:
            return Done([], [])
        del self.shelf.holds[key]
        return Done(self._back(now), [self._happening(command.name, key, hold, now, command.source, by=by)])

    def put_aside(self, key: Key, hold: Hold, now: int, *, source: str) -> Done:
        """Put an alarm, a tag or an asset aside; tells what is open and visible about it."""
        self.shelf.put(key, hold)
        messages = []
        for at, entry in self.open.items():
            found = self.shelf.of(at, entry.asset, now)
            if found is None or entry.state == found.state:
                continue
            was, entry.state, entry.held = entry.told, found.state, ""
            message = self._tell(entry, now, found.state, _aside(entry.problem, found)) if was else None
            messages += [message] if message is not None else []
        name = "shelve" if hold.state == "shelved" else "out_of_service"
        return Done(messages, [self._happening(name, key, hold, now, source)])

    def expired(self, now: int) -> list[Message]:
        """What was put aside and whose time is over."""
        if not self.shelf.holds or not self.shelf.take_expired(now):
            return []
        return self._back(now)

    def _back(self, now: int) -> list[Message]:
        """Tell of all entries that nothing holds any more; those that are over by now are gone."""
        messages = []
        for key, entry in list(self.open.items()):
            if entry.state not in ("shelved", "out_of_service"):
                continue
            hold = self.shelf.of(key, entry.asset, now)
            if hold is not None:
                entry.state = hold.state
                continue
            transition: Transition = "unshelved" if entry.state == "shelved" else "in_service"
            entry.state = "unacknowledged" if entry.active else "normal"
            if not entry.active:
                self._forget(key)
            if entry.active or entry.told:
                entry.told = True
                message = self._tell(entry, now, transition, upto=entry.onset_seq)
                messages += [message] if message is not None else []
        return messages

    def _acknowledge(self, command: Command, now: int) -> Done:
        said = command.arguments
        wanted, verdict = str(said.get("id", "")), said.get("verdict")
        verdict = {True: "real", False: "false"}.get(verdict, verdict) if isinstance(verdict, bool) else verdict
        if verdict is not None and verdict not in VERDICTS:
            raise ValueError(f"a verdict is {' or '.join(VERDICTS)}, not {verdict!r}")
        key = next((key for key, entry in self.open.items() if entry.id == wanted), None)
        if key is None and wanted in self._done and verdict is not None:
            return Done([], [self._judged(self._done[wanted][1], command, now)])
        if key is None:
            raise KeyError(f"no open alarm has the id {wanted!r}")
        entry, messages = self.open[key], []
        if entry.state in ("unacknowledged", "returned"):
            entry.state = "acknowledged" if entry.active else "normal"
            if not entry.active:
                self._forget(key)
            message = self._tell(entry, now, "acknowledged")
            messages += [message] if message is not None else []
        elif verdict is None:
            return Done([], [])
        return Done(messages, [self._judged(entry, command, now)])

    def _judged(self, entry: Entry, command: Command, now: int) -> Happening:
        by, reason = (str(command.arguments.get(name, ""))[:_LONGEST_TEXT] for name in ("by", "reason"))
        verdict = command.arguments.get("verdict")
        verdict = {True: "real", False: "false"}[verdict] if isinstance(verdict, bool) else verdict
        said = f"{entry.subject}: {entry.alarm} is acknowledged" + (f" by {by}" if by else "")
        said += f" as a {verdict} alarm" if verdict is not None else ""
        about = {
            "id": entry.id, "alarm": entry.alarm, "model": entry.model, "verdict": verdict, "by": by, "reason": reason,
            "since_us": entry.since_us, "onset_row": entry.onset_seq,
        }  # fmt: skip
        return Happening(now, EVENTS["acknowledge"], command.source, entry.tag, entry.asset, said, about)

    def _target(self, command: Command) -> Key:
        """What a command is about: `id`, or `asset` with `alarm`, or `tag`, or `asset` alone."""
        said = command.arguments
        wanted = str(said.get("id", ""))
        if wanted:
            for key, entry in (*self.open.items(), *self._done.values()):
                if entry.id == wanted:
                    return key
            raise KeyError(f"no open alarm has the id {wanted!r}")
        path, alarm = str(said.get("tag", "") or said.get("asset", "")).strip("/"), str(said.get("alarm", ""))
        if not path:
            raise ValueError(f"{command.name} needs `id`, `tag` or `asset`")
        if not alarm:
            return ("", "", path)
        for key, entry in (*self.open.items(), *self._done.values()):
            if entry.alarm == alarm and path in (entry.asset, key[2]):
                return key
        held = next((key for key, _ in self.shelf if key[1] and key[2].startswith(path) and alarm in (key[1], _named(key))), None)
        if held is None:
            raise KeyError(f"no alarm {alarm!r} of {path} is open or was lately; shelve the tag or the asset instead")
        return held

    def _happening(self, name: str, key: Key, hold: Hold, now: int, source: str, by: str | None = None) -> Happening:
        model, alarm, subject = key
        entry = self.open.get(key)
        what = f"{alarm} of {subject}" if alarm else f"every alarm of {subject}"
        words = {
            "shelve": "is shelved", "unshelve": "is not shelved any more", "out_of_service": "is out of service",
            "in_service": "is in service again",
        }[name]  # fmt: skip
        begins = name in ("shelve", "out_of_service")
        who = hold.by if by is None else by
        said = f"{what} {words}" + (f" until {_moment(hold.until_us)}" if begins and hold.until_us is not None else "")
        said += (f" by {who}" if who else "") + (f": {hold.reason}" if begins and hold.reason else "")
        about = {
            "model": model, "alarm": alarm, "subject": subject, "id": None if entry is None else entry.id, "by": who,
            "reason": hold.reason, "since_us": hold.since_us, "until_us": hold.until_us,
        }  # fmt: skip
        asset = entry.asset if entry is not None else subject if not alarm else subject.rpartition("/")[0]
        return Happening(now, EVENTS[name], source, None if entry is None else entry.tag, asset, said, about)

    def listed(self, *, suppressed: bool = False) -> list[Entry]:
        """Copies of everything open, with or without what is suppressed: the most serious first, then the newest."""
        shown = [replace(entry) for entry in self.open.values() if suppressed or entry.state != "suppressed"]
        return sorted(shown, key=lambda entry: (_RANK[entry.severity], -entry.since_us))

    def _forget(self, key: Key) -> None:
        entry = self.open.pop(key, None)
        if entry is not None and entry.told:
            self._done.pop(entry.id, None)
            self._done[entry.id] = (key, entry)
            if len(self._done) > _DONE:
                del self._done[next(iter(self._done))]

    def _tell(
        self, entry: Entry, time: int, transition: Transition, problem: str | None = None, upto: int | None = None
    ) -> Message | None:
        if self._seen and (entry.id, transition) in self._seen:
            self._seen.discard((entry.id, transition))
            return None
        return Message(time, transition, replace(entry, problem=problem or entry.problem), upto)

    def note(self, row: Mapping[str, object]) -> None:
        """An ALERT row that is durable and whose scores will be made once more. Commands are not: they take effect here."""
        said = (str(row["id"]), str(row["transition"]))
        if said[1] in ("acknowledged", "shelved", "unshelved", "out_of_service", "in_service"):
            for key, entry in list(self.open.items()):
                if entry.id == said[0]:
                    entry.state = cast(State, row["state"])
                    if entry.state == "normal":
                        self._forget(key)
                    return
            if said[1] != "acknowledged":
                return  # what is put aside is known from the events
        self._seen.add(said)

    def adopt(self, key: Key, row: Mapping[str, object]) -> Entry:
        """An ALERT row that is durable and whose scores will not come again: the row is what is known."""
        state = cast(State, row["state"])
        names = (
            "id", "model", "alarm", "tag", "asset", "subject", "severity", "problem", "action", "onset_seq", "unit", "contributions"
        )  # fmt: skip
        plain = {name: row[name] for name in names}
        numbers = {name: float("nan") if row[name] is None else row[name] for name in ("value", "low", "high", "score", "limit")}
        since = pa.scalar(row["since"], pa.timestamp("us", tz="UTC")).value
        active = row["transition"] != "cleared" and state not in ("normal", "returned")
        told = row["transition"] != "suppressed"
        entry = Entry(**plain, **numbers, since_us=since, state=state, active=active, told=told)  # type: ignore[arg-type]  # types of the columns
        entry.held = "budget" if state == "suppressed" else ""
        self.open[key] = entry
        if state == "normal":
            self._forget(key)
        return entry

    def recall(self, holds: Mapping[Key, Hold | None], now: int) -> list[Message]:
        """What durable events say was put aside and taken back, last: it holds, whether the restored state knows it or not."""
        messages = []
        for key, hold in holds.items():
            if hold is None and self.shelf.holds.pop(key, None) is not None:
                messages += self._back(now)
            elif hold is not None and self.shelf.holds.get(key) != hold and (hold.until_us is None or hold.until_us > now):
                messages += self.put_aside(key, hold, now, source="").messages
        return messages

    def written(self, waiting: Sequence[Waiting]) -> dict[str, object]:
        """The book for the snapshot, with the delays that are running."""
        return {
            "open": [[*key, asdict(entry)] for key, entry in self.open.items()],
            "done": [[*key, asdict(entry)] for key, entry in self._done.values()],
            "shelf": self.shelf.written(),
            "waiting": waiting,
        }

    def read(self, told: Mapping[str, object]) -> list[Waiting]:
        """Take over what `written` wrote; returns the delays. Raises StateMismatch, and then nothing has changed."""
        try:
            entries = entries_of(told["open"])
            done = {entry.id: (key, entry) for key, entry in entries_of(told.get("done", [])).items()}
            holds = Shelf.read(told["shelf"])
            waiting = [waiting_of(one) for one in cast("Sequence[Sequence[object]]", told["waiting"])]
        except (KeyError, TypeError, ValueError) as error:
            raise StateMismatch(f"the stored alarms are damaged: {error}") from error
        self.open, self._done = entries, done
        self.shelf.replace(holds)
        return waiting


def _named(key: Key) -> str:
    """The name of an alarm as people see it: with that of its tag."""
    return f"{key[2].rsplit('/', 1)[-1]}.{key[1]}"


def _aside(problem: str, hold: Hold) -> str:
    words = "shelved" if hold.state == "shelved" else "out of service"
    until = f" until {_moment(hold.until_us)}" if hold.until_us is not None else ""
    return f"{problem}; {words}{until}" + (f" by {hold.by}" if hold.by else "") + (f": {hold.reason}" if hold.reason else "")


def _moment(time_us: int) -> str:
    try:
        return f"{datetime.fromtimestamp(time_us // 1_000_000, UTC):%Y-%m-%d %H:%M} UTC"
    except (ValueError, OverflowError, OSError):
        return "some day"
