"""The topic of a row, from a template that a person wrote. Shared by the sinks that publish over MQTT."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from string import Formatter
from typing import TYPE_CHECKING

from schemas.asset import to_topic, topic_level

if TYPE_CHECKING:
    from schemas.kinds import Kind

    from .base import SinkContext
    from .messages import Row


def checked(template: str, places: Collection[str]) -> str:
    """The template itself. Raises ValueError for what can be no topic, or names a place that is not one of `places`."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"not a topic: {error}") from None
    for text, place, form, conversion in parts:
        if any(character in text for character in "#+\0"):
            raise ValueError("a topic holds no # or +: those are for subscribers")
        if place is not None and (place not in places or form or conversion):
            known = ", ".join(f"{{{one}}}" for one in sorted(places))
            raise ValueError(f"unknown place {{{place}}}; known are {known}")
    if not template or template.startswith(("/", "$")) or template.endswith("/") or "//" in template:
        raise ValueError("a topic has no empty level and does not begin with $")
    return template


class Topics:
    """Topics of the rows of one gateway."""

    def __init__(self, template: str, context: SinkContext) -> None:
        self._template, self._tags = template, context.tags
        self._plant = {name: topic_level(getattr(context, name)) for name in ("gateway", "site", "enterprise")}
        self._own = f"{context.enterprise}/{context.site}/{context.gateway}"

    def of_plant(self, template: str) -> str:
        """A template with places of the plant only."""
        return template.format(**self._plant)

    def of(self, row: Row, kind: Kind) -> str:
        """The topic of a row. `{alarm}` of what is no alert is the tag's name, else the event, the measure or the cause."""
        tag = None if row.get("tag") is None else self._tags[row["tag"]]
        asset = row.get("asset") or (tag.asset if tag is not None else self._own)
        if kind == "alert":
            alarm = row["alarm"]
        elif tag is not None:
            alarm = tag.name
        else:
            alarm = next((row[name] for name in ("event", "measure", "cause") if row.get(name)), kind)
        return self._template.format(data=kind, asset=_encoded(asset), alarm=topic_level(alarm), **self._plant)


@lru_cache(maxsize=65_536)
def _encoded(asset: str) -> str:
    return to_topic(asset)
