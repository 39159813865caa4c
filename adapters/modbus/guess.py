"""What registers probably mean: the order of bytes, and which of them are texts, floating point numbers or integers. Pure.

A guess, for a person to check. What speaks for float32 is its size: a plant's values lie between a thousandth and ten million, and
two integers or a piece of text that happen to look like one are rare.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from .datatypes import ORDERS, Order, parse_type, swaps_bytes, swaps_words

_SMALLEST: Final = 1e-3
_LARGEST: Final = 1e7
_WIDE_LARGEST: Final = 1e12
_TEXT: Final = 3  # registers, at least
_LONGEST_TEXT: Final = 50  # registers
_PUNCTUATION: Final = " -_./:,+()#"


class Value(NamedTuple):
    """One probable value: where, of which type (`float32`, `string[12]` …), as text, and what else it may be."""

    address: int
    type: str
    text: str
    note: str = ""


class Reading(NamedTuple):
    """All registers read with one order of bytes."""

    order: Order
    floats: int
    """Pairs that make a plausible float32."""
    stray: int
    """Registers that are not zero and belong to no number or text of several registers."""
    even: int
    """Of the pairs, those that begin at an even address: what most devices do, and what decides where nothing else does."""
    values: tuple[Value, ...]

    @property
    def score(self) -> int:
        """How much speaks for it."""
        return 2 * self.floats - self.stray


def raw(registers: Sequence[int], order: Order) -> bytes:
    """The bytes of a value in registers, highest first."""
    turned = registers[::-1] if swaps_words(order) else registers
    return struct.pack(f"{'<' if swaps_bytes(order) else '>'}{len(turned)}H", *turned)


def read_all(registers: Mapping[int, int]) -> list[Reading]:
    """One reading for each order, the most probable one first. Registers that are zero say nothing."""
    readings = [_read(registers, order) for order in ORDERS]
    return sorted(readings, key=lambda reading: (-reading.score, -reading.even))


def side_by_side(registers: Sequence[int]) -> Iterator[tuple[str, str]]:
    """The first one, two and four registers in all orders and types: (order, values). Up to ten of them as text."""
    plain, swapped = registers[0], registers[0] >> 8 | (registers[0] & 0xFF) << 8
    for name, value in (("16 bit", plain), ("16 bit, bytes swapped", swapped)):
        half = struct.unpack(">e", value.to_bytes(2))[0]
        yield (
            name,
            f"uint16 {value} | int16 {_signed(value, 16)} | float16 {_number(half)} | hex {value:04x} | bcd {_bcd(value, 4)}",
        )
    for count, code in ((2, "f"), (4, "d")):
        if len(registers) < count:
            break
        for order in ORDERS:
            data = raw(registers[:count], order)
            whole, (real,) = int.from_bytes(data), struct.unpack(">" + code, data)
            bits = count * 16
            bcd = f" | bcd {_bcd(whole, 8)}" if count == 2 else ""
            yield (
                f"{bits} bit {order}",
                f"float{bits} {_number(real)} | uint{bits} {whole} | int{bits} {_signed(whole, bits)} | hex {whole:0{count * 4}x}{bcd}",
            )
    for name, mark in (("text", ">"), ("text, bytes swapped", "<")):
        letters = struct.pack(f"{mark}{len(registers)}H", *registers)
        yield name, "".join(chr(byte) if 32 <= byte < 127 else "." for byte in letters)


def _read(registers: Mapping[int, int], order: Order) -> Reading:
    values = _texts(registers, order)
    taken = {value.address + n for value in values for n in range(parse_type(value.type).registers)}
    left = {address: value for address, value in registers.items() if address not in taken}
    floats = stray = even = 0
    at = -1
    for address in sorted(left):
        if address < at:
            continue  # part of the value before it
        at = address + 1
        pair, four = _following(left, address, 2), _following(left, address, 4)
        number = _float(pair, order) if len(pair) == 2 else None
        wide = _double(four, order) if len(four) == 4 else None
        if wide is not None and (number is None or _float(four[2:], order) is None):
            at = address + 4
            values.append(Value(address, "float64", _number(wide), "" if number is None else f"or float32 {_number(number)}"))
        elif number is not None:
            at = address + 2
            values.append(Value(address, "float32", _number(number), _other_orders(pair, order)))
        elif left[address]:
            stray += 1
            values.append(_integer(address, pair, order))
            continue
        else:
            continue
        floats, even = floats + 1, even + (address % 2 == 0)
    return Reading(order, floats, stray, even, tuple(sorted(values)))


def _texts(registers: Mapping[int, int], order: Order) -> list[Value]:
    values = []
    at = -1
    for address in sorted(registers):
        if address >= at and registers[address] and (text := _text(registers, address, order)):
            at = address + (len(text) + 1) // 2
            values.append(Value(address, f"string[{2 * (at - address)}]", text))
    return values


def _integer(address: int, pair: Sequence[int], order: Order) -> Value:
    """A register by itself, which may also be the first one of two."""
    value = int.from_bytes(raw(pair[:1], order))
    kind = "int16" if value >= 0xC000 else "uint16"
    whole = int.from_bytes(raw(pair, order))
    wide = len(pair) == 2 and 0 < whole >> 16 < 256 and whole & 0xFFFF > 255  # a counter, rather than two small numbers
    note = f"or uint32 with the next register: {whole}" if wide else ""
    return Value(address, kind, str(_signed(value, 16) if kind == "int16" else value), note)


def _following(registers: Mapping[int, int], start: int, count: int) -> list[int]:
    """As many of them as follow one another."""
    found = []
    for address in range(start, start + count):
        if address not in registers:
            break
        found.append(registers[address])
    return found


def _float(pair: Sequence[int], order: Order) -> float | None:
    if swaps_bytes(order) and max(pair) < 256:
        return None  # two small integers, whose bytes only look right when they are swapped
    value: float = struct.unpack(">f", raw(pair, order))[0]
    return value if _SMALLEST <= abs(value) <= _LARGEST else None  # NaN is neither


def _double(four: Sequence[int], order: Order) -> float | None:
    if sum(register != 0 for register in four) < 3 or (swaps_bytes(order) and max(four) < 256):
        return None  # a measured value fills its 52 bits of mantissa
    value: float = struct.unpack(">d", raw(four, order))[0]
    return value if _SMALLEST <= abs(value) <= _WIDE_LARGEST else None


def _text(registers: Mapping[int, int], start: int, order: Order) -> str:
    """The text that begins here; empty when it is none."""
    letters = ""
    for address in range(start, start + _LONGEST_TEXT):
        if address not in registers:
            break
        pair = registers[address].to_bytes(2, "little" if swaps_bytes(order) else "big")
        piece = "".join(chr(byte) for byte in pair if 32 <= byte < 127)
        if len(piece) == 2 or (piece and pair[1] == 0):
            letters += piece
        if len(piece) < 2:
            break
    text = letters.rstrip()
    is_text = all(letter.isalnum() or letter in _PUNCTUATION for letter in text) and sum(map(str.isalpha, text)) >= 2
    return text if is_text and len(text) > 2 * (_TEXT - 1) else ""


def _other_orders(pair: Sequence[int], order: Order) -> str:
    """The same registers in the orders in which they are plausible, too."""
    others = [(other, _float(pair, other)) for other in ORDERS if other != order]
    found = [f"{other} {_number(value)}" for other, value in others if value is not None]
    return f"or, in another order: {', '.join(found)}" if found else ""


def _number(value: float) -> str:
    return f"{value:.7g}"


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def _bcd(value: int, digits: int) -> str:
    text = f"{value:0{digits}x}"
    return str(int(text)) if text.isdigit() else "-"
