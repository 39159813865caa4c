"""What a person writes about a plant: the root of the YAML file and the parts that belong to no plug-in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, SerializeAsAny, field_validator, model_validator
from pydantic_core import PydanticCustomError

from adapters.base import AdapterConfig
from cloud_sinks.base import SinkConfig
from edge_models.base import ModelConfig, SiteAlarms
from schemas.asset import is_slug, segments
from schemas.data import Kind
from schemas.values import Duration, Size, Strict

from .names import slug_of, time_zones

WhenFull = Literal["downsample", "drop_oldest", "block"]
WHEN_FULL: Final[Mapping[Kind, WhenFull]] = {
    "telemetry": "drop_oldest",
    "event": "drop_oldest",
    "score": "drop_oldest",
    "alert": "block",
    "health": "drop_oldest",
    "image": "drop_oldest",
    "gap": "drop_oldest",
}


def _slug(text: str) -> str:
    if not is_slug(text):
        suggestion = slug_of(text)
        way_out = f"; write {suggestion} and the name for people into `label`" if suggestion else ""
        raise PydanticCustomError("genba_name", f"only lower-case letters, digits and inner hyphens{way_out}")
    return text


def _path_part(text: str) -> str:
    try:
        whole = segments(text) == (text,)
    except ValueError:
        whole = False
    if not whole or text.startswith("."):
        raise PydanticCustomError(
            "genba_name", "not a usable name: one part of a path, without `/`, blanks at the ends or a dot before"
        )
    return text


Slug = Annotated[str, AfterValidator(_slug)]
Name = Annotated[str, AfterValidator(_path_part)]


class RouteRule(Strict):
    """One rule: which rows go to which sinks. Rules are a union; a kind of data that any rule names loses its default."""

    data: Kind = Field(description="The kind of data.")
    tags: Sequence[str] = Field(
        (), description="Only rows of tags that fit one of these patterns; empty: all rows.", examples=[["**/vibration"]]
    )
    to: Sequence[str] = Field(description="Names of sinks; `[]` sends the data nowhere on purpose.", examples=[["lake"]])


class SpoolConfig(Strict):
    """The store on disk that every row goes through: it survives power cuts, restarts and days without network."""

    directory: Path = Field(Path("spool"), description="Directory, relative to this file.")
    max_size: Size = Field(Size("20 GB"), description="Disk that the spool may take.")
    when_full: Mapping[Kind, WhenFull] = Field(
        WHEN_FULL,
        description="What gives way when the spool is full, by kind: `drop_oldest`, `downsample` (telemetry only: keep min, max and mean), "
        "or `block` (nothing is dropped; reading waits). Kinds not written keep their default.",
    )
    keep: Duration = Field(
        Duration("0s"),
        description="How long rows stay after they came although every sink has had them, so that `genba spool resend` has them; less "
        "when room is short.",
    )
    fsync: Literal["group", "always"] = Field(
        "group", description="`group`: one flush for many batches; `always`: each batch is on disk before the next is read."
    )
    commit_every: Duration = Field(
        Duration("250ms"),
        description="With `group`: longest time between two flushes; readings younger than this may be lost in a power cut.",
    )
    commit_size: Size = Field(Size("1 MiB"), description="With `group`: flush earlier when so much waits.")
    segment_size: Size = Field(Size("16 MiB"), description="Size of one file of the spool.")

    @field_validator("when_full", mode="after")
    @classmethod
    def _whole(cls, given: Mapping[Kind, WhenFull]) -> Mapping[Kind, WhenFull]:
        for kind, what in given.items():
            if what == "downsample" and kind != "telemetry":
                raise ValueError(f"only telemetry can be downsampled; write drop_oldest or block for {kind}")
        return {**WHEN_FULL, **given}

    @model_validator(mode="after")
    def _fits(self) -> SpoolConfig:
        if self.segment_size < 64 * 1024:
            raise ValueError("segment_size must be at least 64 KiB")
        if self.max_size < 16 * self.segment_size:
            raise ValueError(f"max_size must hold at least 16 segments, {Size(16 * self.segment_size)}")
        return self


class StatusConfig(Strict):
    """The page and the metrics of the gateway."""

    listen: str | None = Field(
        "127.0.0.1:8470", description="`address:port`; null: no page. There is no login: keep it on this machine."
    )

    @field_validator("listen")
    @classmethod
    def _address(cls, listen: str | None) -> str | None:
        if listen is None:
            return None
        host, _, port = listen.rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or not 0 <= int(port) <= 65535:
            raise ValueError("write address and port like 127.0.0.1:8470")
        return listen


class PlantConfig(Strict):
    """The whole file. Paths in it are relative to it; durations and sizes carry their unit (`500ms`, `2s`, `15m`, `20 GB`)."""

    enterprise: Slug = Field(description="First part of every path, topic and folder.", examples=["acme"])
    site: Slug = Field(description="Second part of every path.", examples=["osaka"])
    gateway: Slug = Field(
        description="Name of this gateway; no other gateway of the enterprise has it.", examples=["stamping-gw-1"]
    )
    label: str = Field("", description="Name of the plant for people, any language.")
    time_zone: str = Field(
        "UTC", description="IANA name; for alert texts, days and device clocks. Storage stays UTC.", examples=["Asia/Tokyo"]
    )
    templates: Mapping[str, Mapping[str, Any]] = Field(
        default_factory=dict,
        description="Options by name that devices and connections take over with `template:`; one device type, many devices.",
    )
    adapters: Mapping[Name, SerializeAsAny[AdapterConfig]] = Field(
        default_factory=dict, description="Connections by name; `kind` is the protocol."
    )
    models: Mapping[Name, SerializeAsAny[ModelConfig]] = Field(
        default_factory=dict, description="Models by name; `kind` is the method. Limits of tags are watched without an entry."
    )
    alarms: SiteAlarms = Field(SiteAlarms(), description="How many alarms people are told, over all models of this gateway.")
    sinks: Mapping[Name, SerializeAsAny[SinkConfig]] = Field(
        default_factory=dict, description="Where data goes, by name; `kind` is the service."
    )
    routes: Sequence[RouteRule] | None = Field(
        None, description="Rules for which data goes to which sink, where the defaults do not fit."
    )
    spool: SpoolConfig = Field(SpoolConfig(), description="The store on disk.")
    status: StatusConfig = Field(StatusConfig(), description="The status page and the metrics.")

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        if name not in time_zones(name):
            from gateway.suggest import did_you_mean

            hint = did_you_mean(name, time_zones()) or "write an IANA name such as Asia/Tokyo or Europe/Berlin"
            raise PydanticCustomError("genba_choice", "unknown time zone", {"hint": hint})
        return name
