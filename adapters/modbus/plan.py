"""Pure planning: the tags of one scan class to few block reads. No library, no I/O.

A block is one request. Tags of one unit and function code are merged while they fit into one answer: an unused register costs next
to nothing on TCP, a request costs a round trip. On a serial line the registers between them must cost less than a request does. No tag is ever split over two blocks, so a value is never half old.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

from adapters.base import BoundTag, TagConfig
from schemas.errors import ConfigError

from .address import FUNCTIONS, TABLES
from .config import ModbusConfig, ModbusDevice, ModbusTag
from .datatypes import DataType, Order


class Span(NamedTuple):
    """What one request reads: `length` registers or bits from `start` with function code `function`."""

    unit: int
    function: int
    start: int
    length: int

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.start + self.length

    @property
    def is_bits(self) -> bool:
        """True for coils and discrete inputs."""
        return self.function in (1, 2)

    @property
    def answer_bytes(self) -> int:
        """Data bytes that its answer must have."""
        return (self.length + 7) // 8 if self.is_bits else self.length * 2

    def size(self, pdu: bytes) -> int:
        """How long the answer is that begins like this; 0 while too little of it is there, or when it has not the bytes that it should."""
        return 2 + pdu[1] if len(pdu) > 1 and pdu[1] == self.answer_bytes else 0

    def holds(self, other: Span) -> bool:
        """True when `other` lies within."""
        return self[:2] == other[:2] and self.start <= other.start and other.end <= self.end

    def __str__(self) -> str:
        return f"{TABLES[self.function]}:{self.start}..{self.end - 1} of unit {self.unit}"


class Cut(NamedTuple):
    """An address that no block may reach across: what lies before it and what lies behind it are read apart."""

    unit: int
    function: int
    address: int


@dataclass(frozen=True, slots=True)
class Point:
    """Where one tag is on the wire and how its bytes are read.

    `most` is what its device answers in one request; `integer` says that the value stays a whole 64-bit number.
    """

    span: Span
    kind: DataType
    order: Order
    bit: int | None
    encoding: str
    most: int
    integer: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """One request and the positions of the points that it covers, in the order of their addresses."""

    span: Span
    members: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ScanClass:
    """The tags of one period: positions in the adapter's tag list, and their points in the same order."""

    period_us: int
    positions: tuple[int, ...]
    points: tuple[Point, ...]


def points_of(config: ModbusConfig, tags: Sequence[BoundTag[TagConfig]]) -> list[Point]:
    """The points of bound Modbus tags, in their order. Raises ConfigError for a value wider than its device's requests."""
    points = []
    options = {device: config.options_of(device) for device in {bound.device for bound in tags}}
    for bound in tags:
        tag, device = cast(ModbusTag, bound.config), options[bound.device]
        point = point_of(tag, device)
        if point.span.length > point.most:
            raise ConfigError(
                f"{bound.tag.path}: {point.kind} has {point.span.length} registers and max_registers is {point.most}",
                hint="a value is read in one request; take a shorter type or raise max_registers",
            )
        table = TABLES[point.span.function]
        for no in device.forbidden:
            if no.table == table and point.span.start < no.end and no.start < point.span.end:
                raise ConfigError(f"{bound.tag.path}: {tag.wire_address()} lies in {no}, which `skip` says is never read")
        points.append(point)
    return points


def point_of(tag: ModbusTag, device: ModbusDevice) -> Point:
    """Where the value of one tag of a device is; it may be wider than what the device answers."""
    at, kind = tag.place, tag.data_type
    span = Span(device.unit_id, at.function, at.offset, 1 if at.is_bit_table else kind.registers)
    most = device.max_bits if at.is_bit_table else device.max_registers
    return Point(span, kind, tag.order or device.order, at.bit, tag.encoding, most, tag.value_type() == "integer")


def cuts_of(config: ModbusConfig) -> set[Cut]:
    """Where `skip` forbids a block to reach across. No tag lies within what is skipped, so its beginning stands for all of it."""
    devices = [config.options_of(key) for key in config.devices or ("",)]
    return {Cut(device.unit_id, FUNCTIONS[no.table], no.start) for device in devices for no in device.forbidden}


def scan_classes(tags: Sequence[BoundTag[TagConfig]], points: Sequence[Point]) -> list[ScanClass]:
    """One class per period, fastest first; within a class in the order of `tags`."""
    by_period: dict[int, list[int]] = defaultdict(list)
    for position, bound in enumerate(tags):
        by_period[bound.tag.period_us].append(position)
    return [
        ScanClass(period, tuple(by_period[period]), tuple(points[position] for position in by_period[period]))
        for period in sorted(by_period)
    ]


def blocks_of(
    points: Sequence[Point],
    *,
    without: Collection[int] | Mapping[int, int] = (),
    cuts: Collection[Cut] = (),
    max_gap: int | None = None,
) -> list[Block]:
    """The fewest blocks that cover every point (positions in `without` left out), ordered by unit, function and address.

    A block never exceeds what the device answers and never reaches across a cut. `max_gap` bounds the unused registers
    (or bits, 16 for each register) between two points of a block; None: as many as fit.
    """
    order = sorted((p for p in range(len(points)) if p not in without), key=lambda p: points[p].span)
    borders: dict[tuple[int, int], list[int]] = defaultdict(list)
    for cut in cuts:
        borders[cut[:2]].append(cut.address)
    blocks: list[Block] = []
    members: list[int] = []
    first, end, most = Span(-1, 0, 0, 0), 0, 0
    for position in order:
        point = points[position]
        span = point.span
        reach, limit = max(end, span.end), min(most, point.most)
        joins = (
            span[:2] == first[:2]
            and reach - first.start <= limit
            and (max_gap is None or span.start - end <= max_gap * (16 if span.is_bits else 1))
            and not any(first.start < border < reach for border in borders[span[:2]])
        )
        if joins:
            members.append(position)
            end, most = reach, limit
            continue
        if members:
            blocks.append(Block(Span(*first[:3], end - first.start), tuple(members)))
        members, first, end, most = [position], span, span.end, point.most
    if members:
        blocks.append(Block(Span(*first[:3], end - first.start), tuple(members)))
    return blocks


def halves(block: Block, points: Sequence[Point]) -> tuple[Block, Block] | None:
    """A block cut in two at the middle of its points, where that leaves two that are smaller; None when it cannot be cut.

    Points that overlap stay together.
    """
    clean: list[int] = []  # numbers of members that begin behind the end of all before
    end = points[block.members[0]].span.end
    for number in range(1, len(block.members)):
        span = points[block.members[number]].span
        if span.start >= end:
            clean.append(number)
        end = max(end, span.end)
    if not clean:
        return None
    middle = min(clean, key=lambda number: abs(2 * number - len(block.members)))
    return _block(block.members[:middle], points), _block(block.members[middle:], points)


def _block(members: tuple[int, ...], points: Sequence[Point]) -> Block:
    spans = [points[member].span for member in members]
    start, end = spans[0].start, max(span.end for span in spans)
    return Block(Span(spans[0].unit, spans[0].function, start, end - start), members)
