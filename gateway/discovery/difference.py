"""What is different between a tag file and what was found, three ways: the file, what was found last time, what is found now. Pure.

An option that the device changed and nobody edited follows the device. One that somebody edited stays. What both changed stays as
it is in the file, and is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from schemas.units import normalise

from .memory import Memory, Remembered
from .points import Entry, Options, unique_key
from .tagfile import TagFile, Written

Kind = Literal["added", "removed", "back", "readdressed", "retyped", "unit", "changed", "kept"]


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. `before` is what the file says, `after` what was found; of `kept` the file stays as it is, `note` says why."""

    kind: Kind
    key: str
    address: str
    option: str = ""
    before: Any = None
    after: Any = None
    note: str = ""
    entry: Entry | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """All changes, in the order of the file and then of the walk, and how many tags are as they were.

    `left_out` counts found tags that somebody has deleted from the file or put into comments; `not_asked` tags of the file that this walk
    could not have found (another scope, or a walk that is not whole), so that nothing is said of them.
    """

    changes: Sequence[Change]
    same: int = 0
    left_out: int = 0
    not_asked: int = 0

    def __bool__(self) -> bool:
        return bool(self.changes)


def compare(
    found: Sequence[Entry],
    file: TagFile,
    memory: Memory,
    identity: Callable[[Options], str],
    *,
    scope: str,
    whole: bool,
    again: bool = False,
) -> Difference:
    """The difference. `whole`: what the walk did not find is not there. `again`: tags that were deleted from the file come back."""
    return _Comparison(found, file, memory, identity, scope, whole, again).run()


class _Comparison:
    def __init__(
        self,
        found: Sequence[Entry],
        file: TagFile,
        memory: Memory,
        identity: Callable[[Options], str],
        scope: str,
        whole: bool,
        again: bool,
    ) -> None:
        self._found = {entry.identity: entry for entry in found}
        self._file, self._memory, self._identity = file, memory, identity
        self._written = list(file.written)
        self._scope, self._whole, self._again = scope, whole, again
        self._changes: list[Change] = []

    def run(self) -> Difference:
        written = [(tag, self._identity(tag.options)) for tag in self._written]
        present = {identity for _, identity in written}
        present |= {self._whole_value(tag) for tag, identity in written if identity not in self._found}
        left = {identity: entry for identity, entry in self._found.items() if identity not in present}
        moved = self._moved(written, left)
        same = not_asked = 0
        for tag, identity in written:
            before = len(self._changes)
            entry = self._found.get(identity)
            if entry is not None:
                self._matched(tag, entry, self._memory.tags.get(identity))
            elif tag.key in moved:
                self._readdressed(tag, identity, moved[tag.key])
                del left[moved[tag.key].identity]
            elif self._whole_value(tag) in self._found:
                pass  # an element of the array that was found, or a field of the structure
            elif not self._would_be_found(identity):
                not_asked += 1
                continue
            elif not tag.gone:
                self._changes.append(Change("removed", tag.key, str(tag.options.get("address", "")), note=tag.fixed))
            same += len(self._changes) == before
        left_out = self._added(left)
        return Difference(self._changes, same, left_out, not_asked)

    def _whole_value(self, tag: Written) -> str:
        """The address alone: of a tag that is a part of a value, the value."""
        return self._identity({"address": tag.options.get("address", "")})

    def _would_be_found(self, identity: str) -> bool:
        """Whether this walk had found the tag if it were there. One that nobody remembers was written by hand."""
        remembered = self._memory.tags.get(identity)
        if not self._whole:
            return False
        return remembered.scope == self._scope if remembered is not None else not self._memory.known

    def _moved(self, written: Iterable[tuple[Written, str]], left: Mapping[str, Entry]) -> dict[str, Entry]:
        """Tags whose address is not there any more while a new address would have their name: they have moved."""
        by_key: dict[str, list[Entry]] = {}
        for entry in left.values():
            if entry.identity not in self._memory.tags:
                by_key.setdefault(entry.key, []).append(entry)
        made: dict[str, Entry] = {}
        taken: set[str] = set()
        for tag, identity in written:
            if (
                identity in self._found
                or self._whole_value(tag) in self._found
                or not self._would_be_found(identity)
                or tag.fixed
            ):
                continue
            remembered = self._memory.tags.get(identity)
            candidates = by_key.get(remembered.key if remembered is not None else tag.key, [])
            if len(candidates) == 1 and candidates[0].identity not in taken:
                made[tag.key] = candidates[0]
                taken.add(candidates[0].identity)
        return made

    def _readdressed(self, tag: Written, identity: str, entry: Entry) -> None:
        self._changes.append(
            Change("readdressed", tag.key, entry.address, "address", tag.options.get("address"), entry.address, entry=entry)
        )
        self._matched(tag, entry, self._memory.tags.get(identity), moved=True)

    def _matched(self, tag: Written, entry: Entry, remembered: Remembered | None, *, moved: bool = False) -> None:
        if tag.gone:
            self._changes.append(Change("back", tag.key, entry.address))
        for option, now in entry.options.items():
            if option in ("address", "name") or (moved and option == "asset"):
                continue
            there = tag.options.get(option)
            if equal(option, there, now):
                continue
            if remembered is None:
                # A file without memory: its own word counts, also where it says nothing.
                if there is not None:
                    self._keep(tag, entry, option, there, now, "the file differs")
                continue
            base = remembered.options.get(option)
            if equal(option, base, now):
                continue  # the device says what it said: the difference is somebody's edit
            if not equal(option, there, base):
                self._keep(tag, entry, option, there, now, "edited in the file")
            elif tag.fixed:
                self._keep(tag, entry, option, there, now, tag.fixed)
            else:
                kind: Kind = {"type": "retyped", "unit": "unit"}.get(option, "changed")  # type: ignore[assignment]
                self._changes.append(Change(kind, tag.key, entry.address, option, there, now))
        for option, base in (remembered.options if remembered is not None else {}).items():
            if option not in entry.options and option not in ("name", "asset") and equal(option, tag.options.get(option), base):
                self._keep(tag, entry, option, base, None, "not told any more")

    def _keep(self, tag: Written, entry: Entry, option: str, before: Any, after: Any, why: str) -> None:
        self._changes.append(Change("kept", tag.key, entry.address, option, before, after, note=why))

    def _added(self, left: Mapping[str, Entry]) -> int:
        off = {self._identity({"address": address}) for address in self._file.off}
        keys = {tag.key.casefold() for tag in self._written}
        names = {_path(tag.key, tag.options) for tag in self._written}
        left_out = 0
        for identity, entry in left.items():
            deleted = identity in self._memory.tags and not self._again
            if deleted or identity in off or self._identity({"address": entry.address}) in off:
                left_out += 1
                continue
            key = unique_key(entry.key, keys)
            options = dict(entry.options)
            name = str(options.get("name", key))
            number = 2
            while _path(key, options) in names:
                options["name"] = f"{name}_{number}"
                number += 1
            if "name" in options and key != entry.key and options["name"] == entry.options.get("name"):
                options["name"] = key.rsplit("/", 1)[-1]
            names.add(_path(key, options))
            made = Entry(identity, key, options, entry.note)
            self._changes.append(Change("added", key, entry.address, note=entry.note, entry=made))
        return left_out


def _path(key: str, options: Options) -> str:
    return f"{options.get('asset', '')}/{options.get('name', key)}".casefold()


def equal(option: str, one: Any, other: Any) -> bool:
    """Whether two values of an option mean the same: units by their code, names of states by number, numbers by value."""
    if one is None or other is None:
        return one is other or _nothing(one) == _nothing(other) == ""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return {str(key): str(value) for key, value in one.items()} == {str(key): str(value) for key, value in other.items()}
    if option == "unit":
        return _unit(str(one)) == _unit(str(other))
    if option == "type":
        return "".join(str(one).split()).lower() == "".join(str(other).split()).lower()
    try:
        return float(one) == float(other)
    except (TypeError, ValueError):
        return " ".join(str(one).split()) == " ".join(str(other).split())


def _nothing(value: Any) -> str:
    return "" if value is None else str(value)


def _unit(text: str) -> str:
    try:
        return normalise(text)
    except ValueError:
        return text


def apply(difference: Difference, file: TagFile, *, day: str, prune: bool) -> None:
    """Make the changes in the file. Removed tags are marked; with `prune` they are taken out."""
    for change in difference.changes:
        match change.kind:
            case "added":
                assert change.entry is not None
                file.add(change.entry)
            case "removed" if not change.note:
                if not prune:
                    file.mark(change.key, day)
            case "back":
                file.mark(change.key, None)
            case "readdressed" | "retyped" | "unit" | "changed":
                file.set(change.key, change.option, change.after)
            case _:
                pass
    if prune:
        removed = {change.key for change in difference.changes if change.kind == "removed" and not change.note}
        back = {change.key for change in difference.changes if change.kind == "back"}
        for tag in list(file.written):
            if (tag.gone or tag.key in removed) and tag.key not in back and not tag.fixed:
                file.remove(tag.key)


def learnt(found: Iterable[Entry], memory: Memory, scope: str, forget: Iterable[str] = ()) -> Memory:
    """The memory after this walk. What was not found is kept, so that it is known when it comes back; `forget` are pruned."""
    tags = dict(memory.tags)
    for identity in forget:
        tags.pop(identity, None)
    for entry in found:
        tags[entry.identity] = Remembered(entry.key, dict(entry.options), scope)
    return Memory(tags, known=True)
