"""What a run of compaction is asked, plans, and reports: plain values that may travel to another machine and back."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from schemas.kinds import KINDS, Kind
from schemas.lake import LakeFile

TARGET_BYTES: Final = 256 << 20
GRACE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Which files are merged: at least two, of one folder and log."""

    folder: str
    files: tuple[LakeFile, ...]
    bytes: int

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {"folder": self.folder, "files": [file.path().rpartition("/")[2] for file in self.files], "bytes": self.bytes}


@dataclass(frozen=True, slots=True)
class Done:
    """A merge that counts."""

    plan: Plan
    file: str
    rows: int
    bytes: int

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {**self.plan.as_json(), "file": self.file, "rows": self.rows, "bytes_after": self.bytes}


@dataclass(slots=True)
class Report:
    """What a run did, or with `dry_run` would begin with. `problems` are sentences: a person looks at those files, which stay as they are."""

    planned: list[Plan] = field(default_factory=list)
    merged: list[Done] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)  # folders whose lost manifest was made again
    problems: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        """For programs; the keys are kept over versions."""
        return {
            "ok": not self.problems, "planned": [one.as_json() for one in self.planned], "merged": [one.as_json() for one in self.merged],
            "removed": self.removed, "restored": self.restored, "problems": self.problems,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Options:
    """What is merged. `older_than_s`: only dates that ended at least so long ago, None for every date, today's too."""

    kinds: Collection[Kind] = KINDS
    target_bytes: int = TARGET_BYTES
    older_than_s: float | None = None
    grace_s: float = GRACE_S
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a plan somewhere else: the merge, if it counts, what a person should look at, and the files that are left alone."""

    done: Done | None
    problems: tuple[str, ...] = ()
    bad: frozenset[str] = frozenset()
