"""What a walk over a device has found, in words, as options of the entry and as tags. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any, Final

from schemas.plugin import Check, Point

from .address import Address, Stretch, Table
from .datatypes import ORDERS, Order
from .guess import Value, read_all, side_by_side
from .survey import Survey

REGISTERS: Final[tuple[Table, ...]] = ("hr", "ir")
BITS: Final[tuple[Table, ...]] = ("co", "di")
_LISTED: Final = 12  # stretches that are named
_SKIPPED: Final = 20  # gaps that are written down
_SHOWN: Final = 10  # registers from one place on


def limit_of(name: str, surveys: Sequence[Survey]) -> Check:
    """What the device answers in one request."""
    longest, most = max(survey.longest for survey in surveys), min(survey.most for survey in surveys)
    if any(survey.limited for survey in surveys):
        return Check(f"max {name}", "ok", f"{most} in one request; more are refused")
    if longest == most:
        return Check(f"max {name}", "ok", f"{most} in one request, what the protocol allows")
    return Check(f"max {name}", "ok", f"at least {longest} in one request; no stretch is long enough to tell")


def order_of(surveys: Mapping[Table, Survey]) -> tuple[Order, Check]:
    """The most probable order of bytes over both tables of registers."""
    merged: dict[Order, list[int]] = {order: [0, 0, 0] for order in ORDERS}
    for table in REGISTERS:
        for reading in read_all(surveys[table].values) if table in surveys else ():
            merged[reading.order][0] += reading.floats
            merged[reading.order][1] += reading.score
            merged[reading.order][2] += reading.even
    ranked = sorted(merged.items(), key=lambda item: (-item[1][1], -item[1][2]))
    (best, (floats, score, _)), (second, (_, next_score, _)) = ranked[:2]
    counts = ", ".join(f"{order} {count}" for order, (count, *_) in merged.items())
    if not floats:
        return "ABCD", Check(
            "order", "ok", "no register pair looks like a float32; ABCD is taken", "compare one value that you know: --at hr:100"
        )
    sure = floats > 1 and score > next_score
    doubt = "" if sure else f"; {second} is as probable" if score == next_score else "; one value is little to go by"
    return best, Check(
        "order",
        "ok" if sure else "warning",
        f"{best}: plausible float32 by order: {counts}{doubt}",
        "" if sure else "compare one value that you know: --at hr:100",
    )


def shown(places: Sequence[Address], surveys: Mapping[Table, Survey], order: Order) -> Iterator[Check]:
    """Registers in all orders and types, from these places on, else from the first one that looks like a number."""
    if not places:
        numbers = (
            Address(table, value.address)
            for table, values in _values(surveys, order)
            for value in values
            if value.type == "float32"
        )
        places = [place for place in [next(numbers, None)] if place is not None]
    for place in places:
        values = surveys[place.table].values if place.table in surveys else {}
        registers = list(takewhile(lambda value: value >= 0, (values.get(place.offset + n, -1) for n in range(_SHOWN))))
        if not registers:
            yield Check(str(place), "warning", "was not read", "it must lie in a --range, and the device must have it")
            continue
        for name, forms in side_by_side(registers):
            yield Check(f"{place} {name}", "ok", forms)


def settings_of(surveys: Mapping[Table, Survey], order: Order) -> dict[str, Any]:
    """Options of the device as they stand in YAML, where they are not the defaults."""
    found: dict[str, Any] = {} if order == "ABCD" else {"order": order}
    for option, tables in (("max_registers", REGISTERS), ("max_bits", BITS)):
        limits = [surveys[table].most for table in tables if table in surveys and surveys[table].limited]
        if limits:
            found[option] = min(limits)
    gaps = []
    for table, survey in surveys.items():
        there = survey.stretches()
        whole = Stretch(table, there[0][0], there[-1][1]) if there else Stretch(table, 0, 0)
        gaps += [str(Stretch(table, a, b)) for a, b in between(there, whole) if b - a < survey.most]
    return found | ({"skip": gaps} if 0 < len(gaps) <= _SKIPPED else {})


def points_of(surveys: Mapping[Table, Survey], order: Order) -> Iterator[Point]:
    """One for each value that is not zero."""
    for table, values in _values(surveys, order):
        for value in values:
            options = {"address": f"{table}:{value.address}", "type": value.type}
            note = f"was {value.text}" + (f", {value.note}" if value.note else "")
            yield Point(f"{table}_{value.address}", options, value=value.text, note=note)
    for table in BITS:
        for address, bit in sorted(surveys[table].values.items()) if table in surveys else ():
            if bit:
                yield Point(f"{table}_{address}", {"address": f"{table}:{address}", "type": "bool"}, value="1")


def between(found: Iterable[tuple[int, int]], within: Stretch) -> list[tuple[int, int]]:
    """What of `within` is not in `found`."""
    out, at = [], within.start
    for start, end in found:
        if start > at:
            out.append((at, start))
        at = end
    return [*out, (at, within.end)] if at < within.end else out


def named(table: Table, stretches: Sequence[tuple[int, int]]) -> str:
    """Stretches for people; the first dozen of them."""
    if not stretches:
        return "none"
    listed = ", ".join(str(Stretch(table, start, end)) for start, end in stretches[:_LISTED])
    return listed if len(stretches) <= _LISTED else f"{listed} and {len(stretches) - _LISTED} more"


def _values(surveys: Mapping[Table, Survey], order: Order) -> Iterator[tuple[Table, Sequence[Value]]]:
    for table in REGISTERS:
        if table in surveys:
            yield table, next(reading for reading in read_all(surveys[table].values) if reading.order == order).values
