"""Rows that are no more: what is told of them, and how often that happened, by cause."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from schemas.kinds import Kind

Cause = Literal["dropped", "downsampled", "requested", "quarantined"]
"""The budget took them whole, or left windows of them; a person gave them up; damage."""

CAUSES: Final[tuple[Cause, ...]] = get_args(Cause)


@dataclass(frozen=True, slots=True)
class Loss:
    """Of the rows `first` … `last` of a kind so many are no more that `sinks` had not had, by sink; for a gap row each.

    `time_us` … `end_us` is when they came. With `downsampled` windows of them are left, which the sinks get.
    """

    kind: Kind
    first: int
    last: int
    cause: Cause
    sinks: Mapping[str, int]
    time_us: int
    end_us: int

    def pack(self) -> list[object]:
        """As JSON can hold it."""
        return [self.kind, self.first, self.last, self.cause, dict(self.sinks), self.time_us, self.end_us]

    @classmethod
    def unpack(cls, plain: list[object]) -> Loss:
        """The inverse of `pack`. Raises ValueError or TypeError for anything else."""
        kind, first, last, cause, sinks, time_us, end_us = plain
        return cls(kind, first, last, cause, sinks, time_us, end_us)  # type: ignore[arg-type]  # read back from what pack wrote


def fewer(losses: Sequence[Loss], most: int) -> list[Loss]:
    """At most about `most` losses that say the same, less finely: neighbours of one kind, cause and set of sinks become one."""
    if len(losses) <= most:
        return list(losses)
    merged: dict[tuple[Kind, Cause, frozenset[str]], list[Loss]] = {}
    for loss in losses:
        merged.setdefault((loss.kind, loss.cause, frozenset(loss.sinks)), []).append(loss)
    return [_one(group) for group in merged.values()]


def _one(group: Sequence[Loss]) -> Loss:
    sinks = {sink: sum(loss.sinks[sink] for loss in group) for sink in group[0].sinks}
    return Loss(
        group[0].kind, min(loss.first for loss in group), max(loss.last for loss in group), group[0].cause, sinks,
        min(loss.time_us for loss in group), max(loss.end_us for loss in group),
    )  # fmt: skip
