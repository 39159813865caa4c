"""What one address answers, and what may be meant instead: the next one, another table, another order of bytes. With the way out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from schemas.errors import NotConnected
from schemas.plugin import Check

from .address import FUNCTIONS, Address, Table
from .config import ModbusConfig, ModbusTag
from .datatypes import ORDERS, Order
from .decode import Layout
from .exchange import Connection, NoAnswer, Refused, WrongAnswer
from .options import tag_of
from .plan import Block, Span, point_of

EXCEPTIONS: Final[Mapping[int, tuple[str, str]]] = {
    1: ("illegal function", "the device has no such table: hr and ir are different ones, and many devices have only hr"),
    2: (
        "illegal data address",
        "the device has no such address; manuals often count from 1: 40101 is hr:100. `genba probe modbus` finds what is there",
    ),
    3: ("illegal data value", "the device does not answer so many registers in one request: write `max_registers`"),
    4: ("device failure", "the device has a fault, or does not know the unit id: look at the device itself"),
    5: ("acknowledge", "the device is busy with something long: try again later"),
    6: ("device busy", "another client keeps the device busy: read less often, or from one place only"),
    8: ("memory parity error", "the device's memory has a fault: ask its maker"),
    10: ("gateway path unavailable", "the gateway is not set up for this unit: look at its routing table"),
    11: (
        "gateway target did not respond",
        "the gateway is there and the unit behind it is silent: check `unit_id`, power and wiring of the unit, and the serial settings of the gateway",
    ),
}
"""What each exception code means for a person (MODBUS Application Protocol Specification V1.1b3, 7)."""
_NUMBERS: Final = ("float32", "float64", "float16")
_SMALLEST: Final = 1e-6
_LARGEST: Final = 1e9

Found = bytes | int | str
"""Data, an exception code, or in words why there is neither."""


async def ask(connection: Connection, span: Span) -> Found:
    try:
        return await connection.read(span)
    except Refused as error:
        return error.code
    except (NoAnswer, WrongAnswer, NotConnected) as error:
        return str(error)


async def look_at(connection: Connection, unit: int, written: str) -> Check:
    tag = tag_of(written)
    place = tag.place
    answer = await _read(connection, unit, tag, place)
    if isinstance(answer, str):
        return Check(written, "failure", answer, "the device answers other requests: ask again, and more slowly")
    if isinstance(answer, bytes):
        return await _plausible(connection, unit, written, tag, answer)
    meaning, way_out = EXCEPTIONS.get(answer, ("unknown exception", "see the manual of the device"))
    found = f"exception {answer}: {meaning}"
    if answer not in (1, 2, 3, 4):
        return Check(written, "failure", found, way_out)
    registers = tag.data_type.registers
    if (
        not place.is_bit_table
        and registers > 1
        and isinstance(await ask(connection, Span(unit, place.function, place.offset, 1)), bytes)
    ):
        return Check(
            written,
            "failure",
            f"{found}; {place} alone can be read, {registers} registers from there cannot",
            "check the type, and `max_registers`",
        )
    for other in _neighbours(place):
        if isinstance(await _read(connection, unit, tag, other), bytes):
            if other.table != place.table:
                return Check(
                    written, "failure", f"{found}; {other} can be read", f"the value may be in the other table: write {other}"
                )
            return Check(
                written, "failure", f"{found}; {other} can be read",
                f"manuals often count from 1, the wire from 0: {other} may be the one that is meant",
            )  # fmt: skip
    return Check(written, "failure", found, way_out)


def _neighbours(place: Address) -> Iterator[Address]:
    """Where the value may be instead: one off, or in the sister table."""
    for offset in (place.offset - 1, place.offset + 1):
        if 0 <= offset <= 65_535:
            yield Address(place.table, offset, place.bit)
    sister: Mapping[Table, Table] = {"hr": "ir", "ir": "hr", "co": "di", "di": "co"}
    yield Address(sister[place.table], place.offset, place.bit)


async def _read(connection: Connection, unit: int, tag: ModbusTag, place: Address) -> Found:
    length = 1 if place.is_bit_table else tag.data_type.registers
    if place.offset + length > 65_536:
        return 2
    return await ask(connection, Span(unit, FUNCTIONS[place.table], place.offset, length))


async def _plausible(connection: Connection, unit: int, written: str, tag: ModbusTag, data: bytes) -> Check:
    """The value, and for a floating point number that cannot be one the order or the address with which it could."""
    value = _value(tag, data, "ABCD")
    found = f"can be read: {value}"
    if tag.type not in _NUMBERS or _sane(value):
        return Check(written, "ok", found)
    for order in ORDERS[1:]:
        if _sane(other := _value(tag, data, order)):
            return Check(
                written, "warning", f"{found}, which is no measured value; as {order} it is {other}", f"write `order: {order}`"
            )
    place = tag.place
    for offset in (place.offset - 1, place.offset + 1):
        near = Address(place.table, offset)
        answer = await _read(connection, unit, tag, near) if 0 <= offset <= 65_535 else 2
        if isinstance(answer, bytes) and _sane(other := _value(tag, answer, "ABCD")):
            return Check(
                written, "warning", f"{found}, which is no measured value; {near} is {other}",
                f"manuals often count from 1, the wire from 0: {near} may be the one that is meant",
            )  # fmt: skip
    if value == "0":
        return Check(written, "ok", found)
    return Check(
        written,
        "warning",
        f"{found}, which is no measured value",
        "check the type: genba probe modbus shows all at a glance with --at",
    )


def _sane(value: str) -> bool:
    try:
        return _SMALLEST <= abs(float(value)) <= _LARGEST
    except ValueError:
        return False


def _value(tag: ModbusTag, data: bytes, order: Order) -> str:
    """The raw value as text."""
    config = ModbusConfig.model_validate({"kind": "modbus", "endpoint": "tcp://localhost", "order": order})
    point = point_of(tag, config)
    layout = Layout([point], [Block(point.span, (0,))])
    layout.store(0, data)
    values = layout.decode()
    if 0 in values.texts:
        return repr(values.texts[0])
    if point.integer and values.integers is not None:
        return str(values.integers[0])
    return f"{values.numbers[0]:.7g}"
