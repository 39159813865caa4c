"""What people have put aside: shelved alarms, which come back by themselves, and what is out of service until somebody says so.

One alarm, all alarms of a tag, or all of an asset and what is below it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Final, Literal

from .alarm_records import Key

Aside = Literal["shelved", "out_of_service"]
_NEVER: Final = 2**63 - 1
MOST: Final = 10_000
"""So much can be put aside at once."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Put aside by whom, since and until when (µs; None: until somebody ends it) and why."""

    state: Aside
    since_us: int
    until_us: int | None
    by: str = ""
    reason: str = ""


class Shelf:
    """Holds by key: (model, alarm, subject) for one alarm, ("", "", path) for a tag or asset and everything below it."""

    def __init__(self) -> None:
        self.holds: dict[Key, Hold] = {}
        self._looked_us = 0  # nothing is over before, µs; 0: nobody has looked

    def of(self, key: Key, asset: str, now: int) -> Hold | None:
        """What holds this alarm at `now`; what is out of service outranks what is shelved."""
        if not self.holds:
            return None
        found = [self.holds.get(key)]
        for path in {key[2], asset}:
            parts = path.split("/")
            found += [self.holds.get(("", "", "/".join(parts[:end]))) for end in range(1, len(parts) + 1)]
        valid = [hold for hold in found if hold is not None and (hold.until_us is None or hold.until_us > now)]
        return min(valid, key=lambda hold: (hold.state == "shelved", -(hold.until_us or 0)), default=None)

    def put(self, key: Key, hold: Hold) -> None:
        """Put something aside, in place of what was there. Raises ValueError when too much is."""
        if key not in self.holds and len(self.holds) >= MOST:
            raise ValueError(f"{MOST:,} alarms are put aside already; take some back first")
        self.holds[key] = hold
        self._looked_us = 0

    def take_expired(self, now: int) -> list[Key]:
        """Remove what is over at `now`, and say what it was."""
        if now < self._looked_us:
            return []
        over = [key for key, hold in self.holds.items() if hold.until_us is not None and hold.until_us <= now]
        for key in over:
            del self.holds[key]
        self._looked_us = min((hold.until_us for hold in self.holds.values() if hold.until_us is not None), default=_NEVER)
        return over

    def replace(self, holds: dict[Key, Hold]) -> None:
        """Put all of it aside, and nothing else."""
        self.holds, self._looked_us = holds, 0

    def __iter__(self) -> Iterator[tuple[Key, Hold]]:
        return iter(self.holds.items())

    def written(self) -> list[list[object]]:
        """For the snapshot."""
        return [[*key, asdict(hold)] for key, hold in self.holds.items()]

    @staticmethod
    def read(told: object) -> dict[Key, Hold]:
        """What `written` gave. Raises TypeError or ValueError for anything else."""
        if not isinstance(told, list):
            raise TypeError("the shelf is a list")
        found: dict[Key, Hold] = {}
        for model, alarm, subject, held in told:
            if isinstance(held, Mapping):
                found[str(model), str(alarm), str(subject)] = Hold(**held)
            else:  # version 1 knew only until when
                found[str(model), str(alarm), str(subject)] = Hold("shelved", 0, int(held))
        return found
