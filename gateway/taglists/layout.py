"""Where the values of a data block with standard access lie. Pure.

Source: STEP 7, Programming (A5E02789666), appendix on data types: bits are packed into bytes; bytes begin at any byte; everything
wider, strings, structures and arrays begin at an even byte; what follows a structure or an array begins at an even byte again. In an array of bits
with several dimensions each row of the last one begins at a new byte. Each string of an array begins at an even byte.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from adapters.s7.datatypes import DataType, parse_type

from .rows import MOST_TAGS

_UNREAD: Final = {
    "pointer": 6, "any": 10, "block_db": 2, "block_fb": 2, "block_fc": 2, "block_sdb": 2, "db_any": 2, "hw_any": 2, "hw_io": 2, "hw_device": 2,
    "hw_interface": 2, "hw_submodule": 2, "hw_iosystem": 2, "conn_any": 2, "conn_ouc": 2, "port": 2, "ob_any": 2, "ob_cyclic": 2, "aom_ident": 4,
    "iec_timer": 16, "ton_time": 16, "tof_time": 16, "tp_time": 16, "tonr_time": 16,
}  # fmt: skip
"""Types that are not read, with their bytes, so that what follows keeps its address."""
_MOST_BITS: Final = 64 * 1024 * 8
_DEEPEST: Final = 24


@dataclass(frozen=True, slots=True)
class Shape:
    """The type of a declaration: a name (of an elementary or a user-defined type), or members; `bounds` makes an array of it."""

    type: str
    members: tuple[Member, ...] = ()
    bounds: tuple[tuple[int, int], ...] = ()
    length: int | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """One declaration."""

    name: str
    shape: Shape
    line: int
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Slot:
    """One value at its place, in bits from the beginning of the block. `problem` says why it is not read."""

    name: str
    type: str
    bit: int
    line: int
    comment: str = ""
    note: str = ""
    problem: str = ""

    def address(self, db: int) -> str:
        """The absolute address in the spelling of its width."""
        if self.type == "bool":
            return f"DB{db}.DBX{self.bit // 8}.{self.bit % 8}"
        size = parse_type(self.type).size
        letter = {1: "B", 2: "W", 4: "D"}.get(size, "B") if parse_type(self.type).kind not in ("text", "array") else "B"
        return f"DB{db}.DB{letter}{self.bit // 8}"


class _Unknown(Exception):
    """A type whose size nobody knows: nothing behind it has a known address."""


class Layout:
    """Lays members out one behind the other. `types` are user-defined types by folded name."""

    def __init__(self, types: Mapping[str, Sequence[Member]], *, whole_arrays: bool = False) -> None:
        self._types, self._whole_arrays = types, whole_arrays
        self._bit = 0
        self._odd_string = False
        self._lost = ""

    def slots(self, members: Sequence[Member]) -> Iterator[Slot]:
        """Every value in order. Behind a type of unknown size each value is a problem."""
        return itertools.islice(self._members(members, "", 0), MOST_TAGS + 1)

    def _members(self, members: Sequence[Member], prefix: str, depth: int) -> Iterator[Slot]:
        for member in members:
            name = f"{prefix}.{member.name}" if prefix and member.name else prefix or member.name
            yield from self._member(replace(member, name=name), depth)

    def _member(self, member: Member, depth: int) -> Iterator[Slot]:
        if self._lost:
            yield Slot(member.name, "", 0, member.line, problem=self._lost)
            return
        shape = member.shape
        if not shape.bounds:
            yield from self._one(member, depth)
            return
        self._align(16)
        ranges = [range(low, high + 1) for low, high in shape.bounds]
        total = 1
        for one in ranges:
            total *= len(one)
        if not 0 < total <= MOST_TAGS:
            self._lost = f"it comes behind {member.name}, an array of {total:,} elements"
            yield Slot(member.name, "", 0, member.line, problem=f"an array of {total:,} elements")
            return
        element = Shape(shape.type, shape.members, (), shape.length)
        whole = self._whole(member, element, total) if self._whole_arrays else None
        if whole is not None:
            yield whole
        else:
            for indices in itertools.product(*ranges):
                if shape.type == "bool" and len(ranges) > 1 and indices[-1] == ranges[-1].start:
                    self._align(8)
                name = f"{member.name}[{','.join(map(str, indices))}]"
                yield from self._member(replace(member, name=name, shape=element), depth)
        self._align(16)

    def _whole(self, member: Member, element: Shape, total: int) -> Slot | None:
        """An array of numbers as one tag; None where it is read element by element."""
        kind = _elementary(element)
        if kind is None or kind.kind != "number":
            return None
        at = self._bit
        self._bit += total * kind.size * 8
        return Slot(member.name, f"array[{total}] of {kind}", at, member.line, member.comment)

    def _one(self, member: Member, depth: int) -> Iterator[Slot]:
        shape = member.shape
        members = shape.members or self._types.get(shape.type.casefold(), ())
        if members:
            if depth > _DEEPEST:
                self._lost = f"it comes behind {member.name}, whose types nest too deep"
                yield Slot(member.name, "", 0, member.line, problem="its types nest too deep")
                return
            self._align(16)
            yield from self._members(members, member.name, depth + 1)
            self._align(16)
            return
        kind = _elementary(shape)
        if kind is None:
            yield self._not_read(member)
            return
        doubtful = self._odd_string and kind.size == 1
        self._align(1 if kind.kind == "bool" else 8 if kind.size == 1 else 16)
        note = "it follows a text of odd length: compare its offset with TIA Portal" if doubtful else ""
        yield Slot(member.name, str(kind), self._bit, member.line, member.comment, note)
        self._bit += 1 if kind.kind == "bool" else kind.size * 8
        self._odd_string = (kind.kind == "text" and kind.size % 2 == 1 and kind.size > 1) or (doubtful and self._bit % 16 != 0)
        if self._bit > _MOST_BITS:
            self._lost = f"it comes behind {member.name}, at the end of what a data block holds (64 KiB)"

    def _not_read(self, member: Member) -> Slot:
        size = _UNREAD.get(member.shape.type.casefold())
        if size is None:
            shown = member.shape.type or "its type"
            self._lost = f"it comes behind {member.name}, whose type {shown} is not in the file, so its address is not known"
            return Slot(
                member.name, "", 0, member.line, problem=f"the type {shown} is not in the file; export it along with the block"
            )
        self._align(16)
        self._bit += size * 8
        return Slot(member.name, "", 0, member.line, problem=f"{member.shape.type} is no value that is read")

    def _align(self, bits: int) -> None:
        self._bit = -(-self._bit // bits) * bits


def _elementary(shape: Shape) -> DataType | None:
    name = f"{shape.type}[{shape.length}]" if shape.length is not None else shape.type
    try:
        kind = parse_type(name)
    except ValueError:
        return None
    return None if kind.kind == "array" else kind
