"""How values and time spans read in the one sentence of an alarm."""

from __future__ import annotations

import math

from schemas.tags import Tag
from schemas.units import display


def number(value: float) -> str:
    """A number as people write it: four significant digits, no exponent below a billion: `96.2`, `12346`, `0.0123`."""
    if not math.isfinite(value):
        return "no number"
    size = abs(value)
    if size >= 1e9 or 0 < size < 1e-4:
        return f"{value:.3e}"
    decimals = 0 if size >= 1000 else min(7, max(0, 3 - math.floor(math.log10(size)))) if size > 0 else 0
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def quantity(value: float, tag: Tag) -> str:
    """A value with the unit of its tag: `96.2 °C`; the name of the state where the tag is an enumeration."""
    named = tag.enum.get(int(value)) if tag.enum and math.isfinite(value) and value == int(value) else None
    if named is not None:
        return named
    return number(value) if tag.unit == "1" else f"{number(value)} {display(tag.unit)}"


def interval(low: float, high: float, tag: Tag) -> str:
    """An expected band, as coarse as its width allows: `1.8 to 2.4 mm/s`."""
    width = high - low
    if math.isfinite(width) and width > 0:
        decimals = min(7, max(0, 1 - math.floor(math.log10(width))))
        low, high = round(low, decimals), round(high, decimals)
    return f"{number(low)} to {quantity(high, tag)}"


def span(us: int) -> str:
    """A time span with one or two units: `4.2 s`, `42 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    seconds = max(0, us) / 1e6
    if seconds < 10:
        return f"{number(round(seconds, 1))} s"
    whole = round(seconds)
    for size, unit, next_size, next_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // next_size
            return f"{whole // size} {unit} {rest} {next_unit}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"
