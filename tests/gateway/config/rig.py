"""Plug-ins made up for these tests, so that their messages do not change with the real ones, and what was found in a text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar, Literal

from pydantic import Field, SecretStr, SerializeAsAny, field_validator

from adapters.base import AdapterConfig, DeviceConfig, TagConfig
from cloud_sinks.base import SinkConfig
from edge_models.base import ModelConfig
from gateway.catalogue import Catalogue
from gateway.config import Configuration, Diagnostic
from schemas.plugin import Finding, Plugin
from schemas.tags import ValueType
from schemas.values import Duration, Size, Strict


class PlcTag(TagConfig):
    type: Literal["float32", "int16", "bool", "string", "int64"] = Field(description="Type.")
    order: Literal["ABCD", "CDAB"] | None = None

    def value_type(self) -> ValueType:
        return {"string": "text", "int64": "integer"}.get(self.type, "number")  # type: ignore[return-value]


class Login(Strict):
    username: str = Field(description="User name.")
    password: SecretStr = Field(description="Password.")


class PlcDevice(DeviceConfig[PlcTag]):
    unit_id: int = Field(1, ge=0, le=255, description="Unit.")
    order: Literal["ABCD", "CDAB"] = "ABCD"


class PlcConfig(PlcDevice, AdapterConfig):
    records: ClassVar[bool] = True
    kind: Literal["plc"]
    login: Login | None = None
    pin: SecretStr | None = None
    devices: Mapping[str, SerializeAsAny[PlcDevice]] = Field(default_factory=dict)

    @field_validator("endpoint")
    @classmethod
    def _tcp(cls, endpoint: str) -> str:
        if not endpoint.startswith("tcp://"):
            raise ValueError(f"{endpoint} is no endpoint; write it like tcp://10.0.0.7:502")
        return endpoint


def _overlaps(config: PlcConfig) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    for name, tag in config.tags.items():
        other = seen.setdefault(str(tag.address), name)
        if other != name:
            yield Finding("warning", ("tags", name, "address"), f"{tag.address} is read as {other!r} too", "delete one of them")
    if config.timeout > Duration("1h"):
        yield Finding("error", ("timeout",), "nobody waits for more than an hour")


class BrokerConfig(SinkConfig):
    kind: Literal["mqtt"]
    endpoint: str = Field(description="Where the broker is.")
    topic: str = "genba/{data}"
    password: SecretStr | None = None


class Roll(Strict):
    max_age: Duration = Duration("15m")
    max_size: Size = Size("128 MB")


class LakeConfig(SinkConfig):
    kind: Literal["parquet"]
    location: str = Field(description="Directory of the lake.")
    roll: Roll = Roll()


class WatchConfig(ModelConfig):
    kind: Literal["watch"]
    memory: int = Field(100, ge=10)


class OddSinkConfig(SinkConfig):
    kind: Literal["odd"]


class BrokenConfig(SinkConfig):
    kind: Literal["broken"]
    how: str = "check"

    @field_validator("how")
    @classmethod
    def _fail(cls, how: str) -> str:
        if how == "validate":
            raise KeyError(how)
        return how


def _fail(config: BrokenConfig) -> Iterator[Finding]:
    raise RuntimeError(f"cannot check {config.how}")
    yield


def nothing(config: object, context: object) -> object:
    """Stands for `build`."""
    return config, context


def make_catalogue() -> Catalogue:
    """The plug-ins of these tests, and the built-in ones."""
    return Catalogue(
        packages={"adapters": "adapters", "models": "edge_models", "sinks": "cloud_sinks"},
        given={
            "adapters": {"plc": Plugin(PlcConfig, nothing, check=_overlaps)},
            "models": {"watch": Plugin(WatchConfig, nothing)},
            "sinks": {
                "mqtt": Plugin(BrokerConfig, nothing),
                "parquet": Plugin(LakeConfig, nothing),
                "odd": Plugin(OddSinkConfig, nothing),
                "broken": Plugin(BrokenConfig, nothing, check=_fail),
            },
        },
    )


HEAD = "enterprise: acme\nsite: osaka\ngateway: gw-1\n"
LAKE = "sinks: {lake: {kind: parquet, location: ./lake}}\n"


class Examined:
    """What `examine` found."""

    def __init__(self, configuration: Configuration | None, diagnostics: list[Diagnostic]) -> None:
        self.configuration, self.diagnostics = configuration, diagnostics

    @property
    def codes(self) -> list[str]:
        return [diagnostic.code for diagnostic in self.diagnostics]

    @property
    def text(self) -> str:
        return "\n".join(diagnostic.render() for diagnostic in self.diagnostics)

    @property
    def whole(self) -> Configuration:
        assert self.configuration is not None, self.text
        return self.configuration


Examine = Callable[..., Examined]
"""Examines the text of plant.yaml and other files: (text, files, env=, strict_env=)."""
