"""Reads a capture and answers from it: an adapter that is given a `Player` instead of a device decodes what was captured.

The adapter's own planner, search for refused addresses and decoder run unchanged; time is the time of the records. Requests are
answered by what was answered to the same request in the same poll.
"""

from __future__ import annotations

import json
import zlib
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from schemas.errors import ConfigError, EndOfStream, NotConnected

from .capture import CRC_FROM, HEADER, MAGIC, VERSION, Record, RecordedSchedule, Recorder, What
from .polling import Schedule

MAX_RECORD: Final = 64 * 2**20


@dataclass(slots=True)
class Exchange:
    """A request and what became of it. `failure` is the kind of a failure, `why` its words; without an answer: the capture ended."""

    request: bytes
    mark: int
    asked_us: int
    answered_us: int = 0
    answer: bytes | None = None
    answer_mark: int = 0
    failure: str = "unanswered"
    why: str = "no answer to it was captured"


@dataclass(slots=True)
class Poll:
    """What was exchanged between one slot of a schedule and the next."""

    number: int
    time_us: int
    exchanges: list[Exchange] = field(default_factory=list)


@dataclass(slots=True)
class Session:
    """One connection from its opening to its end."""

    opened_us: int
    facts: Mapping[str, Any]
    first: Poll  # before the first slot, and all of it where a protocol has no polls
    polls: list[Poll] = field(default_factory=list)
    closed_us: int = 0
    closed: str = "the capture ends here"


class Trouble(NamedTuple):
    """An exchange that could not be decoded, and why."""

    time_us: int
    request: bytes
    why: str


@dataclass(frozen=True, slots=True)
class Capture:
    """A capture in memory. `torn` says what was left out behind the last whole record; empty: nothing."""

    head: Mapping[str, Any]
    begun_us: int
    sessions: Sequence[Session]
    torn: str = ""


def read_capture(file: Path) -> Capture:
    """Read a capture; blocking. Raises ConfigError for a file that is none, or of another version."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from error
    torn: list[str] = []
    records = list(_records(data, torn))
    if not records or records[0].what != What.HEAD:
        raise ConfigError(f"{file} is not a capture", hint="`capture: FILE` of an adapter writes one")
    first = records[0]
    if first.number != VERSION:
        raise ConfigError(f"{file} has version {first.number} of the format", hint=f"this genba reads version {VERSION}")
    try:
        return Capture(json.loads(first.payload), first.time_us, _sessions(records[1:]), "".join(torn))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file} is damaged: {error}") from error


def _records(data: bytes, torn: list[str]) -> Iterator[Record]:
    """Whole records; ends at the first that is not, and says so in `torn`."""
    at = 0
    while at < len(data):
        if len(data) - at < HEADER.size:
            torn.append(f"{len(data) - at} bytes at the end are no record")
            return
        magic, length, checksum, what, mark, number, time_us = HEADER.unpack_from(data, at)
        end = at + HEADER.size + length
        if magic != MAGIC or length > MAX_RECORD or end > len(data) or zlib.crc32(data[at + CRC_FROM : end]) != checksum:
            torn.append(f"{len(data) - at} bytes from byte {at} on are no record")
            return
        yield Record(what, mark, number, time_us, data[at + HEADER.size : end])
        at = end


def _sessions(records: Sequence[Record]) -> list[Session]:
    sessions: list[Session] = []
    asked: dict[int, Exchange] = {}
    for what, mark, number, time_us, payload in records:
        if what == What.OPENED:
            sessions.append(Session(time_us, json.loads(payload), Poll(-1, time_us)))
        elif not sessions:
            continue
        session = sessions[-1]
        match what:
            case What.POLL:
                session.polls.append(Poll(number, time_us))
            case What.REQUEST:
                asked[number] = Exchange(payload, mark, time_us)
                (session.polls[-1] if session.polls else session.first).exchanges.append(asked[number])
            case What.ANSWER if number in asked:
                one = asked.pop(number)
                one.answer, one.answer_mark, one.answered_us, one.failure, one.why = payload, mark, time_us, "", ""
            case What.FAILED if number in asked:
                one, said = asked.pop(number), json.loads(payload)
                one.answered_us, one.failure, one.why = time_us, str(said["is"]), str(said["why"])
            case What.CLOSED:
                session.closed_us, session.closed = time_us, payload.decode(errors="replace")
    return sessions


class Player:
    """Plays a capture to one adapter. It is the adapter's clock too."""

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self.troubles: list[Trouble] = []
        """What could not be decoded, in the order of time."""
        self._now_us = capture.begun_us
        self._sessions = iter(capture.sessions)
        self._left: dict[tuple[int, bytes], deque[Exchange]] = {}
        self.session: Session | None = None

    def now_us(self) -> int:
        """The time of the record that was played last."""
        return self._now_us

    def open(self) -> Session:
        """The next connection. Raises EndOfStream when there was none."""
        self.session = next(self._sessions, None)
        if self.session is None:
            raise EndOfStream("the capture ends here")
        self._now_us = self.session.opened_us
        self._enter(self.session.first)
        return self.session

    def ask(self, request: bytes, *, mark: int = 0) -> Exchange:
        """What became of this request in this poll. One that is not there is a failure of the kind `missing`."""
        left = self._left.get((mark, request))
        if not left:
            found = Exchange(request, mark, self._now_us, failure="missing", why="the capture has no such request at this point")
        else:
            found = left.popleft()
        self._now_us = max(self._now_us, found.answered_us)
        if found.failure:
            self.trouble(found.request, found.why)
        return found

    def has(self, request: bytes, *, mark: int = 0) -> bool:
        """Whether this request was made in this poll, and has not been asked for."""
        return bool(self._left.get((mark, request)))

    def trouble(self, request: bytes, why: str) -> None:
        """Note an exchange that could not be decoded."""
        self.troubles.append(Trouble(self._now_us, request, why))

    def at(self, time_us: int) -> None:
        """It is this time now."""
        self._now_us = time_us

    def _enter(self, poll: Poll) -> None:
        self._now_us = max(self._now_us, poll.time_us)
        self._left = defaultdict(deque)
        for exchange in poll.exchanges:
            self._left[exchange.mark, exchange.request].append(exchange)


class PlayedSchedule(Schedule):
    """The slots as they came when the capture was made, without waiting."""

    def __init__(self, periods_us: Sequence[int], player: Player) -> None:
        super().__init__(periods_us)
        self._player = player
        assert player.session is not None
        polls = player.session.polls
        if polls and (not player.session.closed_us or any(one.failure == "unanswered" for one in polls[-1].exchanges)):
            polls = polls[:-1]  # it was under way when the capture, or the connection, ended
        self._polls = iter(polls)

    async def next(self) -> int:
        """The next slot. Raises NotConnected where the connection ended."""
        poll = next(self._polls, None)
        if poll is None:
            session = self._player.session
            assert session is not None
            if session.closed_us:
                self._player.at(session.closed_us)
            raise NotConnected(session.closed)
        self._player._enter(poll)
        return poll.number


def schedule_of(tape: Recorder | Player | None, periods_us: Sequence[int]) -> Schedule:
    """The schedule of a polling adapter: the clock's, and where there is a capture told to it or taken from it."""
    match tape:
        case Recorder():
            return RecordedSchedule(periods_us, tape)
        case Player():
            return PlayedSchedule(periods_us, tape)
    return Schedule(periods_us)
