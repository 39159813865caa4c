"""The variables of the simulated server: what each shows, as scalar, as array, or as structure of the tags that are its parts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from asyncua import ua
from asyncua.ua.ua_binary import pack_uatype, pack_uatype_array

from adapters.simulation import Signals
from schemas import quality as q
from schemas.errors import ConfigError
from schemas.tags import Tag

from .config import OpcuaTag
from .selection import Step

VARIANTS: Final = {
    "bool": ua.VariantType.Boolean,
    "int8": ua.VariantType.SByte,
    "uint8": ua.VariantType.Byte,
    "int16": ua.VariantType.Int16,
    "uint16": ua.VariantType.UInt16,
    "int32": ua.VariantType.Int32,
    "uint32": ua.VariantType.UInt32,
    "int64": ua.VariantType.Int64,
    "uint64": ua.VariantType.UInt64,
    "float32": ua.VariantType.Float,
    "float64": ua.VariantType.Double,
    "string": ua.VariantType.String,
    "datetime": ua.VariantType.DateTime,
}
_RANGES: Final = {
    f"{sign}int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if not sign else (0, 2**bits - 1)
    for sign in ("", "u")
    for bits in (8, 16, 32, 64)
}
_FLOAT_MAX: Final = (2 - 2**-23) * 2.0**127
_EMPTY: Final = {"bool": False, "string": "", "float32": 0.0, "float64": 0.0, "datetime": datetime(1970, 1, 1, tzinfo=UTC)}
_WAVEFORM: Final = 16
"""Elements of an array that is one tag."""


def bad(status: int) -> ua.DataValue:
    """A data value without a value."""
    now = datetime.now(UTC)
    return ua.DataValue(ua.Variant(), ua.StatusCode(status), now, now)


def _good(value: ua.Variant) -> ua.DataValue:
    now = datetime.now(UTC)
    return ua.DataValue(value, SourceTimestamp=now, ServerTimestamp=now)


def type_of(tag: Tag, config: OpcuaTag) -> str:
    """The type of a tag, or of the elements of its array, on the wire."""
    if config.type != "auto":
        return config.type.removeprefix("array of ")
    if tag.enum:
        return "int32"
    return "string" if tag.value_type == "text" else "float64"


@dataclass(frozen=True, slots=True)
class Scalar:
    """A variable that is one tag; of an `array of` type, 16 values of its signal."""

    node: ua.NodeId
    tag: Tag
    config: OpcuaTag
    type: str

    @property
    def empty(self) -> ua.Variant:
        """A value of its type."""
        one = _EMPTY.get(self.type, 0)
        return ua.Variant([one] * _WAVEFORM if self._array else one, VARIANTS[self.type])

    @property
    def _array(self) -> bool:
        return self.config.type.startswith("array of ")

    def value(self, signals: Signals, *, watched: bool) -> ua.DataValue:
        """What the variable shows now, raw: scale and offset undone. Bad where its type has no value for that.

        A recording on a 64-bit floating point variable moves on by a row each time somebody is `watched`ing, and waits else.
        """
        if self._array:
            elements = [self.raw(signals, watched=watched) for _ in range(_WAVEFORM)]
            return bad(q.BAD_SENSOR_FAILURE) if None in elements else _good(ua.Variant(elements, VARIANTS[self.type]))
        raw = self.raw(signals, watched=watched)
        return bad(q.BAD_SENSOR_FAILURE) if raw is None else _good(ua.Variant(raw, VARIANTS[self.type]))

    def raw(self, signals: Signals, *, watched: bool) -> float | str | datetime | None:
        """The value as its type has it; None where the type has no value for what the signal shows."""
        if self.type == "datetime":
            return datetime.now(UTC)
        stepwise = self.type == "float64" and not self._array
        waiting = signals.upcoming(self.tag) if stepwise and not watched else None
        shown = waiting if waiting is not None else signals.value(self.tag, step=stepwise, boolean=self.type == "bool")
        if self.type == "string":
            return str(shown)
        if self.type == "bool":
            return bool(shown)
        number = 0.0 if isinstance(shown, str) else shown
        if self.config.scale != 1 or self.config.offset != 0:
            number = (number - self.config.offset) / self.config.scale
        if self.type not in _RANGES:
            beyond = self.type == "float32" and math.isfinite(number)
            return min(max(float(number), -_FLOAT_MAX), _FLOAT_MAX) if beyond else float(number)
        low, high = _RANGES[self.type]
        return min(max(round(number), low), high) if math.isfinite(number) else None


@dataclass(slots=True)
class Layout:
    """What a value that is taken apart consists of: a leaf of some `type`, elements that are all alike, or fields by name."""

    type: str = ""
    element: Layout | None = None
    last: int = 0  # index
    fields: dict[str, Layout] = field(default_factory=dict)
    type_id: ua.NodeId = field(default_factory=ua.NodeId)  # of a structure: its data type,
    encoding_id: ua.NodeId = field(default_factory=ua.NodeId)  # and its binary encoding

    def put(self, way: Sequence[Step], leaf: Scalar) -> None:
        """Add a part. Raises ConfigError where it is an element here and a field, or whole, elsewhere."""
        if not way:
            self.type = leaf.type
        elif isinstance(way[0], int):
            self.element = self.element or Layout()
            self.last = max(self.last, way[0])
            self.element.put(way[1:], leaf)
        else:
            self.fields.setdefault(way[0], Layout()).put(way[1:], leaf)
        if bool(self.type) + (self.element is not None) + bool(self.fields) > 1:
            hint = "the tags of one address name elements of an array (`index`), or fields of a structure (`field`)"
            raise ConfigError(f"{leaf.config.address} cannot be an array here and a structure elsewhere", hint=hint)

    @property
    def kind(self) -> ua.VariantType:
        """The built-in type, of an array that of its elements."""
        if self.element is not None:
            return self.element.kind
        return ua.VariantType.ExtensionObject if self.fields else VARIANTS[self.type]

    @property
    def structures(self) -> list[Layout]:
        """The structures in it, the innermost first."""
        below = [self.element] if self.element is not None else list(self.fields.values())
        found = [one for layout in below for one in layout.structures]
        return [*found, self] if self.fields else found

    def definition(self, name: str) -> ua.StructureField:
        """Its description as a field of a structure."""
        one = self.element or self
        data_type = one.type_id if one.fields else ua.NodeId(one.kind.value)
        return ua.StructureField(Name=name, DataType=data_type, ValueRank=-1 if self.element is None else 1)

    def show(self, values: Mapping[tuple[Step, ...], object], way: tuple[Step, ...] = ()) -> Any:
        """The value of the whole from the raw values of its parts by their way; what is no part is empty."""
        if self.element is not None:
            return [self.element.show(values, (*way, index)) for index in range(self.last + 1)]
        if self.fields:
            return ua.ExtensionObject(self.encoding_id, self._body(values, way))
        return values.get(way, _EMPTY.get(self.type, 0))

    def _body(self, values: Mapping[tuple[Step, ...], object], way: tuple[Step, ...]) -> bytes:
        body = b""
        for name, one in self.fields.items():
            shown = one.show(values, (*way, name))
            if one.kind == ua.VariantType.ExtensionObject:  # inline, without a type in front
                inner = shown if isinstance(shown, list) else [shown]
                body += len(inner).to_bytes(4, "little") if one.element is not None else b""
                body += b"".join(structure.Body for structure in inner)
            else:
                body += pack_uatype(one.kind, shown) if one.element is None else pack_uatype_array(one.kind, shown)
        return body


@dataclass(frozen=True, slots=True)
class Whole:
    """A variable whose parts are tags."""

    node: ua.NodeId
    layout: Layout
    leaves: Mapping[tuple[Step, ...], Scalar]

    @property
    def empty(self) -> ua.Variant:
        """A value of its type."""
        return ua.Variant(self.layout.show({}), self.layout.kind)

    def value(self, signals: Signals, *, watched: bool) -> ua.DataValue:
        """What the variable shows now: bad as a whole where a part has no value."""
        values = {way: leaf.raw(signals, watched=watched) for way, leaf in self.leaves.items()}
        if None in values.values():
            return bad(q.BAD_SENSOR_FAILURE)
        return _good(ua.Variant(self.layout.show(values), self.layout.kind))


Variable = Scalar | Whole
"""A variable of the server: `node`, an `empty` value of its type, and its `value` now."""
