"""What `genba probe modbus` and `genba doctor modbus` may be told. Imports no protocol library."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from schemas.plugin import Place
from schemas.values import Duration, Strict

from .address import Address, Stretch, parse, stretch_of
from .config import ModbusConfig, ModbusTag

_SERIAL: Final = ("baud", "parity", "stop_bits", "data_bits")
_TLS: Final = ("ca", "certificate", "key", "server_name", "insecure")
_UNITS: Final = re.compile(r"\s*([0-9]+)(?:\s*-\s*([0-9]+))?\s*")
DEFAULT_RANGES: Final = ("hr:0-9999", "ir:0-9999", "co:0-1999", "di:0-1999")


class Target(Strict):
    """A device, and how it is reached."""

    endpoint: str = Field(
        description="`tcp://host:502` or just the host, `tls://host:802`, `udp://host:502`, `rtu:/dev/ttyUSB0`, `rtu+tcp://host:port`, "
        "`ascii:/dev/ttyUSB0`, `ascii+tcp://host:port`."
    )
    timeout: Duration = Field(Duration("1s"), description="Deadline for one request.")
    baud: int | None = Field(None, description="Serial line: bits per second; 19200 if nothing is said.")
    parity: Literal["even", "odd", "none"] | None = Field(
        None, description="Serial line: even, odd or none; even if nothing is said."
    )
    stop_bits: Literal["1", "2"] | None = Field(None, description="Serial line: 1 or 2 stop bits.")
    data_bits: Literal["7", "8"] | None = Field(None, description="Serial line: 7 or 8 data bits.")
    ca: str | None = Field(None, description="TLS: PEM file of the authority that signed the device's certificate.")
    certificate: str | None = Field(None, description="TLS: PEM file of this gateway's certificate.")
    key: str | None = Field(None, description="TLS: PEM file of its private key.")
    server_name: str | None = Field(None, description="TLS: name in the device's certificate, where it is not the host.")
    insecure: bool = Field(False, description="TLS: accept any certificate.")

    @field_validator("endpoint", mode="after")
    @classmethod
    def _with_scheme(cls, endpoint: str) -> str:
        if endpoint.startswith("/dev/"):
            return f"rtu:{endpoint}"
        return endpoint if re.match(r"[a-z+]+:(//|/)", endpoint) else f"tcp://{endpoint}"

    @model_validator(mode="after")
    def _connectable(self) -> Target:
        try:
            _ = self.config
        except ValidationError as error:
            raise ValueError(first(error)) from error
        return self

    @property
    def config(self) -> ModbusConfig:
        """The connection as it would stand in a plant file."""
        given: dict[str, Any] = {"kind": "modbus", "endpoint": self.endpoint, "timeout": self.timeout}
        return ModbusConfig.model_validate(given | self.written)

    @property
    def written(self) -> dict[str, Any]:
        """Options of the connection that were given, as they stand in YAML."""
        serial = {name: value for name in _SERIAL if (value := getattr(self, name)) is not None}
        serial = {name: int(value) if name.endswith("_bits") else value for name, value in serial.items()}
        tls = {name: value for name in _TLS if (value := getattr(self, name))}
        return ({"serial": serial} if serial else {}) | tls


class ModbusProbe(Target):
    """Which device is to be walked, where, and how gently."""

    unit: list[str] = Field(default_factory=list, description="A unit to look for: 1, or 1-10; the first that answers is walked.")
    range: list[str] = Field(
        default_factory=list,
        description="Addresses to look at: hr:0-9999, ir:0-9999, co:0-1999, di:0-1999; these if none are given.",
    )
    at: list[str] = Field(default_factory=list, description="Show the registers from here on in all orders and types: hr:100.")
    pause: Duration = Field(Duration("20ms"), description="Rest between two requests.")
    step: int = Field(25, ge=1, le=2000, description="Where addresses are refused, every how many of them one is tried.")
    requests: int = Field(2000, ge=10, description="Stop after so many requests.")

    @field_validator("range", mode="after")
    @classmethod
    def _ranges(cls, given: list[str]) -> list[str]:
        for written in given:
            stretch_of(written)
        return given

    @field_validator("unit", mode="after")
    @classmethod
    def _units(cls, given: list[str]) -> list[str]:
        for written in given:
            list(units_of(written))
        return given

    @field_validator("at", mode="after")
    @classmethod
    def _places(cls, given: list[str]) -> list[str]:
        for written in given:
            place_of(written)
        return given

    @property
    def units(self) -> list[int]:
        """Units to look for, each once."""
        return list(dict.fromkeys(unit for written in self.unit or ["1"] for unit in units_of(written)))

    @property
    def stretches(self) -> list[Stretch]:
        """Addresses to look at, by table."""
        return [stretch_of(written) for written in self.range or DEFAULT_RANGES]

    @property
    def places(self) -> list[Address]:
        """Registers that are to be shown."""
        return [place_of(written) for written in self.at]


class ModbusExamination(Target):
    """Which device is to be examined, and what the gateway wants to read there."""

    unit: int = Field(1, ge=0, le=255, description="Unit identifier (slave address).")
    address: list[str] = Field(
        default_factory=list, description="An address that shall be read: hr:100, or with its type hr:100:float32."
    )

    @field_validator("address", mode="after")
    @classmethod
    def _readable(cls, given: list[str]) -> list[str]:
        for written in given:
            tag_of(written)
        return given


def probe_of(config: ModbusConfig, place: Place) -> ModbusProbe:
    """The options that reach the devices of an entry of a file."""
    units = [config.options_of(key).unit_id for key in config.devices] or [config.unit_id]
    return ModbusProbe.model_validate(_target(config, place) | {"unit": [str(unit) for unit in units]})


def examination_of(config: ModbusConfig, place: Place) -> ModbusExamination:
    """The options that reach the first device of an entry of a file, and read its tags there."""
    device = config.options_of(next(iter(config.devices), ""))
    addresses = [f"{tag.wire_address()}:{tag.type}" for tag in device.tags.values()]
    return ModbusExamination.model_validate(_target(config, place) | {"unit": device.unit_id, "address": addresses})


def _target(config: ModbusConfig, place: Place) -> dict[str, Any]:
    given: dict[str, Any] = {"endpoint": config.endpoint, "timeout": config.timeout}
    if config.serial is not None:
        written = {name: getattr(config.serial, name) for name in _SERIAL}
        given |= {name: str(value) if name.endswith("_bits") else value for name, value in written.items() if value is not None}
    for name in _TLS:
        value = getattr(config, name)
        if value:
            given[name] = str(place.base / value) if name in ("ca", "certificate", "key") else value
    return given


def units_of(written: str) -> Iterator[int]:
    """`1` or `1-10`. Raises ValueError."""
    found = _UNITS.fullmatch(written)
    if not found:
        raise ValueError(f"{written!r} is not a unit; write 1, or 1-10")
    low = int(found[1])
    high = int(found[2] or low)
    if not 0 <= low <= high <= 255:
        raise ValueError(f"{written}: units are numbered 0 to 255, the lower one first")
    yield from range(low, high + 1)


def place_of(written: str) -> Address:
    """A register. Raises ValueError."""
    place = parse(written)
    if place.is_bit_table or place.bit is not None:
        raise ValueError(f"{written} is one bit; name a register, like hr:100")
    return place


def tag_of(written: str) -> ModbusTag:
    """`ADDRESS` or `ADDRESS:TYPE` as a tag; without a type it is one register, or one bit. Raises ValueError."""
    parts = written.split(":")
    address, kind = (":".join(parts[:2]), ":".join(parts[2:])) if parts[0].strip().isalpha() else (parts[0], ":".join(parts[1:]))
    if not kind:
        place = parse(address)
        kind = "bool" if place.is_bit_table or place.bit is not None else "uint16"
    try:
        return ModbusTag.model_validate({"address": address, "type": kind})
    except ValidationError as error:
        raise ValueError(first(error)) from error


def first(error: ValidationError) -> str:
    """The first of the findings as a sentence."""
    found = error.errors()[0]
    at = ".".join(str(part) for part in found["loc"])
    said = str(found["msg"]).removeprefix("Value error, ")
    return f"{at}: {said}" if at else said
