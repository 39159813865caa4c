"""From points to the entries of a tag file: identities, keys that are unique, options in one order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from gateway import catalogue
from schemas.plugin import Point

Options = Mapping[str, Any]
_FIRST: Final = ("name", "asset", "address", "type", "order", "unit", "scale", "offset", "enum", "label", "description")


@dataclass(frozen=True, slots=True)
class Entry:
    """One tag as it would be written: `identity` is its address in canonical spelling, `key` what stands before the colon."""

    identity: str
    key: str
    options: Options
    note: str = ""

    @property
    def address(self) -> str:
        """The address as it is written."""
        return str(self.options["address"])


def tag_model(kind: str) -> type[BaseModel]:
    """The class of a tag of that kind of adapter. Raises ConfigError for a kind that is not there."""
    from gateway.config.validate import models_in

    field = catalogue.plugin("adapters", kind).config.model_fields["tags"]
    return next(iter(models_in(field.annotation)))


def identity_of(kind: str) -> Callable[[Options], str]:
    """What tells the tags of one kind apart: the address in the adapter's canonical spelling (with the element or the field, where
    an option names one), as written where that is not readable."""
    model = tag_model(kind)

    def identity(options: Options) -> str:
        plain = {"address": options.get("address", ""), "type": options.get("type", "")}
        for candidate in (options, plain, {"address": plain["address"]}):
            try:
                return str(model.model_validate(candidate).wire_address())  # type: ignore[attr-defined]
            except ValidationError:
                continue
        return str(plain["address"])

    return identity


def entries(points: Iterable[Point], kind: str) -> list[Entry]:
    """One entry a point, by asset and otherwise in the order of the walk; a point that came twice is one entry.

    Two points of one name in one asset get a number behind their names, in the order of their addresses.
    """
    identity = identity_of(kind)
    by_identity: dict[str, Point] = {}
    for point in points:
        by_identity.setdefault(identity(point.options), point)
    same: dict[tuple[str, str], list[str]] = {}
    for key, point in by_identity.items():
        same.setdefault(_folded(point.asset, point.name), []).append(key)
    names = {key: point.name for key, point in by_identity.items()}
    taken = set(same)
    for keys in same.values():
        number = 2
        for key in sorted(keys)[1:]:
            point = by_identity[key]
            while _folded(point.asset, f"{point.name}_{number}") in taken:
                number += 1
            names[key] = f"{point.name}_{number}"
            taken.add(_folded(point.asset, names[key]))
    made = [_entry(key, names[key], point) for key, point in by_identity.items()]
    return sorted(made, key=lambda entry: str(entry.options.get("asset", "")))


def _entry(identity: str, name: str, point: Point) -> Entry:
    options: dict[str, Any] = {} if point.asset is None else {"name": name, "asset": point.asset}
    options |= {key: value for key, value in point.options.items() if value is not None and value != ""}
    return Entry(identity, name if point.asset is None else f"{point.asset}/{name}", ordered(options), point.note)


def ordered(options: Options) -> dict[str, Any]:
    """The options in the order in which people read them."""
    rank = {name: number for number, name in enumerate(_FIRST)}
    return {name: options[name] for name in sorted(options, key=lambda name: rank.get(name, len(rank)))}


def _folded(asset: str | None, name: str) -> tuple[str, str]:
    return (asset or "").casefold(), name.casefold()


def unique_key(key: str, taken: set[str]) -> str:
    """`key`, with a number behind it where it is taken; `taken` holds folded keys and gets the new one."""
    made, number = key, 2
    while made.casefold() in taken:
        made, number = f"{key}_{number}", number + 1
    taken.add(made.casefold())
    return made
