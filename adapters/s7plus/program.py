"""The program of a simulated PLC: data blocks and structures as its type information describes them, from the names of tags.

Layout of the type information as the library `s7commplus` reads it (`typeinfo.py` there), which in turn is what people saw PLCs send: objects of
attributes, a list of members (id, type, where), a list of their names. Scalars, strings, structures, and arrays of one dimension of all of these.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from s7commplus.protocol import DataType as Wire
from s7commplus.protocol import Ids
from s7commplus.typeinfo import (
    ATTRIBUTE,
    CLASS_OMS_TYPE_INFO_CONTAINER,
    START_OF_OBJECT,
    TERMINATING_OBJECT,
    VARNAME_LIST,
    VARTYPE_LIST,
    Softdatatype,
)
from s7commplus.vlq import encode_uint32_vlq

from adapters.s7.datatypes import DataType
from schemas.errors import ConfigError

_PART: Final = re.compile(r"(.+?)(?:\[(-?\d+)\])?")
_STD, _STRING, _ARRAY, _STRUCT, _STRUCTS = 8, 9, 10, 12, 13  # how a member says where it is
_TYPES: Final = {"tod": Softdatatype.TIMEOFDAY, "dt": Softdatatype.DATEANDTIME}
_TYPE_BASE: Final = 0x9200_0000
_IN_A_BLOCK: Final = 400  # members, or names, in one piece of a list


@dataclass(slots=True)
class _Member:
    """One member of a block or structure, with the members below it; `indices` are those that are used of an array."""

    name: str
    lid: int
    indices: list[int] = field(default_factory=list)
    members: dict[str, _Member] = field(default_factory=dict)
    kind: DataType | None = None
    relation: int = 0

    @property
    def low(self) -> int:
        return min(self.indices, default=0)

    @property
    def count(self) -> int:
        return max(self.indices) - self.low + 1 if self.indices else 0


class Program:
    """Blocks by name, each variable by where it is read. Raises ConfigError for names that cannot be in one program."""

    def __init__(self, variables: Mapping[str, DataType]) -> None:
        self._relations = 0
        self.blocks: dict[str, _Member] = {}
        for name, kind in variables.items():
            self._add(name, kind)

    def _add(self, name: str, kind: DataType) -> None:
        block, *parts = name.split(".")
        at = self.blocks.setdefault(block, _Member(block, len(self.blocks) + 1, relation=self._relation()))
        for number, part in enumerate(parts):
            found = _PART.fullmatch(part)
            if found is None or "," in part:
                raise ConfigError(f"{name} cannot be simulated", hint="a simulated PLC has arrays of one dimension")
            member = at.members.setdefault(found[1], _Member(found[1], len(at.members) + 9))
            if found[2] is not None:
                member.indices.append(int(found[2]))
            if number == len(parts) - 1:
                member.kind = kind
            elif not member.relation:
                member.relation = self._relation()
            if member.kind is not None and member.relation:
                raise ConfigError(f"{name} cannot be simulated", hint="a variable has a value or members, not both")
            at = member

    def _relation(self) -> int:
        self._relations += 1
        return _TYPE_BASE + self._relations

    def access(self, name: str) -> tuple[int, ...]:
        """Where a variable is read: the area of its block and the path of ids."""
        block, *parts = name.split(".")
        at = self.blocks[block]
        path = [area_of(at)]
        for part in parts:
            found = _PART.fullmatch(part)
            assert found is not None
            at = at.members[found[1]]
            path.append(at.lid)
            if at.indices:
                path.append(int(found[2] or 0) - at.low)
                if at.relation:
                    path.append(1)
        return tuple(path)

    def type_info(self) -> bytes:
        """The container of all types, as the PLC answers when it is asked for it."""
        children = b"".join(_type_object(member) for member in self._structures())
        return _object(Ids.OBJECT_OMS_TYPE_INFO_CONTAINER, CLASS_OMS_TYPE_INFO_CONTAINER, children)

    def block_list(self) -> bytes:
        """The data blocks with their names and numbers."""
        return b"".join(
            _object(
                area_of(block),
                Ids.DB_CLASS_RID,
                _attribute(Ids.OBJECT_VARIABLE_TYPE_NAME, _text(block.name))
                + _attribute(Ids.BLOCK_BLOCK_NUMBER, _number(block.lid)),
            )
            for block in self.blocks.values()
        )

    def relations(self) -> dict[int, int]:
        """The type of each block by its area."""
        return {area_of(block): block.relation for block in self.blocks.values()}

    def _structures(self) -> Iterator[_Member]:
        left = list(self.blocks.values())
        while left:
            member = left.pop()
            yield member
            left += [below for below in member.members.values() if below.relation]


def area_of(block: _Member) -> int:
    """The access area of a data block."""
    return int(Ids.DB_ACCESS_AREA_BASE) | block.lid


def _object(relation: int, class_id: int, content: bytes) -> bytes:
    head = bytes((START_OF_OBJECT,)) + struct.pack(">I", relation) + encode_uint32_vlq(class_id) + b"\0\0"
    return bytes(head) + content + bytes((TERMINATING_OBJECT,))


def _attribute(number: int, value: bytes) -> bytes:
    return bytes((ATTRIBUTE, *encode_uint32_vlq(number))) + value


def _text(text: str) -> bytes:
    raw = text.encode()
    return bytes((0, Wire.WSTRING, *encode_uint32_vlq(len(raw)))) + raw


def _number(number: int) -> bytes:
    return bytes((0, Wire.UDINT, *encode_uint32_vlq(number)))


def _type_object(structure: _Member) -> bytes:
    members = list(structure.members.values())
    types = _pieces([_vartype(member) for member in members], head=struct.pack("<I", 0))
    names = _pieces([_name(member.name) for member in members])
    return _object(structure.relation, 511, bytes((VARTYPE_LIST,)) + types + bytes((VARNAME_LIST,)) + names)


def _pieces(entries: list[bytes], head: bytes = b"") -> bytes:
    """A list in pieces with their lengths; `head` is in the first piece. A piece of length 0 ends it."""
    out = bytearray()
    for at in range(0, len(entries), _IN_A_BLOCK):
        piece = (head if at == 0 else b"") + b"".join(entries[at : at + _IN_A_BLOCK])
        out += struct.pack(">H", len(piece)) + piece
    return bytes(out) + b"\0\0"


def _name(name: str) -> bytes:
    raw = name.encode()[:255]
    return bytes((len(raw),)) + raw + b"\0"


def _vartype(member: _Member) -> bytes:
    length = member.kind.length if member.kind is not None else 0
    if member.kind is None:
        kind, where = Softdatatype.STRUCT, _STRUCTS if member.indices else _STRUCT
    else:
        kind = soft_type(member.kind)
        where = _ARRAY if member.indices else _STRING if length else _STD
        if member.indices and kind == Softdatatype.BOOL:
            kind = Softdatatype.BBOOL
    match where:
        case 8:
            place = struct.pack("<HH", 0, 0)
        case 9:
            place = struct.pack("<HHII", length, 0, 0, 0)
        case 10:
            place = struct.pack("<HHIIiI", length, 0, 0, 0, member.low, member.count)
        case 12:
            place = struct.pack("<HHIII4I", 0, 0, 0, 0, member.relation, 0, 0, 0, 0)
        case _:
            place = struct.pack("<HHIIiIIII4I", 0, 0, 0, 0, member.low, member.count, 0, 0, member.relation, 0, 0, 0, 0)
    return struct.pack("<II", member.lid, 0) + bytes((kind,)) + struct.pack(">H", where << 12) + b"\0" + place


def soft_type(kind: DataType) -> Softdatatype:
    """The library's number of a type."""
    return _TYPES.get(kind.name) or Softdatatype[kind.name.upper()]
