"""A stream on a server that stands in for Kinesis, behind a proxy so that the line to it can be cut, and how it is read back."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import boto3
from botocore.config import Config

from cloud_sinks.base import Sink, SinkContext
from cloud_sinks.kinesis import PLUGIN
from cloud_sinks.kinesis.config import KinesisConfig
from schemas.kinds import Kind
from tests.cloud_sinks.aws_rig import KEY, SECRET, Proxy

STREAM = "osaka"


def config(endpoint: str, **options: Any) -> KinesisConfig:
    aws = {"endpoint": endpoint, "timeout": options.pop("timeout", "2s")}
    return KinesisConfig.model_validate({"stream": STREAM, "region": "ap-northeast-1", "aws": aws, **options})


def build(context: SinkContext, endpoint: str, **options: Any) -> Sink:
    return PLUGIN.build(config(endpoint, **options), context)


class ServerHarness:
    """A stream of two shards, made anew."""

    exactly_once = False
    kinds: tuple[Kind, ...] = ("telemetry", "alert")

    def __init__(self, endpoint: str) -> None:
        self.proxy = Proxy(endpoint)
        self._kinesis = boto3.client(
            "kinesis", endpoint_url=endpoint, region_name="ap-northeast-1", aws_access_key_id=KEY, aws_secret_access_key=SECRET,
            config=Config(retries={"total_max_attempts": 1}),
        )  # fmt: skip
        self.make()

    def make(self) -> None:
        """Make the stream and wait until it takes records."""
        self._kinesis.create_stream(StreamName=STREAM, ShardCount=2)
        deadline = time.monotonic() + 20
        while self.about["StreamStatus"] != "ACTIVE":
            assert time.monotonic() < deadline, "the stream is not made"
            time.sleep(0.02)

    @property
    def about(self) -> dict[str, Any]:
        found: dict[str, Any] = self._kinesis.describe_stream_summary(StreamName=STREAM)["StreamDescriptionSummary"]
        return found

    def build(self, context: SinkContext, **options: Any) -> Sink:
        return build(context, self.proxy.endpoint, **options)

    async def down(self) -> None:
        self.proxy.away = True

    async def up(self) -> None:
        self.proxy.away = False

    async def rows(self, kind: Kind, context: SinkContext, expected: int) -> list[tuple[int, str]]:
        found = await asyncio.to_thread(self.lines)
        return [(row["row"], row["tag"]) for row in found if ("transition" in row) == (kind == "alert")]

    def records(self) -> list[tuple[str, str, bytes]]:
        """Shard, partition key and data of every record, shard by shard in the order of their numbers."""
        found = []
        for shard in self._kinesis.list_shards(StreamName=STREAM)["Shards"]:
            at = {"StreamName": STREAM, "ShardId": shard["ShardId"], "ShardIteratorType": "TRIM_HORIZON"}
            iterator = self._kinesis.get_shard_iterator(**at)["ShardIterator"]
            while iterator is not None:
                answer = self._kinesis.get_records(ShardIterator=iterator)
                found += [(shard["ShardId"], one["PartitionKey"], one["Data"]) for one in answer["Records"]]
                iterator = answer["NextShardIterator"] if answer["Records"] else None
        return found

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for _, _, data in self.records() for line in data.splitlines()]

    def close(self) -> None:
        self.proxy.close()
        self._kinesis.delete_stream(StreamName=STREAM)
        deadline = time.monotonic() + 20
        while STREAM in self._kinesis.list_streams()["StreamNames"]:
            assert time.monotonic() < deadline, "the stream does not go away"
            time.sleep(0.02)
        self._kinesis.close()
