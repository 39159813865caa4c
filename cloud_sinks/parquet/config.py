"""What a person writes about a Parquet lake."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Literal

from pydantic import Field, field_validator

from cloud_sinks.aws import AwsConfig
from cloud_sinks.base import SinkConfig
from schemas.plugin import Finding
from schemas.values import Duration, Size, Strict

HINT: Final = "name a directory, for instance ./lake, or a bucket: s3://acme-plant-lake/genba"


class Roll(Strict):
    """When a file is finished: whichever comes first."""

    max_age: Duration = Field(Duration("15m"), description="Oldest row that may still wait for its file.", examples=["15m"])
    max_size: Size = Field(
        Size("128 MB"),
        description="Size of one file, about. Files of plain readings are full by `max_rows` long before: half a million take 1 to 2 MB.",
        examples=["128 MB"],
    )
    max_rows: int = Field(
        500_000,
        ge=1,
        le=10_000_000,
        description="Rows of one file; also bounds the memory that writing takes, about 200 bytes a row.",
    )


class ParquetConfig(SinkConfig):
    """A lake of Parquet files in `kind/site=/date=` folders, each row in it exactly once."""

    kind: Literal["parquet"] = Field("parquet", description="The service.")
    location: str = Field(
        description="Directory of the lake, relative to this file, or bucket and prefix.",
        examples=["./lake", "/data/lake", "s3://acme-plant-lake/genba"],
    )
    roll: Roll = Field(default_factory=Roll, description="When a file is finished.")
    aws: AwsConfig | None = Field(None, description="How the bucket is reached; `s3://` only.")
    kms_key: str | None = Field(None, description="KMS key (ID, ARN or alias) that objects are encrypted with; `s3://` only.")

    @property
    def on_s3(self) -> bool:
        """True when the lake is in a bucket."""
        return self.location.startswith("s3://")

    @field_validator("location")
    @classmethod
    def _not_empty(cls, location: str) -> str:
        if not location.strip():
            raise ValueError("name a directory, for instance ./lake")
        return location


def check(config: ParquetConfig) -> Iterable[Finding]:
    """A location that cannot be written to, and options that belong to another kind of location."""
    problem = unsupported(config.location)
    if problem:
        yield Finding("error", ("location",), problem, HINT)
    if not config.on_s3:
        for option in ("aws", "kms_key"):
            if getattr(config, option) is not None:
                yield Finding(
                    "error", (option,), f"{option} belongs to a location like s3://acme-plant-lake/genba", f"remove {option}"
                )


def unsupported(location: str) -> str:
    """Why this location cannot be written to, or nothing."""
    scheme, separator, rest = location.partition("://")
    if not separator:
        return ""
    if scheme != "s3":
        return f"a lake on {scheme}:// is not supported by this version"
    bucket = rest.strip("/").partition("/")[0]
    return "" if re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket) else f"{location} names no bucket"
