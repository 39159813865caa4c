"""Which part of a variable's value a tag is: an element of an array, a field of a structure. Pure; imports no library.

An index does not stand in the address, because servers have NodeIds that end with one (`ns=3;s="Data"."Temps"[3]`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Self

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

Step = int | str
"""An element by its index from 0, or a field by its name."""

LARGEST_INDEX: Final = 999_999
MOST_ELEMENTS: Final = 10_000
_DEEPEST_FIELD: Final = 16
_ELEMENTS: Final = re.compile(r"\s*(?:([0-9]{1,6})\s*\.\.\s*)?([0-9]{1,6})\s*")
_FIELD: Final = re.compile(r"([^.\[\]]+)((?:\[[0-9]{1,6}\])*)")


@dataclass(frozen=True, slots=True)
class Elements:
    """The elements `first` to `last` of an array, both counted from 0 and included."""

    first: int
    last: int

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.last + 1))

    def __str__(self) -> str:
        return f"{self.first}..{self.last}"

    @classmethod
    def parse(cls, text: object) -> Self:
        """From a number of elements (`10`), or the first and the last (`1..10`). Raises PydanticCustomError, a ValueError."""
        if isinstance(text, cls):
            return text
        match = None if isinstance(text, bool) else _ELEMENTS.fullmatch(str(text))
        if match is None:
            raise PydanticCustomError(
                "genba_elements", "not elements of an array; write their number, or the first and last: 1..10"
            )
        first, last = (int(match[1]), int(match[2])) if match[1] is not None else (0, int(match[2]) - 1)
        if not first <= last < first + MOST_ELEMENTS:
            raise PydanticCustomError("genba_elements", f"an array is taken apart into 1 to {MOST_ELEMENTS:,} tags")
        return cls(first, last)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        text = {"type": "string", "pattern": r"^\s*([0-9]{1,6}\s*\.\.\s*)?[0-9]{1,6}\s*$"}
        return {"anyOf": [{"type": "integer", "minimum": 1, "maximum": MOST_ELEMENTS}, text], "examples": [10, "1..10"]}


def parse_field(text: str) -> tuple[Step, ...]:
    """The steps that `axis.speed` or `limits[2].high` spells. Raises ValueError with the way to write it."""
    steps: list[Step] = []
    for part in text.split("."):
        match = _FIELD.fullmatch(part)
        if match is None:
            raise ValueError(f"{text!r} is not a field of a structure; write speed, axis.speed or limits[2].high")
        steps.append(match[1])
        steps += [int(index) for index in re.findall(r"[0-9]+", match[2])]
    if len(steps) > _DEEPEST_FIELD:
        raise ValueError(f"{text!r} goes deeper than {_DEEPEST_FIELD} steps")
    return tuple(steps)


def spell(index: int | None, field: str | None) -> str:
    """What stands behind the address where a tag is shown: `[3]`, `#speed`, `[3]#speed`, or nothing."""
    return ("" if index is None else f"[{index}]") + ("" if field is None else f"#{field}")
