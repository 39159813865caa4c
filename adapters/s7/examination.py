"""What `genba doctor s7` may be told. Imports no protocol library."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from schemas.plugin import Place
from schemas.values import Duration, Strict

from .config import Cpu, S7Config, S7Tag


class S7Examination(Strict):
    """Which PLC is to be examined, how its CPU is addressed, and what the gateway wants to read there."""

    endpoint: str = Field(description="`s7://host`, `s7://host:port` or just the host.")
    cpu: Cpu | None = Field(None, description="Family of the CPU: s7-300, s7-400, s7-1200 or s7-1500; sets rack and slot.")
    rack: int | None = Field(None, description="Rack of the CPU.")
    slot: int | None = Field(None, description="Slot of the CPU.")
    tsap: str | None = Field(None, description="The PLC's TSAP instead of rack and slot: 02.00.")
    connection: Literal["op", "pg", "basic"] = Field("op", description="Connection resource to take: op, pg or basic.")
    db: list[int] = Field(default_factory=list, description="A data block to look at.")
    address: list[str] = Field(
        default_factory=list, description="An address that shall be read: DB10.DBD4, or with its type DB10.DBB20:string[32]."
    )
    timeout: Duration = Field(Duration("2s"), description="Deadline for one exchange.")

    @field_validator("endpoint", mode="after")
    @classmethod
    def _with_scheme(cls, endpoint: str) -> str:
        return endpoint if "://" in endpoint else f"s7://{endpoint}"

    @field_validator("db", mode="after")
    @classmethod
    def _numbers(cls, db: list[int]) -> list[int]:
        if not all(1 <= number <= 65535 for number in db):
            raise ValueError("data blocks are numbered 1 to 65535")
        return db

    @field_validator("address", mode="after")
    @classmethod
    def _readable(cls, address: list[str]) -> list[str]:
        for written in address:
            tag_of(written)
        return address

    @model_validator(mode="after")
    def _connectable(self) -> S7Examination:
        try:
            _ = self.config
        except ValidationError as error:
            raise ValueError(_first(error)) from error
        return self

    @property
    def config(self) -> S7Config:
        """The connection as it would stand in a plant file."""
        given: dict[str, Any] = {"kind": "s7", "endpoint": self.endpoint, "connection": self.connection, "timeout": self.timeout}
        given |= {name: value for name in ("cpu", "rack", "slot", "tsap") if (value := getattr(self, name)) is not None}
        return S7Config.model_validate(given)


def examination_of(config: S7Config, place: Place) -> S7Examination:
    """The options of an entry of a file: its CPU, and of each block and area the tag that reaches furthest."""
    furthest: dict[tuple[str, int], S7Tag] = {}
    for device in [config, *config.devices.values()]:
        for tag in device.tags.values():
            block = tag.place.area, tag.place.db
            other = furthest.get(block)
            if other is None or _end(tag) > _end(other):
                furthest[block] = tag
    tsap = None if config.tsap is None else config.tsap.remote
    return S7Examination(
        endpoint=config.endpoint,
        cpu=config.cpu,
        rack=config.rack,
        slot=config.slot,
        tsap=tsap,
        connection=config.connection,
        address=[f"{tag.wire_address()}:{tag.type}" for _, tag in sorted(furthest.items())],
        timeout=config.timeout,
    )


def _end(tag: S7Tag) -> int:
    return tag.place.start + tag.data_type.size


def tag_of(written: str) -> S7Tag:
    """`ADDRESS` or `ADDRESS:TYPE` as a tag; without a type it is as wide as the address. Raises ValueError."""
    address, _, kind = written.partition(":")
    if not kind:
        from .address import parse

        place = parse(address)
        kind = {"X": "bool", "B": "byte", "W": "word", "D": "dword", "L": "lword"}[place.width]
    try:
        return S7Tag.model_validate({"address": address, "type": kind})
    except ValidationError as error:
        raise ValueError(_first(error)) from error


def _first(error: ValidationError) -> str:
    found = error.errors()[0]
    at = ".".join(str(part) for part in found["loc"])
    said = str(found["msg"]).removeprefix("Value error, ")
    return f"{at}: {said}" if at else said
