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
from .sampling import SamplingOptions
from .selection import LARGEST_INDEX, Elements, Step, parse_field, spell

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
    "array of bool",
    "array of int8",
    "array of uint8",
    "array of int16",
    "array of uint16",
    "array of int32",
    "array of uint32",
    "array of int64",
    "array of uint64",
    "array of float32",
    "array of float64",
    "array of string",
    "array of datetime",
]
DATA_TYPES: Final[tuple[DataType, ...]] = get_args(DataType)
LISTS: Final = frozenset({"array of int64", "array of uint64", "array of string", "array of datetime"})
"""Arrays that are kept as text, a JSON list: the samples of a waveform are 32-bit floats and would lose digits."""
WAVEFORMS: Final = frozenset(name for name in DATA_TYPES if name.startswith("array of ")) - LISTS
_LOOPBACK: Final = {"localhost", "127.0.0.1", "::1"}


class OpcuaTag(SamplingOptions, TagConfig):
    """One variable of an OPC UA server, or one element of its array, or one field of its structure."""

    address: str = Field(
        description="NodeId (`ns=2;s=Line.Temp`), NodeId with namespace URI (`nsu=http://acme.example/plant;i=7`), "
        "or browse path (`/Objects/2:Plant/2:Robot/2:Temp`).",
        examples=["ns=2;s=Line.Temp"],
    )
    type: DataType = Field(
        "auto",
        description="Data type; `auto` takes what the server sends. A value of another kind becomes a bad row of this tag.",
    )
    index: int | None = Field(
        None, ge=0, le=LARGEST_INDEX, description="The element of an array, from 0; a matrix counts row by row."
    )
    elements: Elements | None = Field(
        None,
        description="As many tags as an array has elements: `10` makes NAME_0 … NAME_9, `1..10` makes NAME_1 … NAME_10 of these "
        "elements. `type` is that of an element. The array is asked for once, whatever the number of tags.",
    )
    field: str | None = Field(
        None,
        description="The field of a structure: `speed`, `axis.speed`, `limits[2].high`. Its type is looked up on the server.",
        examples=["axis.speed"],
    )

    @field_validator("address", mode="after")
    @classmethod
    def _readable(cls, address: str) -> str:
        parse(address)
        return address

    @field_validator("field", mode="after")
    @classmethod
    def _spelled(cls, field: str | None) -> str | None:
        if field is not None:
            parse_field(field)
        return field

    @model_validator(mode="after")
    def _one_of_an_array(self) -> OpcuaTag:
        if self.index is not None and self.elements is not None:
            raise ValueError("`index` picks one element and `elements` several; write one of them")
        return self

    def selection(self) -> tuple[Step, ...]:
        """The way from the variable's value to this tag's: indices and names of fields. Empty: the value itself."""
        index = () if self.index is None else (self.index,)
        return index + (() if self.field is None else parse_field(self.field))

    def wire_address(self) -> str:
        """The canonical spelling of the address, with the element and the field: `ns=2;s=Axes[3]#speed`."""
        return str(parse(self.address)) + spell(self.index, self.field)

    def value_type(self) -> ValueType:
        """Where the value goes. `auto` counts as a number; text, a 64-bit integer or an array that arrives is still kept as what it is."""
        if self.type in LISTS:
            return "text"
        if self.type in WAVEFORMS:
            return "samples"
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


class OpcuaDevice(SamplingOptions, DeviceConfig[OpcuaTag]):
    """One machine behind an OPC UA server."""

    @field_validator("tags", mode="after")
    @classmethod
    def _one_tag_per_element(cls, tags: Mapping[str, OpcuaTag]) -> Mapping[str, OpcuaTag]:
        return dict(_exploded(tags))


class OpcuaConfig(OpcuaDevice, AdapterConfig):
    """An OPC UA server, read by subscriptions; by cyclic reads where it has none."""

    kind: Literal["opcua"] = Field(description="The protocol.")
    endpoint: str = Field(description="`opc.tcp://host:4840/path`.", examples=["opc.tcp://192.168.1.5:49320"])
    security: SecurityConfig | None = Field(None, description="Security policy and mode; none: everything is sent in the clear.")
    auth: AuthConfig | None = Field(None, description="The user of the session; none: anonymous.")
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


def _exploded(tags: Mapping[str, OpcuaTag]) -> Iterator[tuple[str, OpcuaTag]]:
    """The tags with one for each element where `elements` says so. Raises ValueError where that gives a name twice."""
    for key, tag in tags.items():
        if tag.elements is None:
            yield key, tag
            continue
        for index in tag.elements:
            name = f"{key}_{index}"
            if name in tags:
                raise ValueError(f"`elements` of {key} makes a tag {name}, and there is one of this name already")
            changed: dict[str, object] = {"elements": None, "index": index}
            if tag.name is not None:
                changed["name"] = f"{tag.name}_{index}"
            if tag.label:
                changed["label"] = f"{tag.label} {index}"
            yield name, tag.model_copy(update=changed)


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
            yield from _polled(config, device, tag, (*loc, "tags", name))
            address = tag.wire_address()
            other = seen.setdefault(address, (tag.type, name))
            if "auto" not in (tag.type, other[0]) and other[0] != tag.type:
                yield Finding(
                    "warning",
                    (*loc, "tags", name, "type"),
                    f"{address} is {tag.type} here and {other[0]} in {other[1]}",
                    "a node has one type; leave `type` out to take the server's",
                )


def _polled(config: OpcuaConfig, device: OpcuaDevice, tag: OpcuaTag, loc: tuple[str | int, ...]) -> Iterator[Finding]:
    """What is written at a tag and does nothing because the tag is read every scan."""
    if (tag.read or device.read or config.read) != "poll":
        return
    for option in ("server_deadband", "trigger", "queue_size", "discard"):
        if getattr(tag, option) is not None:
            hint = "delete it, or `read: poll`; `deadband` thins the report of any tag"
            yield Finding("warning", (*loc, option), "changes nothing: the tag is polled, not subscribed", hint)


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
