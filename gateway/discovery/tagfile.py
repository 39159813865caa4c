"""What a tag file that people edit can be asked and told. `yaml_file` and `csv_file` keep this contract."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from .points import Entry

GONE: Final = re.compile(r"^\s*# gone since \d{4}-\d{2}-\d{2}: ")
"""The comment above a tag that was not found any more."""
_ADDRESS: Final = re.compile(r"""address["']?\s*:\s*(?:"((?:[^"\\]|\\.)*)"|'((?:[^']|'')*)'|([^\s,}#][^,}\s]*))""")


def gone_mark(day: str) -> str:
    """The text of such a comment."""
    return f"# gone since {day}: not found there any more. Delete the tag, or run the command with --prune."


def switched_off(line: str) -> str | None:
    """The address in a line that is a comment: a tag that somebody has switched off; None where there is none."""
    stripped = line.strip()
    if not stripped.startswith("#"):
        return None
    found = _ADDRESS.search(stripped)
    return next((group for group in found.groups() if group is not None), None) if found else None


@dataclass(frozen=True, slots=True)
class Written:
    """A tag that stands in the file. `fixed` says why a program does not change it (its options come from an anchor)."""

    key: str
    options: Mapping[str, Any]
    gone: bool = False
    fixed: str = ""


class TagFile(Protocol):
    """A tag file in memory. Nothing is changed but what is told here; `text` is the file afterwards, byte for byte otherwise."""

    @property
    def written(self) -> Sequence[Written]:
        """The tags, in the order of the file."""
        ...

    @property
    def off(self) -> frozenset[str]:
        """Addresses that stand in comments: tags that somebody has switched off."""
        ...

    def set(self, key: str, option: str, value: object) -> None:
        """One option of a tag: another value, or a new option."""
        ...

    def add(self, entry: Entry) -> None:
        """A new tag, behind the others. Its key is not in the file yet."""
        ...

    def mark(self, key: str, day: str | None) -> None:
        """Mark a tag as gone since `day`; None takes the mark away."""
        ...

    def remove(self, key: str) -> None:
        """Take a tag out, with its mark."""
        ...

    def text(self) -> str:
        """The file with all changes."""
        ...
