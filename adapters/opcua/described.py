"""What a server says of its variables: type, access, text, unit, range and the names of states, read in batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from asyncua import ua

from schemas.unece import code_of, unit_of

from .services import Batches, NodeKey, Reference, key_of

_TYPES: Final = {
    1: "bool", 2: "int8", 3: "uint8", 4: "int16", 5: "uint16", 6: "int32", 7: "uint32", 8: "int64", 9: "uint64", 10: "float32",
    11: "float64", 12: "string", 13: "datetime", 14: "string", 15: "bytestring", 16: "string", 17: "string", 18: "string", 19: "string", 20: "string", 21: "string",
    22: "structure", 24: "auto", 26: "auto", 27: "auto", 28: "auto", 29: "int32",
}  # fmt: skip
"""Built-in types of OPC 10000-6, 5.1.2 (and the abstract Number, Integer, UInteger and Enumeration) as types of a tag."""
_ENUMERATION: Final = 29
_ATTRIBUTES: Final = (
    ua.AttributeIds.DataType,
    ua.AttributeIds.ValueRank,
    ua.AttributeIds.AccessLevel,
    ua.AttributeIds.UserAccessLevel,
    ua.AttributeIds.Description,
)
_PROPERTIES: Final = frozenset({"EngineeringUnits", "EURange", "EnumStrings", "EnumValues", "TrueState", "FalseState"})
_CURRENT_READ: Final = 1
_DEEPEST_TYPE: Final = 20
MOST_STATES: Final = 1000
LONGEST_TEXT: Final = 500
"""Characters of a text that are kept; a server that says more is not quoted in full."""


@dataclass(slots=True)
class Description:
    """One variable. `type` is that of a tag, or a word for what is not read; `notes` are for people."""

    type: str = "auto"
    readable: bool = True
    array: bool = False
    text: str = ""
    unit: str | None = None
    enum: Mapping[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def tag_type(self) -> str:
        """The type of a tag that reads it: `float32`, `array of float32`."""
        return f"array of {self.type}" if self.array else self.type


async def describe(batches: Batches, variables: Sequence[tuple[ua.NodeId, Sequence[Reference]]]) -> list[Description]:
    """A description of each variable, which comes with its properties."""
    if not variables:
        return []
    answers = await batches.read([(node, attribute) for node, _ in variables for attribute in _ATTRIBUTES])
    wide = len(_ATTRIBUTES)
    rows = [[_content(answer) for answer in answers[n * wide : (n + 1) * wide]] for n in range(len(variables))]
    kinds = await _Types.of(batches).known([row[0] for row in rows])
    properties = await _property_values(batches, [properties for _, properties in variables])
    return [_described(row, kind, found) for row, kind, found in zip(rows, kinds, properties, strict=True)]


def _described(row: Sequence[Any], kind: tuple[str, Mapping[int, str]], found: Mapping[str, Any]) -> Description:
    _, rank, access, own_access, text = row
    made = Description(kind[0])
    made.readable = all(bool(level & _CURRENT_READ) for level in (access, own_access) if isinstance(level, int))
    # Any (-2) and scalar or one dimension (-3) are taken as scalars: most servers write them where they mean one value.
    made.array = isinstance(rank, int) and rank >= 0
    made.text = _text(text)
    _unit(made, found.get("EngineeringUnits"))
    bounds = found.get("EURange")
    if bounds is not None and all(isinstance(getattr(bounds, name, None), (int, float)) for name in ("Low", "High")):
        made.notes.append(f"range {bounds.Low:g} to {bounds.High:g}")
    made.enum = _states(found) or kind[1]
    if made.array or (made.enum and made.type not in ("bool", "auto") and not made.type.startswith(("int", "uint"))):
        made.enum = {}
    return made


def _unit(made: Description, information: Any) -> None:
    if not isinstance(information, ua.EUInformation):
        return
    names = [_text(one)[:60] for one in (information.DisplayName, information.Description)]
    unit_id = int(information.UnitId or 0)
    made.unit = unit_of(str(information.NamespaceUri or ""), unit_id, *filter(None, names))
    told = next(filter(None, names), "") or code_of(unit_id)
    if made.unit is None and told:
        made.notes.append(f"its unit {told!r} is not known here")


def _states(found: Mapping[str, Any]) -> dict[int, str]:
    """The names of states: EnumValues, EnumStrings, or both texts of a two-state variable."""
    values, strings = found.get("EnumValues"), found.get("EnumStrings")
    if isinstance(values, list):
        named = {int(one.Value): _text(one.DisplayName) for one in values[:MOST_STATES] if isinstance(one, ua.EnumValueType)}
        return {number: name for number, name in named.items() if name}
    if isinstance(strings, list):
        return {number: name for number, one in enumerate(strings[:MOST_STATES]) if (name := _text(one))}
    both = _text(found.get("FalseState")), _text(found.get("TrueState"))
    return dict(enumerate(both)) if all(both) else {}


def _text(value: Any) -> str:
    return " ".join(str(getattr(value, "Text", value) or "")[: 2 * LONGEST_TEXT].split())[:LONGEST_TEXT]


async def _property_values(batches: Batches, properties: Sequence[Sequence[Reference]]) -> list[dict[str, Any]]:
    """The values of the properties that say something about a variable, by name."""
    wanted = [
        (number, reference.name[1], reference.node)
        for number, some in enumerate(properties)
        for reference in some
        if reference.name[0] == 0 and reference.name[1] in _PROPERTIES
    ]
    made: list[dict[str, Any]] = [{} for _ in properties]
    for (number, name, _), answer in zip(wanted, await batches.values([node for _, _, node in wanted]), strict=True):
        content = _content(answer)
        if content is not None:
            made[number][name] = content
    return made


def _content(answer: ua.DataValue) -> Any:
    """The value of a good answer, None otherwise."""
    if answer.Value is None or (answer.StatusCode is not None and not answer.StatusCode.is_good()):
        return None
    return answer.Value.Value


class _Types:
    """The data types of a server, by node: looked up once, upwards until a built-in one."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._known: dict[NodeKey, tuple[str, Mapping[int, str]]] = {}

    @staticmethod
    def of(batches: Batches) -> _Types:
        """The types of this session."""
        if batches.types is None:
            batches.types = _Types(batches)
        assert isinstance(batches.types, _Types)
        return batches.types

    async def known(self, nodes: Sequence[Any]) -> list[tuple[str, Mapping[int, str]]]:
        """Type and names of states of each data type node."""
        wanted = {key_of(node): node for node in nodes if isinstance(node, ua.NodeId)}
        await self._learn({key: node for key, node in wanted.items() if key not in self._known})
        return [self._known[key_of(node)] if isinstance(node, ua.NodeId) else ("auto", {}) for node in nodes]

    async def _learn(self, nodes: Mapping[NodeKey, ua.NodeId]) -> None:
        built_in = {key: node for key, node in nodes.items() if _is_built_in(node)}
        self._known |= {key: (_TYPES.get(int(node.Identifier), "structure"), {}) for key, node in built_in.items()}
        at = {key: node for key, node in nodes.items() if key not in built_in}
        above: dict[NodeKey, int] = {}
        for _ in range(_DEEPEST_TYPE):
            open_ = [key for key in at if key not in above]
            if not open_:
                break
            answers = await self._batches.browse([at[key] for key in open_], inverse=True, reference=ua.ObjectIds.HasSubtype)
            for key, answer in zip(open_, answers, strict=True):
                parent = answer.references[0].node if answer.references else None
                if parent is None:
                    above[key] = 0
                elif _is_built_in(parent):
                    above[key] = int(parent.Identifier)
                else:
                    at[key] = parent
        enums = [key for key in at if above.get(key) == _ENUMERATION]
        names = await self._names([nodes[key] for key in enums]) if enums else []
        states = dict(zip(enums, names, strict=True))
        for key in at:
            self._known[key] = (_TYPES.get(above.get(key, 0), "structure"), states.get(key, {}))

    async def _names(self, nodes: Sequence[ua.NodeId]) -> list[dict[int, str]]:
        answers = await self._batches.browse(nodes, reference=ua.ObjectIds.HasProperty)
        found = await _property_values(self._batches, [answer.references for answer in answers])
        return [_states(one) for one in found]


def _is_built_in(node: ua.NodeId) -> bool:
    return node.NamespaceIndex == 0 and isinstance(node.Identifier, int) and node.Identifier in _TYPES
