"""A Modbus server on loopback with the address map of one configuration entry; values come from the simulated plant.

Function codes 1 to 4 and 43 (who it is), exceptions 1 (another function), 2 (outside of the map), 3 (bad count) and 11 (no such unit). The map is what
the planner reads, gaps included, so that a configuration behaves here as it does against a device that has its tags.
"""

from __future__ import annotations

import asyncio
import struct
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from typing import Final, cast
from zoneinfo import ZoneInfo

import numpy as np

from adapters.base import BoundTag, SimulatorContext, TagConfig
from adapters.simulation import Signals

from .config import ModbusConfig
from .datatypes import encode
from .moments import encode_moment
from .plan import Point, Span, blocks_of, cuts_of, points_of, scan_classes
from .serving import NO_TARGET, Listening, serve
from .timing import line_of

_MOST: Final = {1: 2000, 2: 2000, 3: 125, 4: 125}
_IDENTIFY: Final = 43
_ILLEGAL_FUNCTION, _ILLEGAL_ADDRESS, _ILLEGAL_VALUE = 1, 2, 3


@dataclass(frozen=True, slots=True)
class _Cell:
    """One tag, and where it is in the image of its table: a slice of bytes, or the bits of a mask in one register."""

    bound: BoundTag[TagConfig]
    point: Point

    def write(self, image: bytearray, signals: Signals, zone: tzinfo, *, step: bool) -> None:
        """Put what the tag shows now into the image. `step` says that this is one read of its scan class."""
        kind, span, config = self.point.kind, self.point.span, self.bound.config
        shown = signals.value(self.bound.tag, step=step and kind.name == "float64", boolean=kind.kind == "bool")
        if kind.kind == "moment":
            raw = encode_moment(kind, self.point.order, _moment(shown, zone))
        elif kind.kind == "text":
            raw = encode(kind, self.point.order, str(shown), self.point.encoding)
        else:
            number = shown if not isinstance(shown, str) else 0.0
            if config.scale != 1 or config.offset != 0:
                number = (number - config.offset) / config.scale
            if span.is_bits:
                image[span.start] = int(number != 0)
                return
            if self.point.bit is not None:
                before = image[span.start * 2 : span.start * 2 + 2]
                mask = struct.pack("<H" if self.point.order in ("BADC", "DCBA") else ">H", 1 << self.point.bit)
                raw = bytes(b | m if number else b & ~m for b, m in zip(before, mask, strict=True))
            else:
                raw = encode(kind, self.point.order, number)
        image[span.start * 2 : span.end * 2] = raw


class ModbusSimulator:
    """Serves one entry. A tag is asked for its value each time a request of its own scan class covers it, and once at the start.

    What a request only covers on its way to other tags is served as it was last. A request that no scan class of the configuration
    makes (from another client) counts as a read of everything in it.
    """

    def __init__(self, config: ModbusConfig, context: SimulatorContext) -> None:
        self._signals = context.signals
        self._points = points_of(config, context.tags)
        self._cuts = cuts_of(config)
        self._cells = [_Cell(bound, point) for bound, point in zip(context.tags, self._points, strict=True)]
        self._images: dict[tuple[int, int], bytearray] = {}
        self._planned: dict[Span, list[_Cell]] = defaultdict(list)
        self._readable: dict[tuple[int, int], list[tuple[int, int]]] = {}
        self._server: Listening | None = None
        self._time_zone, self._zone = context.time_zone, cast(tzinfo, UTC)
        self._config, self._name = config, context.name
        self._units = {point.span.unit for point in self._points}
        self._covered = lru_cache(maxsize=10_000)(self._cells_of)
        self._map(context.tags)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen and return the endpoint: over TCP or UDP as the entry says, a serial line as RTU or ASCII over TCP. Raises OSError when the port is taken."""
        self._zone = await asyncio.to_thread(ZoneInfo, self._time_zone)  # reads a file
        for cell in self._cells:
            cell.write(self._images[cell.point.span[:2]], self._signals, self._zone, step=False)
        self._server = await serve(self._config, self.answer, host, port)
        return self._server.endpoint

    async def aclose(self) -> None:
        """Stop listening and drop every client."""
        server, self._server = self._server, None
        if server is not None:
            await server.aclose()

    def answer(self, unit: int, pdu: bytes) -> bytes:
        """The PDU that answers a request PDU."""
        function = pdu[0]
        if function == _IDENTIFY and unit in self._units:
            return _identification(pdu, self._name)
        if function not in _MOST:
            return bytes((function | 0x80, _ILLEGAL_FUNCTION))
        if len(pdu) != 5:
            return bytes((function | 0x80, _ILLEGAL_VALUE))
        start, length = struct.unpack(">HH", pdu[1:])
        span = Span(unit, function, start, length)
        code = self._refusal(span)
        if code:
            return bytes((function | 0x80, code))
        image = self._images[unit, function]
        for cell in self._covered(span):
            cell.write(image, self._signals, self._zone, step=True)
        if span.is_bits:
            bits = np.frombuffer(image, dtype=np.uint8)[span.start : span.end]
            return bytes((function, span.answer_bytes)) + np.packbits(bits, bitorder="little").tobytes()
        return bytes((function, span.answer_bytes)) + image[span.start * 2 : span.end * 2]

    def _refusal(self, span: Span) -> int:
        if not 1 <= span.length <= _MOST[span.function]:
            return _ILLEGAL_VALUE
        if span.unit not in self._units:
            return NO_TARGET
        ranges = self._readable.get(span[:2], [])
        number = bisect_right(ranges, (span.start, 65_536)) - 1
        return 0 if number >= 0 and span.end <= ranges[number][1] else _ILLEGAL_ADDRESS

    def _cells_of(self, span: Span) -> Sequence[_Cell]:
        """The tags that this request reads."""
        if span in self._planned:
            return self._planned[span]
        return [cell for cell in self._cells if span.holds(cell.point.span)]

    def _map(self, tags: Sequence[BoundTag[TagConfig]]) -> None:
        reads: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
        line = line_of(self._config)
        max_gap = None if line is None else line.max_gap
        for scan in scan_classes(tags, self._points):
            for block in blocks_of(scan.points, cuts=self._cuts, max_gap=max_gap):
                self._planned[block.span].extend(self._cells[scan.positions[member]] for member in block.members)
                reads[block.span[:2]].append((block.span.start, block.span.end))
        for table, spans in reads.items():
            self._readable[table] = _united(spans)
            self._images[table] = bytearray(65_536 * (1 if table[1] in (1, 2) else 2))


def _united(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges (start, end), sorted, those that touch made one."""
    out: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((start, end))
    return out


def _identification(pdu: bytes, name: str) -> bytes:
    """Who the simulator is: basic objects, all in one answer."""
    if len(pdu) != 4 or pdu[1] != 14:
        return bytes((_IDENTIFY | 0x80, _ILLEGAL_VALUE))
    objects = {0: b"genba", 1: name.encode()[:100], 2: b"simulator"}
    body = b"".join(bytes((number, len(text))) + text for number, text in objects.items() if number >= pdu[3])
    return bytes((_IDENTIFY, 14, pdu[2], 1, 0, 0, sum(number >= pdu[3] for number in objects))) + body


def _moment(shown: float | str, zone: tzinfo) -> datetime:
    """ISO 8601, plant time where it names no zone; the present moment for any other text."""
    try:
        given = datetime.fromisoformat(str(shown))
    except ValueError:
        return datetime.now(zone)
    return given.astimezone(zone) if given.tzinfo is not None else given.replace(tzinfo=zone)
