"""Kinesis Data Streams: ordered per asset, only what failed is sent again, each record says which rows it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.plugin import Plugin

from .config import KinesisConfig

if TYPE_CHECKING:
    from cloud_sinks.base import Sink, SinkContext


def _build(config: KinesisConfig, context: SinkContext) -> Sink:
    from .sink import KinesisSink

    return KinesisSink(config, context)


PLUGIN: Plugin[KinesisConfig, Sink] = Plugin(KinesisConfig, _build)
