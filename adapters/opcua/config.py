"""The YAML model of an OPC UA connection. Imports no protocol library."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Literal, get_args
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, SerializeAsAny, field_validator

from adapters.base import AdapterConfig, DeviceConfig, TagConfig
from schemas.plugin import Finding
from schemas.tags import ValueType
from schemas.values import Duration, Strict

from .address import parse

DataType = Literal[
    "auto",
    "bool",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "float32",
    "float64",
    "string",
    "datetime",
]
DATA_TYPES: Final[tuple[DataType, ...]] = get_args(DataType)
_LOOPBACK: Final = {"localhost", "127.0.0.1", "::1"}


class OpcuaTag(TagConfig):
    """One variable of an OPC UA server."""

    address: str = Field(
        description="NodeId (`ns=2;s=Line.Temp`), NodeId with namespace URI (`nsu=http://acme.example/plant;i=7`), "
        "or browse path (`/Objects/2:Plant/2:Robot/2:Temp`).",
        examples=["ns=2;s=Line.Temp"],
    )
    type: DataType = Field(
        "auto",
        description="Data type; `auto` takes what the server sends. A value of another kind becomes a bad row of this tag.",
    )

    expect_update_within: Duration | None = Field(
        None,
        description="This tag changes at least so often. Where it does not, it gets a bad row (BadNoCommunication) and an event, and the "
        "gateway tries to bring it back. Not for set-points: a value that may stand still needs nothing here.",
        examples=["30s"],
    )

    @field_validator("expect_update_within", mode="after")
    @classmethod
    def _some_time(cls, within: Duration | None) -> Duration | None:
        if within is not None and within < 1_000_000:
            raise ValueError("at least 1s; leave it out where nothing is expected")
        return within

    @field_validator("address", mode="after")
    @classmethod
    def _readable(cls, address: str) -> str:
        parse(address)
        return address

    def wire_address(self) -> str:
        """The canonical spelling of the address."""
        return str(parse(self.address))

    def value_type(self) -> ValueType:
        """Where the value goes. `auto` counts as a number; text or a 64-bit integer that arrives is still kept as what it is."""
        if self.type in ("string", "datetime"):
            return "text"
        if self.type in ("int64", "uint64") and self.scale == 1 and self.offset == 0 and not self.enum:
            return "integer"
        return "number"


class SecurityConfig(Strict):
    """How messages are protected. There is no fall back: what is asked for here, or no connection."""

    policy: Literal["None", "Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss"] = Field(
        description="Security policy of the endpoint to use; `None` sends everything in the clear."
    )
    mode: Literal["sign", "sign_and_encrypt"] = Field("sign_and_encrypt", description="Sign messages, or encrypt them too.")
    trust: Path | None = Field(
        None,
        description="Directory of certificates: `trusted/` holds the servers (or their authorities) that are trusted, `revoked/` "
        "revocation lists; the certificate of a refused server is put into `rejected/`. By default in the gateway's state directory.",
    )

    @field_validator("policy", mode="before")
    @classmethod
    def _null_is_none(cls, policy: object) -> object:
        return "None" if policy is None else policy


class AuthConfig(Strict):
    """The user that the session is activated with."""

    username: str = Field(min_length=1, description="User name.")
    password: SecretStr = Field(description="Password: text, `${NAME}` from the environment, or `{file: secrets/kepserver}`.")


class HistoryConfig(Strict):
    """How a gap is filled from the history of the server."""

    max: Duration = Field(Duration("7d"), description="How far back a gap is filled; what is older stays a gap.")


class OpcuaDevice(DeviceConfig[OpcuaTag]):
    """One machine behind an OPC UA server."""


class OpcuaConfig(OpcuaDevice, AdapterConfig):
    """An OPC UA server, read by subscriptions; by cyclic reads where it has none."""

    kind: Literal["opcua"] = Field(description="The protocol.")
    endpoint: str = Field(description="`opc.tcp://host:4840/path`.", examples=["opc.tcp://192.168.1.5:49320"])
    security: SecurityConfig | None = Field(None, description="Security policy and mode; none: everything is sent in the clear.")
    auth: AuthConfig | None = Field(None, description="User name and password; none: anonymous.")
    queue_size: int = Field(10, ge=1, le=10_000, description="Values that the server keeps per tag between two publish answers.")
    verify_quiet: Duration = Field(
        Duration("60s"),
        description="A tag of which nothing came for so long (and three scans) is read, to see that its subscription is alive; 0: never.",
    )
    history: HistoryConfig | bool = Field(
        True,
        description="After an outage, read what the server has recorded meanwhile (`origin` backfill), where it says that it has.",
    )
    devices: Mapping[str, SerializeAsAny[OpcuaDevice]] = Field(
        default_factory=dict, description="Machines behind this server, each with its own asset and tags."
    )

    @field_validator("endpoint", mode="after")
    @classmethod
    def _opc_tcp(cls, endpoint: str) -> str:
        example = "write it like opc.tcp://192.168.1.5:4840"
        parts = urlsplit(endpoint)
        if parts.scheme != "opc.tcp" or not parts.hostname:
            raise ValueError(f"not an OPC UA endpoint; {example}")
        if parts.username or parts.password:
            raise ValueError("user and password do not belong into the endpoint; use `auth`")
        if parts.port is None:
            raise ValueError(f"the endpoint needs its port; {example}")
        return endpoint

    @property
    def secured(self) -> bool:
        """True when messages are signed at least."""
        return self.security is not None and self.security.policy != "None"


def check(config: OpcuaConfig) -> Iterator[Finding]:
    """Findings that need several fields: no security on a network, a password in the clear, one node read as two types."""
    local = urlsplit(config.endpoint).hostname in _LOOPBACK
    if not config.secured and not local:
        hint = "add `security: {policy: Basic256Sha256, mode: sign_and_encrypt}`"
        yield Finding("warning", ("endpoint",), "the connection is neither signed nor encrypted", hint)
        if config.auth is not None:
            yield Finding("warning", ("auth",), "the password may cross the network in the clear", hint)
    if config.scan is not None:
        yield from _scan(config.scan, ("scan",))
    places: list[tuple[tuple[str | int, ...], OpcuaDevice]] = [((), config)]
    places += [(("devices", name), device) for name, device in config.devices.items()]
    seen: dict[str, tuple[DataType, str]] = {}
    for loc, device in places:
        if device.scan is not None and loc:
            yield from _scan(device.scan, (*loc, "scan"))
        for name, tag in device.tags.items():
            if tag.scan is not None:
                yield from _scan(tag.scan, (*loc, "tags", name, "scan"))
            address = tag.wire_address()
            other = seen.setdefault(address, (tag.type, name))
            if "auto" not in (tag.type, other[0]) and other[0] != tag.type:
                yield Finding(
                    "warning",
                    (*loc, "tags", name, "type"),
                    f"{address} is {tag.type} here and {other[0]} in {other[1]}",
                    "a node has one type; leave `type` out to take the server's",
                )


def _scan(scan: Duration, loc: tuple[str | int, ...]) -> Iterator[Finding]:
    if scan < 1000:
        yield Finding("error", loc, f"a scan class of {scan} is too short for a subscription", "use 1ms or more")
