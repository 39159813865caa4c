"""What the server is asked to do for a tag: how it samples, filters and queues. Imports no protocol library.

Each option may stand at the tag, at its device, or at the connection; the nearest one counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from schemas.values import Strict

Discard = Literal["oldest", "newest"]
Trigger = Literal["status", "value", "timestamp"]
How = Literal["subscribe", "poll"]

DEFAULT_QUEUE_SIZE: Final = 10
_DEADBAND: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*(%?)\s*")


@dataclass(frozen=True, slots=True)
class ServerDeadband:
    """A change smaller than this is not sent: absolute in the server's own unit, or in percent of its EURange."""

    value: float
    percent: bool = False

    def __str__(self) -> str:
        return f"{self.value:g} %" if self.percent else f"{self.value:g}"

    @classmethod
    def parse(cls, text: object) -> Self:
        """From a number, or text like `0.5` or `2 %`. Raises PydanticCustomError, a ValueError, with the way to write it."""
        if isinstance(text, cls):
            return text
        match = None if isinstance(text, bool) else _DEADBAND.fullmatch(str(text))
        if match is None:
            raise PydanticCustomError("genba_server_deadband", "not a deadband; write it like 0.5, or 2 % of the range")
        value, percent = float(match[1]), bool(match[2])
        if percent and value > 100:
            raise PydanticCustomError("genba_server_deadband", "a deadband is at most 100 %")
        return cls(value, percent)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        text = r"^\s*[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?\s*%?\s*$"
        return {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": text}], "examples": [0.5, "2 %"]}


class SamplingOptions(Strict):
    """What the server does with a tag's values before it sends them. None: as the device, else the connection says."""

    queue_size: int | None = Field(
        None, ge=1, le=10_000, description="Values that the server keeps per tag between two publish answers; 10 by default."
    )
    discard: Discard | None = Field(
        None, description="What a full queue loses: its `oldest` value (default), or its `newest`. Either is told in a gap row."
    )
    server_deadband: ServerDeadband | None = Field(
        None,
        description="The server does not send a smaller change: in the server's own unit, before `scale` (`0.5`), or in percent of "
        "the range that it names for the variable (`2 %`). What is not sent is seen by no model; `deadband` only thins the report.",
    )
    trigger: Trigger | None = Field(
        None,
        description="What counts as a change: another `status`, another `value` or status (default), or another source `timestamp` too.",
    )
    read: How | None = Field(
        None,
        description="`subscribe` (default), or `poll`: read every scan, for a server whose subscriptions are not to be relied on.",
    )


@dataclass(frozen=True, slots=True)
class Sampling:
    """The options of one tag, resolved."""

    queue_size: int = DEFAULT_QUEUE_SIZE
    discard: Discard = "oldest"
    deadband: ServerDeadband | None = None
    trigger: Trigger = "value"
    read: How = "subscribe"


def resolve_sampling(*nearest_first: SamplingOptions) -> Sampling:
    """What counts for a tag, given its own options and those around it. A deadband of 0 is none."""

    def first(name: str, default: Any) -> Any:
        return next((value for options in nearest_first if (value := getattr(options, name)) is not None), default)

    deadband = first("server_deadband", None)
    return Sampling(
        first("queue_size", DEFAULT_QUEUE_SIZE),
        first("discard", "oldest"),
        deadband if deadband is not None and deadband.value > 0 else None,
        first("trigger", "value"),
        first("read", "subscribe"),
    )
