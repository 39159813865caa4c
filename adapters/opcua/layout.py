"""The layout of structures as JSON, for a capture: what a server told of its types, to decode the values of its fields elsewhere."""

from __future__ import annotations

import json
import uuid
from typing import Any

from .values import Field, Structure, Types
from .wire import MalformedMessage, NodeKey


def dumps(types: Types) -> bytes:
    """`types` as JSON."""
    structures = [
        [_spelled(key), one.name, one.optional, one.union, [_field(part) for part in one.fields]]
        for key, one in types.structures.items()
    ]
    encodings = [[_spelled(key), _spelled(data_type)] for key, data_type in types.encodings.items()]
    return json.dumps({"structures": structures, "encodings": encodings}, separators=(",", ":")).encode()


def loads(text: bytes) -> Types:
    """What `dumps` has written. Raises MalformedMessage for anything else."""
    try:
        found = json.loads(text)
        structures = {
            _key(key): Structure(str(name), tuple(_read(part) for part in parts), bool(optional), bool(union))
            for key, name, optional, union, parts in found["structures"]
        }
        return Types(structures, {_key(key): _key(data_type) for key, data_type in found["encodings"]})
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise MalformedMessage(f"not a layout of structures: {error}") from error


def _field(one: Field) -> list[Any]:
    return [one.name, one.kind, None if one.structure is None else _spelled(one.structure), one.rank, one.optional]


def _read(part: list[Any]) -> Field:
    name, kind, structure, rank, optional = part
    return Field(str(name), int(kind), None if structure is None else _key(structure), int(rank), bool(optional))


def _spelled(key: NodeKey) -> list[Any]:
    space, identifier = key
    if isinstance(identifier, bytes):
        return [space, "b", identifier.hex()]
    return [space, "g", str(identifier)] if isinstance(identifier, uuid.UUID) else [space, "", identifier]


def _key(spelled: list[Any]) -> NodeKey:
    space, form, identifier = spelled
    if form == "b":
        return int(space), bytes.fromhex(identifier)
    if form == "g":
        return int(space), uuid.UUID(identifier)
    return int(space), identifier if isinstance(identifier, int) else str(identifier)
