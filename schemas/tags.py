"""The resolved tag: what every room knows of one measured point."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

ValueType = Literal["number", "integer", "text", "samples"]
"""Which column of a reading holds the value: value, value_int, text or samples."""
Severity = Literal["info", "warning", "critical"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Alarm limits in the unit of the tag; None is not watched. `hysteresis` is how far a value must come back."""

    low_low: float | None = None
    low: float | None = None
    high: float | None = None
    high_high: float | None = None
    hysteresis: float = 0.0


@dataclass(frozen=True, slots=True)
class Tag:
    """One tag, resolved from the configuration. `id` is -1 until the registry has given it one.

    Two tags are the same tag when their `path` is the same; everything else may change over time and is kept with
    valid-from / valid-to in the lake's `tags` table.
    """

    path: str  # enterprise/site/asset/name
    asset: str  # enterprise/site/asset
    name: str
    adapter: str  # key below `adapters:`
    device: str  # key below `devices:`, or the adapter's
    address: str  # the wire address, echoed in the adapter's canonical spelling
    value_type: ValueType = "number"
    unit: str = "1"  # UCUM
    label: str = ""
    description: str = ""
    period_us: int = 1_000_000  # scan class
    deadband: float = 0.0  # absolute, in the unit of the tag
    report_at_least_us: int = 0  # 0: no heartbeat
    limits: Limits | None = None
    severity: Severity | None = None  # of its limit alarms, where the configuration says so
    action: str = ""  # what a person does when its limit alarm comes
    enum: Mapping[int, str] = field(default_factory=dict)
    id: int = -1

    @property
    def display(self) -> str:
        """What a person reads: the label if there is one, else asset and name."""
        return self.label or f"{self.asset.rsplit('/', 1)[-1]} {self.name}"


class TagDirectory(Protocol):
    """Looks tags up by id. Ids are dense, start at 0, are durable before first use and never reused."""

    def __getitem__(self, tag_id: int) -> Tag:
        """The tag as it is now (retired tags keep their last description). Raises KeyError for an id never given."""
        ...

    def __iter__(self) -> Iterator[Tag]:
        """All tags ever registered, in order of id."""
        ...

    def __len__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class TagVersion:
    """A tag as it was described from `valid_from_us` (included) to `valid_to_us` (not included; None: still so), µs UTC.

    `valid_from_row` is the first telemetry row that can bear this description: what it holds for does not depend on a clock.
    """

    tag: Tag
    valid_from_us: int
    valid_to_us: int | None = None
    valid_from_row: int = 0


@runtime_checkable
class TagHistory(Protocol):
    """A tag directory that also remembers earlier descriptions."""

    def history(self) -> Iterator[TagVersion]:
        """Every version of every tag ever registered, in order of id, oldest version first."""
        ...
