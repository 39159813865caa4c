"""One scan class of a PLC: its polls, and finding out which tags are to blame when the PLC refuses an item."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import tzinfo
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import structlog

from adapters.base import BoundTag, TagConfig
from adapters.quarantine import Quarantine, Refusal
from adapters.readings import Readings
from schemas.clock import Clock
from schemas.errors import NotConnected

from .connection import Connection
from .plan import Block, Layout, cut, pack, places_of
from .wire import OK, Answer, Malformed, Span, about_all, parse_read, read_request, refusal

RETRY_S: Final = 600.0
"""After this time tags that were refused are asked for again: the block may have been loaded meanwhile. The pause doubles each time."""
LONGEST_S: Final = 86_400.0
"""The longest pause."""
_NAMED: Final = 20  # tags in a log line


class ScanClass:
    """The tags of one period. `prepare` for each connection, then `poll` as often as is due.

    A tag whose address the PLC refuses is left out of the requests and gives bad rows; the others are read as before. What was
    refused is put into `quarantine` and, by a new process, not asked for before its time.
    """

    def __init__(
        self,
        tags: Sequence[BoundTag[TagConfig]],
        *,
        clock: Clock,
        log: structlog.stdlib.BoundLogger,
        timeout_s: float,
        quarantine: Quarantine,
    ) -> None:
        self._tags, self._clock, self._log, self._timeout_s = tags, clock, log, timeout_s
        self._readings = Readings(tags)
        self._places = places_of(tags)
        self._apart: set[Block] = set()
        self._refused: dict[int, int] = {}  # position -> return code
        self._told: dict[int, int] = {}
        self._retry_us: int | None = None  # wall clock
        self._pause_s = RETRY_S
        self._known: set[int] = set()  # positions that were refused before
        self._unsaved = False
        self._quarantine = quarantine
        self._keys = [f"{bound.tag.address} {place.kind}" for bound, place in zip(tags, self._places, strict=True)]
        self._remembered: dict[int, int] = {}  # refused in a former process and not due yet
        self._layout: Layout | None = None
        self._frames: list[tuple[bytes, bytes]] = []

    @property
    def keys(self) -> Sequence[str]:
        """Address and type by position: what a refusal is remembered by."""
        return self._keys

    def remember(self, refusals: Mapping[str, Refusal]) -> None:
        """Take over what a former process was refused; what is due is asked for in the first poll. Call it before `prepare`."""
        now_us = self._clock.now_us()
        found = {position: refusals[key] for position, key in enumerate(self._keys) if key in refusals}
        self._known = set(found)
        self._pause_s = min((refusal.pause_s for refusal in found.values()), default=RETRY_S)
        waiting = {  # a time further off than the longest pause was written by a clock that was wrong
            position: known for position, known in found.items() if now_us < known.retry_us <= now_us + LONGEST_S * 1e6
        }
        self._remembered = {position: known.code for position, known in waiting.items()}
        self._retry_us = min((known.retry_us for known in waiting.values()), default=None)

    def prepare(self, pdu: int, zone: tzinfo) -> None:
        """Plan for a new connection; tags refused on the last one are tried again. `zone` is what DT, DTL and LDT are in."""
        stale = bool(self._refused or self._apart)
        self._refused, self._remembered = self._remembered, {}
        self._apart = set()
        if self._layout is None or self._layout.pdu != pdu or stale:
            self._compile(pdu, zone)

    async def poll(self, connection: Connection) -> pa.RecordBatch:
        """Read all tags once: READING(n). Raises NotConnected."""
        layout = self._layout
        assert layout is not None, "prepare comes first"
        if self._retry_us is not None and self._clock.now_us() >= self._retry_us:
            self._refused = {}
            self._apart = set()
            self._retry_us = None
            layout = self._compile(layout.pdu, layout.zone)
        answers = await self._read(connection, layout.items, layout.requests, self._frames)
        refused: dict[int, Answer] = {}
        for item, answer in answers.items():
            layout.store(item, answer)
            if answer.code != OK:
                refused[item] = answer
        instead = await self._blame(connection, layout, refused) if refused else {}
        if self._told != self._refused:
            self._tell()
        if self._unsaved or self._known != self._refused.keys():
            await self._keep()
        values = layout.decode(instead)
        return self._readings.batch(
            values=values.numbers,
            quality=values.quality,
            time_us=self._clock.now_us(),
            integers=values.integers,
            texts=values.texts or None,
            samples={position: self._scaled(position, raw) for position, raw in values.samples.items()} or None,
        )

    def _scaled(self, position: int, raw: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        config = self._tags[position].config
        with np.errstate(over="ignore", invalid="ignore"):
            return (raw * config.scale + config.offset).astype(np.float32)

    def _compile(self, pdu: int, zone: tzinfo) -> Layout:
        without = {position: refusal(code).quality for position, code in self._refused.items()}
        layout = self._layout = Layout(self._places, pdu, zone=zone, apart=self._apart, without=without)
        self._frames = _frames(layout.items, layout.requests)
        return layout

    async def _read(
        self,
        connection: Connection,
        items: Sequence[Span],
        requests: Sequence[Sequence[int]],
        frames: Sequence[tuple[bytes, bytes]],
    ) -> dict[int, Answer]:
        """Answers by item number. An answer that is no answer ends the connection."""
        received = await connection.exchange(frames, timeout_s=self._timeout_s)
        answers: dict[int, Answer] = {}
        try:
            for numbers, pdu in zip(requests, received, strict=True):
                answers.update(zip(numbers, parse_read(pdu, [items[number].size for number in numbers]), strict=True))
        except Malformed as error:
            connection.end(str(error))
            raise connection.error or NotConnected(str(error)) from error
        return answers

    async def _blame(self, connection: Connection, layout: Layout, refused: Mapping[int, Answer]) -> dict[int, int]:
        """Read the tags of refused items one by one; the bytes of those that can be read go into the buffer.

        Returns the quality of each of these tags in this poll, and plans the next polls without what stays refused.
        """
        suspects: dict[int, int] = {}  # position -> code, OK once its bytes are there
        to_read: list[int] = []
        settled: set[tuple[Block, int]] = set()  # blocks of which one tag has shown that a code is about all of them
        for item, answer in refused.items():
            positions = [position for position in layout.positions_of(item) if position not in suspects]
            if not positions:
                continue
            suspects.update(dict.fromkeys(positions, answer.code))
            if len(positions) == 1:
                continue  # nobody else can be to blame
            about = (layout.items[item][:2], answer.code)
            if about not in settled and about_all(answer.code):
                await self._read_alone(connection, layout, positions[:1], suspects)
                if suspects[positions[0]] == answer.code:
                    settled.add(about)
                else:
                    positions = positions[1:]
            if about not in settled:
                to_read += positions
        await self._read_alone(connection, layout, to_read, suspects)
        lasting = {position: code for position, code in suspects.items() if code != OK and refusal(code).lasting}
        blamed = {self._places[position].span[:2] for position in lasting}
        fine = {self._places[position].span[:2] for position, code in suspects.items() if code == OK}
        if lasting or fine - blamed:
            self._refused |= lasting
            self._apart |= fine - blamed  # merged they are refused, alone they are not
            if lasting:
                self._unsaved = True
                self._pause_s = RETRY_S if lasting.keys() - self._known else min(2 * self._pause_s, LONGEST_S)
            self._retry_us = self._clock.now_us() + round(self._pause_s * 1e6)
            self._compile(layout.pdu, layout.zone)
        return {position: 0 if code == OK else refusal(code).quality for position, code in suspects.items()}

    async def _read_alone(self, connection: Connection, layout: Layout, positions: Sequence[int], codes: dict[int, int]) -> None:
        spans = {position: self._places[position].span for position in positions}
        items = [piece for span in sorted(set(spans.values())) for piece in cut([span], layout.pdu)]
        requests = pack(items, layout.pdu)
        answers = await self._read(connection, items, requests, _frames(items, requests))
        of_span: dict[Span, list[tuple[Span, Answer]]] = defaultdict(list)
        number = 0
        for span in sorted(set(spans.values())):
            for _ in cut([span], layout.pdu):
                of_span[span].append((items[number], answers[number]))
                number += 1
        for position, span in spans.items():
            codes[position] = OK
            for piece, answer in of_span[span]:
                if answer.code != OK:
                    codes[position] = answer.code
                else:
                    layout.store_at(position, piece.start - span.start, answer.data)

    async def _keep(self) -> None:
        """Remember what is refused now, and only that."""
        self._known, self._unsaved = set(self._refused), False
        retry_us = self._retry_us or 0
        refused = {self._keys[position]: Refusal(code, retry_us, self._pause_s) for position, code in self._refused.items()}
        await asyncio.to_thread(self._quarantine.put, self._keys, refused)

    def _tell(self) -> None:
        """One log line for all tags that are newly refused for one reason, one for those that can be read again."""
        fresh: dict[str, list[int]] = defaultdict(list)
        for position, code in self._refused.items():
            if self._told.get(position) != code:
                fresh[refusal(code).reason].append(position)
        for reason, positions in fresh.items():
            self._log.warning("tags cannot be read", reason=reason, tags=self._names(positions), count=len(positions))
        again = self._told.keys() - self._refused.keys()
        if again:
            self._log.info("tags can be read again", tags=self._names(sorted(again)), count=len(again))
        self._told = dict(self._refused)

    def _names(self, positions: Iterable[int]) -> list[str]:
        names = [f"{self._tags[position].tag.name} ({self._tags[position].tag.address})" for position in positions]
        return names if len(names) <= _NAMED else [*names[:_NAMED], "…"]


def _frames(items: Sequence[Span], requests: Sequence[Sequence[int]]) -> list[tuple[bytes, bytes]]:
    return [read_request([items[number] for number in numbers]) for numbers in requests]
