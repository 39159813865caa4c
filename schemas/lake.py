"""Layout of the lake: paths and file names, for the sink that writes and the reader that scans.

`{kind}/site={site}/date={YYYY-MM-DD}/{gateway}-{epoch}-{kind}-{first}-{last}.parquet`. The name carries the row span, so a
retry after a crash writes the same name; nothing visible starts with `_` or `.`, and temporary files start with `.tmp-`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime

from .kinds import Kind
from .span import SpoolSpan

_NAME = re.compile(r"(?P<gateway>[a-z0-9-]+)-(?P<epoch>\d{4,})-(?P<kind>[a-z]+)-(?P<first>\d{14,})-(?P<last>\d{14,})\.parquet")


@dataclass(frozen=True, slots=True)
class LakeFile:
    """One data file: its partition and the rows it answers for."""

    site: str
    date: date
    span: SpoolSpan

    def path(self) -> str:
        """The path relative to the lake's location, with `/`."""
        s = self.span
        name = f"{s.gateway}-{s.epoch:04d}-{s.kind}-{s.first:014d}-{s.last:014d}.parquet"
        return f"{s.kind}/site={self.site}/date={self.date.isoformat()}/{name}"

    @classmethod
    def parse(cls, path: str) -> LakeFile:
        """The inverse of `path`. Raises ValueError for anything else."""
        parts = path.split("/")
        match = _NAME.fullmatch(parts[-1])
        if len(parts) != 4 or not match or not parts[1].startswith("site=") or not parts[2].startswith("date="):
            raise ValueError(f"not a file of the lake: {path!r}")
        span = SpoolSpan(
            match["gateway"],
            int(match["epoch"]),
            _kind(match["kind"], parts[0], path),
            int(match["first"]),
            int(match["last"]),
        )
        return cls(parts[1][5:], date.fromisoformat(parts[2][5:]), span)


def _kind(kind: str, folder: str, path: str) -> Kind:
    from .kinds import KINDS

    if kind != folder or kind not in KINDS:
        raise ValueError(f"not a file of the lake: {path!r}")
    return kind


def date_of(time_us: int) -> date:
    """The UTC date of a row's time (µs)."""
    return datetime.fromtimestamp(time_us / 1e6, UTC).date()
