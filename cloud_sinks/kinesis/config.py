"""What a person writes about a Kinesis data stream."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field, model_validator

from cloud_sinks.aws import AwsConfig
from cloud_sinks.base import SinkConfig
from schemas.values import Duration, Size

PartitionKey = Literal["asset", "tag", "gateway"]
Format = Literal["json", "arrow", "kpl"]
_KEY_BYTES: Final = 256


class KinesisConfig(SinkConfig):
    """A Kinesis data stream. Rows of one partition key arrive in order; a row may arrive twice after a failure, with the same row number."""

    kind: Literal["kinesis"] = Field("kinesis", description="The service.")
    stream: str = Field(
        description="Name of the stream, or its ARN where it belongs to another account.",
        pattern=r"^([a-zA-Z0-9_.-]+|arn:[a-z-]+:kinesis:[a-z0-9-]+:[0-9]{12}:stream/[a-zA-Z0-9_.-]+)$",
        max_length=200,
        examples=["osaka-telemetry"],
    )
    region: str | None = Field(None, description="Region of the stream; short for `aws: {region: …}`.")
    aws: AwsConfig = Field(default_factory=AwsConfig, description="Credentials, and a service that speaks like AWS.")
    partition_key: PartitionKey = Field(
        "asset", description="What is kept in order, and together on a shard: an asset, a tag, or all of this gateway."
    )
    format: Format = Field(
        "json",
        description="`json`: a line per row as docs/schemas describes; `arrow`: an Arrow IPC stream with the lake's columns; `kpl`: the lines "
        "of `json` as user records of KPL aggregation.",
    )
    max_age: Duration = Field(Duration("1s"), description="Oldest row that may still wait for company.")
    max_records: int = Field(500, ge=1, le=500, description="Records of one request.")
    max_request: Size = Field(Size("5 MiB"), description="Bytes of one request with its keys; the service takes 10 MiB.")
    max_record: Size = Field(Size("1000 kB"), description="Bytes of one record; more where the stream allows it.")

    @model_validator(mode="after")
    def _sizes_fit(self) -> KinesisConfig:
        if not 10_000 <= self.max_record <= 10 << 20:
            raise ValueError("max_record is between 10 kB and 10 MiB")
        if not self.max_record + _KEY_BYTES <= self.max_request <= 10 << 20:
            raise ValueError("max_request holds at least one record with its key, and is 10 MiB at most")
        if self.region is not None and self.aws.region not in (None, self.region):
            raise ValueError("region and aws.region differ; keep one of them")
        return self
