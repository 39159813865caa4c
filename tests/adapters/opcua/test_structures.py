"""How definitions of a server become structures: nested, by supertype, in a circle, or not at all."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any, cast

import pytest
from asyncua import ua

from adapters.opcua.connection import Connection
from adapters.opcua.layout import dumps, loads
from adapters.opcua.plan import compile_plan
from adapters.opcua.structures import MAX_TYPES, load_types
from adapters.opcua.values import Field, Structure, Types
from adapters.opcua.wire import MalformedMessage
from tests.adapters.opcua.rig import bind, configure


class Dictionary:
    """A session whose data types are given: definitions and supertypes by their number in namespace 2."""

    def __init__(self, definitions: dict[int, Any], supertypes: dict[int, ua.NodeId] | None = None) -> None:
        self.session = self
        self.asked = 0
        self._definitions, self._supertypes = definitions, supertypes or {}

    async def read_attributes(self, nodes: Sequence[ua.NodeId], attribute: ua.AttributeIds) -> list[ua.DataValue]:
        await asyncio.sleep(0)
        self.asked += len(nodes)
        if attribute == ua.AttributeIds.DataType:
            return [ua.DataValue(ua.Variant(ua.NodeId(1, 2), ua.VariantType.NodeId)) for _ in nodes]
        found = [self._definitions.get(node.Identifier) if node.NamespaceIndex == 2 else None for node in nodes]
        bad = ua.DataValue(ua.Variant(), ua.StatusCode(ua.StatusCodes.BadAttributeIdInvalid))
        return [bad if one is None else ua.DataValue(ua.Variant(one, ua.VariantType.ExtensionObject)) for one in found]

    def keep_types(self, types: Types) -> None:
        self.kept = loads(dumps(types))

    async def browse(self, asked: ua.BrowseParameters) -> list[ua.BrowseResult]:
        await asyncio.sleep(0)
        above = [self._supertypes.get(one.NodeId.Identifier) for one in asked.NodesToBrowse]
        return [ua.BrowseResult(References=[ua.ReferenceDescription(NodeId=one)] if one is not None else []) for one in above]


def structure(encoding: int, *fields: ua.StructureField, form: ua.StructureType = ua.StructureType.Structure) -> Any:
    return ua.StructureDefinition(DefaultEncodingId=ua.NodeId(encoding, 2), StructureType=form, Fields=list(fields))


def field(name: str, kind: ua.NodeId, rank: int = -1) -> ua.StructureField:
    return ua.StructureField(Name=name, DataType=kind, ValueRank=rank, IsOptional=False)


async def load(server: Dictionary) -> Types:
    config = configure(
        {"t": {"address": "ns=2;s=T", "field": "a"}, "element": {"address": "ns=2;s=U", "index": 1}, "plain": "ns=2;s=V"}
    )
    types = Types()
    plan = compile_plan(bind(config), config)
    await load_types(cast(Connection, server), plan, {k: ua.NodeId("T", 2) for k in range(3)}, 0, types)
    return types


async def test_nested_structures_enumerations_subtypes_and_any_number() -> None:
    duration = ua.NodeId(290)
    server = Dictionary(
        {
            1: structure(
                101,
                field("a", ua.NodeId(2, 2), 1),
                field("b", ua.NodeId(3, 2)),
                field("c", duration),
                field("d", ua.NodeId(26), 2),
            ),
            2: structure(102, field("x", ua.NodeId(11))),
            3: ua.EnumDefinition(),
        },
        {290: ua.NodeId(11)},
    )
    types = await load(server)
    fields = (Field("a", 22, (2, 2), 1), Field("b", 6), Field("c", 11), Field("d", 24, rank=2))
    assert types.structures[2, 1] == Structure("(2, 1)", fields)
    assert types.structures[2, 2].fields == (Field("x", 11),)
    assert types.encodings == {(2, 101): (2, 1), (2, 102): (2, 2)}
    assert server.asked == 5  # the one variable with a field, and four types


async def test_what_nobody_describes_is_left_out() -> None:
    assert (await load(Dictionary({}))).structures == {}
    assert (await load(Dictionary({1: structure(101, field("a", ua.NodeId(9, 2)))}))).structures == {}
    subtyped = structure(101, field("a", ua.NodeId(11)), form=ua.StructureType.StructureWithSubtypedValues)
    assert (await load(Dictionary({1: subtyped}))).structures == {}


async def test_types_in_a_circle_and_without_end_are_bounded() -> None:
    circle = Dictionary({1: structure(101, field("a", ua.NodeId(8, 2)))}, {8: ua.NodeId(9, 2), 9: ua.NodeId(8, 2)})
    assert (await load(circle)).structures == {}
    own = await load(Dictionary({1: structure(101, field("a", ua.NodeId(1, 2)))}))
    assert own.structures[2, 1].fields == (Field("a", 22, (2, 1)),)  # decoding it is bounded by depth
    endless = Dictionary({k: structure(k + 10_000, field("a", ua.NodeId(k + 1, 2))) for k in range(1, 2000)})
    await load(endless)
    assert endless.asked <= MAX_TYPES + 1


async def test_a_layout_is_the_same_when_it_is_read_from_a_capture() -> None:
    number = uuid.UUID(int=7)
    types = Types(
        {(2, 1): Structure("one", (Field("a", 10), Field("b", 22, (3, b"\x00\xff"), 2, True)), optional=True),
         (3, b"\x00\xff"): Structure("two", (), union=True), (2, "text"): Structure("three", (Field("c", 12),)), (1, number): Structure("four", ())},
        {(2, 5): (2, 1), (2, "enc"): (1, number)},
    )  # fmt: skip
    assert loads(dumps(types)) == types
    for nonsense in (
        b"",
        b"{}",
        b"[1]",
        b'{"structures": [[1]], "encodings": []}',
        b'{"structures": [], "encodings": [[[1,"b","zz"],[1,"",2]]]}',
    ):
        with pytest.raises(MalformedMessage):
            loads(nonsense)
