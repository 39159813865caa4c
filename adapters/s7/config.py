"""The YAML model of an S7 connection. Imports no protocol library."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator, model_validator

from adapters.base import AdapterConfig, DeviceConfig, TagConfig
from schemas.plugin import Finding
from schemas.tags import ValueType
from schemas.values import Strict

from .address import ELEMENTS, WIDTHS, Address, parse
from .datatypes import TEXTS, DataType, parse_type

Cpu = Literal["s7-300", "s7-400", "s7-1200", "s7-1500"]
CPUS: Final[dict[Cpu, tuple[int, int, int]]] = {
    "s7-300": (0, 2, 240),
    "s7-400": (0, 3, 480),
    "s7-1200": (0, 1, 240),
    "s7-1500": (0, 1, 960),
}
"""Rack, slot and the PDU that the family usually grants."""
_BITS_OF: Final = ("byte", "word", "dword", "lword")


class S7Tag(TagConfig):
    """One value in a data block, the flags, the inputs, the outputs, the timers or the counters of a PLC."""

    address: str = Field(
        description="Absolute address: `DB10.DBD4`, `DB10.DBX0.3`, `MW10`, `M10.3`, `I0.0`, `QB4`, `T5`, `C12`; TIA's `%DB10.DBD4` and German `E`/`A`/`Z` too.",
        examples=["DB10.DBD4"],
    )
    type: str = Field(
        description="S7 type, in any case: bool, byte, word, dword, lword, sint, usint, int, uint, dint, udint, lint, ulint, real, "
        "lreal, char, wchar, string[n], wstring[n], s5time, time, tod, ltime, ltod (all ms), date, dt, dtl, ldt, timer, counter; "
        "array[n] of any of them: a waveform of numbers or bools, a text of characters, a JSON list of anything else.",
        examples=["real", "string[32]", "array[100] of real"],
    )
    encoding: str = Field("latin-1", description="Characters of char and string: `latin-1`, `cp932` (Shift JIS), `utf-8` …")

    @field_validator("address", mode="after")
    @classmethod
    def _readable(cls, address: str) -> str:
        parse(address)
        return address

    @field_validator("type", mode="after")
    @classmethod
    def _fits(cls, name: str, info: ValidationInfo) -> str:
        kind = parse_type(name)
        if "address" in info.data:
            _check_width(parse(info.data["address"]), kind)
        return str(kind)

    @field_validator("encoding", mode="after")
    @classmethod
    def _known(cls, encoding: str) -> str:
        try:
            " ".encode(encoding)
        except LookupError as error:
            raise ValueError(f"no encoding is called {encoding}; write latin-1, cp1252, cp932 or utf-8") from error
        return encoding

    @model_validator(mode="after")
    def _text_is_plain(self) -> S7Tag:
        if self.data_type.kind in TEXTS:
            for option, given in (("scale", self.scale != 1), ("offset", self.offset != 0), ("enum", bool(self.enum))):
                if given:
                    raise ValueError(f"{option} needs a number, and {self.type} is text")
        if self.data_type.kind in ("array", "bits") and self.enum:
            raise ValueError(f"enum needs one number, and {self.type} has many")
        return self

    @property
    def data_type(self) -> DataType:
        """The type with its size and layout."""
        return parse_type(self.type)

    @property
    def place(self) -> Address:
        """Where the value begins, with the letter that its type has."""
        given, kind = parse(self.address), self.data_type
        if kind.kind == "bool" or given.area in ELEMENTS:
            return given
        letters: Mapping[int, Literal["B", "W", "D"]] = {1: "B", 2: "W", 4: "D"}
        return Address(given.area, given.db, given.byte, letters.get(kind.size, "B") if not kind.length else "B")

    def wire_address(self) -> str:
        """The canonical spelling; 8-byte values and strings begin at a byte: `DB10.DBB20`."""
        return str(self.place)

    def value_type(self) -> ValueType:
        """64-bit integers stay whole unless they are scaled or named; strings, dates and times of day with a date are text;
        an array of numbers or bits is samples, any other text."""
        kind = self.data_type.kind
        if kind in ("array", "bits"):
            return "samples"
        if kind in TEXTS:
            return "text"
        if kind == "integer" and self.scale == 1 and self.offset == 0 and not self.enum:
            return "integer"
        return "number"


class TsapConfig(Strict):
    """Transport addresses of both ends where rack and slot don't say it: LOGO!, S7-200, gateways."""

    local: str = Field("01.00", description="Our own TSAP.")
    remote: str = Field(description="The PLC's TSAP, two bytes in hex: `02.00`.", examples=["02.00"])

    @field_validator("local", "remote", mode="before")
    @classmethod
    def _two_bytes(cls, text: object) -> str:
        if not isinstance(text, str) or not re.fullmatch(r"(0[xX])?[0-9a-fA-F]{2}\.?[0-9a-fA-F]{2}", text):
            raise ValueError('a TSAP is two bytes in hex, in quotes: "03.01"')
        return text

    def codes(self) -> tuple[int, int]:
        """Both ends as numbers: local, remote."""
        local, remote = (int(text.lower().removeprefix("0x").replace(".", ""), 16) for text in (self.local, self.remote))
        return local, remote


class S7Device(DeviceConfig[S7Tag]):
    """One machine controlled by a PLC."""


class S7Config(S7Device, AdapterConfig):
    """A Siemens S7 PLC (or one that speaks classic S7 communication) on port 102."""

    kind: Literal["s7"] = Field(description="The protocol.")
    endpoint: str = Field(
        description="`s7://host` or `s7://host:port`; the port is 102 if none is given.", examples=["s7://10.0.0.20"]
    )
    cpu: Cpu | None = Field(None, description="Family of the CPU; sets rack and slot. Without it and without rack and slot: 0/1.")
    rack: int | None = Field(None, ge=0, le=7, description="Rack of the CPU, instead of `cpu`.")
    slot: int | None = Field(None, ge=0, le=31, description="Slot of the CPU, instead of `cpu`.")
    tsap: TsapConfig | None = Field(None, description='The PLC\'s TSAP (`"02.00"`) or both ends, instead of rack and slot.')
    connection: Literal["pg", "op", "basic"] = Field(
        "op", description="Which connection resource of the CPU is taken: programming device, operator panel, or other."
    )
    devices: Mapping[str, SerializeAsAny[S7Device]] = Field(
        default_factory=dict, description="Machines that this PLC controls, each with its own asset and tags."
    )

    @field_validator("endpoint", mode="after")
    @classmethod
    def _s7(cls, endpoint: str) -> str:
        parts = urlsplit(endpoint)
        example = "write it like s7://10.0.0.20 or s7://10.0.0.20:102"
        try:
            port = parts.port
        except ValueError as error:
            raise ValueError(f"the port is a number from 1 to 65535; {example}") from error
        if parts.scheme != "s7" or not parts.hostname or parts.path.strip("/") or parts.query or parts.username or port == 0:
            raise ValueError(f"not an S7 endpoint; {example}")
        return endpoint

    @field_validator("tsap", mode="before")
    @classmethod
    def _remote_alone(cls, tsap: object) -> object:
        return {"remote": tsap} if isinstance(tsap, (str, float, int)) else tsap

    @model_validator(mode="after")
    def _one_way(self) -> S7Config:
        if self.tsap is not None and (self.rack is not None or self.slot is not None):
            raise ValueError("tsap and rack/slot say the same thing; keep one of them")
        return self

    @property
    def host(self) -> str:
        """Name or IP address of the PLC."""
        return urlsplit(self.endpoint).hostname or ""

    @property
    def port(self) -> int:
        """TCP port; 102 (ISO on TCP, RFC 1006) unless the endpoint says otherwise."""
        return urlsplit(self.endpoint).port or 102

    @property
    def rack_slot(self) -> tuple[int, int]:
        """Rack and slot as written, else those of the CPU family, else 0/1."""
        rack, slot, _ = CPUS[self.cpu or "s7-1500"]
        return rack if self.rack is None else self.rack, slot if self.slot is None else self.slot

    @property
    def tsaps(self) -> tuple[int, int]:
        """Both transport addresses as numbers: ours and the PLC's (connection type, then rack*32 + slot)."""
        if self.tsap is not None:
            return self.tsap.codes()
        rack, slot = self.rack_slot
        return 0x0100, {"pg": 1, "op": 2, "basic": 3}[self.connection] << 8 | rack << 5 | slot


def _check_width(address: Address, kind: DataType) -> None:
    if address.area in ELEMENTS:
        usual = "timer" if address.area == "T" else "counter"
        if str(kind) not in (usual, "word") and not (usual == "timer" and kind.name == "s5time"):
            raise ValueError(
                f"{address} is a {usual} and {kind} is not its type; write {usual} (or word for its bits as they are)"
            )
        return
    at = f"DB{address.db}.DB" if address.area == "DB" else address.area
    if kind.kind == "bool":
        if address.bit is None:
            bit = f"{at}{'X' if address.area == 'DB' else ''}{address.byte}.0"
            raise ValueError(f"{address} is no bit and bool is one; write {bit} (any bit 0 to 7)")
        return
    long = kind.length or kind.size > 4
    letter = "B" if long or kind.size == 1 else "W" if kind.size == 2 else "D"
    fix = f"{at}{letter}{address.byte}"
    if address.bit is not None:
        if address.bit or not long:
            same = "" if address.bit else "; or type bool"
            raise ValueError(f"{address} is a bit and {kind} has {kind.size} bytes; write {fix}{same}")
        return  # TIA shows where long values begin as byte.0
    if long:  # an array may also be written with the letter of its elements
        element = parse_type(kind.name).size if kind.kind == "array" else 8 if kind.size == 8 else 0
        fits = address.width == "B" or WIDTHS[address.width] == element
    else:
        fits = WIDTHS[address.width] == kind.size
    if not fits:
        width = WIDTHS[address.width]
        alternatives = {1: "byte, sint", 2: "word, int, uint", 4: "dword, dint, udint, real", 8: "lword, lint, ulint, lreal"}
        raise ValueError(
            f"{address} is {width} byte{'s' if width > 1 else ''} wide and {kind} has {kind.size}; "
            f"write {fix} or one of the types {alternatives[width]}"
        )


def check(config: S7Config) -> Iterator[Finding]:
    """Findings that need several tags: overlapping addresses of different type. Bits of a word are no overlap."""
    spans = []
    places: list[tuple[tuple[str | int, ...], S7Device]] = [((), config)]
    places += [(("devices", name), device) for name, device in config.devices.items()]
    for loc, device in places:
        for name, tag in device.tags.items():
            at, kind = tag.place, tag.data_type
            first = at.start * 8 + (at.bit or 0)
            last = first if kind.kind == "bool" else first + kind.size * 8 - 1
            spans.append((at.area, at.db, first, last, tag, (*loc, "tags", name, "address")))
    spans.sort(key=lambda span: span[:4])
    reach: list[tuple[str, int, int, int, S7Tag, tuple[str | int, ...]]] = []  # earlier spans that may still overlap
    for span in spans:
        reach = [other for other in reach if other[:2] == span[:2] and other[3] >= span[2]]
        tag, loc = span[4], span[5]
        for other in reach:
            pair = {other[4].data_type.name, tag.data_type.name}
            if pair == {"bool"} or ("bool" in pair and pair & set(_BITS_OF)):
                continue
            if (other[2], other[4].type) != (span[2], tag.type):
                yield Finding(
                    "warning",
                    loc,
                    f"{tag.wire_address()} ({tag.type}) overlaps {other[4].wire_address()} ({other[4].type}) of tag {other[5][-2]!r}",
                    "one of the two addresses or types is probably wrong",
                )
                break
        reach.append(span)
