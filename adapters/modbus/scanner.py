"""Reads one scan class: its blocks one after the other (or several at a time, where that is asked for), and what is done about blocks that are refused or not answered.

A block refused with "illegal address" or "illegal value" is halved until the tag that causes it is found. That tag alone is set
aside; its neighbours are read without it from then on, until the connection is made anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

import structlog

from adapters.base import BoundTag, TagConfig
from adapters.readings import Readings
from schemas import quality as q
from schemas.errors import NotConnected

from .decode import Layout, Values
from .exchange import Connection, NoAnswer, Refused, WrongAnswer
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


class _Ahead(NamedTuple):
    """What happened to a request that was not alone; `missing` says that no answer came."""

    what: str
    missing: bool


_NO_TROUBLE: Final = _Ahead("", missing=False)


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

    def begin(self, cuts: set[Cut]) -> None:
        """Plan anew. `cuts` is shared by the scan classes of one connection and grows by what each of them learns."""
        self._cuts = cuts
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
        self._layout = Layout(self._points, blocks, self._aside)

    async def _read(self, connection: Connection, silence: Silence) -> list[tuple[Block, int]]:
        """Blocks into the layout; returns those that were refused in a way that a search may explain, with the code."""
        layout = self._layout
        refused = []
        given_up: set[int] = set()
        several = self._window.size > 1 and len(layout.blocks) > 1
        left = await self._read_ahead(connection, silence) if several else dict.fromkeys(range(len(layout.blocks)), _NO_TROUBLE)
        for number, ahead in sorted(left.items()):
            block = layout.blocks[number]
            span = block.span
            if span.unit in given_up:
                layout.fail(number, q.BAD_TIMEOUT)
                continue
            trouble = ""
            try:
                layout.store(number, await connection.read(span))
                silence.answered(span.unit)
                if ahead.what:
                    self._window.answered_alone(ahead.what, missing=ahead.missing)
            except Refused as error:
                silence.answered(span.unit)
                name, quality = EXCEPTIONS.get(error.code, ("unknown exception", q.BAD_DEVICE_FAILURE))
                layout.fail(number, quality)
                if error.code in _SEARCHED:
                    refused.append((block, error.code))
                else:
                    trouble = f"{name} (exception {error.code})"
            except WrongAnswer as error:
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

    async def _read_ahead(self, connection: Connection, silence: Silence) -> dict[int, _Ahead]:
        """Several blocks at a time into the layout; returns those that are left to be read alone, and why. Stops at the first trouble."""
        blocks = self._layout.blocks
        left: dict[int, _Ahead] = {}
        lost: list[NotConnected] = []
        numbers = iter(range(len(blocks)))
        stopped = False

        async def work() -> None:
            nonlocal stopped
            for number in numbers:
                left[number] = _NO_TROUBLE
                span = blocks[number].span
                if stopped or silence.is_silent(span.unit):
                    continue
                try:
                    self._layout.store(number, await connection.read(span))
                except Refused as error:
                    if error.code == _BUSY:
                        left[number], stopped = _Ahead("device busy (exception 6)", missing=True), True
                except (WrongAnswer, NoAnswer) as error:
                    left[number], stopped = _Ahead(str(error), missing=isinstance(error, NoAnswer)), True
                except NotConnected as error:
                    lost.append(error)
                    stopped = True
                else:
                    del left[number]
                    silence.answered(span.unit)
                    if self._troubled:
                        self._note(span, "")

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._window.size, len(blocks))):
                group.create_task(work())
        if lost:
            self._window.lost(str(lost[0]))
            raise lost[0]
        if not left:
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
