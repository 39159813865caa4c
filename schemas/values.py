"""Configuration values that carry their unit: `2s`, `250ms`, `15m`, `24h`, `20 GB`, `4/day`."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, WithJsonSchema
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from .asset import SLUG_PATTERN, is_slug

_DURATION: Final = {
    "us": 1,
    "µs": 1,
    "ms": 1_000,
    "s": 10**6,
    "m": 60 * 10**6,
    "min": 60 * 10**6,
    "h": 3600 * 10**6,
    "d": 86400 * 10**6,
}
_SIZE: Final = {
    "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
_NUMBER_UNIT: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-zµ]*)\s*")


class Strict(BaseModel):
    """Base of every configuration class: an unknown key is an error, and a value is never changed after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, arbitrary_types_allowed=True)


def _parse(text: object, units: dict[str, int], what: str, example: str) -> int:
    if isinstance(text, bool) or not isinstance(text, (str, int, float)):
        raise PydanticCustomError(f"genba_{what}", f"not a {what}; write it like {example}")
    match = _NUMBER_UNIT.fullmatch(str(text))
    if not match:
        raise PydanticCustomError(f"genba_{what}", f"not a {what}; write it like {example}")
    number, unit = match.groups()
    if not unit and float(number) == 0:
        return 0
    if not unit:
        raise PydanticCustomError(f"genba_{what}", f"a {what} needs its unit; write it like {example}")
    if unit not in units:
        raise PydanticCustomError(
            f"genba_{what}", f"unknown unit {unit!r} of a {what}; known are {', '.join(units)}", {"unit": unit}
        )
    value = Decimal(number) * units[unit]  # exact, where a float would lose digits
    if value and value < 1:
        raise PydanticCustomError(f"genba_{what}", f"a {what} this small is not kept; the smallest is 1{next(iter(units))}")
    if value >= 2**63:
        raise PydanticCustomError(f"genba_{what}", f"a {what} this large is not kept")
    return round(value)


def _json_schema(units: dict[str, int], *examples: str) -> JsonSchemaValue:
    """JSON Schema of what `_parse` takes; a bare 0 may be a number in YAML."""
    text = rf"^\s*[0-9]+(\.[0-9]+)?\s*({'|'.join(units)})\s*$"
    return {"anyOf": [{"type": "string", "pattern": text}, {"enum": [0, "0"]}], "examples": list(examples)}


class Duration(int):
    """A time span in µs, written with its unit in YAML. `Duration("2s").s == 2.0`."""

    def __new__(cls, text: str | int) -> Duration:
        """From text with a unit; an int is µs."""
        return super().__new__(cls, text if isinstance(text, int) else _parse(text, _DURATION, "duration", "500ms, 2s, 15m"))

    @property
    def s(self) -> float:
        """The span in seconds."""
        return self / 1e6

    @property
    def us(self) -> int:
        """The span in µs."""
        return int(self)

    def __str__(self) -> str:
        for unit in ("d", "h", "m", "s", "ms"):
            if self and self % _DURATION[unit] == 0:
                return f"{int(self) // _DURATION[unit]}{unit}"
        return f"{int(self)}us" if self else "0s"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return _text_schema(cls, lambda v: cls(_parse(v, _DURATION, "duration", "500ms, 2s, 15m")))

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return _json_schema(_DURATION, "500ms", "2s", "15m")


class Size(int):
    """A number of bytes, written with its unit in YAML: `20 GB` (10^9) or `16 MiB` (2^20)."""

    def __new__(cls, text: str | int) -> Size:
        """From text with a unit; an int is bytes."""
        return super().__new__(cls, text if isinstance(text, int) else _parse(text, _SIZE, "size", "20 GB, 16 MiB"))

    def __str__(self) -> str:
        for unit in ("TB", "GB", "MB", "TiB", "GiB", "MiB", "KiB", "kB"):
            if self and self % _SIZE[unit] == 0:
                return f"{int(self) // _SIZE[unit]} {unit}"
        return f"{int(self)} B"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return _text_schema(cls, lambda v: cls(_parse(v, _SIZE, "size", "20 GB, 16 MiB")))

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return _json_schema(_SIZE, "20 GB", "16 MiB")


class Rate(float):
    """How often something may happen, per day: `4/day`, `1/h`, `30/min`."""

    _PER_DAY: Final = {"s": 86400, "min": 1440, "m": 1440, "h": 24, "hour": 24, "d": 1, "day": 1}

    def __new__(cls, text: str | float) -> Rate:
        """From text like `4/day`; a number is per day."""
        if isinstance(text, str):
            number, slash, unit = text.replace(" ", "").partition("/")
            if not slash or unit not in cls._PER_DAY or not re.fullmatch(r"[0-9]+(\.[0-9]+)?", number):
                raise PydanticCustomError("genba_rate", "not a rate; write it like 4/day or 1/h")
            return super().__new__(cls, Decimal(number) * cls._PER_DAY[unit])
        return super().__new__(cls, text)

    def __str__(self) -> str:
        number = format(Decimal(repr(float(self))), "f")
        return f"{number.removesuffix('.0')}/day"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def parse(value: object) -> Rate:
            if not isinstance(value, str):
                raise PydanticCustomError("genba_rate", "not a rate; write it like 4/day or 1/h")
            return cls(value)

        return _text_schema(cls, parse)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {
            "type": "string",
            "pattern": rf"^\s*[0-9]+(\.[0-9]+)?\s*/\s*({'|'.join(cls._PER_DAY)})\s*$",
            "examples": ["4/day", "1/h"],
        }


def _text_schema(cls: type, parse: Any) -> CoreSchema:
    return core_schema.no_info_plain_validator_function(
        lambda value: value if isinstance(value, cls) else parse(value),
        serialization=core_schema.plain_serializer_function_ser_schema(str),
    )


def _slug(text: str) -> str:
    if not is_slug(text):
        raise PydanticCustomError("genba_slug", "not a slug; lower-case letters, digits and inner hyphens, such as press-07")
    return text


Slug = Annotated[
    str, AfterValidator(_slug), WithJsonSchema({"type": "string", "pattern": SLUG_PATTERN, "examples": ["press-07"]})
]
"""A name that is also a folder, a topic level and a host name: enterprise, site, gateway."""
