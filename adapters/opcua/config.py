"""The YAML model of an OPC UA connection. Imports no protocol library."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Literal, get_args
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, SerializeAsAny, field_validator, model_validator

from adapters.base import AdapterConfig, DeviceConfig, TagConfig
from schemas.plugin import Finding
from schemas.tags import ValueType
from schemas.values import Duration, Strict

from .address import parse
from .policies import POLICIES, ModeName, PolicyName

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

    policy: PolicyName = Field(
        description="Security policy of the endpoint to use; `None` sends everything in the clear. `Basic256` and `Basic128Rsa15` are "
        "withdrawn from the standard and need `allow_deprecated`."
    )
    mode: ModeName = Field("sign_and_encrypt", description="Sign messages, or encrypt them too.")
    trust: Path | None = Field(
        None,
        description="Directory of certificates: `trusted/` holds the servers (or their authorities) that are trusted, `issuers/` "
        "authorities that only complete a chain, `revoked/` revocation lists; the certificate of a refused server is put into "
        "`rejected/`. By default in the gateway's state directory.",
    )
    allow_deprecated: bool = Field(
        False, description="Use a withdrawn policy, or a certificate signed with SHA-1, where the server has nothing better."
    )
    allow_other_host: bool = Field(
        False,
        description="Accept a certificate that a trusted authority signed for another host name than the endpoint's. One that is itself "
        "in `trusted/` needs no host name.",
    )

    @field_validator("policy", mode="before")
    @classmethod
    def _null_is_none(cls, policy: object) -> object:
        return "None" if policy is None else policy


class AuthConfig(Strict):
    """The user that the session is activated with: a user name and its password, or a certificate and its key."""

    username: str | None = Field(None, min_length=1, description="User name.")
    password: SecretStr | None = Field(
        None, description="Password: text, `${NAME}` from the environment, or `{file: secrets/kepserver}`."
    )
    certificate: Path | None = Field(None, description="The user's certificate, DER or PEM, instead of a user name.")
    key: Path | None = Field(None, description="The key of the user's certificate, PEM without a password.")
    allow_cleartext: bool = Field(
        False,
        description="Send the password even where somebody on the network may read it: in the clear, or encrypted for a server that "
        "is not trusted.",
    )

    @model_validator(mode="after")
    def _one_form(self) -> AuthConfig:
        given = [name for name in ("username", "password", "certificate", "key") if getattr(self, name) is not None]
        if given not in (["username", "password"], ["certificate", "key"]):
            raise ValueError("write `username` and `password`, or `certificate` and `key`")
        return self


class OpcuaDevice(DeviceConfig[OpcuaTag]):
    """One machine behind an OPC UA server."""


class OpcuaConfig(OpcuaDevice, AdapterConfig):
    """An OPC UA server, read by subscriptions; by cyclic reads where it has none."""

    kind: Literal["opcua"] = Field(description="The protocol.")
    endpoint: str = Field(description="`opc.tcp://host:4840/path`.", examples=["opc.tcp://192.168.1.5:49320"])
    security: SecurityConfig | None = Field(None, description="Security policy and mode; none: everything is sent in the clear.")
    auth: AuthConfig | None = Field(None, description="The user of the session; none: anonymous.")
    queue_size: int = Field(10, ge=1, le=10_000, description="Values that the server keeps per tag between two publish answers.")
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
    """Findings that need several fields: no or withdrawn security, a password in the clear, one node read as two types."""
    yield from _protection(config)
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


def _protection(config: OpcuaConfig) -> Iterator[Finding]:
    local = urlsplit(config.endpoint).hostname in _LOOPBACK
    hint = "add `security: {policy: Basic256Sha256, mode: sign_and_encrypt}`"
    if not config.secured and not local:
        yield Finding("warning", ("endpoint",), "the connection is neither signed nor encrypted", hint)
    if config.auth is not None and config.auth.allow_cleartext and not local:
        yield Finding("warning", ("auth", "allow_cleartext"), "the password may cross the network in the clear", hint)
    security = config.security
    if security is not None and POLICIES[security.policy].deprecated:
        withdrawn = f"the policy {security.policy} is withdrawn from the standard: it rests on SHA-1"
        if security.allow_deprecated:
            yield Finding(
                "warning", ("security", "policy"), withdrawn, "ask for a newer server, or switch Basic256Sha256 on there"
            )
        else:
            way_out = "use Basic256Sha256, or add `allow_deprecated: true` where the server has nothing better"
            yield Finding("error", ("security", "policy"), withdrawn, way_out)
