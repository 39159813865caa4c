"""Reads one scan class: its blocks one after the other (or several at a time, where that is asked for), and what is done about blocks that are refused or not answered.

A block refused with "illegal address" or "illegal value" is halved until the tag that causes it is found. That tag alone is set
aside; its neighbours are read without it from then on, until the connection is made anew.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, tzinfo
from typing import Final

import structlog

from adapters.base import BoundTag, TagConfig
from adapters.readings import Readings
from schemas import quality as q
from schemas.errors import NotConnected

from .decode import Layout, Values
from .exchange import Connection, NoAnswer, Noise, ReadsAhead, Refused, Trouble, WrongAnswer
from .plan import Block, Cut, ScanClass, Span, blocks_of, halves
from .window import Window

EXCEPTIONS: Final = {
    1: ("illegal function", q.BAD_NOT_READABLE),
    2: ("illegal data address", q.BAD_NODE_ID_UNKNOWN),
    3: ("illegal data value", q.BAD_OUT_OF_RANGE),
    4: ("device failure", q.BAD_DEVICE_FAILURE),
    5: ("acknowledge", q.BAD_COMMUNICATION_ERROR),
    6: ("device busy", q.BAD_COMMUNICATION_ERROR),
    8: ("memory parity error", q.BAD_DEVICE_FAILURE),
    10: ("gateway path unavailable", q.BAD_NO_COMMUNICATION),
    11: ("gateway target did not respond", q.BAD_NO_COMMUNICATION),
}
"""Names and qualities of exception codes (MODBUS Application Protocol Specification V1.1b3, 7)."""
_SEARCHED: Final = (2, 3)
_BUSY: Final = 6
_ROUNDS: Final = 3  # searches within one poll; what is still refused then is searched in the next one
_SILENT: Final = 3  # requests in a row without an answer from anybody, and the connection is given up


class Silence:
    """Which units of a connection do not answer. Shared by its scan classes."""

    def __init__(self, units: Collection[int]) -> None:
        self._units = frozenset(units)
        self._missed: dict[int, int] = {}
        self.heard = False
        """Whether anybody has answered at all: an open port alone is no device."""

    def answered(self, unit: int) -> None:
        """Something came from this unit."""
        self.heard = True
        if self._missed:
            self._missed.pop(unit, None)

    def missed(self, unit: int) -> None:
        """A request to this unit ran out of time. Raises NotConnected once no unit of the connection answers any more."""
        self._missed[unit] = self._missed.get(unit, 0) + 1
        if self._missed.keys() >= self._units and sum(self._missed.values()) >= _SILENT:
            raise NotConnected(f"{sum(self._missed.values())} requests in a row were not answered", quality=q.BAD_TIMEOUT)

    def noise(self, unit: int) -> None:
        """Something came that this unit may have sent. Enough for a unit that has been heard, and no sign of one that has not."""
        if self.heard:
            self.answered(unit)
        else:
            self._missed[unit] = 1

    def anybody(self) -> bool:
        """Whether anything was answered on this connection. Raises NotConnected when every unit was asked in vain: a serial port
        and a UDP socket open without a device, and a gateway accepts connections for devices that are off."""
        if not self.heard and self._missed.keys() >= self._units:
            raise NotConnected("requests are not answered", quality=q.BAD_TIMEOUT)
        return self.heard

    def is_silent(self, unit: int) -> bool:
        """Asked twice in vain: one request a poll is enough to find out whether it is back."""
        return self._missed.get(unit, 0) > 1


class Scanner:
    """The tags of one scan class, and what was learnt about reading them. `begin` forgets it for a new connection."""

    def __init__(
        self,
        scan: ScanClass,
        tags: Sequence[BoundTag[TagConfig]],
        log: structlog.stdlib.BoundLogger,
        *,
        max_gap: int | None = None,
        window: Window | None = None,
    ) -> None:
        """`tags` are those of the class, in its order; `max_gap` as in `blocks_of`; without a `window` one request at a time."""
        self._max_gap = max_gap
        self._window = window or Window(1, log)
        self.period_us = scan.period_us
        self.readings = Readings(tags)
        self._points, self._tags, self._log = scan.points, tags, log
        self._named: set[int] = set()  # tags that the log has named as unreadable
        self._troubled: dict[Span, str] = {}
        self.keys = [f"{point.span} {point.kind}" for point in scan.points]
        """What each tag asks the device for, by position; the same in every process."""
        self.begin(set())

    def begin(self, cuts: set[Cut], zone: tzinfo = UTC) -> None:
        """Plan anew. `cuts` is shared by the scan classes of one connection and grows by what each of them learns; `zone` is the plant's."""
        self._cuts, self._zone = cuts, zone
        self._aside: dict[int, int] = {}
        self.refused: dict[int, int] = {}
        """Exception codes of the tags that are set aside, by position."""
        self._compile()

    def leave_out(self, refused: Mapping[int, int]) -> None:
        """Set tags aside that the device is known to refuse, by position and exception code; they have been named before."""
        self._named.update(refused)
        for member, code in refused.items():
            self._set_aside(member, code)
        self._compile()

    def ask_again(self) -> None:
        """The next poll asks for all tags, those that were set aside too."""
        for member in self._aside:
            self._cuts.discard(Cut(*self._points[member].span[:3]))
        self._aside, self.refused = {}, {}
        self._compile()

    @property
    def blocks(self) -> Sequence[Block]:
        """The requests of one poll."""
        return self._layout.blocks

    async def poll(self, connection: Connection, silence: Silence) -> Values:
        """Read every block once and decode. Raises NotConnected; everything else is a quality of the rows it concerns."""
        for _ in range(_ROUNDS):
            refused = await self._read(connection, silence)
            if not refused or not await self._search_all(connection, refused):
                break
            self._compile()
        else:
            await self._read(connection, silence)
        values = self._layout.decode()
        if self._named:
            self._welcome(values)
        return values

    def _compile(self) -> None:
        blocks = blocks_of(self._points, without=self._aside, cuts=self._cuts, max_gap=self._max_gap)
        self._layout = Layout(self._points, blocks, self._aside, zone=self._zone)

    async def _read(self, connection: Connection, silence: Silence) -> list[tuple[Block, int]]:
        """Blocks into the layout; returns those that were refused in a way that a search may explain, with the code."""
        layout = self._layout
        refused = []
        given_up: set[int] = set()
        several = self._window.size > 1 and len(layout.blocks) > 1
        for number, ahead in sorted((await self._read_ahead(connection, silence)).items()):
            block = layout.blocks[number]
            span = block.span
            if span.unit in given_up:
                layout.fail(number, q.BAD_TIMEOUT)
                continue
            trouble = ""
            try:
                if ahead is not None and not several:
                    raise ahead  # it was alone then, too
                layout.store(number, await connection.read(span))
                silence.answered(span.unit)
                if ahead is not None and (what := _mixed_up(ahead)):
                    self._window.answered_alone(what, missing=not isinstance(ahead, WrongAnswer))
            except Refused as error:
                silence.answered(span.unit)
                name, quality = EXCEPTIONS.get(error.code, ("unknown exception", q.BAD_DEVICE_FAILURE))
                layout.fail(number, quality)
                if error.code in _SEARCHED:
                    refused.append((block, error.code))
                else:
                    trouble = f"{name} (exception {error.code})"
            except WrongAnswer as error:
                if isinstance(error, Noise):
                    silence.noise(span.unit)
                else:
                    silence.answered(span.unit)
                layout.fail(number, q.BAD_COMMUNICATION_ERROR)
                trouble = str(error)
            except NoAnswer as error:
                layout.fail(number, q.BAD_TIMEOUT)
                trouble = str(error)
                silence.missed(span.unit)
                if silence.is_silent(span.unit):
                    given_up.add(span.unit)
            if trouble or self._troubled:
                self._note(span, trouble)
        return refused

    async def _read_ahead(self, connection: Connection, silence: Silence) -> dict[int, Trouble | None]:
        """As many blocks as go well, into the layout; returns those that are left, and what was the matter with the ones that were asked for."""
        blocks = self._layout.blocks
        left: dict[int, Trouble | None] = dict.fromkeys(range(len(blocks)))
        if not isinstance(connection, ReadsAhead):
            return left
        numbers = [number for number, block in enumerate(blocks) if not silence.is_silent(block.span.unit)]
        store = self._layout.store

        def take(at: int, data: bytes) -> None:
            number = numbers[at]
            store(number, data)
            del left[number]

        window = min(self._window.size, len(blocks))
        troubles = await connection.read_ahead([blocks[number].span for number in numbers], window, take)
        for at, trouble in troubles.items():
            left[numbers[at]] = trouble
        lost = next((trouble for trouble in troubles.values() if isinstance(trouble, NotConnected)), None)
        if lost is not None:
            if window > 1:
                self._window.lost(str(lost))
            raise lost
        for unit in {blocks[number].span.unit for number in numbers if number not in left}:
            silence.answered(unit)
        if self._troubled:
            for number in numbers:
                if number not in left:
                    self._note(blocks[number].span, "")
        if not left and window > 1:
            self._window.worked()
        return left

    def _note(self, span: Span, trouble: str) -> None:
        """One log line when a block goes bad and one when it is good again, not one a poll."""
        before = self._troubled.get(span, "")
        if trouble and not before:
            self._log.warning("a block cannot be read", block=str(span), error=trouble)
            self._troubled[span] = trouble
        elif before and not trouble:
            self._log.info("the block can be read again", block=str(span))
            del self._troubled[span]

    async def _search_all(self, connection: Connection, refused: Sequence[tuple[Block, int]]) -> bool:
        """Find out why; True when something was learnt, so that planning anew makes a difference."""
        before = len(self._aside), len(self._cuts)
        try:
            for block, code in refused:
                await self._search(connection, block, code)
        except (NoAnswer, WrongAnswer) as error:
            self._note(refused[0][0].span, f"the search for the tag that cannot be read was cut off: {error}")
        return (len(self._aside), len(self._cuts)) != before

    async def _search(self, connection: Connection, block: Block, code: int) -> None:
        """`block` was refused with `code`: set aside the tag that causes it, or learn where the device wants to be asked apart."""
        if len(block.members) == 1:
            self._set_aside(block.members[0], code)
            return
        parts = halves(block, self._points) or [self._alone(member) for member in block.members]
        explained = False
        for part in parts:
            again = await self._refusal(connection, part.span)
            if again:
                explained = True
                await self._search(connection, part, again)
        if not explained:  # each part alone is fine: too long a request, or a hole between them
            for part in parts[1:]:
                self._cuts.add(Cut(*part.span[:3]))
            self._log.info("the device does not answer this block in one request", block=str(block.span), code=code)

    def _alone(self, member: int) -> Block:
        return Block(self._points[member].span, (member,))

    async def _refusal(self, connection: Connection, span: Span) -> int:
        """The exception code that the device answers, 0 when it answers with data."""
        try:
            await connection.read(span)
        except Refused as error:
            return error.code
        return 0

    def _set_aside(self, member: int, code: int) -> None:
        name, quality = EXCEPTIONS.get(code, ("unknown exception", q.BAD_DEVICE_FAILURE))
        self._aside[member] = quality
        self.refused[member] = code
        self._cuts.add(Cut(*self._points[member].span[:3]))
        if member not in self._named:
            self._named.add(member)
            tag = self._tags[member].tag
            self._log.warning("a tag cannot be read", tag=tag.path, address=tag.address, error=f"{name} (exception {code})")

    def _welcome(self, values: Values) -> None:
        for member in sorted(self._named - self._aside.keys()):
            if values.quality[member] < q.BAD:
                self._named.discard(member)
                self._log.info("the tag can be read again", tag=self._tags[member].tag.path)


def _mixed_up(trouble: Trouble) -> str:
    """What a device that takes one request at a time does to several of them; empty for an honest refusal."""
    if isinstance(trouble, Refused):
        return "device busy (exception 6)" if trouble.code == _BUSY else ""
    return str(trouble)
