"""Which tags the server does not give us, told once per change."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

import structlog
from asyncua import ua

from .plan import Plan

RETRY_S: Final = 60.0
"""How often tags that were refused are asked for again."""
_AT_MOST: Final = 10  # names in one log line


class Refusals:
    """Status codes of the refused tags by position in the plan. One per session: a new session begins with none."""

    def __init__(self, plan: Plan, name: str, log: structlog.stdlib.BoundLogger) -> None:
        self._plan, self._name, self._log = plan, name, log
        self._now: Mapping[int, int] = {}

    @property
    def positions(self) -> Sequence[int]:
        """Tags that are refused now, in order."""
        return sorted(self._now)

    def update(self, refused: Mapping[int, int], asked: Collection[int] | None = None) -> Mapping[int, int]:
        """`refused` are all that are refused now, of those that were `asked` for (None: all); returns, and logs by name, those that
        were not or for another reason."""
        if asked is not None:
            refused = {position: status for position, status in self._now.items() if position not in asked} | dict(refused)
        new = {position: status for position, status in refused.items() if self._now.get(position) != status}
        back = sorted(self._now.keys() - refused.keys())
        self._now = dict(refused)
        if new:
            tags = [f"{_named(self._plan, p)}: {ua.StatusCode(status).name}" for p, status in list(new.items())[:_AT_MOST]]
            self._log.warning("tags cannot be read", adapter=self._name, count=len(new), tags=_cut(tags, len(new)))
        if back:
            self._log.info("tags can be read again", adapter=self._name, count=len(back), tags=names(self._plan, back))
        return new


def names(plan: Plan, positions: Iterable[int]) -> list[str]:
    """Path and address of each, and how many more there are above ten."""
    found = [int(position) for position in positions]
    return _cut([_named(plan, position) for position in found[:_AT_MOST]], len(found))


def _named(plan: Plan, position: int) -> str:
    return f"{plan.paths[position]} ({plan.addresses[position]})"


def _cut(names: list[str], count: int) -> list[str]:
    return [*names, f"and {count - len(names)} more"] if count > len(names) else names
