"""Asks the server how its structures are laid out: the DataTypeDefinition of their data types (OPC 10000-3, 5.8.3; OPC UA 1.04).

Only variables with a field that is a tag are looked at. A structure that the server does not describe makes bad rows of these tags,
and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from asyncua import ua

from .connection import Connection
from .plan import Plan, chunks
from .values import Field, Structure, Types
from .wire import NodeKey

MAX_TYPES: Final = 500
_DEFINITIONS: Final = 20  # in one read: some have hundreds of fields
_ENUMERATION: Final = 29
_NUMBERS: Final = (26, 27, 28)  # abstract: their values come as Variants
_STRUCTURE: Final = 22
_INT32: Final = 6
_VARIANT: Final = 24
_PLAIN_FORMS: Final = (ua.StructureType.Structure, ua.StructureType.StructureWithOptionalFields, ua.StructureType.Union)


async def load_types(
    connection: Connection, plan: Plan, nodes: Mapping[int, ua.NodeId], nodes_per_read: int, types: Types
) -> None:
    """Add to `types` what the variables at the positions `nodes` need. Raises what `failures` translates."""
    wanted = [position for position in plan.parts if position in nodes and _has_field(plan, position)]
    if not wanted:
        return
    answers = await _read(connection, [nodes[p] for p in wanted], ua.AttributeIds.DataType, nodes_per_read)
    pending = {key for answer in answers if isinstance(answer, ua.NodeId) and (key := _key(answer)) not in types.structures}
    definitions: dict[NodeKey, object] = {}
    bases: dict[NodeKey, NodeKey] = {}  # of a type without a definition: its supertype
    looked_at: set[NodeKey] = set()
    while pending and len(looked_at) < MAX_TYPES:
        level = sorted(pending, key=str)[: MAX_TYPES - len(looked_at)]
        looked_at |= set(level)
        few = min(nodes_per_read or _DEFINITIONS, _DEFINITIONS)
        found = await _read(connection, [_node(key) for key in level], ua.AttributeIds.DataTypeDefinition, few)
        pending = set()
        undescribed: list[NodeKey] = []
        for key, definition in zip(level, found, strict=True):
            if isinstance(definition, ua.StructureDefinition):
                definitions[key] = definition
                pending |= {_key(one.DataType) for one in definition.Fields or []}
            elif isinstance(definition, ua.EnumDefinition):
                definitions[key] = definition
            else:
                undescribed.append(key)
        bases |= await _supertypes(connection, undescribed)
        pending |= {bases[key] for key in undescribed if key in bases}
        pending = {key for key in pending if key not in looked_at and not _built_in(key)}
    for key, definition in definitions.items():
        if isinstance(definition, ua.StructureDefinition):
            _add(types, key, definition, definitions, bases)
    if definitions:
        connection.keep_types(types)


def _has_field(plan: Plan, position: int) -> bool:
    return any(isinstance(step, str) for part in plan.parts[position] for step in plan.selections[part])


async def _read(
    connection: Connection, nodes: Sequence[ua.NodeId], attribute: ua.AttributeIds, nodes_per_read: int
) -> list[object]:
    """An attribute of each node; None for one that has none."""
    found: list[object] = []
    for chunk in chunks(range(len(nodes)), nodes_per_read):
        answers = await connection.session.read_attributes([nodes[k] for k in chunk], attribute)
        found += [a.Value.Value if a.Value is not None and a.StatusCode.is_good() else None for a in answers]
    return found


async def _supertypes(connection: Connection, keys: Sequence[NodeKey]) -> dict[NodeKey, NodeKey]:
    """The type above each."""
    found: dict[NodeKey, NodeKey] = {}
    for chunk in chunks(range(len(keys)), 100):
        asked = ua.BrowseParameters(
            RequestedMaxReferencesPerNode=1,
            NodesToBrowse=[
                ua.BrowseDescription(
                    NodeId=_node(keys[k]),
                    BrowseDirection=ua.BrowseDirection.Inverse,
                    ReferenceTypeId=ua.NodeId(ua.ObjectIds.HasSubtype),
                    IncludeSubtypes=False,
                    ResultMask=0,
                )
                for k in chunk
            ],
        )
        for k, answer in zip(chunk, await connection.session.browse(asked), strict=True):
            if answer.References:
                found[keys[k]] = _key(answer.References[0].NodeId)
    return found


def _add(
    types: Types,
    key: NodeKey,
    definition: ua.StructureDefinition,
    definitions: Mapping[NodeKey, object],
    bases: Mapping[NodeKey, NodeKey],
) -> None:
    """One structure; left out when a field has a type that cannot be read."""
    if definition.StructureType not in _PLAIN_FORMS:
        return  # fields whose type is told in each value
    fields = []
    for one in definition.Fields or []:
        kind, structure = _type_of(_key(one.DataType), definitions, bases)
        if not kind:
            return
        rank = max(0, int(one.ValueRank))
        fields.append(Field(str(one.Name), kind, structure, rank, bool(one.IsOptional)))
    form = definition.StructureType
    types.structures[key] = Structure(
        str(key),
        tuple(fields),
        optional=form == ua.StructureType.StructureWithOptionalFields,
        union=form == ua.StructureType.Union,
    )
    types.encodings[_key(definition.DefaultEncodingId)] = key


def _type_of(key: NodeKey, definitions: Mapping[NodeKey, object], bases: Mapping[NodeKey, NodeKey]) -> tuple[int, NodeKey | None]:
    """(built-in type, structure) of a field; (0, None) where nobody says."""
    for _ in range(MAX_TYPES):
        definition = definitions.get(key)
        if isinstance(definition, ua.StructureDefinition):
            return _STRUCTURE, key
        if isinstance(definition, ua.EnumDefinition):
            return _INT32, None
        if _built_in(key):
            number = key[1]
            assert isinstance(number, int)
            return _VARIANT if number in _NUMBERS else _INT32 if number == _ENUMERATION else number, None
        if key not in bases:
            return 0, None
        key = bases[key]
    return 0, None


def _built_in(key: NodeKey) -> bool:
    return key[0] == 0 and isinstance(key[1], int) and 1 <= key[1] <= _ENUMERATION


def _key(node: ua.NodeId) -> NodeKey:
    return int(node.NamespaceIndex), node.Identifier


def _node(key: NodeKey) -> ua.NodeId:
    if isinstance(key[1], bytes):
        return ua.NodeId(key[1], key[0], ua.NodeIdType.ByteString)
    return ua.NodeId(key[1], key[0])
