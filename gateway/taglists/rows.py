"""What the readers of tag lists have in common: rows in, points and refusals out, each row judged by the adapter's own tag class."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from gateway.discovery.points import tag_model
from schemas.naming import tag_name
from schemas.plugin import Point
from schemas.units import display, normalise

MOST_TAGS: Final = 200_000
"""Tags of one file; a list that claims more (an array of a million bits) is refused, not built."""
_IN_BRACKETS: Final = re.compile(r"\[([^\[\]]{1,20})\]\s*$")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row that is not taken: where it stands, what it is called, and why."""

    line: int
    name: str
    reason: str


@dataclass(slots=True)
class TagList:
    """What came out of one file. `notes` are about the file as a whole, for the person who reads the result."""

    kind: str
    format: str
    points: list[Point] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def refuse(self, line: int, name: str, reason: str) -> None:
        """Leave a row out, with its reason."""
        self.refused.append(Refusal(line, name, " ".join(reason.split())))

    def take(self, line: int, name: str, options: Mapping[str, Any], *, unit: str = "", note: str = "") -> None:
        """A row as a point, or refused with what the adapter says of it. A unit that is not known is noted, not written."""
        if len(self.points) >= MOST_TAGS:
            self.refuse(line, name, f"more than {MOST_TAGS:,} tags in one file")
            return
        notes = [note] if note else []
        written = {key: value for key, value in options.items() if value not in (None, "")}
        if unit:
            try:
                written["unit"] = display(normalise(unit))
            except ValueError:
                notes.append(f"its unit {unit!r} is not known here")
        try:
            tag_model(self.kind).model_validate({"type": "", **written})
        except ValidationError as error:
            self.refuse(line, name, "; ".join(_sentence(one) for one in error.errors(include_url=False)[:2]))
            return
        asset = written.pop("asset", None)
        self.points.append(Point(tag_name(name), written, asset, note="; ".join(notes)))


def unit_in(comment: str) -> str:
    """The unit at the end of a comment, `Motor speed [rpm]`; empty where there is none that is known."""
    found = _IN_BRACKETS.search(comment)
    if found is None:
        return ""
    try:
        return display(normalise(found[1]))
    except ValueError:
        return ""


def _sentence(found: Mapping[str, Any]) -> str:
    message = str(found["msg"]).removeprefix("Value error, ")
    place = ".".join(str(part) for part in found["loc"])
    return message if place in ("address", "type", "") else f"{place}: {message}"
