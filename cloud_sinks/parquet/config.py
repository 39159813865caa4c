"""What a person writes about a Parquet lake."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field, field_validator

from cloud_sinks.base import SinkConfig
from schemas.plugin import Finding
from schemas.values import Duration, Size, Strict


class Roll(Strict):
    """When a file is finished: whichever comes first."""

    max_age: Duration = Field(Duration("15m"), description="Oldest row that may still wait for its file.", examples=["15m"])
    max_size: Size = Field(Size("128 MB"), description="Bytes of spooled rows that go into one file.", examples=["128 MB"])
    max_rows: int = Field(
        500_000,
        ge=1,
        le=10_000_000,
        description="Rows of one file; also bounds the memory that writing takes, about 200 bytes a row.",
    )


class ParquetConfig(SinkConfig):
    """A lake of Parquet files in `kind/site=/date=` folders, each row in it exactly once."""

    kind: Literal["parquet"] = Field("parquet", description="The service.")
    location: str = Field(description="Directory of the lake, relative to this file.", examples=["./lake", "/data/lake"])
    roll: Roll = Field(default_factory=Roll, description="When a file is finished.")

    @field_validator("location")
    @classmethod
    def _not_empty(cls, location: str) -> str:
        if not location.strip():
            raise ValueError("name a directory, for instance ./lake")
        return location


def check(config: ParquetConfig) -> Iterable[Finding]:
    """A location of a service that this version cannot write to, found before anything runs."""
    problem = unsupported(config.location)
    if problem:
        yield Finding("error", ("location",), problem, "name a directory, for instance ./lake")


def unsupported(location: str) -> str:
    """Why this location cannot be written to, or nothing."""
    scheme, separator, _ = location.partition("://")
    return f"a lake on {scheme}:// is not supported by this version" if separator else ""
