"""The YAML model of a recording that is played. Imports no Arrow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, Literal

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from adapters.base import AdapterConfig, DeviceConfig, TagConfig
from schemas.tags import ValueType

ReplayType = Literal["number", "integer", "text", "samples"]
ReplayKind = Literal["telemetry", "event"]
_AS_RECORDED: Final = (("scale", 1.0), ("offset", 0.0), ("enum", None), ("deadband", 0.0), ("report_at_least", None))


class ReplayTag(TagConfig):
    """One tag of the recording."""

    address: str = Field(
        description="Its name in the recording: the path of a lake or the last parts of it, the text in the column `tag`, or the name of its own column.",
        examples=["press-07/motor_temp"],
    )
    type: ReplayType = Field(
        "number", description="What it holds: numbers and booleans, whole numbers of 64 bits, text, or waveforms."
    )

    @model_validator(mode="after")
    def _as_recorded(self) -> ReplayTag:
        for option, neutral in _AS_RECORDED:
            if getattr(self, option) != neutral:
                raise ValueError(f"a recording is played as it is; delete {option}")
        return self

    def value_type(self) -> ValueType:
        """As `type` says."""
        return self.type


class ReplayDevice(DeviceConfig[ReplayTag]):
    """One machine of the recording."""


class ReplayConfig(ReplayDevice, AdapterConfig):
    """A recording that is played with its own times: a lake in a directory, Parquet files, or a CSV file."""

    replays: ClassVar[bool] = True
    kind: Literal["replay"] = Field(description="The protocol.")
    endpoint: str = Field(
        description="Directory of a lake or of Parquet files, or one `.parquet` or `.csv` file; relative to this file.",
        examples=["./lake", "recordings/press-07.parquet"],
    )
    speed: float | Literal["max"] = Field(
        1.0, description="How many times faster than recorded; `max`: as fast as the spool takes it.", examples=[60]
    )
    data: Sequence[ReplayKind] = Field(
        ("telemetry",),
        description="What of a lake is played: readings, events or both.",
        examples=[["telemetry", "event"]],
    )
    devices: Mapping[str, SerializeAsAny[ReplayDevice]] = Field(
        default_factory=dict, description="Machines of the recording, each with its own asset and tags."
    )

    @field_validator("endpoint", mode="after")
    @classmethod
    def _a_path(cls, endpoint: str) -> str:
        if not endpoint.strip() or "://" in endpoint:
            raise ValueError("name a directory or a file on this machine; copy a lake from a bucket first")
        return endpoint

    @field_validator("data", mode="after")
    @classmethod
    def _something(cls, data: Sequence[ReplayKind]) -> Sequence[ReplayKind]:
        if not data:
            raise ValueError("name telemetry, event or both")
        return data

    @field_validator("speed", mode="after")
    @classmethod
    def _forwards(cls, speed: float | str) -> float | str:
        if isinstance(speed, float) and not 0 < speed < float("inf"):
            raise ValueError("a speed is above 0; write `max` for as fast as possible")
        return speed
