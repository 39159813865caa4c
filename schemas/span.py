"""Row spans of the spool and commands that come back from sinks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # kinds imports pyarrow, and notebooks read file names of the lake without it
    from .kinds import Kind


@dataclass(frozen=True, slots=True, order=True)
class SpoolSpan:
    """Rows `first` … `last` (both included) of one kind's log, as written by gateway `gateway` in `epoch`.

    The epoch changes only when another gateway takes over. (gateway, epoch, kind, row) identifies a row for ever; a sink
    that must write exactly once derives its object name from the span alone.
    """

    gateway: str
    epoch: int
    kind: Kind
    first: int
    last: int

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.last:
            raise ValueError(f"not a span: {self.first}..{self.last}")

    def __len__(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Command:
    """Something that a person or the cloud asks of the gateway: acknowledge, shelve, shadow delta, job."""

    name: str
    source: str
    arguments: Mapping[str, str | int | float | bool] = field(default_factory=dict)
