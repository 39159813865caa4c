"""How a command reaches a PLC without a configuration file: the options that `browse` and `doctor` share. Imports no protocol library."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator

from schemas.errors import ConfigError
from schemas.plugin import Place
from schemas.values import Duration, Strict

from .config import S7PlusConfig


class S7PlusAccess(Strict):
    """A PLC and how to speak to it."""

    endpoint: str = Field(
        description="`tls://host` or just the host; `s7://host` in the clear, for firmware or projects without secure communication."
    )
    fingerprint: str | None = Field(None, description="SHA-256 of the PLC's certificate, in hex.")
    ca: Path | None = Field(None, description="PEM file of the authority that issued the PLC's certificate.")
    password_file: Path | None = Field(None, description="File whose first line is the password of the access level.")
    connection: Literal["hmi", "es", "pg"] = Field("hmi", description="Which kind of client the PLC sees.")
    timeout: Duration = Field(Duration("5s"), description="Deadline for one exchange.")
    browse_timeout: Duration = Field(Duration("120s"), description="Deadline for reading the names of all variables.")

    @field_validator("endpoint", mode="after")
    @classmethod
    def _with_scheme(cls, endpoint: str) -> str:
        return endpoint if "://" in endpoint else f"tls://{endpoint}"

    @model_validator(mode="after")
    def _connectable(self) -> S7PlusAccess:
        try:
            self._entry("")
        except ValidationError as error:
            found = error.errors()[0]
            raise ValueError(str(found["msg"]).removeprefix("Value error, ")) from error
        return self

    def config(self) -> S7PlusConfig:
        """The connection as it would stand in a plant file. Raises ConfigError for a password file that cannot be read."""
        if self.password_file is None:
            return self._entry("")
        try:
            lines = self.password_file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise ConfigError(f"{self.password_file}: {why}", hint="its first line is the password") from error
        return self._entry(lines[0] if lines else "")

    def _entry(self, password: str) -> S7PlusConfig:
        given: dict[str, Any] = {
            "kind": "s7plus",
            "endpoint": self.endpoint,
            "connection": self.connection,
        }
        given |= {"timeout": self.timeout, "browse_timeout": self.browse_timeout, "fingerprint": self.fingerprint, "ca": self.ca}
        if password:
            given["password"] = SecretStr(password)
        return S7PlusConfig.model_validate(given)


class S7PlusExamination(S7PlusAccess):
    """What `genba doctor s7plus` may be told."""

    address: list[str] = Field(default_factory=list, description="A symbol that shall be read: Data.motor.speed.")


def access_of(config: S7PlusConfig, place: Place) -> S7PlusAccess:
    """The options of an entry of a file."""
    return S7PlusAccess.model_validate(_of(config, place))


def examination_of(config: S7PlusConfig, place: Place) -> S7PlusExamination:
    """The options of an entry of a file, with the symbols of its tags."""
    tags = [tag.wire_address() for device in [config, *config.devices.values()] for tag in device.tags.values()]
    return S7PlusExamination.model_validate({**_of(config, place), "address": tags})


def _of(config: S7PlusConfig, place: Place) -> dict[str, Any]:
    return {
        "endpoint": config.endpoint,
        "fingerprint": config.fingerprint,
        "ca": None if config.ca is None else place.base / config.ca,
        "connection": config.connection,
        "timeout": config.timeout,
        "browse_timeout": config.browse_timeout,
    }
