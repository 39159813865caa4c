"""Where each kind of data goes: by default, or by the rules of the file. Pure and light: `genba check` needs no Arrow for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

from schemas.data import KINDS, Kind

DEFAULTS: Final[Mapping[Kind, tuple[str, ...]]] = {
    "telemetry": ("parquet",),
    "event": ("parquet", "iot_core"),
    "score": (),
    "alert": ("mqtt", "iot_core", "parquet"),
    "health": ("parquet", "iot_core"),
    "image": ("parquet",),
    "gap": ("parquet",),
}
"""The kinds of sink that each kind of data goes to when no rule names it."""

TOLD: Final = ("mqtt", "iot_core")
"""The kinds of sink behind which there are people: an alert that is held back does not go there."""


class Rule(Protocol):
    """What the router reads of one entry below `routes:`."""

    @property
    def data(self) -> Kind: ...
    @property
    def tags(self) -> Sequence[str]: ...
    @property
    def to(self) -> Sequence[str]: ...


def destinations(rules: Iterable[Rule] | None, sinks: Mapping[str, str]) -> dict[Kind, tuple[str, ...]]:
    """The sinks of each kind, in the order of `sinks` (name -> kind of sink)."""
    found: dict[Kind, tuple[str, ...]] = {}
    rules = list(rules or ())
    for kind in KINDS:
        mine = [rule for rule in rules if rule.data == kind]
        if mine:
            named = {name for rule in mine for name in rule.to}
            found[kind] = tuple(name for name in sinks if name in named)
        else:
            found[kind] = tuple(name for name, sink_kind in sinks.items() if sink_kind in DEFAULTS[kind])
    return found
