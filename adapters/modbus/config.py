"""The YAML model of a Modbus connection. Imports no protocol library."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal, cast
from urllib.parse import urlsplit

from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator, model_validator

from adapters.base import AdapterConfig, DeviceConfig, TagConfig
from schemas.plugin import Finding
from schemas.tags import ValueType
from schemas.values import Duration, Strict

from .address import Address, Stretch, parse, stretch_of
from .datatypes import DataType, Order, parse_type

Transport = Literal["tcp", "tls", "udp", "rtu", "rtu+tcp", "ascii", "ascii+tcp"]
_PORTS: Final = {"tcp": 502, "tls": 802, "udp": 502, "rtu+tcp": 502, "ascii+tcp": 502}
_SERIAL: Final = ("rtu", "ascii")
_ON_LINE: Final = ("rtu", "rtu+tcp", "ascii", "ascii+tcp")
_TLS_OPTIONS: Final = ("ca", "certificate", "key", "server_name", "insecure")
_EXAMPLE: Final = (
    "write it like tcp://10.0.0.7:502, tls://10.0.0.7:802, udp://10.0.0.7:502, rtu+tcp://10.0.0.7:4001 or rtu:/dev/ttyUSB0 "
    "(ascii+tcp://, ascii: for ASCII frames)"
)


class ModbusTag(TagConfig):
    """One value in the registers or bits of a Modbus device."""

    address: str = Field(
        description="Table and address as it is on the wire: `hr:100` (holding register), `ir:0` (input register), `co:7` (coil), "
        "`di:3` (discrete input); `hr:0x64`; `hr:100.3` for bit 3 of a register; or the 1-based `40101` and `400101`.",
        examples=["hr:100", "hr:100.3", "40101"],
    )
    type: str = Field(
        description="bool, int8, uint8, int16, uint16, int32, uint32, int64, uint64, float16, float32, float64, bcd16, bcd32, "
        "string[n] (n bytes); dates and times: datetime[ymdhms] (a register each, in the order of the letters), datetime8[ymdhms] (a byte "
        "each), both also as datetime_bcd and datetime8_bcd, unix32, unix64, unix64_ms, ti081.",
        examples=["float32", "string[16]"],
    )
    order: Order | None = Field(None, description="Order of bytes; by default the device's.")
    encoding: str = Field("latin-1", description="Characters of a string: `latin-1`, `cp932` (Shift JIS), `utf-8` …")

    @field_validator("address", mode="before")
    @classmethod
    def _text(cls, address: object) -> object:
        if isinstance(address, float):
            raise ValueError(f'quote an address with a bit, or YAML reads it as a number: "{address}"')
        return str(address) if isinstance(address, int) and not isinstance(address, bool) else address

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
            _check_place(parse(info.data["address"]), kind)
        return kind.name

    @field_validator("encoding", mode="after")
    @classmethod
    def _known(cls, encoding: str) -> str:
        try:
            " ".encode(encoding)
        except LookupError as error:
            raise ValueError(f"no encoding is called {encoding}; write latin-1, cp1252, cp932 or utf-8") from error
        return encoding

    @model_validator(mode="after")
    def _text_is_plain(self) -> ModbusTag:
        if self.data_type.is_text:
            for option, given in (("scale", self.scale != 1), ("offset", self.offset != 0), ("enum", bool(self.enum))):
                if given:
                    raise ValueError(f"{option} needs a number, and {self.type} is text")
        return self

    @property
    def data_type(self) -> DataType:
        """The type with its size and layout."""
        return parse_type(self.type)

    @property
    def place(self) -> Address:
        """Where the value begins."""
        return parse(self.address)

    def wire_address(self) -> str:
        """The address as it is sent, 0-based: `hr:100`, `hr:100.3`."""
        return str(self.place)

    def value_type(self) -> ValueType:
        """64-bit integers stay whole unless they are scaled or named; strings are text."""
        kind = self.data_type
        if kind.is_text:
            return "text"
        if kind.whole_64_bits and self.scale == 1 and self.offset == 0 and not self.enum:
            return "integer"
        return "number"


class SerialConfig(Strict):
    """The serial line of an `rtu:` or `ascii:` endpoint, or the one behind an `rtu+tcp:` or `ascii+tcp:` converter."""

    baud: int = Field(19_200, ge=50, le=4_000_000, description="Bits per second.")
    parity: Literal["even", "odd", "none"] = Field("even", description="Parity; the standard's default is even.")
    data_bits: Literal[7, 8] | None = Field(None, description="Data bits; 8, and for ASCII frames 7, if nothing is written.")
    stop_bits: Literal[1, 2] = Field(1, description="Stop bits; two when there is no parity, by the standard.")
    turnaround: Duration = Field(Duration("10ms"), description="What the devices usually take to answer; for planning requests.")


class ModbusDevice(DeviceConfig[ModbusTag]):
    """One unit behind a Modbus connection."""

    unit_id: int = Field(1, ge=0, le=255, description="Unit identifier (slave address).")
    order: Order = Field(
        "ABCD",
        description="Order of the bytes of 32-bit values: ABCD (big endian), CDAB (low word first), BADC, DCBA. BADC and DCBA swap "
        "the bytes of every register.",
    )
    max_registers: int = Field(125, ge=1, le=125, description="Registers that the device answers in one request.")
    max_bits: int = Field(2000, ge=1, le=2000, description="Bits that the device answers in one request.")
    skip: Sequence[str] = Field(
        default_factory=tuple,
        description="Addresses that are never read, not even on the way from one tag to another: `hr:100-120`, `co:7`.",
        examples=["[hr:100-120]"],
    )

    @field_validator("skip", mode="after")
    @classmethod
    def _stretches(cls, skip: Sequence[str]) -> Sequence[str]:
        for written in skip:
            stretch_of(written)
        return skip

    @property
    def forbidden(self) -> list[Stretch]:
        """What `skip` says."""
        return [stretch_of(written) for written in self.skip]


class ModbusConfig(ModbusDevice, AdapterConfig):
    """A Modbus connection: one device, or several units behind one gateway or on one serial line."""

    kind: Literal["modbus"] = Field(description="The protocol.")
    endpoint: str = Field(
        description="`tcp://host:502`, `tls://host:802`, `udp://host:502`, `rtu+tcp://host:port` (RTU frames over TCP) or "
        "`rtu:/dev/ttyUSB0`; `ascii+tcp://host:port` and `ascii:/dev/ttyUSB0` for ASCII frames.",
        examples=["tcp://10.0.0.7:502"],
    )
    serial: SerialConfig | None = Field(None, description="Options of the serial line; not for `tcp:`, `tls:` and `udp:`.")
    window: int = Field(
        1,
        ge=1,
        le=64,
        description="Requests in flight at once; `tcp:` and `tls:` only, for devices that answer several at a time.",
    )
    ca: str | None = Field(None, description="PEM file of the authority that signed the device's certificate; else the system's.")
    certificate: str | None = Field(None, description="PEM file of this gateway's certificate.")
    key: str | None = Field(None, description="PEM file of its private key.")
    server_name: str | None = Field(
        None, description="Name in the device's certificate, where it is not the host of the endpoint."
    )
    insecure: bool = Field(False, description="Accept any certificate of the device. For tests only.")
    devices: Mapping[str, SerializeAsAny[ModbusDevice]] = Field(
        default_factory=dict, description="Units behind this connection, each with its own asset and tags."
    )

    @field_validator("endpoint", mode="after")
    @classmethod
    def _known_transport(cls, endpoint: str) -> str:
        scheme, _, rest = endpoint.partition(":")
        if scheme in _SERIAL:
            if not rest or rest.startswith("//"):
                raise ValueError(f"a serial endpoint names its device file: {scheme}:/dev/ttyUSB0")
            return endpoint
        if scheme not in _PORTS:
            hint = f"did you mean tcp://{endpoint}? " if re.fullmatch(r"[\w.-]+(:\d+)?", endpoint) else ""
            raise ValueError(f"not a Modbus endpoint; {hint}{_EXAMPLE}")
        parts = urlsplit(endpoint)
        try:
            port = parts.port
        except ValueError as error:
            raise ValueError(f"the port is a number from 1 to 65535; {_EXAMPLE}") from error
        if not parts.hostname or parts.path.strip("/") or parts.query or parts.username or port == 0:
            raise ValueError(f"not a Modbus endpoint; {_EXAMPLE}")
        return endpoint

    @model_validator(mode="after")
    def _serial_is_rtu(self) -> ModbusConfig:
        if self.serial is not None and not self.is_line:
            raise ValueError(f"serial belongs to an endpoint like rtu:/dev/ttyUSB0; remove it, or change {self.endpoint}")
        if self.serial is not None and self.serial.data_bits == 7 and not self.is_ascii:
            raise ValueError("RTU frames need 8 data bits; with 7 the device speaks ASCII: write ascii: instead of rtu:")
        return self

    @model_validator(mode="after")
    def _options_fit_the_transport(self) -> ModbusConfig:
        written = [name for name in _TLS_OPTIONS if getattr(self, name)]
        if written and self.transport != "tls":
            raise ValueError(f"{written[0]} belongs to an endpoint like tls://10.0.0.7:802; remove it, or change {self.endpoint}")
        if self.window > 1 and self.transport not in ("tcp", "tls"):
            raise ValueError("one request at a time is all that a serial line carries, and UDP has no order; remove window")
        if self.key and not self.certificate:
            raise ValueError("key belongs to a certificate; name its PEM file too, or remove key")
        return self

    @property
    def transport(self) -> Transport:
        """How frames travel."""
        return cast(Transport, self.endpoint.partition(":")[0])

    @property
    def is_line(self) -> bool:
        """True where a serial line lies between here and the devices."""
        return self.transport in _ON_LINE

    @property
    def is_ascii(self) -> bool:
        """True for ASCII frames instead of RTU ones."""
        return self.transport in ("ascii", "ascii+tcp")

    @property
    def line(self) -> SerialConfig:
        """The options of the serial line, written or not."""
        return self.serial or SerialConfig()

    @property
    def host(self) -> str:
        """Name or IP address; of a serial endpoint the device file."""
        return self.endpoint.partition(":")[2] if self.transport in _SERIAL else urlsplit(self.endpoint).hostname or ""

    @property
    def port(self) -> int:
        """TCP port; the standard one unless the endpoint says otherwise, 0 for a serial line."""
        return 0 if self.transport in _SERIAL else urlsplit(self.endpoint).port or _PORTS[self.transport]

    def options_of(self, device: str) -> ModbusDevice:
        """The device of this key, its unwritten options taken from the connection."""
        own = self.devices.get(device)
        if own is None:
            return self
        written = own.model_fields_set
        inherited = {
            name: getattr(self, name)
            for name in ("unit_id", "order", "max_registers", "max_bits", "skip", "scan")
            if name not in written
        }
        return own.model_copy(update=inherited)


def _check_place(address: Address, kind: DataType) -> None:
    if address.is_bit_table and kind.kind != "bool":
        raise ValueError(f"{address} is one bit and {kind} is not; write type bool, or a register such as hr:{address.offset}")
    if address.bit is not None and kind.kind != "bool":
        raise ValueError(f"{address} is one bit and {kind} is not; write type bool, or {address.table}:{address.offset}")
    if not address.is_bit_table and address.offset + kind.registers > 65_536:
        raise ValueError(f"{kind} has {kind.registers} registers and does not fit at {address}; the last one is 65535")


def check(config: ModbusConfig) -> Iterator[Finding]:
    """Findings that need several fields: overlapping addresses of another type, values wider than a request, TLS that proves nothing."""
    if config.insecure:
        yield Finding("warning", ("insecure",), "whoever answers at this address is believed", "name the authority with `ca`")
    spans = []
    places: list[tuple[tuple[str | int, ...], str]] = [(("devices", name), name) for name in config.devices] or [((), "")]
    for loc, key in places:
        device = config.options_of(key)
        for name, tag in device.tags.items():
            at, kind = tag.place, tag.data_type
            where: tuple[str | int, ...] = (*loc, "tags", name)
            if not at.is_bit_table and kind.registers > device.max_registers:
                yield Finding(
                    "error",
                    (*where, "type"),
                    f"{kind} has {kind.registers} registers and max_registers is {device.max_registers}",
                    "a value is read in one request; take a shorter type or raise max_registers",
                )
            length = 1 if at.is_bit_table else kind.registers
            for no in device.forbidden:
                if no.table == at.table and at.offset < no.end and no.start < at.offset + length:
                    yield Finding(
                        "error", (*where, "address"), f"{tag.wire_address()} ({tag.type}) lies in {no}, which `skip` says is never read",
                        "take it out of `skip`, or correct the address",
                    )  # fmt: skip
            spans.append(
                (device.unit_id, at.function, at.offset, at.offset + kind.registers, tag, tag.order or device.order, where)
            )
    spans.sort(key=lambda span: span[:4])
    reach: list[tuple[int, int, int, int, ModbusTag, Order, tuple[str | int, ...]]] = []  # earlier spans that may still overlap
    for span in spans:
        unit, function, start, _, tag, order, where = span
        reach = [other for other in reach if other[:2] == (unit, function) and other[3] > start]
        for other in reach:
            kinds = {other[4].data_type.kind, tag.data_type.kind}
            if kinds == {"bool"} or ("bool" in kinds and max(tag.data_type.registers, other[4].data_type.registers) == 1):
                continue  # bits of a status word
            same_order = other[5] == order or tag.data_type.registers == 1
            if (other[2], other[4].type) != (start, tag.type) or not same_order:
                yield Finding(
                    "warning",
                    (*where, "address"),
                    f"{tag.wire_address()} ({tag.type}, {order}) overlaps {other[4].wire_address()} "
                    f"({other[4].type}, {other[5]}) of tag {other[6][-1]!r}",
                    "one of the two addresses, types or orders is probably wrong",
                )
                break
        reach.append(span)
