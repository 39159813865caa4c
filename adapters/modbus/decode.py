"""The bytes of block answers to the values of all tags of a scan class, with a handful of vector operations.

Answers are copied into one buffer, block behind block. What each tag takes from it is compiled once: words are gathered by index
in the order that the tag's byte order asks for, so that one gather serves all orders, and reinterpreted as the tag's type.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from typing import Final

import numpy as np
import numpy.typing as npt

from schemas import quality as q

from .datatypes import decode_text, swaps_bytes, swaps_words
from .moments import decode_moment
from .plan import Block, Point

Places = npt.NDArray[np.intp] | slice


@dataclass(slots=True)
class Values:
    """What one poll gave, by position. A row that is bad by its `quality` has no value, whatever else stands there.

    `integers` is None where no tag has one.
    """

    numbers: npt.NDArray[np.float64]
    quality: npt.NDArray[np.uint32]
    integers: npt.NDArray[np.int64] | None
    texts: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Column:
    """All values of one numpy type: where they go, and the words (or bytes) of the buffer that they are made of."""

    kind: str
    dtype: np.dtype[np.generic]
    positions: Places
    units: Places  # words[n * words per value], or bytes[n]
    masks: npt.NDArray[np.uint16] | None = None


class Layout:
    """The compiled decoding of one scan class: `blocks` to read, and `decode()` once each has been stored or failed.

    Positions in `without` are in no block and keep the quality that is given there. `zone` is the plant's. One poll at a time.
    """

    def __init__(
        self, points: Sequence[Point], blocks: Sequence[Block], without: Mapping[int, int] | None = None, *, zone: tzinfo = UTC
    ) -> None:
        self.blocks = tuple(blocks)
        self._points = points
        self._without = dict(without or {})
        starts = [0]
        for block in blocks:
            starts.append(starts[-1] + block.span.answer_bytes + (block.span.answer_bytes & 1))  # words stay aligned
        self._slots = [slice(start, start + block.span.answer_bytes) for start, block in zip(starts, blocks, strict=False)]
        self._buffer = np.zeros(starts[-1], dtype=np.uint8)
        self._bytes = self._buffer.data
        self._words = self._buffer.view(np.uint16)
        self._block_quality = np.full(len(blocks), q.BAD_WAITING_FOR_INITIAL_DATA, dtype=np.uint32)
        self._block_of = np.zeros(len(points), dtype=np.intp)
        self._offsets: dict[int, int] = {}
        for number, block in enumerate(blocks):
            for position in block.members:
                self._block_of[position] = number
                skip = points[position].span.start - block.span.start
                self._offsets[position] = starts[number] + (skip // 8 if block.span.is_bits else skip * 2)
        self._columns = self._compile()
        self._texts = _Texts(points, self._offsets, self._buffer, zone)
        self._wide = any(point.integer for point in points)

    def store(self, block: int, answer: bytes) -> None:
        """Take in the data bytes of one block's answer; there are as many as its span asks for."""
        self._bytes[self._slots[block]] = answer
        self._block_quality[block] = q.GOOD

    def fail(self, block: int, quality: int) -> None:
        """This block has no values in this poll."""
        self._block_quality[block] = quality

    def decode(self) -> Values:
        """Values and quality of all positions, in new arrays."""
        size = len(self._points)
        quality = self._block_quality[self._block_of] if self.blocks else np.zeros(size, dtype=np.uint32)
        for position, code in self._without.items():
            quality[position] = code
        out = Values(np.zeros(size), quality, np.zeros(size, dtype=np.int64) if self._wide else None)
        with np.errstate(invalid="ignore", over="ignore"):  # whatever bits a device sends: judged by the caller
            for column in self._columns:
                self._take(column, out)
        self._texts.take(out)
        return out

    def _compile(self) -> list[_Column]:
        groups: dict[tuple[str, str], list[int]] = defaultdict(list)
        for position in self._offsets:
            point = self._points[position]
            ends = "<" if swaps_bytes(point.order) else ">"
            match point.kind.kind:
                case "bool" if point.span.is_bits:
                    groups["bit", "u1"].append(position)
                case "byte":
                    groups["byte", point.kind.code].append(position)
                case "number" if point.integer:
                    groups["integer", ends + point.kind.code].append(position)
                case "bool" | "number" | "bcd" as kind:
                    groups[kind, ends + point.kind.code].append(position)
        return [self._column(kind, code, sorted(members)) for (kind, code), members in groups.items()]

    def _column(self, kind: str, code: str, members: list[int]) -> _Column:
        dtype: np.dtype[np.generic] = np.dtype(code)
        masks: list[int] = []
        units: list[int] = []
        for position in members:
            point, offset = self._points[position], self._offsets[position]
            if kind == "bit":
                units.append(offset)
                masks.append(1 << (point.span.start - self.blocks[self._block_of[position]].span.start) % 8)
            elif kind == "byte":
                units.append(offset if swaps_bytes(point.order) else offset + 1)  # the low byte of the register
            else:
                words = range(offset // 2, offset // 2 + dtype.itemsize // 2)
                # A little-endian value has its lowest word first as well, so words are turned round where only one of both swaps.
                turned = swaps_words(point.order) != swaps_bytes(point.order)
                units.extend(reversed(words) if turned else words)
                masks.append(0xFFFF if point.bit is None else 1 << point.bit)
        with_masks = kind in ("bit", "bool")
        return _Column(kind, dtype, _places(members), _places(units), np.array(masks, dtype=np.uint16) if with_masks else None)

    def _take(self, column: _Column, out: Values) -> None:
        if column.kind in ("bit", "byte"):
            raw = self._buffer[column.units].view(column.dtype)
        else:
            raw = self._words[column.units].view(column.dtype)
        at = column.positions
        if column.masks is not None:
            out.numbers[at] = (raw.astype(np.uint16) & column.masks) != 0
        elif column.kind == "bcd":
            out.numbers[at], valid = bcd(raw.astype(np.uint32))
            _flag(out, at, ~valid, q.BAD_DECODING_ERROR)
        elif column.kind == "integer":
            assert out.integers is not None
            whole = raw.astype(np.int64)
            out.integers[at] = whole
            if column.dtype.kind == "u":
                _flag(out, at, whole < 0, q.BAD_OUT_OF_RANGE)  # more than int64 holds
        else:
            out.numbers[at] = raw


class _Texts:
    """The strings and times of a layout. Only those whose bytes have changed since the last poll are decoded."""

    def __init__(self, points: Sequence[Point], offsets: Mapping[int, int], buffer: npt.NDArray[np.uint8], zone: tzinfo) -> None:
        self._positions = [position for position in offsets if points[position].kind.is_text]
        self._points, self._buffer, self._zone = points, buffer, zone
        self._slices = [slice(offsets[p], offsets[p] + points[p].span.length * 2) for p in self._positions]
        lengths = [piece.stop - piece.start for piece in self._slices]
        self._starts = np.cumsum([0, *lengths[:-1]], dtype=np.intp)
        self._index = np.concatenate([np.arange(p.start, p.stop, dtype=np.intp) for p in self._slices] or [self._starts[:0]])
        self._last: npt.NDArray[np.uint8] | None = None
        self._now: dict[int, str] = {}
        self._broken: set[int] = set()

    def take(self, out: Values) -> None:
        """Texts by position into `out`; those that cannot be decoded are bad."""
        if not self._positions:
            return
        read = self._buffer[self._index]
        if self._last is None:
            changed: Sequence[int] = range(len(self._positions))
        else:
            changed = np.flatnonzero(np.logical_or.reduceat(read != self._last, self._starts)).tolist()
        self._last = read
        for number in changed:
            self._decode(self._positions[number], self._buffer[self._slices[number]].tobytes())
        for position in self._broken:
            if out.quality[position] == q.GOOD:
                out.quality[position] = q.BAD_DECODING_ERROR
        out.texts = dict(self._now)

    def _decode(self, position: int, raw: bytes) -> None:
        point = self._points[position]
        try:
            if point.kind.kind == "moment":
                self._now[position] = decode_moment(raw, point.kind, point.order, self._zone)
            else:
                self._now[position] = decode_text(raw, point.kind, point.order, point.encoding)
            self._broken.discard(position)
        except ValueError:
            self._now.pop(position, None)
            self._broken.add(position)


_NIBBLES: Final = np.arange(0, 32, 4, dtype=np.uint32)
_TENS: Final = 10.0 ** np.arange(8)


def bcd(raw: npt.NDArray[np.uint32]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Packed decimal digits, four bits each: uint32[n] -> float64[n], and where all digits are digits."""
    digits = (raw[:, None] >> _NIBBLES) & np.uint32(15)
    values: npt.NDArray[np.float64] = digits @ _TENS
    valid: npt.NDArray[np.bool_] = np.all(digits <= 9, axis=1)
    return values, valid


def _places(numbers: Sequence[int]) -> Places:
    """A slice where the numbers follow one another (no copy is needed then), else an index."""
    first = numbers[0]
    if list(numbers) == list(range(first, first + len(numbers))):
        return slice(first, first + len(numbers))
    return np.array(numbers, dtype=np.intp)


def _flag(out: Values, at: Places, wrong: npt.NDArray[np.bool_], code: int) -> None:
    if wrong.any():
        quality = out.quality[at]
        out.quality[at] = np.where(wrong & (quality == q.GOOD), np.uint32(code), quality)
