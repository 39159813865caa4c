"""Plain data that remembers where it was written: mappings and lists with a spot per item, over several files.

`Section` is a dict and `Items` a list, so pydantic takes them as they are. Positions are computed only when something is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from .source import Source, Span

Value: TypeAlias = "Section | Items | str | int | float | bool | None"
Loc: TypeAlias = tuple[str | int, ...]


class Unresolved(str):
    """Stands for a value that could not be had (a missing variable, a broken part of YAML), so that nobody judges it."""

    __slots__ = ()


class Referenced(str):
    """A text that was put together from references: what is seen in the file is not the secret."""

    __slots__ = ()


class Spot(Protocol):
    """Where one item of a mapping or list was written."""

    @property
    def source(self) -> Source: ...
    def key(self) -> Span:
        """The key; for an item of a list the item itself."""
        ...

    def value(self) -> Span:
        """The value: all of a text or number, the beginning of a mapping or list."""
        ...

    def written(self) -> str | None:
        """The text of a value that stands there without quotes (`0102` for the number 102), else None."""
        ...

    def hide(self) -> None:
        """Never show the value."""
        ...


class Section(dict[str, Value]):
    """A mapping. `spots` has the same keys; `source` is the file where the mapping itself was written."""

    __slots__ = ("source", "spots")

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.source = source
        self.spots: dict[str, Spot] = {}

    def put(self, key: str, value: Value, spot: Spot) -> None:
        """Set an item with its place."""
        self[key] = value
        self.spots[key] = spot

    def replace(self, key: str | int, value: Value) -> None:
        """Another value at the same place."""
        self[str(key)] = value

    def take(self, other: Section, *, skip: Sequence[str] = ()) -> None:
        """Set every item of `other` with its place, except those named in `skip`."""
        for key, value in other.items():
            if key not in skip:
                self.put(key, value, other.spots[key])

    def copied(self) -> Section:
        """The same items in a new section."""
        made = Section(self.source)
        made.take(self)
        return made

    def without(self, *keys: str) -> Section:
        """The same without these keys."""
        made = Section(self.source)
        made.take(self, skip=keys)
        return made


class Items(list[Value]):
    """A list; `spots[i]` is the place of item i. Made from other items it has no places: pydantic copies lists that way."""

    __slots__ = ("spots",)

    def __init__(self, items: Iterable[Value] = ()) -> None:
        super().__init__(items)
        self.spots: list[Spot] = []

    def put(self, value: Value, spot: Spot) -> None:
        """Append an item with its place."""
        self.append(value)
        self.spots.append(spot)

    def replace(self, key: str | int, value: Value) -> None:
        """Another value at the same place."""
        self[int(key)] = value


class Found(NamedTuple):
    """The deepest part of a path that was really written: its path, value and spot (None for a whole file)."""

    loc: Loc
    value: Value
    spot: Spot | None


def find(root: Section, loc: Sequence[str | int]) -> Found:
    """Follow `loc` as far as it was written. Parts that name no item are passed over: pydantic puts names of types among them."""
    value: Value = root
    spot: Spot | None = None
    found: list[str | int] = []
    for part in loc:
        step = _step(value, part)
        if step is not None:
            value, spot = step
            found.append(part)
    return Found(tuple(found), value, spot)


def _step(value: Value, part: str | int) -> tuple[Value, Spot] | None:
    if isinstance(value, Section) and isinstance(part, str) and part in value:
        return value[part], value.spots[part]
    if isinstance(value, Items) and isinstance(part, int) and 0 <= part < len(value):
        return value[part], value.spots[part]
    return None
