"""Pure planning: tags to few read requests, and the bytes of their answers to values with numpy.

A layout is compiled once per scan class and PDU size. A poll then copies each answer into one buffer and gathers all values of
a type in one vector operation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import tzinfo
from typing import Final, cast

import numpy as np
import numpy.typing as npt

from adapters.base import BoundTag, TagConfig
from schemas import quality as q

from .address import AREA_CODES
from .config import S7Tag
from .datatypes import ARRAYS, TEXTS, DataType, decode_clock, decode_date, decode_list, decode_text
from .wire import ANSWER_OVERHEAD, MAX_ITEMS, OK, Answer, Span, refusal

Block = tuple[int, int]
"""An area as the protocol numbers it, and the number of the data block (0 outside of them)."""
_GAPS: Final = (16, 128, 4096)  # tolerances that are tried; an item never exceeds the PDU anyway


@dataclass(frozen=True, slots=True)
class Place:
    """The bytes of one tag, and its type. `bit` is 0 to 7 for a bool; `whole` when its value is kept as int64."""

    span: Span
    kind: DataType
    bit: int = 0
    encoding: str = "latin-1"
    whole: bool = False


def places_of(tags: Sequence[BoundTag[TagConfig]]) -> list[Place]:
    """Where the values of bound S7 tags are, in the order of the tags."""
    places = []
    for bound in tags:
        config = cast(S7Tag, bound.config)
        at, kind = config.place, config.data_type
        span = Span(AREA_CODES[at.area], at.db, at.start, kind.size)
        places.append(Place(span, kind, at.bit or 0, config.encoding, bound.tag.value_type == "integer"))
    return places


def cut(spans: Iterable[Span], pdu: int, apart: AbstractSet[Block] = frozenset()) -> list[Span]:
    """The items to read for `spans`: neighbours merged, none longer than a PDU answers, in as few requests as possible.

    In the blocks `apart` neighbours are read one by one, so that a refusal costs only those it is about.
    """
    wanted = sorted(set(spans))
    merged = [span for span in wanted if span[:2] not in apart]
    alone = [span for span in wanted if span[:2] in apart]
    most = (pdu - ANSWER_OVERHEAD) & ~1  # a timer is never cut in half
    best: list[Span] = []
    cost = float("inf")
    for gap in _GAPS:
        items = _pieces(_merge(merged, gap, most), most)
        price = len(pack(items, pdu)) + len(items) / 50  # a request costs a round trip, an item little
        if price < cost:
            best, cost = items, price
    return sorted(best + _pieces(_merge(alone, -1, most), most))


def _merge(spans: Sequence[Span], gap: int, most: int) -> list[Span]:
    out: list[Span] = []
    area, db, start, end = -1, 0, 0, 0
    for span in spans:
        reach = max(end, span.start + span.size)
        near = span.start - end <= gap and reach - start <= most
        if (span.area, span.db) == (area, db) and (span.start < end or near):  # what overlaps is never read twice
            end = reach
            continue
        if area >= 0:
            out.append(Span(area, db, start, end - start))
        area, db, start, end = span.area, span.db, span.start, span.start + span.size
    if area >= 0:
        out.append(Span(area, db, start, end - start))
    return out


def _pieces(spans: Iterable[Span], most: int) -> list[Span]:
    """Spans longer than one answer in pieces that are not."""
    return [
        Span(span.area, span.db, at, min(most, span.start + span.size - at))
        for span in spans
        for at in range(span.start, span.start + span.size, most)
    ]


def pack(items: Sequence[Span], pdu: int) -> list[list[int]]:
    """Item numbers by request: at most 20 items, and neither request nor answer longer than the PDU."""
    most = min(MAX_ITEMS, (pdu - 12) // 12)
    requests: list[list[int]] = []
    room = 0
    for number in sorted(range(len(items)), key=lambda n: -items[n].size):  # long ones first, so that short ones end up together
        needed = 4 + items[number].size + (items[number].size & 1)
        if not requests or needed - (items[number].size & 1) > room or len(requests[-1]) >= most:
            requests.append([])
            room = pdu - 14
        requests[-1].append(number)
        room -= needed
    return requests


@dataclass(slots=True)
class _Column:
    """All values of one numpy type: their positions among the tags, and where each begins in the buffer."""

    kind: DataType
    positions: npt.NDArray[np.intp]
    offsets: npt.NDArray[np.intp]
    values: npt.NDArray[np.generic]  # a view of the buffer: element i is the value that begins at byte i
    bits: npt.NDArray[np.uint8]
    whole: npt.NDArray[np.bool_]


@dataclass(slots=True)
class Values:
    """What one poll gave, by position; rows that have no value say so in `quality`."""

    numbers: npt.NDArray[np.float64]
    quality: npt.NDArray[np.uint32]
    integers: npt.NDArray[np.int64] | None
    texts: dict[int, str] = field(default_factory=dict)
    samples: dict[int, npt.NDArray[np.float64]] = field(default_factory=dict)


class Layout:
    """The compiled plan of one scan class at one PDU size: `items`, `requests` of item numbers, and the decoding.

    A position is the number of a place. Positions in `without` are not read and keep the quality that is given there.
    """

    def __init__(
        self,
        places: Sequence[Place],
        pdu: int,
        *,
        zone: tzinfo,
        apart: AbstractSet[Block] = frozenset(),
        without: Mapping[int, int] | None = None,
    ) -> None:
        self.places, self.pdu, self.zone = places, pdu, zone
        self._without = dict(without or {})
        read = [position for position in range(len(places)) if position not in self._without]
        self.items = cut((places[position].span for position in read), pdu, apart)
        self.requests = pack(self.items, pdu)
        starts = np.concatenate(([0], np.cumsum([item.size for item in self.items], dtype=np.intp)))
        self._slots = starts[:-1].tolist()
        self._bytes = memoryview(bytearray(int(starts[-1]) + 8))
        self._item_quality = np.zeros(len(self.items), dtype=np.uint32)
        self._first, self.offsets, self._torn = self._locate(read)
        self._columns = self._compile(read)
        self._texts = [position for position in read if places[position].kind.kind in TEXTS]
        self._arrays = [position for position in read if places[position].kind.kind in ("array", "bits")]
        self._last: dict[int, tuple[bytes, str]] = {}
        self._wide = any(place.whole for place in places)

    def _locate(self, read: Sequence[int]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], dict[int, range]]:
        """By position: its first item, where it begins in the buffer; and the items of a value that needs several."""
        first = np.zeros(len(self.places), dtype=np.intp)
        offsets = np.zeros(len(self.places), dtype=np.intp)
        torn: dict[int, range] = {}
        number = 0
        for position in sorted(read, key=lambda p: self.places[p].span):
            span = self.places[position].span
            while not _holds(self.items[number], span):
                number += 1
            item = self.items[number]
            first[position] = number
            offsets[position] = self._slots[number] + span.start - item.start
            beyond = span.start + span.size - item.start - item.size
            last = number
            while beyond > 0:
                last += 1
                beyond -= self.items[last].size
            if last > number:
                torn[position] = range(number, last + 1)
        return first, offsets, torn

    def _compile(self, read: Sequence[int]) -> list[_Column]:
        groups: dict[tuple[str, str], list[int]] = defaultdict(list)
        for position in read:
            kind = self.places[position].kind
            if (kind.code and kind.kind not in (*ARRAYS, "date")) or kind.kind == "bool":
                groups[kind.code or ">u1", kind.kind].append(position)
        columns = []
        for (code, _), members in groups.items():
            dtype = np.dtype(code)
            positions = np.array(members, dtype=np.intp)
            at_each_byte = np.ndarray(
                shape=(len(self._bytes) - dtype.itemsize + 1,), dtype=dtype, buffer=self._bytes, strides=(1,)
            )
            bits = np.array([self.places[position].bit for position in members], dtype=np.uint8)
            whole = np.array([self.places[position].whole for position in members], dtype=bool)
            columns.append(_Column(self.places[members[0]].kind, positions, self.offsets[positions], at_each_byte, bits, whole))
        return columns

    def positions_of(self, item: int) -> list[int]:
        """The places that need this item."""
        found = {int(position) for position in np.flatnonzero(self._first == item)} - self._without.keys()
        return sorted(found | {position for position, items in self._torn.items() if item in items})

    def store(self, item: int, answer: Answer) -> None:
        """Take in the answer to one item."""
        if answer.code == OK:
            slot = self._slots[item]
            self._bytes[slot : slot + len(answer.data)] = answer.data
            self._item_quality[item] = q.GOOD
        else:
            self._item_quality[item] = refusal(answer.code).quality

    def store_at(self, position: int, skip: int, data: bytes) -> None:
        """Take in bytes of one place that were read on their own, from its byte `skip` on."""
        at = int(self.offsets[position]) + skip
        self._bytes[at : at + len(data)] = data

    def decode(self, instead: Mapping[int, int] | None = None) -> Values:
        """Values and quality of all positions. `instead` gives qualities that stand in place of those of the items."""
        size = len(self.places)
        quality = self._item_quality[self._first] if self.items else np.zeros(size, dtype=np.uint32)
        for position, items in self._torn.items():
            quality[position] = max(int(self._item_quality[item]) for item in items)
        for position, code in (self._without | dict(instead or {})).items():
            quality[position] = code
        out = Values(np.zeros(size), quality, np.zeros(size, dtype=np.int64) if self._wide else None)
        with np.errstate(invalid="ignore"):  # a signalling NaN is a NaN
            for column in self._columns:
                self._numbers(column, out)
        for position in self._texts:
            if not quality[position]:
                self._text(position, out)
        for position in self._arrays:
            if not quality[position]:
                out.samples[position] = self._samples(self.places[position].kind, int(self.offsets[position]))
        return out

    def _samples(self, kind: DataType, at: int) -> npt.NDArray[np.float64]:
        """The elements of an array of numbers or bits, as many as it has."""
        if kind.kind == "bits":
            packed = np.frombuffer(self._bytes, np.uint8, kind.size, at)
            return np.unpackbits(packed, count=kind.length, bitorder="little").astype(np.float64)
        raw = np.frombuffer(self._bytes, kind.code, kind.length, at)
        if kind.name == "s5time":
            value, valid = s5time_ms(raw.astype(np.uint16))
            return np.where(valid, value, np.nan)
        with np.errstate(invalid="ignore"):  # a signalling NaN is a NaN
            return raw.astype(np.float64)

    def _numbers(self, column: _Column, out: Values) -> None:
        raw = column.values[column.offsets]
        match column.kind.kind:
            case "bool":
                out.numbers[column.positions] = (raw.astype(np.uint8) >> column.bits) & 1
            case "integer":
                whole = raw.astype(np.int64)
                out.numbers[column.positions] = raw
                if out.integers is not None:
                    out.integers[column.positions] = whole
                if column.kind.code == ">u8":
                    _flag(out, column.positions, column.whole & (whole < 0), q.BAD_OUT_OF_RANGE)  # more than int64 holds
            case "nanoseconds":
                out.numbers[column.positions] = raw.astype(np.float64) / 1e6
            case "s5time" | "counter":
                value, valid = (s5time_ms if column.kind.kind == "s5time" else counted)(raw.astype(np.uint16))
                out.numbers[column.positions] = value
                _flag(out, column.positions, ~valid, q.BAD_DECODING_ERROR)
            case _:
                out.numbers[column.positions] = raw

    def _text(self, position: int, out: Values) -> None:
        place = self.places[position]
        at = int(self.offsets[position])
        raw = bytes(self._bytes[at : at + place.span.size])
        known = self._last.get(position)
        if known is not None and known[0] == raw:
            out.texts[position] = known[1]
            return
        try:
            text = _decode(place, raw, self.zone)
        except (ValueError, OverflowError):
            out.quality[position] = q.BAD_DECODING_ERROR
            return
        self._last[position] = (raw, text)
        out.texts[position] = text


def s5time_ms(raw: npt.NDArray[np.uint16]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """S5TIME: two bits of time base (10 ms to 10 s) and three decimal digits. Milliseconds, and where the digits are digits."""
    hundreds, tens, ones = (raw >> 8) & 15, (raw >> 4) & 15, raw & 15
    base = 10.0 ** (((raw >> 12) & 3) + 1)
    valid: npt.NDArray[np.bool_] = (hundreds <= 9) & (tens <= 9) & (ones <= 9)
    return (hundreds * 100.0 + tens * 10.0 + ones) * base, valid


def counted(raw: npt.NDArray[np.uint16]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """A counter: three decimal digits below four bits that mean nothing. Its value, and where the digits are digits."""
    value, valid = s5time_ms(raw & np.uint16(0xFFF))
    return value / 10, valid


def _flag(out: Values, positions: npt.NDArray[np.intp], wrong: npt.NDArray[np.bool_], code: int) -> None:
    for position in positions[wrong].tolist():
        if not out.quality[position]:
            out.quality[position] = code


def _holds(item: Span, span: Span) -> bool:
    return item[:2] == span[:2] and item.start <= span.start < item.start + item.size


def _decode(place: Place, raw: bytes, zone: tzinfo) -> str:
    if place.kind.kind == "date":
        return decode_date(raw)
    if place.kind.kind == "clock":
        return decode_clock(place.kind, raw, zone)
    if place.kind.kind == "list":
        return decode_list(place.kind, raw, place.encoding, zone)
    return decode_text(place.kind, raw, place.encoding)
