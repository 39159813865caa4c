"""The YAML model of a symbolic S7 connection. Imports no protocol library."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, SerializeAsAny, field_validator, model_validator

from adapters.base import AdapterConfig, DeviceConfig, TagConfig
from adapters.s7.datatypes import ARRAYS, TEXTS, DataType, parse_type
from schemas.plugin import Finding
from schemas.tags import ValueType
from schemas.values import Duration

from .address import Address, parse

LIBRARY: Final = "s7commplus"
INSTALL: Final = "pip install 'genba[s7plus]'"
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")


class S7PlusTag(TagConfig):
    """One variable of an S7-1200 or 1500, by its symbol."""

    address: str = Field(
        description='Symbol: `"Data".motor.speed`, `Data.zone[3]`; or the access string that `genba browse s7plus` shows: `8A0E0001.F`.',
        examples=['"Data".motor.speed'],
    )
    type: str = Field(
        description="Type as the block declares it, in any case: bool, byte, word, dword, lword, sint, usint, int, uint, dint, udint, lint, "
        "ulint, real, lreal, char, wchar, string[n], wstring[n], s5time, time, tod, ltime, ltod (all ms), date, dt, ldt.",
        examples=["real", "string[32]"],
    )
    encoding: str = Field("latin-1", description="Characters of char and string: `latin-1`, `cp932` (Shift JIS), `utf-8` …")

    @field_validator("address", mode="after")
    @classmethod
    def _readable(cls, address: str) -> str:
        parse(address)
        return address

    @field_validator("type", mode="after")
    @classmethod
    def _one_value(cls, name: str) -> str:
        kind = parse_type(name)
        if kind.kind in ARRAYS or kind.name in ("chars", "wchars"):
            raise ValueError(f"{name}: arrays are read element by element; write a tag for each: Data.zone[0], Data.zone[1]")
        if kind.name in ("timer", "counter"):
            raise ValueError(
                f"{name}: the timers and counters of a block are structures; write their members: Data.delay.ET as time"
            )
        if kind.name == "dtl":
            raise ValueError("dtl: a DTL is a structure; write its members: Data.made.YEAR as uint, Data.made.MONTH as usint, …")
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
    def _text_is_plain(self) -> S7PlusTag:
        if self.data_type.kind in TEXTS:
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
        """Where the value is."""
        return parse(self.address)

    def wire_address(self) -> str:
        """The symbol without quotes, or the access string in capitals."""
        return str(self.place)

    def value_type(self) -> ValueType:
        """64-bit integers stay whole unless they are scaled or named; strings, dates and moments are text."""
        kind = self.data_type.kind
        if kind in TEXTS:
            return "text"
        return "integer" if kind == "integer" and self.scale == 1 and self.offset == 0 and not self.enum else "number"


class S7PlusDevice(DeviceConfig[S7PlusTag]):
    """One machine controlled by a PLC."""


class S7PlusConfig(S7PlusDevice, AdapterConfig):
    """An S7-1200 or 1500 read by symbol, optimised blocks included (S7CommPlus). Experimental; needs `genba[s7plus]`."""

    kind: Literal["s7plus"] = Field(description="The protocol.")
    endpoint: str = Field(
        description="`tls://host` or `tls://host:port` where the PLC has secure communication, `s7://host` in the clear; the port is 102 if none is given.",
        examples=["tls://10.0.0.20"],
    )
    fingerprint: str | None = Field(
        None,
        description="SHA-256 of the PLC's certificate, in hex: only a PLC that shows it is read. `genba doctor s7plus` shows it.",
    )
    ca: Path | None = Field(
        None, description="PEM file of the authority that issued the PLC's certificate, instead of `fingerprint`."
    )
    password: SecretStr | None = Field(
        None, description="Password of the access level: text, `${NAME}` from the environment, or `{file: secrets/plc}`."
    )
    connection: Literal["hmi", "es", "pg"] = Field(
        "hmi", description="Which kind of client the PLC sees: panel, engineering station, programming device."
    )
    browse_timeout: Duration = Field(
        Duration("60s"), description="Deadline for reading the names of all variables, at each connect."
    )
    check_program: Duration = Field(
        Duration("60s"), description="How often to look whether the program was changed; names are looked up anew then."
    )
    devices: Mapping[str, SerializeAsAny[S7PlusDevice]] = Field(
        default_factory=dict, description="Machines that this PLC controls, each with its own asset and tags."
    )

    @field_validator("endpoint", mode="after")
    @classmethod
    def _s7(cls, endpoint: str) -> str:
        parts = urlsplit(endpoint)
        example = "write it like tls://10.0.0.20, or s7://10.0.0.20 for a PLC without secure communication"
        try:
            port = parts.port
        except ValueError as error:
            raise ValueError(f"the port is a number from 1 to 65535; {example}") from error
        if (
            parts.scheme not in ("tls", "s7")
            or not parts.hostname
            or parts.path.strip("/")
            or parts.query
            or parts.username
            or port == 0
        ):
            raise ValueError(f"not an endpoint of an S7 PLC; {example}")
        return endpoint

    @field_validator("fingerprint", mode="after")
    @classmethod
    def _sha256(cls, fingerprint: str | None) -> str | None:
        if fingerprint is None:
            return None
        plain = re.sub(r"[:\s-]", "", fingerprint).lower()
        if not re.fullmatch(r"[0-9a-f]{64}", plain):
            raise ValueError("a SHA-256 fingerprint has 64 hex digits; `genba doctor s7plus` shows that of a PLC")
        return plain

    @field_validator("browse_timeout", "check_program", mode="after")
    @classmethod
    def _positive(cls, span: Duration) -> Duration:
        if span <= 0:
            raise ValueError("must be longer than 0s")
        return span

    @model_validator(mode="after")
    def _secured_by_one(self) -> S7PlusConfig:
        if not self.tls and (self.ca is not None or self.fingerprint is not None):
            raise ValueError(
                "ca and fingerprint check the certificate of an encrypted connection; take them out, or write tls://"
            )
        if self.ca is not None and self.fingerprint is not None:
            raise ValueError("ca and fingerprint say the same thing; keep one of them")
        if not self.tls and self.password is not None:
            raise ValueError("a password is sent over an encrypted connection only; take it out, or write tls://")
        return self

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted. A simulated PLC never is, whatever stands beside its endpoint."""
        return urlsplit(self.endpoint).scheme == "tls"

    @property
    def host(self) -> str:
        """Name or IP address of the PLC."""
        return urlsplit(self.endpoint).hostname or ""

    @property
    def port(self) -> int:
        """TCP port; 102 unless the endpoint says otherwise."""
        return urlsplit(self.endpoint).port or 102


def installed() -> bool:
    """Whether the library is there; it is an extra."""
    return importlib.util.find_spec(LIBRARY) is not None


def check(config: S7PlusConfig) -> Iterator[Finding]:
    """What a person should know: the library is missing, nothing is encrypted, any certificate is accepted."""
    if not installed():
        yield Finding("warning", ("kind",), f"s7plus needs the package {LIBRARY}, which is not installed here", INSTALL)
    if config.host in _LOOPBACK:
        return
    if not config.tls:
        hint = f"write tls://{config.host} where the PLC's firmware and project allow secure communication"
        yield Finding("warning", ("endpoint",), "the connection is not encrypted, and anybody may pass for the PLC", hint)
    elif config.ca is None and config.fingerprint is None:
        hint = f"`genba doctor s7plus {config.host}` shows the certificate; write `fingerprint: …`"
        yield Finding("warning", ("endpoint",), "any certificate is accepted, so anybody may pass for the PLC", hint)
