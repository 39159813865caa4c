"""Pure planning: tags and what the PLC says of its variables to a list of items, and their bytes to values with numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import tzinfo
from typing import Final, Protocol, cast

from adapters.base import BoundTag, TagConfig
from adapters.s7.plan import Layout, Place, Values
from adapters.s7.wire import Span
from schemas import quality as q

from .config import S7PlusTag

UNKNOWN: Final = "the PLC has no variable of this name"
REFUSED: Final = "the PLC does not give the value"
CHUNK: Final = 40
"""Variables in one request: an S7-1200 of firmware V4.2 refuses more than 50, and a request may have 900 bytes."""
_AREA: Final = 0x84
_WHOLE: Final = 1 << 24  # one answer holds everything: the bytes are put in place value by value


class Described(Protocol):
    """A variable as the PLC describes it."""

    @property
    def access(self) -> tuple[int, ...]: ...
    @property
    def type(self) -> str: ...


class Plan:
    """The tags of one scan class. `resolve` for each connection and changed program, then `decode` as often as they are read."""

    def __init__(self, tags: Sequence[BoundTag[TagConfig]], zone: tzinfo) -> None:
        self.tags = tags
        self._configs = [cast(S7PlusTag, bound.config) for bound in tags]
        self._kinds = [config.data_type for config in self._configs]
        self.by_name = any(config.place.name for config in self._configs)
        places, at = [], 0
        for bound, config, kind in zip(tags, self._configs, self._kinds, strict=True):
            whole = bound.tag.value_type == "integer"
            places.append(Place(Span(_AREA, 1, at, kind.size), kind, encoding=config.encoding, whole=whole))
            at += kind.size + kind.size % 2
        self._layout = Layout(places, _WHOLE, zone=zone)
        self.items: list[tuple[int, ...]] = []
        self.wrong: dict[int, tuple[int, str]] = {}
        """Quality and reason of the tags that are not read, or that were refused in the last poll, by position."""
        self._unread: dict[int, tuple[int, str]] = {}
        self._positions: list[int] = []

    def resolve(self, symbols: Mapping[str, Described]) -> None:
        """Where each tag is now. A name that is not there, or has another type, is not read."""
        self.items, self._positions, self._unread = [], [], {}
        for position, (config, kind) in enumerate(zip(self._configs, self._kinds, strict=True)):
            place = config.place
            access = place.access
            if place.name:
                found = symbols.get(place.name)
                if found is None:
                    self._unread[position] = (q.BAD_NODE_ID_UNKNOWN, UNKNOWN)
                    continue
                if found.type.partition("[")[0] != kind.name:
                    self._unread[position] = (
                        q.BAD_TYPE_MISMATCH,
                        f"the PLC says that its type is {found.type or 'one that is not read'}",
                    )
                    continue
                access = found.access
            self.items.append(access)
            self._positions.append(position)
        self.wrong = dict(self._unread)

    def decode(self, answers: Sequence[bytes | None]) -> Values:
        """Values and quality of all tags, from the bytes of `items`."""
        wrong = dict(self._unread)
        for position, raw in zip(self._positions, answers, strict=True):
            kind = self._kinds[position]
            if raw is None:
                wrong[position] = (q.BAD_NOT_READABLE, REFUSED)
            elif len(raw) == kind.size or (kind.length and len(raw) < kind.size):  # a string shorter than it is said to be
                self._layout.store_at(position, 0, bytes(raw).ljust(kind.size, b"\0"))
            else:
                wrong[position] = (q.BAD_TYPE_MISMATCH, f"the PLC sends {len(raw)} bytes where {kind} has {kind.size}")
        self.wrong = wrong
        return self._layout.decode({position: quality for position, (quality, _) in wrong.items()})
