"""Points and blocks for tests that need no configuration."""

from __future__ import annotations

from collections.abc import Sequence

from adapters.modbus.datatypes import Order, parse_type
from adapters.modbus.plan import Block, Point, Span, blocks_of


def point(
    start: int,
    kind: str = "int16",
    *,
    unit: int = 1,
    function: int = 3,
    order: Order = "ABCD",
    bit: int | None = None,
    most: int | None = None,
    integer: bool | None = None,
    encoding: str = "latin-1",
) -> Point:
    """A point; 64-bit integers stay whole unless told otherwise."""
    data_type = parse_type(kind)
    length = 1 if function in (1, 2) else data_type.registers
    most = most or (2000 if function in (1, 2) else 125)
    whole = data_type.whole_64_bits if integer is None else integer
    return Point(Span(unit, function, start, length), data_type, order, bit, encoding, most, whole)


def one_block(points: Sequence[Point]) -> Block:
    """The block that covers all of them; fails when they need several."""
    (block,) = blocks_of(points)
    return block
