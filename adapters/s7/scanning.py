"""One scan class of a PLC: its polls, and finding out which tags are to blame when the PLC refuses an item."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import tzinfo
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import structlog

from adapters.base import BoundTag, TagConfig
from adapters.readings import Readings
from schemas.clock import Clock
from schemas.errors import NotConnected

from .connection import Connection
from .plan import Block, Layout, cut, pack, places_of
from .wire import OK, Answer, Malformed, Span, about_all, parse_read, read_request, refusal

RETRY_S: Final = 600.0
"""After this time tags that were refused are asked for again: the block may have been loaded meanwhile."""
_NAMED: Final = 20  # tags in a log line


class ScanClass:
    """The tags of one period. `prepare` for each connection, then `poll` as often as is due.

    A tag whose address the PLC refuses is left out of the requests and gives bad rows; the others are read as before.
    """

    def __init__(
        self,
        tags: Sequence[BoundTag[TagConfig]],
        *,
        clock: Clock,
        log: structlog.stdlib.BoundLogger,
        timeout_s: float,
    ) -> None:
        self._tags, self._clock, self._log, self._timeout_s = tags, clock, log, timeout_s
        self._readings = Readings(tags)
        self._places = places_of(tags)
        self._apart: set[Block] = set()
        self._refused: dict[int, int] = {}  # position -> return code
        self._told: dict[int, int] = {}
        self._retry_at = float("inf")
        self._layout: Layout | None = None
        self._frames: list[tuple[bytes, bytes]] = []

    def prepare(self, pdu: int, zone: tzinfo) -> None:
        """Plan for a new connection; tags refused on the last one are tried again. `zone` is what DT and DTL are in."""
        stale = bool(self._refused or self._apart)
        self._refused = {}
        self._apart = set()
        if self._layout is None or self._layout.pdu != pdu or stale:
            self._compile(pdu, zone)

    async def poll(self, connection: Connection, now_s: float) -> pa.RecordBatch:
        """Read all tags once: READING(n). `now_s` is the loop's time. Raises NotConnected."""
        layout = self._layout
        assert layout is not None, "prepare comes first"
        if now_s >= self._retry_at:
            self._refused = {}
            self._apart = set()
            self._retry_at = float("inf")
            layout = self._compile(layout.pdu, layout.zone)
        answers = await self._read(connection, layout.items, layout.requests, self._frames)
        refused: dict[int, Answer] = {}
        for item, answer in answers.items():
            layout.store(item, answer)
            if answer.code != OK:
                refused[item] = answer
        instead = await self._blame(connection, layout, refused, now_s) if refused else {}
        if self._told != self._refused:
            self._tell()
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

    async def _blame(self, connection: Connection, layout: Layout, refused: Mapping[int, Answer], now_s: float) -> dict[int, int]:
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
            self._retry_at = now_s + RETRY_S
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
