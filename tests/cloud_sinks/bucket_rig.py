"""A bucket on a server that stands in for S3, behind a proxy so that the line to it can be cut, and how it is read back."""

from __future__ import annotations

import asyncio
import contextlib
import io
from typing import Any

import boto3
import polars as pl
from botocore.config import Config

from cloud_sinks.aws import AwsConfig
from cloud_sinks.base import Sink, SinkContext
from cloud_sinks.parquet import PLUGIN
from cloud_sinks.parquet.config import ParquetConfig
from schemas.kinds import KINDS, Kind
from tests.cloud_sinks.aws_rig import KEY, SECRET, Proxy

BUCKET = "acme-plant-lake"
LOCATION = f"s3://{BUCKET}/genba"


def client(endpoint: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        region_name="ap-northeast-1",
        config=Config(s3={"addressing_style": "path"}),
    )


class BucketHarness:
    """A bucket behind a proxy, so that the line to it can be cut."""

    exactly_once = True
    kinds = KINDS

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self.proxy = Proxy(backend)
        self._s3 = client(backend)
        self.make()

    def make(self) -> None:
        """Make the bucket where there is none."""
        location = {"LocationConstraint": "ap-northeast-1"}
        with contextlib.suppress(self._s3.exceptions.BucketAlreadyOwnedByYou, self._s3.exceptions.BucketAlreadyExists):
            self._s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration=location)

    def build(self, context: SinkContext, location: str = LOCATION) -> Sink:
        aws = AwsConfig.model_validate({"endpoint": self.proxy.endpoint, "timeout": "2s"})
        return PLUGIN.build(ParquetConfig(location=location, aws=aws), context)

    async def down(self) -> None:
        self.proxy.away = True

    async def up(self) -> None:
        self.proxy.away = False

    def keys(self) -> list[str]:
        found = self._s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])
        return sorted(entry["Key"] for entry in found)

    def written(self, kind: Kind) -> list[tuple[str, Any]]:
        """Key and time of each object of a kind."""
        keys = [key for key in self.keys() if f"/{kind}/" in key]
        return [(key, self.head(key)["LastModified"]) for key in keys]

    def get(self, key: str) -> bytes:
        body: bytes = self._s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return body

    def head(self, key: str) -> dict[str, Any]:
        answer: dict[str, Any] = self._s3.head_object(Bucket=BUCKET, Key=key)
        return answer

    def uploads(self) -> list[Any]:
        try:
            return list(self._s3.list_multipart_uploads(Bucket=BUCKET).get("Uploads", []))
        except self._s3.exceptions.NoSuchUpload:  # so rclone says that there are none
            return []

    async def rows(self, kind: Kind, context: SinkContext, expected: int) -> list[tuple[int, str]]:
        return await asyncio.to_thread(self.stored, kind)

    def stored(self, kind: Kind) -> list[tuple[int, str]]:
        number = "row" if kind in ("score", "health") else "seq"
        files = [key for key in self.keys() if key.startswith(f"genba/{kind}/")]
        return [row for key in files for row in pl.read_parquet(io.BytesIO(self.get(key))).select(number, "tag").rows()]

    def close(self) -> None:
        self.proxy.close()
        for key in self.keys():
            self._s3.delete_object(Bucket=BUCKET, Key=key)
        self._s3.close()
